/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * act-drive: the deeds of vm/act.h on the command line, for act-drive.sh.
 *
 *     act-drive URI DOMAIN VERB [ARGUMENT...]
 *
 * Steps are told as they come ("step ..."), then what came of it, then "ok", or "error ERRNO sentence" and status 1.
 * Options stand anywhere behind the verb: bandwidth=BYTES, cancel-after=MS, unlink, refuse (the check before a pivot says no),
 * quiesce, tie, progress (print it), current, left-over (every file in the way is one), paused (on a shut-off domain: start
 * it paused for the verb), depth=N, pause=MS (before the verb, for races), disks=T,T.
 */
#include <errno.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "vm/act.h"
#include "vm/events.h"
#include "vm/rewrite.h"

#define ARGS_MAX 16

static struct {
	const char *v[ARGS_MAX];
	int n;
	uint64_t bandwidth;
	unsigned cancel_after, pause;
	size_t depth;
	bool unlink, refuse, quiesce, tie, progress, current, left_over, paused;
	const char *targets[ARGS_MAX];
	size_t n_targets;
} args;

static virConnectPtr conn;
static virDomainPtr dom;
static struct vm_act_watch watch;

/* ---------------------------------------------------------------- arguments */

static bool number(const char *arg, const char *option, uint64_t *value)
{
	size_t len = strlen(option);

	if (strncmp(arg, option, len) != 0)
		return false;
	*value = strtoull(arg + len, NULL, 10);
	return true;
}

static bool flag(const char *arg, const char *option, bool *value)
{
	if (strcmp(arg, option) != 0)
		return false;
	return *value = true;
}

static bool list(char *arg)
{
	char *save = NULL;

	if (strncmp(arg, "disks=", 6) != 0)
		return false;
	for (char *t = strtok_r(arg + 6, ",", &save); t && args.n_targets < ARGS_MAX; t = strtok_r(NULL, ",", &save))
		args.targets[args.n_targets++] = t;
	return true;
}

static bool option(char *arg)
{
	uint64_t value;

	if (number(arg, "cancel-after=", &value))
		return args.cancel_after = (unsigned)value, true;
	if (number(arg, "pause=", &value))
		return args.pause = (unsigned)value, true;
	if (number(arg, "depth=", &value))
		return args.depth = value, true;
	return number(arg, "bandwidth=", &args.bandwidth) || flag(arg, "unlink", &args.unlink) ||
	       flag(arg, "refuse", &args.refuse) || flag(arg, "quiesce", &args.quiesce) || flag(arg, "tie", &args.tie) ||
	       flag(arg, "progress", &args.progress) || flag(arg, "current", &args.current) ||
	       flag(arg, "left-over", &args.left_over) || flag(arg, "paused", &args.paused) || list(arg);
}

static const char *arg(int i)
{
	if (i < args.n)
		return args.v[i];
	fprintf(stderr, "act-drive: too few arguments\n");
	exit(2);
}

static const char *arg_or_null(int i)
{
	return i < args.n && strcmp(args.v[i], "-") != 0 ? args.v[i] : NULL;
}

/* ---------------------------------------------------------------- the watch */

static void on_step(void *opaque, const char *step)
{
	(void)opaque;
	printf("step %s\n", step);
	fflush(stdout);
}

static void on_progress(void *opaque, uint64_t cur, uint64_t end, uint64_t speed)
{
	(void)opaque;
	if (args.progress)
		printf("progress %llu %llu %llu\n", (unsigned long long)cur, (unsigned long long)end,
		       (unsigned long long)speed);
	fflush(stdout);
}

static void *canceller(void *opaque)
{
	(void)opaque;
	usleep(args.cancel_after * 1000);
	atomic_store(&watch.cancel, true);
	return NULL;
}

static bool left_over(void *opaque, const char *path)
{
	(void)opaque;
	(void)path;
	return args.left_over;
}

static int check(void *opaque, struct vs_err *err)
{
	(void)opaque;
	printf("step check\n");
	return args.refuse ? vs_err_set(err, -EPERM, "refused by the check") : 0;
}

static char *read_stdin(void)
{
	char *text = calloc(1, 1 << 20);

	if (!text || fread(text, 1, (1 << 20) - 1, stdin) == 0)
		exit(2);
	return text;
}

/* ---------------------------------------------------------------- verbs */

static int verb_can(struct vs_err *err)
{
	struct vm_act_can can;
	int r = vm_act_can(conn, &can, err);

	if (r == 0)
		printf("version %lu delete_offline %d revert_external %d start_layers %zu\n", can.version, can.delete_offline,
		       can.revert_external, can.start_layers);
	return r;
}

static void print_plan(const struct vm_act_plan *plan)
{
	for (size_t i = 0; i < plan->n_overlays; i++)
		printf("overlay %s %s on %s%s\n", plan->overlays[i].target, plan->overlays[i].path,
		       plan->overlays[i].below, plan->overlays[i].replace ? " replace" : "");
}

/* create|plan NAME external|internal [DESCRIPTION] */
static int verb_create(bool plan_only, struct vs_err *err)
{
	struct vm_act_create spec = {
		.name = arg(0), .kind = !strcmp(arg(1), "internal") ? VM_INTERNAL : VM_EXTERNAL, .description = arg_or_null(2),
		.targets = args.targets, .n_targets = args.n_targets, .quiesce = args.quiesce, .depth = args.depth,
		.left_over = left_over,
	};
	struct vm_act_plan plan;
	bool made = false;
	int r;

	if (!plan_only) {
		r = vm_act_create(dom, &spec, &watch, &made, err);
		printf("made %d\n", made);
		return r;
	}
	r = vm_act_create_plan(dom, &spec, &plan, err);
	if (r == 0) {
		print_plan(&plan);
		vm_act_plan_fini(&plan);
	}
	return r;
}

static int outcome(int r, const struct vm_act_outcome *out)
{
	printf("outcome touched=%d done=%d\n", out->touched, out->done);
	return r;
}

/* commit TARGET BASE TOP */
static int verb_commit(struct vs_err *err)
{
	struct vm_act_commit spec = { .target = arg(0), .base = arg(1), .top = arg(2), .bandwidth = args.bandwidth,
				      .unlink = args.unlink, .check = check };
	struct vm_act_outcome out;

	return outcome(vm_act_commit(dom, &spec, &watch, &out, err), &out);
}

/* pull TARGET [BASE] */
static int verb_pull(struct vs_err *err)
{
	struct vm_act_pull spec = { .target = arg(0), .base = arg_or_null(1), .bandwidth = args.bandwidth };
	struct vm_act_outcome out;

	return outcome(vm_act_pull(dom, &spec, &watch, &out, err), &out);
}

static int verb_start(struct vs_err *err)
{
	struct vm_act_guest guest;
	int r = vm_act_start_paused(dom, args.tie, &guest, err);

	if (r == 0)
		printf("guest %s %d %s tied=%d\n", guest.uuid, guest.id, guest.token, guest.tied);
	return r;
}

/* end UUID TOKEN */
static int verb_end(struct vs_err *err)
{
	struct vm_act_guest guest = {0};
	int r;

	snprintf(guest.uuid, sizeof(guest.uuid), "%s", arg(0));
	snprintf(guest.token, sizeof(guest.token), "%s", arg(1));
	r = vm_act_end_paused(conn, &guest, err);
	if (r >= 0)
		printf("left %d\n", r);
	return r;
}

static int verb_find(struct vs_err *err)
{
	struct vm_act_guest guest;
	int r = vm_act_find_paused(dom, &guest, err);

	if (r == 1)
		printf("guest %s %d %s\n", guest.uuid, guest.id, guest.token);
	return r;
}

static int verb_jobs(struct vs_err *err)
{
	struct vm_act_job *jobs;
	size_t n;
	int r = vm_act_jobs(dom, &jobs, &n, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		printf("job %s type %d cur %llu end %llu bandwidth %llu\n", jobs[i].target ? jobs[i].target : "-",
		       jobs[i].type, (unsigned long long)jobs[i].cur, (unsigned long long)jobs[i].end,
		       (unsigned long long)jobs[i].bandwidth);
	vm_act_jobs_free(jobs, n);
	return 0;
}

static int verb_unfinished(struct vs_err *err)
{
	char *where = NULL;
	int r = vm_act_unfinished_delete(dom, &where, err);

	printf("unfinished %s\n", r == 1 ? where : "-");
	free(where);
	return r;
}

/* reparent NAME [PARENT]; move NAME TARGET FROM [TO [FORMAT]]: fetch, edit, hand back. */
static int verb_edit(bool reparent, struct vs_err *err)
{
	struct vm_rewrite_move move = { .target = reparent ? NULL : arg(1), .from = reparent ? NULL : arg(2),
					.to = arg_or_null(3), .format = arg_or_null(4) };
	vs_autofree char *xml = NULL, *text = NULL;
	int r = vm_act_record(dom, arg(0), &xml, err);

	if (r == 0)
		r = reparent ? vm_rewrite_parent(xml, arg_or_null(1), &text, err) :
			       vm_rewrite_layers(xml, &move, 1, &text, err);
	if (r < 0)
		return r;
	printf("changed %d\n", r);
	return vm_act_redefine(dom, text, args.current ? VM_ACT_MAKE_CURRENT : VM_ACT_KEEP_CURRENT, err);
}

/* redefine < FILE */
static int verb_redefine(struct vs_err *err)
{
	vs_autofree char *xml = read_stdin();

	return vm_act_redefine(dom, xml, args.current ? VM_ACT_MAKE_CURRENT : VM_ACT_KEEP_CURRENT, err);
}

/* finish NAME: takes libvirt's note of an unfinished delete away. */
static int verb_finish(struct vs_err *err)
{
	vs_autofree char *xml = NULL, *text = NULL;
	int r = vm_act_record(dom, arg(0), &xml, err);

	if (r == 0)
		r = vm_rewrite_deleted(xml, &text, err);
	if (r < 0)
		return r;
	printf("changed %d\n", r);
	return vm_act_redefine(dom, text, VM_ACT_KEEP_CURRENT, err);
}

/* unlink PATH < RECORD */
static int verb_unlink(struct vs_err *err)
{
	vs_autofree char *xml = read_stdin();
	struct vm_xml_snapshot *record;
	int r = vm_xml_snapshot_parse(xml, &record, err);

	if (r < 0)
		return r;
	r = vm_act_unlink(record, arg(0), err);
	vm_xml_snapshot_free(record);
	return r;
}

/* revert|revert-plan NAME */
static int verb_revert(bool plan_only, struct vs_err *err)
{
	struct vm_act_revert spec = { .name = arg(0), .left_over = left_over };
	struct vm_act_plan plan;
	enum vm_act_way way;
	int r;

	if (!plan_only)
		return vm_act_revert(dom, &spec, &watch, err);
	r = vm_act_revert_plan(dom, &spec, &way, &plan, err);
	if (r == 0) {
		printf("way %s\n", way == VM_ACT_BY_HAND ? "by hand" : "by libvirt");
		print_plan(&plan);
		vm_act_plan_fini(&plan);
	}
	return r;
}

/* meta-get URI; meta-set KEY URI [XML] */
static int verb_meta_get(struct vs_err *err)
{
	vs_autofree char *xml = NULL;
	int r = vm_act_metadata_get(dom, arg(0), &xml, err);

	if (r == 0)
		printf("%s\n", xml);
	return r;
}

static int verb(const char *v, struct vs_err *err)
{
	if (!strcmp(v, "can"))
		return verb_can(err);
	if (!strcmp(v, "create") || !strcmp(v, "plan"))
		return verb_create(v[0] == 'p', err);
	if (!strcmp(v, "commit"))
		return verb_commit(err);
	if (!strcmp(v, "pull"))
		return verb_pull(err);
	if (!strcmp(v, "start"))
		return verb_start(err);
	if (!strcmp(v, "end"))
		return verb_end(err);
	if (!strcmp(v, "find"))
		return verb_find(err);
	if (!strcmp(v, "jobs"))
		return verb_jobs(err);
	if (!strcmp(v, "unfinished"))
		return verb_unfinished(err);
	if (!strcmp(v, "reparent") || !strcmp(v, "move"))
		return verb_edit(v[0] == 'r', err);
	if (!strcmp(v, "redefine"))
		return verb_redefine(err);
	if (!strcmp(v, "finish"))
		return verb_finish(err);
	if (!strcmp(v, "forget"))
		return vm_act_forget(dom, arg(0), err);
	if (!strcmp(v, "delete"))
		return vm_act_delete(dom, arg(0), &watch, err);
	if (!strcmp(v, "unlink"))
		return verb_unlink(err);
	if (!strcmp(v, "revert") || !strcmp(v, "revert-plan"))
		return verb_revert(v[6] == '-', err);
	if (!strcmp(v, "meta-get"))
		return verb_meta_get(err);
	if (!strcmp(v, "meta-set"))
		return vm_act_metadata_set(dom, arg(0), arg(1), arg_or_null(2), err);
	return vs_err_set(err, -EINVAL, "no verb '%s'", v);
}

static int verb_paused(const char *v, struct vs_err *err)
{
	struct vm_act_guest guest;
	int r, ended;

	if (!args.paused)
		return verb(v, err);
	r = vm_act_start_paused(dom, args.tie, &guest, err);
	if (r < 0)
		return r;
	r = verb(v, err);
	ended = vm_act_end_paused(conn, &guest, NULL);
	printf("left %d\n", ended);
	return r;
}

/* ---------------------------------------------------------------- main */

static int run(const char *uri, const char *domain, const char *v, struct vs_err *err)
{
	pthread_t thread;
	int r;

	conn = virConnectOpen(uri);
	dom = conn ? virDomainLookupByName(conn, domain) : NULL;
	if (!dom)
		return vs_err_set(err, -EIO, "%s", virGetLastErrorMessage());
	virConnectSetKeepAlive(conn, 5, 3);
	watch.step = on_step;
	watch.progress = on_progress;
	if (args.cancel_after && pthread_create(&thread, NULL, canceller, NULL) != 0)
		return -EAGAIN;
	usleep(args.pause * 1000);
	r = verb_paused(v, err);
	if (args.cancel_after)
		pthread_join(thread, NULL);
	return r;
}

int main(int argc, char **argv)
{
	struct vs_err err = {0};
	int r;

	if (argc < 4)
		return 2;
	for (int i = 4; i < argc && args.n < ARGS_MAX; i++)
		if (!option(argv[i]))
			args.v[args.n++] = argv[i];
	if (vm_events_start(&err) < 0)
		return 2;
	r = run(argv[1], argv[2], argv[3], &err);
	if (r < 0)
		printf("error %s %s\n", strerrorname_np(-r), vs_err_text(&err, r));
	else
		printf("ok\n");
	fflush(stdout);
	if (dom)
		virDomainFree(dom);
	if (conn)
		virConnectClose(conn);
	vm_events_stop();
	return r < 0;
}
