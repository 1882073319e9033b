/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "clock.h"

/* The child's word: '+', or '-' and a sentence. */
#define UP '+'
#define DOWN '-'
#define PAUSE_NS 10000000
#define ANSWER_TRIES 1000 /* of such pauses */

int sf_daemon_fork(struct sf_daemon *daemon, struct vs_err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return vs_err_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
	daemon->child = fork();
	if (daemon->child < 0)
		return vs_err_set(err, -errno, "cannot fork: %s", strerror(errno));
	daemon->pipe = ends[daemon->child ? 0 : 1];
	close(ends[daemon->child ? 1 : 0]);
	return daemon->child ? 1 : 0;
}

/* ---------------------------------------------------------------- the child */

/* The parent may be gone; the word is then for nobody. */
static void say(struct sf_daemon *daemon, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(daemon->pipe, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		text += n;
		len -= (size_t)n;
	}
	close(daemon->pipe);
	daemon->pipe = -1;
}

static void leave_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	for (int fd = 0; null >= 0 && fd <= 2; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	if (chdir("/") < 0)
		return; /* where we are stays busy: no reason to end */
}

void sf_daemon_succeeded(struct sf_daemon *daemon)
{
	const char up = UP;

	leave_terminal();
	say(daemon, &up, 1);
}

void sf_daemon_failed(struct sf_daemon *daemon, const char *sentence)
{
	char text[VS_ERR_MAX + 1];
	int len = snprintf(text, sizeof(text), "%c%s", DOWN, sentence);

	say(daemon, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1);
}

/* ---------------------------------------------------------------- the parent */

static size_t listen_to(struct sf_daemon *daemon, char *text, size_t room)
{
	size_t len = 0;

	while (len < room - 1) {
		ssize_t n = read(daemon->pipe, text + len, room - 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || text[0] == UP)
			return len + (n > 0 ? (size_t)n : 0);
		len += (size_t)n;
		text[len] = '\0';
	}
	return len;
}

static int died(struct sf_daemon *daemon, struct vs_err *err)
{
	int status = 0;

	waitpid(daemon->child, &status, 0);
	if (WIFSIGNALED(status))
		return vs_err_set(err, -EIO, "ended by signal %d before it was mounted", WTERMSIG(status));
	return vs_err_set(err, -EIO, "ended before it was mounted");
}

/* A stat(2) that may hang is left to a process that can be killed. */
static bool answers(const char *mountpoint)
{
	int status = 1, tries = ANSWER_TRIES;
	pid_t asker = fork();
	struct stat st;

	if (asker < 0)
		return true; /* nobody to ask: the child's word has to do */
	if (!asker)
		_exit(stat(mountpoint, &st) < 0);
	while (waitpid(asker, &status, WNOHANG) == 0) {
		if (!tries--) {
			kill(asker, SIGKILL);
			waitpid(asker, &status, 0);
			return false;
		}
		sf_clock_nap(PAUSE_NS);
	}
	return status == 0;
}

int sf_daemon_await(struct sf_daemon *daemon, const char *mountpoint, struct vs_err *err)
{
	char text[VS_ERR_MAX + 1] = "";
	size_t len = listen_to(daemon, text, sizeof(text));

	if (!len)
		return died(daemon, err);
	if (text[0] != UP)
		return vs_err_set(err, -EIO, "%s", text + 1);
	if (answers(mountpoint))
		return 0;
	kill(daemon->child, SIGTERM);
	return vs_err_set(err, -EIO, "the mount on '%s' does not answer", mountpoint);
}
