# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""chaos.py: a random walk over everything at once, and a second model.

Our commands, the same interrupted and not repeated at once, virsh beside them and at the same moment, files moved away, made
unreadable and reached by other names, linked clones, mounts and libvirtd that come and go; after each step everything is compared
with books that were kept from what was written and what each command asked for (chaos_model.py, chaos_check.py).

	chaos.py URI WORK SNAPFS STEPS SEED...    walks
	chaos.py URI WORK SNAPFS again FILE...    repeats lists of steps that a walk has printed
	chaos.py URI WORK SNAPFS shrink FILE      makes such a list as short as it can be

A walk that finds something stops, prints what is wrong and its steps, one a line, and leaves them in CHAOS_KEEP (a directory), if
that is set. Lines of a list that begin with # are left out.
"""
import collections
import json
import os
import random
import re
import sys
import time

from chaos_check import Judge
from chaos_model import Books
from chaos_steps import Context, SIZE, Steps
from chaos_world import World
from lab import Broken, Report


class Walk:
    def __init__(self, uri, work, snapfs, setup):
        self.world = World(uri, work, snapfs)
        self.books = Books()
        self.judge = Judge(self.world, self.books)
        self.steps = Steps(self.world, self.books, self.judge, setup['internal'])
        self.done, self.log = [dict(setup, do='setup')], []
        self.counts = collections.defaultdict(collections.Counter)
        rnd = random.Random(setup['seed'])
        for name, disks in (('one', 1), ('two', 2)):
            kind = 'internal' if name in setup['internal'] else 'external'
            content = {'vd' + 'ab'[i]: b''.join(bytes([rnd.randrange(1, 256)]) * 65536 for _ in range(SIZE // 65536)) for i in range(disks)}
            self.steps.define(name, content, kind=kind, raw=setup['raw'] and name == 'one' and kind == 'external')
        self.world.up('A', *(['bandwidth=1'] if setup['slow'] else []))
        self.judge(Context({}))

    def check(self, context):
        return self.judge(context)

    def do(self, step):
        """Gives sentences of what is wrong."""
        began = time.monotonic()
        self.done.append(step)
        deaths = len(self.world.deaths)
        words, context = self.steps.do(step)
        acted = time.monotonic()
        wrong = self.judge(context)
        for x in self.world.deaths[deaths:]:
            self.log.append('    libvirtd has died by itself: ' + x[:200])
        first = re.split(r'[ :(]', words)[0]
        self.counts[self.label(step)]['ok' if first in ('ok', '') else first if first in ('refused', 'begun', 'not') else 'other'] += 1
        shown = ' '.join('%s=%s' % (k, v) for k, v in step.items() if k != 'do')
        self.log.append('%3d %s %s -> %s  [%.1f+%.1f s]' % (len(self.done) - 1, step['do'], shown, words, acted - began, time.monotonic() - acted))
        if os.environ.get('CHAOS_VERBOSE'):
            Report.note(self.log[-1][:600])
        return wrong

    @staticmethod
    def label(step):
        return step['do'] + (' ' + step['line'].split()[0] if step['do'] in ('ours', 'repeat') else ' ' + step['by'] if 'by' in step else '')

    def finish(self):
        """All that was disturbed is put right, what was begun is repeated; then everything must be as it was."""
        while self.world.disturbed:
            wrong = self.do(dict(do='restore', n=0))
            if wrong:
                return wrong
        if not self.world.mounts['A']:
            wrong = self.do(dict(do='mount', on=True, slow=False, narrow=False))
            if wrong:
                return wrong
        for name, line, door in list(self.books.begun):
            wrong = self.do(dict(do='repeat', dom=name, mount='A', line=line, door=door))
            if wrong:
                return wrong
        for name in sorted(self.books.doms):
            wrong = self.do(dict(do='start', dom=name))
            if wrong:
                return wrong
        return []

    def close(self):
        self.world.close(list(self.books.doms))


def setup_of(seed):
    rnd = random.Random('setup %d' % seed)
    internal = rnd.choice(([], [], [], ['one'], ['two'], ['one', 'two']))
    return dict(seed=seed, internal=internal, raw=rnd.random() < 0.25, slow=rnd.random() < 0.6)


def walk(report, uri, work, snapfs, count, seed):
    began = time.monotonic()
    w = Walk(uri, os.path.join(work, 's%d' % seed), snapfs, setup_of(seed))
    rnd = random.Random(seed)
    wrong = []
    try:
        for _ in range(count):
            wrong = w.do(w.steps.choose(rnd))
            if wrong:
                break
        wrong = wrong or w.finish()
    except Exception as e:  # what has led there must be known
        import traceback
        wrong = wrong or ['the harness: %s in step %s' % (traceback.format_exc(), w.done[-1])]
    tell(report, w, 'seed %d: %d steps, %d s' % (seed, len(w.done) - 1, time.monotonic() - began), wrong)
    w.close()
    return w


def tell(report, w, name, wrong):
    report.judge(name, wrong)
    for n in w.books.notes:
        report.note('note: ' + n)
    if wrong:
        for line in w.log[-12:]:
            report.note(line[:700])
        for which, m in w.world.mounts.items():
            for d in w.books.doms if m else ():
                for f in ('snapshots', 'chain', 'log'):
                    try:
                        with open(w.world.door(which, d, f)) as o:
                            report.note('--- mount %s, %s/%s' % (which, d, f))
                            report.note('\n'.join(o.read().splitlines()[-25:]))
                    except OSError as e:
                        report.note('--- mount %s, %s/%s: %s' % (which, d, f, e))
        for d in w.books.doms:
            report.note('--- what we have noted of %s' % d)
            report.note(re.sub(r'(?s).*<metadata>|</metadata>.*', '', w.world.virsh('dumpxml', d)[1]))
        for f in w.judge.files.values():
            report.note('--- %s: inode %s, %s' % (f.path, f.ino, f.stamp))
        keep = os.environ.get('CHAOS_KEEP')
        if keep:
            path = os.path.join(keep, 'steps.%d' % w.done[0]['seed'])
            with open(path, 'w') as f:
                f.write(''.join('# %s\n' % x for s in wrong for x in s.splitlines()) + ''.join(json.dumps(s) + '\n' for s in w.done))
            with open(path.replace('steps.', 'log.'), 'w') as f:
                f.write('\n'.join(w.log) + '\n')
            report.note('steps in ' + path)
        else:
            for s in w.done:
                report.note('step ' + json.dumps(s))
    table = ['%s %s' % (k, ' '.join('%s:%d' % x for x in sorted(c.items()))) for k, c in sorted(w.counts.items())]
    report.note('; '.join(table))


def load(path):
    with open(path) as f:
        lines = [re.sub(r'^# step ', '', line).strip() for line in f]
    return [json.loads(line) for line in lines if line.startswith('{')]


def again(uri, work, snapfs, steps):
    """Gives (Walk, sentences). The caller closes it."""
    w = Walk(uri, work, snapfs, steps[0])
    wrong = []
    try:
        for s in steps[1:]:
            wrong = w.do(s)
            if wrong:
                break
        wrong = wrong or w.finish()
    except Exception:
        import traceback
        wrong = wrong or ['the harness: ' + traceback.format_exc()]
    return w, wrong


def kind_of(wrong):
    """Which violation it is, without names and numbers."""
    return re.sub(r"'[^']*'|\d+|\([^)]*\)", '', wrong[0].splitlines()[0])[:60] if wrong else ''


def shrink(report, uri, work, snapfs, steps):
    n = 0

    def fails(tail):
        nonlocal n
        n += 1
        w, wrong = again(uri, os.path.join(work, 'r%d' % n), snapfs, [steps[0]] + tail)
        w.close()
        report.note('%d steps: %s' % (len(tail), wrong[0].splitlines()[0][:150] if wrong else 'nothing'))
        return wrong
    tail = steps[1:]
    wrong = fails(tail)
    if not wrong:
        report.fail('shrink', 'the list shows nothing')
        return
    want = kind_of(wrong)
    piece = max(1, len(tail) // 2)
    end = time.monotonic() + float(os.environ.get('CHAOS_SECONDS', '1500'))
    while time.monotonic() < end:
        i, shorter = 0, False
        while i < len(tail) and time.monotonic() < end:
            less = tail[:i] + tail[i + piece:]
            if less and kind_of(fails(less)) == want:
                tail, shorter = less, True
            else:
                i += piece
        if piece == 1 and not shorter:
            break
        piece = max(1, piece // 2)
    for s in [steps[0]] + tail:
        print(json.dumps(s))


def main():
    uri, work, snapfs, how = sys.argv[1:5]
    report = Report()
    os.makedirs(work, exist_ok=True)
    try:
        if how == 'again':
            for i, path in enumerate(sys.argv[5:]):
                w, wrong = again(uri, os.path.join(work, 'r%d' % i), snapfs, load(path))
                if os.environ.get('CHAOS_VERBOSE') is None and wrong:
                    for line in w.log[:-12]:
                        report.note(line[:900])
                tell(report, w, os.path.basename(path), wrong)
                w.close()
        elif how == 'shrink':
            shrink(report, uri, work, snapfs, load(sys.argv[5]))
        else:
            for seed in sys.argv[5:]:
                walk(report, uri, work, snapfs, int(how), int(seed))
    except Broken as e:
        report.fail('the lab works', str(e))
    raise SystemExit(report.end())


main()
