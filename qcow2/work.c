/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "work.h"

int q2_work_ask(struct q2_work *work)
{
	work->asked = work->spent;
	return work->stop(work->opaque) ? -EINTR : 0;
}
