/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "lease-pause.h"

#include <stdlib.h>

#include "clock.h"
#include "vm/util/mem.h"

#define FIRST_NS (2 * SF_NS_PER_S)
#define MOST_NS (60 * SF_NS_PER_S)
#define FORGET_NS (120 * SF_NS_PER_S)

struct sf_pause {
	LIST_ENTRY(sf_pause) link;
	uint64_t dev, ino;
	int64_t len_ns, end_ns;
};

/* For a test (-Dfaults=true): all pauses take so many ms as VIRT_SNAPFS_PAUSE says. */
static int64_t asked_for(int64_t ns)
{
#ifdef VS_FAULTS
	const char *ms = getenv("VIRT_SNAPFS_PAUSE");

	if (ms)
		return atoll(ms) * 1000000;
#endif
	return ns;
}

void sf_pauses_init(struct sf_pauses *pauses)
{
	*pauses = (struct sf_pauses){.first_ns = asked_for(FIRST_NS), .most_ns = asked_for(MOST_NS)};
	pthread_mutex_init(&pauses->lock, NULL);
}

static void forget(struct sf_pause *pause)
{
	LIST_REMOVE(pause, link);
	free(pause);
}

void sf_pauses_fini(struct sf_pauses *pauses)
{
	struct sf_pause *pause;

	while ((pause = LIST_FIRST(&pauses->all)))
		forget(pause);
	pthread_mutex_destroy(&pauses->lock);
}

static struct sf_pause *find_locked(struct sf_pauses *pauses, uint64_t dev, uint64_t ino)
{
	struct sf_pause *pause;

	LIST_FOREACH(pause, &pauses->all, link)
		if (pause->dev == dev && pause->ino == ino)
			break;
	return pause;
}

static void forget_old_locked(struct sf_pauses *pauses, int64_t now_ns)
{
	struct sf_pause *pause, *next;

	for (pause = LIST_FIRST(&pauses->all); pause; pause = next) {
		next = LIST_NEXT(pause, link);
		if (now_ns - pause->end_ns > FORGET_NS)
			forget(pause);
	}
}

void sf_pauses_begin(struct sf_pauses *pauses, uint64_t dev, uint64_t ino, int64_t now_ns)
{
	struct sf_pause *pause;

	pthread_mutex_lock(&pauses->lock);
	forget_old_locked(pauses, now_ns);
	pause = find_locked(pauses, dev, ino);
	if (!pause) {
		pause = xcalloc(1, sizeof(*pause));
		*pause = (struct sf_pause){.dev = dev, .ino = ino, .len_ns = pauses->first_ns, .end_ns = now_ns + pauses->first_ns};
		LIST_INSERT_HEAD(&pauses->all, pause, link);
	} else if (now_ns >= pause->end_ns) {
		pause->len_ns = pause->len_ns < pauses->most_ns / 2 ? pause->len_ns * 2 : pauses->most_ns;
		pause->end_ns = now_ns + pause->len_ns;
	}
	pthread_mutex_unlock(&pauses->lock);
}

int64_t sf_pauses_end(struct sf_pauses *pauses, uint64_t dev, uint64_t ino)
{
	const struct sf_pause *pause;
	int64_t end_ns;

	pthread_mutex_lock(&pauses->lock);
	pause = find_locked(pauses, dev, ino);
	end_ns = pause ? pause->end_ns : 0;
	pthread_mutex_unlock(&pauses->lock);
	return end_ns;
}
