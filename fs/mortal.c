/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernel does with a signal decides how it can be seen. One that ends the process (no handler) becomes a SIGKILL
 * pending on each of its threads, beside the signal itself. One with a handler stays pending on the process until a thread
 * can run the handler, and a thread that waits for us cannot. A signal that is blocked waits for something else than
 * us. So it is the sum of both sets less the blocked ones, of the very thread that writes: FUSE's pid is a thread's.
 */
#include "mortal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "qcow2/qcow2.h"

#define STATUS_MAX (1u << 20) /* the groups of a process alone can be 65,536 numbers */

static uint64_t bit(int signo)
{
	return UINT64_C(1) << (signo - 1);
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

bool sf_mortal_status(const char *status)
{
	uint64_t pending = signal_set(status, "SigPnd:") | signal_set(status, "ShdPnd:");
	uint64_t waiting = pending & ~signal_set(status, "SigBlk:");

	return waiting & (bit(SIGHUP) | bit(SIGINT) | bit(SIGQUIT) | bit(SIGTERM) | bit(SIGKILL));
}

static int read_status(pid_t tid, char **out)
{
	vs_autofree char *text = NULL;
	size_t room = 0, len = 0, n;
	char path[40];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%ld/status", (long)tid);
	file = fopen(path, "re");
	if (!file)
		return -errno;
	do {
		char *more = len + 1 < room ? text : realloc(text, room += 4096);

		if (!more)
			break;
		text = more;
		n = fread(text + len, 1, room - len - 1, file);
		len += n;
	} while (n && len < STATUS_MAX);
	fclose(file);
	if (!text)
		return -ENOMEM;
	text[len] = '\0';
	*out = vs_steal(text);
	return 0;
}

/* A /proc that hides other users' processes says of them what it says of those that are gone; kill(2) does not. */
bool sf_mortal_ask(pid_t tid)
{
	vs_autofree char *status = NULL;

	if (tid <= 0)
		return false;
	if (read_status(tid, &status) == 0)
		return sf_mortal_status(status);
	return kill(tid, 0) < 0 && errno == ESRCH;
}
