# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""What a domain keeps beside its disks: see tests/suites/firmware.sh and witness.py.

firmware.py MOUNTPOINT. The variables of most guests here are bytes that the test writes; one guest boots real firmware.
"""
import json
import os
import re
import shutil
import threading
import time

from guests import MIB, WORK, Wrong, sh, until, virsh
from witness import ALL, LOOK, ONE, RUNNING, SHUT_OFF, TWO, case, main

SIZE = 128 * 1024
BIOS = "/usr/share/seabios/bios.bin"  # whatever is there is mapped as firmware: these guests need not boot


def bytes_at(path):
    with open(path, "rb") as f:
        return f.read()


class Variables:
    """Of one guest: a file, and what was in it."""

    def __init__(self, lab, running=False, targets=ONE, names="", tpm=False):
        lab.variables = getattr(lab, "variables", 0) + 1
        self.dir = os.path.join(WORK, "nvram%d" % lab.variables)
        os.makedirs(self.dir)
        self.path = os.path.join(self.dir, "VARS.fd")
        self.put(b"\x01first")
        self.lab = lab
        firmware = "<loader readonly='yes' type='pflash'>%s</loader><nvram>%s</nvram>" % (BIOS, self.path)
        self.g = lab.guest(running, targets, names, os_xml="" if tpm else firmware,
                           devices="<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>" if tpm else "")
        if tpm:
            self.path = "/var/lib/libvirt/swtpm/%s/tpm2/tpm2-00.permall" % self.g.uuid
            self.dir = os.path.dirname(self.path)

    def put(self, data):
        """As the firmware does: in place."""
        data = data.ljust(SIZE, b"\xff")
        with open(self.path, "r+b" if os.path.exists(self.path) else "wb") as f:
            f.write(data)
        return data

    def now(self):
        return bytes_at(self.path)

    def kept(self):
        """Copies, and whatever else is there."""
        return sorted(f for f in os.listdir(self.dir) if f not in (os.path.basename(self.path), ".lock"))

    def shows(self, name, data, what="nvram"):
        path = self.lab.path(self.g, "%s.%s" % (name, what))
        until(path, lambda: None if os.path.exists(path) else "is not there")
        if bytes_at(path) != data:
            raise Wrong("%s has other bytes" % path)
        if os.stat(path).st_size != len(data) or os.stat(path).st_mode & 0o777 != 0o440:
            raise Wrong("%s: %s" % (path, os.stat(path)))

    def expect(self, data, what):
        if self.now() != data:
            raise Wrong("%s: the variables are %s" % (what, self.now()[:16]))


@case("a snapshot has the variables of the firmware", ALL)
def whole_life(lab, running, targets):
    v = Variables(lab, running, targets)
    g, first = v.g, v.now()
    if "would copy its firmware variables to" not in lab.does(g, "try create a") or v.kept():
        raise Wrong("'try create a': %s, and there is %s" % (lab.said(g), v.kept()))
    if not running:
        lab.fails(g, "try create i internal", "EOPNOTSUPP", "take an external one")
    lab.does(g, "create a")
    g.note("a", "external")
    second = v.put(b"\x02second")
    lab.does(g, "create b")
    g.note("b", "external")
    third = v.put(b"\x03third")
    v.shows("a", first)
    v.shows("b", second)
    said = json.loads(lab.text(g, "snapshots.json"))["snapshots"][0]
    if said["nvram"]["file"] != "a.nvram" or said["nvram"]["state"] != "ok":
        raise Wrong("snapshots.json: %s" % said["nvram"])
    force = " force" if running else ""
    if "would put back its firmware variables" not in lab.does(g, "try revert a" + force):
        raise Wrong(lab.said(g))
    v.expect(third, "tried")
    lab.does(g, "revert a" + force)
    g.running = False
    v.expect(first, "reverted")
    lab.does(g, "revert b keep=c")
    v.expect(second, "reverted to b")
    v.shows("c", first)
    lab.does(g, "revert c")
    v.expect(first, "reverted to what was kept")
    if "would unlink" not in lab.does(g, "try delete c") or "VARS.fd.c" not in lab.said(g):
        raise Wrong("'try delete c': %s" % lab.said(g))
    lab.does(g, "delete c")
    lab.does(g, "delete a")
    if v.kept() != ["VARS.fd.b"]:
        raise Wrong("there is %s" % v.kept())
    lab.does(g, "1 match=*", "retain")
    lab.does(g, "create d")
    if v.kept() != ["VARS.fd.d"]:
        raise Wrong("after the policy dropped b there is %s" % v.kept())
    lab.does(g, "commit d")
    if v.kept():
        raise Wrong("after the commit there is %s" % v.kept())
    v.expect(first, "at the end")
    lab.starts(g)


@case("a snapshot by others has none: unchanged, changed, forced", SHUT_OFF[:1])
def by_others(lab, running, targets):
    v = Variables(lab)
    g = v.g
    time.sleep(1.1)  # its time is in seconds
    g.snap("a")
    g.flush()
    until("a", lambda: None if lab.state(g, "a") == "ok" else lab.state(g, "a"))
    if "variables" in lab.does(g, "revert a"):
        raise Wrong("nothing has changed: %s" % lab.said(g))
    changed = v.put(b"\x09changed")
    for command in "try revert a", "revert a":
        said = lab.fails(g, command, "EPERM")
        if not re.search("firmware variables .*have changed since 'a'.*force.*reset-nvram", said):
            raise Wrong("'%s': %s" % (command, said))
    for command in "try revert a force", "revert a force":
        if not re.search("firmware variables (would )?stay as they are now", lab.does(g, command)):
            raise Wrong("'%s': %s" % (command, lab.said(g)))
    v.expect(changed, "forced")
    g.snap("b")
    g.flush()
    until("b", lambda: None if lab.state(g, "b") == "ok" else lab.state(g, "b"))
    for how in "moved there", "copied there", "written, and its time set back", "gone":
        old = v.path + ".old"
        with open(old, "wb") as f:
            f.write(b"\x0aold".ljust(SIZE, b"\xff"))
        os.utime(old, (1e9, 1e9))
        if how == "moved there":
            os.rename(old, v.path)
        elif how == "copied there":
            sh("cp", "-a", old, v.path)
        elif how == "gone":
            os.unlink(v.path)
        else:
            v.put(b"\x0bback")
            os.utime(v.path, (1e9, 1e9))
        said = lab.fails(g, "revert b", "EPERM")
        if not re.search("firmware variables .*may have changed since 'b'.*force", said):
            raise Wrong("an old file was %s: %s" % (how, said))
    v.put(b"\x0cagain")


@case("a copy goes where nobody says that something of his is", SHUT_OFF[:1])
def names_of_others(lab, running, targets):
    v, w = Variables(lab), Variables(lab)
    g, h = v.g, w.g
    link = v.dir + ".link"
    os.symlink(v.dir, link)
    for name, path in ("a", v.path + ".a"), ("b", os.path.join(link, os.path.basename(v.path)) + ".b"):
        h.define(h.xml().replace("<nvram>%s</nvram>" % w.path, "<nvram>%s</nvram>" % path))  # nothing is there yet
        time.sleep(LOOK)
        lab.does(g, "create " + name)
        if os.path.exists(v.path + "." + name):
            raise Wrong("'create %s' put its copy to '%s', which another domain names: there is %s" % (name, path, v.kept()))
        v.shows(name, v.now())
        h.define()
    if len(v.kept()) != 2:
        raise Wrong("there is %s" % v.kept())


@case("a copy that is not what it was", SHUT_OFF[:1])
def copy_changed(lab, running, targets):
    v = Variables(lab)
    g, first = v.g, v.now()
    lab.does(g, "create a")
    changed = v.put(b"\x02changed")
    copy = v.path + ".a"
    backup = bytes_at(copy)
    for spoil, word in (lambda: open(copy, "r+b").write(b"x"), "not what it was"), (lambda: os.unlink(copy), "not there"):
        spoil()
        until("a.nvram", lambda: "is there" if os.path.exists(lab.path(g, "a.nvram")) else None)
        if word not in lab.fails(g, "revert a", "EPERM"):
            raise Wrong("'revert a': %s" % lab.said(g))
        v.expect(changed, "refused")
    lab.does(g, "revert a force")
    v.expect(changed, "forced")
    with open(copy, "wb") as f:  # from a backup: another file, with the same bytes
        f.write(backup)
    lab.does(g, "revert a")
    v.expect(first, "with the copy of a backup")
    with open(copy, "ab") as f:
        f.write(b"and more")
    if "stays: it is not the file any more" not in lab.does(g, "delete a") or v.kept() != ["VARS.fd.a"]:
        raise Wrong("'delete a': %s, and there is %s" % (lab.said(g), v.kept()))


@case("variables that are being written while the snapshot is taken", RUNNING[:1])
def written_meanwhile(lab, running, targets):
    v = Variables(lab, True, targets)
    g, over = v.g, threading.Event()

    def write():
        n = 0
        while not over.is_set():
            n += 1
            v.put(b"%06d" % n * 100)
            time.sleep(0.02)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        lab.does(g, "create a")
    finally:
        over.set()
        writer.join()
    g.note("a", "external")
    copy = bytes_at(lab.path(g, "a.nvram"))
    if len(copy) != SIZE or not re.fullmatch(rb"(\d{6})\1{99}\xff*", copy):
        raise Wrong("the copy is of two states: %r" % copy[:16])


@case("variables that cannot be copied", SHUT_OFF[:1])
def no_copy(lab, running, targets):
    v = Variables(lab)
    g = v.g
    os.rename(v.path, v.path + ".away")
    if "there are none yet" not in lab.does(g, "create a"):
        raise Wrong(lab.said(g))
    os.rename(v.path + ".away", v.path)
    sh("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", v.dir)
    try:
        with open(v.path, "wb") as f:
            f.write(b"x" * 40000)
        before = g.names()
        said = lab.fails(g, "create b", "ENOSPC")
        if "VARS.fd.b" not in said or g.names() != before or v.kept():
            raise Wrong("'create b': %s; libvirt has %s, and there is %s" % (said, g.names(), v.kept()))
    finally:
        sh("umount", v.dir)


@case("the program dies while it copies and puts back", SHUT_OFF[:1])
def deaths(lab, running, targets):
    """At each of its points; what is done then is repeated, and all is as if nothing had happened."""
    v = Variables(lab)
    g, first = v.g, v.now()
    reverted = 0
    for command in "create", "revert":
        n = 1
        while True:
            name = "%s%d" % (command[0], n)
            if command == "revert":
                v.put(b"\x02second")
                before = g.active_now()["vda"]
            lab.mount.arm(n)
            if lab.mount.write(g.name, "%s %s" % (command, name if command == "create" else "base")) == 0:
                lab.mount.disarm()
                break
            lab.mount.after_death()
            lab.mount.up()
            if command == "create" and name not in g.names():
                lab.does(g, "create " + name)
            elif command == "revert":
                tops = g.active_now()["vda"]
                if tops != before:  # the domain was reverted: so are its variables, or will be
                    until("the variables", lambda: None if v.now() == first else "are those of before, after a death at %d" % n)
                    reverted += 1
                lab.does(g, "revert base")
                v.expect(first, "reverted after a death at %d" % n)
            if command == "create":
                until(name, lambda: None if lab.state(g, name) == "ok" else lab.state(g, name))
                v.shows(name, first)
                v.expect(first, "taken after a death at %d" % n)
            lab.does(g, "create q%d" % n)  # which removes what was left
            lab.does(g, "delete q%d" % n)
            n += 1
        if n < 3:
            raise Wrong("'%s' has %d points" % (command, n))
        copies = [re.sub(r"VARS\.fd\.|-2$", "", f) for f in v.kept()]  # what was removed a moment ago, its name is not used at once
        if len(copies) != len(set(copies)) or set(copies) - set(g.names()):
            raise Wrong("after '%s' there is %s, and the snapshots are %s" % (command, v.kept(), g.names()))
        if command == "create":
            lab.does(g, "create base")
    if not reverted:
        raise Wrong("it never died between the disks and the variables")


@case("a snapshot with memory", RUNNING[1:])
def memory(lab, running, targets):
    """The guest goes on where it was, and its variables with it: QEMU writes those that it had in its memory."""
    v = Variables(lab, True)
    g = v.g
    virsh(["resume", g.name], ["snapshot-create-as", g.name, "m", "--memspec", "file=%s/m.mem,snapshot=external" % g.dir])
    first = v.now()
    until("m", lambda: None if lab.state(g, "m") == "ok" else lab.state(g, "m"))
    virsh(["destroy", g.name])
    v.put(b"\x07other")
    until("it is off", lambda: None if g.state() == "shut off" else g.state())
    time.sleep(LOOK)
    lab.does(g, "revert m")
    until("it runs", lambda: None if g.state() in ("running", "paused") else g.state())
    until("the variables", lambda: None if v.now() == first else "are %r" % v.now()[:16])
    virsh(["destroy", g.name])
    os.rename(os.path.join(g.dir, "m.mem"), os.path.join(g.dir, "away"))
    os.unlink(os.path.join(g.dir, "away"))


@case("variables that are another domain's by now", SHUT_OFF[:1])
def anothers(lab, running, targets):
    v, w = Variables(lab), Variables(lab)
    g, h = v.g, w.g
    lab.does(g, "create a")
    copy = v.path + ".a"
    theirs = v.put(b"\x07theirs")
    g.define(g.xml().replace(v.path, v.path + ".other"))  # it has others now
    h.define(h.xml().replace(w.path, v.path))
    time.sleep(LOOK)
    for command in "try revert a", "revert a", "revert a force":
        said = lab.fails(g, command, "EPERM")
        if "which domain '%s'" % h.name not in said:
            raise Wrong("'%s': %s" % (command, said))
    v.expect(theirs, "refused")
    h.define()
    overlay = os.path.join(h.dir, "overlay")
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", v.path, "-F", "raw", overlay)  # somebody stands on it
    time.sleep(LOOK)
    lab.fails(g, "revert a", "EPERM", "which image '%s'" % re.escape(overlay))
    v.expect(theirs, "refused")
    os.unlink(overlay)
    for word, commands in ("<nvram template='%s'>/nowhere</nvram>", ["try delete a"]), ("<nvram>%s</nvram>", ["try delete a", "delete a"]):
        h.define(re.sub("<nvram.*</nvram>", word % copy, h.xml()))  # and now the copy
        time.sleep(LOOK)
        for command in commands:
            if not re.search("domain '%s'" % h.name, lab.does(g, command)):
                raise Wrong("'%s': %s" % (command, lab.said(g)))
    if not os.path.exists(copy):
        raise Wrong("'%s' was removed" % copy)


@case("variables without a copy that are another domain's by now", SHUT_OFF[:1])
def anothers_uncopied(lab, running, targets):
    v, w = Variables(lab), Variables(lab)
    g, h = v.g, w.g
    time.sleep(1.1)
    g.snap("a")
    g.flush()
    until("a", lambda: None if lab.state(g, "a") == "ok" else lab.state(g, "a"))
    mine = g.xml()
    g.define(mine.replace(v.path, v.path + ".other"))
    h.define(h.xml().replace(w.path, v.path))
    time.sleep(LOOK)
    active = g.active_now()
    for command in "try revert a", "revert a", "revert a force":
        lab.fails(g, command, "EPERM", "would be '%s', which domain '%s'" % (re.escape(v.path), h.name))
    if g.active_now() != active:
        raise Wrong("the disks were reverted: %s" % lab.said(g))
    g.define(mine)  # both have it already: nothing gets worse
    time.sleep(LOOK)
    lab.does(g, "revert a")


@case("variables whose place cannot be written to", SHUT_OFF[:1])
def fixed(lab, running, targets):
    v = Variables(lab)
    g, first = v.g, v.now()
    lab.does(g, "create a")
    active, aside = g.active_now(), v.path + ".aside"
    v.put(b"\x0dchanged")

    def refused(what, errno, text):
        for command in "try revert a", "revert a":
            lab.fails(g, command, errno, text)
        if g.active_now() != active:
            raise Wrong("%s: the disks were reverted: %s" % (what, lab.said(g)))

    os.rename(v.path, aside)
    os.mkdir(v.path)
    refused("a directory", "EPERM", "that is no file any more")
    os.rmdir(v.path)
    os.rename(aside, v.path)
    sh("mount", "--bind", v.path, v.path)
    refused("something is mounted there", "EBUSY", "something is mounted there")
    sh("umount", v.path)
    lab.does(g, "revert a")
    v.expect(first, "when nothing is in the way")


@case("no room to put variables back", SHUT_OFF[:1])
def no_room(lab, running, targets):
    v = Variables(lab)
    g, first = v.g, v.now()
    sh("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", v.dir)
    try:
        with open(v.path, "wb") as f:
            f.write(first)
        lab.does(g, "create a")
        changed = v.put(b"\x03changed")
        with open(os.path.join(v.dir, "full"), "wb") as f:
            f.write(b"x" * 128 * 1024)
        active = g.active_now()
        for command in "try revert a", "revert a":
            lab.fails(g, command, "ENOSPC", "firmware variables cannot be put back")
        if g.active_now() != active:
            raise Wrong("the disks were reverted: %s" % lab.said(g))
        v.expect(changed, "refused")
        os.unlink(os.path.join(v.dir, "full"))
        lab.does(g, "revert a")
        v.expect(first, "with room")
        lab.does(g, "delete a")
    finally:
        sh("umount", "-l", v.dir)


@case("an emulated TPM", SHUT_OFF[:1])
def tpm(lab, running, targets):
    if not shutil.which("swtpm"):
        raise Wrong("swtpm is not installed")
    v = Variables(lab, tpm=True)
    g = v.g
    if "there are none yet" not in lab.does(g, "create none"):
        raise Wrong(lab.said(g))
    virsh(["start", g.name, "--paused"])
    until("its state", lambda: None if os.path.exists(v.path) else "is not there")
    lab.does(g, "create up")
    if not bytes_at(lab.path(g, "up.tpm")):
        raise Wrong("up.tpm is empty")
    virsh(["destroy", g.name])
    time.sleep(1)  # the TPM ends after its guest
    lab.does(g, "create down")
    first = v.now()
    v.shows("down", first, "tpm")
    with open(v.path, "ab") as f:
        f.write(b"changed")
    if "put back its TPM contents" not in lab.does(g, "revert down"):
        raise Wrong(lab.said(g))
    v.expect(first, "reverted")
    for name in "down", "up", "none":
        lab.does(g, "delete " + name)
    if v.kept():
        raise Wrong("there is %s" % v.kept())
    lab.does(g, "create i internal")  # a kind for itself
    v.shows("i", first, "tpm")
    with open(v.path, "ab") as f:
        f.write(b"changed")
    lab.does(g, "revert i")
    v.expect(first, "reverted to an internal one")
    lab.does(g, "delete i")
    if v.kept():
        raise Wrong("after the internal one was deleted there is %s" % v.kept())
    lab.starts(g)


@case("a copy lies beside what the definition names, or is not shown", SHUT_OFF[:1])
def elsewhere(lab, running, targets):
    """Metadata that name another file: no byte of it is served, and it is not removed."""
    v = Variables(lab)
    g = v.g
    lab.does(g, "create a")
    secret = os.path.join(WORK, "secret")
    shutil.copy2(v.path + ".a", secret)
    lab.mount.down()
    text = virsh(["dumpxml", g.name])
    path = os.path.join(WORK, ".define.xml")
    with open(path, "w") as f:
        f.write(text.replace(v.path + ".a", secret).replace("serial='", "serial='9"))
    virsh(["define", path])
    os.unlink(path)
    lab.mount.up()
    until("a", lambda: None if lab.state(g, "a") == "ok" else lab.state(g, "a"))
    if os.path.exists(lab.path(g, "a.nvram")):
        raise Wrong("'%s' is served" % secret)
    lab.does(g, "delete a")
    if not os.path.exists(secret):
        raise Wrong("'%s' was removed: %s" % (secret, lab.said(g)))


@case("a guest that boots UEFI", RUNNING[1:])
def uefi(lab, running, targets):
    """Its firmware writes variables when it boots."""
    v = Variables(lab)
    g = v.g
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", v.path)
    empty = v.now()
    g.define(re.sub("<loader.*</nvram>", "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram>%s</nvram>" % v.path,
                    g.xml()).replace("machine='pc'", "machine='q35'"))
    lab.does(g, "create new")
    v.shows("new", empty)
    virsh(["start", g.name])
    until("the firmware writes", lambda: None if v.now() != empty else "it has not", 120)
    time.sleep(2)
    lab.does(g, "create booted")
    booted = bytes_at(lab.path(g, "booted.nvram"))
    if booted == empty:
        raise Wrong("'booted' has the empty variables")
    lab.does(g, "revert new force")
    v.expect(empty, "reverted to new")
    lab.does(g, "revert booted")
    v.expect(booted, "reverted to booted")
    virsh(["start", g.name])
    virsh(["destroy", g.name])
    lab.does(g, "delete new booted")
    if v.kept():
        raise Wrong("there is %s" % v.kept())


if __name__ == "__main__":
    main()
