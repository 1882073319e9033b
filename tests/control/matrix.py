# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Every command on every kind of domain, a step at a time. See tests/suites/matrix.sh.

Before a step, predict() says what the contract wants of it, from what virsh and the image headers say now: an errno, or
which layers go down into which, which files go, what each disk stands on afterwards. The step is tried (`try COMMAND`),
which must announce just that and change nothing, then done, and what happened is compared with both. Then Domain.check()
compares everything that is left with the books.
"""
import collections
import os
import re
import shutil
import sys
import time

sys.dont_write_bytecode = True
from lab import Broken, Domain, allocated, backing, chain, main, stamp, MIB  # noqa: E402

SLACK = 1 * MIB  # what merging may add to an image besides the data: tables of its own, and clusters filled up


class Plan:
    """What a command is to do. errno: and nothing else happens."""

    def __init__(self, errno=None, why=''):
        self.errno, self.why = errno, why
        self.merged = set()    # (target, top, base)
        self.gone = set()      # files
        self.chains = {}       # target -> chain afterwards, where it is to change
        self.bytes = {}        # target -> at most, where data moves
        self.fresh = set()     # targets that get a new active layer
        self.under = {}        # ... target -> what the new layer stands on
        self.dropped = []      # snapshots
        self.parents = set()   # whose record gets another parent

    def __str__(self):
        return self.errno or 'gone %s, chains %s' % (sorted(map(os.path.basename, self.gone)),
                                                     {t: [os.path.basename(f) for f in c] for t, c in self.chains.items()})


class Now:
    """The domain as virsh and the headers have it."""

    def __init__(self, domain):
        self.d = domain
        self.asked = domain.ask()
        self.records, self.active = self.asked[0], self.asked[1]
        self.chains = {t: chain(p) for t, p in self.active.items()}
        self.files = domain.own_files()
        for c in self.chains.values():
            self.files |= set(c)
        others = [o for o in domain.neighbours]
        self.theirs = set()
        for o in others:
            records, active = o.ask()[:2]
            for p in list(active.values()) + [r.pit(t) for r in records.values() for t in r.modes if r.pit(t)]:
                self.theirs |= set(chain(p))
        self.above = collections.defaultdict(set)
        for f in self.files | self.theirs:
            under = backing(f) if os.path.exists(f) else None
            if under:
                self.above[under].add(f)
        for r in self.records.values():
            domain.made |= set(p for p in r.overlay.values() if p)
        self.stamps = stamp(sorted(f for f in self.files if os.path.exists(f)))
        self.sizes = {f: allocated(f) for f in self.files}

    def frozen_by(self, path, but=()):
        return [n for n, r in self.records.items() if n not in but and any(r.pit(t) == path for t in r.modes)]

    def internal_in(self, path):
        return [n for n in self.frozen_by(path) if self.d.snaps[n].kind == 'internal']

    def externals(self, name):
        r = self.records[name]
        return [t for t in r.modes if r.modes[t] == 'external']


def merge(now, plan, target, base, top, names, strict):
    """Layers above @base up to @top into it. An errno if something is against it."""
    c = now.chains[target]
    layers = c[c.index(top):c.index(base)]
    for f in layers:
        if now.internal_in(f):
            return 'EPERM'
    for f in layers + [base]:
        if f in now.theirs or len(now.above[f]) > 1:
            return 'EPERM' if strict else 'keep'
        if f != top and now.frozen_by(f, but=names):
            return 'EPERM' if strict else 'keep'
    plan.merged.add((target, top, base))
    plan.gone |= set(layers)
    plan.bytes[target] = sum(allocated(f) for f in layers)
    plan.chains[target] = [f for f in c if f not in layers]
    return None


def predict_delete(now, name):
    d, s = now.d, now.d.snaps.get(name)
    if not s:
        return Plan('ENOENT')
    if s.held:
        return Plan('EPERM')
    r, plan = now.records[name], Plan()
    if s.kind == 'internal':
        if any(r.pit(t) not in now.active.values() for t in s.disks):
            return Plan('EOPNOTSUPP')
        plan.dropped = [name]
        plan.parents = {n for n, x in d.snaps.items() if x.parent == name}
        return plan
    for t in now.externals(name):
        base = r.pit(t)
        above = now.above[base]
        if not above and base not in now.active.values() and base not in now.theirs and not now.frozen_by(base, (name,)):
            if base in d.made:
                plan.gone.add(base)
                for f in chain(base)[1:]:  # what only stood beneath it
                    if f not in d.made or now.above[f] - plan.gone or now.frozen_by(f, (name,)) or f in now.theirs:
                        break
                    plan.gone.add(f)
            else:
                d.leftovers.add(base)
            continue
        if len(above) != 1 or base in now.active.values():
            continue
        over = next(iter(above))
        for u, c in now.chains.items():
            if base in c and over in c and merge(now, plan, u, base, over, (name,), False) == 'EPERM':
                return Plan('EPERM')
    if r.memory_file:
        plan.gone.add(r.memory_file)
    plan.dropped = [name]
    plan.parents = {n for n, x in d.snaps.items() if x.parent == name}
    return plan


def predict_commit(now, first, last=None):
    d = now.d
    last = last or first
    if first not in d.snaps or last not in d.snaps:
        return Plan('ENOENT')
    if d.snaps[first].kind == 'internal' or d.snaps[last].kind == 'internal':
        return Plan('EOPNOTSUPP')
    line, at = [], last
    while at and at != first:
        line.append(at)
        at = d.snaps[at].parent
    if not at:
        return Plan('EINVAL')
    line.append(first)
    line.reverse()
    if any(d.snaps[n].held for n in line):
        return Plan('EPERM')
    plan = Plan()
    for t in now.externals(first):
        base = now.records[first].pit(t)
        tops = [now.records[n].overlay[t] for n in line if t in now.externals(n)]
        top = tops[-1]
        c = now.chains[t]
        if base not in c or top not in c or c.index(top) >= c.index(base):
            return Plan('EOPNOTSUPP')
        err = merge(now, plan, t, base, top, line, True)
        if err:
            return Plan(err)
    plan.gone |= {now.records[n].memory_file for n in line if now.records[n].memory_file}
    plan.dropped = line
    plan.parents = {n for n, x in d.snaps.items() if x.parent in line and n not in line}
    return plan


def predict_pull(now, name=None):
    d, plan = now.d, Plan()
    if name is not None and name not in d.snaps:
        return Plan('ENOENT')
    if name is not None and d.snaps[name].kind == 'internal':
        return Plan('EOPNOTSUPP')
    for t, c in now.chains.items():
        base = now.records[name].pit(t) if name else None
        if name and t not in now.externals(name):
            continue
        if c[1:2] == ([base] if base else []):
            continue
        if now.internal_in(c[0]):
            return Plan('EPERM')
        if base and base not in c[1:]:
            return Plan('EOPNOTSUPP')
        plan.chains[t] = [c[0]] + (c[c.index(base):] if base else [])
        plan.bytes[t] = sum(allocated(f) for f in c[1:] if f not in plan.chains[t])
        # Layers that only stood in between are nobody's now; pull removes nothing.
        d.leftovers |= {f for f in c[1:] if f not in plan.chains[t]}
    return plan


def predict_create(now, name, words):
    d = now.d
    kinds = {s.kind for s in d.snaps.values()}
    kind = next((w for w in words if w in ('internal', 'external')), None)
    asked = kind is not None
    kind = kind or ('internal' if kinds == {'internal'} else 'external')
    if name.isdigit() and 'internal' in words:
        return Plan('EINVAL')  # known before anything runs
    if name in d.snaps:
        return Plan('EEXIST') if kinds <= {kind} else Plan('EPERM')
    if kinds - {kind}:
        return Plan('EPERM')
    if kind == 'internal' and not asked and d.state != 'shut off':
        return Plan('EPERM')
    plan = Plan()
    if kind == 'external':
        only = next((w[6:].split(',') for w in words if w.startswith('disks=')), list(now.active))
        plan.fresh = set(only)
        plan.under = {t: now.active[t] for t in only}
    return plan


def predict_revert(now, name, words):
    d, s = now.d, now.d.snaps.get(name)
    if not s:
        return Plan('ENOENT')
    r = now.records[name]
    if s.kind == 'internal' and any(r.pit(t) not in now.active.values() for t in s.disks):
        return Plan('EOPNOTSUPP')
    if d.state != 'shut off' and 'force' not in words:
        return Plan('EBUSY')
    plan, keep = Plan(), next((w[5:] for w in words if w.startswith('keep=')), None)
    if keep and keep in d.snaps:
        return Plan('EEXIST')
    if s.kind == 'external':
        plan.fresh = set(now.externals(name))
        plan.under = {t: r.pit(t) for t in plan.fresh}
        for t in plan.fresh:
            path = now.active[t]
            if not keep and path in d.made and not now.frozen_by(path) and not now.above[path] and path not in now.theirs:
                plan.gone.add(path)
    return plan


def predict(now, words):
    verb, args = words[0], words[1:]
    if verb == 'delete':
        return predict_delete(now, args[0])
    if verb == 'commit':
        return predict_commit(now, *args)
    if verb == 'pull':
        return predict_pull(now, *args)
    if verb == 'create':
        return predict_create(now, args[0], args[1:])
    if verb == 'revert':
        return predict_revert(now, args[0], args[1:])
    if verb in ('hold', 'release'):
        return Plan() if args[0] in now.d.snaps else Plan('ENOENT')
    raise Broken('no model of ' + verb)


# ---------------------------------------------------------------- what try says

def announced(line):
    """The sentence of a try, taken apart."""
    a = Plan()
    a.created = {}
    a.stop = 'would stop the domain' in line
    for t, top, base, mib in re.findall(r"disk (\w+): would merge '([^']+)' into '([^']+)' \(at most ([\d.]+) MiB\)", line):
        a.merged.add((t, top, base))
        a.bytes[t] = float(mib) * MIB
    for t, mib, base in re.findall(r"disk (\w+): would copy up to ([\d.]+) MiB into the active layer, which then stands on "
                                   r"([^;]+)", line):
        a.bytes[t] = float(mib) * MIB
        a.under[t] = base.strip(" '")
    a.gone = set(re.findall(r"would unlink '([^']+)'", line))
    for t, new, under in re.findall(r"disk (\w+): would create '([^']+)' on '([^']+)'", line):
        a.created[t, under] = new
    a.repointed = set(re.findall(r"would (?:re-point|give) the record of '([^']+)'", line))
    a.entries = set(re.findall(r"would remove the entry '([^']+)'", line))
    return a


def check_announced(words, plan, line):
    a, wrong = announced(line), []
    if words[0] in ('delete', 'commit'):
        if a.merged != plan.merged:
            wrong.append('try: merges %s, the contract wants %s' % (sorted(a.merged), sorted(plan.merged)))
        if a.gone != plan.gone:
            wrong.append('try: says it would unlink %s, the contract wants %s' % (sorted(a.gone), sorted(plan.gone)))
        for t, most in plan.bytes.items():
            if abs(a.bytes.get(t, -1) - most) > 0.1 * MIB:
                wrong.append('try: at most %s bytes of %s move, the layers have %d' % (a.bytes.get(t), t, most))
    if words[0] == 'pull':
        for t, c in plan.chains.items():
            if a.under.get(t) != (c[1] if len(c) > 1 else 'nothing'):
                wrong.append('try: %s would stand on %s, the contract wants %s' % (t, a.under.get(t), c[1:2]))
        if set(a.under) != set(plan.chains):
            wrong.append('try: pulls %s, the contract wants %s' % (sorted(a.under), sorted(plan.chains)))
    if words[0] in ('create', 'revert'):
        for t, under in plan.under.items():
            if (t, under) not in a.created:
                wrong.append("try: no new layer on '%s' is announced for %s" % (under, t))
    if words[0] == 'revert' and a.gone != plan.gone:
        wrong.append('try: says it would unlink %s, the contract wants %s' % (sorted(a.gone), sorted(plan.gone)))
    return a, wrong


# ---------------------------------------------------------------- a step

class Cell:
    """One domain and what happens to it. Each step is a case."""

    def __init__(self, report, lab, name, disks=1, running=False, kind='external', **how):
        self.report, self.lab, self.name, self.kind = report, lab, name, kind
        targets = {t: 2 for t in ('vda', 'vdb', 'vdc')[:disks]}
        self.d = Domain(lab, name, targets, running=running, **how)
        self.d.neighbours, self.d.made = [], set()
        self.bad = False

    def judge(self, what, wrong, log=True):
        if not self.report.judge('%s: %s' % (self.name, what), wrong):
            if log:
                self.report.note(self.d.history(12))
                self.report.note(self.d.text('chain'))
            self.bad = True

    def write(self, n=2):
        for _ in range(n):
            self.d.write()

    def do(self, command, want=''):
        """One command. @want: the errno (None: success) that this history is about, where the model is to be held to it."""
        if self.bad:
            return  # what follows would only say the same again
        d, words = self.d, command.split()
        now = Now(d)
        plan = predict(now, words)
        wrong = []
        if want != '' and plan.errno != want:
            wrong.append('the model predicts %s, the history wants %s' % (plan.errno, want))
        tried = d.ctl('try ' + command)
        if tried.errno != plan.errno:
            wrong.append('try gives %r, the contract wants %s' % (tried, plan))
        a, more = check_announced(words, plan, tried.line) if not plan.errno and not tried.errno else (None, [])
        wrong += more
        after = Now(d)
        if after.stamps != now.stamps or after.active != now.active or \
                {n: r.text for n, r in after.records.items()} != {n: r.text for n, r in now.records.items()}:
            wrong.append('try has changed something')
        out = d.ctl(command)
        if out.errno != plan.errno:
            wrong.append('%r, the contract wants %s' % (out, plan))
        if out.errno is None and plan.errno is None:
            self.books(words, plan)
        asked = d.ask()
        wrong += self.happened(words, now, plan, a, asked) + d.check(asked)
        for o in d.neighbours:
            wrong += ["neighbour '%s': %s" % (o.name, w) for w in o.check()]
        self.judge(command + (' (%s)' % plan.errno if plan.errno else ''), wrong)

    def books(self, words, plan):
        d, verb, args = self.d, words[0], words[1:]
        if verb == 'create':
            kind = next((w for w in args[1:] if w in ('internal', 'external')), None) or \
                next((s.kind for s in d.snaps.values()), 'external')
            d.enter(args[0], kind, next((w[6:].split(',') for w in args[1:] if w.startswith('disks=')), None))
        elif verb in ('delete', 'commit'):
            d.forget(*reversed(plan.dropped))
        elif verb in ('hold', 'release'):
            d.snaps[args[0]].held = verb == 'hold'
        elif verb == 'revert':
            keep = next((w[5:] for w in args[1:] if w.startswith('keep=')), None)
            if keep:
                d.enter(keep, d.snaps[args[0]].kind)
            d.reverted(args[0])

    def happened(self, words, now, plan, a, asked):
        """What came of it against the plan and the announcement."""
        d, wrong = self.d, []
        records, active = asked[:2]
        files = d.own_files()
        gone = {f for f in now.files if not os.path.exists(f)}
        if plan.errno:
            if stamp(sorted(f for f in now.files if os.path.exists(f))) != now.stamps or gone or files - now.files:
                wrong.append('refused, and files changed all the same')
            if active != now.active or {n: r.text for n, r in records.items()} != {n: r.text for n, r in now.records.items()}:
                wrong.append('refused, and records changed all the same')
            return wrong
        if gone != plan.gone:
            wrong.append('gone are %s, the contract wants %s' % (sorted(gone), sorted(plan.gone)))
        for t, path in active.items():
            want = plan.chains.get(t, now.chains[t])
            c = chain(path)
            if t in plan.fresh:
                d.made.add(path)
                if path == now.active[t] or c[1:] != chain(plan.under[t]):
                    wrong.append('%s has %s, the contract wants a new layer on %s' % (t, c, plan.under[t]))
                if a and a.created.get((t, plan.under[t])) not in (None, path):
                    wrong.append('%s: try announced %s' % (path, a.created.get((t, plan.under[t]))))
            elif c != want:
                wrong.append('%s stands on %s, the contract wants %s' % (t, c, want))
        for t, _, base in plan.merged:
            grown = allocated(base) - now.sizes[base]
            if grown > plan.bytes[t] + SLACK:
                wrong.append('%s has grown by %d bytes, %d were announced' % (base, grown, plan.bytes[t]))
        if a and words[0] in ('delete', 'commit') and self.kind == 'external':
            changed = {n for n, r in records.items() if n in now.records and r.text != now.records[n].text}
            if a.repointed != changed:
                wrong.append('try would re-point %s, changed were the records of %s' % (sorted(a.repointed), sorted(changed)))
        if words[0] == 'delete' and a and d.snaps and self.kind == 'internal' and a.entries != set(plan.dropped):
            wrong.append('try names the entries %s' % sorted(a.entries))
        return wrong

    def retain(self, policy, kept):
        """A policy that must leave exactly @kept of all snapshots."""
        if self.bad:
            return
        d = self.d
        out = d.retain(policy)
        wrong = ['%r' % out] if out.errno else []
        for n in [n for n in d.snaps if n not in kept]:
            d.forget(n)
        Now(d)
        self.judge('retain %s' % policy, wrong + d.check())

    def by_hand(self, what, *deeds):
        """virsh or whoever did something; the books follow in @deeds."""
        if self.bad:
            return
        for deed in deeds:
            deed()
        wrong = [] if self.d.settled() else ['the mount does not follow']
        self.judge(what, wrong + self.d.check())

    def remount(self):
        """What it knew must have outlived it."""
        if self.bad:
            return
        self.lab.mount.stop()
        self.lab.mount.start()
        self.by_hand('mounted again')

    def end(self):
        self.d.remove()


# ---------------------------------------------------------------- the cells

def external_linear(c):
    for name in 'abcde':
        c.do('create %s external' % name if name == 'a' else 'create ' + name, None)
        c.write()
    c.do('create a', 'EEXIST')
    c.do('create x internal', 'EPERM')
    c.do('hold b', None)
    c.do('delete b', 'EPERM')
    c.do('commit a c', 'EPERM')
    c.do('release b', None)
    c.do('commit c a', 'EINVAL')
    c.do('delete nobody', 'ENOENT')
    c.do('delete c', None)
    c.do('commit a b', None)
    c.do('delete e', None)
    c.write()
    c.do('create f', None)
    c.write()
    c.do('create g', None)
    c.write()
    c.do('pull f', None)
    c.write()
    c.do('create h', None)
    c.write()
    c.do('delete g', None)
    c.do('pull', None)
    c.write()
    c.do('delete d', None)
    c.do('delete h', None)
    c.do('delete f', None)


def external_commit(c):
    for name in 'abcd':
        c.do('create ' + name, None)
        c.write()
    c.do('commit b', None)
    c.write()
    c.do('commit c d', None)
    c.write()
    c.do('create e', None)
    c.write(1)
    c.do('commit a e', None)
    c.do('create f', None)
    c.write(1)
    c.do('delete f', None)


def external_branched(c):
    """a - b - c - k, and from b: d - e."""
    force = ' force' if c.d.state != 'shut off' else ''
    for name in 'abc':
        c.do('create ' + name, None)
        c.write()
    if force:
        c.do('revert b', 'EBUSY')
    c.do('revert b%s keep=k' % force, None)
    c.write()
    c.do('create d', None)
    c.write()
    c.do('create e', None)
    c.write()
    c.do('commit a', 'EPERM')
    c.do('commit b', 'EOPNOTSUPP')
    c.do('commit a b', 'EOPNOTSUPP')
    c.do('commit c', 'EOPNOTSUPP')
    c.do('pull c', 'EOPNOTSUPP')
    c.do('delete b', None)
    c.do('commit d', None)
    c.do('delete c', None)
    c.do('revert k', None)
    c.write()
    c.do('create m', None)
    c.write()
    c.do('revert e', None)
    c.write()
    c.do('delete k', None)
    c.do('delete m', None)
    c.do('commit a')
    c.do('delete e', None)


def external_shared(c):
    """The disks' first image becomes the base of somebody else's domain, too."""
    lab, d = c.lab, c.d
    d_running = d.state != 'shut off'
    c.do('create a', None)
    base = {t: os.path.join(d.home, t + '.qcow2') for t in d.model}
    other = Domain(lab, c.name + '-other', {t: 2 for t in d.model}, running=not d_running, base=base,
                   content=d.snaps['a'].disks)
    other.neighbours, other.made = [d], set()
    other.appears()
    d.neighbours = [other]
    c.write()
    c.do('create b', None)
    c.write()
    c.do('commit a', 'EPERM')
    c.do('commit a b', 'EPERM')
    c.do('delete a', None)
    c.do('create c', None)
    c.write()
    c.do('commit b', None)
    c.do('pull', None)
    c.write()
    c.do('delete c', None)
    o = Cell.__new__(Cell)
    o.report, o.lab, o.name, o.kind, o.d, o.bad = c.report, lab, c.name + '-other', 'external', other, c.bad
    o.do('create p', None)
    o.write()
    o.do('create q', None)
    o.write()
    o.do('commit p', None)
    o.do('delete q', None)
    other.remove()


def internal_linear(c):
    on = c.d.state != 'shut off'
    force = ' force' if on else ''
    for name in 'abc':
        c.do('create %s internal' % name, None)
        c.write()
    c.do('create d', 'EPERM' if on else None)
    c.do('create x external', 'EPERM')
    c.do('create 7 internal', 'EINVAL')
    c.do('commit a', 'EOPNOTSUPP')
    c.do('pull a', 'EOPNOTSUPP')
    c.do('pull', None)
    c.do('hold b', None)
    c.do('delete b', 'EPERM')
    c.do('release b', None)
    c.do('delete b', None)
    if on:
        c.do('revert a', 'EBUSY')
    c.do('revert a%s keep=k' % force, None)
    c.write()
    c.do('delete a', None)
    c.do('delete c', None)


def internal_branched(c):
    force = ' force' if c.d.state != 'shut off' else ''
    for name in 'abc':
        c.do('create %s internal' % name, None)
        c.write()
    c.do('revert a' + force, None)
    c.write()
    c.do('create d internal', None)
    c.write()
    c.do('delete a', None)
    c.do('revert c' + force, None)
    c.write()
    c.do('delete d', None)
    c.do('delete b', None)


def internal_shared(c):
    """Its disks stand on a base that is somebody else's, too."""
    c.do('create a internal', None)
    c.write()
    c.do('create b internal', None)
    c.write()
    c.do('commit a', 'EOPNOTSUPP')
    c.do('pull', 'EPERM')
    c.do('delete a', None)
    c.do('revert b' + (' force' if c.d.state != 'shut off' else ''), None)
    c.do('delete b', None)
    c.do('pull', None)


def retention(c):
    kind = ' ' + c.kind
    for name in 'abcd':
        c.do('create ' + name + kind, None)
        c.write(1)
    c.do('hold a', None)
    c.retain('2', 'acd')
    c.do('release a', None)
    if not c.bad:
        out = c.d.ctl('try prune')
        wrong = ['%r' % out] if out.errno or "'a'" not in out.line or "'c'" in out.line else []
        c.judge('try prune names what would go', wrong + c.d.check())
        out = c.d.ctl('prune')
        c.d.forget('a')
        c.judge('prune', (['%r' % out] if out.errno else []) + c.d.check())
    c.retain('off', 'cd')


# ---------------------------------------------------------------- histories

def one_of_two(c):
    """A snapshot of one disk only, between two of both."""
    c.do('create a', None)
    c.write()
    c.do('create b disks=vda', None)
    c.d.write('vda')
    c.d.write('vdb')
    c.do('create c', None)
    c.d.write('vda')
    c.d.write('vdb')
    c.do('delete c', None)
    c.do('create d', None)
    c.write(3)
    c.do('commit a b', None)
    c.do('create e disks=vdb', None)
    c.write(3)
    c.do('pull d', None)
    c.do('revert e' + (' force' if c.d.state != 'shut off' else ''), None)
    c.do('delete e', None)
    c.do('delete d', None)


def pull_then_delete(c):
    """What was pulled past stays right, whatever is deleted and made around it."""
    for name in 'abc':
        c.do('create ' + name, None)
        c.write()
    c.do('delete b', None)
    c.do('pull', None)
    c.do('create d', None)
    c.write()
    c.do('delete a', None)
    c.do('create e', None)
    c.write()
    c.remount()
    c.do('revert c' + (' force' if c.d.state != 'shut off' else ''), None)
    c.write()
    c.do('create f', None)
    c.do('delete c', None)
    c.remount()
    c.do('delete d', None)
    c.do('delete e', None)
    c.do('delete f', None)


def with_memory(c):
    """A snapshot with its memory in a file, among ours."""
    d = c.d
    c.do('create a', None)
    c.write()
    memory = os.path.join(d.home, 'm.mem')
    c.by_hand('virsh saves disks and memory', lambda: d.virsh_create(
        'm', '--memspec', 'file=%s,snapshot=external' % memory, *sum((
            ['--diskspec', '%s,snapshot=external,file=%s' % (t, os.path.join(d.home, t + '.m'))] for t in d.model), []),
        memory=True))
    # Memory is saved by a migration, after which a QEMU that stays paused lets nobody write.
    d.lab.virsh_many([('resume', d.name), ('suspend', d.name)])
    c.write()
    c.do('create b', None)
    c.write()
    c.do('delete a', None)
    c.do('revert m force', None)
    c.do('revert b force', None)
    c.do('delete m', None)
    c.do('delete b', None)


def by_virsh(c):
    """Snapshots and overlays of virsh's own making, and deletes by virsh of ours."""
    d = c.d
    c.do('create a', None)
    c.write()
    c.by_hand('virsh takes one', lambda: d.virsh_create('v', '--disk-only'))
    c.write()
    c.do('create b', None)
    c.write()
    c.by_hand('virsh takes another', lambda: d.virsh_create('w', '--disk-only'))
    c.write()
    c.do('create c', None)
    c.write()
    c.do('delete v', None)
    c.do('commit b w', None)
    if d.state != 'shut off':
        c.by_hand('virsh deletes one of ours', lambda: (d.lab.virsh('snapshot-delete', d.name, 'a'), d.forget('a')))
    c.do('delete c', None)


def virsh_forgets(c):
    """Records that virsh has dropped leave layers that no snapshot froze."""
    d = c.d
    for name in 'abc':
        c.do('create ' + name, None)
        c.write()
    c.by_hand("virsh forgets the newest's record", lambda: (d.lab.virsh('snapshot-delete', d.name, 'c', '--metadata'),
                                                          d.forget('c')))
    c.do('create d', None)
    c.write()
    # b's overlay has another one on it now that no snapshot knows; commit takes both down.
    c.do('delete b', None)
    c.do('commit a')
    c.do('delete d', None)


def inside_then_outside(c):
    """Internal snapshots in the base, then virsh goes on with external ones."""
    d = c.d
    c.do('create i internal', None)
    c.write()
    c.do('create j internal', None)
    c.write()
    c.do('create x external', 'EPERM')
    c.kind = 'mixed'
    c.by_hand('virsh mixes kinds', lambda: d.virsh_create('x', '--disk-only'))
    c.write()
    c.by_hand('and takes another', lambda: d.virsh_create('y', '--disk-only'))
    c.write()
    c.do('create z external', 'EPERM')
    c.do('create z internal', 'EPERM')
    c.do('delete i', 'EOPNOTSUPP')
    c.do('revert j' + (' force' if d.state != 'shut off' else ''), 'EOPNOTSUPP')
    c.do('pull', None)
    c.do('delete y', None)


def base_out_of_sight(c):
    """Another domain, shut off, stands on our base by its header only, from where that may not be followed."""
    lab, d = c.lab, c.d
    c.do('create a', None)
    base = {t: os.path.join(d.home, t + '.qcow2') for t in d.model}
    far = os.path.join(lab.work, 'far', c.name)
    os.makedirs(far)
    other = Domain(lab, c.name + '-other', {t: 2 for t in d.model}, base=base, content=d.snaps['a'].disks,
                   active={t: os.path.join(far, t + '.qcow2') for t in d.model})
    other.neighbours, other.made = [d], set()
    other.foreign |= set(base.values())
    other.appears()
    d.neighbours = [other]
    c.write()
    c.do('create b', None)
    c.write()
    c.do('commit a', 'EPERM')
    c.do('delete a', None)
    c.do('delete b', None)
    other.remove()
    shutil.rmtree(far)  # what stands there on what is gone would be in everybody's way, now that it has been seen


HISTORIES = (
    # what, kind, disks, states
    (one_of_two, 'external', 2, (False, True)),
    (pull_then_delete, 'external', 1, (False, True)),
    (with_memory, 'external', 1, (True,)),
    (by_virsh, 'external', 2, (False, True)),
    (virsh_forgets, 'external', 1, (False, True)),
    (inside_then_outside, 'internal', 1, (False,)),
    (base_out_of_sight, 'external', 1, (True, False)),
)


def history(report, lab, what, kind, disks, running):
    c = Cell(report, lab, '%s-%s' % ('on' if running else 'off', what.__name__.replace('_', '-')), disks=disks, running=running,
             kind=kind)
    what(c)
    c.end()


def matrix(report, lab, disks, running, kind, shape):
    name = '%s-%s-%ddisk-%s' % ('on' if running else 'off', kind[:3], disks, shape.__name__.split('_')[-1])
    how = {}
    other = None
    if shape is internal_shared:
        base = {t: os.path.join(lab.images, 'bases', '%s.%s' % (name, t)) for t in ('vda', 'vdb')[:disks]}
        os.makedirs(os.path.join(lab.images, 'bases'), exist_ok=True)
        first = Domain(lab, name + '-first', {t: 2 for t in base}, active=base)
        other = Domain(lab, name + '-other', {t: 2 for t in base}, running=not running, base=base, content=first.model)
        content = {t: bytes(m) for t, m in first.model.items()}
        first.remove()
        how = dict(base=base, content=content)
        other.neighbours, other.made = [], set()
    c = Cell(report, lab, name, disks=disks, running=running, kind=kind, **how)
    if other:
        c.d.neighbours, other.neighbours = [other], [c.d]
    shape(c)
    c.end()
    if other:
        other.remove()


SHAPES = {'external': (external_linear, external_commit, external_branched, external_shared, retention),
          'internal': (internal_linear, internal_branched, internal_shared, retention)}


EMBED = r'^(off-ext-1disk-commit|on-ext-1disk-commit|off-int-1disk-branched|on-int-1disk-linear|off-by-virsh)$'


def plan_of_cells(embed):
    """(name, run) of what is to be run."""
    full, only = os.environ.get('MATRIX') == 'full', os.environ.get('MATRIX_ONLY')
    for kind in SHAPES:
        for i, shape in enumerate(SHAPES[kind]):
            for running in (False, True):
                for disks in (1, 2):
                    name = '%s-%s-%ddisk-%s' % ('on' if running else 'off', kind[:3], disks, shape.__name__.split('_')[-1])
                    turn = re.search(EMBED, name) if embed else disks == (i + running) % 2 + 1
                    if re.search(only, name) if only else full or turn:
                        yield lambda r, l, args=(disks, running, kind, shape): matrix(r, l, *args)
    for what, kind, disks, states in HISTORIES:
        for running in states:
            name = '%s-%s' % ('on' if running else 'off', what.__name__.replace('_', '-'))
            if re.search(only, name) if only else full or not embed or re.search(EMBED, name):
                yield lambda r, l, args=(what, kind, disks, running): history(r, l, *args)


def cases(report, lab, _):
    cells = list(plan_of_cells(lab.embed))
    if os.environ.get('CI') and not lab.embed and not os.environ.get('MATRIX') and not os.environ.get('MATRIX_ONLY'):
        cells = cells[int(time.time() // 86400) % 2::2]
        print('# every other cell, on another day the others: all of them without CI in the environment', flush=True)
    for cell in cells:
        cell(report, lab)


if __name__ == '__main__':
    # Domains here stand on each other's images; only `far` of base_out_of_sight() is nowhere named.
    main(cases, options=['-o', 'allow_path=' + os.path.join(sys.argv[2], 'images')] if len(sys.argv) > 2 else [])
