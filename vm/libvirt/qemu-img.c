/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/qemu-img.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "vm/util/mem.h"
#include "vm/util/utf8.h"

#define SAID_MAX 512 /* bytes of a program's complaint that are kept */

/* stdin and stdout: nothing; stderr: the pipe. Everything else that we have open is close-on-exec. */
static int spawn(const char *const *argv, int said, pid_t *pid)
{
	char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", locale[] = "LC_ALL=C.UTF-8";
	char *env[] = {path, locale, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, defaults;
	int r;

	sigemptyset(&none);
	sigfillset(&defaults);
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&files, said, 2);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &defaults);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	r = -posix_spawnp(pid, argv[0], &files, &attr, (char *const *)argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return r;
}

/* Reads to the end, so that the program never waits for us; keeps the beginning as one line. */
static void listen_to(int fd, char *said)
{
	size_t len = 0;
	char buf[256];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR))
		for (ssize_t i = 0; i < n && len < SAID_MAX - 1; i++)
			said[len++] = buf[i] == '\n' ? ' ' : buf[i];
	while (len > 0 && said[len - 1] == ' ')
		len--;
	said[len] = '\0';
}

static int wait_for(pid_t pid, int *status)
{
	while (waitpid(pid, status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* What a program ends its complaint with, where strerror() has given it. */
static int errno_said(const char *said)
{
	static const int known[] = { ENOSPC, EACCES, EPERM, EROFS };

	for (size_t i = 0; i < VS_ARRAY_LEN(known); i++)
		if (strstr(said, strerrordesc_np(known[i])))
			return -known[i];
	return -EIO;
}

int vm_qemu_img_run(const char *const *argv, struct vs_err *err)
{
	char said[SAID_MAX];
	int ends[2], status = 0, r;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return vs_err_set(err, -errno, "a pipe for %s: %s", argv[0], strerror(errno));
	r = spawn(argv, ends[1], &pid);
	close(ends[1]);
	if (r == 0) {
		listen_to(ends[0], said);
		r = wait_for(pid, &status);
	}
	close(ends[0]);
	if (r < 0)
		return vs_err_set(err, r, "%s cannot be run: %s", argv[0], strerror(-r));
	if (status == 0)
		return 0;
	if (!said[0]) /* else it begins with its name, as programs do */
		snprintf(said, sizeof(said), "%s: failed without saying why", argv[0]);
	return vs_err_set(err, errno_said(said), "%s", said);
}

char *vm_qemu_img_alone(const char *path)
{
	struct stat st;
	bool block = stat(path, &st) == 0 && S_ISBLK(st.st_mode);
	json_object *name;
	const char *quoted;
	char *text;

	if (!vm_utf8_valid(path)) /* JSON is UTF-8: a name that is not cannot be told this way */
		return xstrdup(path);
	name = json_object_new_string(path);
	quoted = name ? json_object_to_json_string_ext(name, JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
	if (!quoted)
		xoom();
	text = xasprintf("json:{\"driver\":\"qcow2\",\"backing\":null,\"file\":{\"driver\":\"%s\",\"filename\":%s}}",
			 block ? "host_device" : "file", quoted);
	json_object_put(name);
	return text;
}
