# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""The steps of chaos.py. Each has two halves: choose_X(random) gives a step as a dictionary that says everything (so that a list of
them is repeated without a generator), or None where it makes no sense now; do_X(step) does it, enters it in the books, and
gives a few words for the log. do_X must bear any state of the world, for a list that is being made shorter has holes.
"""
import json
import os
import re
import shutil
import signal
import time
import uuid
import xml.etree.ElementTree as ET

from chaos_model import Dom, Intent
from chaos_world import Writer, disks_of
from lab import KIB, MIB, run, sha_file, wait_until

SIZE = 2 * MIB
EASY = ('write', 'ours', 'ours', 'ours')


class Context:
    """What the judge has to know about the step that was just done."""

    def __init__(self, before):
        self.before, self.allowed, self.frozen, self.ours, self.begun = before, set(), None, False, False


class Steps:
    WEIGHTS = dict(write=14, ours=34, tries=3, interrupt=16, race=5, vcreate=7, vdelete=5, vmeta=2, vcommit=4, vpull=3, vcopy=2, vrevert=2,
                   power=8, save=1, redefine=2, undefine=2, detach=2, disturb=6, restore=0, alias=2, mount=3, kill=2, second=2,
                   libvirtd=1, clone=3, unclone=1, decoy=1, start=3, repeat=0, job=2, endjob=0, stray=1, retain=4)

    def __init__(self, world, books, judge, internal):
        self.w, self.b, self.judge, self.internal = world, books, judge, internal
        self.n = 0
        self.without = os.environ.get('CHAOS_WITHOUT', '').split()  # what is known to fail, to see what else does
        self.forget_until = 0  # retention may be at work until then
        self.sure = 0  # when a mount was made last

    # ------------------------------------------------ choosing

    def choose(self, rnd):
        w = dict(self.WEIGHTS)
        if self.w.disturbed:
            w['restore'] = 20
        if self.b.begun:
            w['repeat'] = 14
        if not self.w.mounts['A']:
            w['mount'] = 60
        if any(s.jobs for s in self.judge.seen.values()):
            w['endjob'] = 25
        if any(d.saved for d in self.b.doms.values()):
            w['power'] += 6
        if any(d.detached for d in self.b.doms.values()):
            w['detach'] += 6
        while True:
            kind = rnd.choices(list(w), list(w.values()))[0]
            step = getattr(self, 'choose_' + kind)(rnd)
            if step:
                return dict(step, do=kind)

    def name(self, letter):
        self.n += 1
        return '%s%d' % (letter, self.n)

    def dom(self, rnd, clones=True):
        names = [n for n, d in self.b.doms.items() if clones or not d.clone_of]
        return rnd.choice(sorted(names)) if names else None

    def which(self, rnd):
        up = [w for w in sorted(self.w.mounts) if self.w.mounts[w]]
        return rnd.choice(up) if up else None

    # ------------------------------------------------ doing

    def context(self):
        c = Context({i: f.path for i, f in self.judge.files.items()})
        for d in self.b.doms.values():
            c.allowed |= self.retention_takes(d)
        c.allowed |= self.b.leaving
        self.b.leaving = set()
        return c

    def retention_takes(self, d):
        """Inodes that retention, which works on by itself, may unlink."""
        if not any(s.fair for s in d.snaps.values()):
            return set()
        return self.b.may_unlink(d, Intent('prune'), self.judge.seen.get(d.name), self.w, self.judge.files, begun=False)

    def do(self, step):
        """Gives (words for the log, Context)."""
        self.c = self.context()
        words = getattr(self, 'do_' + step['do'])(step)
        return words, self.c

    def seen(self, name):
        return self.judge.seen.get(name)

    def known(self, step, mount=True):
        """The Dom of a step, if it is there (and a mount, if one is needed)."""
        d = self.b.doms.get(step.get('dom'))
        if d is None or mount and not self.w.mounts.get(step.get('mount', 'A')):
            return None
        return d

    def is_on(self, d):
        return self.w.virsh('domstate', d.name)[1] not in ('shut off', 'crashed')

    # ------------------------------------------------ the guest

    def choose_write(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        length = rnd.choice((4 * KIB, 64 * KIB, 200 * KIB, 512 * KIB))
        return dict(dom=d.name, disk=rnd.choice(d.targets()), off=rnd.randrange(0, SIZE - length + 1, 512), length=length,
                    byte=rnd.randrange(1, 256))

    def do_write(self, p):
        d = self.known(p, mount=False)
        t = p['disk']
        if not d or t not in d.targets() or t in d.detached or d.saved or not d.known:
            return 'not now'
        on, seen = self.is_on(d), self.seen(d.name)
        disks = seen and (seen.disks if on else seen.config_disks)
        if not disks or t not in disks or t in seen.jobs:
            return 'not now'
        path, fmt, _ = disks[t]
        ino = self.w.ino_of(path)
        if ino is None or self.judge.disturbed(ino):
            return 'not now'
        command = 'write -q -P %d %d %d' % (p['byte'], p['off'], p['length'])
        if on:
            for worked, out in self.w.virsh_many([self.w.io(d.name, t, command), self.w.io(d.name, t, 'flush')]):
                if not worked or out.strip():
                    return 'failed: ' + out.strip()
        else:
            r = run('qemu-io', '-f', fmt, '-c', command, path, check=False)
            if r.returncode or r.stdout.strip():
                return 'failed: ' + (r.stdout + r.stderr).decode(errors='replace').strip()
        d.write(t, p['off'], p['length'], p['byte'])
        return 'ok'

    # ------------------------------------------------ ours

    def line(self, rnd, d, creating=True):
        """A line for ctl."""
        snaps = sorted(d.snaps)
        order = list(d.snaps)
        what = rnd.choices(('create', 'delete', 'commit', 'pull', 'revert', 'hold', 'release', 'prune'),
                           (30 if len(snaps) < 6 else 4, 26, 10, 5, 12, 4, 4, 3))[0]
        if not snaps and what not in ('pull', 'prune'):
            what = 'create'
        if what == 'create':
            line = 'create ' + self.name('s')
            if d.kind == 'internal':
                line += ' internal'
            elif len(d.targets()) > 1 and rnd.random() < 0.1:
                line += ' disks=vda'
            return line
        if what == 'delete':
            k = 1 if rnd.random() < 0.8 else min(len(snaps), rnd.choice((2, 3)))
            return 'delete ' + ' '.join(rnd.sample(snaps, k))
        if what == 'commit':
            i = rnd.randrange(len(order))
            j = min(len(order) - 1, i + rnd.choice((0, 0, 1, 2)))
            return 'commit %s' % order[i] + (' %s' % order[j] if j != i else '')
        if what == 'pull':
            return 'pull' + (' ' + rnd.choice(snaps) if snaps and rnd.random() < 0.6 else '')
        if what == 'revert':
            good = [n for n in snaps if not ('lacking' in self.without and set(d.targets()) - set(d.detached) - set(d.snaps[n].disks))]
            if not good:
                return 'prune'
            line = 'revert ' + rnd.choice(good)
            if rnd.random() < 0.7:
                line += ' force'
            if rnd.random() < 0.4:
                line += ' keep=' + self.name('k')
            return line
        if what in ('hold', 'release'):
            return '%s %s' % (what, rnd.choice(snaps))
        return what

    def choose_ours(self, rnd):
        which, name = self.which(rnd), self.dom(rnd)
        return which and dict(dom=name, mount=which, line=self.line(rnd, self.b.doms[name]))

    def choose_tries(self, rnd):
        p = self.choose_ours(rnd)
        return p and dict(p, line='try ' + p['line'])

    def choose_retain(self, rnd):
        which, name = self.which(rnd), self.dom(rnd)
        policy = rnd.choice(('off', 'off', '1', '2', '3', '4', '2 match=v*', '3 match=*', '2 min=1h', '*n'))
        return which and dict(dom=name, mount=which, line=policy, door='retain')

    def choose_repeat(self, rnd):
        which = self.which(rnd)
        todo = [b for b in self.b.begun if b[0] in self.b.doms]
        if not which or not todo:
            return None
        name, line, door = rnd.choice(todo)
        return dict(dom=name, mount=which, line=line, door=door)

    def do_ours(self, p):
        return self.command(p)

    do_tries = do_retain = do_ours

    def do_repeat(self, p):
        d = self.b.doms.get(p['dom'])
        names = p['line'].split()[1:] if d and p['line'].startswith('delete ') else []
        left = [n for n in names if n in d.snaps and not d.snaps[n].maybe and d.snaps[n].recorded]
        if any(n in d.by_others or n in d.snaps and d.snaps[n].maybe for n in names):
            left = []  # nobody had to note what was not there, or what others would take
        if any(d.gone_with.get(n, p['line']) != p['line'] for n in names if n not in d.snaps):
            left = []  # or another line that names it
        words = self.command(p)
        if words.startswith('refused ENOENT') and left and 'again' not in self.without:
            self.w.ends.append("'%s' was interrupted, '%s' is still to go, and its repetition is refused: %s" % (p['line'], left[0], words))
        if words.startswith('refused'):  # void, or others have done it
            self.b.begun = [b for b in self.b.begun if b[:2] != (p['dom'], p['line'])]
        return words

    def busy(self, d):
        """May something of ours be at work there by itself?"""
        return time.monotonic() < self.forget_until or any(b[0] == d.name for b in self.b.begun) or \
            any(s.fair or s.doomed or s.maybe for s in d.snaps.values()) or time.monotonic() < self.sure + 15

    def prepare(self, p):
        d = self.known(p)
        if not d:
            return None, None
        wait_until(lambda: os.path.exists(self.w.door(p['mount'], d.name)) or not self.w.mounts[p['mount']], 15)
        intent = self.b.intend(d, p['line'], p.get('door', 'ctl'), self.seen(d.name))
        if intent.retention:
            for policy in ([] if intent.door == 'retain' else d.policies):
                for s in policy.drops(d, 1 if intent.new else 0):
                    s.fair = True
            if intent.door == 'retain':
                from chaos_model import Policy
                intent.would = {s.name for s in Policy(intent.line).drops(d, 0)}
                intent.goes = sorted(intent.would)
        self.c.allowed |= self.b.may_unlink(d, intent, self.seen(d.name), self.w, self.judge.files)
        if intent.door == 'retain':
            intent.goes = []
        self.c.ours = True
        return d, intent

    def command(self, p):
        d, intent = self.prepare(p)
        if not d:
            return 'not now'
        d.line = p['line']
        quiet = not self.busy(d)
        if quiet and not any(s.jobs for s in self.judge.seen.values()):
            before = (d.name, self.w.scan(), self.w.look([d.name]).get(d.name))
        else:
            before = None
        x = Writer(self.w.door(p['mount'], d.name, intent.door), p['line'] + '\n')
        err = x.wait()
        words = self.sentence(p, d, intent, err)
        self.w.reap()
        how = self.b.settle(d, intent, err, before[2] if before else self.seen(d.name), self.w, words=words)
        if how == 'refused' and len(intent.goes) > 1 and 'partial' in self.without:
            for n in intent.goes:
                d.snaps[n].doomed = True
        elif how == 'refused' or intent.verb == 'try':
            self.c.frozen = before if 'the policy is stored, but' not in words else None
        if how == 'begun':
            self.c.begun = True
        if how == 'ok':
            self.at_once(p, d, intent)
        return '%s (%.1f s): %s' % (how if err is None else '%s %s' % (how, err), x.seconds if err != 'HANGS' else 0, words)

    def sentence(self, p, d, intent, err):
        if err == 'HANGS':
            self.judge.world.ends.append("'%s' to '%s' hangs" % (p['line'], d.name))
            return ''
        words = self.w.sentence(p['mount'], d.name)
        if err and err not in ('SIGNAL', 'ENOTCONN', 'ECONNABORTED', 'EINTR', 'ENOENT') and intent.door == 'ctl' and self.w.mounts[p['mount']] \
                and err != 'ECANCELED':
            said = re.match(r'failed: (.*) \((\w+)\)$', words)
            if not said:
                self.w.ends.append("'%s' failed with %s and ctl says: %s" % (p['line'], err, words))
            elif said.group(2) != err:
                self.w.ends.append("'%s' failed with %s and ctl says %s" % (p['line'], err, words))
            elif "'" not in said.group(1)[len(p['line']):] and not re.search(r'job|disk|domain|libvirt|retain', said.group(1)[len(p['line']):]):
                self.w.ends.append("'%s' failed, and the sentence names nothing: %s" % (p['line'], words))
        return words

    def at_once(self, p, d, intent):
        """What ctl changed shows when the write returns, and is so."""
        if not self.w.mounts[p['mount']] or intent.door != 'ctl' or intent.verb == 'try':
            return
        try:
            with open(self.w.door(p['mount'], d.name, 'snapshots.json')) as f:
                names = {j['name'] for j in json.load(f)['snapshots']}
        except (OSError, ValueError) as e:
            self.w.ends.append("after 'ok: %s' the mount says %s" % (p['line'], e))
            return
        for n in intent.goes:
            if n in names:
                self.w.ends.append("after 'ok: %s' the mount still shows '%s'" % (p['line'], n))
        if intent.new and intent.new not in names and not (intent.new in d.snaps and d.snaps[intent.new].fair):
            self.w.ends.append("after 'ok: %s' the mount does not show '%s'" % (p['line'], intent.new))
        if intent.verb == 'pull':
            self.pulled(d, intent)

    def pulled(self, d, intent):
        """Does the disk stand where 'pull' says?"""
        files, now = self.w.scan(), self.w.look([d.name]).get(d.name)
        s = d.snaps.get(intent.words[1]) if len(intent.words) > 1 else None
        for t, (path, _, _) in (now.config_disks if now else {}).items():
            chain = self.w.chain(self.w.ino_of(path), files)
            if s is None and len(intent.words) == 1 and len(chain) > 1 and t not in d.detached:
                self.w.ends.append("after 'ok: pull' disk %s still stands on '%s'" % (t, files.get(chain[1])))
            if s and t in s.place and t not in s.hurt and t not in s.lied and s.place[t] not in chain[:2]:
                self.w.ends.append("after 'ok: %s' disk %s stands on '%s'" % (intent.line, t, files.get((chain + [None])[1])))

    # ------------------------------------------------ ours, interrupted

    def choose_interrupt(self, rnd):
        p = self.choose_ours(rnd)
        if not p:
            return None
        for _ in range(4):
            if p['line'].split()[0] in ('hold', 'release', 'pull', 'prune'):
                p = self.choose_ours(rnd)
        ms = int(10 ** rnd.uniform(0, 2.8))
        by = rnd.choices(('fault', 'kill', 'qemu', 'libvirtd', 'cancel', 'signal', 'full'), (36, 14, 10, 6, 8, 8, 8))[0]
        p.update(by=by, ms=ms)
        if by == 'fault':
            p['n'] = rnd.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 20, 24, 30))
        if by == 'signal':
            p['signal'] = rnd.choice(('INT', 'TERM', 'KILL', 'HUP', 'QUIT'))
        if by == 'full':
            p['spare'] = rnd.choice((0, 16, 64, 200, 400)) * KIB
        return p

    def do_interrupt(self, p):
        d, intent = self.prepare(p)
        if not d:
            return 'not now'
        d.line = p['line']
        which, by = p['mount'], p['by']
        m = self.w.mounts[which]
        m_fault = m.fault
        seen = self.w.look([d.name]).get(d.name)
        if by == 'fault':
            with open(m_fault, 'w') as f:
                f.write('%d\n' % p['n'])
        if by == 'full':
            self.w.full(p['spare'])
        self.c.begun = True
        was_on = d.on
        x = Writer(self.w.door(which, d.name), p['line'] + '\n')
        note = ''
        try:
            if by not in ('fault', 'full'):
                wait_until(x.done, p['ms'] / 1000)
                note = getattr(self, 'by_' + by)(p, d, x)
            err = x.wait()
        finally:
            if by == 'full':
                self.w.full(None)
        if by == 'fault':
            if os.path.exists(m_fault):
                with open(m_fault) as f:
                    left = f.read().split()
                os.unlink(m_fault)
                if left[0] == '0':
                    wait_until(lambda: m.process.poll() is not None, 20)
                    note = left[-1]
        if by == 'libvirtd':
            self.w.libvirtd_start()
        dead = self.w.reap()
        died = which in dead or self.w.mounts[which] is None
        words = '' if died or err == 'HANGS' else self.w.sentence(which, d.name)
        if err == 'HANGS':
            self.w.ends.append("'%s' hangs (interrupted by %s)" % (p['line'], by))
        how = self.b.settle(d, intent, err, seen, self.w, words=words, interrupted=err is not None and (died or by in ('qemu', 'libvirtd', 'kill')) or x.status is None)
        if by == 'qemu' and note and was_on:
            d.on = False if how != 'ok' else d.on
        if how != 'ok' and was_on is False:
            d.on, d.ours_since = None if intent.verb == 'revert' else False, time.monotonic()  # with its memory it comes up
        if by == 'qemu' and how == 'ok' and note:
            d.on = False if was_on is False else None
            for _ in range(30 if was_on else 0):  # libvirt learns of it a little later
                if not self.is_on(d):
                    break
                time.sleep(0.1)
            if was_on is False:  # retention may start it, paused, once more
                d.ours_since = time.monotonic()
        return '%s %s %s %s %s' % (how, err or '', 'dead' if died else '', note, words)

    def by_kill(self, p, d, x):
        self.w.down(p['mount'], kill=True)
        return 'killed'

    def by_qemu(self, p, d, x):
        pid = [None]

        def there():
            pid[0] = self.w.qemu_pid(d.name)
            return pid[0] or x.done()
        wait_until(there, 3)
        if pid[0]:
            self.w.kill_pid(pid[0])
            return 'QEMU killed'
        return ''

    def by_libvirtd(self, p, d, x):
        self.w.libvirtd_kill()
        return 'libvirtd killed'

    def by_cancel(self, p, d, x):
        ids = []

        def job():
            try:
                with open(self.w.door(p['mount'], d.name, 'jobs')) as f:
                    ids[:] = re.findall(r'^(\d+) ', f.read(), re.M)
            except OSError:
                pass
            return ids or x.done()
        wait_until(job, 3)
        if not ids:
            return ''
        return 'cancel %s: %s' % (ids[0], Writer(self.w.door(p['mount'], d.name), 'cancel %s\n' % ids[0]).wait())

    def by_signal(self, p, d, x):
        x.signal(getattr(signal, 'SIG' + p['signal']))
        return p['signal'] if x.signalled else ''

    # ------------------------------------------------ ours, and somebody else at the same moment

    def choose_race(self, rnd):
        p = self.choose_ours(rnd)
        if not p:
            return None
        d = self.b.doms[p['dom']]
        snaps = sorted(d.snaps)
        other = ['start', 'destroy', 'vcreate', 'ours']
        if snaps:
            other += ['vdelete', 'vmeta', 'ours'] if 'meta' not in self.without else ['vdelete', 'ours']
        p.update(other=rnd.choice(other), ms=int(10 ** rnd.uniform(0, 3)))
        if p['other'] in ('vdelete', 'vmeta'):
            p['name'] = rnd.choice(snaps)
        if p['other'] == 'vcreate':
            p['name'] = self.name('v')
        if p['other'] == 'ours':
            p['second'] = self.choose_ours(rnd)
            p['second']['dom'] = d.name
            p['second']['line'] = self.line(rnd, d)
        return p

    def do_race(self, p):
        d, intent = self.prepare(p)
        if not d:
            return 'not now'
        other = p['other']
        seen = self.w.look([d.name]).get(d.name)
        x = Writer(self.w.door(p['mount'], d.name), p['line'] + '\n')
        wait_until(x.done, p['ms'] / 1000)
        if other == 'ours':
            return self.race_ours(p, d, intent, x, seen)
        if other == 'vdelete' and (d.kind == 'external' and self.branches(d) or p['name'] not in d.snaps or self.shares(d)):
            other = 'nothing'
        if other == 'start' and not self.is_cut(d):
            words = ['start', d.name, '--paused']
        elif other == 'destroy':
            words = ['destroy', d.name]
        elif other == 'vcreate':
            d.apply_policy(2)  # that one may count as well
            self.c.allowed |= self.b.may_unlink(d, Intent('prune'), seen, self.w, self.judge.files)
            words = ['snapshot-create-as', d.name, p['name']] + (['--disk-only'] if d.kind == 'external' else [])
        elif other in ('vdelete', 'vmeta'):
            words = ['snapshot-delete', d.name, p['name']] + (['--metadata'] if other == 'vmeta' else [])
        else:
            words = ['domstate', d.name]
        overlays = {t: self.w.ino_of(x) for t, x in seen.records[p['name']].overlay.items()} if seen and p.get('name') in seen.records else {}
        virsh = self.w.virsh_start(words)
        worked, out = self.w.virsh_end(virsh)
        err = x.wait()
        text = self.w.sentence(p['mount'], d.name)
        if err == 'HANGS':
            self.w.ends.append("'%s' hangs beside virsh %s" % (p['line'], ' '.join(words)))
        if other == 'vcreate':
            self.raced_create(d, p['name'], intent, worked)
        if other in ('vdelete', 'vmeta'):
            self.raced_delete(d, p['name'], other, worked, overlays)
        how = self.b.settle(d, intent, err, seen, self.w, words=text)
        if other == 'vmeta':
            self.spoil_records(overlays)
            if intent.new in d.snaps and seen and intent.new not in seen.records:  # also that of one that was made in the meantime
                d.snaps[intent.new].lied |= set(overlays)
        self.c.begun = True
        if other in ('start', 'destroy') and worked:
            d.on = None
        elif how != 'ok' and d.on is False:
            d.ours_since = time.monotonic()
        return '%s %s beside %s: %s %s; %s' % (how, err or '', ' '.join(words), worked, out[:160], text)

    def shares(self, d):
        """Does another domain stand on files of this one?"""
        files = self.w.scan()
        own = {i for s in d.snaps.values() for p in s.place.values() for i in self.w.chain(p, files)}
        own |= {i for p in d.paths for i in self.w.chain(self.w.ino_of(p), files)}
        return any(own & set(self.w.chain(self.w.ino_of(p), files)) for o in self.b.doms.values() if o is not d for p in o.paths)

    def raced_create(self, d, name, intent, worked):
        d.apply_policy(1)
        self.c.allowed |= self.retention_takes(d)
        if intent.back:
            # What it froze depends on who came first.
            s = self.b.take(d, name, False, seen=self.seen(d.name))
            s.disks, s.maybe = {t: None for t in s.disks}, True
            return
        s = self.b.take(d, name, False, seen=self.seen(d.name), maybe=not worked, memory=d.kind == 'internal' and bool(d.on))
        if d.kind == 'internal' and self.seen(d.name):
            self.b.by_virsh(s, self.seen(d.name), self.w)
        d.apply_policy()

    def raced_delete(self, d, name, how, worked, overlays):
        s = d.snaps.get(name)
        if s is None:
            return
        for t, ino in overlays.items():
            if how == 'vdelete':
                self.c.allowed.add(ino)
        if how == 'vmeta':
            self.spoil_records(overlays)
        else:
            self.c.allowed |= set(s.place.values()) - self.b.original
        # libvirt 9.0 may fail at the records of others when this one has gone already
        if worked or (how == 'vmeta' and name not in self.w.look([d.name])[d.name].records):
            d.by_others.add(name)
            d.drop(name)
        elif how == 'vdelete':
            s.doomed = True

    def spoil_records(self, overlays):
        """libvirt 9.0 re-writes the records of those that froze what a forgotten snapshot had made."""
        for t, ino in overlays.items():
            for _, o in self.b.snaps():
                if o.place.get(t) == ino:
                    o.lied.add(t)

    def race_ours(self, p, d, intent, x, seen):
        q = p['second']
        if not self.w.mounts.get(q['mount']):
            q = dict(q, mount=p['mount'])
        second = self.b.intend(d, q['line'], 'ctl', seen)
        if second.retention or intent.retention:
            d.apply_policy(2)
        self.c.allowed |= self.b.may_unlink(d, second, seen, self.w, self.judge.files)
        y = Writer(self.w.door(q['mount'], d.name), q['line'] + '\n')
        err2 = y.wait()
        err = x.wait()
        self.c.begun = True
        order = [(intent, err, x), (second, err2, y)]
        order.sort(key=lambda o: o[2].began + o[2].seconds if o[2].status is not None else 1e18)
        hows = [self.b.settle(d, i, e, seen, self.w, words=self.w.said(p['mount'], d.name, i.line)) for i, e, _ in order]
        for e, l in ((err, p['line']), (err2, q['line'])):
            if e == 'HANGS':
                self.w.ends.append("'%s' hangs beside another command" % l)
        return '%s beside %s: %s %s' % (err or 'ok', q['line'], err2 or 'ok', hows)

    # ------------------------------------------------ virsh: snapshots

    def appear(self, d):
        if any(self.w.mounts.values()):
            d.apply_policy()
            self.c.allowed |= self.retention_takes(d)
            if any(p.count for p in d.policies):
                self.forget_until = time.monotonic() + 15

    def choose_vcreate(self, rnd):
        name = self.dom(rnd)
        d = self.b.doms[name]
        if len(d.snaps) > 7:
            return None
        how = rnd.choices(('plain', 'some', 'nometadata'), (8, 1, 1))[0]
        return dict(dom=name, name=self.name('v'), how=how, mix=rnd.random() < 0.05)

    def do_vcreate(self, p):
        d = self.known(p, mount=False)
        if not d or p['name'] in d.snaps or d.saved:  # the saved guest would go on on other files than the definition's
            return 'not now'
        kind = d.kind if not p['mix'] else 'external'
        words = ['snapshot-create-as', d.name, p['name']]
        targets = [t for t in d.targets() if t not in d.detached]
        if kind == 'external':
            words.append('--disk-only')
            if p['how'] == 'some' and len(targets) > 1:
                words += ['--diskspec', '%s,snapshot=no' % targets.pop()]
            if p['how'] == 'nometadata':
                words.append('--no-metadata')
        before = self.w.look([d.name]).get(d.name)
        worked, out = self.w.virsh(*words)
        if worked and not (kind == 'external' and p['how'] == 'nometadata'):
            s = self.b.take(d, p['name'], False, targets, memory=kind == 'internal' and bool(d.on), kind=kind, seen=before)
            if kind == 'internal':
                self.b.by_virsh(s, before, self.w)
            self.appear(d)
        return out or 'ok'

    def branches(self, d):
        seen = self.seen(d.name)
        parents = [r.parent for r in seen.records.values()] if seen else []
        return len(parents) != len(set(parents))

    def choose_vdelete(self, rnd):
        name = self.dom(rnd)
        snaps = sorted(self.b.doms[name].snaps)
        return dict(dom=name, name=rnd.choice(snaps), children=rnd.choice((None, None, None, '--children', '--children-only'))) if snaps else None

    def do_vdelete(self, p):
        d = self.known(p, mount=False)
        seen = self.w.look([d.name]).get(d.name) if d else None
        if not seen or p['name'] not in d.snaps or p['name'] not in seen.records or self.is_cut(d):
            return 'not now'
        s, r = d.snaps[p['name']], seen.records[p['name']]
        goes = [p['name']]
        if p['children']:
            below = [n for n in d.snaps if n in seen.records and d.above(p['name'], n)]
            goes = below + (goes if p['children'] == '--children' else [])
        files = self.w.scan()
        hurt, lied = [], []
        if s.kind == 'external':
            for t, path in r.overlay.items():
                base, top = self.w.ino_of(r.frozen.get(t, '')), self.w.ino_of(path)
                if base is not None and top is None:
                    # Nothing stands on what it froze, as after a revert: newer versions of libvirt remove that.
                    if self.stand_on(base, files, s):
                        return 'would hurt others'
                    self.c.allowed.add(base)
                if base is None or top is None:
                    continue
                live = self.live(seen, t, files)
                h, l, others = self.b.harm(d, self.w, files, base, top, True, live)
                if others:
                    return 'would hurt another domain'
                hurt += [x for x in h if x[0] is not s]
                # libvirt puts the records of those right whose parent this is.
                hurt += [x for x in l if x[0].parent != s.name and x[0] is not s]
                self.c.allowed |= set(self.w.chain(top, files)[:1]) | (set(self.w.chain(top, files)) - {base} if base in self.w.chain(top, files) else set())
                below = self.w.chain(base, files)
                self.c.allowed -= set(below)
        if len(hurt) > 2:
            return 'would hurt too many'
        stamps = {i: f.stamp for i, f in files.items()}
        worked, out = self.w.virsh('snapshot-delete', d.name, p['name'], *([p['children']] if p['children'] else []))
        now = self.w.scan()
        changed = {i for i in stamps if i not in now or now[i].stamp != stamps[i]}
        for ino, path in d.detached.values():  # virsh takes internal snapshots out of it too
            if ino in changed and ino in now and ino in self.b.treasures:
                self.b.treasures[ino] = (path, sha_file(now[ino].path))
        if worked:
            d.by_others |= set(goes)
            for n in goes:
                d.drop(n)
        elif s.kind == 'internal' or set(s.place.values()) & changed:
            for n in goes:
                d.snaps[n].doomed = True
        if worked or changed:
            for x, t in hurt:
                x.hurt.add(t)
        return '%s%s' % (out or 'ok', ' (hurts %s)' % ' '.join(x.name for x, _ in hurt) if hurt else '')

    def stand_on(self, base, files, but):
        """Is it in the chain of a snapshot, but that one, or of a disk?"""
        places = [p for _, s in self.b.snaps() if s is not but for p in s.place.values()]
        places += [self.w.ino_of(p) for d in self.b.doms.values() for p in d.paths]
        return any(base in self.w.chain(p, files) for p in places)

    def live(self, seen, t, files):
        disks = seen.disks if seen.on else seen.config_disks
        return set(self.w.chain(self.w.ino_of(disks[t][0]), files)) if t in disks else set()

    def choose_vmeta(self, rnd):
        name = self.dom(rnd)
        if 'meta' in self.without and self.b.doms[name].kind == 'external':
            return None
        snaps = sorted(self.b.doms[name].snaps)
        return dict(dom=name, name=rnd.choice(snaps), again=rnd.random() < 0.4) if snaps else None

    def do_vmeta(self, p):
        d = self.known(p, mount=False)
        seen = self.w.look([d.name]).get(d.name) if d else None
        if not seen or p['name'] not in d.snaps or p['name'] not in seen.records:
            return 'not now'
        s = d.snaps[p['name']]
        worked, out = self.w.virsh('snapshot-delete', d.name, p['name'], '--metadata')
        now = self.w.look([d.name]).get(d.name)
        self.spot_lies(d, seen, now)
        if not worked and p['name'] in now.records:
            return out
        if p['again']:
            worked, out = self.redefine(d, seen.records[p['name']].text, seen.current == p['name'])
            self.appear(d)
            if worked:
                return 'and again'
        if s.kind == 'internal' and s.promised:
            s.recorded = False
        else:
            d.by_others.add(p['name'])
            d.drop(p['name'])
        return out or 'ok'

    def spot_lies(self, d, before, now):
        """Which records did virsh change besides?"""
        for n, r in now.records.items():
            was = before.records.get(n)
            for t, path in r.frozen.items():
                if was and n in d.snaps and was.frozen.get(t) != path:
                    d.snaps[n].lied.add(t)

    def redefine(self, d, text, current):
        path = os.path.join(self.w.work, '.redefine.xml')
        with open(path, 'w') as f:
            f.write(text)
        return self.w.virsh('snapshot-create', d.name, path, '--redefine', *(['--current'] if current else []))

    def choose_redefine(self, rnd):
        name = self.dom(rnd)
        snaps = sorted(self.b.doms[name].snaps)
        return dict(dom=name, name=rnd.choice(snaps)) if snaps else None

    def do_redefine(self, p):
        """Reads a record and writes it back, as an editor does. That also ends what libvirt notes of an unfinished delete."""
        d = self.known(p, mount=False)
        seen = self.w.look([d.name]).get(d.name) if d else None
        if not seen or p['name'] not in seen.records:
            return 'not now'
        names = [p['name']] + [n for n, r in seen.records.items() if r.unfinished]
        out = ''
        for n in names:
            out = self.redefine(d, seen.records[n].text, seen.current == n)[1] or out
        self.appear(d)
        return out

    def choose_vrevert(self, rnd):
        name = self.dom(rnd)
        snaps = sorted(n for n, s in self.b.doms[name].snaps.items() if s.kind == 'internal')
        return dict(dom=name, name=rnd.choice(snaps)) if snaps else None

    def do_vrevert(self, p):
        d = self.known(p, mount=False)
        s = d and d.snaps.get(p['name'])
        if not s or s.kind != 'internal' or d.detached or None in s.disks.values() or set(s.disks) != set(d.present[0]):
            return 'not now'
        if any(x.kind != 'internal' for x in d.snaps.values()):
            return 'not now'  # libvirt defines the frozen image as the disk, and writes to it
        worked, out = self.w.virsh('snapshot-revert', d.name, p['name'])
        if worked:
            d.present = [{**d.present[0], **s.disks}]
            d.on = self.is_on(d)
            d.saved = False
        else:
            d.present = d.present + [{**x, **s.disks} for x in d.present]
            d.on = None
        return out or 'ok'

    def choose_stray(self, rnd):
        name = self.dom(rnd)
        return dict(dom=name, name=self.name('q')) if self.b.doms[name].kind == 'internal' else None

    def do_stray(self, p):
        """qemu-img makes an internal snapshot of a disk; libvirt does not know it."""
        d = self.known(p, mount=False)
        seen = self.seen(d.name) if d else None
        if not seen or d.saved or self.is_on(d) or 'vda' not in seen.config_disks or not d.known or len(d.present) > 1:
            return 'not now'
        path, fmt, _ = seen.config_disks['vda']
        ino = self.w.ino_of(path)
        if fmt != 'qcow2' or ino is None or self.judge.disturbed(ino):
            return 'not now'
        r = run('qemu-img', 'snapshot', '-c', p['name'], path, check=False)
        if r.returncode:
            return r.stderr.decode(errors='replace').strip()
        s = self.b.take(d, p['name'], False, ['vda'], kind='internal', seen=seen)
        s.recorded, s.place = False, {'vda': ino}
        self.b.by_virsh(s, seen, self.w)
        return 'ok'

    # ------------------------------------------------ virsh: block jobs

    def running_disk(self, p):
        """(Dom, Seen, paths of the chain from the active one down) of a running domain."""
        d = self.known(p, mount=False)
        seen = self.w.look([d.name]).get(d.name) if d else None
        if not seen or not seen.on or p['disk'] not in seen.disks or seen.jobs or not d.known:
            return None
        path, _, below = seen.disks[p['disk']]
        return d, seen, [path] + below

    def choose_vcommit(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        if not d.on:
            return None
        return dict(dom=d.name, disk=rnd.choice(d.targets()), top=rnd.choice((0, 0, 1, 1, 2)), base=rnd.choice((1, 1, 1, 2)),
                    delete=rnd.random() < 0.5)

    def do_vcommit(self, p):
        found = self.running_disk(p)
        if not found:
            return 'not now'
        d, seen, paths = found
        top, base = p['top'], p['top'] + p['base']
        if base >= len(paths):
            return 'not now'
        files = self.w.scan()
        inos = [self.w.ino_of(x) for x in paths]
        if None in inos or any(self.judge.disturbed(i) for i in inos[:1]):
            return 'not now'
        live = set(inos)
        hurt, lied, others = self.b.harm(d, self.w, files, inos[base], inos[top], p['delete'], live)
        if others:
            return 'would hurt another domain'
        if len(hurt) > 3:
            return 'would hurt too many'
        words = ['blockcommit', d.name, p['disk'], '--base', paths[base], '--wait', '--timeout', '20']
        words += ['--active', '--pivot'] if top == 0 else ['--top', paths[top]]
        if p['delete']:
            words.append('--delete')
            self.c.allowed |= set(inos[top:base])
        for _, x in self.b.snaps():
            c = self.w.chain(x.place.get(p['disk']), files)
            if inos[top] in c[:-1] and inos[base] in c:
                x.shaken.add(p['disk'])
        for x, t in hurt:
            x.hurt.add(t)
        for x, t in lied:
            x.lied.add(t)
        worked, out = self.w.virsh(*words)
        return '%s (hurts %s; %s)' % ('ok' if worked else out, ' '.join(x.name for x, _ in hurt), ' '.join(x.name for x, _ in lied))

    def choose_vpull(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        return dict(dom=d.name, disk=rnd.choice(d.targets()), base=rnd.choice((None, None, 1, 2))) if d.on else None

    def pull_harm(self, seen, t, files):
        ino = self.w.ino_of(seen.disks[t][0])
        return [(s, t) for _, s in self.b.snaps() if s.kind == 'internal' and s.place.get(t) == ino and len(self.w.chain(ino, files)) > 1]

    def do_vpull(self, p):
        found = self.running_disk(p)
        if not found:
            return 'not now'
        d, seen, paths = found
        words = ['blockpull', d.name, p['disk'], '--wait', '--timeout', '20']
        if p['base']:
            if p['base'] >= len(paths):
                return 'not now'
            words += ['--base', paths[p['base']]]
        for x, t in self.pull_harm(seen, p['disk'], self.w.scan()):
            x.hurt.add(t)
        self.b.pulled.add(self.w.ino_of(paths[0]))
        return self.w.virsh(*words)[1] or 'ok'

    def choose_vcopy(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        return dict(dom=d.name, disk=rnd.choice(d.targets()), name=self.name('copy'), pivot=rnd.random() < 0.6) if d.on else None

    def do_vcopy(self, p):
        found = self.running_disk(p)
        if not found:
            return 'not now'
        d, seen, paths = found
        dest = os.path.join(self.w.images, d.name, '%s.%s.qcow2' % (p['disk'], p['name']))
        if os.path.exists(dest):
            return 'not now'
        worked, out = self.w.virsh('blockcopy', d.name, p['disk'], '--dest', dest, '--format', 'qcow2', '--wait', '--timeout', '20', '--transient-job',
                                   '--pivot' if p['pivot'] else '--finish')
        if os.path.exists(dest):
            self.b.original.add(os.stat(dest).st_ino)
        return out or 'ok'

    def choose_job(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        return dict(dom=d.name, disk=rnd.choice(d.targets()), name=self.name('copy')) if d.on else None

    def do_job(self, p):
        """A job of somebody else that stays: a copy that waits for its pivot."""
        found = self.running_disk(p)
        if not found:
            return 'not now'
        d, seen, paths = found
        dest = os.path.join(self.w.images, d.name, '%s.%s.qcow2' % (p['disk'], p['name']))
        if os.path.exists(dest):
            return 'not now'
        worked, out = self.w.virsh('blockcopy', d.name, p['disk'], '--dest', dest, '--format', 'qcow2', '--transient-job')
        if os.path.exists(dest):
            self.b.original.add(os.stat(dest).st_ino)
        return out or 'ok'

    def choose_endjob(self, rnd):
        jobs = [(n, t) for n, s in self.judge.seen.items() for t in s.jobs]
        if not jobs:
            return None
        name, t = rnd.choice(jobs)
        return dict(dom=name, disk=t, how=rnd.choice(('--abort', '--pivot')))

    def do_endjob(self, p):
        d = self.known(p, mount=False)
        if not d:
            return 'not now'
        return self.w.virsh('blockjob', d.name, p['disk'], p['how'])[1] or 'ok'

    # ------------------------------------------------ virsh: domains

    def choose_power(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        return dict(dom=d.name, on=not d.on, paused=rnd.random() < 0.7)

    def do_power(self, p):
        d = self.known(p, mount=False)
        if not d or p['on'] and self.is_cut(d):
            return 'not now'
        words = ['start', d.name] + (['--paused'] if p['paused'] else []) if p['on'] else ['destroy', d.name]
        worked, out = self.w.virsh(*words)
        if worked:
            if d.saved and p['on']:
                self.restored(d)
            d.on = p['on']
            d.saved = d.saved and not p['on']
        elif p['on'] and not self.is_on(d):
            seen = self.w.look([d.name]).get(d.name)
            self.must_start(d, seen, out)
        return out or 'ok'

    def is_cut(self, d):
        """Is the beginning of an image in the place of the whole? QEMU takes that for the disk, and writes to it."""
        cut = {self.w.ino_of(x['path']) for x in self.w.disturbed.values() if x['how'] == 'copy'}
        files = self.w.scan() if cut else {}
        return any(i in cut for path in d.paths for i in self.w.chain(self.w.ino_of(path), files))

    def restored(self, d):
        """From its managed save: on the disks that it had then, whatever virsh has frozen since."""
        seen, files = self.w.look([d.name]).get(d.name), self.w.scan()
        for path, _, _ in seen.disks.values() if seen else ():
            for _, s in self.b.snaps():
                for t, place in s.place.items():
                    if s.kind == 'external' and self.w.ino_of(path) in self.w.chain(place, files):
                        s.hurt.add(t)

    def must_start(self, d, seen, out):
        """It did not: is there a reason that the model knows?"""
        if not seen or not d.known or d.saved:
            return
        for t, (path, _, _) in seen.config_disks.items():
            ino = self.w.ino_of(path)
            if ino is None or self.judge.disturbed(ino):
                return
            if any(isinstance(i, tuple) or i in self.w.odd for i in self.w.chain(ino, self.w.scan())):
                return
        if 'already active' in out or 'parser implementation for JSON' in out or time.monotonic() < self.sure + 15 or d.on is None:  # a paused guest of ours may just be there
            return
        self.w.ends.append("domain '%s' does not start: %s" % (d.name, out))

    def choose_start(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        return dict(dom=d.name) if d.on is False and not d.saved else None

    def do_start(self, p):
        """Would it start?"""
        d = self.known(p, mount=False)
        if not d or d.on is not False or d.saved or self.is_cut(d):
            return 'not now'
        worked, out = self.w.virsh('start', d.name, '--paused')
        if not worked:
            self.must_start(d, self.w.look([d.name]).get(d.name), out)
            return out
        self.w.virsh('destroy', d.name)
        return 'ok'

    def choose_save(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        return dict(dom=d.name) if d.on else None

    def do_save(self, p):
        d = self.known(p, mount=False)
        if not d or not d.on:
            return 'not now'
        worked, out = self.w.virsh('managedsave', d.name)
        if worked:
            d.on, d.saved = False, True
        return out or 'ok'

    def choose_undefine(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        return dict(dom=d.name, how=rnd.choice(('define', 'away', 'away'))) if not d.saved else None

    def do_undefine(self, p):
        """Defined anew as it is, or undefined and all of it defined again."""
        d = self.known(p, mount=False)
        seen = self.w.look([d.name]).get(d.name) if d else None
        if not seen or d.saved or (p['how'] == 'away' and (seen.on or d.on is None)):
            return 'not now'
        path = os.path.join(self.w.work, '.define.xml')
        with open(path, 'w') as f:
            f.write(seen.config)
        if p['how'] == 'away':
            worked, out = self.w.virsh('undefine', d.name, '--snapshots-metadata')
            if not worked:
                return out
            time.sleep(0.7)
        worked, out = self.w.virsh('define', path)
        if p['how'] == 'away':
            for n, r in seen.records.items():
                worked, said = self.redefine(d, r.text, n == seen.current)
                out += '' if worked else said
            self.appear(d)
        return out or 'ok'

    def choose_detach(self, rnd):
        away = sorted(n for n, d in self.b.doms.items() if d.detached)
        if away:
            return dict(dom=rnd.choice(away), back=True)
        d = self.b.doms[self.dom(rnd)]
        return dict(dom=d.name, back=False) if d.on is False and len(d.targets()) > 1 and len(d.present) == 1 else None

    def do_detach(self, p):
        d = self.known(p, mount=False)
        if not d or d.saved or d.on is not False or 'vdb' not in d.targets():
            return 'not now'
        seen = self.w.look([d.name]).get(d.name)
        if seen and seen.on:
            return 'not now'  # our paused guest, which a death has left: it has the disks that it had
        if not p['back']:
            if d.detached or 'vdb' not in seen.config_disks or len(d.present) > 1 or not d.known:
                return 'not now'
            path = self.w.real(seen.config_disks['vdb'][0])
            ino = self.w.ino_of(path)
            if ino is None or self.judge.disturbed(ino):
                return 'not now'
            worked, out = self.w.virsh('detach-disk', d.name, 'vdb', '--config')
            if worked:
                d.detached['vdb'] = (ino, path)
                self.b.treasures[ino] = (path, sha_file(path))
            return out or 'ok'
        if not d.detached:
            return 'not now'
        ino, path = d.detached['vdb']
        if 'vdb' in seen.config_disks:  # a revert has brought it back
            del d.detached['vdb']
            self.b.treasures.pop(ino, None)
            self.b.treasures.pop(self.w.ino_of(seen.config_disks['vdb'][0]), None)
            return 'is there'
        worked, out = self.w.virsh('attach-disk', d.name, path, 'vdb', '--config', '--driver', 'qemu', '--subdriver', 'qcow2', '--targetbus', 'virtio')
        if worked:
            del d.detached['vdb']
            self.b.treasures.pop(ino, None)
        return out or 'ok'

    # ------------------------------------------------ files

    def pick(self, p):
        """The file that a step means by its role: of a snapshot's disk, or the active one."""
        d = self.b.doms.get(p['dom'])
        if not d:
            return None
        if p['snap']:
            s = d.snaps.get(p['snap'])
            ino = s and s.place.get(p['disk'])
        else:
            seen = self.seen(d.name)
            ino = self.w.ino_of(seen.config_disks[p['disk']][0]) if seen and p['disk'] in seen.config_disks else None
        return self.w.scan().get(ino)

    def role(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        snap = rnd.choice([None] + sorted(d.snaps)) if rnd.random() < 0.8 else None
        return dict(dom=d.name, snap=snap, disk=rnd.choice(d.targets()))

    def choose_disturb(self, rnd):
        if len(self.w.disturbed) > 1:
            return None
        return dict(self.role(rnd), how=rnd.choice([h for h in ('away', 'away', 'stub', 'copy', 'magic', 'feature') if h not in self.without]))

    def do_disturb(self, p):
        f = self.pick(p)
        if not f or f.ino in self.w.disturbed or f.ino in self.b.treasures:
            return 'not now'
        if p['how'] != 'away' and f.path.endswith('.raw'):
            return 'not now'
        if p['how'] != 'away':
            users = {d.name for d in self.b.doms.values() for x in d.paths if f.ino in self.w.chain(self.w.ino_of(x), self.judge.files)}
            if any(self.b.doms[n].on is not False for n in users):
                return 'not now'  # a QEMU that has it open would write its own header back
        self.w.disturb(f, p['how'])
        return f.path

    def choose_restore(self, rnd):
        return dict(n=rnd.randrange(len(self.w.disturbed))) if self.w.disturbed else None

    def do_restore(self, p):
        if not self.w.disturbed:
            return 'not now'
        ino = sorted(self.w.disturbed)[p['n'] % len(self.w.disturbed)]
        path = self.w.disturbed[ino]['path']
        wrong = self.bring_back(ino)
        if wrong:
            self.w.ends.append(wrong)
        return path

    def bring_back(self, ino):
        d = self.w.disturbed[ino]
        if d['how'] in ('copy', 'stub') and os.path.exists(d['path']):
            self.c.allowed.add(os.stat(d['path']).st_ino)
        return self.w.restore(ino)

    def choose_alias(self, rnd):
        return dict(self.role(rnd), how=rnd.choice(('link', 'bind', 'dots', 'file', 'json', 'jsonopts', 'relative', 'source-link', 'source-bind')))

    def do_alias(self, p):
        """The same file below, by another name."""
        f, d = self.pick(p), self.b.doms.get(p['dom'])
        if not f or d.on is not False or d.saved or self.w.disturbed or d.clone_of:
            return 'not now'
        source = p['how'].startswith('source-')
        if source:
            below = f.path
        elif not f.backing or f.backing.startswith(self.w.work + '/mnt'):
            return 'not now'
        else:
            below = self.w.plain(f.backing, f.path)
        for o in self.b.doms.values():
            if any(f.ino in self.w.chain(self.w.ino_of(x), self.judge.files) for x in o.paths) and o.on is not False:
                return 'not now'
        at, base = os.path.split(below)
        how = p['how'].replace('source-', '')
        if how == 'link':
            name = os.path.join(at, 'link.%d.%s' % (len(os.listdir(at)), base))
            os.symlink(base, name)
        elif how == 'bind':
            bind = os.path.join(at, 'bind')
            if not os.path.isdir(bind):
                os.mkdir(bind)
                run('mount', '--bind', at, bind)
                self.w.binds.append(bind)
            name = os.path.join(bind, base)
        else:
            name = {'dots': os.path.join(at, '..', os.path.basename(at), base), 'file': 'file:' + below, 'relative': os.path.relpath(below, os.path.dirname(f.path)),
                    'json': 'json:' + json.dumps(dict(driver='qcow2', file=dict(driver='file', filename=below))),
                    'jsonopts': 'json:' + json.dumps({'driver': 'qcow2', 'file': {'driver': 'file', 'filename': below, 'discard': 'unmap'}})}[how]
        if source:
            seen = self.w.look([d.name]).get(d.name)
            if p['snap'] or p['disk'] not in seen.config_disks or seen.on:
                return 'not now'
            path = os.path.join(self.w.work, '.define.xml')
            with open(path, 'w') as o:
                o.write(seen.config.replace("<source file='%s'" % seen.config_disks[p['disk']][0], "<source file='%s'" % name))
            return self.w.virsh('define', path)[1] or 'ok'
        fmt = 'raw' if below.endswith('.raw') else 'qcow2'
        r = run('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-b', name, '-F', fmt, f.path, check=False)
        if r.returncode:
            return r.stderr.decode(errors='replace').strip()
        self.w.odd.pop(f.ino, None)
        self.w.rewritten.add(f.ino)
        if how in ('file', 'jsonopts'):
            self.w.odd[f.ino] = name
        return name

    def choose_decoy(self, rnd):
        d = self.b.doms[self.dom(rnd)]
        which = self.which(rnd)
        return which and d.kind == 'external' and dict(dom=d.name, mount=which, name=self.name('s'), disk=rnd.choice(d.targets())) or None

    def do_decoy(self, p):
        """A stranger's file where the overlay is to be, and a create of it."""
        d = self.known(p)
        if not d:
            return 'not now'
        path = os.path.join(self.w.images, d.name, '%s.%s.qcow2' % (p['disk'], p['name']))
        if os.path.exists(path):
            return 'not now'
        with open(path, 'w') as f:
            f.write('this is not yours\n')
        self.b.treasures[os.stat(path).st_ino] = (path, sha_file(path))
        return self.command(dict(p, line='create ' + p['name']))

    # ------------------------------------------------ clones

    def choose_clone(self, rnd):
        d = self.b.doms[self.dom(rnd, clones=False)]
        good = sorted(n for n, s in d.snaps.items() if s.whole() and not s.memory and None not in s.disks.values())
        if not good or len(self.b.doms) > 3:
            return None
        how = rnd.choice(('pit', 'img')) if d.kind == 'external' else 'img'
        if how == 'img' and 'img2' in self.without and any(c.stands_on_img for c in self.b.doms.values()):
            return None
        return dict(dom=d.name, snap=rnd.choice(good), disk=rnd.choice(d.targets()), how=how, name=self.name('c'), on=rnd.random() < 0.3)

    def do_clone(self, p):
        """A linked clone: on what a snapshot froze, or on the snapshot's image of the mount."""
        d = self.known(p)
        s = d and d.snaps.get(p['snap'])
        if not s or not s.whole() or p['disk'] not in s.disks or p['disk'] not in s.place or p['name'] in self.b.doms or s.disks[p['disk']] is None:
            return 'not now'
        f = self.judge.files.get(s.place[p['disk']])
        if not f or self.judge.disturbed(f.ino) or self.w.odd or self.seen(d.name).jobs:
            return 'not now'
        base, fmt = f.path, 'raw' if f.path.endswith('.raw') else 'qcow2'
        if p['how'] == 'img':
            base, fmt = '%s/%s.%s.img' % (os.path.join(self.w.mounts['A'].where, d.name), p['snap'], p['disk']), 'raw'
            if not os.path.exists(base):
                return 'not now'
        elif s.kind == 'internal':
            return 'not now'
        c = self.define(p['name'], {'vda': s.disks[p['disk']]}, backing=(base, fmt))
        c.clone_of = (d.name, p['snap'])
        if p['how'] == 'img':
            c.stands_on_img = (d.name, p['snap'], p['disk'])
        self.judge.files = self.w.scan()
        if p['on']:
            worked, out = self.w.virsh('start', c.name, '--paused')
            c.on = worked
            return out or 'ok'
        return 'ok'

    def choose_unclone(self, rnd):
        clones = sorted(n for n, d in self.b.doms.items() if d.clone_of)
        return dict(dom=rnd.choice(clones)) if clones else None

    def do_unclone(self, p):
        c = self.known(p, mount=False)
        if not c or not c.clone_of:
            return 'not now'
        for ino in list(self.w.disturbed):
            if self.w.disturbed[ino]['path'].startswith(os.path.join(self.w.images, c.name) + '/'):
                self.bring_back(ino)
        self.w.virsh('destroy', c.name)
        worked, out = self.w.virsh('undefine', c.name, '--snapshots-metadata', '--managed-save')
        if not worked:
            return out
        at = os.path.join(self.w.images, c.name)
        for ino, f in self.w.scan().items():
            if f.path.startswith(at + '/'):
                self.c.allowed.add(ino)
                self.b.treasures.pop(ino, None)
        for b in [b for b in self.w.binds if b.startswith(at)]:
            run('umount', b)
            self.w.binds.remove(b)
        shutil.rmtree(at)
        del self.b.doms[c.name]
        self.b.begun = [b for b in self.b.begun if b[0] != c.name]
        return 'ok'

    def define(self, name, present, backing=None, kind='external', raw=False):
        """A new domain; without @backing its disks hold what is in @present."""
        at = os.path.join(self.w.images, name)
        os.makedirs(at)
        xml = ''
        d = Dom(name, kind, dict(present))
        for t, content in sorted(present.items()):
            fmt = 'raw' if raw and t == 'vda' else 'qcow2'
            path = os.path.join(at, '%s.%s' % (t, fmt))
            if backing:
                run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', backing[0], '-F', backing[1], path)
            else:
                with open(path + '.tmp', 'wb') as f:
                    f.write(content)
                run('qemu-img', 'convert', '-f', 'raw', '-O', fmt, path + '.tmp', path)
                os.unlink(path + '.tmp')
            self.b.original.add(os.stat(path).st_ino)
            xml += ("<disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='virtio'/></disk>" %
                    (fmt, path, t))
        path = os.path.join(self.w.work, '.define.xml')
        with open(path, 'w') as f:
            f.write("<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' "
                    "machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>%s</devices></domain>" %
                    (name, uuid.uuid5(uuid.NAMESPACE_DNS, name), xml))
        worked, out = self.w.virsh('define', path)
        assert worked, out
        d.paths = [os.path.join(at, f) for f in os.listdir(at)]
        self.b.doms[name] = d
        return d

    # ------------------------------------------------ mounts and libvirtd

    def choose_mount(self, rnd):
        return dict(on=not self.w.mounts['A'], slow=rnd.random() < 0.6, narrow=rnd.random() < 0.15)

    def do_mount(self, p):
        if p['on'] == bool(self.w.mounts['A']):
            return 'not now'
        if p['on']:
            self.w.up('A', *(['bandwidth=1'] if p['slow'] else []), *(['narrow'] if p['narrow'] else []))
            self.sure = time.monotonic()
            return 'ok'
        if any(d.stands_on_img and d.on is not False for d in self.b.doms.values()):
            return 'not now'
        self.w.down('A')
        return 'ok'

    def do_pause(self, p):
        """Only in lists written by hand."""
        time.sleep(p['seconds'])
        return 'ok'

    def choose_kill(self, rnd):
        return dict(which=self.which(rnd)) if self.which(rnd) else None

    def do_kill(self, p):
        self.w.down(p['which'], kill=True)
        for d in self.b.doms.values():
            if d.on is False and any(x.count is not None for x in d.policies):  # retention may have been at work
                d.ours_since = time.monotonic()
        return 'ok'

    def choose_second(self, rnd):
        return dict(on=not self.w.mounts['B'])

    def do_second(self, p):
        if p['on'] == bool(self.w.mounts['B']):
            return 'not now'
        if p['on']:
            self.w.up('B')
            self.sure = time.monotonic()
        else:
            self.w.down('B')
        return 'ok'

    def choose_libvirtd(self, rnd):
        return dict(x=0)

    def do_libvirtd(self, p):
        self.w.libvirtd_kill()
        time.sleep(0.5)
        self.w.libvirtd_start()
        return 'ok'
