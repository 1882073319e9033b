# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""The books of chaos.py: what every snapshot and every guest's disk must read as, and who may take what away.

All of it follows from what was written and from what each command asked for; libvirt's records and the images' headers are
looked at for where things are, virt-snapfs is never asked. A snapshot is *promised* until somebody was entitled to remove it:

	doomed   a command of ours that removes it was begun and has not ended well
	fair     a retention policy that was applied drops it
	maybe    a create of it was interrupted: it need not be there
	hurt     (per disk) virsh has written over what it stands on, or removed that
	lied     (per disk) virsh has made libvirt's record name another file

Promised ones read as ever or are refused for a reason that excuse() finds. The others are refused for any reason, or read as
ever: never otherwise.
"""
import fnmatch
import functools
import os
import re
import shlex
import time

from lab import sha

STRICT = {'EPERM', 'ENOENT', 'EEXIST', 'EINVAL', 'EOPNOTSUPP', 'EBUSY'}  # "refused": nothing has changed


@functools.lru_cache(maxsize=512)
def total(content):
    return sha(content)


class Snap:
    def __init__(self, name, kind, disks, parent, ours, memory):
        self.name, self.kind, self.disks, self.parent = name, kind, disks, parent  # disks: target -> bytes
        self.ours, self.memory, self.held = ours, memory, False  # held None: a hold or release was interrupted
        self.place = {}  # target -> inode
        self.time = None
        self.began = time.monotonic()
        self.doomed = self.maybe = self.fair = False
        self.recorded = True
        self.without = set()  # disks that the domain had not then
        self.hurt, self.lied = set(), set()
        self.shaken = set()  # disks beneath which virsh has merged a layer: right, but not to be told from a write where nobody saw the job
        self.after_pull = set()  # disks of an internal one that others took in a layer which a pull had made stand alone: see README's limits
        self.places = set()  # inodes it was ever in, by its record, since it may go

    @property
    def promised(self):
        return not (self.doomed or self.maybe or self.fair)

    def whole(self):
        return self.promised and not self.hurt and not self.lied


class Policy:
    def __init__(self, text):
        self.text, self.count, self.match, self.young = text, None, None, False
        for word in text.split():
            if word.isdigit():
                self.count = int(word)
            elif word.startswith('match='):
                self.match = word[6:]
            elif word.startswith('min='):
                self.young = True  # nothing here is as old as any minimum that the walk writes

    def drops(self, dom, coming):
        """Which snapshots it may drop, with @coming ones that are still to be taken."""
        if self.count is None or self.young:
            return []
        counted = [s for s in dom.snaps.values() if s.held is not True and s.recorded and
                   (s.ours or self.match and fnmatch.fnmatchcase(s.name, self.match))]
        out = []
        for s in counted:
            newer = [o for o in counted if o is not s and (o.time or 1 << 62) >= (s.time or 1 << 62) and not dom.above(o.name, s.name)]
            if len(newer) + coming >= self.count:
                out.append(s)
        return out


class Dom:
    def __init__(self, name, kind, present):
        self.name, self.kind = name, kind
        self.present = [present]  # candidates, each target -> bytes; one of them is true
        self.snaps = {}
        self.gone = set()  # names
        self.by_others = set()  # names that virsh took away
        self.line, self.gone_with = None, {}  # the last one that was given; name -> the one that it went with, as it seems
        self.on, self.saved = False, False  # on None: either
        self.unsure = False  # it is on, and that may be a paused guest of ours
        self.ours_since = 0  # when a command that starts it paused was interrupted
        self.policies = [Policy('off')]
        self.detached = {}  # target -> (inode, path)
        self.clone_of = None  # (domain, snapshot)
        self.stands_on_img = None  # (domain, snapshot, target)
        self.split = False  # libvirt's two definitions name different files
        self.known = True  # False: somebody has destroyed what its disk stands on

    def above(self, upper, name):
        """Is @upper an ancestor of @name?"""
        seen = set()
        while name in self.snaps and name not in seen:
            seen.add(name)
            name = self.snaps[name].parent
            if name == upper:
                return True
        return False

    def targets(self):
        return sorted(self.present[0])

    def drop(self, name):
        s = self.snaps.pop(name, None)
        self.gone.add(name)
        for o in self.snaps.values():
            if s and o.parent == name:
                o.parent = s.parent

    def write(self, target, off, length, byte):
        for p in self.present:
            b = bytearray(p[target])
            b[off:off + length] = bytes([byte]) * length
            p[target] = bytes(b)

    def apply_policy(self, coming=0):
        for p in self.policies:
            for s in p.drops(self, coming):
                s.fair = True


class Intent:
    """What a line asks for."""

    def __init__(self, line, door='ctl'):
        self.line, self.door = line, door
        self.goes, self.new, self.back, self.hold = [], None, None, None
        self.retention = False
        self.changes = True  # files may go at all
        self.verb, self.words = (line.split() + [''])[0], shlex.split(line)


class Books:
    def __init__(self):
        self.doms = {}
        self.begun = []  # (domain, line, door)
        self.owed = {}  # (domain, line) -> inodes that the begun command may still remove
        self.treasures = {}  # inode -> (path, sum): files of strangers
        self.original = set()  # inodes that no snapshot has created
        self.made_by_begun = set()  # inodes that appeared in an interrupted command
        self.leaving = set()  # inodes of what retention was found to have dropped
        self.pulled = set()  # inodes of layers that a pull may have made stand alone
        self.notes = []

    def snaps(self):
        for d in self.doms.values():
            for s in d.snaps.values():
                yield d, s

    # ------------------------------------------------ what a line of ours may do

    def intend(self, dom, line, door, seen):
        i = Intent(line, door)
        w = i.words
        records = seen.records if seen else {}
        if door == 'retain':
            i.retention = True
            return i
        if not w or door != 'ctl' or w[0] in ('try', 'cancel', 'hold', 'release', 'pull'):
            i.changes = False
            if w and w[0] in ('hold', 'release'):
                i.hold = w[1]
            return i
        if w[0] == 'create':
            i.new = w[1]
            i.retention = True
        elif w[0] == 'prune':
            i.retention = True
        elif w[0] == 'delete':
            i.goes = list(w[1:])
        elif w[0] == 'commit':
            first, last = w[1], w[-1]
            n, way = last, []
            while n in records and n not in way:
                way.append(n)
                if n == first:
                    i.goes = way
                    break
                n = records[n].parent
        elif w[0] == 'revert':
            i.back = w[1]
            i.new = next((x[5:] for x in w[2:] if x.startswith('keep=')), None)
            i.retention = i.new is not None
        i.goes = [n for n in i.goes if n in dom.snaps and dom.snaps[n].held is not True]
        return i

    def may_unlink(self, dom, intent, seen, world, files, begun=True):
        """Inodes that may be gone afterwards: those of snapshots that go and what stands directly on them, in a revert what is
        discarded, and (@begun) what an interrupted command has made. Never what no snapshot has created."""
        if not intent.changes:
            return set()
        names = set(intent.goes) | {s.name for s in dom.snaps.values() if s.doomed or s.fair}
        out = set()
        for n in names & set(dom.snaps):
            for ino in set(dom.snaps[n].place.values()) | dom.snaps[n].places:
                # And what was kept only for its sake: nothing else may stand on that, see Judge.vanished().
                out |= {i for i in world.chain(ino, files) if isinstance(i, int)}
                for f in files.values():
                    if f.backing and ino in world.chain(f.ino, files)[1:2]:
                        out.add(f.ino)
        if intent.back:
            for path, _, _ in list(seen.disks.values()) + list(seen.config_disks.values()) if seen else ():
                out.add(world.ino_of(path))
        if begun:
            out |= self.made_by_begun
        out |= self.owed.get((dom.name, intent.line), set())
        if intent.back:  # what an interrupted one was to discard
            out |= set().union(*[inos for (name, line), inos in self.owed.items() if name == dom.name and line.startswith('revert ')])
        self.owed[dom.name, intent.line] = out
        others = {world.ino_of(p) for d in self.doms.values() if d is not dom for p in d.paths}
        return out - self.original - others - set(self.treasures)

    def content(self, dom, target):
        """What the guest has there; None: not known for certain."""
        c = {p[target] for p in dom.present}
        return c.pop() if len(c) == 1 and dom.known else None

    def take(self, dom, name, ours, targets=None, memory=False, kind=None, maybe=False, seen=None):
        disks = {t: self.content(dom, t) for t in (targets or dom.targets()) if t not in dom.detached}
        s = Snap(name, kind or dom.kind, disks, seen.current if seen else None, ours, memory)
        s.maybe = maybe or None in disks.values()
        s.without = set(dom.detached)
        dom.snaps[name] = s
        dom.gone.discard(name)
        return s

    def by_virsh(self, s, seen, world):
        """An internal snapshot that others have just taken of what @seen has."""
        disks = seen.disks if seen.on else seen.config_disks
        s.after_pull = {t for t in s.disks if t in disks and world.ino_of(disks[t][0]) in self.pulled}

    @staticmethod
    def targets_of(dom, intent):
        """Disks of the snapshot that a line takes; None: all. What a revert does not touch it need not keep."""
        back = dom.snaps.get(intent.back)
        if back and back.kind == 'external':
            return [t for t in dom.targets() if t in back.disks or t in back.without]
        return next((x[6:].split(',') for x in intent.words if x.startswith('disks=')), None)

    @staticmethod
    def kind_of(dom, intent):
        """Of the snapshot that a line takes; None: the domain's. What a revert keeps is of the kind that it reverts to: kinds do not mix."""
        back = dom.snaps.get(intent.back)
        return next((x for x in intent.words[2:] if x in ('internal', 'external')), back.kind if back else None)

    def settle(self, dom, intent, err, seen, world, interrupted=False, words=''):
        """A line of ours has ended: enters it. Gives 'ok', 'refused' or 'begun'. @words: the sentence, which may say that it was begun."""
        w, verb = intent.words, intent.verb
        if verb == 'pull' and seen:
            self.pulled |= {world.ino_of(path) for path, _, _ in seen.disks.values()}
        if err and re.search(r'may have been written to, so repeat|are gone, not the others|was taken, but then|was stopped, but then', words):
            interrupted = True
            if 'was stopped, but then' in words:
                dom.on = None
        if err is None and not interrupted:
            self.begun = [b for b in self.begun if b[:2] != (dom.name, intent.line)]
            self.owed.pop((dom.name, intent.line), None)
            self._ok(dom, intent, seen, world)
            return 'ok'
        entry = (dom.name, intent.line, intent.door)
        if err in STRICT and not interrupted:
            if entry not in self.begun:
                self.owed.pop(entry[:2], None)
            if intent.door == 'retain' and err != 'EINVAL':  # stored, and then something could not be dropped
                dom.policies = dom.policies + [Policy(intent.line)]
                dom.apply_policy()
            return 'refused'
        if intent.door == 'retain':
            dom.policies = dom.policies + [Policy(intent.line)]
            dom.apply_policy()
            return 'begun'
        if verb in ('try', 'cancel'):
            return 'begun'
        if verb in ('create', 'delete', 'commit', 'pull', 'revert') and entry not in self.begun:
            self.begun.append(entry)
        for n in set(intent.goes) & set(dom.snaps):
            dom.snaps[n].doomed = True
        if intent.new and intent.new not in dom.snaps and verb in ('create', 'revert'):
            targets = self.targets_of(dom, intent)
            kind = self.kind_of(dom, intent)
            taken = self.take(dom, intent.new, True, targets, maybe=True, kind=kind, seen=seen,
                              memory=kind == 'internal' and bool(dom.on))
            if err in STRICT:
                taken.began = 0  # nothing will come of it any more
        if intent.retention:
            dom.apply_policy(coming=1 if intent.new else 0)
        if intent.hold and intent.hold in dom.snaps:
            dom.snaps[intent.hold].held = None
        if intent.back in dom.snaps:
            s = dom.snaps[intent.back]
            if None in s.disks.values():
                dom.known = False
            else:
                dom.present = dom.present + [{**p, **s.disks} for p in dom.present]
            dom.on = None
        return 'begun'

    def _ok(self, dom, intent, seen, world):
        w, verb = intent.words, intent.verb
        if intent.door == 'retain':
            dom.policies = [Policy(intent.line)]
            if intent.line == 'off':
                for s in dom.snaps.values():
                    s.fair = False
            dom.apply_policy()
            return
        if verb == 'try':
            return
        old = [dict(p) for p in dom.present]
        if intent.new:
            targets = self.targets_of(dom, intent)
            kind = self.kind_of(dom, intent)
            was = dom.snaps.get(intent.new)
            if was is None or was.maybe:
                there = seen and intent.new in seen.records
                if was is None or verb == 'create' or not there:  # else an interrupted run has taken it
                    self.take(dom, intent.new, True, targets, memory=(kind or dom.kind) == 'internal' and bool(dom.on), kind=kind, seen=seen)
                else:
                    was.maybe = False
        for n in intent.goes:
            dom.drop(n)
            dom.by_others.add(n)  # than by another line that was begun and names it, too
        if intent.hold in dom.snaps:
            s = dom.snaps[intent.hold]
            s.held = verb == 'hold'
            if s.held:
                s.fair = False
        if intent.back in dom.snaps:
            s = dom.snaps[intent.back]
            if None in s.disks.values():
                dom.known = False
            dom.present = [{**p, **{t: b for t, b in s.disks.items() if b is not None}} for p in old[:1]]
            dom.on = s.memory
            for t in s.disks:
                dom.detached.pop(t, None)
            for t in s.without & set(dom.targets()) - set(dom.detached):
                # The definition had no such disk: its file is a stranger's now.
                dom.detached[t] = (world.ino_of(seen.config_disks[t][0]), world.real(seen.config_disks[t][0]))
                self.treasures[dom.detached[t][0]] = (dom.detached[t][1], None)
        if intent.retention:
            dom.apply_policy()

    # ------------------------------------------------ what virsh does to others

    def harm(self, dom, world, files, base, top, deletes, live):
        """Data goes from @top down into @base (inodes). Gives (hurt, lied, domains): the first two of (snapshot, disk). @live: the
        inodes of the running disk's chain, which QEMU itself puts right."""
        down = world.chain(top, files)
        changed = set(down[1:down.index(base) + 1]) if base in down else {base}
        removed = ({top} | changed) - {base} if deletes else set()
        hurt, lied, doms = [], [], []
        for _, s in self.snaps():
            for t, place in s.place.items():
                c = world.chain(place, files)
                under = c[1:] if s.kind == 'internal' else c
                if top in c:
                    if s.kind == 'internal' and place == top and (deletes or changed & set(under)):
                        hurt.append((s, t))
                    elif deletes and place == top:
                        lied.append((s, t))
                    elif deletes and place not in live:
                        hurt.append((s, t))
                elif changed & set(under) or place in removed:
                    hurt.append((s, t))
        for d in self.doms.values():
            for path in d.paths:
                c = world.chain(world.ino_of(path), files)
                if d is not dom and (changed & set(c) and top not in c or removed & set(c)):
                    doms.append(d)
        return hurt, lied, doms

    # ------------------------------------------------ why a snapshot may be refused

    def excuse(self, world, files, dom, s, t, jobs, narrow=False):
        if not s.promised:
            return 'it may go'
        if t in s.hurt:
            return 'virsh wrote over it'
        if t in s.lied:
            return 'libvirt has changed its record'
        if t in s.shaken:
            return 'virsh wrote into what it stands on'
        if t in s.after_pull:
            return 'nobody can tell that it was taken after the pull'
        if jobs:
            return 'a job runs'
        if s.kind == 'internal' and not s.recorded and not any(s.place.get(t) in world.chain(world.ino_of(p), files) for p in dom.paths):
            return 'libvirt has no record of it, and the disk is in another file now'
        if t not in s.place:
            return 'what it stood on was unreadable' if any(world.ino_of(p) in world.disturbed for p in dom.paths) else None
        if s.place[t] in world.rewritten:
            return 'somebody has written to it: only its header, which nobody can tell'
        for ino in world.chain(s.place[t], files):
            if ino is None:
                return 'something beneath is missing'
            if isinstance(ino, tuple):
                return 'it stands on an image of the mount'
            if narrow and ino in files and os.path.dirname(world.nominal(files[ino])) != os.path.join(world.images, dom.name):
                return 'outside the directories that the mount may read'
            if ino in world.disturbed:
                return '%s is %s' % (world.disturbed[ino]['path'], world.disturbed[ino]['how'])
            if ino in world.odd:
                return 'its backing file is called %s' % world.odd[ino]
        return None
