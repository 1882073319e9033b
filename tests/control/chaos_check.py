# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""After each step of chaos.py: is everything as the books have it?

Three witnesses are asked: libvirt's records read by QEMU, the mounted files, and the images' directory. A sentence is *hard* if
no waiting can mend it (a file of the mount gave other bytes; a file is gone that was not ours to remove; a refused command has
changed something), else *soft*: it counts when it is still true after PATIENCE seconds.
"""
import errno
import json
import os
import re
import time

from chaos_model import Intent, total
from lab import ERRNO, sha_file

PATIENCE = int(os.environ.get('CHAOS_PATIENCE', 25))

LATE = 20  # seconds after which libvirtd has done, or will not do, what somebody asked for who was killed


def but_notes(text):
    """A definition without what a mount notes in it by itself."""
    lines = [x for x in text.splitlines() if '<snapfs:f ' not in x and ('<snapfs:s ' not in x or ' b="' in x or re.search(r' is="[a-z]*h', x))]
    return '\n'.join(re.sub(r' (serial|p|v|w)="[^"]*"', '', x) if '<snapfs:' in x else x for x in lines)


class Judge:
    def __init__(self, world, books):
        self.world, self.books = world, books
        self.files, self.seen = world.scan(), {}
        self.read = {}
        self.known = set(self.files)

    def __call__(self, step):
        """@step: .allowed (inodes that may go), .frozen ((domain, files, seen) before, of a refused command) or None, .ours. Gives
        sentences."""
        end = time.monotonic() + PATIENCE
        while True:
            self.hard, self.soft = [], []
            self.world.reap()
            self.once(step)
            if self.hard or not self.soft or time.monotonic() > end:
                break
            time.sleep(0.3)
        wrong = self.hard + self.soft
        for w in self.world.ends:
            wrong.append('a mount ended badly: ' + w)
        self.world.ends = []
        return wrong

    def once(self, step):
        b, w = self.books, self.world
        doms = [d for d in b.doms.values()]
        self.files = w.scan()
        self.seen = w.look([d.name for d in doms])
        for d in doms:
            if d.stands_on_img and 'A' in w.lost and d.on is not False:
                d.known = False  # what its QEMU has open is gone
            s = self.seen.get(d.name)
            if s is None:
                self.soft.append("domain '%s' is not defined any more" % d.name)
                continue
            d.paths = [p for p, _, _ in list(s.disks.values()) + list(s.config_disks.values())]
        w.lost = set()
        self.vanished(step)
        self.unchanged(step)
        for d in doms:
            if d.name in self.seen:
                self.state(d, self.seen[d.name])
                self.records(d, self.seen[d.name])
                self.present(d, self.seen[d.name], step)
        self.strangers()
        for which, m in w.mounts.items():
            if m:
                for d in doms:
                    self.mounted(which, m, d)

    # ------------------------------------------------ files

    def vanished(self, step):
        for ino, path in list(step.before.items()):
            if ino not in self.files and ino not in step.allowed:
                self.hard.append("the file '%s' is gone, which nobody was entitled to remove" % path)
            elif ino not in self.files and step.ours:
                on = [f.path for f in self.files.values() if f.backing and self.world.plain(f.backing, self.world.nominal(f)) == path]
                if on and not step.begun:
                    self.hard.append("the file '%s' is gone, on which '%s' stands" % (path, on[0]))
        self.books.original &= set(self.files)
        new = set(self.files) - set(step.before) - self.known
        if step.begun:
            self.books.made_by_begun |= new
        self.known |= new

    def unchanged(self, step):
        if not step.frozen:
            return
        dom, files, seen = step.frozen
        busy = set()
        for d in self.books.doms.values():
            if d.on is not False:
                busy |= {self.world.ino_of(p) for p in d.paths}
        for ino, f in files.items():
            now = self.files.get(ino)
            if now is None:
                self.hard.append("refused, but '%s' is gone" % f.path)
            elif now.stamp != f.stamp and ino not in busy:
                self.hard.append("refused, but '%s' was written" % f.path)
        new = [f.path for i, f in self.files.items() if i not in files]
        if new:
            self.soft.append('refused, but made %s' % ' '.join(new))
        now = self.seen.get(dom)
        if now and seen:
            if but_notes(now.config) != but_notes(seen.config):
                self.soft.append("refused, but the definition of '%s' has changed:\n%s" % (dom, difference(seen.config, now.config)))
            for n in set(now.records) | set(seen.records):
                a, z = seen.records.get(n), now.records.get(n)
                if not a or not z or a.text != z.text:
                    self.soft.append("refused, but the record '%s' has %s" % (
                        n, 'come' if not a else 'gone' if not z else 'changed:\n' + difference(a.text, z.text)))

    def strangers(self):
        for ino, (path, want) in self.books.treasures.items():
            if ino in self.world.disturbed:
                continue
            f = self.files.get(ino)
            if not f:
                self.hard.append("a stranger's file '%s' is gone" % path)
            elif want and sha_file(f.path) != want:
                self.hard.append("a stranger's file '%s' has other bytes" % path)

    # ------------------------------------------------ libvirt and QEMU

    def state(self, d, s):
        if d.on is None:
            if not self.idle(d):
                return
            d.on, d.unsure = s.on, s.state == 'paused'  # retention that is tried again may have started it
        if d.unsure and d.on and not s.on:
            d.on, d.unsure = False, False
        if s.on and d.on is False and s.state == 'paused' and d.ours_since > self.world.mounted_at:
            return  # a guest of an interrupted command: a mount that comes later ends it
        if s.on != d.on:
            self.soft.append("domain '%s' is '%s' and should be %s" % (d.name, s.state, 'on' if d.on else 'off'))

    def idle(self, d):
        """Has a mount had its chance to end a paused guest of ours?"""
        return any(self.world.mounts.values()) or d.on is False

    def disturbed(self, ino):
        """Does the model know a reason why QEMU cannot read this?"""
        for i in self.world.chain(ino, self.files):
            if i is None or i in self.world.disturbed:
                return True
            if isinstance(i, tuple) and not self.world.mounts['A']:
                return True
            if isinstance(i, tuple):
                d = self.books.doms.get(i[1])
                name, t = i[2].rsplit('.', 2)[:2]
                s = d.snaps.get(name) if d else None
                if s is None or not s.promised or self.books.excuse(self.world, self.files, d, s, t, self.seen.get(d.name) and self.seen[d.name].jobs):
                    return True
        return False

    def records(self, d, seen):
        for name, r in seen.records.items():
            if name not in d.snaps:
                self.soft.append("libvirt has a record of '%s/%s', %s" % (
                    d.name, name, 'which was removed' if name in d.gone else 'which nobody has made'))
        for name, s in list(d.snaps.items()):
            r = seen.records.get(name)
            if not s.recorded:
                continue
            if r is None:
                if s.maybe and time.monotonic() < s.began + LATE:
                    continue
                if not s.promised:
                    if s.fair:  # retention's doing, maybe, which may have unlinked its images after they were listed here
                        d.by_others.add(name)
                        self.books.leaving |= self.books.may_unlink(d, Intent('prune'), seen, self.world, self.files, begun=False)
                    d.gone_with[name] = d.line
                    d.drop(name)
                else:
                    self.soft.append("libvirt's record of '%s/%s' is gone" % (d.name, name))
                continue
            s.time, s.parent = r.time, r.parent
            if s.doomed or s.fair:
                s.places |= set(s.place.values())  # a record may lie for a while
                s.place.update({t: self.world.ino_of(p) for t, p in r.frozen.items() if self.world.ino_of(p)})
                continue
            good = True
            for t, content in s.disks.items():
                path = r.frozen.get(t)
                if content is None and path and self.world.ino_of(path):
                    s.place[t] = self.world.ino_of(path)
                if t in s.hurt or t in s.lied or content is None:
                    s.places |= {self.world.ino_of(path)} - {None} if path else set()
                    continue
                if path is None:
                    good = False
                    self.soft.append("libvirt's record of '%s/%s' has no disk %s" % (d.name, name, t))
                    continue
                ino = self.world.ino_of(path)
                if ino is not None:
                    s.place.setdefault(t, ino)
                if ino is None and t in s.place and self.disturbed(s.place[t]) or ino is not None and self.disturbed(ino):
                    good = False
                    continue
                got = self.world.qemu_sum(path, r.format[t], self.files, name if s.kind == 'internal' else None)
                if got != total(content):
                    good = False
                    self.soft.append("by libvirt's record, '%s/%s' of %s is in '%s', which QEMU reads otherwise (%s)%s" % (
                        d.name, name, t, path, got if ' ' in got else 'other bytes', '; jobs' if seen.jobs else ''))
                else:
                    s.place[t] = ino
            if s.maybe and good and None not in s.disks.values():
                s.maybe = False

    def present(self, d, seen, step):
        if not d.known:
            return
        got = {}
        disks = seen.disks if seen.on else seen.config_disks
        for t in d.targets():
            if t in d.detached:
                continue
            if t not in disks:
                if d.on is None:
                    continue
                self.soft.append("domain '%s' has no disk %s" % (d.name, t))
                continue
            path, fmt, _ = disks[t]
            ino = self.world.ino_of(path)
            if ino is not None and self.disturbed(ino):
                continue
            got[t] = self.world.qemu_sum(path, fmt, self.files)
            if seen.jobs and 'lock' in got[t]:  # QEMU lets nobody read beside a block job, which may wait for its pivot
                del got[t]
                continue
            if seen.on and t in seen.config_disks and self.world.ino_of(seen.config_disks[t][0]) != ino and not d.split:
                if step.ours:
                    self.soft.append("domain '%s' runs on '%s' and is defined on '%s'" % (d.name, path, seen.config_disks[t][0]))
                else:
                    d.split = True
        fits = [p for p in d.present if all(total(p[t]) == got[t] for t in got)]
        if fits:
            if len(got) == len(d.targets()) - len(d.detached):
                d.present = fits[:1]
        else:
            self.soft.append("the guest's disks of '%s' are not what they were: %s" % (d.name, ', '.join(
                '%s (%s) %s' % (t, disks[t][0], 'as was' if any(total(p[t]) == got[t] for p in d.present) else
                                got[t] if ' ' in got[t] else 'has other bytes') for t in got)))

    # ------------------------------------------------ the mounted files

    def is_named(self, d, s):
        """What libvirt does not know is shown where it names the image: as a disk's, as frozen, as an overlay."""
        seen = self.seen.get(d.name)
        if not seen:
            return False
        paths = [x[0] for x in [*seen.disks.values(), *seen.config_disks.values()]]
        for r in seen.records.values():
            paths += [r.frozen[t] for t in r.frozen if r.modes[t] == 'external'] + [*r.overlay.values()]
        return bool({self.world.ino_of(x) for x in paths if x} & set(s.place.values()))

    def mounted(self, which, m, d):
        try:
            with open(os.path.join(m.where, d.name, 'snapshots.json')) as f:
                said = json.load(f)
        except (OSError, ValueError) as e:
            self.soft.append("mount %s does not show domain '%s': %s" % (which, d.name, e))
            return
        jobs = self.seen[d.name].jobs if d.name in self.seen else {}
        got = {j['name']: j for j in said['snapshots']}
        for name, s in d.snaps.items():
            j = got.get(name)
            if j is None:
                if s.promised and (s.recorded or self.is_named(d, s) and not any(self.books.excuse(self.world, self.files, d, s, t, jobs, m.narrow) for t in s.disks)):
                    self.soft.append("mount %s does not list '%s/%s'" % (which, d.name, name))
                continue
            for t, content in s.disks.items():
                self.image(which, m, d, s, t, content, j, jobs)
        for name, j in got.items():
            if name not in d.snaps and not (name in d.gone and not j.get('recorded')):
                self.soft.append("mount %s lists '%s/%s' (%s), %s" % (
                    which, d.name, name, j['state'], 'which was removed' if name in d.gone else 'which nobody has made'))

    def image(self, which, m, d, s, t, content, j, jobs):
        excuse = self.books.excuse(self.world, self.files, d, s, t, jobs, m.narrow)
        disk = next((x for x in j['disks'] if x['target'] == t), None)
        name = disk and disk.get('file')
        state = (disk or {}).get('state') or j['state']
        where = "mount %s: '%s/%s' of %s" % (which, d.name, s.name, t)
        if not name:
            if not excuse:
                self.soft.append("%s is refused, '%s': %s" % (where, state, (disk or {}).get('reason') or j.get('reason')))
            elif s.recorded and not ((disk or {}).get('reason') or j.get('reason')):
                self.soft.append("%s is refused, '%s', without a reason" % (where, state))
            return
        path = os.path.join(m.where, d.name, name)
        stamp = (id(m), json.dumps(disk), tuple(self.world.stamps(s.place[t], self.files)) if t in s.place else None)
        if stamp[2] and self.read.get(path) == stamp:
            return
        try:
            size, got = os.stat(path).st_size, sha_file(path)
        except OSError as e:
            if not excuse and not (e.errno == errno.EBUSY and t in s.place and is_written(self.world.chain(s.place[t], self.files))):
                self.soft.append("%s gives %s (state '%s', reason %s)" % (where, ERRNO.get(e.errno, e.errno), state, j.get('reason')))
            return
        if content is None:
            return
        if size == len(content) and got == total(content):
            self.read[path] = stamp
            return
        sentence = '%s has other bytes (state %s)' % (where, state)
        if t in s.hurt:
            if sentence not in self.books.notes:
                self.books.notes.append(sentence + ', virsh has destroyed it')
        else:
            self.hard.append(sentence + (', ' + excuse if excuse else ''))


def is_written(inos):
    """Has a QEMU one of these files open for writing? After a commit that was aborted its base stays so, and a libvirtd that was killed may leave one
    that nobody knows."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            if not os.readlink('/proc/%s/exe' % pid).rsplit('/', 1)[1].startswith('qemu-system'):
                continue
            for fd in os.listdir('/proc/%s/fd' % pid):
                if os.stat('/proc/%s/fd/%s' % (pid, fd)).st_ino in inos:
                    with open('/proc/%s/fdinfo/%s' % (pid, fd)) as f:
                        if int(re.search(r'^flags:\s*([0-7]+)', f.read(), re.M).group(1), 8) & os.O_ACCMODE != os.O_RDONLY:
                            return True
        except OSError:
            pass
    return False


def difference(a, b):
    import difflib
    return '\n'.join(x for x in difflib.unified_diff(a.splitlines(), b.splitlines(), lineterm='', n=0))[:1500]
