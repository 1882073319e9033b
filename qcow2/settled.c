/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "settled.h"

#include <time.h>

#include "file.h"

void q2_settled_init(struct q2_settled *s)
{
	*s = (struct q2_settled){ 0 };
	pthread_mutex_init(&s->lock, NULL);
}

void q2_settled_fini(struct q2_settled *s)
{
	pthread_mutex_destroy(&s->lock);
}

int64_t q2_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

bool q2_settled_still(struct q2_settled *s, struct q2_file *f, const struct q2_stamp *now)
{
	bool settled;

	if (now->block || q2_file_direct(f))
		return false;
	pthread_mutex_lock(&s->lock);
	settled = s->checked_ns && now->mtime_ns == s->mtime_ns && now->ctime_ns == s->ctime_ns && s->checked_ns - now->mtime_ns > Q2_SETTLE_NS;
	pthread_mutex_unlock(&s->lock);
	return settled;
}

void q2_settled_remember(struct q2_settled *s, const struct q2_stamp *now, int64_t when_ns)
{
	pthread_mutex_lock(&s->lock);
	s->checked_ns = when_ns;
	s->mtime_ns = now->mtime_ns;
	s->ctime_ns = now->ctime_ns;
	pthread_mutex_unlock(&s->lock);
}
