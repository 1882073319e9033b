/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * map.h: the map of one L1 table: guest offset -> run, for one layer.
 *
 * Two kinds. The map of a *frozen* image (its active L1) is shared by everybody who finds the same file with the same
 * stamp. The map of an internal *snapshot* is shared by everybody who finds the same identity in the same file; its
 * L1 and L2 tables cannot change while the snapshot exists (but for bit 63), so that a map once loaded is right for as
 * long as the identity is still in the table, which is what q2_map_identity_check() finds out.
 */
#ifndef Q2_MAP_H
#define Q2_MAP_H

#include "cache.h"
#include "entry.h"

struct q2_map_key {
	uint64_t dev, ino;
	uint64_t l1_off, l1_entries;
	uint64_t size, mtime_ns;                /* frozen: of the stamp; snapshot: 0 */
	uint64_t date, vm_clock, vm_state_size; /* snapshot */
	uint64_t names;                         /* snapshot: hash of id and name */
	uint64_t snapshot;                      /* 0 or 1 */
};

struct q2_map;

struct q2_map_spec {
	struct q2_stamp stamp;
	struct q2_geometry geometry;
	uint64_t l1_off;
	uint32_t l1_entries;
	uint64_t image_size;                /* what a table entry without disk_size means */
	const struct q2_snapshot *snapshot; /* NULL: frozen */
};

/* Finds or makes the map; gives a reference. NULL: no memory. */
struct q2_map *q2_map_get(struct q2_cache *c, const struct q2_map_spec *spec);
void q2_map_put(struct q2_cache *c, struct q2_map *m);

uint64_t q2_map_serial(const struct q2_map *m);
const struct q2_geometry *q2_map_geometry(const struct q2_map *m);
const struct q2_snapshot *q2_map_snapshot(const struct q2_map *m); /* NULL: frozen */

/* What lies at guest_off, for 1..max_len bytes (compressed, bad: up to the end of the cluster). */
struct q2_piece {
	uint64_t len;
	enum q2_run_kind kind;
	uint64_t host_off; /* data: of guest_off itself; compressed: of the stream; bad: the raw entry */
	uint32_t max_len;
	bool has_table;  /* an L2 table says so */
	bool unsure;     /* frozen: the tables behind it have not been vouched for since they were read */
};

/* @f: an open descriptor of the file the map belongs to. Errors name it. @work: one look costs at most a table, a look at
 * the snapshot that another copy of it belongs to, and a glance at as many L1 entries as @max_len covers. */
int q2_map_lookup(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t guest_off, uint64_t max_len,
		  struct q2_work *work, struct q2_piece *out, struct vs_err *err);

/*
 * What was read from a file that has been written meanwhile is published like all else, and its reader is told by the check
 * that follows; the next one who meets the table must be told as well. So a look at the file is begun, and, if that found
 * all as it should be (a frozen file unchanged, a snapshot's record in its place), vouches for what was read before it.
 */
struct q2_look {
	uint64_t reads, clock;
};
struct q2_look q2_map_look(struct q2_map *m);
void q2_map_vouch(struct q2_map *m, const struct q2_look *look);

/* Does one of the tables, looked at here and there for @units of work, have compressed clusters? 1, 0, negative errno. */
int q2_map_has_compressed(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t units, struct q2_work *work,
			  struct vs_err *err);

/* Is the snapshot still in the file's table, given the header's nb_snapshots and snapshots_offset as just read?
 * 0, -ESTALE (deleted), or the error of looking. A record that only moved is found again. */
int q2_map_identity_check(struct q2_map *m, struct q2_file *f, uint32_t nb, uint64_t table_off, struct q2_work *work,
			  struct vs_err *err);

#endif
