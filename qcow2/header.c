/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "header.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "bytes.h"

#define MAGIC UINT32_C(0x514649fb)

#define EXT_END            UINT32_C(0x00000000)
#define EXT_BACKING_FORMAT UINT32_C(0xe2792aca)
#define EXT_FEATURES       UINT32_C(0x6803f857)
#define EXT_BITMAPS        UINT32_C(0x23852875)
#define EXT_CRYPTO         UINT32_C(0x0537be77)
#define EXT_DATA_FILE      UINT32_C(0x44415441)

struct parse {
	const uint8_t *buf;
	size_t len;
	const char *path;
	struct q2_header h;
	size_t need;
	const uint8_t *features; /* the feature name table, inside buf */
	size_t features_len;
	struct vs_err *err;
};

uint64_t q2_l1_entries_for(uint64_t size, unsigned cluster_bits, bool extended_l2)
{
	unsigned shift = cluster_bits + cluster_bits - (extended_l2 ? 4 : 3);

	return (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

void q2_header_fini(struct q2_header *h)
{
	free(h->backing_name);
	free(h->backing_format);
	free(h->data_file);
	memset(h, 0, sizeof(*h));
}

/* May bytes off..off+len be looked at? Else asks for more. */
static int want(struct parse *p, uint64_t off, uint64_t len)
{
	if (off + len <= p->len)
		return 0;
	p->need = (size_t)(off + len);
	return -EAGAIN;
}

/* A name from the image: ends at its first NUL, as in QEMU. */
static char *name_dup(const uint8_t *p, size_t len)
{
	return strndup((const char *)p, len);
}

static int check_table(struct parse *p, const char *what, uint64_t off, uint64_t bytes)
{
	if (off & ((UINT64_C(1) << p->h.cluster_bits) - 1))
		return vs_err_set(p->err, -EINVAL, "'%s': %s offset %#" PRIx64 " is not aligned to a cluster", p->path, what,
				  off);
	if (off > INT64_MAX || bytes > INT64_MAX - off)
		return vs_err_set(p->err, -EINVAL, "'%s': %s offset %#" PRIx64 " is out of range", p->path, what, off);
	return 0;
}

static int parse_fixed(struct parse *p)
{
	const uint8_t *b = p->buf;
	struct q2_header *h = &p->h;

	if (q2_be32(b) != MAGIC)
		return vs_err_set(p->err, -EINVAL, "'%s' is not a qcow2 image", p->path);
	h->version = q2_be32(b + 4);
	if (h->version != 2 && h->version != 3)
		return vs_err_set(p->err, -ENOTSUP, "'%s': qcow version %u is not supported", p->path, h->version);
	h->backing_off = q2_be64(b + 8);
	h->backing_len = q2_be32(b + 16);
	h->cluster_bits = q2_be32(b + 20);
	h->size = q2_be64(b + 24);
	h->crypt_method = q2_be32(b + 32);
	h->l1_entries = q2_be32(b + 36);
	h->l1_off = q2_be64(b + 40);
	h->nb_snapshots = q2_be32(b + 60);
	h->snapshots_off = q2_be64(b + 64);
	h->refcount_order = 4;
	h->reftable_off = q2_be64(b + 48);
	h->header_len = 72;
	if (h->cluster_bits < 9 || h->cluster_bits > 21)
		return vs_err_set(p->err, -EINVAL, "'%s': cluster size 2^%u is outside 512 bytes..2 MiB", p->path,
				  h->cluster_bits);
	h->reftable_len = (uint64_t)q2_be32(b + 56) << h->cluster_bits;
	if (h->version == 2)
		return 0;
	h->incompatible = q2_be64(b + 72);
	h->compatible = q2_be64(b + 80);
	h->autoclear = q2_be64(b + 88);
	h->refcount_order = q2_be32(b + 96);
	h->header_len = q2_be32(b + 100);
	if (h->header_len < 104)
		return vs_err_set(p->err, -EINVAL, "'%s': header length %u is below 104", p->path, h->header_len);
	if (h->header_len > 104)
		h->compression_type = b[104];
	return 0;
}

static int check_lengths(struct parse *p)
{
	struct q2_header *h = &p->h;
	uint64_t cluster = UINT64_C(1) << h->cluster_bits;

	if (h->header_len > cluster)
		return vs_err_set(p->err, -EINVAL, "'%s': header length %u exceeds the cluster size", p->path, h->header_len);
	if (h->backing_off > cluster)
		return vs_err_set(p->err, -EINVAL, "'%s': backing file name offset %#" PRIx64 " is outside the first cluster",
				  p->path, h->backing_off);
	if (h->backing_off &&
	    (h->backing_len > Q2_MAX_BACKING_NAME || h->backing_len > cluster - h->backing_off))
		return vs_err_set(p->err, -EINVAL, "'%s': backing file name of %u bytes is too long", p->path, h->backing_len);
	return 0;
}

/* One header extension whose @len data bytes lie at p->buf + off. */
static int parse_extension(struct parse *p, uint32_t type, uint64_t off, uint32_t len)
{
	struct q2_header *h = &p->h;

	switch (type) {
	case EXT_BACKING_FORMAT:
		if (len >= 16)
			return vs_err_set(p->err, -EINVAL, "'%s': backing format name of %u bytes is too long (offset %#" PRIx64
					  ")", p->path, len, off);
		free(h->backing_format);
		h->backing_format = name_dup(p->buf + off, len);
		return h->backing_format ? 0 : -ENOMEM;
	case EXT_DATA_FILE:
		free(h->data_file);
		h->data_file = name_dup(p->buf + off, len);
		return h->data_file ? 0 : -ENOMEM;
	case EXT_FEATURES:
		p->features = p->buf + off;
		p->features_len = len;
		return 0;
	case EXT_BITMAPS:
		if (len != 24)
			return vs_err_set(p->err, -EINVAL, "'%s': bitmaps extension of %u bytes, must be 24 (offset %#" PRIx64
					  ")", p->path, len, off);
		if (h->autoclear & Q2_AUTOCLEAR_BITMAPS) {
			h->bitmaps_len = q2_be64(p->buf + off + 8);
			h->bitmaps_off = q2_be64(p->buf + off + 16);
		}
		return 0;
	case EXT_CRYPTO:
		if (h->crypt_method != 2)
			return vs_err_set(p->err, -EINVAL, "'%s': encryption header in an image that is not LUKS-encrypted",
					  p->path);
		if (len != 16)
			return vs_err_set(p->err, -EINVAL, "'%s': encryption header extension of %u bytes, must be 16", p->path,
					  len);
		return 0;
	default:
		return 0;
	}
}

static int parse_extensions(struct parse *p)
{
	uint64_t end = p->h.backing_off ? p->h.backing_off : UINT64_C(1) << p->h.cluster_bits;
	uint64_t off = p->h.header_len;
	uint32_t type, len;
	int rc;

	while (off < end) {
		if (end - off < 8)
			return vs_err_set(p->err, -EINVAL, "'%s': header extension at offset %#" PRIx64 " is cut short", p->path,
					  off);
		rc = want(p, off, 8);
		if (rc)
			return rc;
		type = q2_be32(p->buf + off);
		len = q2_be32(p->buf + off + 4);
		off += 8;
		if (type == EXT_END)
			return 0;
		if (len > end - off)
			return vs_err_set(p->err, -EINVAL, "'%s': header extension %#x of %u bytes is too large (offset %#" PRIx64
					  ")", p->path, type, len, off - 8);
		rc = want(p, off, len);
		if (rc)
			return rc;
		rc = parse_extension(p, type, off, len);
		if (rc)
			return rc;
		off += ((uint64_t)len + 7) & ~UINT64_C(7);
	}
	return 0;
}

/* The name the image itself gives to a feature bit, else "bit N". */
static void feature_name(const struct parse *p, unsigned bit, char *out, size_t out_len)
{
	size_t i;

	for (i = 0; i + 48 <= p->features_len; i += 48)
		if (p->features[i] == 0 && p->features[i + 1] == bit) {
			snprintf(out, out_len, "'%.46s' (bit %u)", (const char *)p->features + i + 2, bit);
			return;
		}
	snprintf(out, out_len, "bit %u", bit);
}

static int check_features(struct parse *p)
{
	struct q2_header *h = &p->h;
	uint64_t unknown = h->incompatible & ~Q2_INCOMPAT_KNOWN;
	bool flagged = h->incompatible & Q2_INCOMPAT_COMPRESSION;
	char name[80];

	if (unknown) {
		feature_name(p, (unsigned)__builtin_ctzll(unknown), name, sizeof(name));
		return vs_err_set(p->err, -ENOTSUP, "'%s': unsupported incompatible feature %s", p->path, name);
	}
	if (h->compression_type > 1)
		return vs_err_set(p->err, -ENOTSUP, "'%s': compression type %u is not supported", p->path, h->compression_type);
	if (flagged != (h->compression_type != 0))
		return vs_err_set(p->err, -EINVAL, "'%s': compression type %u contradicts the compression feature bit", p->path,
				  h->compression_type);
	if ((h->incompatible & Q2_INCOMPAT_EXTL2) && h->cluster_bits < 14)
		return vs_err_set(p->err, -EINVAL, "'%s': extended L2 entries need clusters of 16 KiB or more", p->path);
	if ((h->autoclear & Q2_AUTOCLEAR_DATA_FILE_RAW) && !(h->incompatible & Q2_INCOMPAT_DATA_FILE))
		return vs_err_set(p->err, -EINVAL, "'%s': data-file-raw without an external data file", p->path);
	if (h->refcount_order > 6)
		return vs_err_set(p->err, -EINVAL, "'%s': refcount width 2^%u is above 64 bits", p->path, h->refcount_order);
	if (h->crypt_method > 2)
		return vs_err_set(p->err, -EINVAL, "'%s': unknown encryption method %u", p->path, h->crypt_method);
	return 0;
}

static int check_tables(struct parse *p)
{
	struct q2_header *h = &p->h;
	uint64_t reftable_clusters = q2_be32(p->buf + 56);
	uint64_t l1_needed;
	int rc;

	if (!reftable_clusters)
		return vs_err_set(p->err, -EINVAL, "'%s': no refcount table", p->path);
	if (reftable_clusters << h->cluster_bits > Q2_MAX_REFTABLE_BYTES)
		return vs_err_set(p->err, -EFBIG, "'%s': refcount table of %" PRIu64 " clusters is too large", p->path,
				  reftable_clusters);
	rc = check_table(p, "refcount table", q2_be64(p->buf + 48), reftable_clusters << h->cluster_bits);
	if (rc)
		return rc;
	if (h->nb_snapshots > Q2_MAX_SNAPSHOTS)
		return vs_err_set(p->err, -EFBIG, "'%s': %u snapshots, at most %u are possible", p->path, h->nb_snapshots,
				  Q2_MAX_SNAPSHOTS);
	rc = check_table(p, "snapshot table", h->snapshots_off, (uint64_t)h->nb_snapshots * 40);
	if (rc)
		return rc;
	if ((uint64_t)h->l1_entries * 8 > Q2_MAX_L1_BYTES)
		return vs_err_set(p->err, -EFBIG, "'%s': L1 table of %u entries is too large", p->path, h->l1_entries);
	if (h->size > INT64_MAX)
		return vs_err_set(p->err, -EFBIG, "'%s': virtual size %" PRIu64 " is too large", p->path, h->size);
	l1_needed = q2_l1_entries_for(h->size, h->cluster_bits, h->incompatible & Q2_INCOMPAT_EXTL2);
	if (l1_needed > INT_MAX)
		return vs_err_set(p->err, -EFBIG, "'%s': virtual size %" PRIu64 " is too large", p->path, h->size);
	if (h->l1_entries < l1_needed)
		return vs_err_set(p->err, -EINVAL, "'%s': L1 table of %u entries is too small for %" PRIu64 " bytes", p->path,
				  h->l1_entries, h->size);
	return check_table(p, "L1 table", h->l1_off, (uint64_t)h->l1_entries * 8);
}

static int parse_backing(struct parse *p)
{
	struct q2_header *h = &p->h;
	int rc;

	if (!h->backing_off || !h->backing_len)
		return 0;
	rc = want(p, h->backing_off, h->backing_len);
	if (rc)
		return rc;
	if (!p->buf[h->backing_off]) /* an empty name is none */
		return 0;
	h->backing_name = name_dup(p->buf + h->backing_off, h->backing_len);
	return h->backing_name ? 0 : -ENOMEM;
}

int q2_header_parse(const uint8_t *buf, size_t len, const char *path, struct q2_header *out, size_t *need,
		    struct vs_err *err)
{
	struct parse p = { .buf = buf, .len = len, .path = path, .err = err };
	int (*const steps[])(struct parse *) = { parse_fixed, check_lengths, parse_extensions, check_features, check_tables,
						 parse_backing };
	size_t i;
	int rc;

	rc = want(&p, 0, Q2_HEADER_MIN);
	for (i = 0; !rc && i < VS_ARRAY_LEN(steps); i++)
		rc = steps[i](&p);
	if (rc) {
		if (rc == -EAGAIN)
			*need = p.need;
		q2_header_fini(&p.h);
		return rc;
	}
	p.h.size &= ~UINT64_C(511);
	*out = p.h;
	return 0;
}
