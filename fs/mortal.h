/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * mortal.h: is somebody who waits for us being ended, and by what?
 *
 * FUSE says that a signal came, not which one; proc(5) says which are pending. HUP, INT, QUIT, TERM and KILL are what people
 * and programs end a job with; whatever else ends a process (ALRM, SEGV, exit_group(2) by another thread, ...) says nothing
 * about what it had asked for.
 */
#ifndef VS_MORTAL_H
#define VS_MORTAL_H

#include <stdbool.h>
#include <sys/types.h>

enum sf_fate {
	SF_LIVES,
	SF_ENDED, /* one of the five has come for it, handler or not */
	SF_DIES,  /* it will not return to its program: something else ends its process */
};

/* @status, @stat: the texts of /proc/TID/status and /proc/TID/stat, terminated; @stat may be NULL. Pure. */
enum sf_fate sf_mortal_fate(const char *status, const char *stat);

/* The same of a thread that exists; one that does not any more has been ended. What cannot be known lives, and so does 0: a
 * thread in a namespace that is not seen from here. */
enum sf_fate sf_mortal_ask(pid_t tid);

#endif
