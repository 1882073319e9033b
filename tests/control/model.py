# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""A model of what the contract says of commands: slow, obvious, and without a look at the program.

A World is image files standing on one another, and domains whose disks and snapshots point to them. A command is a method: it
changes the model and returns, or raises Refused with the errnos that may be the answer; a refused command has changed nothing.
Bytes are not in here (lab.py's books have them): they never depend on which file holds them, which is what is tested.

Where the contract leaves open whether a file stays, the model asks World.look(path) whether it does. Where it leaves open how
something is refused, the Refused has several errnos.
"""
import copy


class Refused(Exception):
    def __init__(self, *errnos):
        super().__init__(' or '.join(errnos))
        self.errnos = frozenset(errnos)


class File:
    def __init__(self, path, below, maker):
        self.path, self.below = path, below
        self.maker = maker   # 'snapshot', 'revert', or 'somebody': who made the file
        self.inside = set()  # names of internal snapshots, (domain, name)


class Snap:
    def __init__(self, name, kind, parent, order, ours, memory=False, recorded=True):
        self.name, self.kind, self.parent, self.order = name, kind, parent, order
        self.ours, self.memory, self.recorded, self.held = ours, memory, recorded, False
        self.pits = {}      # target -> File that it froze, or (internal) that it is in
        self.overlays = {}  # target -> File that it started


class Dom:
    def __init__(self, name, disks):
        self.name = name
        self.active = disks  # target -> File
        self.running = False
        self.snaps = {}
        self.hidden = {}     # entries that libvirt does not know, in images that it does not name: they are not shown
        self.current = None
        self.keep = None     # retain COUNT

    def chain(self, target):
        f, files = self.active[target], []
        while f:
            files.append(f)
            f = f.below
        return files


class World:
    def __init__(self, look):
        self.files, self.doms, self.look, self.count = {}, {}, look, 0

    def __deepcopy__(self, memo):
        new = World(self.look)
        memo[id(self)] = new
        new.files, new.doms = copy.deepcopy((self.files, self.doms), memo)
        new.count = self.count
        return new

    # ---------------------------------------------------------------- the picture

    def file(self, path, below=None, maker='somebody'):
        f = self.files[path] = File(path, below, maker)
        return f

    def domain(self, name, disks):
        d = self.doms[name] = Dom(name, disks)
        return d

    def above(self, file):
        return [f for f in self.files.values() if f.below is file]

    def frozen_by(self, file, besides=()):
        return [s for d in self.doms.values() for s in d.snaps.values()
                if s.kind == 'external' and s not in besides and file in s.pits.values()]

    def active_of(self, file):
        return [d for d in self.doms.values() if file in d.active.values()]

    def users(self, file):
        """The domains that need the file, in whatever way."""
        need = set()
        for d in self.doms.values():
            tops = list(d.active.values()) + [f for s in d.snaps.values() for f in s.pits.values()]
            for f in tops:
                while f and f is not file:
                    f = f.below
                if f:
                    need.add(d.name)
        return need

    def needed(self, file):
        return bool(self.above(file) or self.frozen_by(file) or self.active_of(file) or file.inside)

    def remove(self, file):
        del self.files[file.path]

    def sweep(self, file, may):
        """The file goes if nobody needs it; if @may, it may also have stayed."""
        if self.files.get(file.path) is not file or self.needed(file) or file.maker == 'somebody':
            return
        if not may or not self.look(file.path):
            self.remove(file)
            if file.below:
                self.sweep(file.below, True)

    # ---------------------------------------------------------------- create

    def enter(self, d, name, kind, targets, ours, tops=None, memory=False):
        """The snapshot was taken; @tops: target -> path of the new active file of an external one."""
        self.count += 1
        s = d.snaps[name] = Snap(name, kind, d.current, self.count, ours, memory)
        for t in targets:
            s.pits[t] = d.active[t]
            if kind == 'external':
                s.overlays[t] = d.active[t] = self.file(tops[t], d.active[t], 'snapshot')
            else:
                d.active[t].inside.add((d.name, name))
        d.current = name

    def kind_of(self, d, kind):
        if kind:
            return kind
        kinds = {s.kind for s in d.snaps.values() if s.recorded}
        return 'internal' if kinds == {'internal'} else 'external'

    def check_create(self, d, name, kind, targets):
        """@kind, @targets: None where not said."""
        why = set()
        kinds = {s.kind for s in d.snaps.values() if s.recorded}
        become = self.kind_of(d, kind)
        if name in d.snaps:
            why.add('EEXIST')
        if kinds - {become} or (become == 'internal' and not kind and d.running):
            why.add('EPERM')
        if targets and not set(targets) <= set(d.active):
            why.add('ENOENT')
        if targets and become == 'internal' and set(targets) != set(d.active):
            why.add('EOPNOTSUPP')
        if why:
            raise Refused(*why)
        return become

    # ---------------------------------------------------------------- merging

    def merge_disk(self, d, t, base, top, goes):
        """Why the layers above @base up to @top may not go into it, for the snapshots @goes; None."""
        f = top
        while f is not base:
            if f.inside:
                return 'inside'
            if f is not top and (self.frozen_by(f, goes) or len(self.above(f)) > 1):
                return 'needed'
            if self.users(f) != {d.name} or len(self.above(f)) > 1:
                return 'needed'
            f = f.below
        if self.frozen_by(base, goes) or len(self.above(base)) > 1 or self.users(base) != {d.name} or self.active_of(base):
            return 'needed'
        return None

    def merge(self, base, top):
        """The layers above @base up to @top are in it now."""
        gone, f = [], top
        while f is not base:
            gone.append(f)
            f = f.below
        for f in self.files.values():
            if f.below is top:
                f.below = base
        for d in self.doms.values():
            for t, f in d.active.items():
                if f is top:
                    d.active[t] = base
            for s in d.snaps.values():
                for t, f in s.pits.items():
                    if f is top:
                        s.pits[t] = base
        for f in gone:
            self.remove(f)

    def drop(self, d, name):
        gone = d.snaps.pop(name)
        for s in d.snaps.values():
            if s.parent == name:
                s.parent = gone.parent
        if d.current == name:
            d.current = gone.parent

    # ---------------------------------------------------------------- delete

    def fate(self, d, s, t):
        """What becomes of the image that @s froze: ('merge', overlay), ('unlink',), ('stay',), ('either', overlay)."""
        base = s.pits[t]
        above = self.above(base)
        if self.files.get(base.path) is not base:
            return ('stay',)
        if not above:
            mine = not self.active_of(base) and not self.frozen_by(base, (s,)) and not base.inside
            return ('unlink',) if mine else ('stay',)
        if len(above) > 1 or above[0] not in d.chain(t):
            return ('stay',)
        why = self.merge_disk(d, t, base, above[0], (s,))
        if why == 'inside':
            without = set(above[0].inside)
            above[0].inside = set()
            why = self.merge_disk(d, t, base, above[0], (s,))
            above[0].inside = without
            if not why:
                raise Refused('EPERM')
        return ('stay',) if why else ('merge', above[0])

    def check_delete(self, d, name):
        s = d.snaps.get(name)
        if not s:
            raise Refused('ENOENT')
        if s.held:
            raise Refused('EPERM')
        if not s.recorded:
            raise Refused('EOPNOTSUPP')
        if s.kind == 'internal' and any(f not in d.active.values() for f in s.pits.values()):
            raise Refused('EOPNOTSUPP')

    def delete_all(self, d, names):
        """Each once; what can be told of one by itself is told before any goes. One that is missing is told last."""
        names = list(dict.fromkeys(names))
        for name in sorted(names, key=lambda n: n not in d.snaps):
            self.check_delete(d, name)
        for name in names:
            self.delete(d, name)

    def delete(self, d, name):
        self.check_delete(d, name)
        s = d.snaps[name]
        if s.kind == 'internal':
            self.delete_internal(d, s)
            return
        fates = {t: self.fate(d, s, t) for t in s.pits}
        pits = dict(s.pits)
        self.drop(d, name)
        for t, fate in fates.items():
            if fate[0] == 'merge':
                self.merge(pits[t], fate[1])
            elif fate[0] == 'unlink':
                self.sweep(pits[t], pits[t].maker == 'revert' or not self.maker_is_known(pits[t], s))

    def maker_is_known(self, file, gone):
        """Is there a record that proves that a snapshot created the file?"""
        return any(file.path == f.path for d in self.doms.values() for s in list(d.snaps.values()) + [gone]
                   for f in s.overlays.values())

    def delete_internal(self, d, s):
        for f in s.pits.values():
            f.inside.discard((d.name, s.name))
        self.drop(d, s.name)

    # ---------------------------------------------------------------- commit

    def commit(self, d, first, last):
        if first not in d.snaps or (last or first) not in d.snaps:
            raise Refused('ENOENT')
        a, b = d.snaps[first], d.snaps[last or first]
        if 'internal' in (a.kind, b.kind):
            raise Refused('EOPNOTSUPP')
        line = [b]
        while line[-1] is not a:
            if line[-1].parent is None:
                raise Refused('EINVAL')
            line.append(d.snaps[line[-1].parent])
        if any(s.kind == 'internal' for s in line):
            raise Refused('EOPNOTSUPP')
        if any(s.held for s in line):
            raise Refused('EPERM')
        merges = []
        for t, base in a.pits.items():
            # By its name: a revert may have made a new one of that name.
            top = self.files.get(next(s.overlays[t] for s in line if t in s.overlays).path)
            chain = d.chain(t)
            if top not in chain or base not in chain or chain.index(top) >= chain.index(base):
                raise Refused('EOPNOTSUPP', 'EPERM')
            if self.merge_disk(d, t, base, top, line):
                raise Refused('EPERM')
            merges.append((base, top))
        for s in line:
            self.drop(d, s.name)
        for base, top in merges:
            self.merge(base, top)

    # ---------------------------------------------------------------- pull

    def pull(self, d, name):
        if name and name not in d.snaps:
            raise Refused('ENOENT')
        s = d.snaps[name] if name else None
        if s and s.kind == 'internal':
            raise Refused('EOPNOTSUPP')
        todo, why = [], set()
        for t, top in d.active.items():
            base = s.pits.get(t) if s else None
            if (s and not base) or top.below is base:
                continue
            if top.inside:
                why.add('EPERM')
            if base and base not in d.chain(t)[1:]:
                why.add('EOPNOTSUPP')
            todo.append((top, base))
        if why:
            raise Refused(*why)
        for top, base in todo:
            top.below = base

    # ---------------------------------------------------------------- revert

    def check_revert(self, d, name, force, keep):
        s = d.snaps.get(name)
        if not s:
            raise Refused('ENOENT')
        why = set()
        if not s.recorded:
            why.add('EOPNOTSUPP')
        if s.kind == 'internal' and any(f not in d.active.values() for f in s.pits.values()):
            why.add('EOPNOTSUPP')
        if s.kind == 'internal' and keep and self.kind_of(d, None) == 'external':
            why.add('EPERM')
        if d.running and not force:
            why.add('EBUSY')
        if why:
            raise Refused(*why)

    def reverted(self, d, name, tops):
        """@tops: target -> path of the file that is active now."""
        s = d.snaps[name]
        old = []
        if s.kind == 'external':
            for t, base in s.pits.items():
                old.append(d.active[t])
                d.active[t] = self.file(tops[t], base, 'revert')
        d.current = name
        d.running = s.memory
        for f in old:
            self.sweep(f, True)

    # ---------------------------------------------------------------- retention

    def dropped(self, d):
        """What `retain COUNT` drops, the oldest first."""
        if not d.keep:
            return []
        counted = sorted((s for s in d.snaps.values() if s.ours and not s.held), key=lambda s: s.order)
        return [s.name for s in counted[:-d.keep]]

    def prune(self, d):
        """What may not go stays, and the others go all the same. Gives how many went, and the first refusal."""
        went, first = 0, None
        for name in self.dropped(d):
            try:
                self.delete(d, name)
                went += 1
            except Refused as e:
                first = first or e
        return went, first

    # ---------------------------------------------------------------- entries that libvirt does not know

    def stray(self, d, name, target):
        self.count += 1
        s = d.snaps[name] = Snap(name, 'internal', None, self.count, False, recorded=False)
        s.pits[target] = d.active[target]
        d.active[target].inside.add((d.name, name))

    def hide(self, d):
        """What libvirt does not know is shown where it names the image: as a disk's, as frozen, as an overlay."""
        named = set(d.active.values())
        for s in d.snaps.values():
            if s.recorded and s.kind == 'external':
                named |= set(s.pits.values()) | {self.files.get(f.path) for f in s.overlays.values()}
        strays = {n: s for n, s in {**d.snaps, **d.hidden}.items() if not s.recorded}
        d.hidden = {n: s for n, s in strays.items() if not named & set(s.pits.values())}
        for n in d.hidden:
            d.snaps.pop(n, None)
        d.snaps.update((n, s) for n, s in strays.items() if n not in d.hidden)

    def unstray(self, d, name):
        s = d.snaps.pop(name)
        for f in s.pits.values():
            f.inside.discard((d.name, name))
