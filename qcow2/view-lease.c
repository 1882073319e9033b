/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Leases on all files of a view (qcow2.h): while they are held nobody else has one of them open for writing.
 */
#include <errno.h>
#include <string.h>

#include "file.h"
#include "layer.h"
#include "view.h"
#include "work.h"

void q2_view_unlease(struct q2_view *v)
{
	const struct q2_stamp *stamp;
	struct q2_file *file;
	size_t i;

	for (i = 0; q2_view_file_at(v, i, &file, &stamp); i++)
		q2_file_unlease(file);
}

bool q2_view_leased(struct q2_view *v)
{
	const struct q2_stamp *stamp;
	struct q2_file *file;
	size_t i;

	for (i = 0; q2_view_file_at(v, i, &file, &stamp); i++)
		if (!q2_file_leased(file))
			return false;
	return true;
}

bool q2_view_file_leased(struct q2_view *v, size_t idx)
{
	const struct q2_stamp *stamp;
	struct q2_file *file;

	return q2_view_file_at(v, idx, &file, &stamp) && q2_file_leased(file);
}

int q2_view_lease(struct q2_view *v, const struct q2_lease *lease)
{
	const struct q2_stamp *stamp;
	struct q2_file *file;
	int rc = v->n_layers > v->watched ? -ENOTSUP : 0;
	size_t i;

	for (i = 0; !rc && q2_view_file_at(v, i, &file, &stamp); i++)
		rc = q2_file_lease(file, lease);
	if (rc)
		q2_view_unlease(v);
	return rc;
}

/* Who waits for the answer, and who for the files. */
struct waiting {
	struct q2_view *view;
	const struct q2_work *work;
};

static bool stop_anew(void *opaque)
{
	const struct waiting *w = opaque;

	return !q2_view_leased(w->view) || (w->work && w->work->stop && w->work->stop(w->work->opaque));
}

/* A snapshot's table is read again, which takes as long as a disk does, and the layers beneath are only looked at. */
int q2_view_check_anew(struct q2_view *v, struct q2_work *work)
{
	struct waiting w = { v, work };
	struct q2_work mine = { .stop = stop_anew, .opaque = &w };
	size_t i;
	int rc = 0;

	for (i = 0; !rc && i < v->n_layers; i++) {
		rc = q2_layer_check_anew(v->layers[i], &mine, NULL);
		if (!rc && v->layers[i]->role == Q2_SNAPSHOT)
			rc = q2_work_ask(&mine);
	}
	return rc == -EINTR && !q2_view_leased(v) ? -EAGAIN : rc;
}
