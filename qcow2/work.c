/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "work.h"

int q2_work_ask(struct q2_work *work)
{
	work->asked = work->spent;
	return work->stop(work->opaque) ? -EINTR : 0;
}
