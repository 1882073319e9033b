# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""What is not known is needed: see tests/suites/unknown.sh and witness.py.

unknown.py MOUNTPOINT. Images that went, that cannot be read, that are reached by other paths, that are not ours to read.
"""
import os
import pwd
import re
import subprocess
import time

from guests import MIB, PATIENCE, SNAPFS, URI, WORK, Mount, Wrong, bytes_of, sh, until, virsh
from images import NO, PATHS, WAYS, by_file, new_directory, rebase, renamed, retention_keeps
from lab import write_file
from witness import ALL, LOOK, ONE, SHUT_OFF, Lab, case, differences, main, picture


# ---------------------------------------------------------------- images that cannot be read

def active_overlay(way, reason):
    def do(lab, running, targets):
        """base <- a <- b; what b started is the active layer."""
        g = lab.guest(running, targets, "ab")
        path = g.file(targets[-1], "b")
        name = re.escape(path)
        with way(path):
            g.remember()
            time.sleep(LOOK)
            for command in "delete b", "delete a", "commit b", "commit a b", "pull", "create n":
                lab.refused(g, command, NO, name, reason)
            lab.chain_says(g, name, reason)
            retention_keeps(lab, g, path)
        g.remember()
        lab.listed(g)
        until("it can be read again", lambda: lab.unharmed(g, "b"))
        lab.intact(g)
        lab.starts(g)
        lab.does(g, "delete b")
        g.forget("b")
        lab.intact(g, may_go=[g.file(t, "b") for t in targets])
        lab.starts(g)
    return do


for what, way, reason in WAYS:
    case("row 5: the active overlay %s" % what, SHUT_OFF, few=1)(active_overlay(way, reason))


def neighbours_overlay(way, reason):
    """Another domain, shut off, stands on what b froze."""
    def do(lab, running, targets):
        g = lab.guest(running, targets, "abc")
        path = os.path.join(g.dir, "neighbour")
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", g.file("vda", "a"), "-F", "qcow2", path)
        h = lab.guest(False, ONE, None)
        h.active["vda"] = path
        h.present["vda"] = bytearray(g.wanted["b"]["vda"])
        h.define()
        g.remember()
        until("chain", lambda: None if h.name in lab.text(g, "chain") else "does not know %s" % h.name, 10)
        with way(path):
            g.remember()
            time.sleep(LOOK)
            for command in "commit b", "commit a b", "delete b", "delete a":
                if way is renamed and command == "delete b":  # seen where it lies, so it is known: files may stay, records go
                    break
                lab.refused(g, command, NO, "neighbour|" + h.name, also=[h])
            if way is not renamed:
                retention_keeps(lab, g, path)
        g.remember()
        lab.intact(g)
        h.check_present()
        lab.starts(h)
        until("it can be seen again", lambda: None if lab.write(g, "try delete b") == "0" else lab.said(g))
        lab.does(g, "delete b")
        g.forget("b")
        lab.intact(g, may_go=[g.file("vdb", "b")])  # the neighbour needs all of the other disk's
        h.check_present()
        lab.starts(h)
        lab.starts(g)
    return do


for i, (what, way, reason) in enumerate(WAYS):
    case("row 5: a neighbour's overlay %s" % what, few=i % 2)(neighbours_overlay(way, reason))


def middle_layer(way, reason):
    def do(lab, running, targets):
        """base <- a <- b <- c (active); what b started cannot be read."""
        g = lab.guest(running, targets, "abc")
        path = g.file(targets[-1], "b")
        with way(path):
            g.remember()
            time.sleep(LOOK)
            for command in "delete a", "delete b", "delete c", "commit a", "commit a c", "pull", "pull b", "create n":
                lab.refused(g, command, NO, re.escape(path))
            lab.chain_says(g, re.escape(path), reason)
            retention_keeps(lab, g, path)
        g.remember()
        until("it can be read again", lambda: lab.unharmed(g, "c"))
        lab.intact(g)
        lab.does(g, "delete b")
        g.forget("b")
        lab.intact(g, may_go=[g.file(t, "b") for t in targets])
        lab.starts(g)
    return do


def other_branch(way, reason):
    def do(lab, running, targets):
        """base <- a <- b, which froze k, and beside it the branch of the active layer, that begins at a."""
        g = lab.guest(running, targets, "ab")
        lab.does(g, "revert a force keep=k")
        g.running = False
        g.note("k", "external")
        g.reverted("a")
        if running:
            g.start()
        path = g.file(targets[-1], "b")
        with way(path):
            g.remember()
            time.sleep(LOOK)
            lab.refused(g, "delete b", NO, re.escape(path))
            lab.refused(g, "commit a", NO, re.escape(path) + "|not beneath the active layer")
            lab.chain_says(g, re.escape(path), reason)
        g.remember()
        until("it can be read again", lambda: lab.unharmed(g, "k"))
        lab.intact(g)
        lab.starts(g)
    return do


for what, way, reason in WAYS[:3]:
    case("row 5: a layer in the middle %s" % what, few=1)(middle_layer(way, reason))
for what, way, reason in WAYS[:1] + WAYS[2:4]:
    case("row 5: a layer of another branch %s" % what, few=1)(other_branch(way, reason))


# ---------------------------------------------------------------- other paths to the same file

def rightly_or_not_at_all(lab, g, command, forgotten, may_go):
    """Either is right: to see that it is the same file and do it well, or to refuse it and change nothing."""
    before = picture(*lab.guests)
    tried, got = lab.write(g, "try " + command), lab.write(g, command)
    said = lab.said(g)
    if tried != got:
        raise Wrong("'%s' gave %s, and 'try' had given %s: %s" % (command, got, tried, said))
    if got == "0":
        for name in forgotten:
            g.forget(name)
        lab.intact(g, may_go=may_go)
    else:
        if got not in NO.split("|"):
            raise Wrong("'%s' gave %s: %s" % (command, got, said))
        changed = differences(before, picture(*lab.guests))
        if changed:
            raise Wrong("'%s' was refused (%s) and has changed %s" % (command, said, "; ".join(changed)[:700]))
    lab.starts(g)
    return got


def own_chain(path_by):
    def do(lab, running, targets):
        """The active layer names what is beneath it in another way. QEMU takes all of them."""
        g = lab.guest(False, targets, "ab")
        with path_by(g.file("vda", "a")) as name:
            rebase(g.file("vda", "b"), name)
            if path_by is by_file:  # libvirt does not start such a one
                g.remember()
                lab.refused(g, "delete b", NO, re.escape(name))
                rebase(g.file("vda", "b"), g.file("vda", "a"))
                lab.starts(g)
                return
            if running:
                g.start()
            g.remember()
            time.sleep(LOOK)
            g.check_present()
            for command, gone in ("delete b", "b"), ("delete a", "a"):
                time.sleep(2 * LOOK)  # a guest that was started has told what its disks stand on
                blind = "is not followed" in lab.text(g, "chain")
                got = rightly_or_not_at_all(lab, g, command, gone, [g.file(t, gone) for t in targets] + [name] * (command == "delete a"))
                if blind and got == "0":
                    raise Wrong("'%s' says ok, and nobody knows what the disk stands on: %s" % (command, lab.said(g)))
    return do


def neighbours_path(path_by):
    def do(lab, running, targets):
        """A neighbour stands on what b froze and names it in another way."""
        g = lab.guest(running, targets, "abc")
        h = lab.guest(False, ONE, None)
        with path_by(g.file("vda", "a")) as name:
            rebase(h.file("vda"), name)
            h.present["vda"] = bytearray(bytes_of(h.file("vda")))
            g.remember()
            time.sleep(LOOK)
            for command in "commit b", "commit a b":
                lab.refused(g, command, NO, h.name + "|" + re.escape(h.file("vda")), also=[h])
            # These may keep the file, and the record goes. Nothing may be written to.
            files = [g.file("vda"), g.file("vda", "a")]
            before = [bytes_of(f) for f in files]
            rightly_or_not_at_all(lab, g, "delete b", "b", [g.file(t, "b") for t in targets[1:]])
            if "vdb" in targets:
                g.remember()
            h.check_present()
            rightly_or_not_at_all(lab, g, "delete a", "a", [g.file(t, n) for t in targets[1:] for n in "ab"])
            h.check_present()
            if [bytes_of(f) for f in files] != before:
                raise Wrong("what the neighbour stands on has been written to")
            if path_by is not by_file:  # which libvirt does not start
                lab.starts(h)
            rebase(h.file("vda"), g.file("vda", "a"))
            lab.starts(h)
    return do


def only_neighbour(path_by):
    def do(lab, running, targets):
        """After a revert nobody stands on what b froze but the neighbour."""
        g = lab.guest(running, targets, "ab")
        lab.does(g, "revert a force")
        g.running = False
        g.reverted("a")
        if running:
            g.start()
        h = lab.guest(False, ONE, None)
        with path_by(g.file("vda", "a")) as name:
            rebase(h.file("vda"), name)
            h.present["vda"] = bytearray(bytes_of(h.file("vda")))
            g.remember()
            time.sleep(LOOK)
            rightly_or_not_at_all(lab, g, "delete b", "b", [g.file(t, "a") for t in targets[1:]])
            h.check_present()
            if path_by is not by_file:  # which libvirt does not start
                lab.starts(h)
    return do


for what, way in PATHS:
    case("row 5: the active overlay names its backing file %s" % what, few=1, cells=SHUT_OFF if way is by_file else ALL)(own_chain(way))
for what, way in PATHS:
    case("row 5: a neighbour names its backing file %s" % what, few=1)(neighbours_path(way))

for what, way in PATHS:
    case("row 5: only a neighbour stands on it, and names it %s" % what, few=1)(only_neighbour(way))


@case("row 5: the active overlay is cut off in its data", SHUT_OFF, few=1)
def cut_in_its_data(lab, running, targets):
    """QEMU opens it, and reads zeros."""
    g = lab.guest(False, targets, "ab")
    path = g.file(targets[-1], "b")
    s = os.stat(path)
    with open(path, "rb") as f:
        data = f.read()
    os.truncate(path, s.st_size - MIB // 4)
    g.remember()
    for command in "delete b", "commit b", "commit a b", "delete a":
        lab.refused(g, command, NO, re.escape(path) + ".*cut off")
    with open(path, "r+b") as f:
        f.write(data)
    os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns))
    g.remember()
    until("it is whole again", lambda: lab.unharmed(g, "b"))
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=[g.file(t, "b") for t in targets])


# ---------------------------------------------------------------- images that no domain names

def image_beside(make, reason, pool=False):
    def do(lab, running, targets):
        """Whatever lies in a directory of the guest's, or in its pool, and stands on what b froze. The mount knows the directory already,
        and the command follows at once."""
        g = lab.guest(running, targets, "ab")
        if pool:
            virsh(["pool-create-as", "p" + g.name, "dir", "--target", g.dir])
        spare = os.path.join(g.dir, "spare")
        with open(spare, "wb") as f:
            f.write(bytes(MIB))
        time.sleep(2 * LOOK + 2)  # it is not young any more when it becomes an image
        try:
            overlay = make(g, spare)
            g.remember()
            fmt = "qed" if overlay.endswith("qed") else "qcow2"
            before = bytes_of(overlay, fmt)
            lab.refused(g, "commit b", NO, reason)
            if fmt == "qed":
                lab.refused(g, "delete b", NO, reason)
            elif not re.search("stays.*" + reason, lab.does(g, "try delete b")):  # what stands on it is known: a file may stay
                raise Wrong("'try delete b' says %s" % lab.said(g))
            if bytes_of(overlay, fmt) != before:
                raise Wrong("what stands on it reads as something else")
            lab.chain_says(g, reason)
            os.unlink(overlay)
            g.remember()
            lab.does(g, "delete b")
        finally:
            if pool:
                virsh(["pool-destroy", "p" + g.name])
        g.forget("b")
        lab.intact(g, may_go=[g.file(t, "b") for t in targets])
    return do


def overlay_on(g, path, fmt="qcow2"):
    sh("qemu-img", "create", "-q", "-f", fmt, "-b", g.file("vda", "a"), "-F", "qcow2", path)
    return path


def in_place(g, spare):
    """Nothing about the directory changes."""
    return overlay_on(g, spare)


def behind_a_link(g, spare):
    there = overlay_on(g, os.path.join(new_directory(), "there"))
    os.symlink(there, os.path.join(g.dir, "link.qcow2"))
    return os.path.join(g.dir, "link.qcow2")


def of_another_format(g, spare):
    return overlay_on(g, os.path.join(g.dir, "overlay.qed"), "qed")


for what, make, reason in [("a file that becomes an overlay in place", in_place, "spare"),
                           ("an overlay that a symbolic link leads to", behind_a_link, "link.qcow2"),
                           ("an overlay of another format", of_another_format, "overlay.qed.*QED")]:
    case("row 5: beside the image lies %s" % what, few=1)(image_beside(make, reason))
    case("row 5: in the pool lies %s" % what, few=1)(image_beside(make, reason, pool=True))


@case("row 5: beside the image lies what can stand on nothing", few=1)
def harmless_beside(lab, running, targets):
    g = lab.guest(running, targets, "ab")
    for fmt in "raw", "qcow2", "qed", "vmdk", "vdi", "vpc", "vhdx":
        sh("qemu-img", "create", "-q", "-f", fmt, os.path.join(g.dir, "new." + fmt), "1M")
    for split in "monolithicFlat", "twoGbMaxExtentSparse":
        sh("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=" + split, os.path.join(g.dir, split + ".vmdk"), "1M")
    for name, data in ("cd.iso", bytes(32769) + b"CD001"), ("notes.txt", b"QED and QFI, KDMV and the rest\n"), ("empty", b""), ("short", b"QF"):
        with open(os.path.join(g.dir, name), "wb") as f:
            f.write(data)
    for name, target in ("iso", "cd.iso"), (".#lock", "root@here.1:2"), ("up", ".."), ("null", "/dev/null"):
        os.symlink(target, os.path.join(g.dir, name))
    os.mkfifo(os.path.join(g.dir, "fifo"))
    time.sleep(LOOK)
    lab.does(g, "delete b")
    g.forget("b")
    for name in "fifo", "null", "up", ".#lock":  # which intact() could not read
        os.unlink(os.path.join(g.dir, name))
    g.remember()
    lab.intact(g, may_go=[g.file(t, "b") for t in targets])


@case("row 5: beside the image lies a link to what is away", few=1)
def link_to_nothing(lab, running, targets):
    g = lab.guest(running, targets, "ab")
    there = os.path.join(new_directory(), "there")
    os.symlink(there, os.path.join(g.dir, "link.qcow2"))
    g.remember()
    lab.refused(g, "delete b", NO, "link.qcow2.*" + re.escape(there) + ".*missing")
    overlay_on(g, there)
    lab.refused(g, "commit b", NO, "link.qcow2")
    os.unlink(os.path.join(g.dir, "link.qcow2"))
    g.remember()
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=[g.file(t, "b") for t in targets])


@case("row 5: a raw image is a part of another one", SHUT_OFF, few=1)
def part_of_another(lab, running, targets):
    def build(g):
        for t in targets:
            sh("qemu-img", "convert", "-f", "qcow2", "-O", "raw", g.active[t], g.active[t] + ".raw")
            os.rename(g.active[t] + ".raw", g.active[t])
        g.define(g.xml().replace("type='qcow2'", "type='raw'"))
        g.history("a")
    g = lab.guest(False, targets, build=build)
    text = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 4096 FLAT "%s" 0\n'
    with open(os.path.join(g.dir, "disk.vmdk"), "w") as f:
        f.write(text % os.path.basename(g.file("vda")))
    g.remember()
    lab.refused(g, "delete a", NO, "disk.vmdk.*part")
    os.unlink(os.path.join(g.dir, "disk.vmdk"))
    g.remember()
    lab.does(g, "delete a")
    if any(bytes_of(g.file(t), "raw") != g.present[t] for t in targets):
        raise Wrong("the raw image has not what the guest had")


# ---------------------------------------------------------------- a user who may not read them

NOBODY = pwd.getpwnam("nobody")


def become_nobody():
    os.setgroups([])
    os.setresgid(NOBODY.pw_gid, NOBODY.pw_gid, NOBODY.pw_gid)
    os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)


def as_nobody(function, *args):
    """What it returns, as text. A mount shows itself to its owner alone."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become_nobody()
            out = str(function(*args))
        except OSError as e:
            out = "OSError %s" % e
        os.write(w, out.encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return text


class NobodysLab(Lab):
    def text(self, g, name):
        def read(path):
            with open(path) as f:
                return f.read()
        return as_nobody(read, self.path(g, name))

    def write(self, g, command, door="ctl", patience=PATIENCE):
        return as_nobody(lambda: write_file(self.path(g, door), command + "\n", patience) or "0")


class NobodysMount(Mount):
    """Of a user of libvirt's group, as far as the socket goes."""

    def up(self):
        os.chmod("/run/libvirt/libvirt-sock", 0o777)
        os.makedirs(os.path.join(WORK, "nobody"), exist_ok=True)
        for p in self.point, os.path.join(WORK, "nobody"):
            os.chown(p, NOBODY.pw_uid, NOBODY.pw_gid)
        self.log = os.path.join(WORK, "nobody.log")
        env = dict(os.environ, STATE_DIRECTORY=os.path.join(WORK, "nobody"))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([SNAPFS, "-f", "-o", self.options, URI, self.point], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=env, preexec_fn=become_nobody)

        def mounted():
            if self.process.poll() is not None:
                return "it ended with %s: %s" % (self.process.returncode, open(self.log).read()[-500:])
            with open("/proc/self/mounts") as f:
                return None if " %s " % self.point in f.read() else "it does not mount"
        until("virt-snapfs as nobody", mounted)


@case("row 6: the overlays are root's, and the mount another user's")
def not_readable(lab, running, targets):
    g = lab.guest(running, targets, "ab")
    for t in targets:
        for n in "ab":
            os.chmod(g.file(t, n), 0o600)
    theirs = NobodysLab(NobodysMount(os.path.join(WORK, "nobodys")))
    os.makedirs(theirs.mount.point, exist_ok=True)
    theirs.mount.up()
    try:
        until("nobody's mount", lambda: None if '"b"' in theirs.text(g, "snapshots.json") else "does not list 'b'")
        for command in "delete b", "delete a", "commit b", "commit a b", "pull", "create n":
            theirs.refused(g, command, "EACCES|EPERM", "Permission denied|EACCES|may not")
        theirs.chain_says(g, re.escape(g.file("vda", "a")), "Permission denied|may not")
        states = {n: (s["state"], s["reason"]) for n, s in theirs.snapshots(g).items()}
        if states["b"][0] != "unsupported" or not re.search("Permission denied|may not", states["b"][1] or ""):
            raise Wrong("'b' is %s" % (states["b"],))
        if theirs.write(g, "1 match=*", "retain") == "HANGS" or g.names() != ["a", "b"]:
            raise Wrong("retention without a right to read: libvirt has %s" % g.names())
        lab.intact(g)
    finally:
        sh("umount", theirs.mount.point, check=False)
        theirs.mount.process.wait(PATIENCE)
        sh("umount", "-l", theirs.mount.point, check=False)
    with open(theirs.mount.log) as f:
        if re.search("Sanitizer|runtime error", f.read()):
            raise Wrong("a sanitizer report from nobody's mount")
    lab.starts(g)


if __name__ == "__main__":
    main(by_day=True)
