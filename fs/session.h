/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * session.h: the mount itself: from mount(2) over the threads that answer to the unmount.
 *
 * One session a process: signals have no other place to go.
 */
#ifndef VS_SESSION_H
#define VS_SESSION_H

#include "fs.h"

struct sf_session;

/* Mounts. From here on SIGTERM, SIGINT and SIGHUP end the session and not the process. Gives *out. */
int sf_session_open(struct sf_fs *fs, struct sf_session **out, struct vs_err *err);

/* Serves until a signal comes, the file system is unmounted, or serving fails. @ready is called once the threads
 * run. 0, or the negative errno of why serving failed. */
int sf_session_run(struct sf_session *session, void (*ready)(void *opaque), void *opaque);

/* Unmounts, unless somebody has done so. Open files get errors from here on. */
void sf_session_close(struct sf_session *session);

#endif
