/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* hold, release, and storing a policy. */
#include <errno.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/command.h"

int vm_op_hold(struct vm_work *w, const char *name, bool hold, struct vs_err *err)
{
	const struct vm_snapshot *s;
	struct vm_own_id id;
	int r = vm_attest_look(w, err);

	if (r == 0)
		r = vm_work_find(w, name, &s, err);
	if (r < 0)
		return r;
	if (s->held == hold || w->try_only) {
		vm_work_say(w, s->held == hold ? "'%s' is %s already" : "'%s' would be %s", s->shown, hold ? "held" : "released");
		return 0;
	}
	id = vm_work_id(w, s);
	if (vm_own_set_held(w->own, &id, hold) < 0)
		return vs_err_set(err, -ENOMEM, "out of memory");
	return vm_work_save(w, err);
}

int vm_op_policy(struct vm_work *w, const char *line, struct vs_err *err)
{
	int r = vm_attest_look(w, err);

	if (r < 0)
		return r;
	if (w->own->policy && !strcmp(w->own->policy, line))
		return 0;
	if (vm_own_set_policy(w->own, line) < 0)
		return vs_err_set(err, -ENOMEM, "out of memory");
	return vm_work_save(w, err);
}
