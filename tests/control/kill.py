# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""QEMU, libvirtd or virt-snapfs killed in the middle of a block job, and a foreign revert behind virt-snapfs's back.

kill.py MOUNTPOINT [PATTERN]. The checks are those of crash.py. Jobs are slowed down, and whoever is killed is killed when
libvirt says that the job has begun to write.
"""
import errno
import fnmatch
import json
import os
import re
import signal
import sys
import threading
import time
import traceback

from crash import Scenario, check_after_death, check_complete, report, snapshots_of, unharmed
from guests import MIB, PATIENCE, VIRSH, Guest, Mount, Wrong, bytes_of, name_of, sh, until, virsh

SIZE = 24 * MIB
ADRIFT = (errno.EHOSTDOWN, errno.EIO, errno.ETIMEDOUT)


def large(g):
    """a, b and c; every layer holds enough for a job to last."""
    for i, name in enumerate("abc"):
        g.snap(name)
        for k, t in enumerate(g.targets):
            g.write(t, 16 * (i + 1) + k, (2 * i + 1) * MIB, 12 * MIB)
    g.flush()


def scenario(command, running, doomed, targets=("vda",)):
    return Scenario(command, large, command, targets, running, doomed=doomed, complete=())


JOBS = [("delete b", "b"), ("delete a", "a"), ("delete c", "c"), ("commit a c", "abc"), ("pull", "")]


class Lab:
    def __init__(self, mount):
        self.mount = mount
        self.serial = 0

    def guest(self, sc):
        self.serial += 1
        g = Guest("k%d" % self.serial, sc.targets, sc.running, SIZE)
        sc.build(g)
        path = "%s/%s" % (self.mount.point, g.name)
        until("a new guest", lambda: None if os.path.isdir(path) and set(snapshots_of(self.mount, g)) >= set(g.wanted) else "is not listed")
        return g

    def begin(self, g, sc):
        """Starts the command, waits until its job writes. Returns (thread, result)."""
        result = []
        thread = threading.Thread(target=lambda: result.append(self.mount.write(g.name, sc.command)))
        thread.start()

        def writes():
            if not thread.is_alive():
                raise Wrong("the command was over before anything could be killed: %s" % self.mount.outcome(g.name))
            found = re.search(r"\[ *([0-9.]+) %\]|: *\[ *([0-9.]+) *%", g.jobs())
            share = float(found.group(1) or found.group(2)) if found else 0
            return None if 0 < share < 100 else "no job is under way: %s" % g.jobs()
        until(sc.command, writes)
        return thread, result

    @staticmethod
    def over(thread, result, want):
        thread.join(2 * PATIENCE)
        if thread.is_alive():
            raise Wrong("the command does not return")
        if result[0] not in want:
            raise Wrong("the command gave %s instead of one of %s" % (name_of(result[0]), [name_of(w) for w in want]))

    def finish(self, g, sc, leaks):
        end = time.monotonic() + PATIENCE
        while True:
            number = self.mount.write(g.name, sc.command)
            if number != errno.EBUSY or time.monotonic() > end:  # what goes on by itself is waited for
                break
            time.sleep(0.2)
        if number:
            raise Wrong("repeated: %s" % self.mount.outcome(g.name))
        check_complete(self.mount, g, sc, leaks)
        g.check_usable()


def qemu_pid(g):
    with open("/run/libvirt/qemu/%s.pid" % g.name) as f:
        return int(f.read())


def kill_qemu(lab, g, sc):
    """A guest that ran is shut off afterwards; it had flushed what it wrote."""
    job = lab.begin(g, sc)
    os.kill(qemu_pid(g), signal.SIGKILL)
    lab.over(*job, want=(errno.EIO,))
    g.running = sc.running = False
    check_after_death(lab.mount, g, sc, leaks=True)
    lab.finish(g, sc, leaks=True)


def kill_mount(lab, g, sc):
    """The job of a running guest goes on without us."""
    thread, _ = lab.begin(g, sc)
    lab.mount.kill()
    thread.join(PATIENCE)
    lab.mount.up()
    check_after_death(lab.mount, g, sc)
    lab.finish(g, sc, leaks=False)


def cut_short(lab, g, sc):
    """Mount and QEMU end in the middle of the command."""
    frozen = {f: os.stat(at(g, f)).st_mtime_ns for f in os.listdir(g.dir) if at(g, f) not in g.active_now().values()}
    thread, _ = lab.begin(g, sc)
    until("a write", lambda: None if sc.command.startswith("pull") or any(os.stat(at(g, f)).st_mtime_ns != ns for f, ns in frozen.items()) else "has not come")
    pid = qemu_pid(g)
    lab.mount.process.kill()
    os.kill(pid, signal.SIGKILL)
    lab.mount.after_death()
    thread.join(PATIENCE)
    until("QEMU's end", lambda: None if g.state() == "shut off" else "has not come")


def power_cut(lab, g, sc):
    cut_short(lab, g, sc)
    g.running = sc.running = False
    lab.mount.up()
    if sc.command.startswith("delete"):
        number = lab.mount.write(g.name, sc.command + " typo")
        if number != errno.ENOENT:
            raise Wrong("a name that there never was: %s, %s" % (name_of(number), lab.mount.outcome(g.name)))
    check_after_death(lab.mount, g, sc, leaks=True)
    lab.finish(g, sc, leaks=True)


def libvirtd_dies():
    with open("/run/libvirtd.pid") as f:
        pid = int(f.read())
    os.kill(pid, signal.SIGKILL)
    until("libvirtd", lambda: None if not os.path.exists("/proc/%d" % pid) else "is still there")
    os.unlink("/run/libvirtd.pid")
    VIRSH.end()


def libvirtd_comes():
    sh("libvirtd", "-d", "-p", "/run/libvirtd.pid")

    def answers():
        p = sh("virsh", "-q", "-c", os.environ["URI"], "list", check=False)
        return None if p.returncode == 0 else p.stderr
    until("libvirtd", answers)


def kill_libvirtd(lab, g, sc):
    """The mount survives, and so does QEMU with its job."""
    job = lab.begin(g, sc)
    libvirtd_dies()
    lab.over(*job, want=ADRIFT)
    libvirtd_comes()
    check_after_death(lab.mount, g, sc)
    lab.finish(g, sc, leaks=False)


WAYS = [("QEMU is killed", kill_qemu, True), ("virt-snapfs is killed", kill_mount, False),
        ("both are killed", power_cut, True), ("libvirtd is killed", kill_libvirtd, False)]


# ---------------------------------------------------------------- what has been pulled is on the disk

def pulled(lab, by_virsh):
    """QEMU's stream job leaves the tables of what it has copied in QEMU's cache, and an idle guest never flushes."""
    sc = scenario("pull", True, "")
    g = lab.guest(sc)
    try:
        if by_virsh:
            virsh(["blockpull", g.name, "vda", "--wait"])
            lines = ["delete a b c"]
        else:
            lines = ["pull", "delete a b c"]
        for line in lines:
            if lab.mount.write(g.name, line):
                raise Wrong("%s: %s" % (line, lab.mount.outcome(g.name)))
        os.kill(qemu_pid(g), signal.SIGKILL)
        g.running = False
        for name in "abc":
            g.forget(name)
        until("QEMU's end", lambda: None if g.state() == "shut off" else "has not come")
        g.check_present(g.present)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


# ---------------------------------------------------------------- a header that is ahead of the data

def at(g, name):
    return os.path.join(g.dir, name)


def stands_on(path):
    return json.loads(sh("qemu-img", "info", "-U", "--output=json", path).stdout).get("full-backing-filename")


def alone(g, path):
    """The header of the file says that it stands on nothing."""
    sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", path)


def pinned(lab):
    """libvirt may have noted the end of a pull in the definition, whose <backingStore> is what QEMU is started on."""
    sc = scenario("pull", False, "")
    g = lab.guest(sc)

    def below():
        p = sh("virsh", "-c", os.environ["URI"], "dumpxml", "--inactive", g.name).stdout
        return "is pinned still" if "<backingStore" in p else None
    try:
        cut_short(lab, g, sc)
        alone(g, at(g, "vda.c"))
        path = os.path.join(g.dir, ".xml")
        text = sh("virsh", "-c", os.environ["URI"], "dumpxml", "--inactive", "--security-info", g.name).stdout
        text = re.sub(r"<backingStore.*</backingStore>|<backingStore/>", "", text, flags=re.S)
        with open(path, "w") as f:
            f.write(text.replace("<target dev='vda'", "<backingStore/><target dev='vda'"))
        virsh(["define", path])
        os.unlink(path)
        if not below():
            raise Wrong("nothing is pinned")
        lab.mount.up()
        until("the header", lambda: None if stands_on(at(g, "vda.c")) == at(g, "vda.b") else "it stands on %s" % stands_on(at(g, "vda.c")))
        until("the definition", below)
        check_after_death(lab.mount, g, sc, leaks=True)
        lab.finish(g, sc, leaks=True)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def killed_at_its_end(lab, running, ms):
    """QEMU is killed so many milliseconds after it has taken the backing file out of the header: it may have said already that it is done."""
    sc = scenario("pull", running, "")
    g = lab.guest(sc)
    try:
        thread, result = lab.begin(g, sc)
        pid = qemu_pid(g)
        fd = os.open(at(g, "vda.c"), os.O_RDONLY)
        while os.pread(fd, 8, 8) != bytes(8):
            if not thread.is_alive():
                raise Wrong("the command was over before: %s" % lab.mount.outcome(g.name))
        os.close(fd)
        time.sleep(ms / 1000)
        os.kill(pid, signal.SIGKILL)
        thread.join(2 * PATIENCE)
        g.running = sc.running = False
        until("QEMU's end", lambda: None if g.state() == "shut off" else "has not come")
        if result[0] == 0:
            g.check_present()
        check_after_death(lab.mount, g, sc, leaks=True)
        lab.finish(g, sc, leaks=True)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def ours_goes_on(lab):
    """The mount dies, another one comes while QEMU's pull goes on and ends by itself, and QEMU is killed before its guest flushes."""
    sc = scenario("pull", True, "")
    g = lab.guest(sc)
    try:
        thread, _ = lab.begin(g, sc)
        lab.mount.kill()
        thread.join(PATIENCE)
        lab.mount.up()
        until("the job's end", lambda: None if not re.search(r"Pull", g.jobs()) else "has not come")
        pid = qemu_pid(g)
        os.kill(pid, signal.SIGKILL)
        g.running = sc.running = False
        until("QEMU's end", lambda: None if g.state() == "shut off" else "has not come")
        lab.mount.write(g.name, "delete a")
        lab.mount.write(g.name, "pull")
        for name in "bc":
            until("at last", lambda: unharmed(lab.mount, g, name))
        g.check_present()
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def half_pulled(lab, frozen):
    """Somebody starts the domain on what an interrupted pull has left: what it stood on is needed still, though nothing says so."""
    sc = scenario("pull", False, "")
    g = lab.guest(sc)
    try:
        cut_short(lab, g, sc)
        alone(g, at(g, "vda.c"))
        virsh(["start", g.name, "--paused"])
        lab.mount.up()
        until("the guest", lambda: unharmed(lab.mount, g, "a"))
        if not lab.mount.write(g.name, "create later"):
            raise Wrong("'create' froze it: %s" % lab.mount.outcome(g.name))
        if frozen:
            virsh(["snapshot-create-as", g.name, "later", "--disk-only"])
            until("the snapshot", lambda: None if "later" in snapshots_of(lab.mount, g) else "is not listed")
        files = {at(g, name) for name in ("vda.qcow2", "vda.a", "vda.b", "vda.c")}
        for command in ["try pull", "pull"] * (not frozen) + ["try delete c", "delete c", "commit a c"]:
            if not lab.mount.write(g.name, command):
                raise Wrong("'%s' gave %s" % (command, lab.mount.outcome(g.name)))
            for name in "abc":
                until("after '%s'" % command, lambda: unharmed(lab.mount, g, name))
            if not all(map(os.path.exists, files)):
                raise Wrong("'%s' removed what was needed" % command)
        if frozen:
            virsh(["destroy", g.name])
            number = lab.mount.write(g.name, "delete later")
            if number:
                raise Wrong(lab.mount.outcome(g.name))
        else:
            virsh(["destroy", g.name])
        lab.finish(g, sc, leaks=True)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def move_away(g):
    """To another directory, as copies, and all that libvirt says of it: what nobody but we know has the old numbers."""
    old, new = g.dir, g.dir + ".new"
    os.mkdir(new)
    for f in sorted(os.listdir(old)):
        sh("cp", at(g, f), new)
        below = stands_on(os.path.join(new, f))
        if below:
            put_name(os.path.join(new, f), below.replace(old, new))
    os.rename(old, old + ".old")
    records = [virsh(["snapshot-dumpxml", g.name, n, "--security-info"]) for n in virsh(["snapshot-list", g.name, "--name", "--topological"]).split()]
    texts = [sh("virsh", "-c", os.environ["URI"], "dumpxml", "--inactive", "--security-info", g.name).stdout] + records
    for i, text in enumerate(texts):
        path = os.path.join(new, ".xml")
        with open(path, "w") as f:
            f.write(text.replace(old + "/", new + "/"))
        virsh(["snapshot-create", g.name, path, "--redefine"] if i else ["define", path])
        os.unlink(path)
    sh("rm", "-r", old + ".old")
    g.dir = new
    g.active = {t: p.replace(old, new) for t, p in g.active.items()}


def pulled_and_moved(lab):
    """What an interrupted pull has to do with is copied to somewhere else: what it stood on is needed still."""
    sc = scenario("pull", False, "")
    g = lab.guest(sc)
    try:
        cut_short(lab, g, sc)
        alone(g, at(g, "vda.c"))
        move_away(g)
        lab.mount.up()
        until("the guest", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not listed")
        files = sorted(os.listdir(g.dir))
        for command in "try delete c", "delete c", "delete a", "commit a c", "pull", "create later":
            number = lab.mount.write(g.name, command)
            if (number == 0) != (command in ("delete a", "pull")):  # a record goes; and that nobody can tell is told
                raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
            if sorted(os.listdir(g.dir)) != files:
                raise Wrong("after '%s' (%s): %s" % (command, name_of(number), sorted(os.listdir(g.dir))))
        put_name(at(g, "vda.c"), at(g, "vda.b"))
        g.check_present()
        g.forget("a")
        for name in "bc":
            until("with the header put right", lambda: unharmed(lab.mount, g, name))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def header_ahead(lab, command, doomed, above, was, becomes, complete=False):
    """QEMU writes the header of what stood on the top before it writes out the tables of what it has moved. Killed there it leaves a
    chain that looks finished. @complete: the data is all there."""
    sc = scenario(command, False, doomed)
    g = lab.guest(sc)
    try:
        cut_short(lab, g, sc)
        if complete:
            sh("qemu-img", "commit", "-q", "-d", "-b", at(g, becomes), at(g, was))
        sh("qemu-img", "rebase", "-u", "-f", "qcow2", *(["-F", "qcow2", "-b", at(g, becomes)] if becomes else ["-b", ""]), at(g, above))
        lab.mount.up()
        until("the header", lambda: None if stands_on(at(g, above)) == at(g, becomes if complete else was) else "it stands on %s" % stands_on(at(g, above)))
        check_after_death(lab.mount, g, sc, leaks=True)
        lab.finish(g, sc, leaks=True)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def pulled_by_others(lab, top_goes):
    """The header says the same when the disk was pulled off the half-merged layers, and then what was to go may be needed."""
    sc = scenario("delete b", False, "b")
    g = lab.guest(sc)
    try:
        cut_short(lab, g, sc)
        virsh(["start", g.name, "--paused"], ["blockpull", g.name, "vda", "--base", at(g, "vda.a"), "--wait"])
        g.running = True
        if top_goes:
            os.rename(at(g, "vda.b"), at(g, "away"))
        lab.mount.up()
        others = "a" if top_goes else "ac"
        way_out = False
        for command in "try delete b", "delete b", "pull", "delete b":
            number = lab.mount.write(g.name, command)
            for name in others:
                until("after '%s' (%s)" % (command, name_of(number)), lambda: unharmed(lab.mount, g, name))
            g.check_present()
            way_out |= command == "delete b" and not number
        if not way_out:
            raise Wrong("there is no way out: %s" % lab.mount.outcome(g.name))
        if top_goes:
            os.rename(at(g, "away"), at(g, "vda.b"))
            until("with the layer back", lambda: unharmed(lab.mount, g, "c"))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def void_and_ahead(lab):
    """The domain is started on such a header, and `pull`, the way out, makes the command void: then somebody else reads through it still."""
    sc = scenario("delete a", True, "a")
    g = lab.guest(sc)

    def honest(name):
        return unharmed(lab.mount, g, name) is None or snapshots_of(lab.mount, g)[name]["state"] not in ("ok", "detached")
    try:
        cut_short(lab, g, sc)
        sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", at(g, "vda.qcow2"), at(g, "vda.b"))
        virsh(["start", g.name, "--paused"])
        lab.mount.up()
        for command, ok in (("delete a", False), ("pull", True), ("delete a", False), ("delete b", False), ("commit b", False)):
            number = lab.mount.write(g.name, command)
            if (number == 0) != ok:
                raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
            for name in "bc":
                until("after '%s'" % command, lambda: None if honest(name) else "%s reads other bytes" % name)
            if not os.path.exists(at(g, "vda.a")):
                raise Wrong("'%s' removed the only copy" % command)
        virsh(["destroy", g.name])
        g.running = False
        number = lab.mount.write(g.name, "delete a")
        if number:
            raise Wrong("shut off: %s" % lab.mount.outcome(g.name))
        g.forget("a")
        for name in "bc":
            until("at last", lambda: unharmed(lab.mount, g, name))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def committed_into(lab):
    """After such a death virsh commits the active layer into what stood on the top: then a snapshot that froze that is spoilt."""
    sc = scenario("delete a", False, "a")
    g = lab.guest(sc)
    try:
        cut_short(lab, g, sc)
        sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", at(g, "vda.qcow2"), at(g, "vda.b"))
        virsh(["start", g.name, "--paused"], ["blockcommit", g.name, "vda", "--active", "--shallow", "--wait", "--pivot"], ["destroy", g.name])
        lab.mount.up()
        until("the header", lambda: None if stands_on(at(g, "vda.b")) == at(g, "vda.a") else "it stands on %s" % stands_on(at(g, "vda.b")))
        time.sleep(1)
        state = snapshots_of(lab.mount, g)["c"]["state"]
        if state != "stale":
            raise Wrong("c is %s" % state)
        until("b", lambda: unharmed(lab.mount, g, "b"))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def base_is_old(lab):
    """Where there is little to move, or nothing, the base has its old time at such a death: the header's new one is QEMU's all the same."""
    sc = scenario("delete a", False, "a")
    g = lab.guest(sc)
    old = os.stat(at(g, "vda.qcow2")).st_mtime_ns
    try:
        cut_short(lab, g, sc)
        sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", at(g, "vda.qcow2"), at(g, "vda.b"))
        os.utime(at(g, "vda.qcow2"), ns=(old, old))
        os.utime(at(g, "vda.b"), (time.time() + 20, time.time() + 20))  # as if that had been long ago
        lab.mount.up()
        until("the header", lambda: None if stands_on(at(g, "vda.b")) == at(g, "vda.a") else "it stands on %s" % stands_on(at(g, "vda.b")))
        for name in "bc":
            until(name, lambda: unharmed(lab.mount, g, name))
        if lab.mount.write(g.name, "delete a"):
            raise Wrong("again: %s" % lab.mount.outcome(g.name))
        g.forget("a")
        for name in "bc":
            until("at last", lambda: unharmed(lab.mount, g, name))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def states(lab, g):
    return {n: v["state"] for n, v in snapshots_of(lab.mount, g).items()}


def layered(names, pause=0):
    def build(g):
        for i, name in enumerate(names):
            time.sleep(pause)
            g.snap(name)
            for k, t in enumerate(g.targets):
                g.write(t, 16 * (i + 1) + k, (2 * i + 1) * MIB, 12 * MIB)
            g.flush()
    return build


def higher_up(lab):
    """Somebody has written into such an image after the death: what stands on it, further up as well, is not what it was any more."""
    sc = Scenario("delete a", layered("abcd"), "delete a", ("vda",), False, doomed="a", complete=())
    g = lab.guest(sc)
    try:
        cut_short(lab, g, sc)
        sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", at(g, "vda.qcow2"), at(g, "vda.b"))
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 77 3M 64k", at(g, "vda.b"))
        os.utime(at(g, "vda.b"), (time.time() + 60, time.time() + 60))
        lab.mount.up()
        until("the header", lambda: None if stands_on(at(g, "vda.b")) == at(g, "vda.a") else "it stands on %s" % stands_on(at(g, "vda.b")))
        for command in None, "delete a":
            if command and lab.mount.write(g.name, command):
                raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
            time.sleep(1)
            is_so = states(lab, g)
            if (is_so["c"], is_so["d"]) != ("stale", "stale"):
                raise Wrong("after %s: %s" % (command, is_so))
            until("b", lambda: unharmed(lab.mount, g, "b"))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def write_in_place(path):
    """Into a cluster that it has; no lock of QEMU's hinders that."""
    with open(path, "r+b") as f:
        f.seek(0x50000 + 4096)
        f.write(b"x" * 512)


def written_beneath(lab, running, noted):
    """Somebody writes into a frozen image, while mounted, and it is remounted."""
    sc = Scenario("delete a", layered("abcd"), "delete a", ("vda",), running, doomed="", complete=())
    g = lab.guest(sc)
    try:
        for command in ("hold c", "release c") if noted else ():
            lab.mount.write(g.name, command)
        time.sleep(4)
        write_in_place(at(g, "vda.b"))
        for what in "while mounted", "after another mount":
            until(what, lambda: None if set(states(lab, g)[n] for n in "cd") == {"stale"} else str(states(lab, g)))
            lab.mount.down()
            lab.mount.up()
            until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def renamed(lab, written):
    """While nothing is mounted somebody writes another name into a frozen image's header, and then data, or not."""
    sc = Scenario("delete a", layered("abcd"), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    try:
        for command in "hold c", "release c":
            lab.mount.write(g.name, command)
        time.sleep(4)
        lab.mount.down()
        sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "vda.a", at(g, "vda.b"))
        if written:
            write_in_place(at(g, "vda.b"))
        for what in "the mount", "another mount":
            lab.mount.up()
            until(what, lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            for n in "abcd":
                if written and n in "cd":
                    until(what, lambda: None if states(lab, g)[n] == "stale" else str(states(lab, g)))
                else:
                    until(what, lambda: unharmed(lab.mount, g, n))
            lab.mount.down()
        lab.mount.up()
        until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
        if not written:  # and that it was is noted anew
            for command in "hold c", "release c", "delete a":
                if lab.mount.write(g.name, command):
                    raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
            for n in "bcd":
                until(n, lambda: unharmed(lab.mount, g, n))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def put_name(path, below, fmt="qcow2"):
    sh("qemu-img", "rebase", "-u", "-f", "qcow2", *(["-F", fmt] if below else []), "-b", below, path)


def copy_over(path, change=None):
    sh("cp", "-a", path, path + ".copy")
    if change:
        change(path + ".copy")
    os.rename(path + ".copy", path)


def archived(g):
    """All is packed, removed and unpacked, with times in whole seconds."""
    names = sorted(n for n in os.listdir(g.dir) if n.startswith("vda"))
    sh("tar", "-C", g.dir, "--format=ustar", "-cf", at(g, "tar"), *names)
    for n in names:
        os.unlink(at(g, n))
    sh("tar", "-C", g.dir, "-xf", at(g, "tar"))
    os.unlink(at(g, "tar"))


def changed_copy(g):
    sh("cp", "-a", at(g, "vda.b"), at(g, "other"))
    write_in_place(at(g, "other"))
    put_name(at(g, "vda.c"), at(g, "other"))


def written_and_renamed(g):
    write_in_place(at(g, "vda.a"))
    put_name(at(g, "vda.b"), "vda.a")


# What is done to the images a <- b <- c <- d of four snapshots (b froze vda.a, and so on), and which of them are spoilt by it.
MEDDLING = [
    ("one is written to, and the next one renamed", written_and_renamed, "bcd"),
    ("a layer is left out", lambda g: put_name(at(g, "vda.c"), at(g, "vda.a")), "d"),
    ("one is put onto a changed copy", changed_copy, "d"),
    ("a changed copy replaces one", lambda g: copy_over(at(g, "vda.b"), write_in_place), "cd"),
    ("a changed copy replaces the first one", lambda g: copy_over(at(g, "vda.qcow2"), write_in_place), "abcd"),
    ("one is made larger", lambda g: sh("qemu-img", "resize", at(g, "vda.b"), "+4M"), "c"),
    ("one is to read what it stands on as raw", lambda g: put_name(at(g, "vda.b"), at(g, "vda.a"), "raw"), "cd"),
    ("one is to stand on nothing", lambda g: put_name(at(g, "vda.b"), ""), "cd"),
    ("a copy replaces one", lambda g: copy_over(at(g, "vda.b")), ""),
    ("all are restored from an archive", archived, ""),
]


def meddled(lab, do, spoilt, mounted):
    """Somebody does something to the images, at once or long after they were noted; it is seen, and not forgotten."""
    sc = Scenario("delete a", layered("abcd"), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    ready = "ok", "detached"
    try:
        for command in "hold c", "release c":
            lab.mount.write(g.name, command)
        if not mounted:
            lab.mount.down()
        do(g)
        for step in "at once", "after another mount", "after a command", "after yet another mount":
            if step == "after a command":
                lab.mount.write(g.name, "hold a")
                lab.mount.write(g.name, "release a")
            else:
                if step != "at once":
                    lab.mount.down()
                if step != "at once" or not mounted:
                    lab.mount.up()
                until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            until(step, lambda: None if all((states(lab, g)[n] == "stale") if n in spoilt else (states(lab, g)[n] in ready) for n in "abcd")
                  else str(states(lab, g)))
            for n in "abcd":
                if n not in spoilt and states(lab, g)[n] == "ok":
                    until(step, lambda: unharmed(lab.mount, g, n))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def healed(lab):
    """While a layer is left out nothing that a snapshot needs to be right again is touched; put back, all is as before."""
    sc = Scenario("delete c", layered("abcd"), "delete c", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    try:
        for command in "hold c", "release c":
            lab.mount.write(g.name, command)
        put_name(at(g, "vda.c"), at(g, "vda.a"))
        until("d", lambda: None if states(lab, g)["d"] == "stale" else str(states(lab, g)))
        before = sorted(os.listdir(g.dir))
        for command in "hold a", "release a":  # with that it is wrong noted
            lab.mount.write(g.name, command)
        if not lab.mount.write(g.name, "delete c") or "snapshot 'd' stood on it when it was right" not in lab.mount.outcome(g.name):
            raise Wrong("'delete c': %s" % lab.mount.outcome(g.name))
        lab.mount.write(g.name, "1 match=*", "retain")
        lab.mount.write(g.name, "off", "retain")
        if sorted(os.listdir(g.dir)) != before:
            raise Wrong("files: %s, not %s" % (sorted(os.listdir(g.dir)), before))
        put_name(at(g, "vda.c"), at(g, "vda.b"))
        for n in "cd":
            until(n, lambda: unharmed(lab.mount, g, n))
        if lab.mount.write(g.name, "delete c"):
            raise Wrong("'delete c': %s" % lab.mount.outcome(g.name))
        until("d", lambda: unharmed(lab.mount, g, "d"))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def merged_and_written(lab, mounted):
    """virsh merges layers, which it leaves: who is read through them is right, until somebody writes into what they went to."""
    sc = Scenario("delete a", layered("abcd"), "delete a", ("vda",), True, doomed="", complete=())
    g = lab.guest(sc)
    try:
        for command in "hold a", "release a":
            lab.mount.write(g.name, command)
        virsh(["blockcommit", g.name, "vda", "--base", at(g, "vda.a"), "--top", at(g, "vda.c"), "--wait"])
        until("d", lambda: unharmed(lab.mount, g, "d"))
        for command in "hold a", "release a":
            lab.mount.write(g.name, command)
        until("d, noted", lambda: unharmed(lab.mount, g, "d"))
        if not mounted:
            lab.mount.down()
            lab.mount.up()
            until("d, mounted again", lambda: unharmed(lab.mount, g, "d") if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            lab.mount.down()
        time.sleep(3)  # and not at once, when that might be the end of the job
        write_in_place(at(g, "vda.a"))
        for what in "at once", "after another mount":
            if not mounted:
                lab.mount.up()
                until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            until(what, lambda: None if states(lab, g)["d"] == "stale" else str(states(lab, g)))
            until(what, lambda: unharmed(lab.mount, g, "a"))
            lab.mount.down()
            mounted = False
        lab.mount.up()
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def scene(running=False, command="delete a", noted=True):
    """A guest with four snapshots, noted by a command; reported where something is wrong."""
    def frame(do):
        def whole(lab, *args):
            sc = Scenario(command, layered("abcd"), command, ("vda",), running, doomed="a", complete=())
            g = lab.guest(sc)
            try:
                for line in ("hold a", "release a") if noted else ():
                    if lab.mount.write(g.name, line):
                        raise Wrong(lab.mount.outcome(g.name))
                do(lab, g, sc, *args)
            except (Wrong, OSError):
                report(lab.mount, g)
                raise
            g.end()
        return whole
    return frame


def remounted(lab, g, between=None):
    lab.mount.down()
    if between:
        between()
    lab.mount.up()
    until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")


def expect_states(lab, g, what, stale, right):
    until(what, lambda: None if all(states(lab, g)[n] == "stale" for n in stale) else str(states(lab, g)))
    for n in right:
        until(what, lambda: unharmed(lab.mount, g, n))


def virsh_deletes(g, name):
    virsh(["start", g.name, "--paused"], ["snapshot-delete", g.name, name], ["destroy", g.name])
    g.forget(name)


def virsh_merges(g, base, top):
    virsh(["start", g.name, "--paused"], ["blockcommit", g.name, "vda", "--base", at(g, base), "--top", at(g, top), "--wait"], ["destroy", g.name])


@scene()
def left_out_and_written(lab, g, sc):
    """A header leaves out a layer, and somebody writes into the one beneath: that is no merge."""
    def change():
        put_name(at(g, "vda.c"), at(g, "vda.a"))
        write_in_place(at(g, "vda.a"))
    remounted(lab, g, change)
    for what in "at once", "mounted again":
        expect_states(lab, g, what, "cd", "a")
        remounted(lab, g)


@scene()
def merged_and_written_soon(lab, g, sc):
    """A write after a merge of which nobody has seen anything."""
    def change():
        virsh_merges(g, "vda.a", "vda.b")
        write_in_place(at(g, "vda.a"))
    remounted(lab, g, change)
    for what in "at once", "mounted again":
        expect_states(lab, g, what, "bcd", "a")
        remounted(lab, g)


@scene(running=True)
def cancelled_and_written(lab, g, sc):
    """What a cancelled command of a running guest has left is written to: long after, outside of what was merged, and not while mounted only."""
    thread, _ = lab.begin(g, sc)
    row = re.search(r"^(\d+) +delete", lab.mount.text(g.name, "jobs"), re.M)
    lab.mount.write(g.name, "cancel " + row.group(1))
    thread.join(PATIENCE)
    expect_states(lab, g, "cancelled", "a", "")
    until("bcd", lambda: None if all(states(lab, g)[n] == "ok" for n in "bcd") else str(states(lab, g)))
    time.sleep(8)
    write_in_place(at(g, "vda.qcow2"))
    for what in "at once", "mounted again":
        until(what, lambda: None if all(states(lab, g)[n] in ("stale", "busy") for n in "bcd") else str(states(lab, g)))
        remounted(lab, g)
    lab.mount.write(g.name, "delete a")
    expect_states(lab, g, "repeated", "bcd", "")


@scene()
def void_and_written(lab, g, sc):
    """A void command takes its record away: what was written into its base stays wrong."""
    cut_short(lab, g, sc)
    g.running = False
    lab.mount.up()
    expect_states(lab, g, "after the death", "", "bcd")
    time.sleep(8)
    remounted(lab, g, lambda: write_in_place(at(g, "vda.qcow2")))
    expect_states(lab, g, "after the write", "abcd", "")
    sh("qemu-img", "create", "-q", "-f", "qcow2", at(g, "new"), str(SIZE))
    definition = virsh(["dumpxml", g.name, "--inactive"])
    for path in "new", "vda.d":
        with open(at(g, "xml"), "w") as f:
            f.write(definition.replace(at(g, "vda.d"), at(g, path)))
        virsh(["define", at(g, "xml")])
        time.sleep(1)
        for _ in range(2):
            lab.mount.write(g.name, "delete a")
    os.unlink(at(g, "xml"))
    os.unlink(at(g, "new"))
    for what in "deleted", "mounted again":
        expect_states(lab, g, what, "bcd", "")
        remounted(lab, g)


@scene()
def copied_and_guarded(lab, g, sc):
    """What a wrong snapshot stood on is kept also where the files were replaced by copies."""
    sh("cp", "-a", at(g, "vda.qcow2"), at(g, "copy"))
    write_in_place(at(g, "vda.qcow2"))
    expect_states(lab, g, "after the write", "abcd", "")
    for n in "abcd":
        sh("cp", "-a", at(g, "vda." + n), at(g, "x"))
        os.rename(at(g, "x"), at(g, "vda." + n))
    time.sleep(1)
    if not lab.mount.write(g.name, "delete b") or not re.search("stood on it when it was right|is stale", lab.mount.outcome(g.name)):
        raise Wrong("'delete b': %s" % lab.mount.outcome(g.name))
    sh("cp", "-a", at(g, "copy"), at(g, "vda.qcow2"))
    os.unlink(at(g, "copy"))
    expect_states(lab, g, "put back", "", "abcd")


@scene()
def touched_after_a_death(lab, g, sc):
    """What a begun command has left is touched: nobody is the worse."""
    cut_short(lab, g, sc)
    g.running = False
    lab.mount.up()
    expect_states(lab, g, "after the death", "", "bcd")
    time.sleep(8)
    os.utime(at(g, "vda.qcow2"))
    time.sleep(4)
    expect_states(lab, g, "touched", "", "bcd")
    if lab.mount.write(g.name, "delete a"):
        raise Wrong(lab.mount.outcome(g.name))
    expect_states(lab, g, "repeated", "", "bcd")


@scene()
def noted_in_time(lab, g, sc):
    """The second thing to be noted is noted as soon as the first one."""
    def noted():
        return len(re.findall(r"<snapfs:s n=", virsh(["dumpxml", g.name])))
    had = noted()
    for i, name in enumerate("ef"):
        virsh(["snapshot-create-as", g.name, name, "--disk-only"])
        time.sleep(7)
        if noted() != had + i + 1:
            raise Wrong("%d snapshots are noted and not %d, 7 s after '%s' was taken" % (noted(), had + i + 1, name))
    virsh(["snapshot-delete", g.name, "e", "--metadata"], ["snapshot-delete", g.name, "f", "--metadata"])


@scene()
def backup_restored(lab, g, sc):
    """All files and records as they were before a merge of ours."""
    records = [(n, virsh(["snapshot-dumpxml", g.name, n, "--security-info"])) for n in "abcd"]
    definition = virsh(["dumpxml", g.name, "--security-info"])
    files = sorted(os.listdir(g.dir))
    sh("cp", "-a", g.dir, g.dir + ".backup")
    if lab.mount.write(g.name, "delete b"):
        raise Wrong(lab.mount.outcome(g.name))

    def restore():
        virsh(["undefine", g.name, "--snapshots-metadata"])
        for f in os.listdir(g.dir):
            os.unlink(at(g, f))
        for f in files:
            sh("cp", "-a", "%s.backup/%s" % (g.dir, f), at(g, f))
        for words, text in [(["define"], definition)] + [(["snapshot-create", g.name, "--redefine"], r) for _, r in records]:
            with open(at(g, "xml"), "w") as f:
                f.write(text)
            virsh([*words, at(g, "xml")])
        os.unlink(at(g, "xml"))
    remounted(lab, g, restore)
    expect_states(lab, g, "restored", "", "abcd")
    sh("rm", "-r", g.dir + ".backup")
    if lab.mount.write(g.name, "delete b"):
        raise Wrong(lab.mount.outcome(g.name))
    g.forget("b")
    expect_states(lab, g, "and deleted again", "", "acd")


@scene()
def named_again(lab, g, sc, command):
    """virsh removes a record, and the name is used again in the same second, for other bytes."""
    met = False
    for name in "stuvwxyz":
        while time.time() % 1 > 0.2:
            time.sleep(0.01)
        began = int(time.time())
        lab.mount.write(g.name, "create " + name)
        virsh(["snapshot-delete", g.name, name, "--metadata"])
        active = g.active_now()["vda"]
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 99 0 64k", active)
        if command:
            if lab.mount.write(g.name, "create " + name):
                raise Wrong(lab.mount.outcome(g.name))
        else:
            virsh(["snapshot-create-as", g.name, name, "--disk-only"])
        met = int(time.time()) == began
        if not met:
            continue
        overlay = g.active_now()["vda"]
        until("looked at", lambda: None if overlay in lab.mount.text(g.name, "chain") else lab.mount.text(g.name, "chain"))
        for what in "at once", "mounted again":
            until(what, lambda: None if states(lab, g).get(name) in ("ok", "stale") else str(states(lab, g)))
            if command and states(lab, g)[name] != "ok":
                raise Wrong("%s: %s" % (what, states(lab, g)))
            if states(lab, g)[name] == "ok":
                with open("%s/%s/%s.vda.img" % (lab.mount.point, g.name, name), "rb") as f:
                    if f.read() != bytes_of(active):
                        raise Wrong("%s, '%s' HAS THE BYTES OF THE ONE BEFORE" % (what, name))
            remounted(lab, g)
        break
    if not met:
        raise Wrong("no name was used twice within a second: the machine is too busy")
    for n in virsh(["snapshot-list", g.name, "--name"]).split():
        if n not in "abcd":
            virsh(["snapshot-delete", g.name, n, "--metadata"])


@scene()
def away_and_named(lab, g, sc):
    """A record is away, its name is used for another one, and what it stood on is written to: it is back, and what it showed is not forgotten."""
    record = virsh(["snapshot-dumpxml", g.name, "d", "--security-info"])
    virsh(["snapshot-delete", g.name, "d", "--metadata"])
    time.sleep(1)
    for command in "create d", "delete d":
        if lab.mount.write(g.name, command):
            raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))

    def change():
        write_in_place(at(g, "vda.c"))
        with open(at(g, "xml"), "w") as f:
            f.write(record)
        virsh(["snapshot-create", g.name, "--redefine", at(g, "xml")])
        os.unlink(at(g, "xml"))
    remounted(lab, g, change)
    expect_states(lab, g, "back", "d", "abc")


@scene()
def seen_merge(lab, g, sc):
    """virsh merges while nothing is mounted; that is seen, and explains no write that comes after it."""
    remounted(lab, g, lambda: virsh_deletes(g, "b"))
    expect_states(lab, g, "after virsh's delete", "", "acd")
    remounted(lab, g, lambda: write_in_place(at(g, "vda.a")))
    for what in "after the write", "mounted again":
        expect_states(lab, g, what, "cd", "a")
        remounted(lab, g)


@scene()
def seen_write(lab, g, sc, how):
    """A write is seen, and no merge by others while nothing is mounted makes it undone."""
    def merge():
        if how == "virsh deletes":
            virsh_deletes(g, "b")
        elif how == "virsh":
            virsh(["start", g.name, "--paused"], ["blockcommit", g.name, "vda", "--base", at(g, "vda.a"), "--top", at(g, "vda.b"), "--wait"],
                  ["destroy", g.name])
        else:
            sh("qemu-img", "rebase", "-f", "qcow2", "-b", "", at(g, "vda.c"))
    write_in_place(at(g, "vda.b"))
    expect_states(lab, g, "after the write", "cd", "ab")
    remounted(lab, g, merge)
    for what in "after the merge", "mounted again":
        expect_states(lab, g, what, "d", "a")
        remounted(lab, g)
    before = sorted(os.listdir(g.dir))
    lab.mount.write(g.name, "delete a")
    if how != "qemu-img" and "stood on it when it was right" not in lab.mount.outcome(g.name):
        raise Wrong("'delete a': %s" % lab.mount.outcome(g.name))
    lab.mount.write(g.name, "1 match=*", "retain")
    lab.mount.write(g.name, "off", "retain")
    if sorted(os.listdir(g.dir)) != before:
        raise Wrong("files: %s, not %s" % (sorted(os.listdir(g.dir)), before))


@scene()
def record_moved(lab, g, sc):
    """What virsh's delete has moved a snapshot to is written to: that is noted, too."""
    virsh_deletes(g, "b")
    expect_states(lab, g, "after virsh's delete", "", "acd")
    time.sleep(2)
    write_in_place(at(g, "vda.a"))
    expect_states(lab, g, "after the write", "cd", "a")
    for command in "hold a", "release a":
        lab.mount.write(g.name, command)
    remounted(lab, g)
    expect_states(lab, g, "mounted again", "cd", "a")


@scene()
def begun_and_written(lab, g, sc, where, grows, mounted):
    """Somebody writes to what a begun command has in its hands."""
    cut_short(lab, g, sc)
    lab.mount.up()
    expect_states(lab, g, "after the death", "", "bcd")
    time.sleep(0 if not mounted else 8)  # until it is noted how that was left

    def write():
        if grows:
            sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 77 18M 64k", at(g, where))
        else:
            write_in_place(at(g, where))
    if mounted:
        write()
    else:
        remounted(lab, g, write)
    expect_states(lab, g, "after the write", "bcd", "")
    number = lab.mount.write(g.name, "delete a")
    if number:
        raise Wrong("repeated: %s" % lab.mount.outcome(g.name))
    expect_states(lab, g, "repeated", "bcd", "")
    remounted(lab, g)
    expect_states(lab, g, "mounted again", "bcd", "")


@scene(running=True)
def aborted_commit(lab, g, sc):
    """A commit of the active layer that is ready and is aborted leaves its base open, and other bytes in it."""
    virsh(["blockcommit", g.name, "vda", "--base", at(g, "vda.c"), "--active", "--wait"])
    time.sleep(3)  # for some looks nothing is written
    virsh(["blockjob", g.name, "vda", "--abort"])
    until("d", lambda: None if states(lab, g)["d"] in ("stale", "busy") else str(states(lab, g)))
    until("chain", lambda: None if "open for writing in some process" in lab.mount.text(g.name, "chain") else lab.mount.text(g.name, "chain"))
    for command in "delete c", "hold a", "release a":
        lab.mount.write(g.name, command)
    until("d", lambda: None if states(lab, g)["d"] in ("stale", "busy") else str(states(lab, g)))
    virsh(["destroy", g.name])
    g.running = False
    remounted(lab, g)
    expect_states(lab, g, "mounted again", "d", "ab")


@scene()
def base_put_back(lab, g, sc):
    """What was changed is neither merged nor removed as long as somebody may be right again with it."""
    sh("cp", "-a", at(g, "vda.a"), at(g, "copy"))
    write_in_place(at(g, "vda.a"))
    expect_states(lab, g, "after the write", "bcd", "a")
    before = sorted(os.listdir(g.dir))
    for command in "delete a", "delete b", "commit a b":
        if not lab.mount.write(g.name, command) or not re.search("stood on it when it was right|is stale", lab.mount.outcome(g.name)):
            raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
    if sorted(os.listdir(g.dir)) != before:
        raise Wrong("files: %s, not %s" % (sorted(os.listdir(g.dir)), before))
    sh("cp", "-a", at(g, "copy"), at(g, "vda.a"))
    os.unlink(at(g, "copy"))
    expect_states(lab, g, "put back", "", "abcd")
    if lab.mount.write(g.name, "delete b"):
        raise Wrong(lab.mount.outcome(g.name))
    g.forget("b")
    expect_states(lab, g, "deleted", "", "acd")


def data_file(lab, mounted):
    """What an image stores is in an external data file, which somebody writes to."""
    sc = Scenario("delete a", layered(""), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    base, data = at(g, "vda.qcow2"), at(g, "data.raw")
    try:
        os.unlink(base)
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=%s,data_file_raw=on" % data, base, str(SIZE))
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 1M", base)
        for command in "create a", "create b":
            if lab.mount.write(g.name, command):
                raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
        until("a and b", lambda: None if set(states(lab, g).values()) == {"ok"} else str(states(lab, g)))
        if not mounted:
            lab.mount.down()
        with open(data, "r+b") as f:
            f.seek(4096)
            f.write(b"x" * 512)
        for _ in range(2):
            if not mounted:
                lab.mount.up()
                until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            until("a and b", lambda: None if set(states(lab, g).values()) == {"stale"} else str(states(lab, g)))
            lab.mount.down()
            mounted = False
        lab.mount.up()
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def same_second(lab):
    """A snapshot that is taken under the name of one that went in the same second is another one."""
    sc = Scenario("delete a", layered(""), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    try:
        for command in "create a", "create b":
            lab.mount.write(g.name, command)
        for _ in range(12):
            for command in "create x", "delete x", "create x", "hold x", "release x":
                if lab.mount.write(g.name, command):
                    raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
            if set(states(lab, g).values()) != {"ok"}:
                raise Wrong(str(states(lab, g)))
            if lab.mount.write(g.name, "delete x"):
                raise Wrong("'delete x': %s" % lab.mount.outcome(g.name))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def internal_above(lab):
    """An internal snapshot stands on what was written to: nothing beneath it is merged, and it stays stale."""
    sc = Scenario("delete a", layered("abcd"), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    try:
        virsh(["snapshot-create-as", g.name, "i"])
        until("i", lambda: None if "i" in states(lab, g) else "is not listed")
        for command in "hold c", "release c":
            if lab.mount.write(g.name, command):
                raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
        write_in_place(at(g, "vda.b"))
        until("i", lambda: None if states(lab, g)["i"] == "stale" else str(states(lab, g)))
        if not lab.mount.write(g.name, "delete a"):
            raise Wrong("'delete a' said ok")
        for _ in range(2):
            time.sleep(1)
            if set(states(lab, g)[n] for n in "cdi") != {"stale"}:
                raise Wrong(str(states(lab, g)))
            lab.mount.down()
            lab.mount.up()
            until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def note_outlives_record(lab, when):
    """What was written to lies beneath a snapshot, and the record of the one whose note tells so is removed, by virsh."""
    sc = Scenario("delete a", layered("abcd"), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    try:
        for command in "hold c", "release c":
            lab.mount.write(g.name, command)
        time.sleep(4)
        if when == "before":
            virsh(["snapshot-delete", g.name, "b", "--metadata"])
            for command in "hold c", "release c":  # forgets what is said of b
                lab.mount.write(g.name, command)
        lab.mount.down()
        write_in_place(at(g, "vda.a"))
        if when == "after":
            virsh(["snapshot-delete", g.name, "b", "--metadata"])
        for _ in range(2):
            lab.mount.up()
            until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            until("c and d", lambda: None if set(states(lab, g)[n] for n in "cd") == {"stale"} else str(states(lab, g)))
            until("a", lambda: unharmed(lab.mount, g, "a"))
            lab.mount.write(g.name, "hold a")
            lab.mount.write(g.name, "release a")
            lab.mount.down()
        lab.mount.up()
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def witness_goes(lab):
    """What was written to lies beneath two snapshots; the one whose note tells so is deleted, and its files stay."""
    sc = Scenario("delete a", layered("abc"), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    try:
        for command in "hold c", "release c":
            lab.mount.write(g.name, command)
        time.sleep(4)
        lab.mount.down()
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 77 1M 64k", at(g, "vda.a"))
        lab.mount.up()
        until("b and c", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) and
              (states(lab, g)["b"], states(lab, g)["c"]) == ("stale", "stale") else "are not stale")
        for command in "revert a force", "delete b", None:
            if command and lab.mount.write(g.name, command):
                raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
            if not command:
                lab.mount.down()
                lab.mount.up()
                until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            time.sleep(1)
            if states(lab, g)["c"] != "stale":
                raise Wrong("after %s: %s" % (command, states(lab, g)))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def older_copy(lab, how):
    """An image is restored from a copy of before the snapshots, with its time."""
    sc = Scenario("delete a", layered(""), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    base = at(g, "vda.qcow2")
    try:
        g.write("vda", 33, 0, 64 << 10)
        sh("cp", "-a", base, at(g, "copy"))
        time.sleep(2.5)
        g.write("vda", 34, 0, 64 << 10)
        for command in "create a", "create b":
            if lab.mount.write(g.name, command):
                raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
        lab.mount.down()
        if how != "written over":
            os.unlink(base)
        sh("cp", "-a", at(g, "copy"), base)
        os.unlink(at(g, "copy"))
        lab.mount.up()
        until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
        until("a and b", lambda: None if set(states(lab, g).values()) == {"stale"} else str(states(lab, g)))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def written_alone(lab, way, mounted):
    """The same of a layer that a pull has made stand on nothing: by somebody, or by the guest that was put on it for a while."""
    sc = Scenario("delete a", layered(""), "delete a", ("vda",), False, doomed="", complete=())
    g = lab.guest(sc)
    try:
        for command in "create a", "pull", "create c":
            if lab.mount.write(g.name, command):
                raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
        path = at(g, "vda.a.qcow2")
        time.sleep(4)
        if not mounted:
            lab.mount.down()
        if way == "guest":
            now = sh("virsh", "-c", os.environ["URI"], "dumpxml", "--inactive", "--security-info", g.name).stdout
            for text in now.replace("vda.c.qcow2", "vda.a.qcow2"), now:
                with open(at(g, ".xml"), "w") as f:
                    f.write(text)
                virsh(["define", at(g, ".xml")])
                if text != now:
                    virsh(["start", g.name, "--paused"],
                          ["qemu-monitor-command", g.name, "--hmp", 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 77 0 64k"'],
                          ["destroy", g.name])
            os.unlink(at(g, ".xml"))
        else:
            sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 77 0 64k", path)
        for _ in range(2):
            if mounted:
                until("while mounted", lambda: None if states(lab, g)["c"] == "stale" else str(states(lab, g)))
                lab.mount.down()
            lab.mount.up()
            until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            until("after another mount", lambda: None if states(lab, g)["c"] == "stale" else str(states(lab, g)))
            mounted = True
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def died_putting_back(lab):
    """We die while we put a header back, at each point: its new time is ours."""
    for n in range(1, 12):
        sc = scenario("delete a", False, "a")
        g = lab.guest(sc)
        try:
            cut_short(lab, g, sc)
            sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", at(g, "vda.qcow2"), at(g, "vda.b"))
            lab.mount.arm(n)
            try:
                lab.mount.up()
            except Wrong:
                pass  # it may have died already
            for _ in range(30):
                if lab.mount.process.poll() is not None or stands_on(at(g, "vda.b")) == at(g, "vda.a"):
                    break
                time.sleep(0.2)
            time.sleep(0.5)
            dead = lab.mount.process.poll() is not None
            lab.mount.disarm()
            if dead:
                sh("umount", "-l", lab.mount.point, check=False)
                lab.mount.up()
            until("the header", lambda: None if stands_on(at(g, "vda.b")) == at(g, "vda.a") else "it stands on %s" % stands_on(at(g, "vda.b")))
            for name in "bc":
                until("%s, died at point %d" % (name, n), lambda: unharmed(lab.mount, g, name))
            if lab.mount.write(g.name, "delete a"):
                raise Wrong("died at point %d: %s" % (n, lab.mount.outcome(g.name)))
            g.forget("a")
            for name in "bc":
                until("%s at last, died at point %d" % (name, n), lambda: unharmed(lab.mount, g, name))
        except (Wrong, OSError):
            report(lab.mount, g)
            raise
        g.end()
        if not dead:
            if n < 4:
                raise Wrong("only %d points" % n)
            break


def beneath_is_away(lab, gone, command):
    """Something that an interrupted pull needs is out of sight for a while: that proves nothing, and it is needed when it is back."""
    sc = scenario("pull", False, "")
    g = lab.guest(sc)
    away = os.path.join(os.environ["W"], "away-" + g.name)
    try:
        cut_short(lab, g, sc)
        alone(g, at(g, "vda.c"))
        os.rename(at(g, gone), away)
        lab.mount.up()
        until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
        number = lab.mount.write(g.name, command)
        if number == 0 and (command == "create x" or gone != "vda.b"):
            raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
        if gone != "vda.b" and lab.mount.write(g.name, "delete c") == 0:  # its record may go
            g.forget("c")
        os.rename(away, at(g, gone))
        if not all(os.path.exists(at(g, f)) for f in ("vda.qcow2", "vda.a", "vda.b")):
            raise Wrong("'delete c' removed what is needed: %s" % lab.mount.outcome(g.name))
        if lab.mount.write(g.name, "pull") or "would copy" in lab.mount.outcome(g.name) or "copied" not in lab.mount.outcome(g.name):
            raise Wrong("'pull', with all there: %s" % lab.mount.outcome(g.name))
        g.check_present(g.present)
        for name in g.wanted:
            until(name, lambda: unharmed(lab.mount, g, name))
        lab.finish(g, sc, leaks=True)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def whitewash(lab, crash, where="vda.b", spoilt="c"):
    """Somebody has written into what a snapshot froze, and then a merge beneath re-points it: the new time is no proof of innocence."""
    sc = scenario("delete a", False, "a")
    g = lab.guest(sc)
    try:
        if crash:
            cut_short(lab, g, sc)
            sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", at(g, "vda.qcow2"), at(g, "vda.b"))
        else:
            for command in "hold c", "release c":  # what a snapshot of others froze is noted by the first command after it
                lab.mount.write(g.name, command)
            time.sleep(4)
            lab.mount.down()
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 77 1M 64k", at(g, where))
        if crash:  # some time after the death
            os.utime(at(g, "vda.b"), (time.time() + 60, time.time() + 60))
        lab.mount.up()
        until("the header", lambda: None if stands_on(at(g, "vda.b")) == at(g, "vda.a") else "it stands on %s" % stands_on(at(g, "vda.b")))
        for command in ("try delete a", "delete a", None):
            if command:
                number = lab.mount.write(g.name, command)
                if (number == 0) != crash:  # nothing is merged that it stood on, but to finish what was begun
                    raise Wrong("'%s': %s" % (command, lab.mount.outcome(g.name)))
            else:
                lab.mount.down()
                lab.mount.up()
                until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
            time.sleep(1)
            for name in "bc":
                state = snapshots_of(lab.mount, g)[name]["state"]
                if name in spoilt and state != "stale":
                    raise Wrong("after '%s' %s is %s" % (command or "another mount", name, state))
                if name not in spoilt and command != "try delete a":
                    until(name, lambda: unharmed(lab.mount, g, name))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def base_is_gone(lab):
    """What an interrupted pull stood on was removed by its owner: `pull` says so, and with a guest that runs on what there is goes on."""
    sc = scenario("pull", False, "")
    g = lab.guest(sc)
    try:
        cut_short(lab, g, sc)
        alone(g, at(g, "vda.c"))
        os.unlink(at(g, "vda.b"))
        lab.mount.up()
        until("the mount", lambda: None if os.path.isdir("%s/%s" % (lab.mount.point, g.name)) else "is not up")
        for running, command, ok, words in ((False, "pull", True, "is kept until the domain runs"), (False, "create x", False, "bring it back"),
                                            (False, "delete a", True, "'vda.qcow2' stays"), (False, "pull", True, "is kept until the domain runs"),
                                            (True, "try pull", True, "goes on without it"), (True, "pull", True, "goes on without it"),
                                            (True, "pull", True, "nothing to do"), (True, "create x", True, "created")):
            if running and not g.running:
                virsh(["start", g.name, "--paused"])
                g.running = True
            got = lab.mount.write(g.name, command)
            if (got == 0) != ok or words not in lab.mount.outcome(g.name):
                raise Wrong("'%s', %s: %s" % (command, "running" if running else "shut off", lab.mount.outcome(g.name)))
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


AHEAD = [("delete b", "b", "vda.c", "vda.b", "vda.a", False), ("delete b", "b", "vda.c", "vda.b", "vda.a", True),
         ("delete a", "a", "vda.b", "vda.a", "vda.qcow2", False), ("commit a b", "ab", "vda.c", "vda.b", "vda.qcow2", False),
         ("pull", "", "vda.c", "vda.b", None, False)]


# ---------------------------------------------------------------- killed while libvirt is starting the guest

SLOW = """#!/bin/bash
case " $* " in
*" -uuid "*) echo start >>"$0.log" ;;
*" none"*) echo probe >>"$0.log"; sleep 3 ;;
esac
exec qemu-system-x86_64 "$@"
"""


def slow_start(lab):
    """libvirt asks a new emulator what it can do, for seconds, while it calls the domain shut off; and goes on when we are dead."""
    sc = scenario("delete b", False, "b")
    g = lab.guest(sc)
    slow = os.path.join(os.environ["W"], "slow-qemu")

    def said(word):
        with open(slow + ".log") as f:
            return f.read().split().count(word)
    try:
        with open(slow, "w") as f:
            f.write(SLOW)
        os.chmod(slow, 0o755)
        path = os.path.join(g.dir, ".xml")
        with open(path, "w") as f:
            f.write(g.xml().replace("<devices>", "<devices><emulator>%s</emulator>" % slow))
        virsh(["define", path])
        os.unlink(path)
        until("the new definition", lambda: unharmed(lab.mount, g, "b"))
        before = said("probe")
        os.utime(slow)
        result = []
        thread = threading.Thread(target=lambda: result.append(lab.mount.write(g.name, sc.command)))
        thread.start()
        until("the start", lambda: None if said("probe") > before else "has not begun")
        lab.mount.kill()
        thread.join(PATIENCE)
        if said("start"):
            raise Wrong("the domain was up before anything was killed")
        lab.mount.up()
        check_after_death(lab.mount, g, sc)
        until("the start that nobody waits for", lambda: None if said("start") else "has not come")
        until("the guest that nobody waits for", lambda: None if g.state() == "shut off" else "is %s" % g.state())
        lab.finish(g, sc, leaks=False)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


# ---------------------------------------------------------------- a foreign revert while nothing is mounted

def facts(lab, g):
    return (lab.mount.text(g.name, "retain").strip(),
            {n: (s["held"], s["ours"]) for n, s in snapshots_of(lab.mount, g).items()})


def foreign_internal(lab):
    """virsh snapshot-revert brings the metadata back that the domain had at the snapshot."""
    sc = Scenario("", lambda g: g.flush(), "")
    g = lab.guest(sc)
    try:
        for name in "abc":
            if lab.mount.write(g.name, "create %s internal" % name):
                raise Wrong(lab.mount.outcome(g.name))
            g.note(name, "internal")
            g.write("vda", ord(name), ord(name) * 4096, MIB)
        for command, door in (("hold b", "ctl"), ("9d min=3d", "retain"), ("hold a", "ctl"), ("release b", "ctl")):
            if lab.mount.write(g.name, command, door):
                raise Wrong(lab.mount.outcome(g.name))
        before = facts(lab, g)
        if before[1] != {"a": (True, True), "b": (False, True), "c": (False, True)} or before[0] != "9d min=3d":
            raise Wrong("beforehand it says %s" % (before,))
        lab.mount.down()
        virsh(["snapshot-revert", g.name, "a"])
        g.present = {t: bytearray(g.wanted["a"][t]) for t in g.targets}
        g.current = "a"
        lab.mount.up()
        until("after a foreign revert", lambda: None if facts(lab, g) == before else "it says %s" % (facts(lab, g),))
        for name in g.wanted:
            until("after a foreign revert", lambda: unharmed(lab.mount, g, name))
        number = lab.mount.write(g.name, "delete a")
        if number != errno.EPERM:
            raise Wrong("a held snapshot was deleted: %s" % lab.mount.outcome(g.name))
        if lab.mount.write(g.name, "hold c"):  # any change puts all of it back into the domain
            raise Wrong(lab.mount.outcome(g.name))
        held = re.findall(r"n=[\"'](\w)[\"'][^>]*is=[\"']ioh", virsh(["metadata", g.name, "https://virt-snapfs.org/xmlns/domain/1.0"]))
        if sorted(held) != ["a", "c"]:
            raise Wrong("the domain's metadata hold %s" % held)
        g.check_records()
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def foreign_definition(lab):
    """While a commit is unfinished somebody defines the domain anew, without any metadata."""
    sc = scenario("commit a b", True, "ab")
    g = lab.guest(sc)
    try:
        thread, _ = lab.begin(g, sc)
        lab.mount.kill()
        thread.join(PATIENCE)
        virsh(["destroy", g.name])
        g.running = sc.running = False
        path = os.path.join(g.dir, ".xml")
        with open(path, "w") as f:
            f.write(g.xml())
        virsh(["define", path])
        os.unlink(path)
        if virsh(["metadata", g.name, "https://virt-snapfs.org/xmlns/domain/1.0"], check=False).strip():
            raise Wrong("the metadata are still there")
        lab.mount.up()
        check_after_death(lab.mount, g, sc, leaks=True)
        states = {n: s["state"] for n, s in snapshots_of(lab.mount, g).items()}
        if states["a"] != "stale" or states["c"] != "ok":
            raise Wrong("the unfinished commit is forgotten: %s" % states)
        lab.finish(g, sc, leaks=True)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


# ---------------------------------------------------------------- all

def run(name, lab, do):
    try:
        do()
        print("ok %s" % name, flush=True)
    except (Wrong, OSError) as e:
        print("FAIL %s: %s" % (name, e), flush=True)
    except Exception:
        print("FAIL %s: %s" % (name, traceback.format_exc().replace("\n", " | ")), flush=True)
    if lab.mount.process.poll() is not None:
        sh("umount", "-l", lab.mount.point, check=False)
        lab.mount.up()


def one(lab, way, command, running, doomed, targets):
    sc = scenario(command, running, doomed, targets)
    g = lab.guest(sc)
    try:
        way(lab, g, sc)
    except (Wrong, OSError):
        report(lab.mount, g)
        raise
    g.end()


def main():
    pattern = sys.argv[2] if len(sys.argv) > 2 else None  # all, but those of meddling.sh, which are a suite of their own
    lab = Lab(Mount(sys.argv[1], options="refresh=0.5,bandwidth=4"))
    lab.mount.up()
    cases = [("%s during '%s', %s" % (what, command, "running" if running else "shut off"),
              lambda a=(way, command, running, doomed, ("vda", "vdb") if command == "commit a c" else ("vda",)): one(lab, *a))
             for what, way, _ in WAYS for command, doomed in JOBS for running in (True, False)]
    cases += [("a header is %s its data, '%s'" % ("as far as" if a[-1] else "ahead of", a[0]), lambda a=a: header_ahead(lab, *a)) for a in AHEAD]
    cases += [("others pull the disk off a half-merged layer%s" % (", which goes" if goes else ""), lambda goes=goes: pulled_by_others(lab, goes))
              for goes in (False, True)]
    cases += [("a header is ahead of its data, and its command becomes void", lambda: void_and_ahead(lab)),
              ("what was written to stays stale when it is re-pointed", lambda: whitewash(lab, False)),
              ("what was written to stays stale, is not merged, and what stands on it",
               lambda: whitewash(lab, False, "vda.a", "bc")),
              ("what was written to stays stale when it is re-pointed, after a death", lambda: whitewash(lab, True)),
              ("a header is ahead of its data, and its base has an old time", lambda: base_is_old(lab)),
              ("virsh commits into what has such a header", lambda: committed_into(lab)),
              ("what an interrupted pull stood on is gone", lambda: base_is_gone(lab)),
              ("what stands on what was written to after a death is stale, too", lambda: higher_up(lab)),
              ("what was written to stays stale when the record that noted it goes", lambda: witness_goes(lab)),
              ("a frozen image is renamed", lambda: renamed(lab, False)),
              ("a frozen image is renamed and written to", lambda: renamed(lab, True)),
              ("the record goes that noted what is written to then", lambda: note_outlives_record(lab, "before")),
              ("the record goes that noted what was written to", lambda: note_outlives_record(lab, "after")),
              ("virt-snapfs dies while it puts a header back", lambda: died_putting_back(lab))]
    cases += [("a frozen image is written to, %s%s" % ("running" if running else "shut off", ", noted" if noted else ""),
               lambda running=running, noted=noted: written_beneath(lab, running, noted)) for running in (False, True) for noted in (True,)]
    cases += [("meddling: %s%s" % (name, "" if mounted else ", while unmounted"), lambda a=(do, spoilt, mounted): meddled(lab, *a))
              for i, (name, do, spoilt) in enumerate(MEDDLING) for mounted in (True, False) if not mounted or i % 3 == 0]
    cases += [("meddling: an internal snapshot above", lambda: internal_above(lab)),
              ("meddling: a layer is left out and put back", lambda: healed(lab)),
              ("meddling: what virsh has merged into is written to", lambda: merged_and_written(lab, True)),
              ("meddling: what virsh has merged into is written to, while unmounted", lambda: merged_and_written(lab, False)),
              ("meddling: a layer is left out, and the next one written to", lambda: left_out_and_written(lab)),
              ("meddling: virsh merges and somebody writes, which nobody sees", lambda: merged_and_written_soon(lab)),
              ("meddling: what a cancelled command has left is written to", lambda: cancelled_and_written(lab)),
              ("meddling: the base of a void command is written to", lambda: void_and_written(lab)),
              ("meddling: all but the changed one are replaced by copies", lambda: copied_and_guarded(lab)),
              ("meddling: what a death has left is touched", lambda: touched_after_a_death(lab)),
              ("meddling: two snapshots by virsh are noted one after the other", lambda: noted_in_time(lab)),
              ("meddling: a backup from before a merge is restored", lambda: backup_restored(lab)),
              ("meddling: a name is used again in one second by us", lambda: named_again(lab, True)),
              ("meddling: a name is used again in one second by virsh", lambda: named_again(lab, False)),
              ("meddling: a name is used while its record is away", lambda: away_and_named(lab)),
              ("meddling: virsh merges, and then somebody writes", lambda: seen_merge(lab)),
              ("meddling: somebody writes, and then virsh merges", lambda: seen_write(lab, "virsh")),
              ("meddling: somebody writes, and then virsh deletes", lambda: seen_write(lab, "virsh deletes")),
              ("meddling: somebody writes, and then qemu-img merges", lambda: seen_write(lab, "qemu-img")),
              ("meddling: what virsh's delete has moved to is written to", lambda: record_moved(lab)),
              *[("meddling: a begun command's %s is written to%s%s" % (where, ", and grows" if grows else "", "" if mounted else ", while unmounted"),
                 lambda a=(where, grows, mounted): begun_and_written(lab, *a))
                for where, grows, mounted in (("vda.a", True, True), ("vda.a", True, False), ("vda.qcow2", False, True), ("vda.qcow2", True, False))],
              ("meddling: a commit of the active layer is aborted", lambda: aborted_commit(lab)),
              ("meddling: a base is written to and put back", lambda: base_put_back(lab)),
              ("meddling: a data file is written to", lambda: data_file(lab, True)),
              ("meddling: a data file is written to, while unmounted", lambda: data_file(lab, False)),
              ("a name is used again in the same second", lambda: same_second(lab))]
    cases += [("a layer that a pull made stand alone is written to by %s%s" % (way, "" if mounted else ", while unmounted"),
               lambda way=way, mounted=mounted: written_alone(lab, way, mounted)) for way in ("somebody", "guest") for mounted in (True, False)]
    cases += [("an image is restored from before its snapshots, %s" % how, lambda how=how: older_copy(lab, how)) for how in ("written over", "another file")]
    cases += [("'%s' while %s, which an interrupted pull needs, is away" % (command, gone), lambda gone=gone, command=command: beneath_is_away(lab, gone, command))
              for gone in ("vda.qcow2", "vda.a", "vda.b") for command in ("pull", "create x")]
    cases += [("QEMU is killed %d ms after a pull's header, %s" % (ms, "running" if running else "shut off"),
               lambda running=running, ms=ms: killed_at_its_end(lab, running, ms)) for running in (False, True) for ms in (0, 2, 5)]
    cases += [("what an interrupted pull has left is copied elsewhere", lambda: pulled_and_moved(lab))]
    cases += [("another mount comes while a pull goes on", lambda: ours_goes_on(lab))]
    cases += [("a definition pins what an interrupted pull has left", lambda: pinned(lab))]
    cases += [("a domain is started on a half-pulled disk%s" % (", and frozen" if frozen else ""), lambda frozen=frozen: half_pulled(lab, frozen))
              for frozen in (False, True)]
    cases += [("QEMU is killed when 'pull' has said ok", lambda: pulled(lab, False)),
              ("QEMU is killed when what virsh had pulled was deleted", lambda: pulled(lab, True))]
    cases += [("virt-snapfs is killed while libvirt is starting the guest", lambda: slow_start(lab)),
              ("a foreign revert of internal snapshots while unmounted", lambda: foreign_internal(lab)),
              ("a foreign definition while a commit is unfinished", lambda: foreign_definition(lab))]
    cases = [(name, do) for name, do in cases if (fnmatch.fnmatch(name, pattern) if pattern else not name.startswith("meddling: "))]
    if os.environ.get("CI") and not pattern:  # it has forty minutes for everything
        day = int(time.time()) // 86400
        print("# every other case of %d, on another day the others: all of them without CI in the environment" % len(cases))
        cases = cases[day % 2::2]
    for name, do in cases:
        run(name, lab, do)
    lab.mount.down()


if __name__ == "__main__":
    main()
