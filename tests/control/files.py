# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Whose a file is: see tests/suites/files.sh and witness.py.

files.py MOUNTPOINT. Active layers that were removed, guests that stand on the mount itself, strangers' files at planned paths, two
domains that write one image.
"""
import contextlib
import os
import re
import shutil
import threading
import time

from guests import MIB, WORK, Wrong, bytes_of, sh, until, virsh
from images import NO, by_bind, by_hard_link, by_path, by_symlink, retention_keeps
from witness import ALL, LOOK, ONE, RUNNING, SHUT_OFF, TWO, case, main


# ---------------------------------------------------------------- the active overlay removed under a running guest

def removed(replaced):
    def do(lab, running, targets):
        g = lab.guest(True, targets, "ab")
        path = g.file("vda", "b")
        os.unlink(path)
        if replaced:
            sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", g.file("vda", "a"), "-F", "qcow2", path)
        g.remember()
        for again in False, True:  # before the next look of the mount, and after it
            for command in "delete a", "delete b", "commit a", "commit b", "commit a b", "pull", "pull a", "create n":
                said = lab.refused(g, command, NO, re.escape(path))
                if not re.search("removed|replaced|another file|gone", said) or not re.search("virsh|sav", said):
                    raise Wrong("it does not say what has happened and what can be saved: %s" % said)
            time.sleep(LOOK)
        if not replaced:  # a look at the file alone does not show it
            lab.chain_says(g, re.escape(path), "missing|removed|replaced|another file")
        retention_keeps(lab, g, path)
        found = re.search(r"'(virsh blockcopy [^']*)'", lab.fails(g, "delete a", NO))
        if not found:
            raise Wrong("there is no advice to follow: %s" % lab.said(g))
        words = [os.path.join(g.dir, "saved") if w == "NEWFILE" else w for w in found.group(1).split()[1:]]
        virsh(words)
        g.remember()
        g.check_present()  # what the guest had written is there again
        if bytes_of(os.path.join(g.dir, "saved")) != g.present["vda"]:
            raise Wrong("what was saved by '%s' is not what the guest had" % found.group(1))
        for name in "ab":
            until("the snapshots", lambda: lab.unharmed(g, name))
    return do


case("row 7: the active overlay removed under a running guest", RUNNING, few=1)(removed(False))
case("row 7: the active overlay replaced under a running guest", RUNNING, few=1)(removed(True))


# ---------------------------------------------------------------- guests that stand on the mount itself

@contextlib.contextmanager
def throw_away(lab, g, snapshot, running, source=None):
    """A domain that boots from what the mount shows, with an overlay of its own."""
    h = lab.guest(False, g.targets, None)
    for t in g.targets:
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", source or lab.path(g, "%s.%s.img" % (snapshot, t)), "-F", "raw", h.file(t))
        h.present[t] = bytearray(g.wanted[snapshot][t])
        h.write(t, 0x77, MIB, 65536)
    h.remember()
    if running:
        h.start()
    try:
        yield h
    finally:
        h.end()
        lab.guests.remove(h)


@case("row 8: a guest stands on a file of this mount")
def on_the_mount(lab, running, targets):
    g = lab.guest(running, targets, "abc")
    for theirs_runs in False, True:
        with throw_away(lab, g, "b", theirs_runs) as h:
            g.remember()
            time.sleep(LOOK)
            h.check_present()
            for command in ["delete b", "commit b"] + ["commit a"] * ("a" in g.wanted):
                lab.refused(g, command, NO, h.name, also=[h])
            lab.chain_says(g, h.name)
            lab.write(g, "2 match=*", "retain")  # drops a, whose image may stay as it is
            lab.does(g, "off", "retain")
            if "a" in g.wanted and "a" not in g.names():
                g.forget("a")
            h.check_present()
            lab.intact(g)
    until("it is free again", lambda: None if lab.write(g, "try delete b") == "0" else lab.said(g))
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=[g.file(t, n) for t in targets for n in "ab"])
    lab.starts(g)


@case("row 8: a domain stands on a file that is made while it is read", SHUT_OFF)
def on_what_is_made(lab, running, targets):
    g = lab.guest(running, targets, "abc")
    for name, those in ("qcow2/b.vda.qcow2", ["b"]), ("diff/a..b.vda.qcow2", ["a", "b"]):
        h = lab.guest(False, ONE, None)
        image = h.file("vda")
        os.unlink(image)
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", lab.path(g, name), "-F", "qcow2", image)
        g.remember()
        time.sleep(LOOK)
        for n in those:
            lab.refused(g, "delete %s" % n, NO, h.name)
        sh("qemu-img", "check", "-q", image)
        lab.intact(g)
        h.end()
        lab.guests.remove(h)
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=[g.file(t, n) for t in targets for n in "ab"])


@case("row 8: a disk is a loop device on an image of the domain itself", SHUT_OFF, few=1)
def own_loop(lab, running, targets):
    """And on a file that was removed since: then it may be any."""
    g = lab.guest(False, targets, "ab")
    device = sh("losetup", "-f", "--show", "-r", g.file("vda", "a")).stdout.strip()
    try:
        disk = ("<disk type='block' device='disk'><driver name='qemu' type='qcow2'/><source dev='%s'/><target dev='vdz' bus='virtio'/>"
                "<readonly/></disk></devices>")
        g.define(g.xml().replace("</devices>", disk % device))
        g.remember()
        lab.refused(g, "commit b", NO, "vdz|%s" % device)
        g.define()
        h = lab.guest(False, ONE, None)
        other = os.path.join(h.dir, "other")
        os.link(h.file("vda"), other)
        sh("losetup", "-d", device)
        device = sh("losetup", "-f", "--show", "-r", other).stdout.strip()
        os.unlink(other)
        h.define(h.xml().replace("</devices>", disk % device))
        g.remember()
        lab.refused(g, "commit b", NO, device + ".*removed")
        h.define()
    finally:
        sh("losetup", "-d", device)
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=[g.file(t, "b") for t in targets])


@case("row 8: a guest stands on a loop device on a file of this mount")
def on_a_loop(lab, running, targets):
    g = lab.guest(running, ONE, "abc")
    p = sh("losetup", "-r", "-f", "--show", lab.path(g, "b.vda.img"), check=False)
    if p.returncode:
        print("# no loop device can be had here: %s" % p.stderr.strip(), flush=True)
        return
    device = p.stdout.strip()
    try:
        with throw_away(lab, g, "b", False, device) as h:
            g.remember()
            time.sleep(LOOK)
            h.check_present()
            for command in "delete b", "commit b", "commit a":
                lab.refused(g, command, NO, h.name + "|" + device, also=[h])
            h.check_present()
            lab.intact(g)
    finally:
        sh("losetup", "-d", device)


# ---------------------------------------------------------------- a stranger's file at the planned path

@case("row 10: a stranger's file is there first")
def stranger_first(lab, running, targets):
    g = lab.guest(running, targets, "a")
    said = lab.does(g, "try create n")
    planned = re.findall(r"would create '([^']*)'", said)
    if len(planned) != len(targets):
        raise Wrong("try create names %s" % planned)
    with open(planned[-1], "wb") as f:
        f.write(b"a stranger's\n")
    g.remember()
    if lab.write(g, "create n") == "0":
        g.note("n", "external")
    lab.intact(g)
    with open(planned[-1], "rb") as f:
        if f.read() != b"a stranger's\n":
            raise Wrong("the stranger's file was written to")
    os.unlink(planned[-1])
    g.remember()
    lab.starts(g)


@case("row 10: a stranger makes a file while the overlay is made", few=1)
def stranger_meanwhile(lab, running, targets):
    """However the race ends: the file that a stranger has made is there, and either the snapshot is as it must be or nothing is left."""
    g = lab.guest(running, targets, "a")
    won = lost = 0
    for i in range(int(os.environ.get("RACES", "6"))):
        name = "n%d" % i
        path = re.findall(r"would create '([^']*)'", lab.does(g, "try create %s" % name))[-1]
        mine = []

        def stranger():
            end = time.monotonic() + 10
            while time.monotonic() < end and not mine and not job.result:
                try:
                    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                    os.write(fd, b"a stranger's\n")
                    mine.append(os.fstat(fd).st_ino)
                    os.close(fd)
                except FileExistsError:
                    return
                time.sleep(0.0005)
        job = lab.begin(g, "create %s" % name, until_it_writes=False)
        time.sleep(0.004 * i)
        thread = threading.Thread(target=stranger)
        thread.start()
        got = job.over()
        thread.join()
        if got == "0":
            g.note(name, "external")
        if mine:
            won += 1
            if not os.path.exists(path) or os.stat(path).st_ino != mine[0]:
                raise Wrong("the stranger's file '%s' is gone or another: create gave %s: %s" % (path, got, lab.said(g)))
            with open(path, "rb") as f:
                if f.read() != b"a stranger's\n":
                    raise Wrong("the stranger's file was written to")
            os.unlink(path)
            g.remember()
        else:
            lost += 1
        lab.intact(g)
        extra = set(g.names()) - set(g.wanted)
        if extra:
            raise Wrong("a failed create has left the record %s" % extra)
    print("# the stranger was first %d times, and too late %d times" % (won, lost), flush=True)
    lab.starts(g)


@case("row 10: a stranger's file after a create that was killed", few=1)
def stranger_after_a_crash(lab, running, targets):
    """At every point of create. The file that was being made is removed and a stranger's is put there: it stays."""
    point = 0
    while True:
        point += 1
        g = lab.guest(running, targets, "a")
        ours = re.findall(r"would create '([^']*)'", lab.does(g, "try create n"))
        path = ours[-1]
        lab.mount.arm(point)
        lab.write(g, "create n")
        left, _ = lab.mount.disarm()
        if left:
            if point == 1:
                raise Wrong("there are no fault points; is this a build with -Dfaults=true?")
            lab.starts(lab.guests[-2])
            return
        lab.mount.after_death()
        if "n" not in g.names():
            with open(path + ".tmp", "wb") as f:
                f.write(b"a stranger's\n")
            os.rename(path + ".tmp", path)
            g.remember()
            lab.mount.up()
            lab.listed(g)
            got = lab.write(g, "create n")
            with open(path, "rb") as f:
                if f.read() != b"a stranger's\n":
                    raise Wrong("point %d: the stranger's file was replaced; create again gave %s: %s" % (point, got, lab.said(g)))
            if got == "0":
                g.note("n", "external")
            lab.intact(g, may_go=ours[:-1])
        else:
            g.note("n", "external")
            lab.mount.up()
            lab.listed(g)
            until("after the crash", lambda: lab.unharmed(g, "n"))
            lab.intact(g)


# ---------------------------------------------------------------- what an interrupted command has left, and somebody uses

def left_over(use):
    def do(lab, running, targets):
        """A create dies when its overlay is complete. @use makes it somebody's: then it stays, whatever is asked of g. Returned to
        nobody, it goes with the next create."""
        for point in range(1, 100):
            g = lab.guest(False, ONE, "a")
            path = re.findall(r"would create '([^']*)'", lab.does(g, "try create n"))[-1]
            lab.mount.arm(point)
            lab.write(g, "create n")
            left, _ = lab.mount.disarm()
            if left:
                raise Wrong("there is no point at which the overlay is there and the snapshot is not")
            lab.mount.after_death()
            if "n" not in g.names() and os.path.exists(path) and os.path.getsize(path):
                break
            lab.mount.up()
            lab.listed(g)
        h = lab.guest_unseen(ONE)
        with use(h, path) as name:
            g.remember()
            lab.mount.up()
            lab.listed(g)
            lab.chain_says(g, re.escape(name))
            for command in "create n", "create o", "revert a":
                got = lab.write(g, command)
                if got == "0" and command[:6] == "create":
                    g.note(command[-1], "external")
                elif got == "0":
                    g.reverted("a")
                    g.active = g.active_now()
                if path in g.vanished():
                    raise Wrong("'%s', which %s uses, is gone after '%s': %s" % (path, name, command, lab.said(g)))
                g.remember()
            if h.active["vda"] == path:
                h.check_present()
        lab.starts(g)
    return do


@contextlib.contextmanager
def is_disk(h, path, runs=False):
    h.become(path)
    if runs:
        h.start()
    try:
        yield h.name
    finally:
        if runs:
            h.stop()
        h.become(h.file("vda"))


@contextlib.contextmanager
def is_running_disk(h, path):
    with is_disk(h, path, True) as name:
        yield name


@contextlib.contextmanager
def is_base(h, path):
    """Of an image that no domain has."""
    other = os.path.join(os.path.dirname(path), "other.qcow2")
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", other)
    yield other
    os.unlink(other)


case("row 28: a left-over is another domain's disk", SHUT_OFF, few=1)(left_over(is_disk))
case("row 28: a left-over is a running domain's disk", SHUT_OFF, few=1)(left_over(is_running_disk))
case("row 28: another image stands on a left-over", SHUT_OFF, few=1)(left_over(is_base))


# ---------------------------------------------------------------- files that records call a snapshot's memory

def with_memory(name, resume=True):
    def build(g):
        g.snap(name)
        g.waiting.pop()
        if resume:
            g.waiting.append(["resume", g.name])  # of a guest that never ran QEMU does not get its images back after it has saved its memory
        g.waiting.append(["snapshot-create-as", g.name, name, "--memspec", "file=%s,snapshot=external" % os.path.join(g.dir, name + ".mem")] +
                         [w for t in g.targets for w in ("--diskspec", "%s,snapshot=external,file=%s" % (t, g.file(t, name)))])
        g.fill(0x21, 0, 65536)
    return build


@case("row 29: two records name one file of saved memory", RUNNING, few=1)
def shared_memory(lab, running, targets):
    g = lab.guest(True, targets, build=with_memory("m"))
    g.stop()
    memory = os.path.join(g.dir, "m.mem")
    g.redefine(re.sub("<name>m</name>", "<name>twin</name>", g.record("m"), 1))
    g.remember()
    time.sleep(LOOK)
    for command in "try delete m", "delete m":
        if "m.mem' must stay" not in lab.does(g, command):
            raise Wrong("'%s' does not say that the memory stays: %s" % (command, lab.said(g)))
    if not os.path.exists(memory):
        raise Wrong("the memory of 'twin' is gone: %s" % lab.said(g))
    said = lab.does(g, "delete twin")
    if os.path.exists(memory):
        raise Wrong("the memory is nobody's, and has stayed: %s" % said)


@case("row 29: a record calls somebody's file its memory", RUNNING, few=1)
def no_memory(lab, running, targets):
    """Another domain's disk, one of its own layers, what libvirt saved of another domain, a text, a link to its own memory."""
    g = lab.guest(True, targets, build=with_memory("m"))
    h = lab.guest(True, ONE, build=with_memory("m"))
    g.stop()
    h.stop()
    memory = os.path.join(g.dir, "m.mem")
    text, link = os.path.join(g.dir, "text"), os.path.join(g.dir, "link")
    with open(text, "w") as f:
        f.write("a stranger's\n")
    os.symlink(memory, link)
    record = g.record("m")
    for other in h.file("vda"), h.file("vda", "m"), g.file(targets[0]), os.path.join(h.dir, "m.mem"), text, link:
        g.redefine(re.sub("<name>m</name>", "<name>liar</name>", record, 1).replace(memory, other))
        g.remember()
        h.remember()
        time.sleep(LOOK)
        said = lab.does(g, "try delete liar")
        if "would unlink '%s'" % other in said:
            raise Wrong("it would: %s" % said)
        said = lab.does(g, "delete liar")
        gone = [p for p in g.vanished() + h.vanished()]
        if gone:
            raise Wrong("'delete' of a record that calls '%s' its memory has removed %s" % (other, gone))
        if os.path.basename(other) not in said:
            raise Wrong("it does not say that '%s' stays: %s" % (other, said))
    os.unlink(link)
    os.unlink(text)
    g.remember()
    lab.does(g, "delete m")
    if os.path.exists(memory):
        raise Wrong("the memory of 'm' has stayed: %s" % lab.said(g))


@case("row 29: a revert to memory that is another's, or of another time", RUNNING, few=1)
def other_memory(lab, running, targets):
    """libvirt starts whoever the file says, on the disks that it says."""
    g = lab.guest(True, targets, build=with_memory("m"))
    h = lab.guest(True, ONE, build=with_memory("m"))
    with_memory("n", resume=False)(g)
    g.flush()
    lab.listed(g)
    g.stop()
    h.stop()
    memory = os.path.join(g.dir, "m.mem")
    own = memory + ".own"
    shutil.copy2(memory, own)
    for other, why in (os.path.join(h.dir, "m.mem"), "is the memory of domain '%s'" % h.name), (os.path.join(g.dir, "n.mem"), "saved after snapshot 'm'"):
        shutil.copy2(other, memory)
        os.utime(memory, ns=(os.stat(own).st_mtime_ns,) * 2)
        lab.refused(g, "revert m", "EPERM", why, also=(h,))
    shutil.copy2(own, memory)
    later = os.stat(own).st_mtime_ns + 60 * 10**9
    os.utime(memory, ns=(later, later))
    lab.refused(g, "revert m", "EPERM", "was written after snapshot 'm'", also=(h,))
    shutil.copy2(own, memory)
    os.unlink(own)
    lab.does(g, "revert m")
    if g.state() not in ("running", "paused") or h.state() != "shut off":
        raise Wrong("after the revert it is '%s', the other one '%s'" % (g.state(), h.state()))
    g.running = True


# ---------------------------------------------------------------- layers behind symbolic links

@case("row 30: an overlay was moved, and a symbolic link left in its place", SHUT_OFF, few=1)
def moved_and_linked(lab, running, targets):
    g = lab.guest(False, targets, "ab")
    away = g.dir + ".away"
    os.mkdir(away)
    g.dirs.append(away)
    links = []
    for t in targets:
        os.rename(g.file(t, "a"), os.path.join(away, t + ".a"))
        os.symlink(os.path.join(away, t + ".a"), g.file(t, "a"))
        links.append(g.file(t, "a"))
    g.remember()
    time.sleep(LOOK)
    for command in "try delete a", "delete a":
        if "symbolic link, and only regular files are removed: remove it and what it leads to" not in lab.does(g, command) or "would unlink" in lab.said(g):
            raise Wrong("'%s' does not say why the file stays: %s" % (command, lab.said(g)))
    g.forget("a")
    lab.intact(g)
    lab.starts(g)


# ---------------------------------------------------------------- two domains that write one image

def two_writers(path_by):
    def do(lab, running, targets):
        g = lab.guest(running, targets, "ab")
        h = lab.guest(False, ONE, None)
        with path_by(g.file(targets[-1], "b")) as name:
            h.active["vda"] = name
            h.define()
            g.remember()
            time.sleep(LOOK)
            for command in "create n", "create n disks=%s" % targets[-1]:
                lab.refused(g, command, NO, h.name, also=[h])
            if not running:
                lab.refused(h, "create n", NO, g.name, also=[g])
            lab.chain_says(g, h.name)
            lab.intact(g)
            h.active["vda"] = h.file("vda")
            h.define()
        g.remember()
        until("it has one writer", lambda: None if lab.write(g, "try create n") == "0" else lab.said(g), 20)
        lab.does(g, "create n")
        g.note("n", "external")
        lab.intact(g)
        lab.starts(g)
    return do


for what, way in [("by the same path", by_path), ("by a symbolic link", by_symlink), ("by a bind mount", by_bind), ("by a hard link", by_hard_link)]:
    case("row 26: another domain writes the image %s" % what, few=1)(two_writers(way))



# ---------------------------------------------------------------- files that are named elsewhere than in headers and definitions

def overlay(path, below):
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", path)


def needs_it(lab, g, h, who):
    """@h stands on what b froze."""
    lab.chain_says(g, who)
    before = bytes_of(g.file("vda", "a"))
    for command in "commit b", "commit a b", "delete a":
        got = lab.write(g, "try " + command)
        if command != "delete a":
            lab.refused(g, command, "EPERM", who, also=[h])
        elif got != "0" and not re.search(who, lab.said(g)):
            raise Wrong("'try %s' gave %s: %s" % (command, got, lab.said(g)))
    lab.does(g, "delete b")
    g.forget("b")
    if bytes_of(g.file("vda", "a")) != before:
        raise Wrong("what '%s' needs has been written to" % h.name)
    lab.intact(g, may_go=[g.file("vdb", n) for n in "ab"])
    lab.starts(h)


@case("row 13: another domain's managed save names it, and its definition does not any more")
def managed_save(lab, running, targets):
    g = lab.guest(running, targets, "abc")
    h = lab.guest(False, ONE, None)
    own, path = h.file("vda"), os.path.join(g.dir, "neighbour")
    overlay(path, g.file("vda", "a"))
    h.become(path)
    h.start()
    virsh(["managedsave", h.name])
    h.running = False
    saved = h.present["vda"]
    h.become(own)
    h.active["vda"], h.present["vda"] = path, saved  # by which it starts once more
    g.remember()
    needs_it(lab, g, h, "'%s' .disk vda, in its managed save" % h.name)


@case("row 13: another domain's managed save cannot be read", few=1)
def managed_save_unreadable(lab, running, targets):
    g = lab.guest(running, targets, "abc")
    h = lab.guest(False, ONE, None)
    h.start()
    virsh(["managedsave", h.name])
    h.running = False
    with open("/var/lib/libvirt/qemu/save/%s.save" % h.name, "r+b") as f:
        f.write(b"garbage, which is no header")
    lab.chain_says(g, "managed save of domain '%s'" % h.name)
    for command in "delete b", "commit b", "delete c":
        lab.refused(g, command, "EPERM", "managed save of domain '%s'" % h.name, also=[h])
    virsh(["managedsave-remove", h.name])
    lab.does(g, "delete b")


@case("row 14: another domain's definition names it in <backingStore>, and the image does not")
def backing_store(lab, running, targets):
    g = lab.guest(running, targets, "abc")
    h = lab.guest(False, ONE, None)
    h.within = {"vda": "<backingStore type='file'><format type='qcow2'/><source file='%s'/></backingStore>" % g.file("vda", "a")}
    h.define()
    g.remember()
    needs_it(lab, g, h, "'%s' .disk vda, by the <backingStore> of its definition" % h.name)


@case("row 14: its own definition names in <backingStore> what the image does not any more", SHUT_OFF)
def own_backing_store(lab, running, targets):
    g = lab.guest(True, targets, "ab")  # so that libvirt writes the chain into the definition
    virsh(["destroy", g.name])
    g.running = False
    sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", g.file("vda", "b"))
    g.remember()
    lab.chain_says(g, "<backingStore>.*another chain")
    for command in "delete b", "delete a", "commit b", "commit a b", "pull", "create n", "revert a":
        lab.refused(g, command, "EPERM", "<backingStore>")
    virsh(["start", g.name, "--paused"], ["destroy", g.name])
    sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", g.file("vda", "a"), "-F", "qcow2", g.file("vda", "b"))
    until("the headers agree again", lambda: None if lab.write(g, "try delete b") == "0" else lab.said(g))
    lab.intact(g)
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=[g.file(t, "b") for t in targets])
    lab.starts(g)


# ---------------------------------------------------------------- what a revert will write to

def gives_back(clone):
    def do(lab, running, targets):
        """vdb took no part and was detached; by now it is another domain's, or that stands on it."""
        g = lab.guest(False, TWO, None)
        lab.does(g, "create s disks=vda")
        path = vdb = g.file("vdb")
        g.targets = ONE
        virsh(["detach-disk", g.name, "vdb", "--config"])
        words = virsh(["domblklist", g.name]).split()
        g.active = {"vda": words[words.index("vda") + 1]}
        h = lab.guest(False, ONE, None)
        own = h.file("vda")
        if clone:
            path = os.path.join(h.dir, "clone")
            overlay(path, vdb)
        h.become(path)
        g.remember()
        time.sleep(LOOK)
        for command in "revert s", "revert s keep=k":
            lab.refused(g, command, "EPERM", re.escape(vdb), h.name, also=[h])
        lab.starts(h)
        h.become(own)
        os.unlink(path) if clone else None
        g.remember()
        until("nobody needs it", lambda: None if lab.write(g, "try revert s") == "0" else lab.said(g))
        lab.does(g, "revert s")
        if "vdb" not in virsh(["domblklist", g.name]):
            raise Wrong("vdb did not come back")
    return do


case("row 15: revert would give back a disk that is another domain's by now", SHUT_OFF[:1])(gives_back(False))
case("row 15: revert would give back a disk that another domain stands on by now", SHUT_OFF[:1])(gives_back(True))


@case("an internal snapshot in an image that is no disk any more", SHUT_OFF, few=1)
def no_disk(lab, running, targets):
    """No newer layer stands on it: that is not said, and `try prune` knows that it would stay."""
    g = lab.guest(False, targets, "")
    lab.does(g, "create i internal")
    for t in targets:
        new = g.file(t) + ".new"
        sh("qemu-img", "convert", "-O", "qcow2", g.active[t], new)
        g.active[t] = new
    g.define()
    lab.does(g, "hold i")
    lab.does(g, "release i")
    for command in "delete i", "revert i":
        lab.refused(g, command, "EOPNOTSUPP", "on which no disk of the domain stands any more")
    lab.write(g, "1 match=*", "retain")
    lab.write(g, "create z internal")
    lab.does(g, "try prune")
    if "'i' would stay: internal snapshot 'i' is stored in" not in lab.said(g):
        raise Wrong("try prune says '%s'" % lab.said(g))
    lab.write(g, "off", "retain")


@case("row 15: revert to an internal snapshot in an image that another domain stands on", SHUT_OFF)
def under_clone(lab, running, targets):
    g = lab.guest(False, targets, None)
    lab.does(g, "create i internal")
    h = lab.guest(False, ONE, None)
    own, path = h.file("vda"), os.path.join(h.dir, "clone")
    overlay(path, g.file(targets[-1]))
    h.become(path)
    g.remember()
    time.sleep(LOOK)
    lab.refused(g, "revert i", "EPERM", re.escape(g.file(targets[-1])), h.name, also=[h])
    lab.starts(h)
    h.become(own)
    os.unlink(path)
    until("nobody needs it", lambda: None if lab.write(g, "try revert i") == "0" else lab.said(g))
    lab.does(g, "revert i")


@case("row 17: a snapshot was told to use a file that was there", SHUT_OFF[:1])
def reused(lab, running, targets):
    """It stands alone, or on what the snapshot froze; either is older than the snapshot."""
    for below in None, True:
        g = lab.guest(False, ONE, "a")
        path = os.path.join(g.dir, "precious")
        sh("qemu-img", "create", "-q", "-f", "qcow2", *(["-b", g.file("vda", "a"), "-F", "qcow2"] if below else []), path, "2M")
        time.sleep(1.2)
        g.remember()
        virsh(["snapshot-create-as", g.name, "u", "--disk-only", "--reuse-external", "--diskspec", "vda,file=" + path])
        until("u", lambda: None if lab.state(g, "u") else "is not listed")
        g.remember()
        for command in "revert u", "revert a", "delete u":
            lab.does(g, command)
            if not os.path.exists(path):
                raise Wrong("'%s' has unlinked what no snapshot made: %s" % (command, lab.said(g)))


@case("row 33: what a domain had in a directory of its own", SHUT_OFF[:1])
def own_directory(lab, running, targets):
    """Nobody names an image in it any more, also when this is mounted anew; one of them is encrypted."""
    disk = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vdb' bus='virtio'/></disk>"
    for again, encrypted in (False, False), (True, False), (True, True):
        g, h = lab.guest(False, ONE, None), lab.guest(False, ONE, None)
        for name in "ab":
            lab.does(g, "create " + name)
            g.note(name, "external")
        own = os.path.join(WORK, "own", g.name)
        os.makedirs(own)
        clone = os.path.join(own, "clone")
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", g.file("vda", "a.qcow2"), "-F", "qcow2", clone)
        h.define(h.xml().replace("</devices>", disk % clone + "</devices>"))
        time.sleep(2 * LOOK)
        h.define()
        if encrypted:
            os.unlink(clone)

            def made():
                p = sh("qemu-img", "create", "-q", "--object", "secret,id=s,data=abc", "-f", "qcow2", "-o",
                       "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "-b", g.file("vda", "a.qcow2"), "-F", "qcow2", clone, check=False)
                return None if p.returncode == 0 else p.stderr  # it measures how fast the machine is
            until("an encrypted overlay", made)
        if again:
            lab.mount.down()
            lab.mount.up()
            until("the mount", lambda: None if os.path.isdir(lab.path(g)) else "is not up")
        time.sleep(LOOK)
        for command in "commit a", "delete a", "delete b":
            lab.write(g, command)
            if not os.path.exists(g.file("vda", "a.qcow2")):
                raise Wrong("'%s' has removed what '%s' stands on: %s" % (command, clone, lab.said(g)))
        sh("rm", "-r", own)


@case("row 37: QEMU goes by a <backingStore> that says something else than the header", RUNNING[1:])
def said_otherwise(lab, running, targets):
    """What is read by the headers is not what the guest sees."""
    g = lab.guest(False, ONE, None)
    for name, byte in ("one", 1), ("two", 2):
        sh("qemu-img", "create", "-q", "-f", "qcow2", os.path.join(g.dir, name), str(2 * MIB))
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P %d 0 1M" % byte, os.path.join(g.dir, name))
    os.unlink(g.file("vda"))
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", os.path.join(g.dir, "one"), "-F", "qcow2", g.file("vda"))
    source = "<source file='%s'/>" % g.file("vda")
    g.define(g.xml().replace(source, source + "<backingStore type='file'><format type='qcow2'/><source file='%s/two'/><backingStore/></backingStore>" % g.dir))
    virsh(["start", g.name, "--paused"])
    time.sleep(LOOK)
    for command in "try create a", "create a":
        lab.fails(g, command, "EPERM", "backingStore")
    virsh(["snapshot-create-as", g.name, "v", "--disk-only"])
    until("v", lambda: None if lab.state(g, "v") == "unsupported" else lab.state(g, "v"))
    if os.path.exists(lab.path(g, "v.vda.img")):
        raise Wrong("'v' is shown")
    virsh(["destroy", g.name])


@case("row 38: a domain was undefined, and its files are left", SHUT_OFF[:1])
def left_lying(lab, running, targets):
    """That is nobody else's trouble, while what they are known to stand on is needed."""
    g, h = lab.guest(False, ONE, "ab"), lab.guest(False, ONE, "abc")
    virsh(*[["snapshot-delete", h.name, n, "--metadata"] for n in "cba"], ["undefine", h.name])
    time.sleep(2 * LOOK)
    lab.does(g, "delete a")
    g.forget("a")
    if os.path.exists(g.file("vda", "a")):
        raise Wrong("'a' was not merged: %s" % lab.said(g))
    for name in "b":
        until(name, lambda: lab.unharmed(g, name))
    h.define()
    h.wanted.clear()


@case("row 38: the overlay of a domain that was undefined, by a link that is gone, and one that cannot be followed", SHUT_OFF[:1])
def left_standing(lab, running, targets):
    """It lies where nobody has an image any more, stands on ours, and is needed for all that."""
    for how in "by a linked directory", "by a linked file", "which cannot be followed":
        g, h = lab.guest(False, ONE, "ab"), lab.guest(False, ONE, None)
        away = os.path.join(WORK, "away-" + h.name)
        link = os.path.join(WORK, "link-" + h.name)
        os.makedirs(away)
        overlay = os.path.join(away, "theirs.qcow2")
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", g.file("vda", "a"), "-F", "qcow2", overlay)
        if how == "by a linked directory":
            os.symlink(away, link)
            path = os.path.join(link, "theirs.qcow2")
        elif how == "by a linked file":
            os.symlink(overlay, link)
            path = link
        else:
            sh("qemu-img", "create", "-q", "-f", "qed", "-b", g.file("vda", "a"), "-F", "qcow2", os.path.join(away, "old.qed"))
            path = overlay
        h.define(h.xml().replace(h.file("vda"), path))
        time.sleep(LOOK)
        lab.refused(g, "commit a", NO, h.name)
        virsh(["undefine", h.name])
        if path != overlay:
            os.unlink(link)
        else:
            os.unlink(overlay)
        time.sleep(2 * LOOK)
        lab.refused(g, "commit a", NO, "theirs.qcow2" if path != overlay else "old.qed")
        if not re.search("vda.a' (stays|must stay)", (lab.write(g, "try delete b"), lab.said(g))[1]):
            raise Wrong("'try delete b': %s" % lab.said(g))
        lab.intact(g)
        sh("rm", "-r", away)
        h.define()


@case("row 34: a chain that only QEMU has told of", RUNNING[1:])
def told_by_qemu(lab, running, targets):
    """The template lies where no definition says, so only the live one names it: what was shown is shown when the guest is off."""
    g = lab.guest(False, ONE, None)
    template = os.path.join(WORK, "elsewhere", g.name)
    os.makedirs(template)
    template = os.path.join(template, "template")
    os.rename(g.file("vda"), template)
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", template, "-F", "qcow2", g.file("vda"))
    g.start()
    g.running = True
    for name in "ab":
        lab.does(g, "create " + name)
        g.note(name, "external")
    for name in "ab":
        until(name, lambda: lab.unharmed(g, name))
    with open(lab.path(g, "a.vda.img"), "rb") as f:
        f.read(4096)
        lab.does(g, "try revert a force")
        lab.does(g, "revert a force")
        f.seek(0)
        if f.read() != g.wanted["a"]["vda"]:
            raise Wrong("who has 'a' open reads other bytes")
    until("a", lambda: lab.unharmed(g, "a"))
    sh("rm", "-r", os.path.dirname(template))


@case("row 35: revert keep= with a disk that was detached since", SHUT_OFF[1:])
def keeps_what_is_there(lab, running, targets):
    g = lab.guest(False, TWO, "a")
    both = g.xml()
    g.targets = ["vda"]
    g.define()
    time.sleep(LOOK)
    lab.does(g, "revert a keep=k")
    disks = [d["target"] for d in lab.snapshots(g)["k"]["disks"]]
    if disks != ["vda"]:
        raise Wrong("'k' has %s" % disks)
    lab.does(g, "revert k")
    g.targets = list(TWO)
    g.define(both)


@case("row 36: what a definition says of a disk's part in snapshots", ALL[:2])
def parts(lab, running, targets):
    """snapshot='no' leaves it out unless it is named; a shareable one cannot take part, and try says so."""
    g = lab.guest(False, TWO, None)
    g.define(g.xml().replace("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/>" % g.file("vdb"),
                             "<disk type='file' device='disk' snapshot='no'><driver name='qemu' type='qcow2'/><source file='%s'/>" % g.file("vdb")))
    if running:
        virsh(["start", g.name, "--paused"])
        g.running = True
    time.sleep(LOOK)
    for command in "try create a", "create a":
        if not re.search("vdb (would be|was) left out", lab.does(g, command)):
            raise Wrong("'%s': %s" % (command, lab.said(g)))
    lab.does(g, "create b disks=vdb")
    disks = {n: [d["target"] for d in s["disks"]] for n, s in lab.snapshots(g).items()}
    if disks != {"a": ["vda"], "b": ["vdb"]}:
        raise Wrong("the snapshots have %s" % disks)
    h = lab.guest(False, ONE, None)
    raw = os.path.join(h.dir, "raw")
    sh("qemu-img", "create", "-q", "-f", "raw", raw, "1M")
    h.define(h.xml().replace("</devices>", "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/>"
                             "<target dev='vdb' bus='virtio'/><shareable/></disk></devices>" % raw))
    if running:
        virsh(["start", h.name, "--paused"])
        h.running = True
    time.sleep(LOOK)
    h.remember()
    lab.refused(h, "create a", "EOPNOTSUPP", "vdb.*shareable.*disks=")
    lab.does(h, "create a disks=vda")


@case("row 33: an overlay on a disk that was detached needs what it stands on", SHUT_OFF[:1])
def detached_disk(lab, running, targets):
    """A linked clone of a frozen image is a disk of another domain, which takes a snapshot, gives the disk back, and deletes the snapshot: its
    overlay is nobody's now, and stands on the first one's images."""
    disk = ("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vdb' bus='virtio'/></disk>")
    for how, through in ("delete a", True), ("commit a", True), ("1 match=*", True), ("delete a", False), ("pull", False):
        g, h = lab.guest(False, ONE, None), lab.guest(False, ONE, None)
        for name in "ab":
            lab.does(g, "create " + name)
            g.note(name, "external")
            sh("qemu-io", "-f", "qcow2", "-c", "write -q -P %d 1M 64k" % ord(name), g.active_now()["vda"])
            g.present["vda"][MIB:MIB + 65536] = bytes([ord(name)]) * 65536
        base = g.file("vda") if how != "pull" else os.path.join(g.dir, "vda.a.qcow2")
        clone = os.path.join(h.dir, "clone")
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", clone)
        h.define(h.xml().replace("</devices>", disk % clone + "</devices>"))
        time.sleep(LOOK)
        lab.does(h, "create s disks=vdb")
        overlay = [f for f in os.listdir(h.dir) if f.startswith("clone.s")]
        overlay = os.path.join(h.dir, overlay[0])
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 90 0 64k", overlay)
        if not through:  # the clone itself goes: the overlay stands on the base
            sh("qemu-img", "rebase", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay)
        was = bytes_of(overlay)
        h.define()
        time.sleep(LOOK)
        lab.does(h, "delete s")
        if not through:
            os.unlink(clone)
        time.sleep(LOOK)
        lab.write(g, how, "retain" if "match" in how else "ctl")
        if how == "pull":
            lab.write(g, "delete b a")
        if bytes_of(overlay) != was:
            raise Wrong("'%s' has changed what '%s' shows: %s" % (how, overlay, lab.said(g)))
        g.check_present()


@case("row 31: somebody else's active commit is given up, and the guest goes on", RUNNING)
def given_up(lab, running, targets):
    """It went into an image that a snapshot has just frozen. The overlay is younger, and the next mount has seen nothing."""
    for names in "a", "ab":
        g = lab.guest(True, ONE, None, size=8 * MIB)
        g.fill(0x31, 0, 8 * MIB)
        g.flush()
        for name in names:
            lab.does(g, "create " + name)
            g.note(name, "external")
        g.fill(0x41, 0, 8 * MIB)
        g.flush()
        lab.mount.down()
        virsh(["blockcommit", g.name, "vda", "--active", "--shallow", "--bandwidth", "2"], ["blockjob", g.name, "vda", "--abort"])
        until("the job", lambda: None if "No current block job" in g.jobs() or not g.jobs().strip() else g.jobs())
        g.fill(0x51, 0, 65536)
        g.flush()
        g.stop()
        lab.mount.up()
        last = names[-1]
        until("a look", lambda: None if lab.state(g, last) else "not listed")
        if lab.state(g, last) != "stale":
            raise Wrong("'%s' is %s, and its image was written to: %s" % (last, lab.state(g, last), lab.reads(g, last)))
        for name in names[:-1]:
            until("'%s' reads" % name, lambda: lab.unharmed(g, name))


if __name__ == "__main__":
    main(by_day=True)
