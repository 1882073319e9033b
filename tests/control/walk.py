#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""A random walk over all commands, compared with a model after every step.

	walk.py URI WORK SNAPFS STEPS SEED      a walk of so many steps
	walk.py URI WORK SNAPFS again FILE      the steps in FILE, one a line, as a failed walk prints them

Several domains, some of which stand on one image. A step is a command through ctl or retain, or something that others do: guests
that start, write and end, virsh, qemu-img, an unmount and a mount. model.py says what a command may answer and what stands where
afterwards; lab.py's books say which bytes every snapshot has; its witnesses say what is.
The first step that is not as it should be ends the walk; the steps so far, which can be given to `again`, are printed.
"""
import copy
import errno
import os
import random
import sys
import threading
import time

import lab
import model

DISKS = {'web': {'vda': 2, 'vdb': 1}, 'solo': {'vda': 2}, 'gold': {'vda': 2}, 'twin': {'vda': 2}}
CLONES = 2       # domains that come and go
NAMES = 9        # snapshots are called s1..s9, so that names come back
LOOK_AT_ALL = 12 # steps between looks at every domain


# What walks have found, so that every walk begins with it.
KNOWN = '''
solo ctl create s3
solo write vda 4096 65536 7
solo ctl create s9
- wait 3
solo ctl revert s9
solo ctl delete s3
solo stray q1 vda
solo ctl revert s9
solo foreign f1 internal
solo ctl delete s9
solo virshdelete f1
'''


class Diverged(Exception):
    pass


class Domain(lab.Domain):
    def __init__(self, *args, **more):
        self.hidden = {}
        super().__init__(*args, **more)

    def check_images(self, records, active):
        """Files are the world's business here: which there are, and what each stands on."""
        memory = {r.memory_file for r in records.values()}
        return [w for w in map(self.lab.qemu_check, sorted(self.own_files() - memory)) if w]


class Reader(threading.Thread):
    """Reads one file again and again while a command is at work: a snapshot that stays gives its bytes all the time, or EBUSY while a
    job writes beneath it."""

    def __init__(self, path, want):
        super().__init__()
        self.path, self.want, self.wrong, self.over = path, want, None, False
        self.start()

    def run(self):
        while not self.over and not self.wrong:
            try:
                if lab.sha_file(self.path) != self.want:
                    self.wrong = 'WRONG BYTES'
            except OSError as e:
                if e.errno != errno.EBUSY:
                    self.wrong = errno.errorcode.get(e.errno, str(e.errno))

    def end(self):
        self.over = True
        self.join()
        return ['%s, read meanwhile: %s' % (os.path.basename(self.path), self.wrong)] * bool(self.wrong)


class Walk:
    def __init__(self, report, the_lab, seed):
        self.report, self.lab, self.random = report, the_lab, random.Random(seed)
        self.world, self.domains, self.steps, self.n = model.World(os.path.exists), {}, [], 0
        self.since_all = 0
        self.ctl = None
        for name in DISKS:
            if name != 'twin':
                self.define(name, DISKS[name])
        # gold's image is frozen, and twin stands on it as well.
        self.perform(['gold', 'ctl', 'create', 'first', 'external'])
        self.perform(['twin', 'clone', 'gold', 'first'])

    # ---------------------------------------------------------------- domains

    def define(self, name, disks, **more):
        d = self.domains[name] = Domain(self.lab, name, disks, write=not more, **more)
        bases = more.get('base', {})
        active = d.active()
        self.world.domain(name, {t: self.world.file(active[t], self.world.files.get(bases.get(t))) for t in disks})
        d.appears()

    def do_clone(self, name, m, of, snap):
        source = self.world.doms[of].snaps[snap]
        if source.kind != 'external':
            return 'not external'
        books = self.domains[of].snaps[snap]
        targets = sorted(source.pits)
        self.define(name, {t: len(books.disks[t]) // lab.MIB for t in targets}, base={t: source.pits[t].path for t in targets},
                    content={t: books.disks[t] for t in targets})
        return None

    def do_retire(self, name, m):
        home = self.domains[name].home + os.sep
        own = [f for p, f in self.world.files.items() if p.startswith(home)]
        if any(self.world.users(f) - {name} for f in own):
            return 'others stand on its files'
        self.domains.pop(name).remove()
        for f in own:
            self.world.remove(f)
        del self.world.doms[name]
        return None

    # ---------------------------------------------------------------- steps of others

    def do_write(self, name, m, target, off, length, byte):
        self.domains[name].write(target, int(off), int(length), int(byte))

    def do_start(self, name, m):
        if m.running:
            return 'runs'
        self.domains[name].start()
        m.running = True
        self.soon(name)
        return None

    def do_stop(self, name, m):
        if not m.running:
            return 'does not run'
        self.domains[name].stop()
        m.running = False
        self.soon(name)
        return None

    def do_remount(self, name, m):
        self.lab.mount.stop()
        self.lab.mount.start()
        self.since_all = LOOK_AT_ALL

    def do_wait(self, name, m, seconds):
        """What time stamps prove depends on how far they are apart."""
        time.sleep(float(seconds))

    def do_foreign(self, name, m, snap, kind):
        """virsh snapshot-create-as: it mixes kinds if it likes."""
        if snap in m.snaps:
            return 'is there'
        if kind == 'external':
            self.domains[name].virsh_create(snap, '--disk-only', '--atomic')
        else:
            self.domains[name].virsh_create(snap, kind='internal')
        memory = kind == 'internal' and m.running
        self.world.enter(m, snap, kind, sorted(m.active), False, self.domains[name].active(), memory)
        return self.after_appearing(name, m)

    def after_appearing(self, name, m):
        """Retention notices a new snapshot by itself, some time soon: `prune` waits for that."""
        if m.keep:
            self.expect(self.domains[name].ctl('prune'), self.prunes(m), 'prune')
            self.pruned(name, m)
        self.soon(name)

    def prunes(self, m):
        """What `prune` may answer, where retention may have run already."""
        world, errnos, went = copy.deepcopy(self.world), {None}, 1
        while went:
            went, refused = world.prune(world.doms[m.name])
            errnos |= refused.errnos if refused else set()
        return errnos

    def do_virshdelete(self, name, m, snap):
        """Where libvirt does it right: that is not everywhere."""
        s = m.snaps.get(snap)
        if not s or s.held or not s.recorded:
            return 'not to be deleted'
        if s.kind == 'internal':
            if any(f not in m.active.values() for f in s.pits.values()):
                return 'libvirt refuses'
        elif not self.libvirt_can(m, s):
            return 'libvirt cannot'
        self.lab.virsh('snapshot-delete', name, snap)
        self.world.delete(m, snap)
        self.sync(name, m)
        self.soon(name)
        return None

    def libvirt_can(self, m, s):
        children = [c for c in m.snaps.values() if c.parent == s.name]
        if len(children) > 1 or not s.pits or (s.parent and m.snaps[s.parent].kind == 'internal'):
            return False
        for t, base in s.pits.items():
            top = self.world.files.get(s.overlays[t].path)
            if not top:
                return False
            if top.below is not base or top not in m.chain(t) or self.world.merge_disk(m, t, base, top, (s,)):
                return False
            if not m.running and m.active[t] is not top:
                return False
        return True

    def do_stray(self, name, m, snap, target):
        """qemu-img snapshot: an internal snapshot that libvirt does not know."""
        if m.running or snap in m.snaps:
            return 'runs, or is there'
        lab.run('qemu-img', 'snapshot', '-c', snap, m.active[target].path)
        self.world.stray(m, snap, target)
        self.domains[name].enter_stray(snap, target)
        self.soon(name)
        return None

    def do_unstray(self, name, m, snap):
        s = m.snaps.get(snap)
        if not s or s.recorded or m.running or any(f not in m.active.values() for f in s.pits.values()):
            return 'no stray, or not in an active image'
        for f in s.pits.values():
            lab.run('qemu-img', 'snapshot', '-d', snap, f.path)
        self.world.unstray(m, snap)
        self.sync(name, m)
        self.soon(name)
        return None

    def soon(self, name):
        """What others did is shown soon; until then nothing may read wrong."""
        d = self.domains[name]
        wrong = [w for w in d.check_bytes() if 'WRONG' in w]
        if not d.settled():
            wrong += d.check_listing()
        lab.wait_until(lambda: self.calm(d), 20)
        if wrong:
            raise Diverged('; '.join(wrong))

    @staticmethod
    def calm(d):
        said = d.json()
        return said['domain']['state'] == d.state and not any(s['state'] == 'busy' for s in said['snapshots'])

    # ---------------------------------------------------------------- commands

    def do_ctl(self, name, m, *words):
        self.command(name, m, list(words))

    def do_retain(self, name, m, policy):
        after = copy.deepcopy(self.world)
        mine = after.doms[name]
        mine.keep = None if policy == 'off' else int(policy)
        refused = after.prune(mine)[1]
        self.expect(self.domains[name].retain(policy), refused.errnos if refused else {None}, 'retain ' + policy)
        m.keep = mine.keep
        self.pruned(name, m)

    def pruned(self, name, m):
        """Retention has run, and may run again by itself after a refusal, when what was in the way may have gone."""
        refused = self.world.prune(m)[1]
        while refused:
            errnos = refused.errnos
            went, refused = self.world.prune(m)
            out = self.domains[name].ctl('prune')
            self.expect(out, errnos | (refused.errnos if refused else {None}), 'prune')
            if not went:
                break
        self.sync(name, m)

    def expect(self, out, want, command):
        self.ctl = out
        if out.errno == 'ENOTSUP':  # which is the same number
            out.errno = 'EOPNOTSUPP'
        if out.errno not in want:
            raise Diverged("'%s' gave %r instead of %s" % (command, out, ' or '.join(sorted(w or 'success' for w in want))))

    def command(self, name, m, words):
        tried = words[0] == 'try'
        verb, args = words[tried], words[tried + 1:]
        apply = getattr(self, 'ctl_' + verb)
        want, after = {None}, copy.deepcopy(self.world)
        try:
            self.foresee(after, name, verb, args)
        except model.Refused as e:
            want = e.errnos
        reader = self.reader(name, m, after.doms[name])
        out = self.domains[name].ctl(' '.join(words))
        wrong = reader.end() if reader else []
        self.expect(out, want, ' '.join(words))
        if wrong:
            raise Diverged('; '.join(wrong))
        if not tried:
            apply(name, m, self.ctl.errno is None, *args)
            self.sync(name, m)

    def reader(self, name, m, after):
        """Of a snapshot that stays; none where retention may run, for it leaves alone what is open."""
        d = self.domains[name]
        files = sorted(f for f, (snap, _) in d.files().items() if snap in after.snaps and after.snaps[snap].recorded)
        if m.keep or not files:
            return None
        f = files[len(self.steps) % len(files)]
        snap, target = d.files()[f]
        return Reader(os.path.join(d.dir, f), d.snaps[snap].sums[target])

    def foresee(self, world, name, verb, args):
        m = world.doms[name]
        if verb == 'create':
            world.check_create(m, args[0], self.kind_word(args), self.disk_word(args))
        elif verb == 'delete':
            world.delete_all(m, args)
        elif verb == 'commit':
            world.commit(m, *(args + [None])[:2])
        elif verb == 'pull':
            world.pull(m, args[0] if args else None)
        elif verb == 'revert':
            keep = self.keep_word(args)
            world.check_revert(m, args[0], 'force' in args, keep)
            if keep:
                world.check_create(m, keep, 'internal' if m.running and world.kind_of(m, None) == 'internal' else None,
                                   self.replaced(m, args[0]))
        elif verb == 'prune':
            refused = world.prune(m)[1]
            if refused:
                raise refused
        elif args[0] not in m.snaps:
            raise model.Refused('ENOENT')

    @staticmethod
    def kind_word(args):
        return next((a for a in args[1:] if a in ('internal', 'external')), None)

    @staticmethod
    def disk_word(args):
        return next((a[6:].split(',') for a in args if a.startswith('disks=')), None)

    @staticmethod
    def keep_word(args):
        return next((a[5:] for a in args if a.startswith('keep=')), None)

    @staticmethod
    def replaced(m, snap):
        """The disks that a revert to it replaces, which are those that `keep` takes; None: all."""
        return sorted(m.snaps[snap].pits) if m.snaps[snap].kind == 'external' else None

    def taken(self, name, m, snap, kind, targets):
        d = self.domains[name]
        memory = kind == 'internal' and m.running
        targets = targets or sorted(m.active)
        d.enter(snap, kind, targets, memory=memory)
        self.world.enter(m, snap, kind, targets, True, d.active(), memory)

    def ctl_create(self, name, m, done, *args):
        if done:
            self.taken(name, m, args[0], self.world.kind_of(m, self.kind_word(args)), self.disk_word(args))
            self.pruned(name, m)

    def ctl_delete(self, name, m, done, *snaps):
        try:
            self.world.delete_all(m, snaps)
        except model.Refused:
            pass

    def ctl_commit(self, name, m, done, first, last=None):
        if done:
            self.world.commit(m, first, last)

    def ctl_pull(self, name, m, done, snap=None):
        if done:
            self.world.pull(m, snap)

    def ctl_revert(self, name, m, done, snap, *words):
        keep = self.keep_word(words)
        if not done:
            return
        d = self.domains[name]
        if keep:
            # What is active now is not what was active then: the overlays of `keep` are below nothing any more, and are asked for
            # by libvirt's record.
            kind = self.world.kind_of(m, None)
            overlays = lab.Record(self.lab.virsh('snapshot-dumpxml', name, keep)).overlay
            memory = kind == 'internal' and m.running
            targets = self.replaced(m, snap) or sorted(m.active)
            d.enter(keep, kind, targets, memory=memory)
            self.world.enter(m, keep, kind, targets, True, overlays, memory)
        d.reverted(snap)
        self.world.reverted(m, snap, d.active())
        if keep and m.keep:
            self.sync(name, m)
            self.after_appearing(name, m)

    def ctl_hold(self, name, m, done, snap):
        if done:
            m.snaps[snap].held = True

    def ctl_release(self, name, m, done, snap):
        if done:
            m.snaps[snap].held = False

    def ctl_prune(self, name, m, done):
        self.pruned(name, m)

    def sync(self, name, m):
        """The books follow the model."""
        d = self.domains[name]
        self.world.hide(m)
        everything = {**d.snaps, **d.hidden}
        d.hidden = {n: everything[n] for n in m.hidden}
        for snap in m.hidden:
            d.snaps.pop(snap, None)
        d.snaps.update((n, everything[n]) for n in m.snaps if n not in d.snaps)
        for snap in [s for s in d.snaps if s not in m.snaps]:
            d.forget(snap)
        for snap, s in m.snaps.items():
            d.snaps[snap].held = s.held
            if d.snaps[snap].parent != s.parent or d.current != m.current:
                raise lab.Broken('books and model disagree about %s' % snap)

    # ---------------------------------------------------------------- looking

    def check_files(self):
        wrong = []
        have = {os.path.join(at, f) for at, _, names in os.walk(self.lab.images) for f in names}
        want = set(self.world.files)
        if have - want:
            wrong.append('files that nobody needs: ' + ' '.join(sorted(map(os.path.basename, have - want))))
        if want - have:
            wrong.append('files that are gone: ' + ' '.join(sorted(map(os.path.basename, want - have))))
        for path in have & want:
            below = self.world.files[path].below
            got = lab.backing(path)
            if got != (below.path if below else None):
                wrong.append('%s stands on %s instead of %s' % (os.path.basename(path), got, below.path if below else None))
        for name, d in self.domains.items():
            for t, path in d.active().items() if name == self.at else ():
                if self.world.doms[name].active[t].path != path:
                    wrong.append('disk %s of %s is %s instead of %s' % (t, name, path, self.world.doms[name].active[t].path))
        return wrong

    def sharers(self, name):
        """The domains that may feel what was done to this one."""
        if name not in self.world.doms:
            return set(self.domains)
        m = self.world.doms[name]
        near = {name}
        for t in m.active:
            for f in m.chain(t):
                near |= self.world.users(f)
        return near & set(self.domains)

    def look(self, name):
        self.since_all += 1
        near = self.sharers(name)
        if self.since_all >= LOOK_AT_ALL:
            near, self.since_all = set(self.domains), 0
        self.at = name
        wrong = self.check_files()
        for other in sorted(near):
            wrong += ['%s: %s' % (other, w) for w in self.domains[other].check()]
        if self.lab.mount.process.poll() is not None:
            wrong.append('virt-snapfs has ended')
        if wrong:
            raise Diverged('; '.join(wrong))

    # ---------------------------------------------------------------- walking

    def perform(self, step):
        """Does it and looks. False: it makes no sense now."""
        name, verb, *args = step
        m = self.world.doms.get(name)
        if m is None and verb not in ('clone', 'remount', 'wait'):
            return False
        self.ctl = None
        self.steps.append(' '.join(step))
        why = getattr(self, 'do_' + verb)(name, m, *args)
        if why:
            self.steps.pop()
            return False
        self.look(name)
        self.n += 1
        answer = (self.ctl.errno or 'done') if self.ctl else 'done'
        self.report.ok('%d: %s -> %s' % (self.n, ' '.join(step), answer))
        return True

    def some(self, m, *, odd=0.04):
        """A snapshot's name, most often of one that is there."""
        if not m.snaps or self.random.random() < odd:
            return 's%d' % self.random.randint(1, NAMES)
        return self.random.choice(sorted(m.snaps))

    def choose(self):
        rnd = self.random
        name = rnd.choice(sorted(self.domains))
        m = self.world.doms[name]
        many = len(m.snaps) > 7
        ways = dict(write=16, create=4 if many else 16, delete=16 if many else 8, commit=10 if many else 5, pull=5, revert=7,
                    hold=2, release=3, prune=1, retain=2, start=4, stop=4, foreign=1 if many else 3, virshdelete=3,
                    stray=1, unstray=2, clone=2, retire=1, remount=1, tried=5)
        way = rnd.choices(list(ways), list(ways.values()))[0]
        return getattr(self, 'some_' + way, lambda name, m: [name, way])(name, m)

    def some_write(self, name, m):
        target = self.random.choice(sorted(m.active))
        size = len(self.domains[name].model[target])
        length = self.random.choice((512, 4096, 65536, 131072, 200 * 1024))
        return [name, 'write', target, str(self.random.randrange(0, size - length + 1, 512)), str(length),
                str(self.random.randrange(1, 256))]

    def some_create(self, name, m):
        words = ['s%d' % self.random.randint(1, NAMES)]
        kind = self.random.choices(['', 'external', 'internal'], [10, 6, 3])[0]
        if kind:
            words.append(kind)
        if len(m.active) > 1 and self.random.random() < 0.3:
            words.append('disks=' + self.random.choice(sorted(m.active)))
        return [name, 'ctl', 'create', *words]

    def some_delete(self, name, m):
        return [name, 'ctl', 'delete', *(self.some(m) for _ in range(self.random.choices((1, 2, 3), (8, 2, 1))[0]))]

    def some_commit(self, name, m):
        first = self.some(m)
        line = [s for s in self.domains[name].descendants(first)] if first in m.snaps else []
        last = [self.random.choice(line)] if line and self.random.random() < 0.4 else \
            [self.some(m)] if self.random.random() < 0.1 else []
        return [name, 'ctl', 'commit', first, *last]

    def some_pull(self, name, m):
        return [name, 'ctl', 'pull', *([self.some(m)] if self.random.random() < 0.7 else [])]

    def some_revert(self, name, m):
        words = [self.some(m)]
        if self.random.random() < 0.6:
            words.append('force')
        if self.random.random() < 0.25:
            words.append('keep=s%d' % self.random.randint(1, NAMES))
        return [name, 'ctl', 'revert', *words]

    def some_hold(self, name, m):
        return [name, 'ctl', 'hold', self.some(m)]

    def some_release(self, name, m):
        held = sorted(s.name for s in m.snaps.values() if s.held)
        return [name, 'ctl', 'release', self.random.choice(held) if held else self.some(m)]

    def some_prune(self, name, m):
        return [name, 'ctl', 'prune']

    def some_retain(self, name, m):
        return [name, 'retain', self.random.choice(('off', 'off', '3', '4', '6', '2'))]

    def some_foreign(self, name, m):
        return [name, 'foreign', 'f%d' % (self.n + 1), self.random.choices(('external', 'internal'), (5, 1))[0]]

    def some_virshdelete(self, name, m):
        return [name, 'virshdelete', self.some(m)]

    def some_stray(self, name, m):
        return [name, 'stray', 'q%d' % (self.n + 1), self.random.choice(sorted(m.active))]

    def some_unstray(self, name, m):
        strays = sorted(s.name for s in m.snaps.values() if not s.recorded)
        return [name, 'unstray', strays[0] if strays else '-']

    def some_clone(self, name, m):
        clones = [n for n in self.domains if n not in DISKS]
        snap = self.some(m, odd=0)
        if len(clones) >= CLONES or snap not in m.snaps or m.snaps[snap].kind != 'external':
            return [name, 'unstray', '-']
        return ['clone%d' % (self.n + 1), 'clone', name, snap]

    def some_retire(self, name, m):
        clones = sorted(n for n in self.domains if n not in DISKS)
        return [self.random.choice(clones) if clones else '-', 'retire']

    def some_remount(self, name, m):
        return ['-', 'remount']

    def some_tried(self, name, m):
        name, _, *words = self.random.choice((self.some_create, self.some_delete, self.some_commit, self.some_pull,
                                              self.some_revert, self.some_hold))(name, m)
        # What the second name of a delete finds depends on the first one's going, and nothing goes.
        return [name, 'ctl', 'try', *(words[:2] if words[0] == 'delete' else words)]

    def failed(self, why, label):
        self.report.fail(label, why)
        self.report.note('the steps, to be repeated with `again`:')
        for step in self.steps:
            self.report.note('    ' + step)
        for name, d in self.domains.items():
            if self.steps and self.steps[-1].split()[0] == name:
                self.report.note(d.history())
                for file in ('chain', 'snapshots'):
                    try:
                        self.report.note(d.text(file))
                    except OSError as e:
                        self.report.note('%s: %s' % (file, e))


def elsewhere(report, the_lab):
    """A clone in another directory than its template: the mount may not serve the template through it, but has to spare it."""
    gold, wrong = Domain(the_lab, 'template', {'vda': 2}), []
    template = gold.active()['vda']
    gold.create('first', 'external')
    twin = Domain(the_lab, 'elsewhere', {'vda': 2}, base={'vda': template}, write=False,
                  content={'vda': gold.snaps['first'].disks['vda']})
    twin.appears()
    gold.write('vda')
    out = gold.ctl('commit first')
    if out.errno != 'EPERM' or "'elsewhere'" not in out.line:
        wrong.append('commit: %r' % out)
    out = gold.ctl('delete first')
    if out.errno:
        wrong.append('delete: %r' % out)
    gold.forget('first')
    for d in (gold, twin):
        wrong += d.check()
    report.judge('a template in another directory than its clone is not merged into', wrong)
    twin.remove()
    gold.remove()
    the_lab.mount.stop()
    the_lab.mount.options += ('-o', 'allow_path=' + the_lab.images)
    the_lab.mount.start()


def cases(report, the_lab, more):
    again = None
    elsewhere(report, the_lab)
    if more[0] == 'again':
        with open(more[1]) as f:
            again = [line.split() for line in f if line.strip() and line[0] != '#']
        label = 'the steps of %s' % os.path.basename(more[1])
        seed = 0
    else:
        seed = int(more[1])
        label = '%s steps with seed %d' % (more[0], seed)
        report.note(label)
    the_lab.random.seed(seed)
    walk = None
    try:
        walk = Walk.__new__(Walk)
        walk.__init__(report, the_lab, seed)
        if again is not None:
            for step in again[2:] if again[0][1:] == ['ctl', 'create', 'first', 'external'] else again:
                if not walk.perform(step):
                    report.note('makes no sense now: ' + ' '.join(step))
        else:
            for step in KNOWN.split('\n')[1:-1]:
                walk.perform(step.split())
            begin = walk.n
            while walk.n - begin < int(more[0]):
                walk.perform(walk.choose())
        walk.since_all = LOOK_AT_ALL
        walk.look('solo')
        report.ok(label)
    except Diverged as e:
        walk.failed(str(e), label)
    except Exception as e:
        walk.failed('the lab: %s: %s' % (type(e).__name__, e), label)
        if not isinstance(e, lab.Broken):
            raise


if __name__ == '__main__':
    lab.main(cases)
