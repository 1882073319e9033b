/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon.h"
#include "session.h"
#include "show.h"

enum status { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2 };

static void complain(const char *sentence)
{
	vs_autofree char *clean = sf_show_dup(sentence, false);

	fprintf(stderr, "virt-snapfs: %s\n", clean);
}

static void on_ready(void *opaque)
{
	if (opaque)
		sf_daemon_succeeded(opaque);
}

/* It may come yet; more likely it is a typing error, of which nothing else would tell. */
static void warn_of_paths(const struct sf_options *options)
{
	for (size_t i = 0; i < options->n_allow_paths; i++)
		if (access(options->allow_paths[i], F_OK) < 0) {
			int number = errno;
			vs_autofree char *clean = sf_show_dup(options->allow_paths[i], false);

			fprintf(stderr, "virt-snapfs: warning: allow_path=%s: %s\n", clean, strerror(number));
		}
}

/* Everything from opening the source to the unmount. *all_ended: nothing goes on that could use what main() frees. */
static int run(const struct sf_options *options, struct sf_daemon *daemon, bool *all_ended, struct vs_err *err)
{
	struct sf_session *session;
	struct sf_fs *fs;
	int rc = sf_fs_open(options, &fs, err);

	if (rc < 0)
		return rc;
	rc = sf_session_open(fs, &session, err);
	if (rc == 0) {
		rc = sf_session_run(session, on_ready, daemon);
		if (rc < 0)
			vs_err_set(err, rc, "serving '%s' failed: %s", options->mountpoint, strerror(-rc));
		sf_session_close(session);
	}
	*all_ended = sf_fs_close(fs);
	return rc;
}

/* A thread that hangs in libvirt may wake up at any time: nothing is torn down under it. */
static enum status leave(enum status status, bool all_ended)
{
	if (all_ended)
		return status;
	fflush(NULL);
	_exit(status);
}

static enum status run_here(const struct sf_options *options)
{
	struct vs_err err = {0};
	bool all_ended = true;
	int rc = run(options, NULL, &all_ended, &err);

	if (rc < 0)
		complain(vs_err_text(&err, rc));
	return leave(rc < 0 ? STATUS_FAILED : STATUS_OK, all_ended);
}

static enum status run_as_child(const struct sf_options *options, struct sf_daemon *daemon)
{
	struct vs_err err = {0};
	bool all_ended = true;
	int rc = run(options, daemon, &all_ended, &err);

	if (rc < 0 && daemon->pipe >= 0)
		sf_daemon_failed(daemon, vs_err_text(&err, rc));
	return leave(rc < 0 ? STATUS_FAILED : STATUS_OK, all_ended);
}

static enum status run_in_background(const struct sf_options *options)
{
	struct sf_daemon daemon;
	struct vs_err err = {0};
	int rc = sf_daemon_fork(&daemon, &err);

	if (rc == 0)
		return run_as_child(options, &daemon);
	if (rc > 0)
		rc = sf_daemon_await(&daemon, options->mountpoint, &err);
	if (rc < 0)
		complain(vs_err_text(&err, rc));
	return rc < 0 ? STATUS_FAILED : STATUS_OK;
}

/* What mount(8) asks for with `-o remount`: the kernel could change its own flags alone, and those make no difference here. */
static enum status refuse_remount(const struct sf_options *options)
{
	struct vs_err err = {0};
	int rc = vs_err_set(&err, -EOPNOTSUPP, "'%s' cannot be remounted: unmount it, and mount it with the new options",
			    options->mountpoint);

	complain(vs_err_text(&err, rc));
	return STATUS_FAILED;
}

static enum status usage(const struct vs_err *err, int rc)
{
	vs_autofree char *clean = sf_show_dup(vs_err_text(err, rc), false);

	fprintf(stderr, "virt-snapfs: %s; try 'virt-snapfs --help'\n", clean);
	return STATUS_USAGE;
}

/* What one thread has freed is used by the others then: else a dozen have each their own holes. */
static void share_memory(void)
{
#ifdef __GLIBC__
	mallopt(M_ARENA_MAX, 2);
#endif
}

int main(int argc, char **argv)
{
	struct sf_options options;
	struct vs_err err = {0};
	enum status status = STATUS_OK;
	int rc = sf_options_parse(argc, argv, &options, &err);

	if (rc < 0)
		status = usage(&err, rc);
	else if (options.help)
		sf_options_help(stdout);
	else if (options.version)
		printf("virt-snapfs %s (libfuse %s)\n", VS_VERSION, fuse_pkgversion());
	else if (options.remount)
		status = refuse_remount(&options);
	else {
		share_memory();
		warn_of_paths(&options);
		status = options.foreground ? run_here(&options) : run_in_background(&options);
	}
	sf_options_fini(&options);
	return status;
}
