/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "export.h"

#define HEADER 112u /* bytes: with the method of compression */
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_ROOM 16u /* of that extension: any format's name has at most 8 bytes */

int q2_export_head(const struct q2_head *head, uint8_t **out, size_t *len, struct vs_err *err)
{
	size_t name_len = head->backing ? strlen(head->backing) : 0, all = HEADER + (head->backing ? EXT_ROOM : 0) + 8 + name_len;
	const char *format = q2_format_name(head->backing_format);
	uint8_t *h;

	if (name_len > Q2_MAX_BACKING_NAME || all > (size_t)1 << head->bits)
		return vs_err_set(err, -ENAMETOOLONG, "a name of %zu bytes for what it stands on does not fit into its header", name_len);
	h = calloc(1, all);
	if (!h)
		return -ENOMEM;
	q2_put32(h, 0x514649fb);
	q2_put32(h + 4, 3);
	q2_put64(h + 8, head->backing ? all - name_len : 0);
	q2_put32(h + 16, (uint32_t)name_len);
	q2_put32(h + 20, head->bits);
	q2_put64(h + 24, head->size);
	q2_put32(h + 36, head->l1_entries);
	q2_put64(h + 40, head->l1_first << head->bits);
	q2_put64(h + 48, head->rt_first << head->bits);
	q2_put32(h + 56, head->rt_clusters);
	q2_put32(h + 60, head->n_snapshots);
	q2_put64(h + 64, head->snapshots_first << head->bits);
	q2_put64(h + 72, (head->zstd ? Q2_INCOMPAT_COMPRESSION : 0) | (head->extended_l2 ? Q2_INCOMPAT_EXTL2 : 0));
	q2_put32(h + 96, head->order);
	q2_put32(h + 100, HEADER);
	h[104] = head->zstd;
	if (head->backing) {
		q2_put32(h + HEADER, EXT_BACKING_FORMAT);
		q2_put32(h + HEADER + 4, (uint32_t)strlen(format));
		memcpy(h + HEADER + 8, format, strlen(format));
		memcpy(h + all - name_len, head->backing, name_len);
	}
	*out = h;
	*len = all;
	return 0;
}
