/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What definitions name besides disks and firmware, whatever for, is needed like those. (Of devices and the like only disks have bytes that a merge
 * could change.) What QEMU is sure to open as an image and is missing may stand on any file; what may be a path, and leads nowhere for now, may
 * be any file of that name: see follow_mentions() in build-volumes.c.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/inventory/build.h"
#include "vm/model/names.h"
#include "vm/util/mem.h"

static void draw_unknown(struct vm_build *sk, const struct vm_xml_mention *m, int code, const struct vm_draft *d)
{
	vs_autofree char *shown = vm_name_printable(m->path);
	vs_autofree char *why = NULL;

	if (m->kind == VM_MENTION_CONFIG)
		why = xasprintf("it gives QEMU arguments in '%s' (-readconfig), which is not read here", shown);
	else if (code == -ENOENT || code == -ENOTDIR)
		why = xasprintf("it gives QEMU '%s', which is missing", shown);
	else
		why = xasprintf("it gives QEMU '%s', which cannot be looked at: %s", shown, strerror(-code));
	vm_drafts_unknown(&sk->set, code, why, "domain '%s'", d->dir);
}

/* NULL: not yet. */
static struct vm_draft_mention *drawn(struct vm_build *sk, const struct vm_draft *d, const char *path)
{
	for (size_t i = sk->set.n_mentions; i-- > 0 && sk->set.mentions[i].draft == d;)
		if (!strcmp(sk->set.mentions[i].path, path))
			return &sk->set.mentions[i];
	return NULL;
}

static void draw(struct vm_build *sk, const struct vm_xml_mention *mention, const char *what, bool now, struct vm_draft *d)
{
	struct stat st = { .st_mode = S_IFREG };
	struct vm_draft_mention *before = drawn(sk, d, mention->path);
	struct vm_draft_mention m = { .path = mention->path, .what = what, .draft = d, .beside = VM_NO_BESIDE };

	m.code = stat(m.path, &st) ? -errno : 0;
	m.dir = m.code ? mention->kind == VM_MENTION_DIR : S_ISDIR(st.st_mode) && (mention->kind == VM_MENTION_DIR || mention->kind == VM_MENTION_MEDIUM);
	m.drive = now && mention->kind == VM_MENTION_IMAGE;
	m.by_name = now && (mention->kind == VM_MENTION_PATH || mention->kind == VM_MENTION_MEDIUM);
	if (now && (mention->kind == VM_MENTION_CONFIG || (m.code && mention->kind > VM_MENTION_MEDIUM)))
		draw_unknown(sk, mention, m.code, d);
	if (before) { /* what one definition only may mean another one does */
		before->by_name |= m.by_name;
		before->drive |= m.drive;
		before->dir |= m.dir && before->code;
	}
	if (before || (!m.dir && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		return;
	if (!m.code && !m.dir) {
		m.beside = d->n_beside;
		VM_ARENA_GROW(&sk->arena, d->beside, d->n_beside, d->beside_room);
		d->beside[d->n_beside++] = (struct vm_fact_beside){ vm_chains_path(&sk->chains, m.path, Q2_FORMAT_RAW, d->gate), what };
	}
	VM_ARENA_GROW(&sk->arena, sk->set.mentions, sk->set.n_mentions, sk->set.mentions_room);
	sk->set.mentions[sk->set.n_mentions++] = m;
}

/* @now: that it is not there counts, too. */
static void draw_all(struct vm_build *sk, const struct vm_xml_domain *xml, const char *what, bool now, struct vm_draft *d)
{
	for (size_t i = 0; xml && i < xml->n_mentions; i++)
		draw(sk, &xml->mentions[i], what, now, d);
}

void vm_build_mentions(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d)
{
	const struct vm_xml_domain *of[] = { k->now, k->config, k->saved }, *last = NULL;

	sk->chains.loose = true; /* a kernel, an initrd */
	for (size_t i = 0; i < VS_ARRAY_LEN(of); i++)
		draw_all(sk, of[i], "its definition names it", true, d);
	for (size_t i = 0; i < k->n_list; i++) {
		const struct vm_xml_snapshot *xml = k->list[i]->record;

		if (!xml || !xml->domain || xml->domain == last)
			continue;
		last = xml->domain;
		draw_all(sk, last, "a snapshot's definition names it", false, d); /* which it would have again after a revert */
	}
	sk->chains.loose = false;
}
