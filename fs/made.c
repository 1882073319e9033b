/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Two views at a time
 * -------------------
 * A difference needs two views: the second one is used from within the use of the first. Either may turn out to be stale and is opened anew
 * then, by the loop of sf_image_use() that it belongs to. So it matters whose fault an error was:
 *
 *	the outer view's      the inner loop is left as if all were well, and the outer one opens its view anew
 *	the inner view's      its own loop opens it anew. If that is in vain (its snapshot is gone, say), it is the end of the whole: the
 *	                      outer loop is left as if all were well, for its view is in order
 *
 * What is remembered
 * ------------------
 * Nothing of a view but the number of its content (q2_view_content()): a layout belongs to the numbers, and to the name by which the overlay
 * calls what it stands on. Numbers change more often than layouts do: by every write to a file of the chain, also where that only moves what
 * lies beneath. That is why an open file compares layouts, and not numbers; but what is no snapshot (a present content) is another one with
 * every number.
 */
#include "made.h"

#include <errno.h>
#include <string.h>

#include "clock.h"
#include "vm/util/mem.h"

#define SIZES 65536 /* 3.5 MiB, touched as needed */
#define MOST_TEXT (64u << 20)
#define MOST_TEXTS (256u << 20)
#define KEPT_TEXT (1u << 20) /* larger ones are not kept for who asks next */
#define LOOK_NS 100000000    /* whether somebody still waits, while another thread makes the same */

/* What a file is, beside what the views say. */
struct recipe {
	struct sf_key key;
	char *name; /* of the other image, as the overlay calls it; NULL: there is none */
	bool off;   /* of a whole disk: nobody is known to run it, so that its present content may be taken */
};

/* What it is a function of, by views at one moment. */
struct content {
	uint64_t number;
	int64_t changed_ns; /* of a whole disk: when it became what it is; else 0 */
	bool present;       /* of a whole disk: its present content is in it */
};

/* Immutable but for refs. One of these three: */
struct sf_made {
	atomic_uint refs;
	struct sf_key key;
	struct content content;
	uint64_t layout;
	struct q2_export *x;
	struct q2_copy *copy;
	char *text;
	size_t len, charged;
};

struct sf_made_size {
	struct sf_key key; /* .ino 0: free */
	uint64_t content;
	struct sf_made_stat stat;
};

struct sf_in_hand {
	LIST_ENTRY(sf_in_hand) link;
	struct sf_key key;
	uint64_t content;
};

struct sf_made_file {
	/* immutable */
	struct sf_mades *owner;
	struct recipe recipe;
	struct sf_image *image, *before; /* before: NULL, or of a difference */
	bool present;                    /* one of them is no snapshot: once it has begun, also of a whole disk */
	uint64_t layout, content;        /* once it has begun */
	uint64_t size;
	/* atomic */
	atomic_uint edition, before_edition;
	/* guarded by lock */
	pthread_mutex_t lock;
	struct sf_made *made; /* by which it is read at present */
};

static atomic_size_t texts; /* bytes of all that there are */

void sf_mades_init(struct sf_mades *mades, struct sf_images *images)
{
	*mades = (struct sf_mades){.images = images};
	mades->sizes = xcalloc(SIZES, sizeof(*mades->sizes));
	pthread_mutex_init(&mades->lock, NULL);
	sf_clock_cond_init(&mades->made);
}

static void made_put(struct sf_made *made)
{
	if (!made || atomic_fetch_sub(&made->refs, 1) != 1)
		return;
	q2_export_free(made->x);
	q2_copy_free(made->copy);
	atomic_fetch_sub(&texts, made->charged);
	free(made->text);
	free(made);
}

void sf_mades_fini(struct sf_mades *mades)
{
	for (size_t i = 0; i < SF_MADE_RECENT; i++)
		made_put(mades->recent[i]);
	free(mades->sizes);
	pthread_cond_destroy(&mades->made);
	pthread_mutex_destroy(&mades->lock);
}

/* ---------------------------------------------------------------- what was made before */

static int content_of(const struct recipe *recipe, struct q2_view *view, struct q2_view *before, struct sf_waiter *waiter, struct content *out,
		      struct vs_err *err)
{
	uint64_t other = before ? q2_view_content(before) : 0;
	struct q2_copy_state state;
	int rc;

	if (recipe->key.kind != SF_WHOLE) {
		*out = (struct content){.number = vm_ino(q2_view_content(view) ^ (other << 1 | other >> 63), recipe->name ? recipe->name : "")};
		return 0;
	}
	rc = q2_copy_look(view, recipe->off, &waiter->work, &state, err);
	if (rc == 0)
		*out = (struct content){.number = state.content, .changed_ns = state.changed_ns, .present = state.present};
	return rc;
}

static struct sf_made_size *slot(struct sf_mades *mades, const struct sf_key *key)
{
	uint64_t mixed = (key->ino ^ key->before << 1 ^ (uint64_t)key->kind << 56) * 0x9e3779b97f4a7c15u;

	return &mades->sizes[mixed >> 48 & (SIZES - 1)];
}

bool sf_made_known(struct sf_mades *mades, const struct sf_key *key, struct sf_made_stat *stat)
{
	bool known;

	pthread_mutex_lock(&mades->lock);
	known = sf_key_equal(&slot(mades, key)->key, key);
	if (known)
		*stat = slot(mades, key)->stat;
	pthread_mutex_unlock(&mades->lock);
	return known;
}

static bool stat_of(struct sf_mades *mades, const struct sf_key *key, uint64_t content, struct sf_made_stat *stat)
{
	bool known;

	pthread_mutex_lock(&mades->lock);
	known = sf_key_equal(&slot(mades, key)->key, key) && slot(mades, key)->content == content;
	if (known)
		*stat = slot(mades, key)->stat;
	pthread_mutex_unlock(&mades->lock);
	return known;
}

static struct sf_made_stat made_stat(const struct sf_made *made)
{
	return (struct sf_made_stat){.size = made->len, .changed_ns = made->content.changed_ns};
}

/* The one at @i to the front. */
static void use_locked(struct sf_mades *mades, size_t i)
{
	struct sf_made *made = mades->recent[i];

	memmove(mades->recent + 1, mades->recent, i * sizeof(made));
	mades->recent[0] = made;
}

static struct sf_made *find_recent_locked(struct sf_mades *mades, const struct sf_key *key, uint64_t content)
{
	for (size_t i = 0; i < SF_MADE_RECENT; i++) {
		struct sf_made *made = mades->recent[i];

		if (!made || made->content.number != content || !sf_key_equal(&made->key, key))
			continue;
		atomic_fetch_add(&made->refs, 1);
		use_locked(mades, i);
		return made;
	}
	return NULL;
}

static void remember(struct sf_mades *mades, struct sf_made *made)
{
	struct sf_made *last = NULL;

	pthread_mutex_lock(&mades->lock);
	*slot(mades, &made->key) = (struct sf_made_size){.key = made->key, .content = made->content.number, .stat = made_stat(made)};
	if (made->len <= KEPT_TEXT || !made->text) {
		atomic_fetch_add(&made->refs, 1);
		last = mades->recent[SF_MADE_RECENT - 1];
		mades->recent[SF_MADE_RECENT - 1] = made;
		use_locked(mades, SF_MADE_RECENT - 1);
	}
	pthread_mutex_unlock(&mades->lock);
	made_put(last);
}

/* @made: only that one; NULL: all. */
static void forget(struct sf_mades *mades, const struct sf_made *made)
{
	struct sf_made *gone[SF_MADE_RECENT] = {NULL};

	pthread_mutex_lock(&mades->lock);
	for (size_t i = 0; i < SF_MADE_RECENT; i++) {
		if (made && mades->recent[i] != made)
			continue;
		gone[i] = mades->recent[i];
		mades->recent[i] = NULL;
	}
	if (made && slot(mades, &made->key)->content == made->content.number)
		slot(mades, &made->key)->key.ino = 0;
	pthread_mutex_unlock(&mades->lock);
	for (size_t i = 0; i < SF_MADE_RECENT; i++)
		made_put(gone[i]);
}

/* ---------------------------------------------------------------- making */

struct listing {
	FILE *out;
	bool any, too_long;
};

/* As `qemu-img map --output=json` writes its own. */
static int list_change(void *opaque, uint64_t guest_off, uint64_t len, bool zero)
{
	struct listing *list = opaque;

	fprintf(list->out, "%s{ \"start\": %llu, \"length\": %llu, \"depth\": 0, \"present\": true, \"zero\": %s, \"data\": %s}",
		list->any ? ",\n" : "[", (unsigned long long)guest_off, (unsigned long long)len, zero ? "true" : "false",
		zero ? "false" : "true");
	list->any = true;
	list->too_long = ftello(list->out) > MOST_TEXT;
	return list->too_long ? -EFBIG : 0;
}

static uint64_t hash_of(const char *text, size_t len)
{
	uint64_t hash = UINT64_C(14695981039346656037) ^ len;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
	return hash;
}

static int make_text(struct sf_made *made, struct q2_view *view, struct q2_view *before, struct sf_waiter *waiter, struct vs_err *err)
{
	struct listing list = {.out = xmemopen(&made->text, &made->len)};
	int rc = q2_view_changes(view, before, &waiter->work, list_change, &list, err);

	fputs(list.any ? "]\n" : "[]\n", list.out);
	xmemclose(list.out);
	made->charged = made->len;
	if (atomic_fetch_add(&texts, made->charged) + made->charged > MOST_TEXTS && rc == 0)
		rc = vs_err_set(err, -EFBIG, "the lists of what changed that are open take more than %u MiB", MOST_TEXTS >> 20);
	else if (list.too_long)
		vs_err_set(err, rc, "the list of what changed would take more than %u MiB", MOST_TEXT >> 20);
	made->layout = hash_of(made->text, made->len);
	return rc;
}

static int lay_out(struct sf_made *made, const struct recipe *recipe, struct q2_view *view, struct q2_view *before, struct sf_waiter *waiter,
		   struct vs_err *err)
{
	vs_autofree char *backing = recipe->name ? xasprintf("../%s", recipe->name) : NULL;
	const struct q2_export_spec spec = {.view = view, .before = before, .backing_name = backing, .work = &waiter->work};
	const struct q2_copy_spec whole = {.view = view, .present = recipe->off, .work = &waiter->work};

	return made->key.kind == SF_WHOLE ? q2_copy_new(&whole, &made->copy, err) : q2_export_new(&spec, &made->x, err);
}

static int make(struct sf_mades *mades, struct sf_made *made, const struct recipe *recipe, struct q2_view *view, struct q2_view *before,
		struct sf_waiter *waiter, struct vs_err *err)
{
	const struct q2_copy_state *state;
	int rc;

	if (made->key.kind == SF_DIFF_JSON)
		return make_text(made, view, before, waiter, err);
	rc = lay_out(made, recipe, view, before, waiter, err);
	if (rc == -ENOBUFS) { /* of what may be kept of all together, others have too much */
		forget(mades, NULL);
		rc = lay_out(made, recipe, view, before, waiter, err);
	}
	if (rc < 0)
		return rc == -ENOBUFS ? -EFBIG : rc;
	made->len = made->copy ? q2_copy_size(made->copy) : q2_export_size(made->x);
	made->layout = made->copy ? q2_copy_layout(made->copy) : q2_export_layout(made->x);
	if (made->copy) { /* it may have been written to since the content was asked for */
		state = q2_copy_state(made->copy);
		made->content = (struct content){.number = state->content, .changed_ns = state->changed_ns, .present = state->present};
	}
	return 0;
}

static bool is_in_hand_locked(const struct sf_mades *mades, const struct sf_in_hand *mine)
{
	const struct sf_in_hand *other;

	LIST_FOREACH(other, &mades->in_hand, link)
		if (other->content == mine->content && sf_key_equal(&other->key, &mine->key))
			return true;
	return false;
}

/* One thread makes it, for all who want it. 1: it was made before; 0: it is ours to make, and @mine is in the list. */
static int take_in_hand(struct sf_mades *mades, struct sf_in_hand *mine, struct sf_waiter *waiter, struct sf_made **made)
{
	int rc = 0;

	pthread_mutex_lock(&mades->lock);
	while (!(*made = find_recent_locked(mades, &mine->key, mine->content)) && is_in_hand_locked(mades, mine) && rc == 0) {
		if (sf_waiter_gone(waiter))
			rc = -EINTR;
		else
			sf_clock_wait(&mades->made, &mades->lock, sf_clock_ns() + LOOK_NS);
	}
	if (*made)
		rc = 1;
	else if (rc == 0)
		LIST_INSERT_HEAD(&mades->in_hand, mine, link);
	pthread_mutex_unlock(&mades->lock);
	return rc;
}

static void out_of_hand(struct sf_mades *mades, struct sf_in_hand *mine)
{
	pthread_mutex_lock(&mades->lock);
	LIST_REMOVE(mine, link);
	pthread_cond_broadcast(&mades->made);
	pthread_mutex_unlock(&mades->lock);
}

/* Gives *out: what @key is with these views. */
static int made_get(struct sf_mades *mades, const struct recipe *recipe, const struct content *content, struct q2_view *view,
		    struct q2_view *before, struct sf_waiter *waiter, struct sf_made **out, struct vs_err *err)
{
	struct sf_in_hand mine = {.key = recipe->key, .content = content->number};
	struct sf_made *made;
	int rc = take_in_hand(mades, &mine, waiter, &made);

	if (rc < 0)
		return rc;
	if (rc == 0) {
		made = xcalloc(1, sizeof(*made));
		made->key = recipe->key;
		made->content = *content;
		atomic_init(&made->refs, 1);
		rc = make(mades, made, recipe, view, before, waiter, err);
		if (rc == 0)
			remember(mades, made);
		out_of_hand(mades, &mine);
		if (rc < 0) {
			made_put(made);
			return rc;
		}
	}
	*out = made;
	return 0;
}

/* ---------------------------------------------------------------- two views at a time */

struct both {
	struct sf_made_file *file;
	struct sf_waiter *waiter;
	int64_t (*use)(struct both *both, struct q2_view *view, struct q2_view *before, struct vs_err *err);
	/* of the user */
	char *buf;
	size_t len;
	uint64_t off;
	struct sf_made_stat stat;
	/* how it went */
	struct sf_view *view;
	bool outer_stale; /* it is the outer view that has to be opened anew */
	int64_t last;     /* not 0: how it ends, whatever the views are, */
	struct vs_err why; /* and why */
};

/* Errors after which a view is opened anew. */
static bool is_views_fault(int64_t rc)
{
	return rc == -ESTALE || rc == -EAGAIN || rc == -ENOENT;
}

/* It is what was opened, and lies where that lay. */
static int check_view(struct q2_view *view, struct sf_waiter *waiter, struct vs_err *err)
{
	if (q2_view_replaced(view))
		return vs_err_set(err, -ESTALE, "a file that it stands on was replaced by another one");
	return q2_view_check(view, &waiter->work, err);
}

static int64_t with_before(struct sf_view *before, void *opaque, struct vs_err *err)
{
	struct both *both = opaque;
	int64_t rc = both->use(both, both->view->q2, before->q2, err);

	both->outer_stale = is_views_fault(rc) && is_views_fault(check_view(both->view->q2, both->waiter, NULL));
	if (both->outer_stale)
		both->last = 0;
	return both->outer_stale || both->last ? 0 : rc;
}

static int64_t with_view(struct sf_view *view, void *opaque, struct vs_err *err)
{
	struct both *both = opaque;
	struct sf_made_file *file = both->file;
	int64_t rc;

	if (!file->before) {
		rc = both->use(both, view->q2, NULL, err);
		return both->last ? 0 : rc;
	}
	both->view = view;
	both->outer_stale = false;
	both->why = (struct vs_err){0};
	rc = sf_image_use(file->before, both->waiter, &file->before_edition, with_before, both, &both->why);
	if (both->outer_stale)
		return vs_err_set(err, -ESTALE, "a file that it stands on is another one by now");
	if (rc < 0)
		both->last = rc;
	return both->last ? 0 : rc;
}

static int64_t use_both(struct both *both, struct vs_err *err)
{
	int64_t rc = sf_image_use(both->file->image, both->waiter, &both->file->edition, with_view, both, err);

	if (both->last && err && both->why.code)
		*err = both->why;
	return both->last ? both->last : rc;
}

/* ---------------------------------------------------------------- files */

struct sf_made_file *sf_made_open(struct sf_mades *mades, const struct sf_place *place)
{
	struct sf_made_file *file = xcalloc(1, sizeof(*file));
	struct sf_key image;

	file->owner = mades;
	file->recipe = (struct recipe){.key = sf_place_key(place), .off = place->made == SF_WHOLE && sf_shows_present(place->dir->domain, place->entry->disk)};
	image = (struct sf_key){.domain = file->recipe.key.domain, .ino = place->entry->ino, .kind = SF_IMAGE};
	file->present = place->entry->snapshot->present || (place->before && place->before->snapshot->present);
	file->image = sf_image_open(mades->images, &image);
	if (place->before) {
		image.ino = file->recipe.key.before;
		file->before = sf_image_open(mades->images, &image);
		file->recipe.name = xstrdup(place->before->name);
	}
	pthread_mutex_init(&file->lock, NULL);
	return file;
}

void sf_made_close(struct sf_made_file *file)
{
	sf_image_close(file->image);
	if (file->before)
		sf_image_close(file->before);
	made_put(file->made);
	free(file->recipe.name);
	pthread_mutex_destroy(&file->lock);
	free(file);
}

static int64_t begin(struct both *both, struct q2_view *view, struct q2_view *before, struct vs_err *err)
{
	struct sf_made_file *file = both->file;
	struct content content;
	int rc = check_view(view, both->waiter, err);

	if (rc == 0 && before)
		rc = check_view(before, both->waiter, err);
	if (rc == 0)
		rc = content_of(&file->recipe, view, before, both->waiter, &content, err);
	if (rc == 0)
		rc = made_get(file->owner, &file->recipe, &content, view, before, both->waiter, &file->made, err);
	if (rc < 0)
		return rc;
	file->layout = file->made->layout;
	file->content = file->made->content.number;
	file->present |= file->made->content.present;
	file->size = file->made->len;
	return 0;
}

int sf_made_begin(struct sf_made_file *file, struct sf_waiter *waiter, struct vs_err *err)
{
	struct both both = {.file = file, .waiter = waiter, .use = begin};

	return (int)use_both(&both, err);
}

uint64_t sf_made_file_size(const struct sf_made_file *file)
{
	return file->size;
}

static bool is_another(const struct sf_made_file *file, const struct sf_made *made)
{
	return made->layout != file->layout || (file->present && made->content.number != file->content);
}

/* What the file is by these views, with a reference. -ESTALE and both->last: another file. */
static int current_made(struct both *both, struct q2_view *view, struct q2_view *before, struct sf_made **out, struct vs_err *err)
{
	struct sf_made_file *file = both->file;
	struct sf_made *made = NULL, *old;
	struct content content;
	int rc = content_of(&file->recipe, view, before, both->waiter, &content, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&file->lock);
	if (file->made->content.number == content.number) {
		made = file->made;
		atomic_fetch_add(&made->refs, 1);
	}
	pthread_mutex_unlock(&file->lock);
	if (!made) {
		rc = made_get(file->owner, &file->recipe, &content, view, before, both->waiter, &made, err);
		if (rc < 0)
			return rc;
		if (is_another(file, made)) {
			made_put(made);
			rc = check_view(view, both->waiter, err); /* by a view that is as it should be, that is so for good */
			if (rc == 0 && before)
				rc = check_view(before, both->waiter, err);
			if (rc < 0)
				return rc;
			both->last = vs_err_set(&both->why, -ESTALE, "what it is made of is another one by now, or laid out otherwise: open it anew");
			return (int)both->last;
		}
		atomic_fetch_add(&made->refs, 1);
		pthread_mutex_lock(&file->lock);
		old = file->made;
		file->made = made;
		pthread_mutex_unlock(&file->lock);
		made_put(old);
	}
	*out = made;
	return 0;
}

/* The views are what they were when the layout was made, and yet the map says something else: such a layout is nobody's. */
static bool is_layouts_fault(int64_t rc, struct both *both, struct q2_view *view, struct q2_view *before)
{
	return rc == -ESTALE && check_view(view, both->waiter, NULL) == 0 && (!before || check_view(before, both->waiter, NULL) == 0);
}

static int64_t read_made(struct both *both, struct q2_view *view, struct q2_view *before, struct vs_err *err)
{
	struct sf_made *made = NULL;
	int64_t n = current_made(both, view, before, &made, err);

	if (n < 0)
		return n;
	if (made->copy) {
		n = q2_copy_read(made->copy, view, both->buf, both->len, both->off, &both->waiter->work, err);
	} else if (made->x) {
		n = q2_export_read(made->x, view, before, both->buf, both->len, both->off, &both->waiter->work, err);
	} else if (both->off < made->len) {
		n = (int64_t)(made->len - both->off < both->len ? made->len - both->off : both->len);
		memcpy(both->buf, made->text + both->off, (size_t)n);
	}
	if (is_layouts_fault(n, both, view, before)) {
		forget(both->file->owner, made);
		both->last = vs_err_set(&both->why, (int)n, "the map of '%s' is not what it was", q2_view_path(view, 0));
	}
	made_put(made);
	return n;
}

int64_t sf_made_read(struct sf_made_file *file, struct sf_waiter *waiter, char *buf, size_t len, uint64_t off, struct vs_err *err)
{
	struct both both = {.file = file, .waiter = waiter, .use = read_made, .buf = buf, .len = len, .off = off};

	return use_both(&both, err);
}

void sf_made_complain(struct sf_made_file *file, const char *doing, int code, const struct vs_err *err)
{
	sf_image_complain(file->image, doing, code, err);
}

/* ---------------------------------------------------------------- sizes */

static int measure(const struct sf_made_file *file, struct q2_view *view, struct q2_view *before, struct sf_waiter *waiter,
		   struct sf_made_stat *stat, struct vs_err *err)
{
	struct sf_mades *mades = file->owner;
	struct content content;
	struct sf_made *made;
	int rc = check_view(view, waiter, err);

	if (rc == 0 && before)
		rc = check_view(before, waiter, err);
	if (rc == 0)
		rc = content_of(&file->recipe, view, before, waiter, &content, err);
	if (rc < 0 || stat_of(mades, &file->recipe.key, content.number, stat))
		return rc;
	rc = made_get(mades, &file->recipe, &content, view, before, waiter, &made, err);
	if (rc == 0) {
		*stat = made_stat(made);
		made_put(made);
	}
	return rc;
}

bool sf_made_is_us(pid_t tid)
{
	vs_autofree char *path = xasprintf("/proc/self/task/%d", (int)tid);

	return tid > 0 && access(path, F_OK) == 0;
}

static int64_t measure_both(struct both *both, struct q2_view *view, struct q2_view *before, struct vs_err *err)
{
	return measure(both->file, view, before, both->waiter, &both->stat, err);
}

/* A view of one's own that locks nothing: a guest that starts just now is not to meet the lock of who only looks. */
static int open_lockless(struct sf_mades *mades, const struct sf_place *place, const struct sf_entry *entry, struct sf_waiter *waiter,
			 struct sf_view **out, struct vs_err *err)
{
	struct vm_disk disk = *entry->disk;

	if (disk.state == VM_BUSY || !disk.chain || !disk.chain[0])
		return -EBUSY;
	disk.guard = disk.guard_top = false;
	return sf_view_open(mades->images->views, place->dir->domain->uuid, &disk, &waiter->work, out, err);
}

static int measure_lockless(const struct sf_made_file *file, const struct sf_place *place, struct sf_waiter *waiter,
			    struct sf_made_stat *stat, struct vs_err *err)
{
	struct sf_mades *mades = file->owner;
	struct sf_view *view = NULL, *before = NULL;
	int rc = open_lockless(mades, place, place->entry, waiter, &view, err);

	if (rc == 0 && place->before)
		rc = open_lockless(mades, place, place->before, waiter, &before, err);
	if (rc == 0)
		rc = measure(file, view->q2, before ? before->q2 : NULL, waiter, stat, err);
	sf_view_put(view);
	sf_view_put(before);
	return rc;
}

int sf_made_stat(struct sf_mades *mades, const struct sf_place *place, struct sf_waiter *waiter, struct sf_made_stat *stat, struct vs_err *err)
{
	struct sf_made_file *file = sf_made_open(mades, place);
	struct both both = {.file = file, .waiter = waiter, .use = measure_both};
	int rc = file->present ? measure_lockless(file, place, waiter, stat, err) : (int)use_both(&both, err);

	if (rc == 0 && !file->present)
		*stat = both.stat;
	sf_made_close(file);
	return sf_waiter_errno(waiter, rc);
}
