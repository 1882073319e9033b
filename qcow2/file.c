/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Files as the rest of qcow2/ sees them: size, pread, identity, close.
 *
 * Opening is done in two steps, because the name may come from a stranger: O_PATH first, which touches nothing, then a
 * look at what it is, and only for a regular file or a block device the real open, through the descriptor already
 * held, so that nothing can be put in its place in between.
 *
 * Page caches. A reader beside a running QEMU shares one page cache with it on local file systems, also where QEMU
 * writes with O_DIRECT (the kernel invalidates the range before and after). On network and cluster file systems a
 * page read earlier can be stale while the header is fresh, so there every read goes through O_DIRECT.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "file.h"

#define DIRECT_ALIGN 4096u

/* QEMU's image locks: block/file-posix.c, RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE. */
enum {
	BYTE_WRITE = 101,
	BYTE_RESIZE = 103,
	BYTE_NO_READ = 200,
	BYTE_NO_WRITE = 201,
};

struct posix_file {
	struct q2_file f;
	bool direct; /* immutable once anything was read */
};

static struct posix_file *posix(struct q2_file *f)
{
	return (struct posix_file *)f;
}

static int posix_size(struct q2_file *f, uint64_t *len)
{
	off_t end = lseek(f->fd, 0, SEEK_END);

	if (end < 0)
		return -errno;
	*len = (uint64_t)end;
	return 0;
}

static ssize_t read_fully(int fd, void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(off + done));

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* O_DIRECT needs aligned everything: read the surrounding blocks into a bounce buffer. */
static ssize_t read_direct(int fd, void *buf, size_t len, uint64_t off)
{
	uint64_t start = off & ~(uint64_t)(DIRECT_ALIGN - 1);
	uint64_t end = (off + len + DIRECT_ALIGN - 1) & ~(uint64_t)(DIRECT_ALIGN - 1);
	vs_autofree void *bounce = NULL;
	ssize_t n;

	if (posix_memalign(&bounce, DIRECT_ALIGN, (size_t)(end - start)))
		return -ENOMEM;
	n = read_fully(fd, bounce, (size_t)(end - start), start);
	if (n < 0)
		return n;
	if ((uint64_t)n <= off - start)
		return 0;
	n -= (ssize_t)(off - start);
	if ((size_t)n > len)
		n = (ssize_t)len;
	memcpy(buf, (char *)bounce + (off - start), (size_t)n);
	return n;
}

static ssize_t posix_pread(struct q2_file *f, void *buf, size_t len, uint64_t off)
{
	if (off > INT64_MAX || len > INT64_MAX - off)
		return 0; /* past any end of file */
	return posix(f)->direct ? read_direct(f->fd, buf, len, off) : read_fully(f->fd, buf, len, off);
}

static int64_t ns(struct statx_timestamp t)
{
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* @path: "" with AT_EMPTY_PATH for the open file itself. */
static int stamp_of(int fd, const char *path, int flags, struct q2_stamp *stamp)
{
	struct statx st;

	if (statx(fd, path, flags, STATX_BASIC_STATS | STATX_BTIME, &st))
		return -errno;
	*stamp = (struct q2_stamp){
		.dev = makedev(st.stx_dev_major, st.stx_dev_minor), .ino = st.stx_ino, .size = st.stx_size,
		.allocated = st.stx_blocks * 512, .mtime_ns = ns(st.stx_mtime), .ctime_ns = ns(st.stx_ctime),
		.btime_ns = st.stx_mask & STATX_BTIME ? ns(st.stx_btime) : 0, .mode = st.stx_mode, .uid = st.stx_uid,
		.gid = st.stx_gid, .block = S_ISBLK(st.stx_mode),
	};
	if (stamp->block) { /* two nodes of one device are one device */
		stamp->dev = UINT64_MAX;
		stamp->ino = makedev(st.stx_rdev_major, st.stx_rdev_minor);
	}
	return 0;
}

static int posix_identity(struct q2_file *f, struct q2_stamp *stamp)
{
	/* a network file system may answer from a cache of its own, which knows nothing of another host's writes */
	int sync = posix(f)->direct ? AT_STATX_FORCE_SYNC : AT_STATX_SYNC_AS_STAT;
	int rc = stamp_of(f->fd, "", AT_EMPTY_PATH | sync, stamp);

	return rc || !stamp->block ? rc : posix_size(f, &stamp->size);
}

static void posix_close(struct q2_file *f)
{
	close(f->fd);
	free(f->path);
	free(f);
}

static const struct q2_file_ops posix_ops = { posix_size, posix_pread, posix_identity, posix_close };

/* Is the file system one of these? @unknown: where it cannot be asked. */
static bool is_one_of(int fd, const unsigned long *types, size_t n, bool unknown)
{
	struct statfs sf;
	size_t i;

	if (fstatfs(fd, &sf))
		return unknown;
	for (i = 0; i < n; i++)
		if ((unsigned long)sf.f_type == types[i])
			return true;
	return false;
}

/* File systems whose page cache every writer of this host shares. */
static bool shares_page_cache(int fd)
{
	static const unsigned long local[] = {
		EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC,
		RAMFS_MAGIC, 0x2fc12fc1 /* zfs */, SQUASHFS_MAGIC, ISOFS_SUPER_MAGIC, MSDOS_SUPER_MAGIC, DEVMEM_MAGIC,
	};

	return is_one_of(fd, local, VS_ARRAY_LEN(local), true);
}

/* File systems where whoever writes to a file writes to this inode. Not so on overlayfs, whose layers can be written beneath it, nor where
 * others than this kernel write: there a lease can be had and means little. */
static bool knows_all_writers(int fd)
{
	static const unsigned long sure[] = { EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, F2FS_SUPER_MAGIC };

	return is_one_of(fd, sure, VS_ARRAY_LEN(sure), false);
}

int q2_path_open(const char *path, int *path_fd, struct vs_err *err)
{
	vs_autoclose int fd = open(path, O_PATH | O_CLOEXEC);
	struct stat st;
	int rc;

	if (fd < 0) {
		rc = -errno;
		return vs_err_set(err, rc, "cannot open '%s': %s", path, strerror(-rc));
	}
	if (fstat(fd, &st)) {
		rc = -errno;
		return vs_err_set(err, rc, "cannot stat '%s': %s", path, strerror(-rc));
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return vs_err_set(err, S_ISDIR(st.st_mode) ? -EISDIR : -EPERM,
				  "'%s' is neither a regular file nor a block device", path);
	*path_fd = fd;
	fd = -1;
	return 0;
}

int q2_path_reopen(int path_fd, const char *path, struct q2_file **out, struct vs_err *err)
{
	vs_autofree struct posix_file *pf = calloc(1, sizeof(*pf));
	char link[40];
	int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	int rc;

	if (!pf)
		return -ENOMEM;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
	pf->f.ops = &posix_ops;
	pf->f.fd = open(link, flags);
	if (pf->f.fd < 0) {
		rc = -errno;
		return vs_err_set(err, rc, "cannot open '%s': %s", path, strerror(-rc));
	}
	if (!shares_page_cache(pf->f.fd)) {
		int direct = open(link, flags | O_DIRECT);

		if (direct >= 0) {
			close(pf->f.fd);
			pf->f.fd = direct;
			pf->direct = true;
		}
	}
	pf->f.path = strdup(path);
	if (!pf->f.path) {
		close(pf->f.fd);
		return -ENOMEM;
	}
	*out = &vs_steal(pf)->f;
	return 0;
}

int q2_file_open(const char *path, struct q2_file **out, struct vs_err *err)
{
	vs_autoclose int fd = -1;
	int rc = q2_path_open(path, &fd, err);

	return rc ? rc : q2_path_reopen(fd, path, out, err);
}

void q2_file_close(struct q2_file *f)
{
	if (f)
		f->ops->close(f);
}

bool q2_file_direct(struct q2_file *f)
{
	return f->ops == &posix_ops && posix(f)->direct;
}

int q2_file_go_direct(struct q2_file *f, struct vs_err *err)
{
	int flags;

	if (f->ops != &posix_ops || posix(f)->direct)
		return 0;
	flags = fcntl(f->fd, F_GETFL);
	if (flags < 0 || fcntl(f->fd, F_SETFL, flags | O_DIRECT) < 0)
		return vs_err_set(err, -EOPNOTSUPP, "'%s' cannot be read past the page cache: %s", f->path, strerror(errno));
	posix(f)->direct = true;
	return 0;
}

bool q2_file_replaced(struct q2_file *f, const struct q2_stamp *stamp)
{
	struct q2_stamp now;

	return f->fd >= 0 && !stamp_of(AT_FDCWD, f->path, AT_STATX_SYNC_AS_STAT, &now) &&
	       (now.dev != stamp->dev || now.ino != stamp->ino);
}

ssize_t q2_pread_zeros(struct q2_file *f, void *buf, size_t len, uint64_t host_off)
{
	ssize_t n = f->ops->pread(f, buf, len, host_off);

	if (n >= 0 && (size_t)n < len)
		memset((char *)buf + n, 0, len - (size_t)n);
	return n;
}

int q2_file_extent(struct q2_file *f, uint64_t host_off, uint64_t len, struct q2_host_extent *out)
{
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + sizeof(struct fiemap_extent)];
	} ask = { .map = { .fm_start = host_off, .fm_length = len, .fm_flags = FIEMAP_FLAG_SYNC, .fm_extent_count = 1 } };
	const struct fiemap_extent *e = ask.map.fm_extents;

	if (f->fd < 0 || ioctl(f->fd, FS_IOC_FIEMAP, &ask.map))
		return f->fd < 0 ? -ENOTSUP : -errno;
	*out = (struct q2_host_extent){ .host_off = host_off + len };
	if (ask.map.fm_mapped_extents)
		*out = (struct q2_host_extent){ e->fe_logical, e->fe_length, e->fe_flags & FIEMAP_EXTENT_UNWRITTEN };
	return 0;
}

bool q2_file_resident(struct q2_file *f, uint64_t host_off)
{
	uint8_t byte;

	return f->fd < 0 || q2_file_direct(f) || preadv2(f->fd, &(struct iovec){ &byte, 1 }, 1, (off_t)host_off, RWF_NOWAIT) >= 0 || errno != EAGAIN;
}

void q2_file_fetch(struct q2_file *f, uint64_t host_off, uint64_t len)
{
	if (f->fd >= 0 && !q2_file_direct(f))
		posix_fadvise(f->fd, (off_t)host_off, (off_t)len, POSIX_FADV_WILLNEED);
}

/* Would an exclusive lock on this byte meet somebody else's? Looks, takes nothing. */
static int locked(int fd, int byte, bool *out)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	if (fcntl(fd, F_OFD_GETLK, &fl))
		return -errno;
	*out = fl.l_type != F_UNLCK;
	return 0;
}

int q2_file_locks(struct q2_file *f, struct q2_locks *out)
{
	bool write = false, resize = false, no_read = false, no_write = false;
	int rc;

	if (f->fd < 0) {
		*out = (struct q2_locks){ 0 };
		return 0;
	}
	if ((rc = locked(f->fd, BYTE_WRITE, &write)) || (rc = locked(f->fd, BYTE_RESIZE, &resize)) ||
	    (rc = locked(f->fd, BYTE_NO_READ, &no_read)) || (rc = locked(f->fd, BYTE_NO_WRITE, &no_write)))
		return rc;
	*out = (struct q2_locks){ .writer = write || resize, .no_read = no_read, .frozen = no_write && !write };
	return 0;
}

int q2_file_guard(struct q2_file *f, bool on)
{
	struct flock fl = { .l_type = on ? F_RDLCK : F_UNLCK, .l_whence = SEEK_SET, .l_start = BYTE_NO_WRITE, .l_len = 1 };

	if (f->fd < 0)
		return -ENOTSUP;
	return fcntl(f->fd, F_OFD_SETLK, &fl) ? -errno : 0;
}

int q2_file_lease(struct q2_file *f, const struct q2_lease *lease)
{
	struct f_owner_ex owner = { F_OWNER_TID, lease->tid };
	int rc;

	if (f->fd < 0 || q2_file_direct(f) || !knows_all_writers(f->fd))
		return -ENOTSUP;
	if (fcntl(f->fd, F_SETSIG, lease->signo) || fcntl(f->fd, F_SETOWN_EX, &owner))
		return -ENOTSUP;
	if (!fcntl(f->fd, F_SETLEASE, F_RDLCK))
		return 0;
	rc = errno;
	return rc == EAGAIN ? -EAGAIN : -ENOTSUP;
}

bool q2_file_leased(struct q2_file *f)
{
	return fcntl(f->fd, F_GETLEASE) == F_RDLCK;
}

void q2_file_unlease(struct q2_file *f)
{
	if (f->fd >= 0)
		fcntl(f->fd, F_SETLEASE, F_UNLCK);
}
