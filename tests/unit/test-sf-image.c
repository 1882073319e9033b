/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What a read does when its image is not where it was. vm/ and the views of qcow2/ are played by the few functions at
 * the top, so that every turn can be forced: `script` is what is told.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "fs/image.h"
#include "sf-domain.h"

/* ---------------------------------------------------------------- vm/ and qcow2/ as played */

struct q2_view {
	int number; /* of the open that made it */
	uint64_t ino;
};

static struct {
	int opens, closes, refreshes;
	int open_fails, open_rc;          /* so many opens fail, with that */
	int refresh_rc;
	void (*on_refresh)(void);         /* what the refresh finds out */
	struct vm_inventory *current;
	uint64_t ino;                     /* of the file that lies there now; */
	unsigned written;                 /* how often it was written */
} script = {.ino = 5};

struct vm_inventory *vm_inventory_get(struct vm *vm)
{
	(void)vm;
	return script.current;
}

void vm_inventory_put(struct vm_inventory *inventory)
{
	(void)inventory;
}

int vm_refresh(struct vm *vm, unsigned timeout_ms)
{
	(void)vm;
	cr_expect_gt(timeout_ms, 0);
	script.refreshes++;
	if (script.on_refresh)
		script.on_refresh();
	return script.refresh_rc;
}

void vm_log(struct vm_log *log, const char *fmt, ...)
{
	(void)log;
	(void)fmt;
}

uint64_t vm_ino(uint64_t parent, const char *name)
{
	return parent * 31 + (unsigned char)name[0] * 7 + strlen(name);
}

uint64_t vm_ino_made(uint64_t image, uint64_t before, const char *as)
{
	(void)before;
	return vm_ino(image, as);
}

uint64_t vm_ino_whole(uint64_t parent, const char *target)
{
	return vm_ino(parent, target);
}

int q2_view_open(struct q2_cache *cache, const struct q2_view_spec *spec, struct q2_view **out, struct vs_err *err)
{
	(void)cache;
	cr_expect_str_eq(spec->path, "/images/a.qcow2");
	script.opens++;
	if (script.open_fails > 0) {
		script.open_fails--;
		return vs_err_set(err, script.open_rc, "as told");
	}
	*out = calloc(1, sizeof(**out));
	(*out)->number = script.opens;
	(*out)->ino = script.ino;
	return 0;
}

void q2_view_close(struct q2_view *view)
{
	script.closes++;
	free(view);
}

int q2_view_lease(struct q2_view *view, const struct q2_lease *lease)
{
	(void)view;
	(void)lease;
	return -ENOTSUP;
}

int q2_view_check_anew(struct q2_view *view, struct q2_work *work)
{
	(void)view;
	(void)work;
	return -ENOTSUP;
}

bool q2_view_leased(struct q2_view *view)
{
	(void)view;
	return false;
}

bool q2_view_file_leased(struct q2_view *view, size_t idx)
{
	(void)view;
	(void)idx;
	return false;
}

void q2_view_unlease(struct q2_view *view)
{
	(void)view;
}

void q2_view_unguard(struct q2_view *view)
{
	(void)view;
}

uint64_t q2_view_size(const struct q2_view *view)
{
	(void)view;
	return 1 << 20;
}

int q2_view_has_compressed(struct q2_view *view, struct q2_work *work, struct vs_err *err)
{
	(void)view;
	(void)work;
	(void)err;
	return 0;
}

/* The file it was opened on, by inode number. */
bool q2_view_file(const struct q2_view *view, size_t idx, const char **path, struct q2_stamp *stamp)
{
	if (idx)
		return false;
	*path = "/images/a.qcow2";
	*stamp = (struct q2_stamp){.dev = 7, .ino = view->ino};
	return true;
}

uint64_t q2_view_content(const struct q2_view *view)
{
	return view->ino * 1000 + script.written;
}

/* ---------------------------------------------------------------- one domain, one snapshot, one disk */

static struct vm_disk disk;
static struct vm_snapshot snapshot;
static struct vm_domain domain;
static struct vm_domain *domains[] = {&domain};
static struct vm_inventory with_it, without_it;
static struct sf_world world;
static struct sf_views views;
static struct sf_nodes nodes;
static struct sf_notices notices;
static struct sf_images images;
static atomic_bool ending;
static struct sf_image *image;
static struct sf_waiter waiter;

/* The next inventory has the disk in another state. */
static void change_state(enum vm_state state)
{
	static struct vm_inventory next[2];
	static unsigned turn;
	struct vm_inventory *inventory = &next[turn++ % 2];

	disk.state = state;
	*inventory = (struct vm_inventory){.serial = script.current->serial + 1, .domains = domains, .n_domains = 1};
	script.current = inventory;
}

/* As the notifier does when vm/ pokes it. */
static void see_the_new_inventory(void)
{
	sf_world_put(&world, sf_world_get(&world));
}

static void setup(void)
{
	const struct sf_key key = {.domain = 50, .ino = 1001, .kind = SF_IMAGE};

	disk = sf_test_disk("vda", "monday.vda.img", 1001);
	snapshot = (struct vm_snapshot){.name = S("monday"), .shown = S("monday"), .disks = &disk, .n_disks = 1};
	domain = (struct vm_domain){.name = S("web"), .dir = S("web"), .uuid = S("5c0"), .ino = 50, .snapshots = &snapshot, .n_snapshots = 1};
	with_it = (struct vm_inventory){.serial = 1, .domains = domains, .n_domains = 1};
	without_it = (struct vm_inventory){.serial = 1000};
	script.current = &with_it;
	sf_world_init(&world, NULL, true);
	sf_views_init(&views, true);
	sf_nodes_init(&nodes);
	sf_notices_init(&notices);
	sf_images_init(&images, &world, &views, &nodes, &notices, 0.01);
	sf_waiter_init(&waiter, &ending, NULL, 0);
	image = sf_image_open(&images, &key);
}

static void teardown(void)
{
	sf_image_close(image);
	sf_images_fini(&images);
	sf_views_fini(&views);
	sf_notices_fini(&notices);
	sf_nodes_fini(&nodes);
	sf_world_fini(&world);
	cr_expect(script.closes == script.opens || script.open_rc, "%d views opened, %d closed", script.opens, script.closes);
}

TestSuite(sf_image, .init = setup, .fini = teardown, .timeout = 60);

/* A use that finds its view stale so many times. */
static int stale_uses;

static int64_t use(struct sf_view *view, void *opaque, struct vs_err *err)
{
	int *seen = opaque;

	*seen = view->q2->number;
	if (stale_uses > 0) {
		stale_uses--;
		return vs_err_set(err, -ESTALE, "it moved");
	}
	return 42;
}

static int64_t read_it(int *seen)
{
	return sf_image_use(image, &waiter, NULL, use, seen, NULL);
}

/* ---------------------------------------------------------------- what is promised */

Test(sf_image, one_view_serves_all_uses)
{
	int seen;

	cr_expect_eq(read_it(&seen), 42);
	cr_expect_eq(read_it(&seen), 42);
	cr_expect_eq(script.opens, 1);
	cr_expect_eq(script.refreshes, 0);
}

Test(sf_image, open_files_of_one_image_share_it)
{
	struct sf_image *again;

	again = sf_image_open(&images, sf_image_key(image));
	cr_expect_eq(again, image);
	sf_image_close(again);
}

Test(sf_image, a_record_that_moved_costs_one_open_and_no_look_at_libvirt)
{
	int seen;

	cr_expect_eq(read_it(&seen), 42);
	stale_uses = 1;
	cr_expect_eq(read_it(&seen), 42);
	cr_expect_eq(seen, 2);
	cr_expect_eq(script.refreshes, 0);
	cr_expect_eq(script.closes, 1);
}

Test(sf_image, one_that_moves_all_the_time_is_still_read)
{
	int seen;

	stale_uses = 50;
	cr_expect_eq(read_it(&seen), 42);
	cr_expect_eq(seen, 51);
}

Test(sf_image, an_inventory_that_was_too_old_is_renewed)
{
	int seen;

	script.open_fails = 1;
	script.open_rc = -ESTALE;
	cr_expect_eq(read_it(&seen), 42);
	cr_expect_eq(script.refreshes, 1);
}

Test(sf_image, a_file_that_went_is_looked_for_as_well)
{
	int seen;

	script.open_fails = 1;
	script.open_rc = -ENOENT;
	cr_expect_eq(read_it(&seen), 42);
	cr_expect_eq(script.refreshes, 1);
}

static void it_is_gone(void)
{
	script.current = &without_it;
}

Test(sf_image, gone_is_said_after_fresh_looks_and_then_at_once)
{
	int seen;

	script.open_fails = 1000;
	script.open_rc = -ESTALE;
	script.on_refresh = it_is_gone;
	cr_expect_eq(read_it(&seen), -ESTALE);
	cr_expect_eq(script.refreshes, 2);
	cr_expect_eq(read_it(&seen), -ESTALE);
	cr_expect_eq(script.refreshes, 2, "it was looked for again");
}

static void it_is_back(void)
{
	script.current = &with_it;
	script.open_fails = 0;
	with_it.serial = 2000;
}

Test(sf_image, what_comes_back_is_read_again)
{
	int seen;

	script.open_fails = 1000;
	script.open_rc = -ESTALE;
	script.on_refresh = it_is_gone;
	cr_expect_eq(read_it(&seen), -ESTALE);
	it_is_back();
	see_the_new_inventory();
	cr_expect_eq(read_it(&seen), 42);
}

Test(sf_image, without_libvirt_nobody_says_gone)
{
	int seen;

	script.open_fails = 1000;
	script.open_rc = -ESTALE;
	script.refresh_rc = -EHOSTDOWN;
	cr_expect_eq(read_it(&seen), -EHOSTDOWN);
}

Test(sf_image, an_open_view_outlives_its_place_in_the_inventory)
{
	int seen;

	cr_expect_eq(read_it(&seen), 42);
	it_is_gone();
	see_the_new_inventory();
	cr_expect_eq(read_it(&seen), 42);
}

Test(sf_image, busy_is_said_at_once_and_passes)
{
	int seen;

	cr_expect_eq(read_it(&seen), 42);
	change_state(VM_BUSY);
	see_the_new_inventory();
	cr_expect_eq(read_it(&seen), -EBUSY);
	change_state(VM_OK);
	see_the_new_inventory();
	cr_expect_eq(read_it(&seen), 42);
	cr_expect_eq(script.refreshes, 0);
}

Test(sf_image, what_the_inventory_calls_stale_is_not_read_though_it_could_be)
{
	int seen;

	cr_expect_eq(read_it(&seen), 42);
	change_state(VM_STALE);
	see_the_new_inventory();
	cr_expect_eq(read_it(&seen), -ESTALE);
}

Test(sf_image, at_the_end_of_the_session_nobody_goes_on_looking)
{
	int seen;

	stale_uses = 1000000;
	atomic_store(&ending, true);
	cr_expect_eq(read_it(&seen), -ENOTCONN);
	cr_expect_eq(script.refreshes, 0);
	cr_expect_leq(script.opens, 1);
	atomic_store(&ending, false);
	stale_uses = 0;
	cr_expect_eq(read_it(&seen), 42);
}

/* ---------------------------------------------------------------- other files under the same names */

static int64_t read_as(atomic_uint *edition)
{
	int seen;

	return sf_image_use(image, &waiter, edition, use, &seen, NULL);
}

/* The inventory as it is once somebody has looked: another file lies there. */
static void see_another_file(void)
{
	static struct q2_stamp stamps[2];
	static unsigned turn;
	struct q2_stamp *stamp = &stamps[turn++ % 2];

	*stamp = (struct q2_stamp){.dev = 7, .ino = ++script.ino};
	disk.stamps = stamp;
	disk.n_stamps = 1;
	change_state(VM_OK);
	see_the_new_inventory();
}

Test(sf_image, who_has_read_a_file_that_was_replaced_reads_no_other)
{
	atomic_uint before = 0, after = 0;
	fuse_ino_t old, now;

	old = sf_node_take(&nodes, sf_image_key(image));
	cr_expect_eq(read_as(&before), 42);
	see_another_file();
	cr_expect_eq(read_as(&before), -ESTALE);
	cr_expect_eq(read_as(&before), -ESTALE);
	cr_expect_eq(read_as(&after), 42);
	cr_expect_eq(read_as(&before), -ESTALE, "for ever");
	cr_expect_eq(script.opens, 2);
	/* and nobody comes by the old inode any more */
	now = sf_node_take(&nodes, sf_image_key(image));
	cr_expect_neq(now, old);
	cr_assert_eq(notices.n, 1);
	cr_expect_eq(notices.list[0].replaced, old);
	see_another_file();
	cr_expect_eq(read_as(&after), -ESTALE);
}

Test(sf_image, without_the_inventory_a_view_goes_on_with_the_file_it_has)
{
	atomic_uint edition = 0;

	cr_expect_eq(read_as(&edition), 42);
	script.ino++;
	cr_expect_eq(read_as(&edition), 42);
	cr_expect_eq(script.opens, 1);
}

Test(sf_image, a_file_that_is_found_to_be_another_when_it_is_opened_anew)
{
	atomic_uint edition = 0;

	cr_expect_eq(read_as(&edition), 42);
	script.ino++;
	stale_uses = 1; /* opened anew for another reason, before the inventory knows */
	cr_expect_eq(read_as(&edition), -ESTALE);
	cr_expect_eq(script.opens, 2);
}

Test(sf_image, the_same_file_written_is_the_same_edition_and_costs_the_kernels_pages)
{
	atomic_uint edition = 0;

	cr_expect_eq(read_as(&edition), 42);
	script.written++;
	stale_uses = 1;
	cr_expect_eq(read_as(&edition), 42); /* what the inventory says of it counts */
	cr_assert_eq(notices.n, 1);
	cr_expect(notices.list[0].data && !notices.list[0].replaced);
	stale_uses = 1; /* a record that moved */
	cr_expect_eq(read_as(&edition), 42);
	cr_expect_eq(notices.n, 1);
}

Test(sf_image, who_has_read_nothing_yet_reads_what_is_there)
{
	atomic_uint early = 0;

	change_state(VM_BUSY);
	see_the_new_inventory();
	cr_expect_eq(read_as(&early), -EBUSY);
	see_another_file();
	cr_expect_eq(read_as(&early), 42);
}

Test(sf_image, a_file_that_is_no_image_any_more_is_looked_for_and_the_inventory_decides)
{
	int seen;

	script.open_fails = 1;
	script.open_rc = -EINVAL;
	cr_expect_eq(read_it(&seen), 42, "it was being written");
	cr_expect_eq(script.refreshes, 1);
	script.open_fails = 1000;
	stale_uses = 1;
	cr_expect_eq(read_it(&seen), -EUCLEAN, "the inventory still says that it is one");
	script.open_rc = -EFBIG;
	cr_expect_eq(read_it(&seen), -EUCLEAN);
	script.on_refresh = it_is_gone;
	cr_expect_eq(read_it(&seen), -ESTALE);
}

Test(sf_image, other_errors_pass_through_untouched)
{
	struct vs_err err = {0};
	int seen;

	script.open_fails = 1;
	script.open_rc = -EUCLEAN;
	cr_expect_eq(sf_image_use(image, &waiter, NULL, use, &seen, &err), -EUCLEAN);
	cr_expect_str_eq(err.msg, "as told");
	cr_expect_eq(script.refreshes, 0);
	cr_expect_eq(read_it(&seen), 42);
}
