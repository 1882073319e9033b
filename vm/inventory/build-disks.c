/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <string.h>

#include "vm/inventory/build.h"

/* ---------------------------------------------------------------- jobs */

static const struct vm_observed_job *find_job(const struct vm_observed_domain *k, const char *target)
{
	for (size_t i = 0; i < k->n_jobs; i++)
		if (!strcmp(k->jobs[i].target, target))
			return &k->jobs[i];
	return NULL;
}

static const char *job_name(enum vm_job type)
{
	switch (type) {
	case VM_JOB_PULL: return "pull";
	case VM_JOB_COPY: return "copy";
	case VM_JOB_COMMIT: return "commit";
	case VM_JOB_ACTIVE_COMMIT: return "active commit";
	case VM_JOB_BACKUP: return "backup";
	default: return "job";
	}
}

/* An end of 0 or 1 stands for "not known yet". */
static unsigned percent(const struct vm_observed_job *job)
{
	if (job->total <= 1)
		return 0;
	return job->done >= job->total ? 100 : (unsigned)((double)job->done / (double)job->total * 100);
}

/* What libvirt says runs; where it does not answer, a mirror in the definition says so too. */
static void draw_job(struct vm_build *sk, const struct vm_observed_domain *k, const struct vm_xml_disk *xml,
		     struct vm_draft_now *disk, struct q2_gate *gate)
{
	const struct vm_observed_job *job = find_job(k, xml->target);

	if (job && !job->over)
		disk->fact.job = job->type;
	else if (xml->mirror_job == VM_MIRROR_ACTIVE_COMMIT)
		disk->fact.job = VM_JOB_ACTIVE_COMMIT;
	else if (xml->mirror_job == VM_MIRROR_COPY)
		disk->fact.job = VM_JOB_COPY;
	if (job && !job->over) {
		disk->fact.job_since = (unsigned)job->since;
		disk->job_done = job->done;
		disk->job_total = job->total;
	}
	if (job && job->over && job->type == VM_JOB_PULL)
		disk->pull_since = (unsigned)job->since;
	if (xml->mirror_job != VM_MIRROR_NONE)
		disk->fact.mirror = vm_build_file(sk, &xml->mirror, gate);
	if (disk->fact.job == VM_JOB_NONE)
		return;
	if (xml->mirror_ready)
		disk->job = vm_arena_printf(&sk->arena, "%s, ready", job_name(disk->fact.job));
	else
		disk->job = vm_arena_printf(&sk->arena, "%s %u%%", job_name(disk->fact.job), job ? percent(job) : 0);
}

/* ---------------------------------------------------------------- disks */

/* The layers that a running domain has open, as far as they were recorded and are files of ours. */
static void draw_chain(struct vm_build *sk, const struct vm_xml_disk *xml, struct vm_draft_now *disk, struct q2_gate *gate)
{
	int *chain;

	if (!xml->below_complete || disk->fact.top == VM_NO_FILE)
		return;
	chain = vm_arena_calloc(&sk->arena, xml->n_below + 1, sizeof(*chain));
	chain[0] = disk->fact.top;
	for (size_t i = 0; i < xml->n_below; i++) {
		chain[i + 1] = vm_build_file(sk, &xml->below[i], gate);
		if (chain[i + 1] == VM_NO_FILE)
			return;
	}
	disk->fact.chain = chain;
	disk->fact.n_chain = xml->n_below + 1;
}

static const char *note_of(struct vm_build *sk, const struct vm_xml_disk *xml)
{
	if (xml->device == VM_DEVICE_CDROM)
		return "a CD-ROM drive takes no part in snapshots";
	if (xml->device == VM_DEVICE_FLOPPY)
		return "a floppy drive takes no part in snapshots";
	if (!vm_xml_disk_exposed(xml))
		return "read-only: it takes no part in snapshots";
	return vm_build_unsupported(sk, &xml->source);
}

/* That many have the same medium in their drive does not make them have to do with one another. */
static int file_of(struct vm_build *sk, const struct vm_xml_disk *xml, struct q2_gate *gate)
{
	int file;

	sk->chains.loose = xml->device == VM_DEVICE_CDROM;
	file = vm_build_file(sk, &xml->source, gate);
	sk->chains.loose = false;
	return file;
}

static void draw_disk(struct vm_build *sk, const struct vm_observed_domain *k, const struct vm_xml_disk *xml,
		      struct vm_draft_now *disk, struct q2_gate *gate)
{
	disk->source = xml->source.text;
	disk->note = note_of(sk, xml);
	disk->transient = xml->transient;
	disk->fact = (struct vm_fact_disk){
		.target = xml->target, .top = file_of(sk, xml, gate), .format = xml->source.format,
		.writable = vm_xml_disk_exposed(xml), .mirror = VM_NO_FILE,
	};
	if (!k->running || !xml->below_complete)
		vm_build_elsewhere(sk, &xml->source, xml->target, vm_arena_printf(&sk->arena, "domain '%s'", k->name));
	if (!k->running)
		return;
	draw_chain(sk, xml, disk, gate);
	draw_job(sk, k, xml, disk, gate);
}

/* ---------------------------------------------------------------- who needs files besides */

/*
 * What a domain needs is not only what its disks are now. A running domain's configuration may name other images than it runs on. A
 * managed save names what it is going to be restored on, whatever the configuration has come to say since. And a definition may name
 * with <backingStore> what an image stands on: QEMU is then started on that, whatever the image's own header says. So both are witnesses,
 * and where they differ every file that either names is needed. Each of the three is one more domain of the graph's facts, of the same
 * name; who it is is said in the name of the disk.
 */
struct besides {
	struct vm_fact_disk *disks;
	size_t n, room;
};

static void add_besides(struct vm_build *sk, struct besides *list, struct vm_fact_disk disk)
{
	VM_ARENA_GROW(&sk->arena, list->disks, list->n, list->room);
	disk.mirror = VM_NO_FILE;
	list->disks[list->n++] = disk;
}

static void end_besides(struct vm_build *sk, const struct vm_draft *d, const struct besides *list)
{
	if (list->n && sk->set.n_extra < sk->extra_room)
		sk->extra[sk->set.n_extra++] = (struct vm_fact_domain){ .name = d->dir, .disks = list->disks, .n_disks = list->n };
}

static bool in_live_chains(const struct vm_build *sk, const struct vm_draft *d, int file)
{
	for (size_t i = 0; i < d->n_disks; i++) {
		int layer = d->disks[i].fact.top;

		for (size_t depth = 0; layer != VM_NO_FILE && depth < VM_CHAIN_MAX; depth++) {
			if (vm_build_same(sk, layer, file))
				return true;
			layer = sk->chains.fact[layer].below;
		}
	}
	return false;
}

/* Likewise of one layer's data file, as far as that of the header can be found: QEMU goes by the definition. */
static bool data_agrees(struct vm_build *sk, const struct vm_xml_source *said, int layer, struct q2_gate *gate)
{
	int data = said->data && layer != VM_NO_FILE ? sk->chains.fact[layer].data : VM_NO_FILE;

	return data == VM_NO_FILE || vm_build_same(sk, data, vm_chains_path(&sk->chains, said->data, Q2_FORMAT_RAW, gate));
}

/* In the chain of a disk. Those of which the headers tell otherwise are added. */
static bool draw_data(struct vm_build *sk, const struct vm_xml_disk *xml, int layer, const struct vm_draft *d, struct besides *list)
{
	const char *as = vm_arena_printf(&sk->arena, "%s, by the <dataStore> of its definition", xml->target);
	bool differs = false;

	for (size_t i = 0; i <= xml->n_below && layer != VM_NO_FILE; i++) {
		const struct vm_xml_source *said = i ? &xml->below[i - 1] : &xml->source;

		if (!data_agrees(sk, said, layer, d->gate)) {
			if (said->data[0] == '/')
				add_besides(sk, list, (struct vm_fact_disk){ .target = as, .top = vm_chains_path(&sk->chains, said->data, Q2_FORMAT_RAW, d->gate),
									     .format = Q2_FORMAT_RAW, .writable = i == 0 && vm_xml_disk_exposed(xml) });
			differs = true;
		}
		layer = sk->chains.fact[layer].below;
	}
	return differs;
}

/* Do the definition and the headers tell of the same chain, as far as the definition goes? */
static bool headers_agree(struct vm_build *sk, const struct vm_xml_disk *xml, int top, struct q2_gate *gate)
{
	int layer = top;

	for (size_t i = 0; i < xml->n_below; i++) {
		layer = sk->chains.fact[layer].below;
		if (layer == VM_NO_FILE || !vm_build_same(sk, layer, vm_build_file(sk, &xml->below[i], gate)))
			return false;
	}
	return !xml->below_complete || sk->chains.fact[layer].below == VM_NO_FILE;
}

/* What <backingStore> and <dataStore> of a definition name, where the headers tell otherwise. True: they do. */
static bool draw_said(struct vm_build *sk, const struct vm_xml_disk *xml, int top, const struct vm_draft *d, struct besides *list)
{
	const char *as = vm_arena_printf(&sk->arena, "%s, by the <backingStore> of its definition", xml->target);
	bool differs = draw_data(sk, xml, top, d, list);

	if (top == VM_NO_FILE || (!xml->n_below && !xml->below_complete) || headers_agree(sk, xml, top, d->gate))
		return differs;
	for (size_t i = 0; i < xml->n_below; i++) {
		vm_build_elsewhere(sk, &xml->below[i], xml->target, vm_arena_printf(&sk->arena, "domain '%s'", d->dir));
		add_besides(sk, list, (struct vm_fact_disk){ .target = as, .top = vm_build_file(sk, &xml->below[i], d->gate),
							     .format = xml->below[i].format });
	}
	return true;
}

static void note_contradiction(const struct vm_draft *d, const char *target)
{
	for (size_t i = 0; i < d->n_disks; i++)
		if (!strcmp(d->disks[i].fact.target, target))
			d->disks[i].contradicted = true;
}

static void draw_config(struct vm_build *sk, const struct vm_observed_domain *k, const struct vm_draft *d)
{
	struct besides list = {0};

	for (size_t i = 0; k->config && i < k->config->n_disks; i++) {
		const struct vm_xml_disk *xml = &k->config->disks[i];
		int top = file_of(sk, xml, d->gate);

		vm_build_elsewhere(sk, &xml->source, xml->target, vm_arena_printf(&sk->arena, "domain '%s' at its next start", k->name));
		if (draw_said(sk, xml, top, d, &list))
			note_contradiction(d, xml->target);
		if (top != VM_NO_FILE && !in_live_chains(sk, d, top))
			add_besides(sk, &list, (struct vm_fact_disk){ .target = xml->target, .top = top, .format = xml->source.format,
								      .writable = vm_xml_disk_exposed(xml) });
	}
	end_besides(sk, d, &list);
}

static bool is_top(const struct vm_build *sk, const struct vm_draft *d, int file)
{
	for (size_t i = 0; i < d->n_disks; i++)
		if (vm_build_same(sk, d->disks[i].fact.top, file))
			return true;
	return false;
}

static void draw_saved(struct vm_build *sk, const struct vm_observed_domain *k, const struct vm_draft *d)
{
	struct besides list = {0};

	for (size_t i = 0; k->saved && i < k->saved->n_disks; i++) {
		const struct vm_xml_disk *xml = &k->saved->disks[i];
		int top = file_of(sk, xml, d->gate);

		vm_build_elsewhere(sk, &xml->source, xml->target, vm_arena_printf(&sk->arena, "the managed save of domain '%s'", k->name));
		draw_said(sk, xml, top, d, &list);
		if (top != VM_NO_FILE)
			add_besides(sk, &list, (struct vm_fact_disk){
				.target = vm_arena_printf(&sk->arena, "%s, in its managed save", xml->target), .top = top,
				.format = xml->source.format, .writable = vm_xml_disk_exposed(xml) && !is_top(sk, d, top),
			});
	}
	end_besides(sk, d, &list);
}

/* The configuration of a domain that is shut off. What a running one stands on is asked of QEMU; but not which data file it has. */
static void draw_contradictions(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d)
{
	struct besides list = {0};

	for (size_t i = 0, n = 0; i < k->now->n_disks; i++) {
		const struct vm_xml_disk *xml = &k->now->disks[i];
		struct vm_draft_now *disk = &d->disks[n];

		if (xml->source.type == VM_SOURCE_NONE)
			continue;
		n++;
		disk->contradicted = (k->running ? draw_data : draw_said)(sk, xml, disk->fact.top, d, &list);
		if (disk->contradicted)
			disk->doubt = vm_arena_printf(&sk->arena, "the <backingStore> or <dataStore> in the domain's definition names another chain than the "
						      "headers of the images do");
	}
	end_besides(sk, d, &list);
}

void vm_build_disks(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d)
{
	if (!k->now)
		return;
	d->disks = vm_arena_calloc(&sk->arena, k->now->n_disks, sizeof(*d->disks));
	for (size_t i = 0; i < k->now->n_disks; i++)
		if (k->now->disks[i].source.type != VM_SOURCE_NONE)
			draw_disk(sk, k, &k->now->disks[i], &d->disks[d->n_disks++], d->gate);
	draw_contradictions(sk, k, d);
	draw_config(sk, k, d);
	draw_saved(sk, k, d);
}
