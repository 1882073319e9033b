# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Commands that were begun and not finished, and then others: see tests/suites/begun.sh and witness.py.

begun.py MOUNTPOINT. A command is stopped while its block job writes, something else is done, and then it is repeated. Whatever each
of these answers, the snapshots that none of them was entitled to remove read as ever after every step.
"""
import fcntl
import os
import re
import signal
import struct
import subprocess
import time
import xml.etree.ElementTree as ET

from guests import MIB, PATIENCE, URI, WORK, Wrong, bytes_of, sh, until, virsh
from lab import backing
from witness import LOOK, ONE, SHUT_OFF, TWO, case, main

SIZE = 10 * MIB
PIECE = 4 * MIB
REFUSED = ("EPERM", "EOPNOTSUPP", "EBUSY", "ENOENT", "EEXIST", "ESTALE")


def large(names="abc"):
    def build(g):
        for i, name in enumerate(names):
            g.snap(name)
            g.fill(16 * (i + 1), (2 * i + 1) * MIB, PIECE)
        g.flush()
    return build


# ---------------------------------------------------------------- ways to stop a command

def qemu_pid(g):
    with open("/run/libvirt/qemu/%s.pid" % g.name) as f:
        return int(f.read())


def kill_qemu(lab, g, job):
    os.kill(qemu_pid(g), signal.SIGKILL)
    job.over()
    g.running = False


def cancel(lab, g, job):
    found = re.search(r"^(\d+) ", lab.text(g, "jobs"), re.M)
    if not found:
        raise Wrong("jobs lists none: %s" % lab.text(g, "jobs"))
    lab.write(g, "cancel %s" % found.group(1))
    if job.over() not in ("ECANCELED", "0"):
        raise Wrong("cancelled, it gave %s: %s" % (job.result, lab.said(g)))


def kill_us(lab, g, job):
    lab.mount.kill()
    job.over()
    lab.mount.up()
    lab.listed(g)


def kill_both(lab, g, job):
    lab.mount.process.kill()
    os.kill(qemu_pid(g), signal.SIGKILL)
    lab.mount.after_death()
    job.over()
    g.running = False
    lab.mount.up()
    lab.listed(g)


WAYS = [("QEMU is killed", kill_qemu), ("it is cancelled", cancel), ("virt-snapfs is killed", kill_us), ("both are killed", kill_both)]


# ---------------------------------------------------------------- what is done next

def overlays(g, names):
    return [g.file(t, n) for t in g.targets for n in names if n in "abcd"]


class Story:
    """What has been asked for, and so what may go."""

    def __init__(self, lab, g):
        self.lab, self.g = lab, g
        self.doomed, self.may_go = "", []
        self.records = True  # they say what is so

    def entitled(self, command):
        """Whose snapshots may go if this is tried, whatever it answers."""
        words = command.split()
        if words[0] in ("delete", "commit"):
            first, last = words[1], words[-1]
            names = [n for n in "abcd" if first <= n <= last]
            self.doomed += "".join(names)
            self.may_go += overlays(self.g, names)

    def succeeded(self, command):
        g, words = self.g, command.split()
        if words[0] in ("delete", "commit"):
            for n in [n for n in "abcd" if words[1] <= n <= words[-1] and n in g.wanted]:
                g.forget(n)
        elif words[0] == "revert":
            keep = [w[5:] for w in words if w.startswith("keep=")]
            if keep:
                g.note(keep[0], "external")
            g.running = False
            g.reverted(words[1])
        elif words[0] == "create":
            g.note(words[1], "external")

    def step(self, command):
        lab, g = self.lab, self.g
        active = list(g.active_now().values())
        words = command.split()
        if words[0] == "virsh":
            self.virsh(words)
            got = "0"
        elif words[0] == "others":
            self.others(words[1], words[2])
            got = "0"
        elif words[0] == "retain":
            self.doomed += "ab"  # c is held
            self.may_go += overlays(g, "ab")
            got = lab.write(g, " ".join(words[1:]), "retain")
        else:
            self.entitled(command)
            got = lab.write(g, command)
            if got == "0":
                self.succeeded(command)
                if words[0] == "revert":
                    self.may_go += active
            elif got not in REFUSED:
                raise Wrong("'%s' gave %s: %s" % (command, got, lab.said(g)))
        said = lab.said(g)
        print("#   %s: %s" % (command, "done" if words[0] in ("virsh", "others") else said), flush=True)
        for n in list(g.wanted):
            if n in self.doomed and n not in g.names():
                g.forget(n)
        if not self.records and "re-pointed" in said:  # then it is our word
            self.records = True
        try:
            lab.intact(g, self.doomed, self.may_go, leaks=True, records=self.records)
        except Wrong as e:
            raise Wrong("after '%s' (%s): %s" % (command, said, e)) from None
        return got, said

    def others(self, what, name):
        """What is done to the domain behind our back."""
        g = self.g
        if what == "revert":  # by hand, as libvirt 9.0 asks for; the layers that were active stay where they are
            if g.running:
                g.stop()
            record = g.record(name)
            for t, path in g.frozen(record).items():
                g.active[t] = "%s/%s.by-hand.%s" % (g.dir, t, name)
                sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", g.active[t])
            g.define()
            g.redefine(record, "--current")
            g.reverted(name)
        elif what == "forget":  # libvirt 9.0 then gives the records of its children other images
            virsh(["snapshot-delete", g.name, name, "--metadata"])
            g.forget(name)
            self.records = False

    def virsh(self, words):
        g = self.g
        started = g.state() == "shut off"
        if started:
            virsh(["start", g.name, "--paused"])
            g.running = True
        for t in g.targets:
            virsh([words[1], g.name, t, *words[2:], "--wait"])
        if started:
            virsh(["destroy", g.name])
            g.running = False


def story(command, way, *steps, hold=""):
    def do(lab, running, targets):
        g = lab.guest(running, targets, build=large(), size=SIZE)
        s = Story(lab, g)
        for n in hold:
            lab.does(g, "hold " + n)
        s.entitled(command)
        way(lab, g, lab.begin(g, command))
        until("the guest", lambda: None if (g.state() == "shut off") == (not g.running) else "is " + g.state())
        until("the job", lambda: "goes on: " + g.jobs() if g.jobs() and not re.search(r"100 *%|100\.", g.jobs()) else None)
        lab.intact(g, s.doomed, s.may_go, leaks=True)
        for step in steps:
            s.step(step)
        got, said = s.step(command)
        if got != "0" and got != "ENOENT":
            left = [n for n in s.doomed if lab.state(g, n) in ("ok", "detached")]
            for n in left:
                if lab.reads(g, n):
                    raise Wrong("'%s' is %s, but cannot be read" % (n, lab.state(g, n)))
            if len(said) < 40:
                raise Wrong("it does not say how to get out: %s" % said)
        lab.starts(g)
        if got != "0" and got != "ENOENT":  # there is a way out, and then nobody is told any more to repeat what cannot be done
            for n in sorted(set(s.doomed)):
                if n in g.names() and lab.write(g, "delete " + n) != "0":
                    raise Wrong("there is no way out: '%s' says '%s', and 'delete %s' says '%s'" % (command, said, n, lab.said(g)))
                print("#   the way out: %s" % lab.said(g), flush=True)
                lab.intact(g, s.doomed, s.may_go, leaks=True, records=s.records)
            lab.starts(g)
    return do


STORIES = [
    (1, "delete b", ["revert a force"]),
    (1, "delete b", ["others revert a"]),
    (1, "delete b", ["others revert a", "revert c", "delete a"]),
    (1, "delete b", ["revert a force", "revert c"]),
    (2, "delete a", ["revert b force"]),
    (2, "delete b", ["commit a b"]),
    (2, "delete a", ["commit a b"]),
    (2, "delete a", ["others revert b", "commit a b"]),
    (2, "commit b c", ["revert b force"]),
    (2, "commit b c", ["others revert a", "create k"]),
    (2, "commit b c", ["revert a force keep=k"]),
    (2, "commit a b", ["delete b", "revert a force keep=k"]),
    (2, "delete b", ["revert a force keep=k", "delete c"]),
    (2, "delete c", ["revert a force", "create k"]),
    (3, "delete b", ["pull"]),
    (3, "delete b", ["virsh blockpull"]),
    (3, "delete b", ["others forget b", "delete a", "retain 1 match=*"]),
    (3, "delete b", ["virsh blockpull", "retain 1 match=*", "prune"]),
    (3, "delete a", ["virsh blockpull", "retain 1 match=*", "create d"]),
    (3, "commit a b", ["pull a", "virsh blockpull", "prune"]),
    (3, "delete b", ["pull", "retain 1 match=*", "create d", "prune"]),
]
for i, (row, command, steps) in enumerate(STORIES):
    # A short run has each story once, with the ways by turns.
    for k, (what, way) in enumerate(WAYS):
        if os.environ.get("ROWS") == "full" or k == (i + i // 4) % 4:
            case("row %d: '%s', %s, then %s" % (row, command, what, ", ".join(steps)), few=1)(
                story(command, way, *steps, hold="c" if any("retain" in s for s in steps) else ""))


@case("rule 3: what a begun command works on is its own", few=1)
def owned(lab, running, targets):
    """Until it is repeated, others of ours are told so, and change nothing."""
    g = lab.guest(running, targets, build=large(), size=SIZE)
    cancel(lab, g, lab.begin(g, "delete b"))
    for command in "commit a b", "commit b c", "commit a", "commit c", "delete a", "delete c", "pull a":
        lab.refused(g, command, "EPERM", "repeat 'delete b' first", "'pull'")
    if lab.state(g, "b") != "stale":
        raise Wrong("'b' is %s" % lab.state(g, "b"))
    if "delete b" not in str(lab.snapshots(g)["b"]["reason"]):
        raise Wrong("the reason is '%s'" % lab.snapshots(g)["b"]["reason"])
    lab.intact(g, "b")
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=overlays(g, "b"))
    for t in targets:
        if os.path.exists(g.file(t, "b")):
            raise Wrong("'%s' is still there" % g.file(t, "b"))
    lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=overlays(g, "a"))
    lab.starts(g)


@case("rule 3: a longer command finishes what had been begun, and is cancelled", few=1)
def part_of_more(lab, running, targets):
    """It says what is gone, and its repetition knows that, too."""
    g = lab.guest(running, targets, build=large(), size=SIZE)
    cancel(lab, g, lab.begin(g, "delete b"))
    job = lab.begin(g, "delete b a")
    until("the end of b", lambda: "goes on" if "b" in g.names() else None)
    until("the next job", lambda: None if g.jobs() or job.result else "is not there")
    cancel(lab, g, job)
    g.forget("b")
    if job.result != "0":
        if "1 of 2 are gone, not the others" not in lab.said(g):
            raise Wrong("it does not tell that b is gone: %s" % lab.said(g))
        lab.intact(g, "a", may_go=overlays(g, "ab"))
        lab.refused(g, "delete b c", "ENOENT", "there is no snapshot 'b'")
        lab.does(g, "delete b a")
    g.forget("a")
    lab.intact(g, may_go=overlays(g, "ab"))
    lab.starts(g)


def left_by_pull(command, doomed):
    """A pull down to nothing changes nothing that the begun command owns: that has become void by it."""
    def do(lab, running, targets):
        g = lab.guest(running, targets, build=large(), size=SIZE)
        cancel(lab, g, lab.begin(g, command))
        lab.does(g, "pull")
        lab.intact(g, doomed)
        if "'%s' was begun and has become void" % command not in lab.text(g, "log"):
            raise Wrong("the log does not say that it has become void")
        if lab.state(g, doomed) != "stale":
            raise Wrong("'%s' is %s" % (doomed, lab.state(g, doomed)))
        lab.does(g, "delete %s" % doomed)
        g.forget(doomed)
        lab.intact(g)  # and every file is there
        lab.starts(g)
    return do


case("rule 3: a pull is the way out of a merge of layers", few=1)(left_by_pull("delete b", "b"))
case("rule 3: a pull is the way out of a merge of the active layer", few=1)(left_by_pull("commit c", "c"))


@case("rule 3: what its user has begun is not retention's to finish", few=1)
def not_retention(lab, running, targets):
    g = lab.guest(running, targets, build=large(), size=SIZE)
    cancel(lab, g, lab.begin(g, "delete b"))
    files = overlays(g, "b")
    for command, door in ("9", "retain"), ("prune", "ctl"), ("9 match=*", "retain"):
        lab.fails(g, command, "EPERM", "repeat 'delete b' first", door=door)
        time.sleep(LOOK)
        if "b" not in g.names() or not all(os.path.exists(f) for f in files):
            raise Wrong("'%s' has finished what its user had stopped: %s" % (command, lab.text(g, "log")[-300:]))
        lab.intact(g, "b")
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=files)
    lab.does(g, "prune")
    lab.starts(g)


@case("rule 3: what retention has begun it finishes", few=1)
def own_retention(lab, running, targets):
    g = lab.guest(running, targets, build=large(), size=SIZE)
    job = lab.begin(g, "2 match=*", "retain")
    lab.mount.kill()
    job.over()
    lab.mount.up()
    lab.listed(g)
    lab.does(g, "prune")
    g.forget("a")
    lab.intact(g, may_go=overlays(g, "a"))
    if "a" in g.names():
        raise Wrong("'a' is still there: %s" % lab.said(g))
    lab.starts(g)


@case("rule 3: a record is away for a while, of what a command had begun to remove", few=1)
def record_away(lab, running, targets):
    """Its mark outlives that: it is no proof that the snapshot is gone."""
    g = lab.guest(running, targets, build=large(), size=SIZE)
    cancel(lab, g, lab.begin(g, "delete b"))
    record = g.record("b")
    virsh(["snapshot-delete", g.name, "b", "--metadata"])
    time.sleep(2 * LOOK)
    for command in "hold a", "release a", "try delete c", "try pull":
        lab.write(g, command)
    lab.mount.down()
    lab.mount.up()
    lab.listed_all(g, "ac")
    lab.write(g, "hold a")
    lab.write(g, "release a")
    g.redefine(record)
    lab.listed(g)
    s = lab.snapshots(g)["b"]
    if s["state"] != "stale" or "'delete b' has begun" not in str(s["reason"]):
        raise Wrong("'b' is %s, for '%s'" % (s["state"], s["reason"]))
    lab.intact(g, "b", records=False)
    lab.starts(g)


# ---------------------------------------------------------------- our word in other people's hands

def leave_paused(lab, g, command="commit a"):
    """virt-snapfs is killed, and the guest that it had started, paused, stays. Its definition, as libvirt shows it then."""
    job = lab.begin(g, command)
    text = virsh(["dumpxml", g.name])
    lab.mount.kill()
    job.over()
    until("the job", lambda: "goes on: " + g.jobs() if g.jobs() and not re.search(r"100 *%|100\.", g.jobs()) else None)
    return text


def still_there(lab, g, pid, what):
    """It outlives mounts and commands."""
    lab.mount.up()
    lab.listed(g)
    time.sleep(2)
    lab.write(g, "hold c")
    lab.write(g, "release c")
    lab.mount.down()
    lab.mount.up()
    lab.listed(g)
    time.sleep(1)
    if g.state() == "shut off" or qemu_pid(g) != pid:
        raise Wrong("%s was ended: %s" % (what, lab.text(g, "log")[-300:]))


@case("row 12: the definition that libvirt showed meanwhile is defined", SHUT_OFF, few=1)
def word_defined(lab, running, targets):
    g = lab.guest(False, targets, build=large(), size=SIZE)
    text = leave_paused(lab, g, "pull")
    lab.mount.up()
    lab.listed(g)
    until("our guest", lambda: None if g.state() == "shut off" else "is " + g.state())
    active = g.active_now()
    lab.mount.down()
    root = ET.fromstring(text)
    for disk in root.findall("devices/disk"):  # what a user would put right
        for store in disk.findall("backingStore"):
            disk.remove(store)
        disk.find("source").attrib = {"file": active[disk.find("target").get("dev")]}
    g.define(ET.tostring(root, encoding="unicode"))
    if g.active_now() != active:
        raise Wrong("the definition is for other disks: %s" % g.active_now())
    g.start()
    still_there(lab, g, qemu_pid(g), "a guest that its owner started, paused")
    lab.intact(g)


@case("row 12: a snapshot with memory is taken of our guest, and restored", SHUT_OFF, few=1)
def word_restored(lab, running, targets):
    g = lab.guest(False, targets, build=large(), size=SIZE)
    leave_paused(lab, g, "pull")
    virsh(["snapshot-create-as", g.name, "inside"])
    lab.mount.up()
    lab.listed(g)
    until("our guest", lambda: None if g.state() == "shut off" else "is " + g.state())
    lab.mount.down()
    virsh(["snapshot-revert", g.name, "inside", "--paused"])
    g.running = True
    still_there(lab, g, qemu_pid(g), "a guest that was restored paused")
    lab.intact(g)


@case("row 12: our guest is saved, and restored", SHUT_OFF, few=1)
def word_saved(lab, running, targets):
    g = lab.guest(False, targets, build=large(), size=SIZE)
    leave_paused(lab, g, "pull")
    virsh(["save", g.name, os.path.join(WORK, "saved.sav"), "--paused"])
    if g.state() != "shut off":
        raise Wrong("a saved guest is %s" % g.state())
    virsh(["restore", os.path.join(WORK, "saved.sav"), "--paused"])
    g.running = True
    os.unlink(os.path.join(WORK, "saved.sav"))
    still_there(lab, g, qemu_pid(g), "a guest that was restored paused")
    lab.intact(g)


@case("row 12: a snapshot is taken while our command runs", [(False, TWO)])
def word_in_a_record(lab, running, targets):
    """Of the disk that no job is at work on: the other one is merged meanwhile. Then back to it, and on from there."""
    g = lab.guest(False, targets, None, size=SIZE)
    for i, name in enumerate("ab"):
        g.active["vda"] = g.file("vda", name)
        virsh(["snapshot-create-as", g.name, name, "--disk-only", "--diskspec", "vda,snapshot=external,file=" + g.active["vda"],
               "--diskspec", "vdb,snapshot=no"])
        g.write("vda", 16 * (i + 1), (2 * i + 1) * MIB, PIECE)
    job = lab.begin(g, "commit a")
    answer = sh("virsh", "-q", "-c", URI, "snapshot-create-as", g.name, "theirs", "--disk-only", "--diskspec",
                "vdb,snapshot=external,file=" + g.file("vdb", "theirs"), "--diskspec", "vda,snapshot=no", check=False)
    got = job.over()
    until("our guest", lambda: None if g.state() == "shut off" else "is " + g.state())
    if answer.returncode:
        print("# libvirt did not take it: %s" % answer.stderr.strip(), flush=True)
        return
    if got != "0":
        got = lab.write(g, "commit a")
        if got != "0":
            raise Wrong("'commit a' gave %s: %s" % (got, lab.said(g)))
    g.check_present()
    if g.active_now()["vdb"] != g.file("vdb", "theirs"):
        raise Wrong("their snapshot started '%s', and the disk is '%s'" % (g.file("vdb", "theirs"), g.active_now()["vdb"]))
    lab.starts(g)
    lab.does(g, "revert theirs")
    lab.mount.down()
    g.start()
    still_there(lab, g, qemu_pid(g), "a guest that its owner started, paused, on a definition from that record")


# ---------------------------------------------------------------- other people's jobs in our guest

def theirs(how):
    def do(lab, running, targets):
        """Ours is at work on vda, theirs on vdb, and takes longer."""
        g = lab.guest(False, TWO, None, size=SIZE)
        for i, name in enumerate("ab"):
            for t, s in ("vda", name), ("vdb", "x" + name):
                g.active[t] = g.file(t, s)
                other = "vdb" if t == "vda" else "vda"
                virsh(["snapshot-create-as", g.name, s, "--disk-only", "--diskspec", "%s,snapshot=external,file=%s" % (t, g.active[t]),
                       "--diskspec", other + ",snapshot=no"])
                g.write(t, 16 * (i + 1), (2 * i + 1) * MIB, PIECE)
        g.remember()
        until("the mount", lambda: None if "xb" in lab.snapshots(g) else "does not list them")
        job = lab.begin(g, "delete a")
        words = {"blockcommit": ["blockcommit", g.name, "vdb", "--base", g.file("vdb"), "--top", g.file("vdb", "xa"), "--bandwidth", "2", "--wait"],
                 "blockpull": ["blockpull", g.name, "vdb", "--bandwidth", "2", "--wait"],
                 "snapshot-delete": ["snapshot-delete", g.name, "xa"]}[how]
        p = subprocess.Popen(["virsh", "-q", "-c", URI, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        out, _ = p.communicate(timeout=PATIENCE)
        got = job.over()
        if p.returncode:  # it may have been refused; or it was through, and the guest had gone when virsh asked how far it was
            print("# virsh %s: %s" % (how, " ".join(out.split())), flush=True)
        until("our guest", lambda: None if g.state() == "shut off" else "is " + g.state())
        if got != "0":
            if got not in ("EBUSY", "EPERM") and "this was done" not in lab.said(g):
                raise Wrong("ours gave %s: %s" % (got, lab.said(g)))
            if "a" in g.names():
                lab.does(g, "delete a")
        g.check_present()
        for t in TWO:
            lab.sound(g, False)
        below = backing(g.file("vdb", "xb"))
        if "refuse" not in out and "another active" not in out and "already in active block job" not in out:
            if below != {"blockcommit": g.file("vdb"), "blockpull": None, "snapshot-delete": g.file("vdb")}[how]:
                raise Wrong("their job was left half-way: 'vdb.xb' stands on %s; virsh said '%s'" % (below, " ".join(out.split())))
        if how == "snapshot-delete" and not p.returncode:
            if "xa" in g.names():
                raise Wrong("their delete was done, and its record is back")
            frozen = g.frozen(g.record("xb"))["vdb"]
            if frozen != g.file("vdb") or os.path.exists(g.file("vdb", "xa")):
                raise Wrong("their delete was left half-way: 'xb' is in '%s'" % frozen)
        lab.starts(g)
    return do


for how in "blockcommit", "blockpull", "snapshot-delete":
    case("row 24: virsh %s in our guest" % how, [(False, TWO)])(theirs(how))


# ---------------------------------------------------------------- whose job it is

def orphan(lab, g, command):
    """virt-snapfs is killed, and its job stays, slow enough to be found."""
    job = lab.begin(g, command)
    virsh(["blockjob", g.name, "vda", "--bandwidth", "65536", "--bytes"])
    lab.mount.kill()
    job.over()


def replaced(command, theirs):
    def do(lab, running, targets):
        """Somebody has ended it, and begun one of his own on the same disk: that is not ours to give up."""
        g = lab.guest(True, ONE, build=large(), size=SIZE)
        orphan(lab, g, command)
        virsh(["blockjob", g.name, "vda", "--abort"])
        virsh([w.replace("DIR", g.dir) for w in theirs(g)])
        lab.mount.up()
        lab.listed(g)
        before = g.jobs()
        for _ in range(2):
            lab.fails(g, command, "EBUSY", "a job is running .* has not begun")
        if not g.jobs() or g.jobs().split(":")[0] != before.split(":")[0]:
            raise Wrong("their job was '%s', and is '%s'" % (before, g.jobs()))
        virsh(["blockjob", g.name, "vda", "--abort"])
        lab.does(g, command)
        g.forget(command.split()[1])
        lab.intact(g, may_go=overlays(g, command.split()[1]) + [g.dir + "/copy"])
        lab.starts(g)
    return do


COPY = lambda g: ["blockcopy", g.name, "vda", "DIR/copy", "--transient-job", "--bandwidth", "1"]  # noqa: E731
PULL = lambda g: ["blockpull", g.name, "vda", "--bandwidth", "1"]  # noqa: E731
case("row 28: somebody's copy in place of our commit", [(True, ONE)])(replaced("delete b", COPY))
case("row 28: somebody's copy in place of our commit of the active layer", [(True, ONE)])(replaced("delete c", COPY))
case("row 28: somebody's pull in place of our commit", [(True, ONE)])(replaced("delete b", PULL))


@case("row 28: a commit into another image in place of ours", [(True, ONE)])
def other_commit(lab, running, targets):
    g = lab.guest(True, ONE, build=large(), size=SIZE)
    orphan(lab, g, "delete a")
    virsh(["blockjob", g.name, "vda", "--abort"])
    virsh(["blockcommit", g.name, "vda", "--base", g.file("vda", "a"), "--top", g.file("vda", "b"), "--bandwidth", "1"])
    lab.mount.up()
    lab.listed(g)
    lab.fails(g, "delete a", "EBUSY", "a job is running .* has not begun")
    if "Commit" not in g.jobs():
        raise Wrong("their job is '%s'" % g.jobs())


def own_job(command):
    def do(lab, running, targets):
        g = lab.guest(running, ONE, build=large(), size=SIZE)
        orphan(lab, g, command)
        lab.mount.up()
        lab.listed(g)
        lab.does(g, command)
        if running and "giving up the job" not in lab.text(g, "log"):
            raise Wrong("its job was not given up: %s" % lab.text(g, "log"))
        if command != "pull":
            g.forget(command.split()[1])
        lab.intact(g, may_go=overlays(g, command.split()[-1]))
        lab.starts(g)
    return do


for command in "delete b", "delete c", "pull":
    case("row 28: '%s' is repeated while its own job runs still" % command, [(True, ONE), (False, ONE)])(own_job(command))


# ---------------------------------------------------------------- a guest of ours that cannot be told from others'

ELSEWHERE = """
%(snapfs)s -f -o refresh=0.3 %(uri)s %(point)s >>%(log)s 2>&1 &
for i in $(seq 100); do [ -e %(point)s/%(name)s/ctl ] && break; sleep 0.1; done
sleep 1
echo '%(command)s' >%(point)s/%(name)s/ctl
echo "status $?"
head -1 %(point)s/%(name)s/ctl
fusermount3 -u %(point)s
wait
"""


def elsewhere(lab, g, command, *unshare):
    """What a mount with its own process table, network or /run makes of it."""
    script = ELSEWHERE % {"snapfs": os.environ["SNAPFS"], "uri": URI, "point": lab.mount.point + ".other", "log": lab.mount.log, "name": g.name,
                          "command": command}
    os.makedirs(lab.mount.point + ".other", exist_ok=True)
    env = dict(os.environ, STATE_DIRECTORY=os.path.join(WORK, "state.other"))
    return subprocess.run(["unshare", "-m", "--propagation", "private", *unshare, "bash", "-c", script], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, env=env).stdout


@case("row 29: a mount that cannot see QEMU among the processes", SHUT_OFF, few=1)
def out_of_sight(lab, running, targets):
    g = lab.guest(False, targets, build=large(), size=SIZE)
    lab.mount.down()
    said = elsewhere(lab, g, "delete a", "-p", "-f", "--mount-proc")
    lab.mount.up()
    lab.listed(g)
    if "EOPNOTSUPP" not in said or "be seen" not in said:
        raise Wrong("it says '%s'" % said)
    if g.state() != "shut off":
        raise Wrong("the guest is %s" % g.state())
    lab.intact(g)
    lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=overlays(g, "a"))


@case("row 29: others pretend to be its QEMU", SHUT_OFF, few=1)
def pretenders(lab, running, targets):
    g = lab.guest(False, targets, build=large(), size=SIZE)
    false = subprocess.Popen(["python3", "-c", "import time; time.sleep(300)", "-uuid", g.uuid])
    try:
        lab.does(g, "delete a")
    finally:
        false.kill()
        false.wait()
    if g.state() != "shut off":
        raise Wrong("the guest is %s" % g.state())
    g.forget("a")
    lab.intact(g, may_go=overlays(g, "a"))


@case("row 29: libvirtd hangs while the guest is being started", [(False, ONE)])
def hangs_in_start(lab, running, targets):
    """Longer than a connection is kept: the command is over before the start is. What then comes up is ended all the same."""
    g = lab.guest(False, targets, build=large(), size=SIZE)
    with open("/run/libvirtd.pid") as f:
        daemon = int(f.read())
    job = lab.begin(g, "delete a", until_it_writes=False)
    until("QEMU", lambda: None if sh("pgrep", "-f", "--", "-uuid " + g.uuid, check=False).stdout.strip() else "is not there")
    os.kill(daemon, signal.SIGSTOP)
    time.sleep(26)
    os.kill(daemon, signal.SIGCONT)
    got = job.over()
    until("the guest", lambda: None if g.state() == "shut off" else "is %s (the delete gave %s: %s)" % (g.state(), got, lab.text(g, "log")[-600:]), 40)
    if got != "0":
        lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=overlays(g, "a"))
    lab.starts(g)


# ---------------------------------------------------------------- what appears while we are busy

@case("row 31: what appears while a repair is at work is looked at by retention", [(False, TWO)])
def appears_during_repair(lab, running, targets):
    """It waits for somebody's copy in the guest that it is to end."""
    g = lab.guest(False, TWO, build=large("ab"), size=SIZE)
    lab.does(g, "1 match=x*", "retain")
    leave_paused(lab, g, "pull")
    virsh(["blockcopy", g.name, "vdb", g.dir + "/copy", "--transient-job"])
    lab.mount.up()
    lab.listed(g)
    until("the repair", lambda: None if re.search("wait for the job that another tool", lab.text(g, "log")) else "does not wait: %s" % lab.text(g, "log"))
    for i in 1, 2:
        g.redefine(re.sub(r"<creationTime>(\d+)</", lambda m: "<creationTime>%d</" % (int(m.group(1)) + i),
                          g.record("b").replace("<name>b</name>", "<name>x%d</name>" % i)))
    until("they", lambda: None if "x2" in lab.snapshots(g) else "are not listed")
    virsh(["blockjob", g.name, "vdb", "--abort"])
    until("retention", lambda: "does not come: %s" % lab.text(g, "log") if "x1" in g.names() else None, 30)
    if sorted(g.names()) != ["a", "b", "x2"]:
        raise Wrong("left are %s" % g.names())
    lab.intact(g, may_go=[g.dir + "/copy"])


# ---------------------------------------------------------------- mounts beside each other

@case("row 30: two mounts with other environments share the lock", few=1)
def shared_lock(lab, running, targets):
    g = lab.guest(running, targets, build=large(), size=SIZE)
    job = lab.begin(g, "delete b")
    virsh(["blockjob", g.name, "vda", "--bandwidth", "65536", "--bytes"])
    os.environ["RUNTIME_DIRECTORY"] = os.path.join(WORK, "run.other")
    try:
        said = elsewhere(lab, g, "hold c")
    finally:
        del os.environ["RUNTIME_DIRECTORY"]
    virsh(["blockjob", g.name, "vda", "--bandwidth", "100"])
    if job.over() != "0":
        raise Wrong("the delete gave %s: %s" % (job.result, lab.said(g)))
    if "EBUSY" not in said:
        raise Wrong("the other mount says '%s'" % said)
    g.forget("b")
    lab.intact(g, may_go=overlays(g, "b"))


@case("row 30: what a mount stores that shares no lock is kept", few=1)
def no_shared_lock(lab, running, targets):
    """As in a container, with a network and a /run of its own."""
    g = lab.guest(running, targets, build=large(), size=SIZE)
    job = lab.begin(g, "delete b")
    virsh(["blockjob", g.name, "vda", "--bandwidth", "65536", "--bytes"])
    said = elsewhere(lab, g, "hold c", "-n", "sh", "-c", "mount -t tmpfs -o mode=0700 tmpfs /run/virt-snapfs && exec \"$@\"", "sh")
    virsh(["blockjob", g.name, "vda", "--bandwidth", "100"])
    got = job.over()
    if "status 0" not in said:
        raise Wrong("the other mount says '%s'" % said)
    if got == "EBUSY":  # the next disk's, which was not begun
        lab.does(g, "delete b")
    elif got != "0":
        raise Wrong("the delete gave %s: %s" % (got, lab.said(g)))
    g.forget("b")
    until("the hold", lambda: None if lab.snapshots(g)["c"]["held"] else "is lost: %s" % lab.text(g, "log")[-600:], 5)
    lab.fails(g, "delete c", "EPERM", "held")
    lab.intact(g, may_go=overlays(g, "b"))


# ---------------------------------------------------------------- what libvirt refuses before a byte is written

def lock_against_writing(path):
    """As QEMU says 'I do not share writing': nobody can merge into it until this is closed."""
    fd = os.open(path, os.O_RDONLY)
    fcntl.fcntl(fd, 37, struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0))  # F_OFD_SETLK
    return fd


def nothing_written(lab, g, command, files, want, pattern):
    """It fails, nothing was written, it says so, and nobody owns anything afterwards."""
    before = [bytes_of(f) for f in files]
    said = lab.fails(g, command, want, pattern)
    if re.search("has been written|was written to", said) and not re.search("nothing (was|has been) written", said):
        raise Wrong("it says that something was written: %s" % said)
    if not re.search("nothing|unchanged|as (it|they) (was|were)|not a byte", said):
        raise Wrong("it does not say that nothing was written: %s" % said)
    if [bytes_of(f) for f in files] != before:
        raise Wrong("'%s' has written" % command)
    lab.intact(g)  # none of them is stale
    marks = [n for n, s in lab.snapshots(g).items() if s["state"] != "ok"]
    if marks:
        raise Wrong("they are not ok: %s" % marks)


@case("row 25: a delete that libvirt refuses before a byte is written")
def refused_below(lab, running, targets):
    g = lab.guest(running, targets, build=large(), size=SIZE)
    for command, base in (("delete b", "a"), ("delete a", None), ("commit a b", None)):
        files = [g.file(t, base) for t in targets]
        fds = [lock_against_writing(f) for f in files]
        try:
            nothing_written(lab, g, command, files, "EBUSY|EPERM|EOPNOTSUPP|EIO", "lock|write")
            if (g.state() == "shut off") == running:
                raise Wrong("the guest is %s" % g.state())
        finally:
            for fd in fds:
                os.close(fd)
        lab.does(g, "try delete c")
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=overlays(g, "b"))
    lab.starts(g)


@case("row 25: a delete in a domain that cannot be started", SHUT_OFF, few=1)
def cannot_start(lab, running, targets):
    g = lab.guest(False, targets, build=large(), size=SIZE)
    g.os_xml = "<kernel>/nowhere/kernel</kernel>"
    g.define()
    time.sleep(LOOK)
    for command, base in (("delete b", "a"), ("delete a", None), ("commit a b", None)):
        nothing_written(lab, g, command, [g.file(t, base) for t in targets], "EIO|EPERM|EOPNOTSUPP|EBUSY", "start|kernel")
    g.os_xml = ""
    g.define()
    time.sleep(LOOK)
    lab.does(g, "try delete c")
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=overlays(g, "b"))
    lab.starts(g)


@case("row 25: a delete at once after the snapshot, in a domain that cannot be started", SHUT_OFF, few=1)
def cannot_start_at_once(lab, running, targets):
    """No time stamp proves that nothing was written then: it is known because libvirt had not been asked yet."""
    g = lab.guest(False, targets, history="", size=SIZE)
    g.os_xml = "<kernel>/nowhere/kernel</kernel>"
    g.define()
    lab.listed(g)
    files = [g.file(t) for t in targets]
    g.fill(0x31, 0, MIB)
    for f in files:
        s = os.stat(f)
        os.utime(f, ns=(s.st_atime_ns, s.st_mtime_ns // 10**9 * 10**9))  # as a file system without fractions of seconds has it
    g.snap("a")
    g.flush()
    lab.listed(g)
    nothing_written(lab, g, "delete a", files, "EIO|EPERM|EOPNOTSUPP|EBUSY", "start|kernel")


if __name__ == "__main__":
    main("refresh=0.3,bandwidth=3", by_day=True)
