/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What inventories are made of: order and numbers of snapshots, sharing of what did not change, the log, and small helpers. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/inventory/draft.h"
#include "vm/meta/meta.h"
#include "vm/model/inventory.h"
#include "vm/model/invariants.h"
#include "vm/observe/gates.h"
#include "vm/observe/watch.h"
#include "vm/util/clock.h"
#include "vm/util/lock.h"
#include "vm/util/log-shelf.h"
#include "vm/util/strmap.h"

/* ---------------------------------------------------------------- inventories */

static struct vm_domain *domain(const char *dir, const char *state)
{
	struct vm_domain *d = vm_domain_new();
	struct vm_arena *a = vm_domain_arena(d);

	d->name = vm_arena_strdup(a, dir);
	d->dir = vm_arena_strdup(a, dir);
	d->uuid = vm_arena_printf(a, "uuid of %s", dir);
	d->state = vm_arena_strdup(a, state);
	d->layers = vm_arena_calloc(a, 1, sizeof(*d->layers));
	d->n_layers = 1;
	d->layers[0].path = vm_arena_strdup(a, "/img");
	return d;
}

Test(vm_inventory, domains_are_sorted_and_found_by_directory)
{
	struct vm_domain *list[] = { domain("web", "running"), domain("db", "running"), domain("mail", "shut off") };
	struct vm_inventory *inv = vm_inventory_new(list, 3, NULL);

	cr_expect_str_eq(inv->domains[0]->dir, "db");
	cr_expect_str_eq(inv->domains[2]->dir, "web");
	cr_expect_eq(vm_inventory_domain(inv, "mail"), inv->domains[1]);
	cr_expect_null(vm_inventory_domain(inv, "mai"));
	cr_expect_null(vm_inventory_domain(inv, "zebra"));
	vm_inventory_put(inv);
}

Test(vm_inventory, the_serial_rises_only_with_another_domain_object)
{
	struct vm_domain *a = domain("a", "running"), *b = domain("a", "paused");
	struct vm_inventory *one = vm_inventory_new(&a, 1, NULL), *same, *other;

	vm_domain_ref(a);
	same = vm_inventory_new(&a, 1, one);
	cr_expect_eq(same->serial, one->serial);
	other = vm_inventory_new(&b, 1, same);
	cr_expect_eq(other->serial, one->serial + 1);
	vm_inventory_put(one);
	vm_inventory_put(same);
	cr_expect_str_eq(vm_inventory_ref(other)->domains[0]->state, "paused");
	vm_inventory_put(other);
	vm_inventory_put(other);
}

Test(vm_inventory, equal_is_what_looks_the_same)
{
	struct vm_domain *a = domain("a", "running"), *b = domain("a", "running"), *c = domain("a", "paused");

	a->changed_ns = 1;
	cr_expect(vm_domain_equal(a, b), "the time of a change is not news itself");
	cr_expect_not(vm_domain_equal(a, c));
	a->layers[0].data = vm_arena_strdup(vm_domain_arena(a), "/far/data");
	cr_expect_not(vm_domain_equal(a, b), "a data file");
	b->layers[0].data = vm_arena_strdup(vm_domain_arena(b), "/far/data");
	cr_expect(vm_domain_equal(a, b), "the same data file");
	b->layers[0].note = vm_arena_strdup(vm_domain_arena(b), "left over");
	cr_expect_not(vm_domain_equal(a, b));
	vm_domain_unref(a);
	vm_domain_unref(b);
	vm_domain_unref(c);
}

Test(vm_inventory, an_active_layer_may_grow_a_little_without_being_news)
{
	static const struct { bool active; uint64_t more; bool equal; } cases[] = {
		{ true, 0, true },
		{ true, 65536, true },        /* a cluster more, in a layer that is being written */
		{ true, 1 << 20, false },     /* that much is news */
		{ false, 65536, false },      /* a frozen layer does not grow */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_domain *a = domain("a", "running"), *b = domain("a", "running");

		a->layers[0].active = b->layers[0].active = cases[i].active;
		a->layers[0].allocated = 10 << 20;
		b->layers[0].allocated = (10 << 20) + cases[i].more;
		cr_expect_eq(vm_domain_equal(a, b), cases[i].equal, "case %zu", i);
		cr_expect_eq(vm_domain_equal(b, a), cases[i].equal, "case %zu, the other way round", i);
		vm_domain_unref(a);
		vm_domain_unref(b);
	}
}

/* ---------------------------------------------------------------- order and numbers */

static void expect_order(struct vm_draft_snapshot *snaps, size_t n, const char *const *names)
{
	struct vm_draft d = { .uuid = "u", .snapshots = snaps, .n_snapshots = n };
	struct vm_arena arena;

	vm_arena_init(&arena);
	vm_order_settle(&d, &arena);
	for (size_t i = 0; i < n; i++) {
		cr_expect_str_eq(d.order[i]->name, names[i], "place %zu", i);
		cr_expect_eq(d.order[i]->rank, (int)i);
	}
	vm_arena_fini(&arena);
}

Test(vm_draft, snapshots_are_ordered_by_time_then_by_the_tree)
{
	struct vm_draft_snapshot snaps[] = {
		{ .name = "late", .created_ns = 30 * VM_NS_PER_S, .parent = -1, .kind = VM_EXTERNAL },
		{ .name = "early", .created_ns = 10 * VM_NS_PER_S, .parent = -1, .kind = VM_EXTERNAL },
		{ .name = "child", .created_ns = 30 * VM_NS_PER_S, .parent = 0, .kind = VM_EXTERNAL },
	};
	static const char *const names[] = { "early", "late", "child" };

	expect_order(snaps, 3, names);
}

Test(vm_draft, of_one_second_the_current_one_is_the_last_unless_something_follows_it)
{
	struct vm_draft_snapshot snaps[] = {
		{ .name = "a", .created_ns = 10 * VM_NS_PER_S, .parent = -1, .kind = VM_EXTERNAL },
		{ .name = "taken", .created_ns = 30 * VM_NS_PER_S, .parent = 0, .kind = VM_EXTERNAL, .current = true },
		{ .name = "branch", .created_ns = 30 * VM_NS_PER_S, .parent = 0, .kind = VM_EXTERNAL },
		{ .name = "later", .created_ns = 31 * VM_NS_PER_S, .parent = 0, .kind = VM_EXTERNAL },
	};
	static const char *const names[] = { "a", "branch", "taken", "later" }, *const followed[] = { "a", "taken", "branch", "later" };

	expect_order(snaps, 4, names);
	snaps[2].parent = 1;
	expect_order(snaps, 4, followed);
}

Test(vm_draft, a_child_of_the_same_second_follows_its_parent_whose_entry_knows_better)
{
	struct q2_snapshot entry = { .id = (char *)"1", .name = (char *)"in", .date_sec = 30, .date_nsec = 700000000 };
	struct vm_draft_disk disk = { .fact = { .target = "vda", .mode = VM_MODE_INTERNAL }, .entry = &entry };
	struct vm_draft_snapshot snaps[] = {
		{ .name = "in", .created_ns = 30 * VM_NS_PER_S, .parent = -1, .disks = &disk, .n_disks = 1 },
		{ .name = "out", .created_ns = 30 * VM_NS_PER_S, .parent = 0, .kind = VM_EXTERNAL },
	};
	static const char *const names[] = { "in", "out" };

	expect_order(snaps, 2, names);
	cr_expect_eq(snaps[0].created_ns, 30 * VM_NS_PER_S + 700000000);
	cr_expect_eq(snaps[1].created_ns, 30 * VM_NS_PER_S, "what is shown stays what libvirt recorded");
}

Test(vm_draft, inode_numbers_tell_snapshots_apart_that_reuse_name_and_id)
{
	struct vm_draft d = { .ino = 7 };
	struct vm_draft_snapshot s = { .name = "monday" };
	struct q2_snapshot one = { .id = (char *)"1", .name = (char *)"monday", .date_sec = 5, .date_nsec = 1000 }, two = one;
	struct vm_draft_disk a = { .fact = { .target = "vda" }, .entry = &one }, b = { .fact = { .target = "vda" }, .entry = &two };
	uint64_t ino = vm_order_disk_ino(&d, &s, &a);

	cr_expect_eq(ino, vm_order_disk_ino(&d, &s, &b), "the same at every mount");
	two.date_nsec = 2000;
	cr_expect_neq(ino, vm_order_disk_ino(&d, &s, &b), "deleted and created again");
	two = one;
	b.fact.target = "vdb";
	cr_expect_neq(ino, vm_order_disk_ino(&d, &s, &b), "another disk");
	cr_expect_gt(ino, 1);
}

/* ---------------------------------------------------------------- the log */

static size_t count_lines(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

Test(vm_draft, a_begun_merge_is_drawn_once_however_many_snapshots_are_meant_by_it)
{
	enum { ALIKE = 300, DISKS = 180 };
	static struct vm_draft_snapshot alike[ALIKE]; /* of one name and second: a whole second stands for each of them */
	char text[8192];
	size_t len = (size_t)snprintf(text, sizeof(text), "<facts version='2' serial='5'><b k='1' c='delete x' r='r' t='1'>");
	struct vm_draft d = { .uuid = "11111111-1111-1111-1111-111111111111", .snapshots = alike, .n_snapshots = ALIKE };
	struct vm_lock *lock;
	struct vm_arena arena;
	struct vm_meta *own;

	for (int i = 0; i < ALIKE; i++)
		alike[i] = (struct vm_draft_snapshot){ .name = "x", .kind = VM_EXTERNAL, .created_ns = VM_NS_PER_S + i, .parent = -1 };
	for (int i = 0; i < DISKS; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "<d t='d' p='/p'/>");
	len += (size_t)snprintf(text + len, sizeof(text) - len, "</b><s n='x' t='1' is='e' b='1'/><s n='gone' t='1' is='e' b='1'/></facts>");
	vm_arena_init(&arena);
	cr_assert_eq(vm_meta_parse(text, len, &own, NULL), 0);
	vm_draft_meta(&d, vm_meta_copy(own), &arena);
	cr_expect_eq(d.n_merges, (size_t)DISKS);
	cr_expect_not(d.at_work, "an interrupted command has left it");
	cr_assert_eq(vm_lock_take(d.uuid, false, &lock, NULL, NULL), 0);
	d.n_merges = 0;
	vm_draft_meta(&d, own, &arena);
	cr_expect(d.at_work);
	vm_lock_release(lock);
	vm_arena_fini(&arena);
}

Test(vm_memory, no_commit_is_dropped)
{
	enum { MANY = 5000 };
	static struct vm_fact_file files[MANY + 1];
	static struct vm_fact_commit commits[MANY];
	struct vm_facts facts = { .files = files, .n_files = MANY + 1 };
	struct vm_history *memory = vm_history_new();
	struct vm_fact_commit *out;
	size_t n;

	for (int i = 0; i <= MANY; i++)
		files[i].stamp = (struct q2_stamp){ .dev = 1, .ino = (uint64_t)i + 1, .size = 1, .mtime_ns = 1 };
	for (int i = 0; i < MANY; i++)
		commits[i] = (struct vm_fact_commit){ .base = i, .top = MANY };
	vm_history_poll(memory, 1, false);
	vm_history_commits_add(memory, &facts, commits, MANY);
	vm_history_commits(memory, &facts, &out, &n);
	cr_expect_eq(n, (size_t)MANY);
	free(out);
	vm_history_free(memory);
}

Test(vm_log, keeps_the_last_thousand_lines_and_each_is_one)
{
	struct vm_log *log = vm_log_new("web", false);
	int64_t changed_ns, at_ns;
	char *text;
	size_t len, told;

	for (int i = 0; i < 1005; i++)
		vm_log(log, "line %d with\na break in it\n", i);
	vm_log_text(log, &text, &len, &changed_ns);
	cr_expect_eq(strlen(text), len);
	cr_expect_eq(count_lines(text), 1000);
	cr_expect_null(strstr(text, " line 4 "));
	cr_expect_not_null(strstr(text, " line 5 with a break in it\n"));
	cr_expect_not_null(strstr(text, " line 1004 with a break in it\n"));
	cr_expect_leq(changed_ns, vm_now_ns());
	free(text);
	vm_log_stat(log, &told, &at_ns); /* without making it */
	cr_expect_eq(told, len);
	cr_expect_eq(at_ns, changed_ns);
	vm_log_unref(log);
}

static int priority_of_last;

/* In place of the C library's. */
void syslog(int priority, const char *format, ...)
{
	(void)format;
	priority_of_last = priority & LOG_PRIMASK;
}

Test(vm_log, what_somebody_should_look_at_is_a_warning_in_syslog)
{
	struct vm_log *log = vm_log_new("web", false);

	vm_log(log, "ok: hold a");
	cr_expect_eq(priority_of_last, LOG_INFO);
	vm_log_warn(log, "failed: delete a");
	cr_expect_eq(priority_of_last, LOG_WARNING);
	cr_expect_not(vm_log_is_quiet(log));
	vm_log_set_quiet(log, true);
	cr_expect(vm_log_is_quiet(log));
	vm_log_unref(log);
}

Test(vm_log, a_departed_domain_finds_its_log_again)
{
	struct vm_log_shelf *shelf = vm_log_shelf_new(true);
	struct vm_log *log = vm_log_shelf_take(shelf, "u-1", "web");

	vm_log_shelf_leave(shelf, "u-1", log);
	for (int i = 0; i < 63; i++) {
		char uuid[16];

		snprintf(uuid, sizeof(uuid), "other %d", i);
		vm_log_shelf_leave(shelf, uuid, vm_log_shelf_take(shelf, uuid, "x"));
	}
	cr_expect_eq(vm_log_shelf_take(shelf, "u-1", "web"), log);
	vm_log_unref(log);
	vm_log_shelf_free(shelf);
}

/* ---------------------------------------------------------------- helpers */

static bool keep_odd(void *thing, void *opaque)
{
	(*(unsigned *)opaque)++;
	return (uintptr_t)thing % 2;
}

Test(vm_strmap, holds_many_and_lets_some_go)
{
	struct vm_strmap map = {0};
	unsigned visited = 0;
	char key[16];

	for (uintptr_t i = 1; i <= 1000; i++) {
		snprintf(key, sizeof(key), "key %zu", (size_t)i);
		vm_strmap_put(&map, key, (void *)i);
	}
	cr_expect_eq((uintptr_t)vm_strmap_get(&map, "key 77"), 77);
	cr_expect_null(vm_strmap_get(&map, "key 1001"));
	vm_strmap_filter(&map, keep_odd, &visited);
	cr_expect_eq(visited, 1000);
	cr_expect_eq(map.n, 500);
	cr_expect_null(vm_strmap_get(&map, "key 78"));
	cr_expect_eq((uintptr_t)vm_strmap_remove(&map, "key 79"), 79);
	cr_expect_null(vm_strmap_remove(&map, "key 79"));
	vm_strmap_clear(&map, NULL);
	cr_expect_null(vm_strmap_get(&map, "key 1"));
}

Test(vm_arena, gives_zeroed_memory_large_and_small)
{
	struct vm_arena a;
	char *small, *large;

	vm_arena_init(&a);
	small = vm_arena_strdup(&a, "small");
	large = vm_arena_calloc(&a, 1 << 20, 1);
	cr_expect_eq(large[(1 << 20) - 1], 0);
	cr_expect_str_eq(vm_arena_printf(&a, "%s and %d", small, 2), "small and 2");
	cr_expect_str_eq(small, "small");
	vm_arena_fini(&a);
}

Test(vm_gate, stays_the_same_while_the_same_is_named)
{
	struct vm_gates_memo memo = {0};
	struct q2_gate *first, *again, *other;

	for (int i = 0; i < 3; i++) {
		struct vm_gates_list list = {0};

		vm_gates_list_file(&list, "/nowhere/a.qcow2", Q2_FORMAT_NONE);
		vm_gates_list_file(&list, "/nowhere/a.qcow2", Q2_FORMAT_QCOW2);
		if (i == 2)
			vm_gates_list_dir(&list, "/tmp");
		if (i == 0)
			first = q2_gate_ref(vm_gates_list_gate(&list, &memo));
		else if (i == 1)
			again = vm_gates_list_gate(&list, &memo);
		else
			other = vm_gates_list_gate(&list, &memo);
		cr_expect_eq(list.n, i == 2 ? 2 : 1, "each path once");
		vm_gates_list_fini(&list);
	}
	cr_expect_eq(first, again);
	cr_expect_neq(first, other);
	q2_gate_unref(first);
	vm_gates_memo_fini(&memo);
}

/* ---------------------------------------------------------------- gates */

static struct q2_gate *gate_of(struct vm_gates_memo *memo, const char *file, struct q2_gate *also)
{
	struct vm_gates_list list = {.also = also};
	struct q2_gate *gate;

	vm_gates_list_file(&list, file, Q2_FORMAT_NONE);
	gate = vm_gates_list_gate(&list, memo);
	vm_gates_list_fini(&list);
	return gate;
}

Test(vm_gates, a_domain_keeps_its_gate_while_it_and_what_surrounds_it_are_the_same)
{
	struct vm_gates_memo around = {0}, web = {0}, db = {0};
	struct q2_gate *a = gate_of(&around, "/dev/null", NULL), *of_web = gate_of(&web, "/i/web", a), *of_db = gate_of(&db, "/i/db", a);

	cr_assert(a && of_web && of_db);
	cr_expect_eq(gate_of(&around, "/dev/null", NULL), a);
	cr_expect_eq(gate_of(&web, "/i/web", a), of_web);
	a = gate_of(&around, "/dev/zero", NULL); /* the old one lives on in theirs, so none has its place */
	cr_expect_neq(gate_of(&web, "/i/web", a), of_web);
	cr_expect_neq(gate_of(&db, "/i/db", a), of_db);
	vm_gates_memo_fini(&around);
	vm_gates_memo_fini(&web);
	vm_gates_memo_fini(&db);
}

/* ---------------------------------------------------------------- memory of one file */

Test(vm_watch, tells_writes_from_repointing_and_from_the_work_of_an_active_layer)
{
	struct vm_watch w = {0};
	struct q2_stamp s = {.dev = 1, .ino = 2, .size = 10, .mtime_ns = 100};

	vm_watch_step(&w, &s, "a", false, 1);
	s.mtime_ns = 200;
	vm_watch_step(&w, &s, "a", false, 2); /* active: of course it is written */
	s.mtime_ns = 300;
	vm_watch_step(&w, &s, "a", true, 3);  /* the last writes before it was frozen */
	cr_expect_eq(w.written_at, 0u);
	s.mtime_ns = 400;
	vm_watch_step(&w, &s, "b", true, 4);
	cr_expect_eq(w.written_at, 0u);
	cr_expect_eq(w.repointed_at, 4u);
	cr_assert_eq(w.n_renamed, 1u);
	cr_expect_eq(w.renamed[0].mtime_ns, 300);
	s.ctime_ns = 500; /* chown */
	vm_watch_step(&w, &s, "b", true, 5);
	cr_expect_eq(w.written_at, 0u);
	s.mtime_ns = 600;
	vm_watch_step(&w, &s, "b", true, 6);
	cr_expect_eq(w.written_at, 6u);
	cr_expect_eq(w.n_renamed, 0u);
	for (int i = 0; i < 9; i++) {
		s.mtime_ns++;
		vm_watch_step(&w, &s, i % 2 ? "b" : "a", true, 6);
	}
	s.btime_ns++; /* another one with its number */
	vm_watch_step(&w, &s, "a", true, 6);
	cr_expect_eq(w.written_at, 0u);
	cr_expect_eq(w.repointed_at, 0u);
	cr_expect_eq(w.n_renamed, 0u);
	for (int i = 0; i < 9; i++) {
		s.mtime_ns++;
		vm_watch_step(&w, &s, i % 2 ? "a" : "b", true, 6);
	}
	cr_assert_eq(w.n_renamed, (size_t)VM_WATCH_RENAMED);
	cr_expect_eq(w.renamed[VM_WATCH_RENAMED - 1].mtime_ns, 617);
	cr_expect_eq(w.renamed[0].mtime_ns, 614);
	s.ino = 3; /* another file under that name */
	vm_watch_step(&w, &s, NULL, true, 7);
	cr_expect_eq(w.written_at, 0u);
	vm_watch_step(&w, &s, "a", true, 7); /* it was being made */
	cr_expect_eq(w.repointed_at, 0u);
	vm_watch_step(&w, &s, NULL, true, 7);
	cr_expect_eq(w.repointed_at, 7u);
	s.block = true;
	s.mtime_ns = 700;
	vm_watch_step(&w, &s, NULL, true, 8);
	cr_expect_eq(w.written_at, 0u);
}

/* ---------------------------------------------------------------- what readers rely on */

#define S(text) ((char *)(text))

struct house {
	char *none[1];
	struct vm_layer layers[2];
	struct vm_disk_now now;
	char *chain[3];
	struct vm_disk disks[2];
	struct vm_snapshot snapshots[2];
	struct vm_domain d, e;
	struct vm_domain *domains[2];
	struct vm_inventory inv;
};

static void build_house(struct house *h)
{
	*h = (struct house){0};
	for (int i = 0; i < 2; i++) {
		h->layers[i] = (struct vm_layer){.path = S(i ? "/i/b" : "/i/a"), .paths = h->none, .users = h->none, .snapshots = h->none, .below = i - 1, .active = i};
		h->disks[i] = (struct vm_disk){.target = S("vda"), .file = S("x.vda.img"), .ino = 7, .chain = h->chain, .gate = (struct q2_gate *)h};
		h->snapshots[i] = (struct vm_snapshot){.name = S("s"), .shown = S(i ? "s2" : "s1"), .kind = VM_EXTERNAL, .users = h->none, .disks = &h->disks[i], .n_disks = 1};
	}
	h->chain[0] = S("/i/a");
	h->now = (struct vm_disk_now){.target = S("vda"), .source = S("/i/b"), .top = 1};
	h->d = (struct vm_domain){.name = S("web"), .dir = S("web"), .uuid = S("u"), .state = S("running"), .ino = 9, .log = (struct vm_log *)h, .unknowns = h->none,
				  .layers = h->layers, .n_layers = 2, .disks = &h->now, .n_disks = 1, .snapshots = h->snapshots, .n_snapshots = 2};
	h->e = h->d;
	h->e.dir = S("web-2");
	h->domains[0] = &h->d;
	h->domains[1] = &h->e;
	h->inv = (struct vm_inventory){.domains = h->domains, .n_domains = 2};
}

static void expect_broken(const struct house *h, const char *words)
{
	struct vs_err err = {0};
	int r = vm_invariants_of_inventory(&h->inv, &err);

	cr_expect_eq(r, words ? -EINVAL : 0, "%s", err.msg);
	cr_expect(!words || strstr(err.msg, words), "'%s' does not say '%s'", err.msg, words);
}

#define BREAK(what, words) \
	do { \
		build_house(&h); \
		what; \
		expect_broken(&h, words); \
	} while (0)

Test(vm_invariants, each_is_looked_at)
{
	static struct q2_snapshot entry;
	struct house h;

	BREAK((void)0, NULL);
	BREAK(h.layers[1].below = 2, "on what is not there: layer '/i/b'");
	BREAK(h.layers[1].below = -2, "on what is not there: layer '/i/b'");
	BREAK(h.layers[0].below = 0, NULL);
	BREAK(h.layers[0].users = NULL, "without a path or a list: layer '/i/a'");
	BREAK(h.now.top = 2, "on a layer that is not there: disk 'vda'");
	BREAK(h.now.top = 0, NULL); /* a drive that is only read is not active */
	BREAK(h.disks[1].ino = 0, "a number: a disk of snapshot 's2'");
	BREAK(h.disks[1].state = VM_DETACHED, "with a reason and ok");
	BREAK((h.disks[1].state = VM_STALE, h.disks[1].reason = S("why")), "not to be read: a disk of snapshot 's2'");
	BREAK(h.disks[0].gate = NULL, "with a file and no chain");
	BREAK(h.chain[0] = NULL, "with a file and no chain");
	BREAK(h.disks[0].n_stamps = 2, "with a file and no chain");
	BREAK(h.disks[0].snapshot = &entry, "external with one");
	BREAK(h.snapshots[0].kind = VM_INTERNAL, "internal without an entry");
	BREAK(h.snapshots[1].shown = S("s1"), "shown twice: snapshot 's1'");
	BREAK(h.snapshots[1].xml = S("<a/>"), "half a definition");
	BREAK(h.domains[1] = &h.d, "not in order");
	BREAK(h.d.log = NULL, "something is missing");
}
