# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""What is said of images, and is not so: see tests/suites/records.sh and witness.py.

records.py MOUNTPOINT. Records that others removed, metadata of ours that cannot be understood, images that were moved.
"""
import json
import os
import re
import shutil
import time

from guests import WORK, Mount, Wrong, sh, until, virsh
from images import NO, rebase, retention_keeps
from witness import LOOK, case, main

FACTS = "https://virt-snapfs.org/xmlns/domain/1.0"


# ---------------------------------------------------------------- a record that somebody else removed

def held_elsewhere(mounted):
    def do(lab, running, targets):
        """What b froze is the layer that the held snapshot k is in. virsh removes b's record, and libvirt 9.0 changes k's with it."""
        g = lab.guest(running, targets, "ab")
        if lab.write(g, "revert a force keep=k") != "0":
            raise Wrong(lab.said(g))
        g.running = False
        g.note("k", "external")
        g.reverted("a")
        lab.does(g, "hold k")
        lab.intact(g, may_go=[g.file(t, n) for t in targets for n in ("k", "k.qcow2")])
        if not mounted:
            lab.mount.down()
        virsh(["snapshot-delete", g.name, "b", "--metadata"])
        g.forget("b")
        if not mounted:
            lab.mount.up()
        lab.listed(g)
        until("the held one", lambda: lab.unharmed(g, "k"))
        lab.does(g, "hold a")
        lab.does(g, "release a")
        lab.intact(g, records=False)
        for command in "delete a", "create n", "commit a":
            if lab.write(g, command) == "0":
                g.note("n", "external") if command == "create n" else g.forget("a") if "a" in g.wanted else None
            until("the held one after '%s'" % command, lambda: lab.unharmed(g, "k"))
        lab.fails(g, "delete k", "EPERM", "held")
        lab.starts(g)
        lab.does(g, "revert k")
        g.reverted("k")
        g.check_present()
        lab.starts(g)
    return do


case("row 4: the record before a held one removed by virsh", few=1)(held_elsewhere(True))
case("row 4: the record before a held one removed by virsh, while not mounted", few=1)(held_elsewhere(False))


def misled(mounted):
    def do(lab, running, targets):
        """virsh removes b's record, and libvirt 9.0 says then that c is in the file that b froze. No command believes that."""
        g = lab.guest(running, targets, "abc")
        truth = {t: g.file(t, "b") for t in targets}
        if g.frozen(g.record("c")) != truth:
            raise Wrong("the records are not what this case takes them for: %s" % g.frozen(g.record("c")))
        if not mounted:
            lab.mount.down()
        virsh(["snapshot-delete", g.name, "b", "--metadata"])
        g.forget("b")
        if not mounted:
            lab.mount.up()
        lab.listed(g)
        until("c", lambda: lab.unharmed(g, "c"))
        if g.frozen(g.record("c")) == truth:
            print("# this libvirt leaves the record as it was", flush=True)
        said = lab.does(g, "try pull c")
        for t in targets:
            if "disk %s: would copy" % t in said and truth[t] not in said:
                raise Wrong("pull would put disk %s on something else than '%s': %s" % (t, truth[t], said))
        said = lab.does(g, "try revert c force")
        for t in targets:
            if "on '%s'" % truth[t] not in said:
                raise Wrong("revert would put disk %s on something else than '%s': %s" % (t, truth[t], said))
        lab.does(g, "revert c force")
        g.running = False
        g.reverted("c")
        g.active = g.active_now()
        lab.intact(g, may_go=[g.file(t, "c") for t in targets], records=False)
        lab.starts(g)
    return do


case("row 4: the record of the snapshot before this one removed by virsh, then revert", few=1)(misled(True))
case("row 4: the record of the snapshot before this one removed by virsh while not mounted, then revert", few=1)(misled(False))


# ---------------------------------------------------------------- metadata of ours that cannot be understood

def facts_of(g):
    return virsh(["metadata", g.name, FACTS])


def set_facts(g, text):
    """As an administrator would, or a program that goes wrong."""
    how = ["--live", "--config"] if g.running else ["--config"]
    virsh(["metadata", g.name, FACTS, "--key", "virt-snapfs", "--set", " ".join(text.split()), *how])


DAMAGES = [
    ("an entry without a name", lambda x: x.replace("<s n=", "<s m=", 1)),
    ("flags that nobody knows", lambda x: re.sub(r'is="[^"]*"', 'is="\u00a7?"', x, 1)),
    ("a newer version", lambda x: re.sub(r'version="\d+"', 'version="99"', x)),
    ("a serial number that is none", lambda x: re.sub(r'serial="\d+"', 'serial="many"', x)),
    ("a time that is none", lambda x: re.sub(r't="\d+"', 't="noon"', x, 1)),
    ("other elements in it", lambda x: re.sub(r"<s [^>]*/>", "<t/>", x)),
    ("too much of it", lambda x: x.replace("</facts>", "".join('<s n="%s%d" t="1" is="eh"/>' % ("x" * 60, i) for i in range(1200)) + "</facts>")),
]


def damaged(damage, remembered):
    def do(lab, running, targets):
        g = lab.guest(running, targets, "abc")
        lab.does(g, "hold a")
        lab.does(g, "7n", "retain")
        good = facts_of(g)
        if not remembered:  # nor is there a copy in the state directory
            lab.mount.down()
            shutil.rmtree(os.path.join(WORK, "state"))
            os.mkdir(os.path.join(WORK, "state"))
        bad = damage(good)
        if bad == good:
            raise Wrong("the damage does none: %s" % good)
        set_facts(g, bad)
        stored = facts_of(g)
        if stored == good:
            raise Wrong("libvirt did not take it: %s" % bad[:300])
        if not remembered:
            lab.mount.up()
        lab.listed(g)
        g.remember()
        time.sleep(LOOK)
        for command, door in (("delete a", "ctl"), ("delete b", "ctl"), ("release b", "ctl"), ("hold b", "ctl"), ("commit a", "ctl"),
                              ("prune", "ctl"), ("create n", "ctl"), ("1 match=*", "retain")):
            lab.refused(g, command, NO, "metadata", door=door, attempt=door == "ctl")
        if facts_of(g) != stored:
            raise Wrong("the damaged metadata was not kept: %s" % facts_of(g))
        if not re.search("metadata", lab.text(g, "log")):
            raise Wrong("the log does not speak of it")
        lab.intact(g)
        set_facts(g, good)
        until("the metadata is right again", lambda: None if lab.write(g, "try prune") == "0" else lab.said(g), 20)
        lab.fails(g, "delete a", "EPERM", "held")
        if lab.text(g, "retain").strip() != "7":
            raise Wrong("the policy is '%s'" % lab.text(g, "retain"))
        lab.does(g, "release a")
        lab.does(g, "delete a")
        g.forget("a")
        lab.intact(g, may_go=[g.file(t, "a") for t in targets])
    return do


for i, (what, damage) in enumerate(DAMAGES):
    case("row 11: metadata with %s%s" % (what, "" if i % 2 else ", and no copy of it"), few=1)(damaged(damage, i % 2))


def state_file(end):
    found = [f for f in os.listdir(os.path.join(WORK, "state")) if f.endswith(end)]
    if len(found) != 1:
        raise Wrong("the state directory has %s" % found)
    return os.path.join(WORK, "state", found[0])


def empty_state():
    shutil.rmtree(os.path.join(WORK, "state"))
    os.mkdir(os.path.join(WORK, "state"))


def copy_damaged(damage):
    def do(lab, running, targets):
        """It may know of a hold that the domain, which was reverted, does not. So it is not the same as none, and is not overwritten."""
        lab.mount.down()
        empty_state()
        lab.mount.up()
        g = lab.guest(False, targets, "abc")
        old = facts_of(g) if lab.write(g, "hold b") == "0" and lab.write(g, "release b") == "0" and lab.write(g, "hold c") == "0" else None
        lab.does(g, "hold a")
        lab.mount.down()
        set_facts(g, old)
        stored = facts_of(g)
        path = state_file(".facts")
        with open(path) as f:
            good = f.read()
        damage(path)
        lab.mount.up()
        lab.listed(g)
        g.remember()
        for command, door in (("delete a", "ctl"), ("delete b", "ctl"), ("hold b", "ctl"), ("prune", "ctl"), ("create n", "ctl"), ("1 match=*", "retain")):
            lab.refused(g, command, NO + "|EISDIR", "our copy", door=door, attempt=door == "ctl")
        if facts_of(g) != stored:
            raise Wrong("the metadata has changed")
        if os.path.isdir(path):
            os.rmdir(path)
        with open(path, "w") as f:
            f.write(good)
        lab.fails(g, "delete a", "EPERM", "held")
        lab.fails(g, "delete c", "EPERM", "held")
        lab.does(g, "delete b")
        g.forget("b")
        lab.intact(g, may_go=[g.file(t, "b") for t in targets])
    return do


def garbage(path):
    with open(path, "w") as f:
        f.write("garbage")


def directory(path):
    os.unlink(path)
    os.mkdir(path)


case("row 11: a copy of it that makes no sense", few=1)(copy_damaged(garbage))
case("row 11: a copy of it that is cut off", few=1)(copy_damaged(lambda path: os.truncate(path, 60)))
case("row 11: a copy of it that cannot be read", few=1)(copy_damaged(directory))


@case("row 11: what cannot be noted is not done", few=1)
def not_noted(lab, running, targets):
    g = lab.guest(running, targets, "abc")
    lab.does(g, "hold c")
    state = os.path.join(WORK, "state")
    sh("mount", "--bind", state, state)
    try:
        sh("mount", "-o", "remount,bind,ro", state)
        g.remember()
        for command in "create n", "delete a", "delete a b", "revert a force keep=k", "pull", "release c":
            lab.refused(g, command, "EROFS", "Read-only", attempt=False)
        if g.state() == "shut off" and running:
            raise Wrong("the guest was stopped")
    finally:
        sh("umount", state)
    lab.fails(g, "delete c", "EPERM", "held")
    lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=[g.file(t, "a") for t in targets])


@case("row 11: a hold that was reported as a failure is none", [(False, ("vda",))])
def failed_hold(lab, running, targets):
    """Of an image whose attribute cannot be written: neither then nor later, nor is a release that failed one."""
    where = os.path.join(WORK, "alone")
    os.makedirs(where)
    image = os.path.join(where, "x.qcow2")
    sh("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    for name in "st":
        sh("qemu-img", "snapshot", "-c", name, image)
    mount = Mount(lab.mount.point + ".image", [image], "refresh=0.3")

    def held():
        return "".join(s["name"] for s in json.loads(mount.text("x", "snapshots.json"))["snapshots"] if s.get("held"))
    mount.up()
    try:
        if mount.write("x", "hold t"):
            raise Wrong(mount.outcome("x"))
        sh("mount", "--bind", where, where)
        sh("mount", "-o", "remount,bind,ro", where)
        try:
            got = [mount.write("x", command) for command in ("hold s", "release t")]
            said = mount.outcome("x")
        finally:
            sh("umount", where)
        if 0 in got:
            raise Wrong("they gave %s: %s" % (got, said))
        time.sleep(1)
        if held() != "t":
            raise Wrong("held are '%s' after %s" % (held(), got))
        mount.write("x", "try prune")
        mount.write("x", "prune")
        mount.down()
        mount.up()
        if held() != "t":
            raise Wrong("held are '%s' at the next mount" % held())
    finally:
        mount.down()


@case("row 11: a stored policy that is none", few=1)
def no_policy(lab, running, targets):
    """It is nobody's to guess what it meant: nothing is dropped, it stays as it is, and it is said. Holds have nothing to do with it."""
    g = lab.guest(running, targets, "abc")
    lab.does(g, "hold a")
    lab.does(g, "3 match=*", "retain")
    set_facts(g, re.sub(r'policy="[^"]*"', 'policy="1 match=* and more"', facts_of(g)))
    g.remember()
    time.sleep(LOOK)
    lab.fails(g, "prune", "EPERM|EINVAL", "policy|term 'and'")
    lab.fails(g, "delete a", "EPERM", "held|policy|metadata")
    lab.write(g, "hold b")
    lab.write(g, "create n")
    if "n" in g.names():
        g.note("n", "external")
    lab.intact(g)
    if 'policy="1 match=* and more"' not in facts_of(g):
        raise Wrong("the policy was overwritten: %s" % facts_of(g))
    lab.does(g, "7", "retain")
    lab.does(g, "prune")
    lab.fails(g, "delete a", "EPERM", "held")
    lab.intact(g)


@case("row 11: metadata of an earlier version, which names a file once for each disk that stands on it", few=1)
def named_twice(lab, running, targets):
    g = lab.guest(running, targets, "ab")
    lab.does(g, "hold a")
    facts = facts_of(g)
    number = re.search(r'<f k="(\d+)"', facts).group(1)
    names = ",".join([number] * (facts.count("<f ") + 1))
    lab.mount.down()
    empty_state()
    set_facts(g, re.sub(r' v="[^"]*"', "", facts).replace("<s n=", '<s v="%s" n=' % names).replace('serial="', 'serial="9'))
    lab.mount.up()
    lab.listed(g)
    lab.intact(g)
    lab.fails(g, "delete a", "EPERM", "held")
    lab.does(g, "release a")
    lab.does(g, "create n")
    g.note("n", "external")
    lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=[g.file(t, "a") for t in targets])
    if names in facts_of(g):
        raise Wrong("it is written so still: %s" % facts_of(g))


@case("row 11: disks that stand on one image, which is written to in the second of the snapshot", few=2)
def one_template(lab, running, targets):
    def build(g):
        template = g.file("template")
        shutil.copy(g.active[targets[0]], template)
        for t in targets:
            sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", template, "-F", "qcow2", g.active[t], "2M")
        ahead(template, 1)

    g = lab.guest(running, targets, build=build)
    for name in "ab":
        takes(lab, g, name)
        lab.does(g, "hold " + name)
    lab.does(g, "release a")
    lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=[g.file(t, "a.qcow2") for t in targets])


# ---------------------------------------------------------------- times that lie ahead of the clock

def ahead(path, seconds=3600):
    """The clock was set back, a server's is ahead, or cp -p has kept a time."""
    os.utime(path, (time.time() + seconds, time.time() + seconds))


def takes(lab, g, name):
    """And shows it when the write returns."""
    lab.does(g, "create " + name)
    g.note(name, "external")
    g.active = g.active_now()
    wrong = lab.unharmed(g, name)
    if wrong:
        raise Wrong("the write has returned, and %s" % wrong)


@case("row 27: images whose times lie ahead of the clock", few=2)
def times_ahead(lab, running, targets):
    g = lab.guest(running, targets, "")
    for i, name in enumerate("abc"):
        for t in targets:
            if name != "b":  # what b froze has the clock's time, and stands on one that has not
                ahead(g.active[t])
        takes(lab, g, name)
        for t in targets:
            g.write(t, 40 + i, i * 65536, 65536)
        g.flush()
    lab.intact(g)
    lab.mount.down()
    lab.mount.up()
    lab.listed(g)
    lab.intact(g)
    lab.does(g, "hold a")
    lab.does(g, "release a")
    lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=[g.file(t, "a.qcow2") for t in targets])
    if running:
        g.stop()
    lab.does(g, "revert c keep=d")
    g.note("d", "external")
    g.reverted("c")
    g.active = g.active_now()
    lab.intact(g)


@case("row 27: an image whose time lies ahead of the clock, frozen by virsh", few=1)
def frozen_by_others(lab, running, targets):
    g = lab.guest(running, targets, "")
    for t in targets:
        ahead(g.active[t])
    g.snap("a")
    g.flush()
    until("what virsh froze", lambda: None if lab.state(g, "a") == "stale" else "it is %s" % lab.state(g, "a"), 20)
    if "its time lies ahead of the clock" not in lab.snapshots(g)["a"]["reason"]:
        raise Wrong("a is stale: %s" % lab.snapshots(g)["a"]["reason"])
    g.fill(7, 0, 65536)
    g.flush()
    g.forget("a")
    takes(lab, g, "b")
    lab.intact(g)


def written_then(mounted, seconds):
    def do(lab, running, targets):
        g = lab.guest(False, targets, "")
        first = g.active["vda"]
        ahead(first)
        takes(lab, g, "a")
        if not mounted:
            lab.mount.down()
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 77 0 64k", first)
        if seconds:
            ahead(first, seconds)
        if not mounted:
            lab.mount.up()
        until("the write", lambda: None if lab.state(g, "a") == "stale" else "a is %s" % lab.state(g, "a"), 20)
        reason = lab.snapshots(g)["a"]["reason"]
        if "/vda.qcow2' was written after" not in reason and "does not show any more" not in reason and not seconds:
            raise Wrong("a is stale: %s" % reason)
        lab.refused(g, "revert a", NO + "|ESTALE", "stale|written")
        g.present["vda"][:65536] = bytes([77]) * 65536  # the guest sees it as well
        g.forget("a")
        takes(lab, g, "b")
    return do


ONE_OFF = [(False, ("vda",))]
case("row 27: a write to an image whose time lay ahead of the clock, in the same second", ONE_OFF)(written_then(True, 0))
case("row 27: a write to an image whose time lay ahead of the clock, while not mounted", ONE_OFF)(written_then(False, 0))
case("row 27: a write to an image whose time lies ahead of the clock still", ONE_OFF)(written_then(True, 7200))


# ---------------------------------------------------------------- images that were moved

def relocated(records, noted=False):
    def do(lab, running, targets):
        """All images are in another directory, and the domain is defined there; the names within the images dangle."""
        g = lab.guest(False, targets, "ab")
        if noted:
            lab.does(g, "hold a")
            lab.does(g, "release a")
        old, new = g.dir, g.dir + ".new"
        os.rename(old, new)
        os.mkdir(old)
        g.dir = new
        g.dirs = [old, new]
        g.active = {t: p.replace(old, new) for t, p in g.active.items()}
        g.define(virsh(["dumpxml", "--inactive", "--security-info", g.name]).replace(old + "/", new + "/") if noted else None)
        if records:
            for name in "ab":
                g.redefine(g.record(name).replace(old + "/", new + "/"), *(["--current"] if name == "b" else []))
        g.remember()
        time.sleep(LOOK)
        for command in "delete a", "delete b", "commit a", "commit b", "pull", "create n":
            said = lab.refused(g, command, NO, re.escape(old + "/"))
            if command != "delete a" and new + "/vda.a" not in said and new + "/vda.qcow2" not in said:
                raise Wrong("it does not say where a file of that name lies now: %s" % said)
        lab.chain_says(g, re.escape(old + "/"), "missing")
        retention_keeps(lab, g, old + "/")
        for t in targets:
            for name, below in (("b", "a"), ("a", "")) if noted else (("a", ""), ("b", "a")):
                rebase(g.file(t, name), g.file(t, below))
                time.sleep(3 if noted else 0)  # longer than what an end of a commit takes
        if not records:
            for name in "ab":
                g.redefine(g.record(name).replace(old + "/", new + "/"), *(["--current"] if name == "b" else []))
        g.remember()
        for name in "ab":
            until("all is well again", lambda: lab.unharmed(g, name))
        lab.intact(g)
        if running:
            g.start()
        lab.does(g, "delete a")
        g.forget("a")
        lab.intact(g, may_go=[g.file(t, "a") for t in targets])
        lab.does(g, "create n")
        g.note("n", "external")
        lab.intact(g)
        lab.starts(g)
    return do


case("row 27: the images were moved, and the records say where to")(relocated(True))
case("row 27: the images were moved, and the records do not know")(relocated(False))
case("row 27: the images were moved, and the names are mended from the top, one after the other")(relocated(True, noted=True))


@case("row 27: a revert takes no name that a missing layer has", [(False, ("vda",))], few=1)
def missing_name(lab, running, targets):
    g = lab.guest(False, targets, "z")
    lab.does(g, "create k")
    g.note("k", "external")
    away = g.active_now()["vda"]
    lab.does(g, "create m")
    g.note("m", "external")
    last = g.active_now()["vda"]
    os.rename(away, away + ".away")
    g.remember()
    time.sleep(LOOK)
    lab.does(g, "revert k")
    g.reverted("k")
    if os.path.exists(away):
        raise Wrong("'%s' is somebody else's name" % away)
    os.rename(away + ".away", away)
    until("all is well again", lambda: lab.unharmed(g, "m"))
    lab.intact(g, may_go=[last, away + ".away"])
    lab.starts(g)


if __name__ == "__main__":
    main()
