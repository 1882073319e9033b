/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * daemon.h: into the background, and not before the mount answers.
 *
 * The source may start threads (libvirt does), and threads do not survive a fork: so the fork comes first, the child
 * does everything and says through a pipe how it went, and the parent ends when it has seen the mount answer.
 */
#ifndef VS_DAEMON_H
#define VS_DAEMON_H

#include <sys/types.h>

#include "qcow2/qcow2.h"

struct sf_daemon {
	pid_t child; /* in the parent */
	int pipe;    /* the end that this process uses */
};

/* 1 in the parent, 0 in the child, or negative errno. */
int sf_daemon_fork(struct sf_daemon *daemon, struct vs_err *err);

/* Child: the mount is up. Leaves the terminal and the working directory. */
void sf_daemon_succeeded(struct sf_daemon *daemon);
/* Child: it could not be done, and why. */
void sf_daemon_failed(struct sf_daemon *daemon, const char *sentence);

/* Parent: waits for the child's word and then for an answer of the mount (10 seconds at most). 0 or negative errno;
 * when the mount does not answer the child is told to end. */
int sf_daemon_await(struct sf_daemon *daemon, const char *mountpoint, struct vs_err *err);

#endif
