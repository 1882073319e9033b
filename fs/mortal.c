/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What the kernel does with a signal decides how it can be seen.
 *
 *	It has a handler           pending on the process, or on the thread it was sent to, until the handler can run; a
 *	                           thread that waits for us runs none
 *	It is blocked or ignored   not for us; ignored ones are pending for a process that is traced
 *	It ends the process        pending as it came, and a KILL pending on every thread beside it. Sent to another thread
 *	                           only, or dealt with by another one already, it is to be seen there, and with that thread it
 *	                           goes: what is left is the KILL. So it is with exit_group(2)
 *	It dumps core              pending as it came, without a KILL, until a thread takes it; then as above
 *
 * A process that is being ended takes no other signal, KILL not even. What ends it is in the last field of
 * /proc/TID/stat then (Linux 5.17), as wait(2) would have it; to those who may not know it says 0, as for exit_group(2). FUSE's
 * pid is a thread's, and so are its pending signals.
 */
#include "mortal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "qcow2/qcow2.h"
#include "vm/util/mem.h"

#define TEXT_MAX (1u << 20) /* the groups of a process alone can be 65,536 numbers */

static uint64_t bit(int signo)
{
	return UINT64_C(1) << (signo - 1);
}

/* KILL is among the five, too, but beside other signals it says only that the process ends. */
static uint64_t the_four(void)
{
	return bit(SIGHUP) | bit(SIGINT) | bit(SIGQUIT) | bit(SIGTERM);
}

/* Those that by themselves end no process. */
static uint64_t harmless(void)
{
	return bit(SIGCHLD) | bit(SIGCONT) | bit(SIGURG) | bit(SIGWINCH) | bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
}

/* The set of signals in the line that begins with @name; none where there is no such line. Names of processes are in there
 * too, but with their newlines escaped. */
static uint64_t signal_set(const char *status, const char *name)
{
	size_t len = strlen(name);

	while (status && strncmp(status, name, len) != 0) {
		status = strchr(status, '\n');
		status += status != NULL;
	}
	return status ? strtoull(status + len, NULL, 16) : 0;
}

/* The signal that ends its process; 0: none, or it cannot be known. The name of the process, in parentheses, can be anything. */
static int ended_by(const char *stat)
{
	const char *end = stat ? strrchr(stat, ')') : NULL;
	const char *last = end ? strrchr(end, ' ') : NULL;

	return last ? (int)(strtol(last, NULL, 10) & 0x7f) : 0;
}

enum sf_fate sf_mortal_fate(const char *status, const char *stat)
{
	uint64_t own = signal_set(status, "SigPnd:"), shared = signal_set(status, "ShdPnd:");
	uint64_t deaf = signal_set(status, "SigBlk:") | signal_set(status, "SigIgn:");
	uint64_t waiting = (own | shared) & ~deaf & ~bit(SIGKILL);
	int ends = own & bit(SIGKILL) ? ended_by(stat) : 0;

	if (waiting & the_four() || shared & bit(SIGKILL))
		return SF_ENDED;
	if (ends)
		return bit(ends) & (the_four() | bit(SIGKILL)) ? SF_ENDED : SF_DIES;
	if (own & bit(SIGKILL))
		return SF_DIES;
	return waiting & ~signal_set(status, "SigCgt:") & ~harmless() ? SF_DIES : SF_LIVES;
}

/* Gives its text; NULL: there is none. */
static char *read_text(pid_t tid, const char *name)
{
	char *text = NULL;
	size_t room = 0, len = 0, n;
	char path[40];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%ld/%s", (long)tid, name);
	file = fopen(path, "re");
	if (!file)
		return NULL;
	do {
		if (len + 1 >= room)
			text = xreallocarray(text, room += 4096, 1);
		n = fread(text + len, 1, room - len - 1, file);
		len += n;
	} while (n && len < TEXT_MAX);
	fclose(file);
	text[len] = '\0';
	return text;
}

/* A /proc that hides other users' processes says of them what it says of those that are gone; kill(2) does not. */
enum sf_fate sf_mortal_ask(pid_t tid)
{
	vs_autofree char *status = NULL, *stat = NULL;

	if (tid <= 0)
		return SF_LIVES;
	status = read_text(tid, "status");
	if (!status)
		return kill(tid, 0) < 0 && errno == ESRCH ? SF_ENDED : SF_LIVES;
	stat = read_text(tid, "stat");
	return sf_mortal_fate(status, stat);
}
