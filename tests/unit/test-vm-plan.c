/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What a policy drops of a domain as it is now, on made-up inventories: what prune, `try prune` and retain.plan go by. What a policy is and how it counts:
 * test-vm-retain.c.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "vm/command/plan.h"
#include "vm/meta/meta.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define UUID "6fba5a2e-6f7b-4b9e-8d6c-0b5b3c4a1d2e"
#define MANY 12

/* A domain with snapshots a, b, c ... of the last days, one a day, taken by us. */
struct lab {
	struct vm_snapshot snapshots[MANY];
	struct vm_disk disks[MANY];
	char names[MANY][2];
	struct vm_domain d;
	struct vm_meta *meta;
	const char *open; /* the one that somebody reads */
};

static void lab_init(struct lab *lab, size_t n)
{
	int64_t now = vm_now_ns();

	*lab = (struct lab){ .d = { .uuid = (char *)UUID, .snapshots = lab->snapshots, .n_snapshots = n }, .meta = vm_meta_new() };
	for (size_t i = 0; i < n; i++) {
		lab->names[i][0] = (char)('a' + i);
		lab->disks[i] = (struct vm_disk){ .target = (char *)"vda" };
		lab->snapshots[i] = (struct vm_snapshot){ .name = lab->names[i], .shown = lab->names[i], .kind = VM_EXTERNAL, .recorded = true,
							  .ours = true, .created_ns = now - (int64_t)(n - i) * 24 * 3600 * VM_NS_PER_S,
							  .disks = &lab->disks[i], .n_disks = 1 };
	}
}

static struct vm_snapshot *named(struct lab *lab, const char *name)
{
	for (size_t i = 0; i < lab->d.n_snapshots; i++)
		if (!strcmp(lab->snapshots[i].shown, name))
			return &lab->snapshots[i];
	cr_assert_fail("no %s", name);
	return NULL;
}

/* That command was begun with it. */
static void mark(struct lab *lab, const char *name, const char *command, bool is_void)
{
	struct vm_snapshot *s = named(lab, name);
	struct vm_meta_id id = { s->name, s->created_ns - s->created_ns % VM_NS_PER_S, s->kind };
	struct vm_meta_mark mark = { .command = (char *)command, .reason = (char *)"begun", .since_ns = s->created_ns, .is_void = is_void };

	vm_meta_set_mark(lab->meta, &id, &mark);
	s->state = VM_STALE;
}

static bool is_open(void *opaque, const char *uuid, const struct vm_snapshot *s)
{
	const struct lab *lab = opaque;

	return lab->open && !strcmp(uuid, UUID) && !strcmp(lab->open, s->shown);
}

/* The names of what is dropped, oldest first. */
static char *dropped(struct lab *lab, const char *policy, const char *coming)
{
	const struct vm_readers readers = { is_open, lab };
	struct vm_store *store = vm_store_new(); /* in memory alone: $STATE_DIRECTORY names no directory */
	struct vm_retain_snapshot *snaps = NULL;
	struct vm_retain_verdict *verdicts = NULL;
	struct vs_err err = {0};
	char *names = xstrdup("");
	size_t n = 0;

	vm_meta_bump(lab->meta);
	vm_meta_free(vm_store_best(store, UUID, lab->meta)); /* as found at the domain */
	cr_assert_eq(vm_plan_make(store, &readers, &lab->d, policy, coming, &snaps, &verdicts, &n, &err), 0, "%s", err.msg);
	for (size_t i = 0; i < n; i++) {
		char *before = names;

		cr_expect(verdicts[i].reason[0] != '\0', "%s has a reason", snaps[i].shown);
		if (verdicts[i].keep)
			continue;
		names = xasprintf("%s%s", before, snaps[i].shown);
		free(before);
	}
	free(snaps);
	free(verdicts);
	vm_store_free(store);
	vm_meta_free(vs_steal(lab->meta));
	return names;
}

#define drops(lab, policy, coming, expected) do { \
		vs_autofree char *names_ = dropped(lab, policy, coming); \
		cr_expect_str_eq(names_, expected); \
	} while (0)

static void no_state(void)
{
	setenv("STATE_DIRECTORY", "/dev/null/none", 1);
}

TestSuite(vm_plan, .init = no_state);

Test(vm_plan, a_count_keeps_the_newest)
{
	struct lab lab;

	lab_init(&lab, 5);
	drops(&lab, "2", NULL, "abc");
	lab_init(&lab, 5);
	drops(&lab, NULL, NULL, "");
	lab_init(&lab, 5);
	drops(&lab, "off", NULL, "");
}

Test(vm_plan, what_is_about_to_be_taken_counts)
{
	struct lab lab;

	lab_init(&lab, 3);
	drops(&lab, "2", "z", "ab");
}

Test(vm_plan, what_is_held_read_foreign_or_without_a_record_stays_and_is_not_counted)
{
	struct lab lab;

	lab_init(&lab, 6);
	named(&lab, "a")->held = true;
	named(&lab, "b")->ours = false;
	named(&lab, "c")->recorded = false;
	lab.open = "f";
	drops(&lab, "1", NULL, "d");
}

Test(vm_plan, what_has_no_data_does_not_stand_in_for_what_has)
{
	struct lab lab;

	lab_init(&lab, 4);
	named(&lab, "d")->state = VM_STALE;
	drops(&lab, "1", NULL, "ab");
	lab_init(&lab, 4);
	named(&lab, "d")->state = VM_UNSUPPORTED;
	named(&lab, "d")->n_disks = 0; /* its record cannot be read, or was not yet */
	drops(&lab, "1", NULL, "ab");
	lab_init(&lab, 4);
	named(&lab, "d")->state = VM_UNSUPPORTED; /* as a disk of another format: it is there */
	drops(&lab, "1", NULL, "abc");
}

Test(vm_plan, a_delete_that_was_begun_is_finished_and_nothing_else_that_was)
{
	struct lab lab;

	lab_init(&lab, 4);
	mark(&lab, "d", "delete d", false);
	drops(&lab, "2", NULL, "ad");
	lab_init(&lab, 4);
	mark(&lab, "d", "commit d", false);
	drops(&lab, "2", NULL, "a");
	lab_init(&lab, 4);
	mark(&lab, "d", "delete d", true); /* void: others have changed its files */
	drops(&lab, "2", NULL, "a");
}

Test(vm_plan, a_mark_of_another_one_of_that_name_is_not_its_own)
{
	struct lab lab;

	lab_init(&lab, 3);
	mark(&lab, "a", "delete a", false);
	named(&lab, "a")->created_ns += 3600 * VM_NS_PER_S; /* it was taken anew */
	drops(&lab, "3", NULL, "");
}

Test(vm_plan, the_present_content_of_an_image_is_no_snapshot)
{
	struct lab lab;

	lab_init(&lab, 3);
	named(&lab, "c")->present = true;
	drops(&lab, "1", NULL, "a");
}
