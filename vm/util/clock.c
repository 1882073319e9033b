/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/clock.h"

#include <stdio.h>
#include <stdlib.h>

void vm_time_text(int64_t ns, char *text, size_t room)
{
	time_t when = (time_t)(ns / VM_NS_PER_S);
	long offset_min;
	struct tm tm;

	if (!localtime_r(&when, &tm)) {
		snprintf(text, room, "-");
		return;
	}
	offset_min = tm.tm_gmtoff / 60;
	snprintf(text, room, "%04d-%02d-%02dT%02d:%02d:%02d%c%02ld:%02ld", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
		 tm.tm_hour, tm.tm_min, tm.tm_sec, offset_min < 0 ? '-' : '+', labs(offset_min) / 60,
		 labs(offset_min) % 60);
}
