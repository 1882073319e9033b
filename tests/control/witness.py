# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""What the suites unknown, files, records, begun, races, bounds and agent share: a guest for each case, and witnesses of what became of it.

A case is a function that makes one or more guests (guests.py keeps their books), does something to them, and says of the
outcome what it must be. The words of a case:

    lab.guest(...)              a guest, seen by the mount
    lab.does(g, 'delete a')     it succeeds
    lab.refused(g, 'delete a', 'EPERM', 'regex'...)
                                it fails so, `try` says the same, the log has the sentence, and nothing whatever has changed
    lab.intact(g)               every snapshot of the books reads as ever, through the mount and by libvirt's own record with
                                QEMU; so do the guest's disks; the images are sound, and no file vanished since it was last asked
    lab.starts(g)               libvirt starts it on these disks
    lab.chain_says(g, 'regex')  so does the picture

Each case can run in four cells: shut off or running, with one disk or two. A short run takes one or two of them, by turns;
ROWS=full takes all. ROWS_ONLY='row 5*' runs only the cases whose names match.
"""
import errno
import fnmatch
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback

sys.dont_write_bytecode = True
from guests import MIB, PATIENCE, WORK, Guest, Mount, Wrong, bytes_of, sh, until, virsh  # noqa: E402
from lab import write_file  # noqa: E402

ONE, TWO = ("vda",), ("vda", "vdb")
LOOK = 0.5  # seconds within which a mount has seen what others did; with the option that main() gives, on a machine that is not busy
CASES = []
ALL = [(False, ONE), (True, TWO), (False, TWO), (True, ONE)]
SHUT_OFF = [(False, ONE), (False, TWO)]
RUNNING = [(True, TWO), (True, ONE)]


def case(name, cells=ALL, few=2):
    """@cells: those in which it makes sense. @few: how many of them a short run takes: two that differ in both, or one, of
    which those of a family of cases take turns, or none."""
    def enter(function):
        n = len(CASES)
        if os.environ.get("ROWS") == "full" or len(cells) <= few:
            chosen = cells
        elif few == 0:
            chosen = []
        elif few == 1:
            chosen = [cells[n % len(cells)]]
        else:
            chosen = cells[:2] if n % 2 else cells[2:]
        CASES.append((name, function, chosen))
        return function
    return enter


# ---------------------------------------------------------------- guests

class Domain(Guest):
    """@devices: more of the definition. @disk: target -> attributes of its <disk>, XML within it."""

    def __init__(self, name, targets, running, size=2 * MIB, devices="", within=None, os_xml=""):
        self.devices, self.within, self.os_xml = devices, within or {}, os_xml
        super().__init__(name, targets, running, size)
        self.dirs = [self.dir]
        self.seen = {}

    def xml(self):
        text = super().xml()
        for t, inner in self.within.items():
            text = text.replace("<target dev='%s' bus='virtio'/>" % t, "<target dev='%s' bus='virtio'/>%s" % (t, inner))
        if self.os_xml:
            text = text.replace("</type></os>", "</type>%s</os><features><acpi/></features>" % self.os_xml)
        return text.replace("</devices>", self.devices + "</devices>")

    def file(self, target, snapshot=None):
        """The image that this snapshot started, or the first one."""
        return "%s/%s.%s" % (self.dir, target, snapshot or "qcow2")

    def define(self, xml=None):
        path = os.path.join(WORK, ".define.xml")
        with open(path, "w") as f:
            f.write(xml or self.xml())
        virsh(["define", path])
        os.unlink(path)

    def redefine(self, record, *more):
        path = os.path.join(WORK, ".record.xml")
        with open(path, "w") as f:
            f.write(record)
        virsh(["snapshot-create", self.name, path, "--redefine", *more])
        os.unlink(path)

    def record(self, name):
        return virsh(["snapshot-dumpxml", self.name, name])

    def names(self):
        return virsh(["snapshot-list", self.name, "--name", "--topological"]).split()

    def history(self, names="abc", piece=MIB // 2):
        """Snapshots one after the other, each with data of its own before and after it."""
        for i, name in enumerate(names):
            self.snap(name)
            self.fill(16 * (i + 1), (i + 1) * MIB // 4, piece)
        self.flush()
        return self

    def fill(self, byte, off, length):
        for k, t in enumerate(self.targets):
            self.write(t, byte + k, off, length)

    def remember(self):
        self.seen = {p: os.lstat(p).st_ino for p in self.files()}

    def files(self):
        return [os.path.join(d, f) for d in self.dirs for f in sorted(os.listdir(d))
                if not os.path.isdir(os.path.join(d, f))]

    def vanished(self):
        return [p for p, ino in self.seen.items() if not os.path.lexists(p) or os.lstat(p).st_ino != ino]

    def start(self):
        virsh(["start", self.name, "--paused"])
        self.running = True

    def stop(self):
        virsh(["destroy", self.name])
        self.running = False

    def become(self, path):
        """The domain is defined on another image."""
        self.active["vda"] = path
        self.present["vda"] = bytearray(bytes_of(path))
        self.define()

    def reverted(self, name):
        self.present = {t: bytearray(self.wanted[name][t]) for t in self.targets}
        self.current = name

    def end(self):
        """Whatever state it is in."""
        virsh(["destroy", self.name], ["managedsave-remove", self.name], check=False)
        names = [n for n in virsh(["snapshot-list", self.name, "--name", "--topological"], check=False).split()]
        virsh(*[["snapshot-delete", self.name, n, "--metadata"] for n in reversed(names)], ["undefine", self.name, "--keep-nvram"], check=False)
        for d in self.dirs:
            shutil.rmtree(d, ignore_errors=True)


# ---------------------------------------------------------------- all that could change

def stamp(path):
    with open(path, "rb") as f:
        return os.fstat(f.fileno()).st_ino, hashlib.sha256(f.read()).hexdigest()


def picture(*guests):
    """Files by inode and content, libvirt's definitions and records, the running instances."""
    seen = {}
    for g in guests:
        for p in g.files():
            seen[p] = ("-> " + os.readlink(p),) if os.path.islink(p) else stamp(p)
    for p in glob.glob("/etc/libvirt/qemu/*.xml") + glob.glob("/var/lib/libvirt/qemu/snapshot/*/*.xml"):
        with open(p) as f:
            seen[p] = f.read()
    for name in virsh(["list", "--all", "--name"]).split():
        seen["state of " + name] = virsh(["domstate", name])
        seen["XML of " + name] = virsh(["dumpxml", name])
    return seen


def differences(before, after):
    out = []
    for key in sorted(set(before) | set(after)):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, str) and isinstance(new, str):
            a, b = old.splitlines(), new.splitlines()
            out.append("%s: %s" % (key, " | ".join([" - " + x.strip() for x in a if x not in b] + [" + " + x.strip() for x in b if x not in a])))
        else:
            out.append("%s: %s" % (key, "gone" if new is None else "new" if old is None else "changed"))
    return out


# ---------------------------------------------------------------- the lab

class Running:
    """A command at work."""

    def __init__(self, lab, g, command, door):
        self.result = []
        self.thread = threading.Thread(target=lambda: self.result.append(lab.write(g, command, door)))
        self.thread.start()

    def over(self, patience=2 * PATIENCE):
        self.thread.join(patience)
        if self.thread.is_alive():
            raise Wrong("the command does not return within %d s" % patience)
        return self.result[0]


class Lab:
    def __init__(self, mount):
        self.mount = mount
        self.serial = 0
        self.guests = []

    # ---- making

    def guest(self, running=False, targets=ONE, history="abc", build=None, **more):
        self.serial += 1
        g = Domain("r%d" % self.serial, targets, running, **more)
        self.guests.append(g)
        if build:
            build(g)
        elif history:
            g.history(history)
        g.flush()
        self.listed(g)
        g.remember()
        return g

    def guest_unseen(self, targets=ONE):
        """Without history, while nothing is mounted."""
        self.serial += 1
        g = Domain("r%d" % self.serial, targets, False)
        self.guests.append(g)
        return g

    def listed(self, g):
        """Seen by the mount."""
        self.listed_all(g, g.wanted)

    def listed_all(self, g, names):
        def ask():
            if not os.path.isdir(self.path(g)):
                return "has no directory"
            states = {n: s["state"] for n, s in self.snapshots(g).items()}
            return None if set(states) >= set(names) else "the snapshots are %s" % states
        until("a new guest", ask)

    def end(self):
        for g in reversed(self.guests):
            g.end()
        self.guests = []

    # ---- asking

    def path(self, g, *more):
        return os.path.join(self.mount.point, g.name, *more)

    def text(self, g, name):
        with open(self.path(g, name)) as f:
            return f.read()

    def snapshots(self, g):
        return {s["name"]: s for s in json.loads(self.text(g, "snapshots.json"))["snapshots"]}

    def state(self, g, name):
        s = self.snapshots(g).get(name)
        return s["state"] if s else None

    def said(self, g):
        return self.text(g, "ctl").splitlines()[0]

    def chain_says(self, g, *patterns):
        def ask():
            text = self.text(g, "chain")
            missing = [p for p in patterns if not re.search(p, text)]
            return "it does not match /%s/: %s" % (missing[0], text) if missing else None
        until("chain", ask, 10)

    # ---- doing

    def write(self, g, command, door="ctl", patience=2 * PATIENCE):
        """The name of an errno, or "0"."""
        return write_file(self.path(g, door), command + "\n", patience) or "0"

    def does(self, g, command, door="ctl"):
        got = self.write(g, command, door)
        if got != "0":
            raise Wrong("'%s' gave %s: %s" % (command, got, self.said(g)))
        return self.said(g)

    def fails(self, g, command, want, *patterns, door="ctl"):
        """@want: names of errnos, with | between them."""
        got = self.write(g, command, door)
        said = self.said(g)
        if got not in want.split("|"):
            raise Wrong("'%s' gave %s instead of %s: %s" % (command, got, want, said))
        for p in patterns:
            if not re.search(p, said):
                raise Wrong("'%s' says '%s', which does not match /%s/" % (command, said, p))
        if said[:200] not in "\n".join(self.text(g, "log").splitlines()[-6:]):
            raise Wrong("the log has no '%s'" % said)
        return said

    def refused(self, g, command, want, *patterns, also=(), door="ctl", attempt=True):
        """@also: other guests of which nothing may change. @attempt: `try` says it, too."""
        before = picture(g, *also)
        if attempt:
            got = self.write(g, "try " + command)
            if got not in want.split("|"):
                raise Wrong("'try %s' gave %s instead of %s: %s" % (command, got, want, self.said(g)))
        said = self.fails(g, command, want, *patterns, door=door)
        changed = differences(before, picture(g, *also))
        if changed:
            raise Wrong("'%s' was refused (%s) and has changed %s" % (command, said, "; ".join(changed)[:800]))
        return said

    def begin(self, g, command, door="ctl", until_it_writes=True):
        """Starts it, waits until its block job writes."""
        job = Running(self, g, command, door)

        def writes():
            if not job.thread.is_alive():
                raise Wrong("'%s' was over (%s) before anything could be done: %s" % (command, job.result, self.said(g)))
            found = re.search(r"\[ *([0-9.]+) %\]|: *\[ *([0-9.]+) *%", g.jobs())
            share = float(found.group(1) or found.group(2)) if found else 0
            return None if 0 < share < 100 else "no job is under way: %s" % g.jobs()
        if until_it_writes:
            until(command, writes)
        return job

    # ---- judging

    def unharmed(self, g, name):
        """None, or why it cannot be read now. Other bytes raise."""
        s = self.snapshots(g).get(name)
        if not s:
            return "'%s' is not listed" % name
        if s["state"] not in ("ok", "detached"):
            return "'%s' is %s: %s" % (name, s["state"], s["reason"])
        return self.reads(g, name)

    def reads(self, g, name):
        for t in g.targets:
            try:
                with open(self.path(g, "%s.%s.img" % (name, t)), "rb") as f:
                    data = f.read()
            except OSError as e:
                return "'%s.%s.img' gives %s" % (name, t, errno.errorcode.get(e.errno, e.errno))
            if data != g.wanted[name][t]:
                raise Wrong("'%s.%s.img' HAS OTHER BYTES than at the snapshot" % (name, t))
        return None

    def honest(self, g, name):
        """For one that a command was entitled to remove: it is gone, or reads right, or is not readable and says why."""
        s = self.snapshots(g).get(name)
        if not s:
            return None
        wrong = self.reads(g, name)
        if wrong and s["state"] in ("ok", "detached"):
            return wrong
        if wrong and not s["reason"]:
            return "'%s' is %s without a reason" % (name, s["state"])
        return None

    def intact(self, g, doomed="", may_go=(), leaks=False, records=True, present=True):
        """@doomed: those that a command was entitled to remove. @may_go: files likewise. Then it remembers the files anew."""
        for name in g.wanted:
            ask = self.honest if name in doomed else self.unharmed
            until("through the mount", lambda: ask(g, name), 20)
        names = g.names()
        at_work = g.running and g.jobs()  # then QEMU lets nobody read
        for name in g.wanted:
            if name in doomed or not records or at_work:
                continue
            if name not in names:
                raise Wrong("libvirt has no record of '%s'" % name)
            for t, path in g.frozen(g.record(name)).items():
                if not os.path.exists(path):
                    raise Wrong("by libvirt's record, '%s' of disk %s is in '%s', which is gone" % (name, t, path))
                if t in g.wanted[name] and bytes_of(path) != g.wanted[name][t]:
                    raise Wrong("by libvirt's record, '%s' of disk %s is in '%s', which HAS OTHER BYTES" % (name, t, path))
        if present and not at_work:
            g.check_present()
            self.sound(g, leaks)
        gone = [os.path.basename(p) for p in g.vanished() if p not in may_go]
        if gone:
            raise Wrong("files have vanished: %s" % " ".join(gone))
        g.remember()

    @staticmethod
    def sound(g, leaks):
        for path in g.files():
            if not re.search(r"\.(json|xml|txt)$", path) and os.path.getsize(path):
                with open(path, "rb") as f:
                    if f.read(4) != b"QFI\xfb":
                        continue
                p = sh("qemu-img", "check", "-U", "-f", "qcow2", path, check=False)
                if p.returncode not in ((0, 3) if leaks or g.running else (0,)):
                    raise Wrong("qemu-img check %s: %s" % (os.path.basename(path), (p.stdout + p.stderr)[:300].replace("\n", " ")))

    @staticmethod
    def starts(g):
        """The guest is shut off afterwards if it was so before."""
        if g.state() == "shut off":
            virsh(["start", g.name, "--paused"])
            g.check_present()
            virsh(["destroy", g.name])
        else:
            virsh(["destroy", g.name], ["start", g.name, "--paused"])
            g.running = True
            g.check_present()


# ---------------------------------------------------------------- all cases

def show(lab):
    for g in lab.guests:
        for name in "log", "chain", "snapshots":
            try:
                for line in lab.text(g, name).splitlines()[-25:]:
                    print("#   %s/%s: %s" % (g.name, name, line), flush=True)
            except OSError as e:
                print("#   %s/%s: %s" % (g.name, name, e), flush=True)
        for d in g.dirs:
            if os.path.isdir(d):
                print("#   %s: %s" % (d, " ".join(sorted(os.listdir(d)))), flush=True)


def revive_libvirtd():
    """One that has died by itself takes only the case with it in which that was."""
    with open("/run/libvirtd.pid") as f:
        pid = int(f.read())
    if not os.path.exists("/proc/%d" % pid):
        print("# libvirtd has died, and is started again", flush=True)
        os.unlink("/run/libvirtd.pid")
        subprocess.run(["libvirtd", "-d", "-p", "/run/libvirtd.pid"], stdin=subprocess.DEVNULL, check=True)


def run(lab, name, function, *cell):
    begun = time.monotonic()
    try:
        function(lab, *cell)
        print("ok %s (%.0f s)" % (name, time.monotonic() - begun), flush=True)
    except (Wrong, OSError) as e:
        print("FAIL %s: %s" % (name, " ".join(str(e).split())[:1500]), flush=True)
        show(lab)
    except Exception:
        print("FAIL %s: %s" % (name, traceback.format_exc().replace("\n", " | ")), flush=True)
        show(lab)
    revive_libvirtd()
    if lab.mount.process is None or lab.mount.process.poll() is not None:
        sh("umount", "-l", lab.mount.point, check=False)
        lab.mount.up()
    try:
        lab.end()
    except Wrong as e:
        print("# %s" % e, flush=True)


def some_of(cases):
    """CI has forty minutes for everything: every other case, on another day the others."""
    return cases[int(time.time() // 86400) % 2::2]


def main(options="refresh=0.3", by_day=False):
    """MOUNTPOINT. @by_day: in CI not all of it each day."""
    lab = Lab(Mount(sys.argv[1], options=options))
    lab.mount.up()
    pattern = os.environ.get("ROWS_ONLY", "*")
    by_day = by_day and os.environ.get("CI") and "ROWS_ONLY" not in os.environ
    for name, function, cells in some_of(CASES) if by_day else CASES:
        if fnmatch.fnmatch(name, pattern):
            for running, targets in cells:
                run(lab, "%s (%s, %s)" % (name, "running" if running else "shut off", " ".join(targets)), function, running, targets)
    lab.mount.down()
