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

#include "makers.h"
#include "place.h"
#include "reply.h"

bool sf_unread(const struct sf_place *place);
/* Likewise, where @id is now. */
bool sf_unread_at(struct sf_fs *fs, fuse_ino_t id);
/* Waits until the domain at @id, or that @id is in, has been read. -EHOSTDOWN and the like: it was not, for libvirt is away; -ETIMEDOUT: for some time no record
 * was read; -EINTR, -ENOTCONN: nobody waits any more. */
int sf_unread_wait(const struct sf_req *r, fuse_ino_t id);
/* sf_makers_hand() to the pool for those who wait so. -EAGAIN: it is a thread of our own that asks, as when a domain's image is a file of this mount: the one who
 * reads records may be waiting for it. */
int sf_unread_hand(struct sf_req *r, sf_maker_op *op, const struct sf_asked *asked);

#endif
