/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * unread.h: domains whose snapshots are not known yet.
 *
 * A mount of very many snapshots shows its domains before libvirt was asked for the records of all of them. Nobody is to take what is known
 * until then for all that there is: who lists such a domain, opens one of its texts, or asks for a name that is not there waits for its records, which
 * are read next.
 * Threads: each waits in a thread of the pool sf_fs.records.
 */
#ifndef VS_UNREAD_H
#define VS_UNREAD_H

#include "place.h"
#include "reply.h"

bool sf_unread(const struct sf_place *place);
/* Likewise, where @id is now. */
bool sf_unread_at(struct sf_fs *fs, fuse_ino_t id);
/* Waits until the domain at @id, or that @id is in, has been read. 0: it has, or it will not be so soon: libvirt is away, or hangs. -EINTR, -ENOTCONN:
 * nobody waits any more. */
int sf_unread_wait(const struct sf_req *r, fuse_ino_t id);

#endif
