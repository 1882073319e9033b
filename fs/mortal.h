/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mortal.h: is somebody who waits for us being ended?
 *
 * FUSE says that a signal came, not which one; proc(5) says which are pending. The signals that end what a person
 * started: HUP, INT, QUIT, TERM, KILL.
 */
#ifndef VS_MORTAL_H
#define VS_MORTAL_H

#include <stdbool.h>
#include <sys/types.h>

/* @status: the text of /proc/TID/status, terminated. Is one of those signals pending, for the thread or for its process,
 * that the thread does not block? Pure. */
bool sf_mortal_status(const char *status);

/* The same of a thread that exists, and true of one that does not any more. What cannot be known is false, and so it is
 * for 0: a thread in a namespace that is not seen from here. */
bool sf_mortal_ask(pid_t tid);

#endif
