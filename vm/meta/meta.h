/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * meta.h: our metadata about a domain: its policy, what was taken here, what is held, which snapshots a step of ours has
 * doomed. What everybody can see of a domain is facts (model/facts.h).
 *
 * They are one small XML element in the domain's libvirt metadata, so they travel with the domain; the same text is the
 * extended attribute VM_META_XATTR of an image source. libvirt adds the name space itself (key VM_META_KEY, uri VM_META_URI)
 * and refuses text that brings it, so vm_meta_text() has none; on the way in both forms do.
 *
 *     element  attribute  meaning                                                   times
 *     facts    version    2; raised when an older program must not touch it         1
 *              serial     rises with every change; 0..2^63-1
 *              policy     canonical `retain` line; absent: none was ever written
 *              on         files that its disks stood on, see vm_made_identity()
 *              of         UUID of the domain that this is said of; absent: not known, or an image source's
 *     f        k          number, for `v`, `p` and `u`                               any number; one an image file in one state
 *              i z m      its inode number, size and mtime in seconds[.nanoseconds]
 *              u          number of the `f` that it stood on; absent: not known, or on nothing
 *              x          letters: a it stood on nothing; r it was read as raw; e it stored nothing
 *              g          sum of what a guest sees of it, see vm_sum(); may be absent
 *              c          number for the merges into it that were known by then, see struct vm_verdict; absent: none
 *     l        p i b      path, inode number and birth of a layer that a command    any number; one a path
 *                         or a snapshot made, which no record says any more
 *     s        n          raw name of a snapshot                                    any number; one a snapshot
 *              t          creation, seconds[.nanoseconds] since 1970
 *              is         letters: e external or i internal; o taken here; h held
 *              v          numbers of `f`, each once, separated by commas; may be absent
 *              p          what it froze: TARGET:number of `f`, separated by spaces; may be absent. Of an internal one: what its image stood
 *                         on. A `!` behind it: it was found wrong since (0: it was never noted)
 *              w          what it shows: TARGET:sum, see vm_sum_shown(), separated by spaces; may be absent
 *              b          number of the `b` that doomed it; absent: none did. Internal ones have none: libvirt's delete does it all
 *     q        w p i z m  what ("nvram", "tpm") and path of the copy, its inode      any number, in s
 *                         number, size and mtime, as above
 *              g          sum of it, see vm_sum()
 *     b        k          number                                                     any number; one a begun command
 *              c          the command, canonical text
 *              r          why what it doomed must not be read, a sentence
 *              t          since when, as above
 *              x          letters: v void, others have changed its files; r retention began it
 *     d        t          target of a disk that is doomed                           any number, in b; none: all disks
 *              p b        path and inode number of the image that is written, may be absent
 *              u k        path and inode number of the uppermost layer that goes into it, may be absent
 *              a          inode number of what stood on that layer; absent: nothing did, it was the active one
 *              w          the image's mtime before the first attempt, as above; absent: it would prove nothing
 *              l          the image's mtime when an attempt had come to its end, as above; absent: not known
 *              x          letters: d its data has been moved; p all was copied, and the pivot was asked for; n nobody has been asked
 *                         to write to it yet
 *
 * Version 1 had what is in `b` in an element `m` of each `s`; that is read, and written as `b`.
 *
 * `f` and `v` attest: the snapshot was right when that file, which lies beneath it, had this stamp. A merge into a frozen file
 * makes it look written to all who stand on it; as long as it has the same stamp still, they know better. `p` and `u` tell which files a
 * snapshot is made of, down to the last one: what changes among them and no job explains is no longer what it was. What takes too much
 * room is left out again, in this order: sums, what lies further down, what is attested, what was frozen. Then time stamps alone decide. That
 * something was spoilt is never left out.
 *
 * In values `%`, control bytes and bytes that are no character are %XX; in a TARGET of `p` and `w` so are blanks and, once more, `%`. Attributes are short because an ext4 file has
 * 4 KiB for all its extended attributes, which holds some 70 snapshots. Unknown elements, attributes and letters are
 * ignored and lost at the next change; what must not get lost therefore raises the version, and a higher one is refused.
 *
 * Errors: -EINVAL not ours, not well-formed or contradictory; -EOPNOTSUPP a higher version; -E2BIG more than
 * VM_META_MAX bytes hold, which is the limit for what is allocated, too.
 * Pure; any thread, one at a time on one object.
 */
#ifndef VS_VM_META_META_H
#define VS_VM_META_META_H

#include "vm/model/types.h"

#define VM_META_KEY "snapfs"
#define VM_META_XATTR "user.virt-snapfs"
#define VM_META_MAX 65536 /* bytes of text: every dump of the domain carries it */
#define VM_META_SERIAL_MAX ((uint64_t)INT64_MAX)

/* Which snapshot is meant. One that was deleted and taken anew under its name is another one. */
struct vm_meta_id {
	const char *name;   /* raw */
	int64_t created_ns; /* of libvirt's record, where there is one (whole seconds), else of the table entry */
	enum vm_kind kind;
};

/* Name and kind are equal, and so is the time; where one of the times is in whole seconds, their seconds. */
bool vm_meta_same(const struct vm_meta_id *a, const struct vm_meta_id *b);

/* A step that can change what a snapshot froze is under way, or was when we died. */
struct vm_meta_doomed {
	char *target; /* of the disk */
	char *path;   /* of the image that is written; or NULL */
	char *top;    /* the uppermost layer that goes into it: who sees it is not harmed; or NULL */
	uint64_t path_ino, top_ino, above_ino; /* which files these are; above: what stood on top, 0: it was the active layer */
	int64_t mtime_ns; /* of the image before the first attempt: while it has that, nothing was written. 0: unknown */
	int64_t left_ns;  /* its mtime when nobody of ours wrote to it any more: what has another one was written to by others. 0: not known */
	bool unasked;     /* nobody has been asked to write to it yet, so nothing was: taken away before somebody is */
	bool done;        /* its data has been moved: noted after it was */
	bool pivoting;    /* all has been copied, and the pivot was asked for */
};

/* Shared by all that one command has doomed: what is written down of its progress is so for each of them. */
struct vm_meta_mark {
	char *command;    /* canonical text: repeating it finishes the job */
	char *reason;     /* a sentence: lower case, no full stop */
	int64_t since_ns;
	struct vm_meta_doomed *disks;
	size_t n_disks;   /* 0: every disk */
	bool retention;   /* nobody asked for it: retention began it, and may finish it */
	bool is_void;     /* others have changed its files: it cannot be finished any more, and what it doomed stays so */
	size_t n_owners;  /* the business of meta.c */
};
/* For a mark that owns its strings and its array; leaves it zeroed. */
void vm_meta_mark_fini(struct vm_meta_mark *mark);

/* A file as it was when the snapshots above it were known to be right. Devices have other numbers after each start of the
 * host, so there is none. */
struct vm_meta_file {
	uint64_t number, ino, size;
	int64_t mtime_ns;
	uint64_t beneath; /* number of what it stood on; 0: not known, or on nothing */
	uint64_t sum;   /* vm_sum(): jobs and who moves images change no more than its header; 0: not known */
	uint64_t survived; /* merges into it that were known, see struct vm_verdict */
	bool alone;     /* it stood on nothing */
	bool raw;       /* and was read as that */
	bool empty;     /* it stored nothing of its own */
};

/* A copy of what the domain kept beside its disks when a snapshot was taken: see command/nv.h. */
struct vm_meta_nv {
	char *what, *path;
	uint64_t ino, size, sum;
	int64_t mtime_ns;
};

struct vm_meta_snapshot {
	char *name;
	int64_t created_ns;
	enum vm_kind kind;
	bool ours, held;
	struct vm_meta_mark *mark; /* or NULL */
	uint64_t *attested;        /* numbers of files */
	size_t n_attested;
	struct vm_meta_frozen {
		char *target;
		uint64_t file;    /* number; 0: not known */
		bool spoilt;      /* found wrong since: only if all is as it was noted is it right again */
		uint64_t shows;   /* vm_sum_shown() of the disk when it was right, which is so for ever; VM_SUM_NONE: it is too much. 0: not known */
	} *frozen;                /* what it froze, as it was when it was last found right */
	size_t n_frozen;
	struct vm_meta_nv *nv;
	size_t n_nv;
};

struct vm_meta_made {
	const char *path;
	uint64_t ino;                      /* 0: not known */
	int64_t born_ns;                   /* 0: likewise. A number is used again when its file is gone */
};

struct vm_meta {
	uint64_t serial;
	char *policy;                      /* or NULL */
	char *of;                          /* or NULL */
	char *on;                          /* or NULL: files that the domain's disks stood on when there was a policy to store, see
	                                    * vm_made_identity(), with blanks between */
	struct vm_meta_snapshot *snapshots; /* only those of which there is something to say */
	size_t n_snapshots;
	struct vm_meta_file *files;         /* by number; only those that some snapshot is attested with or froze, and what those stood on */
	size_t n_files;
	struct vm_meta_made *made;         /* layers: may be removed when nobody needs them */
	size_t n_made;
};

/* ---------------------------------------------------------------- text */

/* Gives *out. @len bytes; the element alone, as virDomainGetMetadata() or the attribute gives it. */
int vm_meta_parse(const char *text, size_t len, struct vm_meta **out, struct vs_err *err);

/* Gives *text, one line for virDomainSetMetadata() or the attribute. -E2BIG even without what is attested. */
int vm_meta_text(const struct vm_meta *meta, char **text, struct vs_err *err);
/* For the log: what there was no room for, static; NULL: there is room for all of it. */
const char *vm_meta_left_out(const struct vm_meta *meta);

struct vm_meta *vm_meta_new(void); /* nothing said, serial 0 */
struct vm_meta *vm_meta_copy(const struct vm_meta *meta);
void vm_meta_free(struct vm_meta *meta);

void vm_meta_set_on(struct vm_meta *meta, char *on); /* takes */
bool vm_meta_is_on(const struct vm_meta *meta, const char *identity);

/*
 * It was found at the domain with this UUID, and is said of that from here on. Where it was said of another one, the domain is a copy:
 * nothing was taken there, and which files its snapshots froze and were right with is not known, for these are the other one's. The
 * policy and holds go with the copy; so do marks, whose files are others, which makes them void.
 */
void vm_meta_adopt(struct vm_meta *meta, const char *uuid);

/* ---------------------------------------------------------------- questions */

/* Which of the two is to be believed: the one with the higher serial, @domain if they are equal. NULL stands for "there is
 * none"; the answer is one of the arguments. A revert by anybody brings back a domain's old metadata: then @copy wins. */
const struct vm_meta *vm_meta_newer(const struct vm_meta *domain, const struct vm_meta *copy);

/* Borrowed; NULL: nothing is said of it. An entry with the very same time goes before one with the same second. */
const struct vm_meta_snapshot *vm_meta_find(const struct vm_meta *meta, const struct vm_meta_id *id);

/* Why that disk of the snapshot must not be read; NULL: it may. Borrowed. */
const char *vm_meta_why_doomed(const struct vm_meta *meta, const struct vm_meta_id *id, const char *target);

/* The marks, each once, in @marks, which has room for one a snapshot; returns how many. Borrowed. */
size_t vm_meta_marks(const struct vm_meta *meta, const struct vm_meta_mark **marks);

/* The file with that number, NULL: none. Borrowed. */
const struct vm_meta_file *vm_meta_file(const struct vm_meta *meta, uint64_t number);

/* ---------------------------------------------------------------- changes
 *
 * None of them raises the serial; who stores the result calls vm_meta_bump() first, once. Strings are copied. An entry of which nothing is left to say goes by itself.
 */

void vm_meta_bump(struct vm_meta *meta); /* also forgets the files of which nothing is to be told */

/* NULL: none. @policy is a canonical line. */
void vm_meta_set_policy(struct vm_meta *meta, const char *policy);

void vm_meta_set_ours(struct vm_meta *meta, const struct vm_meta_id *id, bool ours);
void vm_meta_set_held(struct vm_meta *meta, const struct vm_meta_id *id, bool held);
/* One that is held, was taken at that time, and has a name that nobody bears (@borne says who does): this very one, renamed. The first from *at
 * on, which goes behind it; NULL: there is none. */
const struct vm_meta_snapshot *vm_meta_held_as(const struct vm_meta *meta, const struct vm_meta_id *id, bool (*borne)(const void *opaque, const char *name),
					       const void *opaque, size_t *at);

/* Replaces the mark that is there, by a copy of @mark; NULL takes it away. */
void vm_meta_set_mark(struct vm_meta *meta, const struct vm_meta_id *id, const struct vm_meta_mark *mark);

/* The snapshot is right with these files beneath it; their numbers do not matter, nor how often one is there. Replaces what was attested. */
void vm_meta_set_attested(struct vm_meta *meta, const struct vm_meta_id *id, const struct vm_meta_file *files, size_t n);

/* A file in that state, which is added where it is not known: its number. */
uint64_t vm_meta_add_file(struct vm_meta *meta, const struct vm_meta_file *file);

/* What the snapshot froze on this disk (an internal one: what its image stood on). Replaces what was said of that. */
void vm_meta_set_frozen(struct vm_meta *meta, const struct vm_meta_id *id, const char *target, const struct vm_meta_file *file);
/* It is not right any more, or is again. True: that is news. */
bool vm_meta_set_spoilt(struct vm_meta *meta, const struct vm_meta_id *id, const char *target, bool spoilt);
bool vm_meta_is_spoilt(const struct vm_meta *meta, const struct vm_meta_id *id, const char *target);
/* What is noted of its files and of what it shows: it was said of another one of that name. */
void vm_meta_forget_notes(struct vm_meta *meta, const struct vm_meta_id *id);
void vm_meta_set_shows(struct vm_meta *meta, const struct vm_meta_id *id, const char *target, uint64_t sum);
uint64_t vm_meta_shows(const struct vm_meta *meta, const struct vm_meta_id *id, const char *target); /* 0: not known */
/* Replaces what was said of that. Copied. */
void vm_meta_set_nv(struct vm_meta *meta, const struct vm_meta_id *id, const struct vm_meta_nv *nv);
/* NULL: there is none. Borrowed. */
const struct vm_meta_nv *vm_meta_nv(const struct vm_meta *meta, const struct vm_meta_id *id, const char *what);
/* Is that file noted as such a copy of any snapshot? */
bool vm_meta_has_nv(const struct vm_meta *meta, const char *path, uint64_t ino);
/* What @theirs says: that it was found wrong, and what it froze where @meta says nothing of that. */
void vm_meta_take_frozen(struct vm_meta *meta, const struct vm_meta *theirs, const struct vm_meta_id *id);
/* NULL: nothing is said. Borrowed. */
const struct vm_meta_file *vm_meta_frozen(const struct vm_meta *meta, const struct vm_meta_id *id, const char *target);

/* Only the header of that file was changed, and it has the stamp @now: what was noted of it with the stamp @was (NULL: what was noted of it
 * last) is true of that, whatever stands on it. */
void vm_meta_restamp(struct vm_meta *meta, const struct vm_meta_file *now, const struct vm_meta_file *was);

/* The file @top_ino was merged into the one it stood on, not to the end: who is read through both is read as before, and is noted with that as
 * it is @now. */
void vm_meta_restand(struct vm_meta *meta, uint64_t top_ino, const struct vm_meta_file *now);

/* The layer at @path was made by a command of ours or by a snapshot. */
void vm_meta_add_made(struct vm_meta *meta, const struct vm_meta_made *file);
/* @file: the one that lies there. */
bool vm_meta_has_made(const struct vm_meta *meta, const struct vm_meta_made *file);
/* Forgets every such layer that is not there any more. Returns how many. */
size_t vm_meta_sweep_made(struct vm_meta *meta, bool (*is_there)(const struct vm_meta_made *file));
/* Is it the file that was made? What is not known of one of them does not matter. */
bool vm_meta_is_made(const struct vm_meta_made *made, uint64_t ino, int64_t born_ns);

/* The snapshot is gone: so is all that was said of it. True if there was something. */
bool vm_meta_forget(struct vm_meta *meta, const struct vm_meta_id *id);

/* Forgets every snapshot for which @exists says false. Returns how many. Those with a mark are asked for as well. */
size_t vm_meta_sweep(struct vm_meta *meta, bool (*exists)(const struct vm_meta_id *id, void *opaque), void *opaque);

#endif
