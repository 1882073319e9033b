/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * NOTES ON THREADS
 * ----------------
 *	main        waits for a signal or for the end of the session (session.c); starts and joins the others
 *	requests    SF_THREADS of them (session.c) take requests from the kernel. They may wait for image files,
 *	            for one another to open an image, and in read, lseek and open for vm_refresh(), which is bounded; all of it
 *	            ends when the caller is killed or the session ends (waiter.h), but for vm_refresh(). Never in
 *	            lookup, readdir or getattr: the kernel holds a directory's lock meanwhile. Joined by main.
 *	makers      four pools (fs.h), made when needed (makers.c), each with one that looks who waits still: open, read and getattr of what takes a walk through a map; open of what is
 *	            counted (space.c); open, read and lseek in now/; lookup, opendir and open in a domain that was not read yet (unread.c: that lookup
 *	            does hold a directory's lock, which the notifier waits for, and waits for the refresher, which does not wait for the notifier; of the
 *	            refresher's own lookups, in files of this mount that are a domain's images, none waits). They
 *	            wait as requests do, for each other where two make the same, for vm_space(), until nobody waits any more, and for libvirt and QEMU.
 *	            Joined by main.
 *	notifier    one (notify.c): announces to the kernel what changed, and then answers the writes whose commands are
 *	            done. The kernel may let it wait for a directory's lock, that is for a request: so no thread that
 *	            serves requests ever waits for the notifier, and the notifier ends before the requests do. It never
 *	            names a file that can be written (node.h): its lock belongs to a writer who waits for the notifier.
 *	            Joined by main.
 *	watcher     one (write.c): looks after writers that got a signal; reads /proc; answers those whose process ends.
 *	            Joined by main.
 *	counter     at most one, made when needed (blocks.c): walks maps for st_blocks, until the session ends. Joined by main.
 *	leases      at most one, made when needed (lease.c): waits for word that somebody wants to write to what is read, and for nothing else.
 *	            Joined by main, when no view is open.
 *	clients     one for each open file of now/ of a running domain (nbd/nbd.c): talks to QEMU. Joined by who closes the file, which is a
 *	            request, a maker or main.
 *	vm's own    (vm.h): they say that there is a new inventory, that jobs changed or that a command is done, which sets
 *	            flags and moves list entries; and they have guard locks dropped, which may wait for reads that are
 *	            under way (view.c). Joined by vm_close().
 *
 * LOCKS, in rank order: who holds one may take only later ones
 * ------------------------------------------------------------
 *	1  sf_writes.lock    writes that wait for their commands      7  sf_blocks.lock   counts, and what to count
 *	2  sf_notices.lock   what the notifier has to do              8  sf_plans.lock    policies to be looked at
 *	3  sf_handles.lock   the list of handles, what they show      9  sf_dir.lock      a directory's index and texts
 *	4  sf_world.lock     the current tree, trees' references     10  sf_nodes.lock    what the kernel knows
 *	                     (inside: what vm_inventory_get() takes)   11  sf_views.lock    which views are open, and whose
 *	5  sf_images.lock    which images are open                                        guards are dropped
 *	6  sf_image.lock     an image's view
 *	last                 nb_file.lock, sf_pages.lock, sf_mades.lock, sf_made_file.lock, sf_makers.lock, sf_leases.lock (inside: sf_pauses.lock), asked.lock
 *	                     (space.c), and q2_export's: nothing is taken while one of them is held
 *
 * libfuse calls write.c's interrupt callback with a lock of the request: so nothing of libfuse is called with
 * sf_writes.lock.
 *
 * No lock is held across a reply, a notification, a read, or a call of vm/ or qcow2/ that can wait. What requests do hold
 * across a reply is a *pin* (tree.c), for which only the notifier waits.
 */
#include "ops.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/statvfs.h>

#include "attr.h"

int sf_op_place(struct sf_fs *fs, const struct sf_tree *tree, fuse_ino_t id, struct sf_place *place)
{
	struct sf_key key;
	int rc = sf_node_key(&fs->nodes, id, &key);

	return rc < 0 ? rc : sf_place_find(tree, &key, place);
}

/* ---------------------------------------------------------------- the small ones */

/* SEEK_END through a door that was written to: its text ends elsewhere than another one's would. */
static void end_of_answer(struct sf_req *r, const struct fuse_file_info *fi, struct stat *st)
{
	uint64_t end;

	if (sf_handle_end(&r->fs->handles, sf_op_handle(fi), &end))
		st->st_size = (off_t)end;
}

/* A made file's size takes a walk through a map. The kernel holds no lock meanwhile, and keeps nothing of the answer: so no pin. What cannot
 * be made now has the size that it had when somebody asked last, or none: its open(2) says why. */
static int getattr_made(struct sf_req *r, struct sf_asked *asked)
{
	struct sf_tree *tree = sf_world_get(&r->fs->world);
	struct sf_waiter waiter;
	struct sf_place place;
	struct sf_made_stat stat;
	struct stat st;
	int rc = sf_op_place(r->fs, tree, asked->id, &place), made;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, SF_MAKE_WORK);
	made = rc == 0 ? sf_made_stat(&r->fs->mades, &place, &waiter, &stat, NULL) : 0;
	if (made == -EINTR || made == -ENOTCONN || made == -ESTALE)
		rc = made;
	if (rc == 0)
		rc = sf_attr_get(r->fs, tree, &place, &st);
	if (rc == 0 && made == 0)
		sf_attr_set_made(&st, &stat);
	if (rc == 0)
		fuse_reply_attr(sf_req_take(r), &st, 0);
	sf_world_put(&r->fs->world, tree);
	return rc;
}

static int getattr_there(struct sf_req *r, fuse_ino_t id, const struct fuse_file_info *fi)
{
	struct sf_tree *tree = sf_world_pin(&r->fs->world);
	struct sf_place place;
	struct stat st;
	int rc = sf_op_place(r->fs, tree, id, &place);

	if (rc == 0)
		rc = sf_attr_get(r->fs, tree, &place, &st);
	if (rc == 0 && fi && sf_kind_is_door(sf_place_key(&place).kind))
		end_of_answer(r, fi, &st);
	if (rc == 0)
		fuse_reply_attr(sf_req_take(r), &st, sf_attr_timeout(&place));
	sf_world_unpin(&r->fs->world, tree);
	return rc;
}

int sf_op_getattr(struct sf_req *r, fuse_ino_t id, const struct fuse_file_info *fi)
{
	struct sf_key key;
	int rc = sf_node_key(&r->fs->nodes, id, &key);

	if (rc < 0)
		return rc;
	if (sf_kind_is_made(key.kind) && !sf_made_is_us(fuse_req_ctx(r->req)->pid))
		return sf_makers_hand(&r->fs->makers, r, getattr_made, &(struct sf_asked){.id = id});
	return getattr_there(r, id, fi);
}

/* Which users may try is the kernel's question (default_permissions). */
static int op_access(struct sf_req *r, fuse_ino_t id, int mask)
{
	struct sf_key key;
	int rc = sf_node_key(&r->fs->nodes, id, &key);

	if (rc < 0)
		return rc;
	if (mask & W_OK && !sf_kind_is_door(key.kind))
		return -EROFS;
	if (mask & X_OK && !sf_kind_is_dir(key.kind))
		return -EACCES;
	fuse_reply_err(sf_req_take(r), 0);
	return 0;
}

static int op_release(struct sf_req *r, struct fuse_file_info *fi)
{
	sf_handle_close(&r->fs->handles, sf_op_handle(fi));
	fuse_reply_err(sf_req_take(r), 0);
	return 0;
}

static int op_statfs(struct sf_req *r)
{
	struct statvfs st = {.f_bsize = SF_BLOCK_SIZE, .f_frsize = 4096, .f_namemax = NAME_MAX};

	fuse_reply_statfs(sf_req_take(r), &st);
	return 0;
}

static int op_eperm(struct sf_req *r)
{
	(void)r;
	return -EPERM;
}

/* ---------------------------------------------------------------- shims: begin, operate, end */

#define SHIM(name, call, ...)                           \
	static void name(fuse_req_t req, __VA_ARGS__)   \
	{                                               \
		struct sf_req r = sf_req_begin(req);    \
							\
		sf_req_end(&r, call);                   \
	}
/* For operations that refuse whatever they are asked: the arguments do not matter. */
#define UNUSED __attribute__((unused))

SHIM(on_lookup, sf_op_lookup(&r, parent, name), fuse_ino_t parent, const char *name)
SHIM(on_getattr, sf_op_getattr(&r, id, fi), fuse_ino_t id, struct fuse_file_info *fi)
SHIM(on_access, op_access(&r, id, mask), fuse_ino_t id, int mask)
SHIM(on_opendir, sf_op_opendir(&r, id, fi), fuse_ino_t id, struct fuse_file_info *fi)
SHIM(on_readdir, sf_op_readdir(&r, id, size, off, fi), fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
SHIM(on_readdirplus, sf_op_readdirplus(&r, id, size, off, fi), fuse_ino_t id, size_t size, off_t off,
     struct fuse_file_info *fi)
SHIM(on_release, op_release(&r, fi), fuse_ino_t id UNUSED, struct fuse_file_info *fi)
SHIM(on_open, sf_op_open(&r, id, fi), fuse_ino_t id, struct fuse_file_info *fi)
SHIM(on_read, sf_op_read(&r, id, size, off, fi), fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
SHIM(on_lseek, sf_op_lseek(&r, id, off, whence, fi), fuse_ino_t id, off_t off, int whence, struct fuse_file_info *fi)
SHIM(on_statfs, op_statfs(&r), fuse_ino_t id UNUSED)
SHIM(on_setattr, sf_op_setattr(&r, id, to_set), fuse_ino_t id, struct stat *st UNUSED, int to_set,
     struct fuse_file_info *fi UNUSED)
SHIM(on_write, sf_op_write(&r, id, buf, size, off, fi), fuse_ino_t id, const char *buf, size_t size, off_t off,
     struct fuse_file_info *fi)
SHIM(on_poll, sf_op_poll(&r, id, fi, waiting), fuse_ino_t id, struct fuse_file_info *fi, struct fuse_pollhandle *waiting)
SHIM(on_mknod, op_eperm(&r), fuse_ino_t parent UNUSED, const char *name UNUSED, mode_t mode UNUSED, dev_t dev UNUSED)
SHIM(on_mkdir, op_eperm(&r), fuse_ino_t parent UNUSED, const char *name UNUSED, mode_t mode UNUSED)
SHIM(on_remove, op_eperm(&r), fuse_ino_t parent UNUSED, const char *name UNUSED)
SHIM(on_symlink, op_eperm(&r), const char *target UNUSED, fuse_ino_t parent UNUSED, const char *name UNUSED)
SHIM(on_link, op_eperm(&r), fuse_ino_t id UNUSED, fuse_ino_t parent UNUSED, const char *name UNUSED)
SHIM(on_rename, op_eperm(&r), fuse_ino_t from UNUSED, const char *name UNUSED, fuse_ino_t to UNUSED,
     const char *new_name UNUSED, unsigned flags UNUSED)
SHIM(on_create, op_eperm(&r), fuse_ino_t parent UNUSED, const char *name UNUSED, mode_t mode UNUSED,
     struct fuse_file_info *fi UNUSED)

/* Forgetting is the one thing that has no answer. */
static void on_forget(fuse_req_t req, fuse_ino_t id, uint64_t n)
{
	struct sf_fs *fs = fuse_req_userdata(req);

	sf_node_forget(&fs->nodes, id, n);
	fuse_reply_none(req);
}

static void on_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *forgets)
{
	struct sf_fs *fs = fuse_req_userdata(req);

	for (size_t i = 0; i < n; i++)
		sf_node_forget(&fs->nodes, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/*
 * The sizes belong together: max_write also bounds what the kernel asks for in one read, and with more than 512 KiB
 * libfuse's pipe is too small for a spliced reply. max_read must be what the mount option says. AUTO_INVAL_DATA would throw
 * cached data away when attributes are fetched again. SPLICE_MOVE takes pages out of the image's cache and is slower.
 */
static void on_init(void *opaque, struct fuse_conn_info *conn)
{
	const struct sf_fs *fs = opaque;

	conn->max_write = SF_BLOCK_SIZE;
	conn->max_read = fs->options->max_read;
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	conn->want |= conn->capable & (FUSE_CAP_SPLICE_WRITE | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_PARALLEL_DIROPS |
				       FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO);
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_SPLICE_READ);
}

/* What is not here libfuse answers with ENOSYS, and the kernel does not ask again: extended attributes, locks, flush. */
const struct fuse_lowlevel_ops sf_ops = {
	.init = on_init,
	.lookup = on_lookup,
	.forget = on_forget,
	.forget_multi = on_forget_multi,
	.getattr = on_getattr,
	.setattr = on_setattr,
	.access = on_access,
	.opendir = on_opendir,
	.readdir = on_readdir,
	.readdirplus = on_readdirplus,
	.releasedir = on_release,
	.open = on_open,
	.read = on_read,
	.write = on_write,
	.release = on_release,
	.lseek = on_lseek,
	.poll = on_poll,
	.statfs = on_statfs,
	.mknod = on_mknod,
	.mkdir = on_mkdir,
	.unlink = on_remove,
	.rmdir = on_remove,
	.symlink = on_symlink,
	.link = on_link,
	.rename = on_rename,
	.create = on_create,
};
