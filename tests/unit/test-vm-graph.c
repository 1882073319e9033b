/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Every test starts from one domain, "web", shut off, with one disk and three external snapshots a minute apart:
 *
 *   base (raw) <- o1 <- o2 <- o3 (active)       s1 froze base, s2 froze o1, s3 froze o2
 *
 * and then lets something happen to the files or the records. Times are seconds; files are born when their snapshot is
 * taken and last written when the next one is.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/graph/graph.h"
#include "vm/model/mark.h"
#include "vm/util/strmap.h"

#define SEC INT64_C(1000000000)

enum { BASE, O1, O2, O3, SPARE, SPARE2, SPARE3, N_FILES };
enum { S1, S2, S3, EXTRA, N_SNAPS };
enum { WEB, OTHER, N_DOMAINS };

struct lab {
	struct vm_fact_file files[N_FILES];
	struct q2_info infos[N_FILES];
	struct q2_snapshot entries[4];
	struct vm_fact_snapdisk snapdisks[N_DOMAINS][N_SNAPS];
	struct vm_fact_snapshot snaps[N_DOMAINS][N_SNAPS];
	struct vm_fact_disk disks[N_DOMAINS];
	struct vm_fact_domain domains[N_DOMAINS];
	struct vm_fact_commit commits[2];
	struct vm_fact_volume volumes[2];
	struct vm_facts facts;
};

static void qcow2(struct lab *l, int file, int below)
{
	l->infos[file] = (struct q2_info){.format = Q2_FORMAT_QCOW2, .version = 3, .cluster_bits = 16, .size = 1 << 30};
	l->files[file].format = Q2_FORMAT_QCOW2;
	l->files[file].info = &l->infos[file];
	l->files[file].below = below;
	l->files[file].below_format = below == VM_NO_FILE ? Q2_FORMAT_NONE : below == BASE ? Q2_FORMAT_RAW : Q2_FORMAT_QCOW2;
}

static void times(struct lab *l, int file, double born, double written)
{
	l->files[file].stamp.btime_ns = (int64_t)(born * 1e9);
	l->files[file].stamp.mtime_ns = (int64_t)(written * 1e9);
}

static void gone(struct lab *l, int file)
{
	const char *path = l->files[file].path;

	l->files[file] = (struct vm_fact_file){.path = path, .error = -ENOENT, .below = VM_NO_FILE, .data = VM_NO_FILE, .shows = VM_NO_FILE};
}

static void snap(struct lab *l, int domain, int s, const char *name, int64_t created_s, int parent, int pit, int overlay)
{
	l->snapdisks[domain][s] = (struct vm_fact_snapdisk){
		.target = "vda", .mode = VM_MODE_EXTERNAL, .pit = pit, .overlay = overlay, .below = VM_NO_FILE, .since = 1,
		.format = pit == BASE ? Q2_FORMAT_RAW : Q2_FORMAT_QCOW2};
	l->snaps[domain][s] = (struct vm_fact_snapshot){.name = name, .shown = name, .parent = parent, .created_s = created_s,
							.recorded = true, .disks = &l->snapdisks[domain][s], .n_disks = 1};
}

static void lab_init(struct lab *l)
{
	static const char *const paths[N_FILES] = {"/i/base", "/i/o1", "/i/o2", "/i/o3", "/i/spare", "/i/spare2", "/i/spare3"};

	memset(l, 0, sizeof(*l));
	for (int i = 0; i < N_FILES; i++) {
		l->files[i] = (struct vm_fact_file){.path = paths[i], .below = VM_NO_FILE, .data = VM_NO_FILE, .shows = VM_NO_FILE};
		l->files[i].stamp = (struct q2_stamp){.dev = 1, .ino = 100 + (uint64_t)i, .size = 1 << 20, .allocated = 1 << 16};
	}
	l->files[BASE].format = Q2_FORMAT_RAW;
	for (int i = O1; i <= O3; i++)
		qcow2(l, i, i - 1);
	times(l, BASE, 10, 100.2);
	times(l, O1, 100.4, 160.2);
	times(l, O2, 160.4, 220.2);
	times(l, O3, 220.4, 250);
	snap(l, WEB, S1, "s1", 100, -1, BASE, O1);
	snap(l, WEB, S2, "s2", 160, S1, O1, O2);
	snap(l, WEB, S3, "s3", 220, S2, O2, O3);
	l->disks[WEB] = (struct vm_fact_disk){.target = "vda", .top = O3, .format = Q2_FORMAT_QCOW2, .writable = true,
					      .mirror = VM_NO_FILE};
	l->disks[OTHER] = (struct vm_fact_disk){.target = "vda", .top = VM_NO_FILE, .writable = true, .mirror = VM_NO_FILE};
	for (int d = 0; d < N_DOMAINS; d++)
		l->domains[d] = (struct vm_fact_domain){.name = d == WEB ? "web" : "other", .disks = &l->disks[d], .n_disks = 1,
							.snapshots = l->snaps[d], .n_snapshots = d == WEB ? 3 : 0};
	l->facts = (struct vm_facts){.files = l->files, .n_files = N_FILES, .domains = l->domains, .n_domains = N_DOMAINS,
				     .commits = l->commits, .volumes = l->volumes};
}

static struct vm_verdict verdict_of(const struct lab *l, int domain, int s)
{
	struct vm_graph *graph = NULL;
	struct vm_verdict verdict;

	graph = vm_graph_new(&l->facts);
	vm_graph_state(graph, (size_t)domain, (size_t)s, 0, &verdict);
	vm_graph_free(graph);
	return verdict;
}

static void expect_in(const struct lab *l, int domain, int s, enum vm_state state, const char *reason)
{
	struct vm_verdict v = verdict_of(l, domain, s);

	cr_expect_eq(v.state, state, "%s is in state %d, not %d (%s)", l->snaps[domain][s].name, v.state, state,
		     v.reason ? v.reason : "-");
	if (reason)
		cr_expect(v.reason && strstr(v.reason, reason), "'%s' does not say '%s'", v.reason ? v.reason : "-", reason);
	cr_expect_eq(v.state == VM_OK, v.reason == NULL);
	vm_verdict_fini(&v);
}

static void expect(const struct lab *l, enum vm_state s1, enum vm_state s2, enum vm_state s3)
{
	expect_in(l, WEB, S1, s1, NULL);
	expect_in(l, WEB, S2, s2, NULL);
	expect_in(l, WEB, S3, s3, NULL);
}

static void run(struct lab *l, int domain)
{
	l->domains[domain].running = true;
	l->files[l->disks[domain].top].writer = true;
}

/* ---------------------------------------------------------------- nothing odd */

Test(vm_graph, an_untouched_history_is_ok)
{
	struct lab l;

	lab_init(&l);
	expect(&l, VM_OK, VM_OK, VM_OK);
	run(&l, WEB);
	expect(&l, VM_OK, VM_OK, VM_OK);
}

Test(vm_graph, the_chain_starts_at_what_was_frozen_and_may_be_guarded)
{
	struct lab l;

	lab_init(&l);
	struct vm_verdict v = verdict_of(&l, WEB, S3);

	cr_assert_eq(v.n_layers, 3u);
	cr_expect_eq(v.layers[0], O2);
	cr_expect_eq(v.layers[2], BASE);
	cr_expect_eq(v.format, Q2_FORMAT_QCOW2);
	cr_expect(v.guard && v.guard_top);
	vm_verdict_fini(&v);
}

Test(vm_graph, copies_of_a_history_made_much_later_are_ok)
{
	struct lab l;

	lab_init(&l); /* a plain cp of all files, in no helpful order */
	times(&l, BASE, 9000, 9050);
	times(&l, O1, 8000, 8010);
	times(&l, O2, 8500, 8600);
	times(&l, O3, 8900, 8901);
	expect(&l, VM_OK, VM_OK, VM_OK);
}

Test(vm_graph, records_that_cannot_be_read_say_why)
{
	struct lab l;

	lab_init(&l);
	l.snapdisks[WEB][S1].unsupported = "a network disk (rbd pool/x) cannot be read from here";
	l.snapdisks[WEB][S2].format = Q2_FORMAT_NONE;
	l.snapdisks[WEB][S3].mode = VM_MODE_MANUAL;
	expect_in(&l, WEB, S1, VM_UNSUPPORTED, "rbd pool/x");
	expect_in(&l, WEB, S2, VM_UNSUPPORTED, "'/i/o1' has no format recorded");
	expect_in(&l, WEB, S3, VM_UNSUPPORTED, "manual");
}

Test(vm_graph, what_keeps_a_layer_from_being_read_decides_the_state)
{
	static const struct { int error; enum vm_state state; } cases[] = {
		{-ENOENT, VM_STALE},       /* deleted */
		{-EINVAL, VM_STALE},       /* no qcow2 image any more */
		{-EACCES, VM_UNSUPPORTED}, /* not for us */
		{-EPERM, VM_UNSUPPORTED},  /* the gate */
		{-EIO, VM_UNSUPPORTED},    /* perhaps later */
		{-EAGAIN, VM_BUSY},        /* never held still */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct lab l;

		lab_init(&l);
		l.files[O1].error = cases[i].error;
		l.files[O1].info = NULL;
		expect_in(&l, WEB, S1, VM_OK, NULL);
		expect_in(&l, WEB, S2, cases[i].state, "/i/o1");
		expect_in(&l, WEB, S3, cases[i].state, "/i/o1");
	}
}

Test(vm_graph, an_encrypted_layer_makes_what_stands_on_it_unsupported)
{
	struct lab l;

	lab_init(&l);
	l.infos[O1].unsupported = (char *)"is encrypted (LUKS)";
	expect(&l, VM_OK, VM_UNSUPPORTED, VM_UNSUPPORTED);
}

Test(vm_graph, a_chain_that_loops_is_stale_and_one_round_long)
{
	struct lab l;

	lab_init(&l);
	qcow2(&l, SPARE, SPARE2);
	qcow2(&l, SPARE2, SPARE);
	l.snapdisks[WEB][S2].pit = SPARE;
	struct vm_verdict v = verdict_of(&l, WEB, S2);

	cr_expect_eq(v.state, VM_STALE);
	cr_expect_eq(v.n_layers, 2u);
	vm_verdict_fini(&v);
}

/* ---------------------------------------------------------------- commits */

/* o2 and o1 were committed into base: o3 stands on base. */
static void committed(struct lab *l, bool files_deleted)
{
	l->files[O3].below = BASE;
	l->files[O3].below_format = Q2_FORMAT_RAW;
	times(l, BASE, 10, 300);
	times(l, O3, 220.4, 301);
	if (files_deleted) {
		gone(l, O1);
		gone(l, O2);
	}
}

Test(vm_graph, after_a_commit_only_its_top_reads_right)
{
	struct lab l;

	lab_init(&l);
	committed(&l, false);
	expect(&l, VM_STALE, VM_STALE, VM_DETACHED);
	run(&l, WEB);
	expect(&l, VM_STALE, VM_STALE, VM_DETACHED);
	expect_in(&l, WEB, S1, VM_STALE, "'/i/base'");
}

Test(vm_graph, after_a_commit_that_deleted_its_layers_nothing_is_left)
{
	struct lab l;

	lab_init(&l);
	committed(&l, true);
	expect(&l, VM_STALE, VM_STALE, VM_STALE);
	expect_in(&l, WEB, S3, VM_STALE, "'/i/o2' is missing");
}

Test(vm_graph, a_commit_that_was_seen_leads_from_its_deleted_top_to_its_base)
{
	struct lab l;

	lab_init(&l);
	committed(&l, true);
	l.commits[0] = (struct vm_fact_commit){BASE, O2, 5};
	l.facts.n_commits = 1;
	l.files[BASE].written_at = 6;
	l.files[O3].repointed_at = 6;
	expect(&l, VM_STALE, VM_STALE, VM_OK);
	struct vm_verdict v = verdict_of(&l, WEB, S3);

	cr_expect_eq(v.layers[0], BASE);
	cr_expect_eq(v.format, Q2_FORMAT_RAW);
	vm_verdict_fini(&v);
}

Test(vm_graph, a_commit_into_the_middle_spares_what_lies_beneath)
{
	struct lab l;

	lab_init(&l); /* o2 into o1 */
	l.files[O3].below = O1;
	times(&l, O1, 100.4, 300);
	times(&l, O3, 220.4, 301);
	expect(&l, VM_OK, VM_STALE, VM_DETACHED);
}

Test(vm_graph, two_commits_in_a_row_leave_the_last_top)
{
	struct lab l;

	lab_init(&l); /* o1 into base (o2 on base), then o2 into base (o3 on base) */
	committed(&l, false);
	l.files[O2].below = BASE;
	l.files[O2].below_format = Q2_FORMAT_RAW;
	times(&l, O2, 160.4, 290);
	expect(&l, VM_STALE, VM_STALE, VM_DETACHED);
}

Test(vm_graph, a_branch_on_a_committed_base_is_destroyed)
{
	struct lab l;

	lab_init(&l);
	committed(&l, false);
	l.snapdisks[WEB][EXTRA] = l.snapdisks[WEB][S1];
	qcow2(&l, SPARE, BASE); /* n on base, then a snapshot that froze n */
	qcow2(&l, SPARE2, SPARE);
	times(&l, SPARE, 120, 130);
	times(&l, SPARE2, 130.5, 140);
	snap(&l, WEB, EXTRA, "branch", 130, S1, SPARE, SPARE2);
	l.domains[WEB].n_snapshots = 4;
	expect_in(&l, WEB, EXTRA, VM_STALE, "/i/base");
}

Test(vm_graph, virsh_deletes_of_the_oldest_leave_the_next_ones_ok)
{
	struct lab l;

	lab_init(&l); /* delete s1: o1 went into base and away, o2 stands on base, s2's record says base */
	times(&l, BASE, 10, 300);
	qcow2(&l, O2, BASE);
	times(&l, O2, 160.4, 300.01);
	gone(&l, O1);
	snap(&l, WEB, S2, "s2", 160, -1, BASE, O2);
	snap(&l, WEB, S3, "s3", 220, 0, O2, O3);
	l.snaps[WEB][S1] = l.snaps[WEB][S2];
	l.snapdisks[WEB][S1] = l.snapdisks[WEB][S2];
	l.snaps[WEB][S1].disks = &l.snapdisks[WEB][S1];
	l.snaps[WEB][S2] = l.snaps[WEB][S3];
	l.snapdisks[WEB][S2] = l.snapdisks[WEB][S3];
	l.snaps[WEB][S2].disks = &l.snapdisks[WEB][S2];
	l.domains[WEB].n_snapshots = 2;
	expect_in(&l, WEB, 0, VM_OK, NULL);
	expect_in(&l, WEB, 1, VM_OK, NULL);

	/* the same, watched: base was seen changing, then o2 standing on it, then the record naming it */
	l.files[BASE].written_at = 7;
	l.files[O2].repointed_at = 7;
	l.commits[0] = (struct vm_fact_commit){BASE, O1, 7};
	l.facts.n_commits = 1;
	l.snapdisks[WEB][0].since = 7;
	expect_in(&l, WEB, 0, VM_OK, NULL);
	expect_in(&l, WEB, 1, VM_OK, NULL);
}

/* ---------------------------------------------------------------- pulls */

Test(vm_graph, after_a_pull_everything_is_readable)
{
	struct lab l;

	lab_init(&l); /* o3 pulled down to base */
	l.files[O3].below = BASE;
	l.files[O3].below_format = Q2_FORMAT_RAW;
	times(&l, O3, 220.4, 400);
	expect(&l, VM_OK, VM_DETACHED, VM_DETACHED);

	l.files[O3].below = VM_NO_FILE; /* and now entirely */
	expect(&l, VM_DETACHED, VM_DETACHED, VM_DETACHED);
}

Test(vm_graph, a_pull_is_recognised_where_the_base_was_written_in_the_second_of_the_snapshot)
{
	struct lab l;

	lab_init(&l);
	l.files[O3].below = BASE;
	l.files[O3].below_format = Q2_FORMAT_RAW;
	times(&l, BASE, 10, 100.399); /* a moment before o1 was born */
	expect(&l, VM_OK, VM_DETACHED, VM_DETACHED);
	times(&l, BASE, 10, 100.45);  /* a moment after, but o1 was written later */
	expect(&l, VM_OK, VM_DETACHED, VM_DETACHED);
	for (int i = 0; i < N_FILES; i++) /* a file system that knows no birth times */
		l.files[i].stamp.btime_ns = 0;
	expect(&l, VM_OK, VM_DETACHED, VM_DETACHED);
}

Test(vm_graph, a_block_device_gives_no_proof_of_a_pull_unless_it_was_seen)
{
	struct lab l;

	lab_init(&l);
	l.files[O3].below = BASE;
	l.files[O3].below_format = Q2_FORMAT_RAW;
	l.files[BASE].stamp.block = true;
	expect(&l, VM_STALE, VM_STALE, VM_DETACHED);
	l.files[O3].pulled_at = l.files[O3].repointed_at = 9;
	expect(&l, VM_OK, VM_DETACHED, VM_DETACHED);
}

Test(vm_graph, a_repointing_that_was_watched_without_a_write_is_a_pull)
{
	struct lab l;

	lab_init(&l);
	l.files[O3].below = BASE;
	l.files[O3].below_format = Q2_FORMAT_RAW;
	times(&l, BASE, 10, 162); /* not provable by time stamps: later than the last write to o1 */
	expect_in(&l, WEB, S1, VM_STALE, NULL);
	l.files[O3].repointed_at = 4;
	expect(&l, VM_OK, VM_DETACHED, VM_DETACHED);
	l.files[BASE].written_at = 4;
	expect(&l, VM_STALE, VM_STALE, VM_DETACHED);
}

/* ---------------------------------------------------------------- jobs that run */

static void commit_runs(struct lab *l)
{
	run(l, WEB);
	l->disks[WEB].job = VM_JOB_COMMIT;
	times(l, BASE, 10, 300);
	l->files[BASE].writer = true;
	l->files[O1].no_read = l->files[O2].no_read = true;
}

Test(vm_graph, while_a_commit_runs_what_it_overwrites_is_busy_and_its_top_is_ok)
{
	struct lab l;

	lab_init(&l);
	commit_runs(&l);
	expect(&l, VM_BUSY, VM_BUSY, VM_OK);
	l.files[BASE].written_at = 5; /* also when the watch has seen it write */
	expect(&l, VM_BUSY, VM_BUSY, VM_OK);
}

Test(vm_graph, a_commit_whose_range_is_unknown_makes_everything_beneath_busy)
{
	struct lab l;

	lab_init(&l);
	run(&l, WEB);
	l.disks[WEB].job = VM_JOB_COMMIT;
	expect(&l, VM_BUSY, VM_BUSY, VM_BUSY);
	struct vm_graph *graph = NULL;
	struct vm_fact_commit *commits = NULL;
	size_t n = 1;

	graph = vm_graph_new(&l.facts);
	vm_graph_commits(graph, &commits, &n);
	cr_expect_eq(n, 0u, "a guess must not be remembered");
	free(commits);
	vm_graph_free(graph);
}

Test(vm_graph, locks_without_a_job_that_libvirt_knows_make_it_busy)
{
	struct lab l;

	lab_init(&l);
	commit_runs(&l);
	l.disks[WEB].job = VM_JOB_NONE; /* qemu-img commit, or another libvirt */
	expect(&l, VM_BUSY, VM_BUSY, VM_BUSY);
}

Test(vm_graph, an_active_commit_spares_only_what_lies_beneath_its_base)
{
	struct lab l;

	lab_init(&l);
	run(&l, WEB);
	l.disks[WEB].job = VM_JOB_ACTIVE_COMMIT;
	l.disks[WEB].mirror = O1;
	expect(&l, VM_OK, VM_BUSY, VM_BUSY);
}

Test(vm_graph, a_pull_or_copy_that_runs_disturbs_nobody)
{
	struct lab l;

	lab_init(&l);
	run(&l, WEB);
	l.disks[WEB].job = VM_JOB_PULL;
	expect(&l, VM_OK, VM_OK, VM_OK);
	l.disks[WEB].job = VM_JOB_COPY;
	l.disks[WEB].mirror = SPARE;
	expect(&l, VM_OK, VM_OK, VM_OK);
}

Test(vm_graph, a_commit_that_was_cancelled_stays_fatal_for_what_it_overwrote)
{
	struct lab l;
	struct vm_graph *graph = NULL;
	struct vm_fact_commit *commits = NULL;
	size_t n = 0;

	lab_init(&l);
	commit_runs(&l);
	graph = vm_graph_new(&l.facts);
	vm_graph_commits(graph, &commits, &n);
	vm_graph_free(graph);
	cr_assert_eq(n, 1u);
	cr_expect_eq(commits[0].base, BASE);
	cr_expect_eq(commits[0].top, O2);
	l.commits[0] = commits[0];
	l.commits[0].at = 5;
	free(commits);

	l.facts.n_commits = 1;
	l.disks[WEB].job = VM_JOB_NONE;
	l.files[BASE].writer = l.files[O1].no_read = l.files[O2].no_read = false;
	l.files[BASE].written_at = 6;
	expect(&l, VM_STALE, VM_STALE, VM_OK);
}

Test(vm_graph, an_unfinished_delete_dooms_the_snapshot_that_was_being_deleted)
{
	struct lab l;

	lab_init(&l); /* delete of s2 (o2 into o1) died; libvirt notes it at s1 */
	times(&l, O1, 100.4, 300);
	l.snapdisks[WEB][S1].deleting = true;
	expect(&l, VM_OK, VM_STALE, VM_OK);
	expect_in(&l, WEB, S2, VM_STALE, "unfinished delete");
	commit_runs(&l); /* repeated: locks now show o2 -> o1 */
	l.files[BASE].writer = l.files[O1].no_read = false;
	times(&l, BASE, 10, 100.2);
	l.files[O1].writer = true;
	expect(&l, VM_OK, VM_BUSY, VM_OK);
}

Test(vm_graph, an_unfinished_delete_means_the_child_in_the_active_chain)
{
	struct lab l;

	lab_init(&l);
	qcow2(&l, SPARE, O1); /* a second branch from s1 */
	times(&l, SPARE, 130, 140);
	qcow2(&l, SPARE2, SPARE);
	times(&l, SPARE2, 140.5, 150);
	snap(&l, WEB, EXTRA, "branch", 140, S1, SPARE, SPARE2);
	l.domains[WEB].n_snapshots = 4;
	l.snapdisks[WEB][S1].deleting = true;
	expect_in(&l, WEB, S2, VM_STALE, NULL);
	expect_in(&l, WEB, EXTRA, VM_STALE, NULL); /* it stands on o1, which was written, and not through o2 */
	qcow2(&l, SPARE, BASE);
	expect_in(&l, WEB, EXTRA, VM_DETACHED, NULL);
}

/* ---------------------------------------------------------------- who writes */

Test(vm_graph, a_frozen_image_that_a_domain_runs_on_is_stale)
{
	struct lab l;

	lab_init(&l); /* active commit with pivot: web runs on base again */
	l.disks[WEB].top = BASE;
	l.disks[WEB].format = Q2_FORMAT_RAW;
	run(&l, WEB);
	expect_in(&l, WEB, S1, VM_STALE, "written by domain 'web' (disk vda)");
	expect(&l, VM_STALE, VM_STALE, VM_STALE);
}

Test(vm_graph, after_a_pivot_a_shut_off_domain_proves_it_by_the_time_of_its_disk)
{
	struct lab l;

	lab_init(&l);
	l.disks[WEB].top = BASE;
	l.disks[WEB].format = Q2_FORMAT_RAW;
	times(&l, BASE, 10, 300);
	expect(&l, VM_STALE, VM_STALE, VM_STALE);

	lab_init(&l); /* the same into o1: its header might have been re-pointed, but it is the disk now */
	l.disks[WEB].top = O1;
	times(&l, O1, 100.4, 300);
	expect(&l, VM_OK, VM_STALE, VM_STALE);
}

Test(vm_graph, a_domain_put_back_on_its_frozen_image_but_never_started_reads_on)
{
	struct lab l;

	lab_init(&l);
	l.disks[WEB].top = BASE;
	l.disks[WEB].format = Q2_FORMAT_RAW;
	expect(&l, VM_OK, VM_DETACHED, VM_DETACHED);
	struct vm_verdict v = verdict_of(&l, WEB, S1);

	cr_expect_not(v.guard, "its start would fail");
	vm_verdict_fini(&v);
}

Test(vm_graph, clones_of_a_template_are_readable_until_it_is_changed)
{
	struct lab l;

	lab_init(&l); /* base is the disk of "other" */
	l.disks[OTHER].top = BASE;
	l.disks[OTHER].format = Q2_FORMAT_RAW;
	expect_in(&l, WEB, S2, VM_OK, NULL);
	expect_in(&l, WEB, S3, VM_OK, NULL);
	times(&l, BASE, 10, 5000);
	expect_in(&l, WEB, S2, VM_STALE, "'/i/base' is the disk vda of domain 'other'");
	times(&l, BASE, 10, 50);
	run(&l, OTHER);
	expect_in(&l, WEB, S2, VM_STALE, "domain 'other'");
}

Test(vm_graph, a_foreign_commit_into_a_shared_base_shows_in_its_time)
{
	struct lab l;

	lab_init(&l);
	times(&l, BASE, 10, 500);
	times(&l, O3, 220.4, 600); /* web's own disk is written all the time: no excuse for o1 */
	expect(&l, VM_STALE, VM_STALE, VM_STALE);
}

Test(vm_graph, qemu_img_commit_of_the_top_shows_in_the_emptied_overlay)
{
	struct lab l;

	lab_init(&l); /* o3 into o2: s3 is destroyed, nothing beneath */
	times(&l, O2, 160.4, 300);
	times(&l, O3, 220.4, 300.01);
	expect(&l, VM_OK, VM_OK, VM_OK); /* like a delete by virsh, as far as times tell */
	l.files[O3].stamp.size = 4 * 65536;
	expect(&l, VM_OK, VM_OK, VM_STALE);
	l.files[O3].stamp.size = 3 * 65536 + 16; /* merely fresh */
	expect(&l, VM_OK, VM_OK, VM_OK);
}

Test(vm_graph, a_write_that_was_watched_is_remembered_against_the_snapshots_of_that_time)
{
	struct lab l;

	lab_init(&l);
	l.files[O1].written_at = 8;
	expect(&l, VM_OK, VM_STALE, VM_STALE);
	l.snapdisks[WEB][S2].since = 8;
	l.snapdisks[WEB][S3].since = 9;
	expect(&l, VM_OK, VM_OK, VM_OK);
}

Test(vm_graph, an_image_frozen_again_was_in_use_in_between)
{
	struct lab l;

	lab_init(&l); /* all was committed into base, which then got a new snapshot in the same second as s3 */
	gone(&l, O1);
	gone(&l, O2);
	gone(&l, O3);
	qcow2(&l, SPARE, BASE);
	times(&l, BASE, 10, 220.9);
	times(&l, SPARE, 220.95, 250);
	snap(&l, WEB, S2, "again", 220, S1, BASE, SPARE);
	l.snaps[WEB][S1].created_s = 220;
	l.domains[WEB].n_snapshots = 2;
	l.disks[WEB].top = SPARE;
	expect_in(&l, WEB, S1, VM_STALE, "in use again until snapshot 'again'");
	expect_in(&l, WEB, S2, VM_OK, NULL);
}

Test(vm_graph, an_overlay_deleted_by_hand_after_a_manual_revert_harms_nobody)
{
	struct lab l;

	lab_init(&l); /* web went back to s3 with a new overlay; o3 was removed */
	gone(&l, O3);
	qcow2(&l, SPARE, O2);
	times(&l, SPARE, 400, 500);
	l.disks[WEB].top = SPARE;
	expect(&l, VM_OK, VM_OK, VM_OK);
}

Test(vm_graph, a_record_that_skips_a_layer_is_corrected_by_the_header)
{
	struct lab l;

	lab_init(&l); /* libvirt 9.0, snapshot-delete --metadata s2: s3 now claims to have frozen o1 */
	snap(&l, WEB, S2, "s3", 220, S1, O1, O3);
	l.domains[WEB].n_snapshots = 2;
	expect_in(&l, WEB, S2, VM_OK, NULL);
	struct vm_verdict v = verdict_of(&l, WEB, S2);

	cr_expect_eq(v.layers[0], O2);
	vm_verdict_fini(&v);
}

Test(vm_graph, a_record_may_skip_a_layer_also_where_nobody_knows_what_that_stands_on)
{
	struct lab l;

	lab_init(&l); /* the same, and o2 names what it stands on in a way that is not followed */
	snap(&l, WEB, S2, "s3", 220, S1, O1, O3);
	l.domains[WEB].n_snapshots = 2;
	l.files[O2].below = VM_NO_FILE;
	l.files[O2].below_why = "names something odd";
	expect_in(&l, WEB, S2, VM_UNSUPPORTED, "names something odd");
}

Test(vm_graph, a_record_that_contradicts_our_note_is_not_believed)
{
	struct lab l;

	lab_init(&l); /* as above, but s3's overlay went with a revert, and somebody has written a new header into o2 */
	snap(&l, WEB, S2, "s3", 220, S1, O1, SPARE);
	l.domains[WEB].n_snapshots = 2;
	struct vm_fact_note then = { .stamp = l.files[O2].stamp };
	l.snapdisks[WEB][S2].froze = &then;
	struct vm_verdict v = verdict_of(&l, WEB, S2);
	cr_expect_eq(v.layers[0], O2);
	vm_verdict_fini(&v);
	l.files[O2].stamp.mtime_ns++;
	expect_in(&l, WEB, S2, VM_STALE, "it froze '/i/o2', which was written since");
	l.files[O2].stamp.btime_ns = INT64_C(1000000000000); /* another one, with its inode number */
	v = verdict_of(&l, WEB, S2);
	cr_expect_neq(v.layers[0], O2);
	vm_verdict_fini(&v);
}

/* ---------------------------------------------------------------- what was noted */

#define LATE INT64_C(900000000000)

struct noted {
	struct lab lab;
	struct vm_fact_note of[N_FILES]; /* base, o1 and o2, one on the other */
	uint64_t sums[N_FILES];
};

static uint64_t sum_in(void *opaque, int file)
{
	return ((struct noted *)opaque)->sums[file];
}

/* All three snapshots were noted. */
static void noted_init(struct noted *n)
{
	lab_init(&n->lab);
	for (int i = BASE; i <= O2; i++) {
		n->of[i] = (struct vm_fact_note){ .stamp = n->lab.files[i].stamp, .beneath = i ? &n->of[i - 1] : NULL, .alone = !i, .raw = !i };
		n->lab.snapdisks[WEB][i].froze = &n->of[i];
		n->sums[i] = 0;
	}
	n->lab.facts.sum = sum_in;
	n->lab.facts.opaque = n;
}

static void expect_all(const struct noted *n, enum vm_state s1, enum vm_state s2, enum vm_state s3)
{
	expect_in(&n->lab, WEB, S1, s1, NULL);
	expect_in(&n->lab, WEB, S2, s2, NULL);
	expect_in(&n->lab, WEB, S3, s3, NULL);
}

Test(vm_noted, what_is_as_it_was_noted_is_right_whatever_its_times_say)
{
	struct noted n;

	noted_init(&n);
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	for (int i = BASE; i <= O2; i++)
		n.lab.files[i].stamp.mtime_ns = n.of[i].stamp.mtime_ns = LATE + i;
	n.lab.snapdisks[WEB][S2].overlay = n.lab.snapdisks[WEB][S3].overlay = VM_NO_FILE; /* nobody says that jobs re-point them */
	expect_all(&n, VM_OK, VM_OK, VM_OK);
}

Test(vm_noted, who_writes_into_a_layer_spoils_all_that_stand_on_it)
{
	struct noted n;

	for (int i = BASE; i <= O2; i++)
		for (int soon = 0; soon < 2; soon++) {
			noted_init(&n);
			n.lab.files[i].stamp.mtime_ns = soon ? n.of[i].stamp.mtime_ns + 1 : LATE;
			n.lab.files[i + 1].stamp.mtime_ns = LATE; /* what stands on it was used, too: its header was renamed, say */
			if (i < O2)
				n.sums[i + 1] = n.of[i + 1].sum = 7;
			expect_all(&n, i == BASE ? VM_STALE : VM_OK, i <= O1 ? VM_STALE : VM_OK, VM_STALE);
			expect_in(&n.lab, WEB, S3, VM_STALE, "was written after the snapshot was taken");
			n.lab.snapdisks[WEB][i].overlay = VM_NO_FILE;
			n.lab.domains[WEB].n_snapshots = 3;
			expect_in(&n.lab, WEB, S3, VM_STALE, "was written");
		}
}

Test(vm_noted, a_changed_header_is_known_by_the_sum_of_the_rest)
{
	struct noted n;

	noted_init(&n);
	n.lab.files[O1].stamp.mtime_ns = LATE;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	n.of[O1].sum = 7;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	n.sums[O1] = 8;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	n.sums[O1] = 7;
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	n.lab.files[O1].stamp.size++; /* a bitmap was added, say */
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	n.sums[O1] = 8;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	n.sums[O1] = 7;
	n.lab.files[O1].below = SPARE; /* other data beneath the same */
	expect_in(&n.lab, WEB, S2, VM_STALE, "'/i/spare' is another file than the snapshot stood on");
	expect_in(&n.lab, WEB, S3, VM_STALE, "'/i/spare' is another file than the snapshot stood on");
	n.lab.files[O1].below = VM_NO_FILE;
	n.lab.files[O1].below_format = Q2_FORMAT_NONE;
	expect_in(&n.lab, WEB, S2, VM_STALE, "'/i/o1' does not stand on what it stood on any more");
	expect_in(&n.lab, WEB, S3, VM_STALE, "'/i/o1' does not stand on what it stood on any more");
	n.lab.files[O1].below = BASE;
	n.lab.files[O1].below_format = Q2_FORMAT_RAW;
	n.of[BASE].raw = false;
	expect_in(&n.lab, WEB, S3, VM_STALE, "'/i/base' is read in another format");
}

/* What S2 shows now; asked how often. */
static uint64_t shows_now;
static unsigned shows_asked;

static uint64_t shows_in(void *opaque, size_t domain, const struct vm_fact_snapdisk *disk, const int *files, size_t n, enum q2_format format,
			 const struct q2_snapshot *entry)
{
	cr_expect(opaque && domain == WEB && disk->shows && n == 2 && files[0] == O1 && files[1] == BASE && format == Q2_FORMAT_QCOW2 && !entry);
	shows_asked++;
	return shows_now;
}

Test(vm_noted, what_a_snapshot_shows_says_more_than_its_files)
{
	struct noted n;

	noted_init(&n);
	n.lab.facts.shows = shows_in;
	n.lab.snapdisks[WEB][S2].shows = 7;
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
	cr_expect_eq(shows_asked, 0u, "nothing has changed");
	n.lab.files[BASE].stamp.mtime_ns = n.lab.files[O1].stamp.mtime_ns = LATE; /* whatever that was */
	shows_now = 7;
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
	n.lab.snapdisks[WEB][S2].spoilt = true;
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
	shows_now = 0; /* it cannot be read now: by its files */
	expect_in(&n.lab, WEB, S2, VM_STALE, "was written");
	n.lab.snapdisks[WEB][S2].spoilt = false;
	shows_now = 8;
	expect_in(&n.lab, WEB, S2, VM_STALE, "was written");
	noted_init(&n);
	n.lab.facts.shows = shows_in;
	n.lab.snapdisks[WEB][S2].shows = 7;
	n.of[O1].beneath = NULL; /* nobody knows what it stood on, and nothing speaks against that: but that is not what was there */
	expect_in(&n.lab, WEB, S2, VM_STALE, "does not show any more what it showed");
	shows_now = 7;
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
	n.lab.snapdisks[WEB][S2].shows = 1; /* it is too much to be known */
	shows_asked = 0;
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
	cr_expect_eq(shows_asked, 0u);
}

Test(vm_noted, without_a_sum_a_new_header_must_have_been_seen)
{
	struct noted n;
	struct vm_watch_time seen[2] = { { 0 } };

	noted_init(&n);
	n.lab.files[O1].stamp.mtime_ns = LATE;
	n.lab.files[O1].repointed_at = 5;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE); /* it had been written to before that */
	n.lab.files[O1].renamed = seen;
	n.lab.files[O1].n_renamed = 2;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	seen[0] = (struct vm_watch_time){ n.of[O1].stamp.size, n.of[O1].stamp.mtime_ns };
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	n.lab.files[O1].n_renamed = 0;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	n.lab.files[O1].n_renamed = 2;
	n.of[O1].sum = 7;
	n.sums[O1] = 8; /* it was written to within one look */
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
}

/* The clock was set back, or a copy kept a time: base has one that lies ahead of all. */
Test(vm_noted, a_time_that_lies_ahead_accuses_nobody_who_noted_it_and_hides_no_later_write)
{
	struct noted n;

	noted_init(&n);
	n.of[BASE].stamp.mtime_ns = n.lab.files[BASE].stamp.mtime_ns = LATE;
	n.lab.facts.now_ns = LATE - SEC;
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	n.lab.facts.now_ns = LATE + SEC;
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	for (double later = 100.5; later < 400; later += 99.5) { /* in the second that the snapshot was taken, and after that */
		n.lab.files[BASE].stamp.mtime_ns = (int64_t)(later * 1e9);
		expect_in(&n.lab, WEB, S1, VM_STALE, "'/i/base' was written after the snapshot was taken");
	}
}

Test(vm_graph, nobody_says_of_a_time_that_lies_ahead_that_it_is_that_of_a_write)
{
	struct lab l;

	lab_init(&l); /* nothing is noted: it cannot be known */
	times(&l, BASE, 10, 500);
	l.facts.now_ns = 499 * SEC;
	expect_in(&l, WEB, S1, VM_STALE, "'/i/base' may have been written after the snapshot was taken: its time lies ahead of the clock");
	l.facts.now_ns = 501 * SEC;
	expect_in(&l, WEB, S1, VM_STALE, "'/i/base' was written after the snapshot was taken, as its time says");
}

Test(vm_noted, whatever_explains_another_header_explains_no_other_data)
{
	struct noted n;

	noted_init(&n); /* o1 stands on a copy of base, without its time */
	n.lab.files[BASE].stamp.ino = 4711;
	n.lab.files[BASE].stamp.mtime_ns = n.lab.files[O1].stamp.mtime_ns = LATE;
	n.of[BASE].sum = n.sums[BASE] = 9;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE); /* o1 has no other header */
	n.of[O1].sum = n.sums[O1] = 7;
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	n.sums[O1] = 8;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);

	noted_init(&n); /* our merge of o1 into base has re-pointed o2, and somebody writes into that */
	n.lab.files[O2].below = BASE;
	n.lab.files[O2].below_format = Q2_FORMAT_RAW;
	n.lab.files[O2].stamp.mtime_ns = n.lab.files[BASE].stamp.mtime_ns = LATE;
	n.lab.commits[0] = (struct vm_fact_commit){ .base = BASE, .top = O1, .ours = true };
	n.lab.facts.n_commits = 1;
	expect_in(&n.lab, WEB, S3, VM_OK, NULL);
	n.of[O2].sum = n.sums[O2] = 7;
	expect_in(&n.lab, WEB, S3, VM_OK, NULL);
	n.sums[O2] = 8;
	expect_in(&n.lab, WEB, S3, VM_STALE, "'/i/o2' was written");
}

Test(vm_noted, a_merge_explains_what_was_written_by_then_and_nothing_later)
{
	struct noted n;
	struct vm_verdict v;

	noted_init(&n); /* blockcommit of o2 into base left its layers: s3 reads through o2 and o1 still */
	n.lab.files[O3].below = BASE;
	n.lab.files[O3].below_format = Q2_FORMAT_RAW;
	n.lab.files[BASE].stamp.mtime_ns = LATE;
	n.lab.files[O3].stamp.mtime_ns = LATE + SEC;
	expect_all(&n, VM_STALE, VM_STALE, VM_DETACHED);
	v = verdict_of(&n.lab, WEB, S3);
	cr_assert_eq(v.n_layers, 3);
	cr_expect_neq(v.survived[2], 0);
	cr_expect_eq(v.survived[0], 0);
	n.of[BASE].survived = v.survived[2]; /* it is noted */
	n.of[BASE].stamp.mtime_ns = LATE;
	vm_verdict_fini(&v);
	n.lab.snapdisks[WEB][S1].froze = n.lab.snapdisks[WEB][S2].froze = NULL;
	expect_in(&n.lab, WEB, S3, VM_DETACHED, NULL);
	n.lab.files[BASE].stamp.mtime_ns = LATE + 2 * SEC;
	expect_in(&n.lab, WEB, S3, VM_STALE, "'/i/base' was written after the snapshot was taken");
	n.of[BASE].survived = 0; /* one that was not known then */
	expect_in(&n.lab, WEB, S3, VM_DETACHED, NULL);
	n.lab.files[BASE].written_at = 20; /* but it was seen earlier */
	n.lab.files[O3].repointed_at = 10;
	n.lab.commits[0] = (struct vm_fact_commit){ .base = BASE, .top = O2, .at = 10 };
	n.lab.facts.n_commits = 1;
	expect_in(&n.lab, WEB, S3, VM_STALE, "'/i/base' was written after the snapshot was taken");
	n.lab.files[BASE].written_at = 11;
	expect_in(&n.lab, WEB, S3, VM_DETACHED, NULL);
}

Test(vm_noted, a_layer_that_was_merged_leaves_its_data_in_the_one_beneath)
{
	struct noted n;

	noted_init(&n); /* virsh's delete of s2: o1 went into base, o2 says so now */
	n.lab.snapdisks[WEB][S2] = n.lab.snapdisks[WEB][S3];
	n.lab.snaps[WEB][S2] = n.lab.snaps[WEB][S3];
	n.lab.snaps[WEB][S2].disks = &n.lab.snapdisks[WEB][S2];
	n.lab.snaps[WEB][S2].parent = S1;
	n.lab.domains[WEB].n_snapshots = 2;
	n.lab.files[O2].below = BASE;
	n.lab.files[O2].below_format = Q2_FORMAT_RAW;
	gone(&n.lab, O1);
	times(&n.lab, BASE, 10, 300);
	times(&n.lab, O2, 160.4, 300.1);
	times(&n.lab, O3, 220.4, 301);
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
	n.lab.files[BASE].stamp.mtime_ns = n.of[BASE].stamp.mtime_ns; /* qemu-img rebase -u: nobody has merged anything */
	expect_in(&n.lab, WEB, S2, VM_STALE, "'/i/base' does not have what was in a layer that is left out now");
	times(&n.lab, BASE, 10, 300); /* and where the base stores the same now as what went into it */
	n.of[O1].sum = n.sums[BASE] = 7;
	n.of[O1].raw = true;
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
	n.of[O1].raw = false;
	n.of[O1].sum = n.sums[BASE] = 0;
	n.lab.files[BASE].stamp.mtime_ns = n.of[BASE].stamp.mtime_ns;
	n.of[O1].empty = true; /* nothing was to be merged */
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
	n.of[O1].empty = false;
	n.lab.commits[0] = (struct vm_fact_commit){ .base = BASE, .top = VM_NO_FILE, .at = 1, .ours = true }; /* ours knows what it does */
	n.lab.facts.n_commits = 1;
	expect_in(&n.lab, WEB, S2, VM_OK, NULL);
}

Test(vm_noted, a_copy_that_is_older_than_its_file_is_known_again_when_it_was_merged_into)
{
	struct noted n;

	noted_init(&n); /* base was brought by cp -a; o2 was committed into it, o3 says so */
	n.lab.files[BASE].stamp.btime_ns = n.of[BASE].stamp.mtime_ns + 50 * SEC;
	n.lab.files[BASE].stamp.mtime_ns = LATE;
	n.lab.files[O3].below = BASE;
	n.lab.files[O3].below_format = Q2_FORMAT_RAW;
	n.lab.files[O3].stamp.mtime_ns = LATE + SEC;
	expect_all(&n, VM_STALE, VM_STALE, VM_DETACHED);
}

Test(vm_noted, qemu_img_commit_leaves_an_empty_layer)
{
	struct noted n;

	noted_init(&n); /* o1 went into base: s2 and s3 are as before, s1 is not */
	n.of[O1].stamp.size = 3 << 20;
	n.lab.files[O1].stamp.size = 4 << 16;
	n.lab.files[O1].stamp.mtime_ns = LATE;
	n.lab.files[BASE].stamp.mtime_ns = LATE - SEC;
	n.lab.infos[O1].size = 16 << 20;
	expect_all(&n, VM_STALE, VM_OK, VM_OK);
	n.lab.files[BASE].stamp.mtime_ns = n.of[BASE].stamp.mtime_ns; /* it went nowhere */
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	n.of[O1].stamp = n.lab.files[O1].stamp; /* it was empty when it was noted: that explains nothing later */
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	n.lab.files[BASE].stamp.mtime_ns = LATE;
	expect_all(&n, VM_STALE, VM_STALE, VM_STALE);
}

Test(vm_noted, a_copy_with_its_time_is_as_good_as_the_file)
{
	struct noted n;

	for (int64_t unit = 1; unit <= SEC; unit *= 1000) {
		noted_init(&n);
		for (int i = BASE; i <= O2; i++)
			n.of[i].stamp.mtime_ns += 123456789;
		n.lab.files[BASE].stamp.ino = 4711;
		n.lab.files[BASE].stamp.mtime_ns = n.of[BASE].stamp.mtime_ns - n.of[BASE].stamp.mtime_ns % unit;
		n.lab.files[O1].stamp.mtime_ns = n.of[O1].stamp.mtime_ns; /* the number of the old one, as it happens */
		n.lab.files[O1].stamp.mtime_ns -= n.lab.files[O1].stamp.mtime_ns % unit;
		n.lab.files[O1].stamp.btime_ns = LATE;
		n.lab.files[O2].stamp.mtime_ns = n.of[O2].stamp.mtime_ns;
		expect_all(&n, VM_OK, VM_OK, VM_OK);
	}
	n.lab.files[BASE].stamp.mtime_ns++; /* a changed copy */
	expect_in(&n.lab, WEB, S1, VM_STALE, "'/i/base' is another file than the snapshot stood on");
	expect_in(&n.lab, WEB, S3, VM_STALE, "'/i/base' is another file than the snapshot stood on");
	noted_init(&n);
	n.lab.files[BASE].stamp.mtime_ns--; /* written over, with an old time */
	expect_in(&n.lab, WEB, S1, VM_STALE, "is older than what was frozen there");
	expect_in(&n.lab, WEB, S3, VM_STALE, "is older than what was frozen there");
	noted_init(&n);
	n.lab.files[O1].stamp.ino = 4711;
	n.lab.files[O1].stamp.mtime_ns = LATE;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	n.of[O1].sum = n.sums[O1] = 7; /* moved to another file system, and renamed */
	expect_all(&n, VM_OK, VM_OK, VM_OK);
}

Test(vm_noted, an_external_data_file_belongs_to_it)
{
	struct noted n;

	for (int how = 0; how < 3; how++) {
		struct vm_graph *graph;

		noted_init(&n);
		n.lab.files[O1].data = SPARE;
		times(&n.lab, SPARE, 50, 60);
		graph = vm_graph_new(&n.lab.facts);
		n.of[O1].stamp = vm_graph_stamp(graph, O1);
		vm_graph_free(graph);
		expect_all(&n, VM_OK, VM_OK, VM_OK);
		if (how == 0)
			n.lab.files[SPARE].stamp.mtime_ns = LATE;
		else if (how == 1)
			n.lab.files[SPARE].stamp.mtime_ns--;
		else
			n.lab.files[SPARE].stamp.size++;
		expect_all(&n, VM_OK, VM_STALE, VM_STALE);
		n.lab.snapdisks[WEB][S2].froze = n.lab.snapdisks[WEB][S3].froze = NULL; /* that was written late shows in any case */
		n.lab.snapdisks[WEB][S1].overlay = VM_NO_FILE;
		if (how == 0)
			expect_all(&n, VM_OK, VM_STALE, VM_STALE);
		n.lab.files[SPARE].stamp.mtime_ns = 60;
		n.lab.files[SPARE].written_at = 2;
		expect_all(&n, VM_OK, VM_STALE, VM_STALE);
	}
}

Test(vm_noted, what_was_noted_of_others_tells_of_who_was_not_noted)
{
	struct noted n;

	noted_init(&n);
	n.lab.snapdisks[WEB][S3].froze = NULL;
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	n.lab.files[O1].stamp.mtime_ns = INT64_C(200000000000); /* before s3 was taken */
	expect_all(&n, VM_OK, VM_STALE, VM_OK);
	n.lab.files[O1].stamp.mtime_ns = n.lab.files[O3].stamp.btime_ns - 1; /* in that second, but before it was taken */
	expect_all(&n, VM_OK, VM_STALE, VM_OK);
	n.lab.files[O1].stamp.mtime_ns = LATE;
	expect_all(&n, VM_OK, VM_STALE, VM_STALE);
}

Test(vm_noted, what_was_found_wrong_is_right_again_only_if_all_is_as_it_was_noted)
{
	struct noted n;

	noted_init(&n);
	n.lab.snapdisks[WEB][S2].spoilt = true;
	expect_all(&n, VM_OK, VM_OK, VM_OK);
	n.of[O1].beneath = NULL; /* ... and not, where that is not known */
	expect_all(&n, VM_OK, VM_STALE, VM_OK);
	expect_in(&n.lab, WEB, S2, VM_STALE, "it was found wrong before, and its files have changed since");
	n.lab.snapdisks[WEB][S2].froze = NULL;
	expect_all(&n, VM_OK, VM_STALE, VM_OK);
	n.lab.snapdisks[WEB][S2].spoilt = false;
	n.lab.snapdisks[WEB][S3].mode = VM_MODE_INTERNAL;
	n.lab.snapdisks[WEB][S3].froze = NULL;
	n.lab.snapdisks[WEB][S3].spoilt = true;
	n.lab.infos[O2].snapshots = n.lab.entries;
	n.lab.infos[O2].n_snapshots = 1;
	n.lab.entries[0] = (struct q2_snapshot){ .id = (char *)"1", .name = (char *)"s3", .date_sec = 220 };
	expect_in(&n.lab, WEB, S3, VM_STALE, "it was found wrong before, and its files have changed since");
}

Test(vm_noted, an_internal_snapshot_is_noted_with_what_its_image_stands_on)
{
	struct noted n;

	noted_init(&n);
	n.lab.snapdisks[WEB][S3].mode = VM_MODE_INTERNAL;
	n.lab.snapdisks[WEB][S3].froze = &n.of[O1];
	n.lab.infos[O2].snapshots = n.lab.entries;
	n.lab.infos[O2].n_snapshots = 1;
	n.lab.entries[0] = (struct q2_snapshot){ .id = (char *)"1", .name = (char *)"s3", .date_sec = 220 };
	expect_in(&n.lab, WEB, S3, VM_OK, NULL);
	n.lab.files[BASE].stamp.mtime_ns = LATE;
	expect_in(&n.lab, WEB, S3, VM_STALE, "'/i/base' was written after the snapshot was taken");
}

Test(vm_noted, where_the_note_ends_times_decide)
{
	struct noted n;

	noted_init(&n); /* as what was seen while mounted: what it froze, and no more */
	n.of[O1].beneath = NULL;
	times(&n.lab, BASE, 10, 300);
	n.lab.snapdisks[WEB][S1].froze = NULL;
	expect_in(&n.lab, WEB, S2, VM_STALE, "'/i/base' was written");
	noted_init(&n);
	n.of[O1].beneath = NULL;
	n.lab.files[O1].stamp.mtime_ns = n.lab.files[O2].stamp.btime_ns + 1000000;
	expect_in(&n.lab, WEB, S2, VM_OK, NULL); /* a job may have changed the header of an overlay */
	n.lab.snapdisks[WEB][S1].overlay = VM_NO_FILE;
	expect_in(&n.lab, WEB, S2, VM_STALE, "'/i/o1' was written");
}

Test(vm_graph, a_file_that_we_wrote_to_is_known_by_its_stamp)
{
	struct lab l;

	lab_init(&l); /* s0 was merged into base after s1; then o2 was pulled into o3, and the record of s1 was deleted */
	times(&l, BASE, 10, 300);
	times(&l, O1, 100.4, 300);
	l.files[O3].below = BASE;
	l.files[O3].below_format = Q2_FORMAT_RAW;
	gone(&l, O2);
	snap(&l, WEB, S1, "s2", 160, -1, O1, O2);
	l.domains[WEB].n_snapshots = 1;
	expect_in(&l, WEB, S1, VM_STALE, "'/i/o1' was written after the snapshot was taken");
	struct q2_stamp then[] = {l.files[O1].stamp, l.files[BASE].stamp};
	l.snapdisks[WEB][S1].attested = then;
	l.snapdisks[WEB][S1].n_attested = 2;
	expect_in(&l, WEB, S1, VM_DETACHED, "no longer beneath");
	l.files[O1].written_at = 8; /* also against what was watched, for it was attested later */
	expect_in(&l, WEB, S1, VM_DETACHED, "no longer beneath");
	l.files[O1].stamp.mtime_ns++;
	expect_in(&l, WEB, S1, VM_STALE, "'/i/o1' was written after the snapshot was taken");
}

Test(vm_graph, what_our_merge_moves_down_stays_right_if_it_was_right_before)
{
	struct lab l;

	/* s3 froze spare, which a revert made, so no record calls it an overlay; o1 was merged into base beneath it */
	lab_init(&l);
	qcow2(&l, SPARE, BASE);
	times(&l, SPARE, 150, 300);
	times(&l, BASE, 10, 299);
	gone(&l, O1);
	gone(&l, O3);
	snap(&l, WEB, S1, "s3", 220, -1, SPARE, O3);
	l.domains[WEB].n_snapshots = 1;
	l.commits[0] = (struct vm_fact_commit){.base = BASE, .top = O1, .ours = true};
	l.facts.n_commits = 1;
	struct q2_stamp then = l.files[SPARE].stamp;
	struct q2_stamp both[] = {then, l.files[BASE].stamp};

	both[0].mtime_ns = INT64_C(219) * 1000000000;
	expect_in(&l, WEB, S1, VM_STALE, "'/i/spare' was written after the snapshot was taken");
	l.snapdisks[WEB][S1].attested = both;
	l.snapdisks[WEB][S1].n_attested = 2;
	expect_in(&l, WEB, S1, VM_OK, NULL);
	l.commits[0].ours = false;
	expect_in(&l, WEB, S1, VM_STALE, NULL);
}

Test(vm_graph, a_mark_is_believed)
{
	struct lab l;

	lab_init(&l);
	l.snapdisks[WEB][S2].doomed = "a commit was begun";
	expect_in(&l, WEB, S2, VM_STALE, "a commit was begun");
	expect_in(&l, WEB, S3, VM_OK, NULL);
}

Test(vm_graph, two_paths_to_one_file_are_one_image)
{
	struct lab l;

	lab_init(&l);
	l.files[SPARE].stamp = l.files[BASE].stamp; /* a link */
	l.files[SPARE].format = Q2_FORMAT_RAW;
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_RAW;
	run(&l, OTHER);
	expect_in(&l, WEB, S1, VM_STALE, "domain 'other'");
}

/* ---------------------------------------------------------------- internal snapshots */

/* s3 becomes an internal snapshot "in" of the active o3. */
static void internal(struct lab *l)
{
	l->entries[0] = (struct q2_snapshot){.id = (char *)"in", .name = (char *)"other", .date_sec = 230};
	l->entries[1] = (struct q2_snapshot){.id = (char *)"1", .name = (char *)"in", .date_sec = 250};
	l->entries[2] = (struct q2_snapshot){.id = (char *)"2", .name = (char *)"in", .date_sec = 231};
	l->infos[O3].snapshots = l->entries;
	l->infos[O3].n_snapshots = 3;
	snap(l, WEB, S3, "in", 230, S2, O3, VM_NO_FILE);
	l->snapdisks[WEB][S3].mode = VM_MODE_INTERNAL;
}

Test(vm_graph, an_internal_snapshot_is_found_by_name_and_time_never_by_id)
{
	struct lab l;

	lab_init(&l);
	internal(&l);
	run(&l, WEB); /* being in the active layer is where it belongs */
	struct vm_verdict v = verdict_of(&l, WEB, S3);

	cr_expect_eq(v.state, VM_OK);
	cr_expect_eq(v.entry, &l.entries[2]);
	cr_expect(v.guard && !v.guard_top);
	vm_verdict_fini(&v);
	l.snaps[WEB][S3].name = "1"; /* only an id */
	expect_in(&l, WEB, S3, VM_STALE, "'/i/o3' holds no snapshot of that name");
}

Test(vm_graph, an_internal_snapshot_in_a_layer_that_went_out_of_use_is_detached)
{
	struct lab l;

	lab_init(&l);
	internal(&l);
	l.disks[WEB].top = O2;
	expect_in(&l, WEB, S3, VM_DETACHED, NULL);
	run(&l, WEB);
	expect_in(&l, WEB, S3, VM_STALE, "'/i/o2' is being written"); /* it lies beneath */
	lab_init(&l);
	internal(&l);
	qcow2(&l, SPARE, O2);
	times(&l, SPARE, 400, 500);
	l.disks[WEB].top = SPARE;
	expect_in(&l, WEB, S3, VM_DETACHED, NULL);
	qcow2(&l, SPARE, O3); /* frozen, but still beneath the active layer */
	expect_in(&l, WEB, S3, VM_OK, NULL);
}

Test(vm_graph, a_commit_beneath_an_internal_snapshot_does_not_touch_it_but_a_pull_empties_it)
{
	struct lab l;

	lab_init(&l);
	internal(&l);
	committed(&l, true);
	snap(&l, WEB, S2, "s2", 220, S1, O2, O3); /* the record that shows what o3 stood on */
	expect_in(&l, WEB, S3, VM_OK, NULL);
	times(&l, BASE, 10, 100.2); /* base unwritten: so o3 was pulled into */
	expect_in(&l, WEB, S3, VM_STALE, "pulled");
	l.files[O3].below = VM_NO_FILE;
	expect_in(&l, WEB, S3, VM_STALE, "pulled");
	l.snapdisks[WEB][S3].below_known = true; /* taken afterwards: its own record says so */
	expect_in(&l, WEB, S3, VM_OK, NULL);
}

Test(vm_graph, a_job_into_the_base_of_an_internal_snapshot_makes_it_busy_unless_it_sees_the_top)
{
	struct lab l;

	lab_init(&l);
	internal(&l);
	commit_runs(&l);
	expect_in(&l, WEB, S3, VM_OK, NULL);
	l.files[O2].no_read = false; /* o1 into base only */
	expect_in(&l, WEB, S3, VM_OK, NULL);
	l.disks[WEB].job = VM_JOB_ACTIVE_COMMIT; /* o3 itself goes down */
	l.disks[WEB].mirror = BASE;
	expect_in(&l, WEB, S3, VM_BUSY, NULL);
}

Test(vm_graph, the_present_content_of_an_image_is_busy_while_somebody_writes)
{
	struct lab l;

	lab_init(&l);
	snap(&l, WEB, S1, "current", 0, -1, O3, VM_NO_FILE);
	l.snapdisks[WEB][S1].mode = VM_MODE_NO;
	l.domains[WEB].image = true;
	l.domains[WEB].n_snapshots = 1;
	expect_in(&l, WEB, S1, VM_OK, NULL);
	struct vm_verdict v = verdict_of(&l, WEB, S1);

	cr_expect(v.guard && v.guard_top);
	vm_verdict_fini(&v);
	l.files[O3].writer = true;
	expect_in(&l, WEB, S1, VM_BUSY, NULL);
}

/* ---------------------------------------------------------------- the picture */

struct picture {
	struct vm_arena arena;
	struct vm_layer *layers;
	size_t n;
	int *tops;
};

static struct picture picture_of(const struct lab *l, int domain)
{
	struct vm_graph *graph = NULL;
	struct picture p;

	graph = vm_graph_new(&l->facts);
	vm_arena_init(&p.arena);
	vm_graph_layers(graph, (size_t)domain, &p.arena, &p.layers, &p.n, &p.tops);
	vm_graph_free(graph);
	return p;
}

static void picture_free(struct picture *p)
{
	vm_arena_fini(&p->arena);
}

static const struct vm_layer *layer_at(const struct picture *p, const char *path)
{
	for (size_t i = 0; i < p->n; i++)
		if (!strcmp(p->layers[i].path, path))
			return &p->layers[i];
	cr_assert_fail("no layer '%s'", path);
	return NULL;
}

Test(vm_graph, the_picture_goes_from_the_active_layer_down)
{
	static const char *const paths[] = {"/i/o3", "/i/o2", "/i/o1", "/i/base"};
	struct lab l;

	lab_init(&l);
	struct picture p = picture_of(&l, WEB);

	cr_assert_eq(p.n, 4u);
	cr_expect_eq(p.tops[0], 0);
	for (size_t i = 0; i < 4; i++) {
		cr_expect_str_eq(p.layers[i].path, paths[i]);
		cr_expect_eq(p.layers[i].below, i == 3 ? -1 : (int)i + 1);
		cr_expect_eq(p.layers[i].active, i == 0);
		cr_expect_null(p.layers[i].note);
		cr_expect_null(p.layers[i].users[0]);
	}
	cr_expect_null(p.layers[0].snapshots[0]);
	cr_expect_str_eq(p.layers[3].snapshots[0], "s1");
	cr_expect_eq(p.layers[0].virtual_size, 1u << 30);
	cr_expect_eq(p.layers[3].virtual_size, 1u << 20);
	picture_free(&p);
}

Test(vm_graph, the_picture_names_other_domains_their_snapshots_and_volumes)
{
	struct lab l;

	lab_init(&l);
	qcow2(&l, SPARE, O1); /* a linked clone, with a detached snapshot on base */
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_QCOW2;
	qcow2(&l, SPARE2, BASE);
	snap(&l, OTHER, 0, "old", 50, -1, SPARE2, VM_NO_FILE);
	l.domains[OTHER].n_snapshots = 1;
	qcow2(&l, SPARE3, O2); /* a prepared clone that no domain uses yet */
	l.volumes[0] = (struct vm_fact_volume){"default", "spare3", SPARE3};
	l.volumes[1] = (struct vm_fact_volume){"default", "o1", O1}; /* known: a domain's layer */
	l.facts.n_volumes = 2;
	struct picture p = picture_of(&l, WEB);

	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "domain 'other' (disk vda)");
	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[1], "volume 'spare3' of pool 'default'");
	cr_expect_str_eq(layer_at(&p, "/i/o2")->users[0], "volume 'spare3' of pool 'default'");
	cr_expect_str_eq(layer_at(&p, "/i/base")->users[0], "domain 'other' (disk vda)");
	cr_expect_null(layer_at(&p, "/i/o3")->users[0]);
	picture_free(&p);
}

Test(vm_graph, a_snapshot_needs_the_image_it_is_read_from_and_the_one_its_record_names)
{
	struct lab l;

	lab_init(&l);
	/* other's detached snapshot: its overlay stands on spare, and libvirt 9.0 says o1 since an earlier record was removed */
	qcow2(&l, SPARE, O1);
	qcow2(&l, SPARE2, SPARE);
	snap(&l, OTHER, 0, "wrong", 50, -1, O1, SPARE2);
	l.domains[OTHER].n_snapshots = 1;
	struct vm_verdict v = verdict_of(&l, OTHER, 0);

	cr_assert(v.n_layers && v.layers[0] == SPARE, "it is not redirected");
	vm_verdict_fini(&v);
	l.disks[WEB].top = SPARE2; /* web came to stand on it */
	l.disks[WEB].chain = NULL;
	struct picture p = picture_of(&l, WEB);

	cr_expect_str_eq(layer_at(&p, "/i/spare")->users[0], "snapshot 'wrong' of domain 'other' (disk vda)");
	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "snapshot 'wrong' of domain 'other' (disk vda)");
	picture_free(&p);
}

Test(vm_graph, what_a_record_calls_its_memory_is_needed)
{
	static const int base = BASE, spare = SPARE;
	struct lab l;

	lab_init(&l);
	snap(&l, OTHER, 0, "old", 50, -1, VM_NO_FILE, VM_NO_FILE);
	l.snaps[OTHER][0].beside = &(struct vm_fact_beside){ base, "its memory" };
	l.snaps[OTHER][0].n_beside = 1; /* be it a disk of somebody's */
	l.domains[OTHER].n_snapshots = 1;
	l.snaps[WEB][S1].beside = &(struct vm_fact_beside){ spare, "its memory" };
	l.snaps[WEB][S1].n_beside = 1;
	struct picture p = picture_of(&l, WEB);

	cr_expect_str_eq(layer_at(&p, "/i/base")->users[0], "snapshot 'old' of domain 'other' (its memory)");
	cr_expect_not(layer_at(&p, "/i/base")->beside, "it is a layer");
	cr_expect(layer_at(&p, "/i/spare")->beside);
	cr_expect_null(layer_at(&p, "/i/spare")->users[0], "that is its own");
	cr_expect_null(layer_at(&p, "/i/spare")->note);
	l.snaps[OTHER][0].beside = &(struct vm_fact_beside){ spare, "its memory" };
	picture_free(&p);
	p = picture_of(&l, WEB);
	cr_expect_str_eq(layer_at(&p, "/i/spare")->users[0], "snapshot 'old' of domain 'other' (its memory)");
	picture_free(&p);
}

Test(vm_graph, what_a_command_has_left_needs_what_it_stands_on)
{
	static const int spare = SPARE, spare2 = SPARE2;
	struct lab l;

	lab_init(&l);
	qcow2(&l, SPARE, SPARE2); /* an overlay on a disk that was detached, on a clone, on what s2 froze */
	qcow2(&l, SPARE2, O1);
	l.domains[OTHER].made = &spare;
	l.domains[OTHER].n_made = 1;
	struct picture p = picture_of(&l, WEB);
	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "image '/i/spare'");
	cr_expect_null(layer_at(&p, "/i/o2")->users[0], "it does not stand on that");
	picture_free(&p);
	l.domains[OTHER].n_made = 0;
	l.domains[WEB].made = &spare; /* of its own, and the picture does not show the way down */
	l.domains[WEB].n_made = 1;
	p = picture_of(&l, WEB);
	cr_assert_not_null(layer_at(&p, "/i/o1")->users[0]);
	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "image '/i/spare'");
	picture_free(&p);
	l.domains[WEB].made = &spare2; /* it does */
	p = picture_of(&l, WEB);
	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "image '/i/spare'");
	picture_free(&p);
	gone(&l, SPARE);
	p = picture_of(&l, WEB);
	cr_expect_null(layer_at(&p, "/i/o1")->users[0], "that is a layer of the picture");
	picture_free(&p);
}

Test(vm_graph, what_a_command_was_making_is_a_layer_with_users_of_its_own)
{
	static const int spare = SPARE;
	struct lab l;

	lab_init(&l);
	qcow2(&l, SPARE, O3);
	l.domains[WEB].begun = &spare;
	l.domains[WEB].n_begun = 1;
	struct picture p = picture_of(&l, WEB);

	cr_expect_str_eq(layer_at(&p, "/i/spare")->note, "left over: made by a command that did not end: repeat it");
	cr_expect_null(layer_at(&p, "/i/spare")->users[0]);
	picture_free(&p);
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_QCOW2;
	p = picture_of(&l, WEB);
	cr_expect_str_eq(layer_at(&p, "/i/spare")->users[0], "domain 'other' (disk vda)");
	cr_expect_null(layer_at(&p, "/i/spare")->note);
	picture_free(&p);
}

Test(vm_graph, who_may_not_read_a_layer_needs_it_all_the_same)
{
	struct lab l;

	lab_init(&l);
	qcow2(&l, SPARE, VM_NO_FILE); /* stands on o1, which the gate does not let it open: its domain names no such directory */
	l.files[SPARE].below_why = "lies outside the directories known for it";
	l.files[SPARE].refused_dev = l.files[O1].stamp.dev;
	l.files[SPARE].refused_ino = l.files[O1].stamp.ino;
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_QCOW2;
	struct picture p = picture_of(&l, WEB);

	cr_expect_null(layer_at(&p, "/i/o2")->users[0]);
	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "domain 'other' (disk vda)");
	cr_expect_str_eq(layer_at(&p, "/i/base")->users[0], "domain 'other' (disk vda)");
	picture_free(&p);
	p = picture_of(&l, OTHER);
	cr_expect_eq(p.n, 1u, "and it is not shown to it");
	picture_free(&p);
}

Test(vm_graph, the_picture_shows_what_a_commit_left_over)
{
	struct lab l;

	lab_init(&l);
	committed(&l, false);
	struct picture p = picture_of(&l, WEB);

	cr_expect_null(layer_at(&p, "/i/o2")->note, "s3 is read through it");
	cr_expect_str_eq(layer_at(&p, "/i/o2")->snapshots[0], "s3");
	cr_expect_null(layer_at(&p, "/i/base")->snapshots[0], "s1 is not in there any more");
	l.domains[WEB].n_snapshots = 2; /* s3 deleted */
	picture_free(&p);
	p = picture_of(&l, WEB);
	cr_expect_str_eq(layer_at(&p, "/i/o2")->note, "left over: no snapshot or disk of web uses it");
	cr_expect_str_eq(layer_at(&p, "/i/o1")->note, "left over: no snapshot or disk of web uses it");
	picture_free(&p);
}

Test(vm_graph, the_picture_shows_missing_layers_and_running_jobs)
{
	struct lab l;

	lab_init(&l);
	commit_runs(&l);
	struct picture p = picture_of(&l, WEB);

	cr_expect_str_eq(layer_at(&p, "/i/base")->note, "a commit is writing into it");
	picture_free(&p);
	lab_init(&l);
	gone(&l, O1);
	p = picture_of(&l, WEB);
	cr_expect(layer_at(&p, "/i/o1")->error == -ENOENT);
	cr_expect_str_eq(layer_at(&p, "/i/o1")->note, "missing");
	picture_free(&p);
}

/* ---------------------------------------------------------------- unknown is needed */

/* Another domain's disk: qcow2 at SPARE, on base; what is known of it is for the test to say. */
static void clone_of_base(struct lab *l)
{
	qcow2(l, SPARE, BASE);
	l->disks[OTHER].top = SPARE;
	l->disks[OTHER].format = Q2_FORMAT_QCOW2;
}

/* Is it known who needs each of the layers? @why: part of what is said where it is not. */
static void expect_doubt(const struct lab *l, int domain, const char *why)
{
	struct picture p = picture_of(l, domain);

	for (size_t i = 0; i < p.n; i++) {
		if (!why)
			cr_expect_null(p.layers[i].unknown, "%s: %s", p.layers[i].path, p.layers[i].unknown);
		else
			cr_expect(p.layers[i].unknown && strstr(p.layers[i].unknown, why), "%s: '%s' does not say '%s'", p.layers[i].path,
				  p.layers[i].unknown ? p.layers[i].unknown : "-", why);
	}
	picture_free(&p);
}

Test(vm_graph, where_everything_was_followed_nothing_is_in_doubt)
{
	struct lab l;

	lab_init(&l);
	clone_of_base(&l);
	expect_doubt(&l, WEB, NULL);
	gone(&l, SPARE3); /* an overlay that only its record names, and that is gone */
	snap(&l, OTHER, 0, "old", 50, -1, BASE, SPARE3);
	l.domains[OTHER].n_snapshots = 1;
	expect_doubt(&l, WEB, NULL);
}

Test(vm_graph, whoever_cannot_be_followed_may_stand_on_anything)
{
	static const struct { int error; const char *why, *below_why, *expect; int code; } cases[] = {
		{-ENOENT, NULL, NULL, "domain 'other' (disk vda) may need it: '/i/spare' is missing", -EPERM},
		{-EACCES, NULL, NULL, "'/i/spare': Permission denied", -EACCES},
		{-EINVAL, "'/i/spare': not a qcow2 image", NULL, "'/i/spare': not a qcow2 image", -EPERM},
		{-ENOTSUP, "'/i/spare': unsupported incompatible feature 7", NULL, "feature 7", -EPERM},
		{0, NULL, "stands on a URL", "'/i/spare' stands on a URL", -EPERM},
		{0, NULL, "lies outside the directories known for it", "lies outside", -EPERM},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct lab l;

		lab_init(&l);
		clone_of_base(&l);
		l.files[SPARE].error = cases[i].error;
		l.files[SPARE].why = cases[i].why;
		l.files[SPARE].below = VM_NO_FILE;
		l.files[SPARE].below_why = cases[i].below_why;
		if (cases[i].error)
			l.files[SPARE].info = NULL;
		expect_doubt(&l, WEB, cases[i].expect);
		struct picture p = picture_of(&l, WEB);
		cr_expect_eq(layer_at(&p, "/i/base")->unknown_code, cases[i].code);
		picture_free(&p);
	}
}

Test(vm_graph, what_lies_beneath_a_layer_is_no_doubt_about_it)
{
	struct lab l;

	lab_init(&l);
	gone(&l, O1); /* o2 and o3 stand on it: it cannot stand on them */
	struct picture p = picture_of(&l, WEB);

	cr_expect_null(layer_at(&p, "/i/o2")->unknown);
	cr_expect_null(layer_at(&p, "/i/o3")->unknown);
	cr_expect(layer_at(&p, "/i/base")->unknown, "but may well stand on base");
	picture_free(&p);
}

Test(vm_graph, what_only_snapshots_of_the_domain_froze_is_their_doubt)
{
	struct lab l;
	struct vm_graph *graph = NULL;
	struct vm_arena arena;
	struct vm_doubt *doubts;
	size_t n;

	lab_init(&l);
	gone(&l, SPARE);
	snap(&l, WEB, S3, "s3", 220, S2, SPARE, SPARE3); /* a branch, whose image is not there; no header names it */
	snap(&l, WEB, S2, "s2", 160, S1, SPARE, SPARE3);
	expect_doubt(&l, WEB, NULL);
	graph = vm_graph_new(&l.facts);
	vm_arena_init(&arena);
	vm_graph_doubts(graph, WEB, &arena, &doubts, &n);
	cr_assert_eq(n, 1);
	cr_expect_str_eq(doubts[0].path, "/i/spare");
	cr_expect_str_eq(doubts[0].phrase,
			 "snapshot 's2' of domain 'web' (disk vda) may need it: '/i/spare' is missing, so what that stands on is not known");
	cr_expect_eq(doubts[0].code, -EPERM);
	cr_assert(doubts[0].snapshots[0] && doubts[0].snapshots[1] && !doubts[0].snapshots[2], "both froze it");
	cr_expect_str_eq(doubts[0].snapshots[0], "s2");
	cr_expect_str_eq(doubts[0].snapshots[1], "s3");
	vm_graph_doubts(graph, OTHER, &arena, &doubts, &n);
	cr_expect_eq(n, 0);
	vm_arena_fini(&arena);
	vm_graph_free(graph);

	clone_of_base(&l); /* and now somebody else's disk says, too, that it was there */
	gone(&l, SPARE);
	struct picture p = picture_of(&l, WEB);
	cr_expect(strstr(layer_at(&p, "/i/base")->unknown, "domain 'other' (disk vda) may need it: '/i/spare' is missing"));
	picture_free(&p);
}

Test(vm_graph, a_running_domain_tells_what_it_stands_on)
{
	struct lab l;
	const int chain[] = {SPARE, BASE};

	lab_init(&l);
	clone_of_base(&l);
	gone(&l, SPARE); /* removed beneath the guest */
	l.domains[OTHER].running = true;
	l.disks[OTHER].chain = chain;
	l.disks[OTHER].n_chain = 2;
	expect_doubt(&l, WEB, NULL);
	struct picture p = picture_of(&l, WEB);
	cr_expect_str_eq(layer_at(&p, "/i/base")->users[0], "domain 'other' (disk vda)");
	picture_free(&p);
}

Test(vm_graph, a_running_domain_does_not_tell_which_data_file_it_has)
{
	struct q2_info info = {.format = Q2_FORMAT_QCOW2, .version = 3, .cluster_bits = 16, .data_file = (char *)"/far/data"};
	struct lab l;
	const int chain[] = {SPARE, BASE};

	lab_init(&l);
	clone_of_base(&l);
	l.files[SPARE].info = &info;
	l.domains[OTHER].running = true;
	l.disks[OTHER].chain = chain;
	l.disks[OTHER].n_chain = 2;
	expect_doubt(&l, WEB, "'/i/spare' names an external data file that is not known here");
	l.files[SPARE].data = SPARE2; /* needed, and known, be it read or not */
	expect_doubt(&l, WEB, NULL);
}

Test(vm_graph, libvirts_word_and_the_headers_both_count)
{
	struct lab l;
	const int chain[] = {SPARE, O1, BASE};

	lab_init(&l);
	clone_of_base(&l); /* by its header on base, by the running QEMU on o1 */
	l.domains[OTHER].running = true;
	l.disks[OTHER].chain = chain;
	l.disks[OTHER].n_chain = 3;
	struct picture p = picture_of(&l, WEB);
	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "domain 'other' (disk vda)");
	cr_expect_str_eq(layer_at(&p, "/i/base")->users[0], "domain 'other' (disk vda)");
	picture_free(&p);
}

Test(vm_graph, what_the_inventory_could_not_look_at_is_in_doubt)
{
	static const struct vm_fact_unknown unknown = {"snapshot 'x' of domain 'y'", "its record cannot be read", -EACCES};
	struct lab l;

	lab_init(&l);
	l.facts.unknowns = &unknown;
	l.facts.n_unknowns = 1;
	expect_doubt(&l, WEB, "snapshot 'x' of domain 'y' may need it: its record cannot be read");
}

Test(vm_graph, a_raw_image_stands_on_nothing_and_another_format_may)
{
	struct lab l;

	lab_init(&l);
	gone(&l, SPARE);
	l.files[SPARE].format = Q2_FORMAT_RAW;
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_RAW;
	l.files[SPARE].error = 0;
	l.files[SPARE].stamp.ino = 4712;
	expect_doubt(&l, WEB, NULL);
	l.files[SPARE].opaque = "is of format 'vmdk', which is not read here";
	expect_doubt(&l, WEB, "'/i/spare' is of format 'vmdk'");
}

Test(vm_graph, a_raw_image_that_is_missing_may_be_any_file_and_a_medium_one_of_its_name)
{
	struct lab l;

	lab_init(&l);
	gone(&l, SPARE);
	l.files[SPARE].format = Q2_FORMAT_RAW;
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_RAW;
	l.disks[OTHER].writable = true;
	expect_doubt(&l, WEB, "'/i/spare' is missing, so which file that is is not known");
	l.disks[OTHER].writable = false;
	expect_doubt(&l, WEB, NULL);
	l.files[SPARE].path = "/away/base";
	struct picture p = picture_of(&l, WEB);

	cr_expect(strstr(layer_at(&p, "/i/base")->unknown, "'/away/base' is missing, so which file that is is not known"));
	cr_expect_null(layer_at(&p, "/i/o1")->unknown);
	picture_free(&p);
	l.disks[OTHER].writable = true;
	l.files[SPARE].path = "/dev/vg/spare";
	expect_doubt(&l, WEB, NULL);
}

Test(vm_graph, who_stands_on_a_file_of_a_mount_needs_the_snapshot_and_its_layers)
{
	struct lab l;
	struct vm_graph *graph = NULL;
	struct vm_arena arena;
	char **viewers;

	lab_init(&l);
	l.snapdisks[WEB][S2].ino = 4711;
	clone_of_base(&l);
	l.files[SPARE].below = SPARE2;
	l.files[SPARE].below_format = Q2_FORMAT_RAW;
	l.files[SPARE2].format = Q2_FORMAT_RAW;
	l.files[SPARE2].error = -EXDEV;
	l.files[SPARE2].exposes = 4711;
	struct picture p = picture_of(&l, WEB);

	cr_expect_null(layer_at(&p, "/i/o2")->users[0], "s2 froze o1");
	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "domain 'other' (disk vda)");
	cr_expect_str_eq(layer_at(&p, "/i/base")->users[0], "domain 'other' (disk vda)");
	picture_free(&p);
	expect_doubt(&l, WEB, NULL);
	graph = vm_graph_new(&l.facts);
	vm_arena_init(&arena);
	viewers = vm_graph_viewers(graph, WEB, S2, &arena);
	cr_expect_str_eq(viewers[0], "domain 'other' (disk vda)");
	cr_expect_null(viewers[1]);
	vm_arena_fini(&arena);
	vm_graph_free(graph);
	l.snapdisks[WEB][S2].ino = 1234;
	expect_doubt(&l, WEB, "'/i/spare2' is a file of a virt-snapfs mount that none of the snapshots here has");
}

Test(vm_graph, a_device_that_shows_an_unknown_file_is_in_doubt_also_where_a_running_domain_has_it)
{
	struct lab l;
	const int chain[] = {SPARE};

	lab_init(&l);
	l.files[SPARE].format = Q2_FORMAT_RAW;
	l.files[SPARE].hidden = "is a loop device on a file that was removed";
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_RAW;
	expect_doubt(&l, WEB, "'/i/spare' is a loop device on a file that was removed");
	l.domains[OTHER].running = true;
	l.disks[OTHER].chain = chain;
	l.disks[OTHER].n_chain = 1;
	expect_doubt(&l, WEB, "'/i/spare' is a loop device on a file that was removed");
}

Test(vm_graph, where_locks_cannot_be_read_nobody_knows_who_writes)
{
	struct lab l;

	lab_init(&l);
	l.files[O1].locks_error = -ENOLCK;
	expect_in(&l, WEB, S1, VM_OK, NULL);
	expect_in(&l, WEB, S2, VM_UNSUPPORTED, "its locks cannot be read");
	expect_in(&l, WEB, S3, VM_UNSUPPORTED, "its locks cannot be read");
}

Test(vm_graph, the_file_behind_a_loop_device_is_needed)
{
	struct lab l;

	lab_init(&l);
	l.files[SPARE].format = Q2_FORMAT_RAW;
	l.files[SPARE].shows = O1;
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_RAW;
	struct picture p = picture_of(&l, WEB);

	cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "domain 'other' (disk vda)");
	picture_free(&p);
}

/* Its second disk. */
static void web_has_two(struct lab *l, struct vm_fact_disk two[2], int top, enum q2_format format)
{
	two[0] = l->disks[WEB];
	two[1] = (struct vm_fact_disk){.target = "vdb", .top = top, .format = format, .mirror = VM_NO_FILE};
	l->domains[WEB].disks = two;
	l->domains[WEB].n_disks = 2;
}

Test(vm_graph, what_the_domain_itself_reaches_by_another_way_than_down_the_layers_is_needed)
{
	enum { LOOP, REFUSED, DATA, SHOWN, N_WAYS }; /* vdb is a loop device on o1; is refused by the gate; has it as its data file */
	struct vm_fact_disk two[2];

	for (int way = 0; way < N_WAYS; way++) {
		struct lab l;

		lab_init(&l);
		if (way == LOOP) {
			l.files[SPARE].format = Q2_FORMAT_RAW;
			l.files[SPARE].shows = O1;
		} else {
			qcow2(&l, SPARE, VM_NO_FILE);
		}
		if (way == REFUSED) {
			l.files[SPARE].below_why = "may not be read here";
			l.files[SPARE].refused_dev = l.files[O1].stamp.dev;
			l.files[SPARE].refused_ino = l.files[O1].stamp.ino;
		}
		if (way == DATA)
			l.files[SPARE].data = O1;
		if (way == SHOWN) {
			l.snapdisks[WEB][S2].ino = 4711;
			l.files[SPARE].exposes = 4711;
		}
		web_has_two(&l, two, SPARE, l.files[SPARE].format);
		struct picture p = picture_of(&l, WEB);

		cr_assert(layer_at(&p, "/i/o1")->users[0], "way %d", way);
		cr_expect_str_eq(layer_at(&p, "/i/o1")->users[0], "domain 'web' (disk vdb)");
		cr_expect_null(layer_at(&p, "/i/o1")->users[1]);
		cr_expect_null(layer_at(&p, "/i/o3")->users[0]);
		picture_free(&p);
	}
}

Test(vm_graph, the_data_file_of_a_detached_snapshot_is_needed)
{
	struct lab l;

	lab_init(&l);
	qcow2(&l, SPARE, VM_NO_FILE);
	l.files[SPARE].data = SPARE2;
	l.files[SPARE2].format = Q2_FORMAT_RAW;
	snap(&l, WEB, S3, "s3", 220, S2, SPARE, SPARE3); /* a branch that no disk is on */
	l.disks[OTHER].top = SPARE2;
	l.disks[OTHER].format = Q2_FORMAT_RAW;
	struct picture p = picture_of(&l, OTHER);

	cr_assert(layer_at(&p, "/i/spare2")->users[0]);
	cr_expect_str_eq(layer_at(&p, "/i/spare2")->users[0], "snapshot 's3' of domain 'web' (disk vda)");
	picture_free(&p);
}

/* o1 is written into when it is a base, and with it what it keeps its data in, or shows: somebody else's disk, layer or data file. */
Test(vm_graph, who_uses_what_is_written_with_a_file_needs_that_file)
{
	enum { DISK, LAYER, DATA, OWN, N_WAYS };

	for (int loop = 0; loop < 2; loop++)
		for (int way = 0; way < N_WAYS; way++) {
			struct vm_fact_disk two[2];
			struct lab l;

			lab_init(&l);
			l.files[SPARE].format = Q2_FORMAT_RAW;
			*(loop ? &l.files[O1].shows : &l.files[O1].data) = SPARE;
			if (way == LAYER || way == DATA) {
				qcow2(&l, SPARE2, way == LAYER ? SPARE : VM_NO_FILE);
				l.files[SPARE2].below_format = way == LAYER ? Q2_FORMAT_RAW : Q2_FORMAT_NONE;
				l.files[SPARE2].data = way == DATA ? SPARE : VM_NO_FILE;
			}
			if (way == OWN) {
				web_has_two(&l, two, SPARE, Q2_FORMAT_RAW);
				two[1].writable = true;
			} else {
				l.disks[OTHER].top = way == DISK ? SPARE : SPARE2;
				l.disks[OTHER].format = l.files[l.disks[OTHER].top].format;
			}
			struct picture p = picture_of(&l, WEB);
			const struct vm_layer *o1 = layer_at(&p, "/i/o1");

			cr_assert(o1->users[0], "loop %d, way %d: nobody needs it", loop, way);
			cr_expect(strstr(o1->users[0], way == OWN ? "'web' (disk vdb)" : "'other'"), "loop %d, way %d: %s", loop, way, o1->users[0]);
			cr_expect_null(o1->users[1], "loop %d, way %d", loop, way);
			if (way == LAYER) /* who stands on it does not write there */
				cr_expect_null(o1->rival, "loop %d: %s", loop, o1->rival);
			else
				cr_expect(o1->rival && !strcmp(o1->rival, o1->users[0]), "loop %d, way %d: it has no rival", loop, way);
			cr_expect_null(layer_at(&p, "/i/o2")->users[0]);
			cr_expect_null(layer_at(&p, "/i/o3")->rival);
			picture_free(&p);
		}
}

Test(vm_graph, a_data_file_marks_its_image_and_a_device_only_by_which_it_is)
{
	const struct q2_stamp image = {.ino = 7, .size = 1000, .mtime_ns = 50}, file = {.ino = 8, .size = 5, .mtime_ns = 60};
	const struct q2_stamp device = {.ino = 9, .block = true, .size = 1 << 20, .mtime_ns = 70}, again = {.ino = 9, .block = true}, other = {.ino = 10, .block = true};
	struct q2_stamp alone = vm_mark(image, NULL), on_file = vm_mark(image, &file), on_device = vm_mark(image, &device), now = vm_mark(image, &again);

	cr_expect_eq(alone.size, 1000);
	cr_expect_eq(on_file.mtime_ns, 60);
	cr_expect_neq(on_file.size, alone.size);
	cr_expect_eq(on_device.mtime_ns, 50);
	cr_expect_eq(on_device.size, now.size, "its node's time, or who asks for its size");
	cr_expect_neq(on_device.size, vm_mark(image, &other).size);
}

Test(vm_graph, what_nobody_has_any_more_does_not_need_itself)
{
	struct lab l;

	lab_init(&l);
	qcow2(&l, SPARE, BASE);
	l.files[SPARE].data = SPARE2;
	l.files[SPARE2].format = Q2_FORMAT_RAW;
	l.domains[WEB].made = (int[]){SPARE};
	l.domains[WEB].n_made = 1;
	struct picture p = picture_of(&l, WEB);

	cr_expect_null(layer_at(&p, "/i/spare")->users[0]);
	cr_expect_null(layer_at(&p, "/i/spare")->rival);
	cr_expect_str_eq(layer_at(&p, "/i/spare")->data, "/i/spare2");
	picture_free(&p);
}

Test(vm_graph, a_file_has_all_the_paths_that_lead_to_it_and_one_writer_too_many_is_told)
{
	struct lab l;

	lab_init(&l);
	l.files[SPARE] = l.files[O3];
	l.files[SPARE].path = "/bind/o3";
	l.disks[OTHER].top = SPARE;
	l.disks[OTHER].format = Q2_FORMAT_QCOW2;
	struct picture p = picture_of(&l, WEB);

	cr_expect_str_eq(layer_at(&p, "/i/o3")->paths[0], "/bind/o3");
	cr_expect_str_eq(layer_at(&p, "/i/o3")->rival, "domain 'other' (disk vda)");
	cr_expect_null(layer_at(&p, "/i/o2")->rival);
	picture_free(&p);
}

/* ---------------------------------------------------------------- entries that nobody recorded */

static struct q2_snapshot entry(const char *id, const char *name)
{
	return (struct q2_snapshot){.id = (char *)id, .name = (char *)name};
}

Test(vm_graph, unrecorded_entries_are_put_together_by_name_or_by_name_and_id)
{
	struct q2_snapshot a[] = {entry("1", "one"), entry("2", "dup"), entry("3", "dup"), entry("4", "known"), entry("5", "only a")};
	struct q2_snapshot b[] = {entry("3", "dup"), entry("9", "one"), entry("3", "dup")};
	struct q2_info ia = {.snapshots = a, .n_snapshots = 5}, ib = {.snapshots = b, .n_snapshots = 3};
	const bool taken[] = {false, false, false, true, false};
	const struct vm_table tables[] = {{"vda", 0, &ia, taken}, {"vdb", 1, &ib, NULL}};
	static const struct { const char *name, *id; size_t n_disks; } want[] = {
		{"one", "1", 2},    /* unique in both: the ids may differ */
		{"dup", "2", 1},    /* twice in a table: the id decides */
		{"dup", "3", 2},    /* the first 3 of each */
		{"only a", "5", 1},
		{"dup", "3", 1},    /* the second 3 of vdb is alone */
	};
	struct vm_stray *strays = NULL;
	size_t n = 0;

	vm_stray_group(tables, 2, &strays, &n);
	cr_assert_eq(n, VS_ARRAY_LEN(want));
	for (size_t i = 0; i < n; i++) {
		cr_expect_str_eq(strays[i].name, want[i].name);
		cr_expect_str_eq(strays[i].id, want[i].id);
		cr_expect_eq(strays[i].n_disks, want[i].n_disks, "%zu", i);
	}
	cr_expect_eq(strays[0].disks[1].entry, &b[1]);
	cr_expect_eq(strays[4].disks[0].table, 1u);
	vm_stray_free(strays, n);
}

Test(vm_graph, a_table_full_of_equal_entries_makes_as_many_snapshots)
{
	enum { N = 65536 };
	struct q2_snapshot *entries = calloc(N, sizeof(*entries));
	struct q2_info info = {.snapshots = entries, .n_snapshots = N};
	const struct vm_table table = {"disk", 0, &info, NULL};
	struct vm_stray *strays = NULL;
	size_t n = 0;

	for (size_t i = 0; i < N; i++)
		entries[i] = entry("", "");
	vm_stray_group(&table, 1, &strays, &n);
	cr_expect_eq(n, (size_t)N);
	cr_expect_eq(strays[N - 1].disks[0].entry, &entries[N - 1]);
	vm_stray_free(strays, n);
	free(entries);
}
