/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * text.h: the text files of a domain: what is in them.
 *
 * A text is made when it is opened, and again at the next open: a domain may have 100 KiB of them, which nobody reads
 * most of the time. Only lengths are kept, for stat(2). That works because the renderers are pure: a domain in, bytes
 * out, the same bytes for the same domain, and never more of them than a small multiple of what the inventory holds already.
 * Formats: CONTRACT "snapshots, snapshots.json", and virt-snapfs(8).
 */
#ifndef VS_TEXT_H
#define VS_TEXT_H

#include <stdatomic.h>
#include <stdio.h>

#include "plan.h"
#include "tree.h"

/* Immutable; reference-counted, because the last read may still be in its reply when the release comes, and because
 * retain.plan may be written while it is read. */
struct sf_text {
	atomic_uint refs;
	int64_t changed_ns; /* the time of the last change of what it says */
	size_t len;
	bool hollow;        /* only its length is held: pages.h has the rest */
	char data[];
};

/* A copy of @data. Gives. */
struct sf_text *sf_text_new(const char *data, size_t len, int64_t changed_ns);
/* Without the bytes. Gives. */
struct sf_text *sf_text_hollow(size_t len, int64_t changed_ns);
struct sf_text *sf_text_ref(struct sf_text *text);
void sf_text_unref(struct sf_text *text); /* NULL is fine */

/* What the file @entry says now, which is none that is counted, nor retain.plan. Gives. */
struct sf_text *sf_text_make(struct vm *vm, struct sf_dir *dir, const struct sf_entry *entry);

/* What `ctl`, `retain` and `jobs` of that domain say at this moment. Gives. */
struct sf_text *sf_text_live(struct vm *vm, const char *uuid, enum sf_kind kind);

/* What `ctl` says to whose outcome it is, whatever the domain's last one may be. Gives. */
struct sf_text *sf_text_outcome(struct vm *vm, const char *uuid, const char *outcome);

/* What retain.plan says of @policy; NULL: of the one that is stored. @changed_ns: its time. Gives *out. -EINVAL: that is
 * no policy, and *out says why. */
int sf_text_plan(struct vm *vm, const char *uuid, const char *policy, int64_t changed_ns, struct sf_text **out);

/* The plan of @policy, or of the stored one, was @plain bytes long, and is @len with what was counted: kept for stat(2). */
void sf_text_plan_counted(struct vm *vm, struct sf_dir *dir, const char *policy, size_t plain, size_t len);

/* Its length and time. Renders it only where that was never done, or is new every time. What is counted has no length before somebody has
 * opened it. */
int sf_text_stat(struct vm *vm, struct sf_plans *plans, struct sf_dir *dir, const struct sf_entry *entry, size_t *len,
		 int64_t *changed_ns);

/* One that was counted; its length is kept for stat(2). Gives. */
struct sf_text *sf_text_counted(struct sf_dir *dir, enum sf_kind kind, const char *data, size_t len);

void sf_table_render(FILE *out, const struct vm_domain *domain); /* `snapshots` */
void sf_json_render(FILE *out, const struct vm_domain *domain);  /* `snapshots.json` */
/* Of it what is said of snapshots @from .. @to - 1, with all before that for the first one, and all behind it for the last. */
void sf_json_render_some(FILE *out, const struct vm_domain *domain, size_t from, size_t to);
void sf_chain_render(FILE *out, const struct vm_domain *domain); /* `chain` */

#endif
