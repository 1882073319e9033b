/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "work.h"

#define ASK_EVERY 4096 /* units: a tenth of a millisecond, or 60 reads of a disk that has nothing in memory */

int q2_work_spend(struct q2_work *work, uint64_t units)
{
	if (!work)
		return 0;
	work->spent += units;
	if (!work->stop || work->spent < work->ask_at)
		return 0;
	work->ask_at = work->spent + ASK_EVERY;
	return work->stop(work->opaque) ? -EINTR : 0;
}
