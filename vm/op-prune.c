/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* prune: what the policy drops goes, one after the other. */
#include "vm/engine.h"
#include "vm/work.h"

#include <errno.h>
#include <string.h>

#include "vm/retain.h"

/* What a guard refuses to drop stays, and the others go all the same. */
struct pruning {
	char **refused; /* shown names */
	size_t n_refused;
	struct vs_err why; /* of the first */
	int result;
};

static void pruning_fini(struct pruning *p)
{
	for (size_t i = 0; i < p->n_refused; i++)
		free(p->refused[i]);
	free(p->refused);
}

static bool was_refused(const struct pruning *p, const char *shown)
{
	for (size_t i = 0; i < p->n_refused; i++)
		if (!strcmp(p->refused[i], shown))
			return true;
	return false;
}

/* Takes @name. */
static int note_refused(struct pruning *p, char *name, int r, const struct vs_err *why)
{
	char **grown = reallocarray(p->refused, p->n_refused + 1, sizeof(*grown));

	if (!grown) {
		free(name);
		return -ENOMEM;
	}
	p->refused = grown;
	grown[p->n_refused++] = name;
	if (p->result < 0)
		return 0;
	p->result = r;
	p->why = *why;
	vs_err_prefix(&p->why, "'%s' stays", name);
	return 0;
}

/* The first that the policy drops and that was not refused: gives its shown name; NULL: none. */
static char *first_dropped(struct vm_work *w, const struct pruning *p, struct vs_err *err, int *r)
{
	struct vm_retain_snapshot *snaps = NULL;
	struct vm_retain_verdict *verdicts = NULL;
	size_t n = 0;
	char *name = NULL;

	*r = vm_engine_plan(w->engine, w->d, w->own->policy, &snaps, &verdicts, &n, err);
	for (size_t i = 0; *r == 0 && i < n && !name; i++)
		if (!verdicts[i].keep && !was_refused(p, snaps[i].shown))
			name = strdup(snaps[i].shown);
	free(snaps);
	free(verdicts);
	return name;
}

/* Drops one. 1: there may be more. */
static int prune_one(struct vm_work *w, struct pruning *p, size_t *dropped, struct vs_err *err)
{
	int r = 0;
	char *name = w->own->policy ? first_dropped(w, p, err, &r) : NULL;

	if (r == 0 && name)
		r = vm_work_cancelled(w, err);
	if (r < 0 || !name) {
		free(name);
		return r;
	}
	r = vm_op_delete(w, name, err);
	if (r == 0) {
		vm_log(w->log, "retention dropped '%s'", name);
		++*dropped;
	} else if (r == -EPERM || r == -EOPNOTSUPP) {
		r = note_refused(p, vs_steal(name), r, err);
		*err = (struct vs_err){0};
	} else {
		vs_err_prefix(err, "pruning '%s'", name);
	}
	free(name);
	return r < 0 ? r : 1;
}

/* One after the other, each after a new look: what is open or held may change meanwhile. */
int vm_op_prune(struct vm_work *w, size_t *dropped, struct vs_err *err)
{
	struct pruning p vs_cleanup(pruning_fini) = { .n_refused = 0 };
	int r = vm_work_look(w, err);

	*dropped = 0;
	if (w->try_only && r == 0)
		return vm_engine_try_prune(w->engine, w, err);
	for (bool more = r == 0; more;) {
		r = prune_one(w, &p, dropped, err);
		more = r > 0;
		if (more)
			r = vm_work_look(w, err);
		more = more && r == 0;
	}
	if (r == 0 && p.result < 0)
		*err = p.why;
	return r == 0 ? p.result : r;
}
