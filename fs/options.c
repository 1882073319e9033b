/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * virt-snapfs [OPTIONS] [SOURCE...] MOUNTPOINT
 *
 * What stands behind -o comes from three sides: our own options, those of every FUSE mount, and what mount(8) and
 * fstab(5) put into the field for themselves ("_netdev,nofail,x-systemd.automount") and mount.fuse3 passes on. The last
 * kind is accepted and means nothing here; a word that nobody knows is an error, because a misspelt option that is
 * silently dropped may be `umask=`.
 */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <limits.h>
#include <math.h>
#include <pwd.h>
#include <string.h>

#include "fuse_api.h"
#include "vm/util/mem.h"

#define MAX_REFRESH_S 86400.0
#define SF_MIN_READ 4096u /* the kernel's: fs/fuse/inode.c */
#define MAX_BANDWIDTH_MIB (1u << 20)

/* ---------------------------------------------------------------- values */

static int parse_number(const char *text, int base, unsigned long max, unsigned long *out)
{
	unsigned long value;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	value = strtoul(text, &end, base);
	if (errno || *end || value > max)
		return -EINVAL;
	*out = value;
	return 0;
}

static int parse_uid(const char *text, uid_t *out)
{
	unsigned long number;
	const struct passwd *user;

	if (!parse_number(text, 10, UINT_MAX - 1, &number)) {
		*out = (uid_t)number;
		return 0;
	}
	user = *text ? getpwnam(text) : NULL;
	if (!user)
		return -EINVAL;
	*out = user->pw_uid;
	return 0;
}

static int parse_gid(const char *text, gid_t *out)
{
	unsigned long number;
	const struct group *group;

	if (!parse_number(text, 10, UINT_MAX - 1, &number)) {
		*out = (gid_t)number;
		return 0;
	}
	group = *text ? getgrnam(text) : NULL;
	if (!group)
		return -EINVAL;
	*out = group->gr_gid;
	return 0;
}

static int parse_seconds(const char *text, double *out)
{
	double value;
	char *end;

	if (!isdigit((unsigned char)*text) && *text != '.')
		return -EINVAL;
	value = strtod(text, &end);
	if (end == text || *end || !isfinite(value) || value <= 0 || value > MAX_REFRESH_S)
		return -EINVAL;
	*out = value;
	return 0;
}

static int parse_cache(const char *text, enum sf_cache_mode *out)
{
	static const char *const names[] = {
		[SF_CACHE_AUTO] = "auto", [SF_CACHE_NONE] = "none", [SF_CACHE_KERNEL] = "kernel"};

	for (size_t i = 0; i < VS_ARRAY_LEN(names); i++) {
		if (!strcmp(text, names[i])) {
			*out = (enum sf_cache_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_on_off(const char *text, bool *out)
{
	if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
		return -EINVAL;
	*out = !strcmp(text, "on");
	return 0;
}

/* ---------------------------------------------------------------- lists of strings */

/* Takes @string. A NULL comes last. */
static void add_string(char ***list, size_t *n, char *string)
{
	*list = xreallocarray(*list, *n + 2, sizeof(**list));
	(*list)[(*n)++] = string;
	(*list)[*n] = NULL;
}

/* The daemon works in "/": every path is made absolute here, and no symbolic link is followed for it. Gives *out. */
static int absolute(const char *path, char **out, struct vs_err *err)
{
	vs_autofree char *here = *path == '/' ? NULL : getcwd(NULL, 0);

	if (*path == '/')
		*out = xstrdup(path);
	else if (here)
		*out = xasprintf("%s/%s", strcmp(here, "/") ? here : "", path);
	else
		return vs_err_set(err, -errno, "'%s': the working directory: %s", path, strerror(errno));
	return 0;
}

static bool is_same_file(const char *a, const char *b)
{
	vs_autofree char *real_a = realpath(a, NULL), *real_b = realpath(b, NULL);

	return !strcmp(a, b) || (real_a && real_b && !strcmp(real_a, real_b));
}

static int add_image(struct sf_options *o, const char *path, struct vs_err *err)
{
	vs_autofree char *full = NULL;
	int rc = absolute(path, &full, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < o->n_images; i++)
		if (is_same_file(o->images[i], full))
			return 0;
	add_string(&o->images, &o->n_images, vs_steal(full));
	return 0;
}

/* "scheme:/", as RFC 3986 spells a scheme: what libvirt takes for a connection, "qemu:/system" included. */
static bool is_uri(const char *source)
{
	size_t n = strspn(source, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");

	return isalpha((unsigned char)*source) && !strncmp(source + n, ":/", 2);
}

static int add_source(struct sf_options *o, const char *source, struct vs_err *err)
{
	bool uri = is_uri(source);

	if (!*source)
		return vs_err_set(err, -EINVAL, "an empty source");
	if (uri ? o->n_images > 0 : o->uri != NULL)
		return vs_err_set(err, -EINVAL, "'%s': images and a libvirt URI cannot be mixed", source);
	if (!uri)
		return add_image(o, source, err);
	if (o->uri)
		return vs_err_set(err, -EINVAL, "'%s': only one libvirt URI can be given", source);
	o->uri = xstrdup(source);
	return 0;
}

static int add_allowed(struct sf_options *o, const char *path, struct vs_err *err)
{
	char *full;
	int rc = *path ? absolute(path, &full, err) : -EINVAL;

	if (rc == 0)
		add_string(&o->allow_paths, &o->n_allow_paths, full);
	return rc;
}

/* ---------------------------------------------------------------- -o */

enum meaning {
	OPT_RO,
	OPT_ALLOW_OTHER,
	OPT_DEFAULT_PERMISSIONS,
	OPT_DEBUG,
	OPT_UID,
	OPT_GID,
	OPT_UMASK,
	OPT_REFRESH,
	OPT_ALLOW_PATH,
	OPT_BANDWIDTH,
	OPT_CACHE,
	OPT_MAX_READ,
	OPT_LEASE,
	OPT_LIST,
	OPT_KERNEL_CACHE, /* FUSE's own names of two of ours */
	OPT_DIRECT_IO,
	OPT_ALLOW_ROOT,
	OPT_REMOUNT,
	OPT_KERNEL, /* passed to the mount as it is */
};

/* A name that ends in '=' has a value, one in '*' is a beginning. */
static const struct {
	const char *name;
	enum meaning meaning;
	const char *wants; /* what the value must be */
} options[] = {
	{"ro", OPT_RO, NULL},
	{"allow_other", OPT_ALLOW_OTHER, NULL},
	{"default_permissions", OPT_DEFAULT_PERMISSIONS, NULL},
	{"debug", OPT_DEBUG, NULL},
	{"uid=", OPT_UID, "a user"},
	{"gid=", OPT_GID, "a group"},
	{"umask=", OPT_UMASK, "an octal number up to 0777"},
	{"refresh=", OPT_REFRESH, "a number of seconds above 0"},
	{"allow_path=", OPT_ALLOW_PATH, "a directory"},
	{"bandwidth=", OPT_BANDWIDTH, "a whole number of MiB/s"},
	{"cache=", OPT_CACHE, "auto, none or kernel"},
	{"lease=", OPT_LEASE, "on or off"},
	{"list=", OPT_LIST, "qcow2, diff, now, several of them, or all"},
	{"max_read=", OPT_MAX_READ, "a number of bytes"},
	{"kernel_cache", OPT_KERNEL_CACHE, NULL},
	{"direct_io", OPT_DIRECT_IO, NULL},
	{"allow_root", OPT_ALLOW_ROOT, NULL},
	{"remount", OPT_REMOUNT, NULL},
	{"auto_unmount", OPT_KERNEL, NULL},
	{"noexec", OPT_KERNEL, NULL},
	{"noatime", OPT_KERNEL, NULL},
	{"context=", OPT_KERNEL, "a security context"},
	{"fscontext=", OPT_KERNEL, "a security context"},
	{"defcontext=", OPT_KERNEL, "a security context"},
	{"rootcontext=", OPT_KERNEL, "a security context"},
};

/* Means nothing here. */
static const char *const ignored[] = {
	/* nothing can be written, run, followed or opened as a device here, and no time of access is kept, whatever these say */
	"rw", "defaults", "_netdev", "auto", "noauto", "nofail", "fail", "user", "user=", "users", "nouser",
	"nousers", "owner", "noowner", "group", "nogroup", "dev", "nodev", "suid", "nosuid", "exec", "async", "sync",
	"dirsync", "atime", "diratime", "nodiratime", "symfollow", "nosymfollow", "relatime", "norelatime",
	"strictatime", "nostrictatime", "lazytime", "nolazytime", "iversion", "noiversion", "mand", "nomand",
	"silent", "loud",
	/* mount(8)'s and systemd's notes to themselves */
	"comment=", "helper=", "uhelper=",
	"fsname=",  /* ours says the source */
	"subtype=", /* ours says virt-snapfs */
	/* mount.fuse3(8): what an earlier FUSE wanted, what is as it is here, and what a copy of a line of /proc/mounts has */
	"nonempty", "big_writes", "large_read", "auto_cache", "noforget", "clone_fd", "max_threads=",
	"max_idle_threads=", "attr_timeout=", "ac_attr_timeout=", "entry_timeout=", "negative_timeout=", "rootmode=",
	"user_id=", "group_id=", "x-*", "X-*",
};

static bool is_option(const char *word, const char *name, const char **value)
{
	size_t len = strcspn(name, "*");
	bool prefix = name[len] == '*' || name[len - 1] == '=';

	if (prefix ? strncmp(word, name, len) != 0 : strcmp(word, name) != 0)
		return false;
	*value = word + len;
	return true;
}

/* The row of @word and its value ("" without one); -1: there is none. */
static int find_option(const char *word, const char **value)
{
	for (size_t i = 0; i < VS_ARRAY_LEN(options); i++)
		if (is_option(word, options[i].name, value))
			return (int)i;
	return -1;
}

static bool is_ignored(const char *word)
{
	const char *value;

	for (size_t i = 0; i < VS_ARRAY_LEN(ignored); i++)
		if (is_option(word, ignored[i], &value))
			return true;
	return false;
}

/* libfuse splits at commas again, so what is passed on is escaped as it was. */
static void pass_on(struct sf_options *o, const char *word)
{
	vs_autofree char *before = o->mount_options;
	char *out = xcalloc((before ? strlen(before) : 0) + strlen(word) * 2 + 2, 1), *at = out;

	o->mount_options = out;
	if (before) {
		at = stpcpy(at, before);
		*at++ = ',';
	}
	for (; *word; word++) {
		if (*word == ',' || *word == '\\')
			*at++ = '\\';
		*at++ = *word;
	}
}

static void set_flag(struct sf_options *o, enum meaning meaning)
{
	o->read_only |= meaning == OPT_RO;
	o->allow_other |= meaning == OPT_ALLOW_OTHER;
	o->default_permissions |= meaning == OPT_DEFAULT_PERMISSIONS;
	o->debug |= meaning == OPT_DEBUG;
	o->remount |= meaning == OPT_REMOUNT;
	if (meaning == OPT_KERNEL_CACHE || meaning == OPT_DIRECT_IO)
		o->cache = meaning == OPT_DIRECT_IO ? SF_CACHE_NONE : SF_CACHE_KERNEL;
}

static int set_number(struct sf_options *o, enum meaning meaning, const char *value)
{
	unsigned long number;
	int rc = meaning == OPT_UMASK ? parse_number(value, 8, 0777, &number)
				     : parse_number(value, 10, MAX_BANDWIDTH_MIB, &number);

	if (rc < 0)
		return -EINVAL;
	if (meaning == OPT_UMASK)
		o->umask = (mode_t)number;
	else
		o->bandwidth_mib = (unsigned)number;
	return 0;
}

/* Larger than our requests, or smaller than the kernel's smallest, is no error with other file systems. */
static int set_max_read(struct sf_options *o, const char *value)
{
	unsigned long number;

	if (parse_number(value, 10, UINT_MAX, &number) < 0)
		return -EINVAL;
	if (number < SF_MIN_READ)
		number = SF_MIN_READ;
	o->max_read = number < SF_BLOCK_SIZE ? (unsigned)number : SF_BLOCK_SIZE;
	return 0;
}

static int add_listed(struct sf_options *o, const char *name)
{
	bool all = !strcmp(name, "all");

	if (!all && strcmp(name, "qcow2") != 0 && strcmp(name, "diff") != 0 && strcmp(name, "now") != 0)
		return -EINVAL;
	o->list_qcow2 |= all || !strcmp(name, "qcow2");
	o->list_diff |= all || !strcmp(name, "diff");
	o->list_now |= all || !strcmp(name, "now");
	return 0;
}

static int set_option(struct sf_options *o, enum meaning meaning, const char *word, const char *value, struct vs_err *err)
{
	switch (meaning) {
	case OPT_RO:
	case OPT_ALLOW_OTHER:
	case OPT_DEFAULT_PERMISSIONS:
	case OPT_DEBUG:
	case OPT_KERNEL_CACHE:
	case OPT_DIRECT_IO:
	case OPT_REMOUNT:
		set_flag(o, meaning);
		return 0;
	case OPT_UID:
		return parse_uid(value, &o->uid);
	case OPT_GID:
		return parse_gid(value, &o->gid);
	case OPT_UMASK:
	case OPT_BANDWIDTH:
		return set_number(o, meaning, value);
	case OPT_REFRESH:
		return parse_seconds(value, &o->refresh_s);
	case OPT_ALLOW_PATH:
		return add_allowed(o, value, err);
	case OPT_CACHE:
		return parse_cache(value, &o->cache);
	case OPT_MAX_READ:
		return set_max_read(o, value);
	case OPT_LEASE:
		return parse_on_off(value, &o->leases);
	case OPT_LIST:
		return add_listed(o, value);
	case OPT_ALLOW_ROOT: /* libfuse's: it keeps all others out */
	case OPT_KERNEL:
		o->default_permissions |= meaning == OPT_ALLOW_ROOT;
		pass_on(o, word);
		return 0;
	}
	return -EINVAL;
}

/* @list: the word before was "list=", or went on with it; "list=qcow2,diff" is two words. */
static int parse_word(struct sf_options *o, const char *word, bool *list, struct vs_err *err)
{
	const char *value;
	int row, rc;

	if (*list && !add_listed(o, word))
		return 0;
	*list = false;
	if (!*word || is_ignored(word))
		return 0;
	row = find_option(word, &value);
	if (row < 0)
		return vs_err_set(err, -EINVAL, "unknown option '%s'", word);
	*list = options[row].meaning == OPT_LIST;
	rc = set_option(o, options[row].meaning, word, value, err);
	if (rc == -EINVAL)
		return vs_err_set(err, rc, "option '%s': '%s' must be %s", word, value, options[row].wants);
	return rc;
}

/* Words stand between commas; a backslash takes the next character as it is, for paths with commas. */
static int parse_words(struct sf_options *o, const char *text, struct vs_err *err)
{
	vs_autofree char *word = xcalloc(strlen(text) + 1, 1);
	bool list = false;
	size_t len = 0;
	int rc = 0;

	for (; rc == 0; text++) {
		if (*text && *text != ',') {
			if (*text == '\\' && text[1])
				text++;
			word[len++] = *text;
			continue;
		}
		word[len] = '\0';
		len = 0;
		rc = parse_word(o, word, &list, err);
		if (!*text)
			break;
	}
	return rc;
}

/* ---------------------------------------------------------------- the whole line */

static int parse_switch(struct sf_options *o, int letter, char **argv, struct vs_err *err)
{
	switch (letter) {
	case 'f':
		o->foreground = true;
		return 0;
	case 'd':
		o->debug = true;
		return 0;
	case 'o':
		return parse_words(o, optarg, err);
	case 'h':
		o->help = true;
		return 0;
	case 'V':
		o->version = true;
		return 0;
	case ':':
		return vs_err_set(err, -EINVAL, "'%s' needs a value", argv[optind - 1]);
	default:
		if (optopt)
			return vs_err_set(err, -EINVAL, "unknown option '-%c'", optopt);
		return vs_err_set(err, -EINVAL, "unknown option '%s'", argv[optind - 1]);
	}
}

static int parse_rest(struct sf_options *o, int n, char **words, struct vs_err *err)
{
	int rc = 0;

	if (n < 1)
		return vs_err_set(err, -EINVAL, "no mountpoint was given");
	if (is_uri(words[n - 1])) /* forgotten: a directory of that name can be written with "./" in front */
		return vs_err_set(err, -EINVAL, "no mountpoint was given behind '%s'", words[n - 1]);
	for (int i = 0; rc == 0 && i < n - 1; i++)
		rc = add_source(o, words[i], err);
	if (rc == 0 && !*words[n - 1])
		rc = vs_err_set(err, -EINVAL, "an empty mountpoint");
	if (rc < 0)
		return rc;
	return absolute(words[n - 1], &o->mountpoint, err);
}

int sf_options_parse(int argc, char **argv, struct sf_options *out, struct vs_err *err)
{
	static const struct option long_names[] = {
		{"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {0}};
	int letter, rc = 0;

	*out = (struct sf_options){.uid = getuid(), .gid = getgid(), .refresh_s = 2, .max_read = SF_BLOCK_SIZE};
	optind = 0;
	opterr = 0;
	while (rc == 0 && !out->help && !out->version &&
	       (letter = getopt_long(argc, argv, ":fdo:hV", long_names, NULL)) >= 0)
		rc = parse_switch(out, letter, argv, err);
	if (rc < 0 || out->help || out->version)
		return rc;
	out->foreground |= out->debug;
	out->default_permissions |= out->allow_other;
	return parse_rest(out, argc - optind, argv + optind, err);
}

void sf_options_fini(struct sf_options *o)
{
	for (size_t i = 0; i < o->n_images; i++)
		free(o->images[i]);
	for (size_t i = 0; i < o->n_allow_paths; i++)
		free(o->allow_paths[i]);
	free(o->images);
	free(o->allow_paths);
	free(o->uri);
	free(o->mountpoint);
	free(o->mount_options);
	*o = (struct sf_options){0};
}

void sf_options_help(FILE *out)
{
	fputs("usage: virt-snapfs [OPTIONS] [SOURCE...] MOUNTPOINT\n"
	      "\n"
	      "Shows every snapshot of every libvirt domain as read-only files.\n"
	      "\n"
	      "SOURCE is a libvirt URI (qemu:///system), or paths of qcow2 images; without one:\n"
	      "libvirt's default URI.\n"
	      "\n"
	      "    -f                   stay in the foreground\n"
	      "    -d                   the same, and print every request\n"
	      "    -h, --help           print this text\n"
	      "    -V, --version        print the version\n"
	      "    -o OPT[,OPT...]      mount options:\n"
	      "    -o ro                no ctl, retain and retain.plan; a read-only connection is enough\n"
	      "    -o allow_other       let other users in, as far as owner and mode allow\n"
	      "    -o uid=USER          owner of what is shown (the mounting user)\n"
	      "    -o gid=GROUP         group of what is shown (the mounting user's)\n"
	      "    -o umask=OCTAL       permissions to take away from what is shown (0)\n"
	      "    -o refresh=SECONDS   how often to look for changes, fractions allowed (2)\n"
	      "    -o allow_path=DIR    images may name files below DIR too; repeatable\n"
	      "    -o bandwidth=MIB     limit of block jobs in MiB/s (0: none)\n"
	      "    -o list=DIR[,DIR]    list qcow2, diff, now or all, which else answer to their name only\n"
	      "    -o cache=MODE        auto, none or kernel: what the kernel caches (auto)\n"
	      "    -o lease=on|off      read without a copy what nobody has open for writing (off)\n"
	      "\n"
	      "Options of mount(8), fstab(5) and FUSE mounts are accepted. See virt-snapfs(8).\n",
	      out);
}
