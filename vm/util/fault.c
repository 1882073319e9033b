/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/fault.h"

#ifdef VS_FAULTS
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void vm_fault_at(const char *file, int line)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	const char *path = getenv("VIRT_SNAPFS_FAULT");
	unsigned long left = 0;
	FILE *f;

	pthread_mutex_lock(&lock);
	f = path ? fopen(path, "r+e") : NULL;
	if (f && fscanf(f, "%lu", &left) == 1 && left > 0) {
		rewind(f);
		fprintf(f, "%lu %s:%d\n", left - 1, file, line);
		if (fflush(f) == 0 && ftruncate(fileno(f), ftell(f)) == 0 && left == 1)
			kill(getpid(), SIGKILL);
	}
	if (f)
		fclose(f);
	pthread_mutex_unlock(&lock);
}
#endif
