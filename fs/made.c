/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * One view after the other
 * ------------------------
 * A difference needs two views at a time: the second one is used from within the use of the first. Either may turn out to be stale and be
 * opened anew, and then all begins again, with whatever both are now. So nothing is remembered of a view but the number of its content
 * (q2_view_content()), and a layout belongs to the numbers that it was made with. Numbers change more often than layouts do: by every
 * write to a file of the chain, also where that only moves what lies beneath. That is why an open file compares layouts, and not numbers.
 *
 * The overlay's name for what it stands on is a part of it, and known before: the other image's name, which the key does not have. A
 * snapshot that gets another name is another file.
 */
#include "made.h"

#include <errno.h>
#include <string.h>

#include "clock.h"
#include "vm/util/mem.h"

#define SIZES 4096
#define MOST_TEXT (64u << 20)

/* Immutable but for refs. */
struct sf_made {
	atomic_uint refs;
	struct sf_key key;
	uint64_t content, layout;
	struct q2_export *x; /* NULL: a text */
	char *text;
	size_t len;
};

struct sf_made_size {
	struct sf_key key; /* .ino 0: free */
	uint64_t content, size;
};

struct sf_made_file {
	/* immutable */
	struct sf_mades *owner;
	struct sf_key key;
	struct sf_image *image, *before; /* before: NULL, or of a difference */
	char *name;
	uint64_t layout; /* once it has begun */
	uint64_t size;
	/* atomic */
	atomic_uint edition, before_edition;
	/* guarded by lock */
	pthread_mutex_t lock;
	struct sf_made *made; /* by which it is read at present */
};

void sf_mades_init(struct sf_mades *mades, struct sf_images *images)
{
	*mades = (struct sf_mades){.images = images};
	mades->sizes = xcalloc(SIZES, sizeof(*mades->sizes));
	pthread_mutex_init(&mades->lock, NULL);
}

static void made_put(struct sf_made *made)
{
	if (!made || atomic_fetch_sub(&made->refs, 1) != 1)
		return;
	q2_export_free(made->x);
	free(made->text);
	free(made);
}

void sf_mades_fini(struct sf_mades *mades)
{
	for (size_t i = 0; i < SF_MADE_RECENT; i++)
		made_put(mades->recent[i]);
	free(mades->sizes);
	pthread_mutex_destroy(&mades->lock);
}

/* ---------------------------------------------------------------- what was made before */

static uint64_t content_of(const struct sf_view *view, const struct sf_view *before)
{
	return before ? vm_ino(view->content ^ (before->content << 1 | before->content >> 63), "..") : view->content;
}

static struct sf_made_size *slot(struct sf_mades *mades, const struct sf_key *key)
{
	uint64_t mixed = (key->ino ^ key->before << 1 ^ (uint64_t)key->kind << 56) * 0x9e3779b97f4a7c15u;

	return &mades->sizes[mixed >> 48 & (SIZES - 1)];
}

bool sf_made_known(struct sf_mades *mades, const struct sf_key *key, uint64_t *size)
{
	bool known;

	pthread_mutex_lock(&mades->lock);
	known = sf_key_equal(&slot(mades, key)->key, key);
	if (known)
		*size = slot(mades, key)->size;
	pthread_mutex_unlock(&mades->lock);
	return known;
}

static bool size_of(struct sf_mades *mades, const struct sf_key *key, uint64_t content, uint64_t *size)
{
	bool known;

	pthread_mutex_lock(&mades->lock);
	known = sf_key_equal(&slot(mades, key)->key, key) && slot(mades, key)->content == content;
	if (known)
		*size = slot(mades, key)->size;
	pthread_mutex_unlock(&mades->lock);
	return known;
}

/* The one at @i to the front. */
static void use_locked(struct sf_mades *mades, size_t i)
{
	struct sf_made *made = mades->recent[i];

	memmove(mades->recent + 1, mades->recent, i * sizeof(made));
	mades->recent[0] = made;
}

static struct sf_made *find_recent(struct sf_mades *mades, const struct sf_key *key, uint64_t content)
{
	struct sf_made *found = NULL;

	pthread_mutex_lock(&mades->lock);
	for (size_t i = 0; i < SF_MADE_RECENT && !found; i++) {
		struct sf_made *made = mades->recent[i];

		if (!made || made->content != content || !sf_key_equal(&made->key, key))
			continue;
		found = made;
		atomic_fetch_add(&found->refs, 1);
		use_locked(mades, i);
	}
	pthread_mutex_unlock(&mades->lock);
	return found;
}

static void remember(struct sf_mades *mades, struct sf_made *made)
{
	struct sf_made *last;

	atomic_fetch_add(&made->refs, 1);
	pthread_mutex_lock(&mades->lock);
	last = mades->recent[SF_MADE_RECENT - 1];
	mades->recent[SF_MADE_RECENT - 1] = made;
	use_locked(mades, SF_MADE_RECENT - 1);
	*slot(mades, &made->key) = (struct sf_made_size){.key = made->key, .content = made->content, .size = made->len};
	pthread_mutex_unlock(&mades->lock);
	made_put(last);
}

static void forget_recent(struct sf_mades *mades)
{
	struct sf_made *all[SF_MADE_RECENT];

	pthread_mutex_lock(&mades->lock);
	memcpy(all, mades->recent, sizeof(all));
	memset(mades->recent, 0, sizeof(mades->recent));
	pthread_mutex_unlock(&mades->lock);
	for (size_t i = 0; i < SF_MADE_RECENT; i++)
		made_put(all[i]);
}

/* ---------------------------------------------------------------- making */

struct listing {
	FILE *out;
	bool any;
};

/* As `qemu-img map --output=json` writes its own. */
static int list_change(void *opaque, uint64_t guest_off, uint64_t len, bool zero)
{
	struct listing *list = opaque;

	fprintf(list->out, "%s{ \"start\": %llu, \"length\": %llu, \"depth\": 0, \"present\": true, \"zero\": %s, \"data\": %s}",
		list->any ? ",\n" : "[", (unsigned long long)guest_off, (unsigned long long)len, zero ? "true" : "false",
		zero ? "false" : "true");
	list->any = true;
	return ftello(list->out) > MOST_TEXT ? -EFBIG : 0;
}

static uint64_t hash_of(const char *text, size_t len)
{
	uint64_t hash = UINT64_C(14695981039346656037) ^ len;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
	return hash;
}

static int make_text(struct sf_made *made, struct sf_view *view, struct sf_view *before, struct sf_waiter *waiter, struct vs_err *err)
{
	struct listing list = {.out = xmemopen(&made->text, &made->len)};
	int rc = q2_view_changes(view->q2, before->q2, &waiter->work, list_change, &list, err);

	fputs(list.any ? "]\n" : "[]\n", list.out);
	xmemclose(list.out);
	if (rc == -EFBIG)
		vs_err_set(err, rc, "the list of what changed would take more than %u MiB", MOST_TEXT >> 20);
	made->layout = hash_of(made->text, made->len);
	return rc;
}

static int make(struct sf_mades *mades, struct sf_made *made, const char *name, struct sf_view *view, struct sf_view *before, struct sf_waiter *waiter,
		struct vs_err *err)
{
	vs_autofree char *backing = name ? xasprintf("../%s", name) : NULL;
	const struct q2_export_spec spec = {
		.view = view->q2, .before = before ? before->q2 : NULL, .backing_name = backing, .work = &waiter->work};
	int rc;

	if (made->key.kind == SF_DIFF_JSON)
		return make_text(made, view, before, waiter, err);
	rc = q2_export_new(&spec, &made->x, err);
	if (rc == -EFBIG) { /* of what may be kept of all together, others have too much */
		forget_recent(mades);
		rc = q2_export_new(&spec, &made->x, err);
	}
	if (rc < 0)
		return rc;
	made->len = q2_export_size(made->x);
	made->layout = q2_export_layout(made->x);
	return 0;
}

/* Gives *out: what @key is with these views. */
static int made_get(struct sf_mades *mades, const struct sf_key *key, const char *name, struct sf_view *view, struct sf_view *before,
		    struct sf_waiter *waiter, struct sf_made **out, struct vs_err *err)
{
	uint64_t content = content_of(view, before);
	struct sf_made *made = find_recent(mades, key, content);
	int rc;

	if (!made) {
		made = xcalloc(1, sizeof(*made));
		made->key = *key;
		made->content = content;
		atomic_init(&made->refs, 1);
		rc = make(mades, made, name, view, before, waiter, err);
		if (rc < 0) {
			made_put(made);
			return rc;
		}
		remember(mades, made);
	}
	*out = made;
	return 0;
}

/* ---------------------------------------------------------------- two views at a time */

struct both {
	struct sf_made_file *file;
	struct sf_waiter *waiter;
	struct sf_view *view;
	int64_t (*use)(struct both *both, struct sf_view *view, struct sf_view *before, struct vs_err *err);
	/* of the user */
	char *buf;
	size_t len;
	uint64_t off;
	bool other; /* it is another file by now */
};

static int64_t with_before(struct sf_view *before, void *opaque, struct vs_err *err)
{
	struct both *both = opaque;

	return both->use(both, both->view, before, err);
}

static int64_t with_view(struct sf_view *view, void *opaque, struct vs_err *err)
{
	struct both *both = opaque;
	struct sf_made_file *file = both->file;

	if (!file->before)
		return both->use(both, view, NULL, err);
	both->view = view;
	return sf_image_use(file->before, both->waiter, &file->before_edition, with_before, both, err);
}

static int64_t use_both(struct both *both, struct vs_err *err)
{
	return sf_image_use(both->file->image, both->waiter, &both->file->edition, with_view, both, err);
}

/* ---------------------------------------------------------------- files */

struct sf_made_file *sf_made_new(struct sf_mades *mades, const struct sf_key *key, const char *name)
{
	struct sf_made_file *file = xcalloc(1, sizeof(*file));
	struct sf_key image = {.domain = key->domain, .ino = key->ino, .kind = SF_IMAGE};

	file->owner = mades;
	file->key = *key;
	file->name = name ? xstrdup(name) : NULL;
	file->image = sf_image_open(mades->images, &image);
	image.ino = key->before;
	if (key->before)
		file->before = sf_image_open(mades->images, &image);
	pthread_mutex_init(&file->lock, NULL);
	return file;
}

void sf_made_close(struct sf_made_file *file)
{
	sf_image_close(file->image);
	if (file->before)
		sf_image_close(file->before);
	made_put(file->made);
	free(file->name);
	pthread_mutex_destroy(&file->lock);
	free(file);
}

static int64_t begin(struct both *both, struct sf_view *view, struct sf_view *before, struct vs_err *err)
{
	struct sf_made_file *file = both->file;
	int rc = q2_view_replaced(view->q2) || (before && q2_view_replaced(before->q2)) ?
			 vs_err_set(err, -ESTALE, "a file that it stands on was replaced by another one") : 0;

	if (rc == 0)
		rc = made_get(file->owner, &file->key, file->name, view, before, both->waiter, &file->made, err);
	if (rc < 0)
		return rc;
	file->layout = file->made->layout;
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

/* What the file is by these views, with a reference; -ESTALE and both->other: another file. */
static int current_made(struct both *both, struct sf_view *view, struct sf_view *before, struct sf_made **out, struct vs_err *err)
{
	struct sf_made_file *file = both->file;
	uint64_t content = content_of(view, before);
	struct sf_made *made = NULL, *old;
	int rc;

	pthread_mutex_lock(&file->lock);
	if (file->made->content == content) {
		made = file->made;
		atomic_fetch_add(&made->refs, 1);
	}
	pthread_mutex_unlock(&file->lock);
	if (!made) {
		rc = made_get(file->owner, &file->key, file->name, view, before, both->waiter, &made, err);
		if (rc < 0)
			return rc;
		if (made->layout != file->layout) {
			made_put(made);
			both->other = true;
			return vs_err_set(err, -ESTALE, "what lies beneath it was merged, and it is laid out otherwise now: open it anew");
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

static int64_t read_made(struct both *both, struct sf_view *view, struct sf_view *before, struct vs_err *err)
{
	struct sf_made *made = NULL;
	int64_t n = current_made(both, view, before, &made, err);

	if (n < 0)
		return both->other ? 0 : n;
	if (made->x) {
		n = q2_export_read(made->x, view->q2, before ? before->q2 : NULL, both->buf, both->len, both->off, &both->waiter->work,
				   err);
	} else if (both->off < made->len) {
		n = (int64_t)(made->len - both->off < both->len ? made->len - both->off : both->len);
		memcpy(both->buf, made->text + both->off, (size_t)n);
	}
	made_put(made);
	return n;
}

int64_t sf_made_read(struct sf_made_file *file, struct sf_waiter *waiter, char *buf, size_t len, uint64_t off, struct vs_err *err)
{
	struct both both = {.file = file, .waiter = waiter, .use = read_made, .buf = buf, .len = len, .off = off};
	int64_t n = use_both(&both, err);

	return both.other ? -ESTALE : n;
}

void sf_made_complain(struct sf_made_file *file, const char *doing, int code, const struct vs_err *err)
{
	sf_image_complain(file->image, doing, code, err);
}

static int64_t measure(struct both *both, struct sf_view *view, struct sf_view *before, struct vs_err *err)
{
	struct sf_made_file *file = both->file;
	struct sf_made *made;
	int rc;

	if (size_of(file->owner, &file->key, content_of(view, before), &both->off))
		return 0;
	rc = made_get(file->owner, &file->key, file->name, view, before, both->waiter, &made, err);
	if (rc < 0)
		return rc;
	both->off = made->len;
	made_put(made);
	return 0;
}

int sf_made_stat(struct sf_mades *mades, const struct sf_key *key, const char *name, struct sf_waiter *waiter, uint64_t *size,
		 struct vs_err *err)
{
	struct sf_made_file *file = sf_made_new(mades, key, name);
	struct both both = {.file = file, .waiter = waiter, .use = measure};
	int rc = (int)use_both(&both, err);

	if (rc == 0)
		*size = both.off;
	sf_made_close(file);
	return rc;
}
