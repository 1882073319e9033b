/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Why not libfuse's loop
 * ----------------------
 * fuse_session_loop_mt() ends on a signal only if that signal reaches the main thread between two instructions it
 * cannot name: libvirt's threads may take it, and a signal between its check and its sem_wait() is lost. Here a signal,
 * in whatever thread, adds 1 to an eventfd that main reads; so does a request thread that finds the session at its
 * end. The request threads are a fixed number, made at the start, and main joins each of them by name.
 *
 * The end, whatever the reason:
 *	0  requests that take long are ended where they are (waiter.h)
 *	1  commands that run are asked to stop, and given some time for it, while all else goes on
 *	2  the notifier stops, while requests are still answered (it may be waiting for one in the kernel)
 *	3  the request threads are cancelled where they wait for the kernel, and joined
 *	4  writes whose commands did not stop are let go of
 *	5  unmounted lazily and the connection closed: whoever still has a file open gets ENOTCONN, nobody hangs
 */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "mountpoint.h"
#include "ops.h"
#include "reply.h"
#include "vm/util/mem.h"

#define SF_THREADS 10

struct sf_session {
	struct sf_fs *fs;
	struct fuse_session *se;
	char *mountpoint; /* resolved */
	dev_t dev;        /* of the mount, to know it again */
	pthread_t threads[SF_THREADS];
	size_t n_threads;
	atomic_int rc;    /* of the first thread that failed */
};

/* ---------------------------------------------------------------- signals */

static int wake_fd = -1; /* of the one session; set before the handlers are */

static void wake_main(void)
{
	const uint64_t one = 1;
	int saved = errno;

	if (write(wake_fd, &one, sizeof(one)) < 0)
		errno = saved; /* full: main is awake already */
	errno = saved;
}

static void on_signal(int signo)
{
	(void)signo;
	wake_main();
}

/* nohup(1) means what it says; but a shell that starts us with `&` ignores SIGINT for us, and the man page does not. */
static int catch_signals(void)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
	const struct sigaction caught = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct sigaction before;

	wake_fd = eventfd(0, EFD_CLOEXEC);
	if (wake_fd < 0)
		return -errno;
	for (size_t i = 0; i < VS_ARRAY_LEN(signals); i++) {
		sigaction(signals[i], NULL, &before);
		if (signals[i] != SIGHUP || before.sa_handler != SIG_IGN)
			sigaction(signals[i], &caught, NULL);
	}
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

/* ---------------------------------------------------------------- what libfuse has to say */

static char last_words[256]; /* while mounting: libfuse's reason, for our one sentence */
static bool mounting;

__attribute__((format(printf, 2, 0))) static void on_fuse_log(enum fuse_log_level level, const char *fmt, va_list ap)
{
	if (!mounting) {
		vfprintf(stderr, fmt, ap);
		return;
	}
	if (level > FUSE_LOG_WARNING)
		return;
	vsnprintf(last_words, sizeof(last_words), fmt, ap);
	last_words[strcspn(last_words, "\n")] = '\0';
}

static const char *fuse_reason(void)
{
	const char *text = last_words;

	if (!strncmp(text, "fuse: ", 6))
		text += 6;
	return *text ? text : "fusermount3 failed";
}

/* ---------------------------------------------------------------- mounting */

/* What `findmnt` shows as the source. */
static char *source_name(const struct sf_options *o)
{
	const char *uri = o->uri ? o->uri : getenv("LIBVIRT_DEFAULT_URI");

	if (!o->n_images)
		return xstrdup(uri && *uri ? uri : "libvirt");
	if (o->n_images == 1)
		return xstrdup(o->images[0]);
	return xasprintf("%s:+%zu", o->images[0], o->n_images - 1);
}

/* fuse_opt escapes what has commas in it; the rest is put together here. Not read-only for the kernel unless asked:
 * it would answer EROFS to everything, and what may be written (the doors of a domain) is decided file by file. */
static void add_options(struct fuse_args *args, const struct sf_options *o)
{
	vs_autofree char *source = source_name(o), *fsname = xasprintf("fsname=%s", source), *list = NULL;
	vs_autofree char *numbers =
		xasprintf("subtype=virt-snapfs,max_read=%u%s%s%s%s%s", o->max_read, o->read_only ? ",ro" : "",
			  o->allow_other ? ",allow_other" : "", o->default_permissions ? ",default_permissions" : "",
			  o->mount_options ? "," : "", o->mount_options ? o->mount_options : "");

	if (fuse_opt_add_opt_escaped(&list, fsname) || fuse_opt_add_opt(&list, numbers) ||
	    fuse_opt_add_arg(args, "virt-snapfs") || fuse_opt_add_arg(args, "-o") || fuse_opt_add_arg(args, list) ||
	    (o->debug && fuse_opt_add_arg(args, "-d")))
		xoom();
}

static int new_session(struct sf_session *session, struct vs_err *err)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);

	add_options(&args, session->fs->options);
	session->se = fuse_session_new(&args, &sf_ops, sizeof(sf_ops), session->fs);
	fuse_opt_free_args(&args);
	return session->se ? 0 : vs_err_set(err, -EINVAL, "cannot mount: %s", fuse_reason());
}

/* The device of what is mounted there, without a question to whoever serves it: that is us. */
static dev_t device_at(const char *path)
{
	struct statx stx;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &stx) < 0)
		return 0;
	return makedev(stx.stx_dev_major, stx.stx_dev_minor);
}

/* fusermount3 says its piece on our stderr, where it is to be part of our one sentence: so stderr is a file for that long, of at
 * most so many bytes. What else was said there goes on to where it was meant to. */
#define SAID_MAX 4096

struct listener {
	int file, stderr_was;
};

static struct listener listen_to_stderr(void)
{
	struct listener l = {.file = memfd_create("stderr", MFD_CLOEXEC), .stderr_was = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)};

	if (l.file >= 0 && l.stderr_was >= 0)
		dup2(l.file, STDERR_FILENO);
	return l;
}

static void pass_on(const char *said)
{
	const char *line, *end;

	for (line = said; *line; line = *end ? end + 1 : end) {
		end = strchrnul(line, '\n');
		if (strncmp(line, "fusermount3: ", 13) != 0)
			fprintf(stderr, "%.*s\n", (int)(end - line), line);
	}
}

/* Gives what fusermount3 said was the reason, or NULL. */
static char *stop_listening(struct listener *l)
{
	char said[SAID_MAX] = "";
	ssize_t n = l->file < 0 ? 0 : pread(l->file, said, sizeof(said) - 1, 0);

	if (l->file >= 0 && l->stderr_was >= 0)
		dup2(l->stderr_was, STDERR_FILENO);
	if (l->file >= 0)
		close(l->file);
	if (l->stderr_was >= 0)
		close(l->stderr_was);
	said[n > 0 ? n : 0] = '\0';
	pass_on(said);
	return sf_mountpoint_why(said, geteuid() != 0 && access("/etc/apparmor.d/fusermount3", F_OK) == 0);
}

static int mount_session(struct sf_session *session, struct vs_err *err)
{
	const char *where = session->mountpoint;
	struct listener listener = listen_to_stderr();
	int rc = fuse_session_mount(session->se, where);
	vs_autofree char *why = stop_listening(&listener);

	if (rc < 0)
		return vs_err_set(err, -EIO, "cannot mount on '%s': %s", where, why ? why : fuse_reason());
	session->dev = device_at(where);
	return 0;
}

static void session_free(struct sf_session *session)
{
	if (session->se)
		fuse_session_destroy(session->se);
	free(session->mountpoint);
	free(session);
}

int sf_session_open(struct sf_fs *fs, struct sf_session **out, struct vs_err *err)
{
	struct sf_session *session = xcalloc(1, sizeof(*session));
	int rc;

	session->fs = fs;
	mounting = true;
	fuse_set_log_func(on_fuse_log);
	rc = sf_mountpoint_check(fs, &session->mountpoint, err);
	if (rc == 0)
		rc = new_session(session, err);
	if (rc == 0)
		rc = catch_signals();
	if (rc == 0)
		rc = mount_session(session, err);
	mounting = false;
	if (rc < 0)
		session_free(session);
	else
		*out = session;
	return rc;
}

/* Closes the connection and puts in its place what polls like a device whose mount is gone: a pipe that nobody reads. */
static void disconnect(struct fuse_session *se)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return;
	dup2(ends[1], fuse_session_fd(se));
	close(ends[0]);
	close(ends[1]);
}

/* Somebody may have unmounted it, or detached it while files were open and mounted another thing there since: what is
 * not ours libfuse must not unmount, and it does not where the device says that the connection is over. */
void sf_session_close(struct sf_session *session)
{
	if (device_at(session->mountpoint) != session->dev)
		disconnect(session->se);
	fuse_session_unmount(session->se);
	session_free(session);
}

/* ---------------------------------------------------------------- serving */

static void free_buf(void *opaque)
{
	free(((struct fuse_buf *)opaque)->mem);
}

/* Waiting for the kernel is the only place where a thread can be cancelled. */
static int receive(struct fuse_session *se, struct fuse_buf *buf)
{
	int n;

	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
	n = fuse_session_receive_buf(se, buf);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	return n;
}

static void serve_until_the_end(struct sf_session *session, struct fuse_buf *buf)
{
	int n = 0, none = 0;

	while (!fuse_session_exited(session->se)) {
		n = receive(session->se, buf);
		if (n > 0) {
			sf_req_heard(session->se, buf);
			fuse_session_process_buf(session->se, buf);
		} else if (n != -EINTR && n != -EAGAIN)
			break;
	}
	if (n < 0)
		atomic_compare_exchange_strong(&session->rc, &none, n);
	wake_main();
}

static void *serve(void *opaque)
{
	struct fuse_buf buf = {0};

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	pthread_cleanup_push(free_buf, &buf);
	serve_until_the_end(opaque, &buf);
	pthread_cleanup_pop(1);
	return NULL;
}

static void stop_threads(struct sf_session *session)
{
	for (size_t i = 0; i < session->n_threads; i++)
		pthread_cancel(session->threads[i]);
	for (size_t i = 0; i < session->n_threads; i++)
		pthread_join(session->threads[i], NULL);
	session->n_threads = 0;
}

static int start_threads(struct sf_session *session)
{
	while (session->n_threads < SF_THREADS) {
		int rc = pthread_create(&session->threads[session->n_threads], NULL, serve, session);

		if (rc)
			return -rc;
		session->n_threads++;
	}
	return 0;
}

/* poll(2) and not read(2): it comes back for a signal even with SA_RESTART, which is for everybody else. */
static void wait_for_the_end(void)
{
	struct pollfd wake = {.fd = wake_fd, .events = POLLIN};

	while (poll(&wake, 1, -1) <= 0)
		;
}

int sf_session_run(struct sf_session *session, void (*ready)(void *opaque), void *opaque)
{
	struct sf_fs *fs = session->fs;
	int rc = sf_notify_start(&fs->notify, session->se);

	if (rc == 0)
		rc = sf_writes_start(fs->writes);
	if (rc == 0)
		rc = start_threads(session);
	if (rc == 0) {
		ready(opaque);
		wait_for_the_end();
	}
	atomic_store(&fs->ending, true);
	sf_writes_stop(fs->writes);
	sf_notify_stop(&fs->notify);
	stop_threads(session);
	sf_makers_stop(&fs->makers);
	sf_makers_stop(&fs->counters);
	sf_makers_stop(&fs->instants);
	sf_makers_stop(&fs->records);
	sf_writes_abandon(fs->writes);
	return rc < 0 ? rc : atomic_load(&session->rc);
}
