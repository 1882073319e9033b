/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * text.h: the text files of a domain: what is in them.
 *
 * A text is made when it is opened, and again at the next open: a domain may have 100 KiB of them, which nobody reads
 * most of the time. Only lengths are kept, for stat(2). That works because the renderers are pure: a domain in, bytes
 * out, the same bytes for the same domain. They fail for want of memory only (-ENOMEM, or an error of the stream).
 * Formats: CONTRACT "snapshots, snapshots.json", and virt-snapfs(8).
 */
#ifndef VS_TEXT_H
#define VS_TEXT_H

#include <stdio.h>

#include "tree.h"

struct sf_text {
	int64_t changed_ns; /* the time of the last change of what it says */
	size_t len;
	char data[];
};

/* What the file @entry says now. Gives *out, to be freed. -ENOMEM. */
int sf_text_make(struct sf_dir *dir, const struct sf_entry *entry, struct sf_text **out);

/* Its length and time. Renders it only where that was never done. */
int sf_text_stat(struct sf_dir *dir, const struct sf_entry *entry, size_t *len, int64_t *changed_ns);

int sf_table_render(FILE *out, const struct vm_domain *domain); /* `snapshots` */
int sf_json_render(FILE *out, const struct vm_domain *domain);  /* `snapshots.json` */
int sf_chain_render(FILE *out, const struct vm_domain *domain); /* `chain` */

#endif
