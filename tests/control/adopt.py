# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Layers that no record names: see tests/suites/adopt.sh and witness.py.

adopt.py MOUNTPOINT. What backup programs do that die half-way: `virsh snapshot-create-as --no-metadata`.
"""
import os
import re
import time

from guests import MIB, Wrong, sh, until, virsh
from witness import ALL, LOOK, ONE, RUNNING, SHUT_OFF, TWO, case, main


def leave(g, name):
    """A backup program puts overlays on the disks, copies what they stand on, and dies. Gives what it had to copy."""
    g.flush()
    command = ["snapshot-create-as", g.name, name, "--disk-only", "--no-metadata"]
    was = {t: bytes(g.present[t]) for t in g.targets}
    for t in g.targets:
        g.active[t] = g.file(t, name)
        command += ["--diskspec", "%s,snapshot=external,file=%s" % (t, g.active[t])]
    virsh(command)
    for t in g.targets:
        g.write(t, 0x5a, MIB, 65536)
    g.flush()
    g.remember()
    return was


def adopted(g, name, was, parent=None):
    """Into the books."""
    g.wanted[name], g.kinds[name], g.parents[name] = was, "external", parent


@case("a layer that a backup program has left", ALL)
def left(lab, running, targets):
    g = lab.guest(running, targets, "")
    was = leave(g, "tmp")
    until("the layer", lambda: None if g.file("vda", "tmp") in lab.text(g, "chain") else lab.text(g, "chain"))
    lab.chain_says(g, "no snapshot froze it")
    if "would be" not in lab.does(g, "try adopt monday") or g.names():
        raise Wrong("'try adopt monday': %s; libvirt has %s" % (lab.said(g), g.names()))
    lab.does(g, "adopt monday desc=\"left by a backup\"")
    adopted(g, "monday", was)
    g.current = "monday"
    lab.intact(g)
    if "frozen at monday" not in lab.text(g, "chain") or "left by a backup" not in g.record("monday"):
        raise Wrong("chain: %s; the record: %s" % (lab.text(g, "chain"), g.record("monday")))
    if lab.snapshots(g)["monday"]["ours"]:
        raise Wrong("'monday' counts as taken here")
    lab.refused(g, "adopt tuesday", "EPERM", "nothing to adopt")
    lab.does(g, "create tuesday")
    g.note("tuesday", "external", "monday")
    lab.does(g, "hold monday")
    lab.fails(g, "delete monday", "EPERM")
    lab.does(g, "release monday")
    lab.does(g, "delete monday")
    g.forget("monday")
    lab.intact(g, may_go=[g.file(t, "tmp") for t in targets])
    if any(os.path.exists(g.file(t, "tmp")) for t in targets):
        raise Wrong("the overlay was merged and is still there: %s" % lab.said(g))
    lab.starts(g)


@case("reverting to what was left", ALL)
def reverted(lab, running, targets):
    g = lab.guest(running, targets, "")
    was = leave(g, "tmp")
    lab.does(g, "adopt monday")
    adopted(g, "monday", was)
    lab.does(g, "revert monday keep=now" + (" force" if running else ""))
    g.note("now", "external", "monday")
    for t in targets:
        g.present[t] = bytearray(was[t])
    g.running, g.current = False, "monday"
    lab.intact(g)
    lab.does(g, "delete now")
    g.forget("now")
    lab.intact(g, may_go=[g.file(t, n) for t in targets for n in ("tmp", "now.qcow2")])
    lab.starts(g)


@case("a layer that was left between snapshots", ALL)
def between(lab, running, targets):
    """Before it and after it others were taken: the record goes between them."""
    g = lab.guest(running, targets, "a")
    was = leave(g, "tmp")
    g.snap("b")
    g.fill(0x41, 0, 65536)
    g.flush()
    g.remember()
    until("b", lambda: None if lab.state(g, "b") == "ok" else lab.state(g, "b"))
    lab.does(g, "adopt m")
    adopted(g, "m", was, "a")
    g.parents["b"] = "m"
    lab.intact(g)
    if [n for n in g.names()] != ["a", "m", "b"] or virsh(["snapshot-current", g.name, "--name"]).strip() != "b":
        raise Wrong("libvirt has %s, and the current one is %s" % (g.names(), virsh(["snapshot-current", g.name, "--name"])))
    lab.does(g, "commit m")
    g.forget("m")
    lab.intact(g, may_go=[g.file(t, "tmp") for t in targets])
    lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=[g.file(t, n) for t in targets for n in ("tmp", "a")])
    lab.starts(g)


@case("a record that was removed", SHUT_OFF)
def again(lab, running, targets):
    """virsh snapshot-delete --metadata, of the newest and of one between others."""
    for gone in "b", "a":
        g = lab.guest(running, targets, "ab")
        was = g.wanted[gone]
        virsh(["snapshot-delete", g.name, gone, "--metadata"])
        g.forget(gone)
        g.remember()
        until("it is gone", lambda: "is there" if gone in lab.snapshots(g) else None)
        lab.does(g, "adopt back")
        adopted(g, "back", was, "a" if gone == "b" else None)
        for name in sorted(g.wanted):  # by its own records libvirt 9.0 would read another file, since it removed that one
            until(name, lambda: lab.unharmed(g, name))
        lab.does(g, "delete back")
        g.forget("back")
        for name in sorted(g.wanted):
            until(name, lambda: lab.unharmed(g, name))
        g.check_present()
        lab.starts(g)


@case("what is no snapshot is not made one", SHUT_OFF[:1])
def refusals(lab, running, targets):
    g = lab.guest(False, ("vda", "vdb"), "")
    for command, errno, why in ("adopt x", "EPERM", "nothing to adopt"), ("adopt x disks=vdz", "ENOENT", "no disk 'vdz'"), \
            ("adopt x disks=vda", "EPERM", "vda stands on no layer"):
        lab.refused(g, command, errno, why)
    leave(g, "tmp")
    time.sleep(LOOK)
    lab.fails(g, "adopt x/y disks=", "EINVAL")
    time.sleep(3)
    sh("qemu-io", "-U", "-f", "qcow2", "-c", "write -q -P 9 0 512", g.file("vdb"), check=False)
    with open(g.file("vdb"), "r+b") as f:
        f.seek(0x50000)
        f.write(b"x")
    g.remember()
    lab.refused(g, "adopt x", "EPERM", "vdb.*was written to after")
    os.utime(g.file("vdb"), (time.time() + 600, time.time() + 600))
    time.sleep(LOOK)
    lab.refused(g, "adopt x", "EPERM", "vdb: the time of .* lies ahead of the clock")
    lab.does(g, "adopt x disks=vda")
    lab.refused(g, "adopt x", "EEXIST", "there is a snapshot 'x' already")
    if lab.state(g, "x") != "ok":
        raise Wrong(lab.state(g, "x"))
    h = lab.guest(False, ONE, None)
    virsh(["snapshot-create-as", h.name, "i"])
    leave(h, "tmp")
    lab.fails(h, "adopt x", "EPERM", "internal")


@case("what is written to when it is new is not made one", SHUT_OFF[:1])
def new_and_written(lab, running, targets):
    """Within the seconds that no time tells apart: nothing stays of it."""
    g = lab.guest(False, ONE, "")
    lab.does(g, "create t")
    virsh(["snapshot-delete", g.name, "t", "--metadata"])
    with open(g.file("vda"), "r+b") as f:
        f.seek(0x50000)
        f.write(b"x")
    until("it is gone", lambda: "is there" if "t" in lab.snapshots(g) else None)
    for name in "u", "t":  # also by another name: the note is of the file
        lab.refused(g, "adopt " + name, "EPERM", "written to after 't' had been taken")
        lab.fails(g, "adopt " + name, "EPERM", "written to after 't' had been taken")
    if g.names():
        raise Wrong("libvirt has %s" % g.names())


@case("what was noted before it was merged and written to says nothing of a layer that was left later", RUNNING[:1])
def noted_before(lab, running, targets):
    g = lab.guest(True, ONE, "")
    lab.does(g, "create t")
    g.flush()
    overlay = g.active_now()["vda"]
    virsh(["blockcommit", g.name, "vda", "--active", "--pivot", "--wait"], ["snapshot-delete", g.name, "t", "--metadata"])
    os.unlink(overlay)
    g.active["vda"] = g.file("vda")
    time.sleep(4)
    g.write("vda", 0x33, MIB, 65536)
    g.flush()
    was = leave(g, "tmp")
    until("the layer", lambda: None if g.file("vda", "tmp") in lab.text(g, "chain") else lab.text(g, "chain"))
    lab.does(g, "adopt monday")
    adopted(g, "monday", was)
    g.current = "monday"
    lab.intact(g)


@case("the program dies while it adopts", SHUT_OFF[:1])
def deaths(lab, running, targets):
    for n in range(1, 20):
        g = lab.guest(False, ONE, "a")
        was = leave(g, "tmp")
        g.snap("b")
        g.flush()
        g.remember()
        until("b", lambda: None if lab.state(g, "b") == "ok" else lab.state(g, "b"))
        lab.mount.arm(n)
        if lab.mount.write(g.name, "adopt m") == 0:
            lab.mount.disarm()
            if n < 2:
                raise Wrong("there was no point")
            return
        lab.mount.after_death()
        lab.mount.up()
        until("the mount", lambda: None if os.path.isdir(lab.path(g)) else "is not up")
        if "m" not in g.names():
            lab.does(g, "adopt m")
        adopted(g, "m", was, "a")
        g.parents["b"] = re.search(r"<parent>\s*<name>(.*?)</name>", g.record("b")).group(1)
        lab.intact(g)
        lab.does(g, "delete m")
        g.forget("m")
        lab.intact(g, may_go=[g.file("vda", "tmp")])


if __name__ == "__main__":
    main()
