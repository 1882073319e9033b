# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""A command killed at a fault point, then other commands, then the first one again: between.py MOUNTPOINT short|all|PATTERN [POINT].

The scenarios are those of crash.py. At each point (short: at every few of them) the guest gets one other command (all: each of them in turn, on a
guest of its own), which may do what it says or be refused, and then the first one again, and then the other again. Always

  - a snapshot that none of the commands that said "ok", nor the first one, was to remove reads as it ever did, in the mount and by
    libvirt's record in QEMU; one that the first was to remove does too, or is stale and says why, or is gone,
  - a command that was refused has removed nothing and changed no snapshot and no disk,
  - the guest's disks are what they were, or what the last revert that said "ok" has made of them,
  - the images are sound, `chain` names every file, and the domain is as it was, up or down.

What the first command, repeated, makes of it is not told beforehand: it finishes, or says that it has become void.
"""
import fnmatch
import json
import os
import sys
import time
import traceback
import xml.etree.ElementTree as ET

import crash
from guests import MIB, Guest, Mount, Wrong, bytes_of, name_of, sh, until, virsh


class Other:
    def __init__(self, command, door="ctl", doomed=(), back_to=None, created=None, stops=False, virsh=False):
        self.command = command
        self.door = door
        self.doomed = set(doomed)
        self.back_to = back_to
        self.created = created
        self.stops = stops
        self.virsh = virsh


OTHERS = [
    Other("delete a", doomed="a"), Other("revert a force", back_to="a", stops=True), Other("delete b", doomed="b"), Other("pull"),
    Other("create o", created="o"), Other("delete c", doomed="c"), Other("commit a b", doomed="ab"),
    Other("revert b force keep=k", back_to="b", created="k", stops=True), Other("pull a"), Other("1n match=*", door="retain"),
    Other("hold b"), Other("commit b c", doomed="bc"), Other("snapshot-delete {g} b --metadata", doomed="b", virsh=True),
    Other("delete a b c", doomed="abc"), Other("revert c force", back_to="c", stops=True), Other("try delete b"),
    Other("snapshot-delete {g} a --metadata", doomed="a", virsh=True), Other("cancel"), Other("prune", doomed=""),
]
# Those of crash.py that are begun; the others take no step between which anything could happen, or are variants.
FIRST = [
    "delete the middle one, shut off", "delete the oldest, running", "delete the newest, running, two disks",
    "delete the end of a branch, shut off", "delete two, shut off", "commit all with pivot, running, two disks",
    "commit two of three, shut off, two disks", "pull onto one, shut off", "pull alone, running", "create external, shut off, two disks",
    "create external, running", "create internal, shut off, two disks", "revert external, keep",
    "revert external, shut off, two disks", "revert external, running, force", "revert internal, keep", "retain drops two, running",
    "delete an internal one, shut off, two disks",
]
SHORT = 6  # every so many points


class World:
    """What must be so, given who said "ok"."""

    def __init__(self, mount, guest, first):
        self.mount = mount
        self.g = guest
        self.first = first
        self.may_go = set(first.doomed)
        self.contents = first.during(guest)
        self.states = {"paused", "running"} if first.running else {"shut off"}
        if first.stops:
            self.states |= {"shut off"}
        self.said = []
        self.records_are_ours = True
        if first.created:
            self.created(first.created, guest.present, "internal" if "internal" in first.name else "external")

    def created(self, name, contents, kind):
        """It may be there: then it has this content."""
        self.g.wanted.setdefault(name, {t: bytes(contents[t]) for t in self.g.targets})
        self.g.kinds.setdefault(name, kind)
        self.may_go.add(name)

    def ok(self, doomed, back_to, created, stops):
        self.may_go |= doomed
        if created:
            self.created(created, self.contents[0], "internal" if "internal" in self.first.name else "external")
        if back_to:
            self.contents = [self.g.wanted[back_to]]
        if stops:
            self.states |= {"shut off"}

    def say(self, command, number):
        self.said.append("'%s' %s" % (command, name_of(number)))

    def narrow(self):
        """Of several contents that the disks may have, those that they do have."""
        if len(self.contents) > 1 and not self.g.jobs():
            now = {t: bytes_of(p) for t, p in self.g.active_now().items()}
            self.contents = [c for c in self.contents if all(now[t] == bytes(c[t]) for t in self.g.targets)]

    def do_other(self, other):
        self.narrow()
        doomed = other.doomed
        if other.door == "retain":  # all but the newest
            doomed = {s["name"] for s in json.loads(self.mount.text(self.g.name, "snapshots.json"))["snapshots"][:-1]}
        known = other.created in self.g.wanted
        if other.virsh:
            self.records_are_ours = False  # libvirt 9.0 re-points the records of its children, which is why we delete the last one first
            before = virsh(["snapshot-list", self.g.name, "--name"]).split()
            virsh(other.command.format(g=self.g.name).split(), check=False)
            gone = set(before) - set(virsh(["snapshot-list", self.g.name, "--name"]).split())
            if gone - other.doomed:
                raise Wrong("virsh removed %s" % gone)
            number = 0
        else:
            number = self.mount.write(self.g.name, other.command, other.door)
        self.say(other.command, number)
        if number == 0 and not other.command.startswith("try"):
            if other.back_to and other.back_to not in self.g.wanted:
                raise Wrong("'%s' said ok" % other.command)
            self.ok(doomed & set(self.g.wanted), other.back_to, other.created, other.stops)
        elif other.created and not known and other.created in crash.snapshots_of(self.mount, self.g):
            raise Wrong("'%s' was refused and has made '%s'" % (other.command, other.created))
        if number == 0 and other.door == "retain":
            self.mount.write(self.g.name, "", "retain")  # no policy any more

    def do_first(self):
        for command in self.first.repeat:
            made = command.split()[1] if command.startswith("create ") else None
            anew = made and made not in virsh(["snapshot-list", self.g.name, "--name"]).split()
            if anew:
                self.narrow()
            number = self.mount.write(self.g.name, command, self.first.door)
            self.say(command, number)
            if number == 0 and anew and len(self.contents) == 1:  # not what it was to hold at first
                self.g.wanted[made] = {t: bytes(self.contents[0][t]) for t in self.g.targets}
        if number == 0:
            back = [w for w in command.split()[1:2] if command.startswith("revert")]
            self.ok(set(), back[0] if back else None, None, self.first.stops)
        return number

    def check(self):
        g = self.g

        def all_right():
            for name in g.wanted:
                ask = crash.doomed_or_unharmed if name in self.may_go else None
                wrong = ask(self.mount, g, name, g.wanted[name]) if ask else crash.unharmed(self.mount, g, name)
                if wrong:
                    return wrong
            return crash.settled(g) or crash.unlisted(self.mount, g)
        until("after %s" % ", ".join(self.said), all_right)
        until("after %s" % ", ".join(self.said), lambda: None if g.state() in self.states else "the guest is %s" % g.state())
        if g.jobs():
            return
        g.check_present(*self.contents)
        g.check_images(True, unmade=True)
        self.check_records()

    def check_records(self):
        g = self.g
        for name in virsh(["snapshot-list", g.name, "--name"]).split():
            if name not in g.wanted:
                raise Wrong("libvirt has a snapshot '%s'" % name)
            s = crash.snapshots_of(self.mount, g).get(name)
            if not self.records_are_ours or (s and s["state"] == "stale" and name in self.may_go):
                continue
            for t, path in g.frozen(virsh(["snapshot-dumpxml", g.name, name])).items():
                if bytes_of(path, snapshot=name if g.kinds[name] == "internal" else None) != g.wanted[name][t]:
                    raise Wrong("by libvirt's record, '%s' of disk %s is in '%s', which has other bytes" % (name, t, path))


class Between(crash.Walk):
    def case(self, sc, g, n, other):
        """False: the first command has no such point."""
        where = "?"
        title = "%s, then '%s'" % (sc.name, other.command)
        try:
            where = self.at(sc, g, n)
            if where is None:
                return False
            world = World(self.mount, g, sc)
            world.check()
            world.do_other(other)
            world.check()
            world.do_first()
            world.check()
            world.do_other(other)
            world.check()
            world.do_first()
            world.check()
            print("ok %s: point %d (%s): %s" % (title, n, where, ", ".join(world.said)), flush=True)
        except (Wrong, OSError) as e:
            print("FAIL %s: point %d (%s): %s" % (title, n, where, e), flush=True)
            crash.report(self.mount, g)
        finally:
            try:
                g.end()
            except Wrong as e:
                print("# %s" % e)
        return True

    def walk(self, sc, every, turn):
        """Returns the next turn: which of the others comes next."""
        start, n, cases = time.monotonic(), self.point or 1 + turn % every, 0
        while True:
            others = [o for o in OTHERS if fnmatch.fnmatch(o.command, os.environ.get("BETWEEN_OTHER", "*"))]
            others = others if every == 1 else [others[turn % len(others)]]
            for other in others:
                if not self.case(sc, self.guest(sc), n, other):
                    print("# %s: %d cases in %.0f s" % (sc.name, cases, time.monotonic() - start), flush=True)
                    return turn
                cases += 1
            self.points += len(others)
            turn += 1
            n += every
            if self.point:
                return turn


def main():
    mount = Mount(sys.argv[1])
    which = sys.argv[2]
    walk = Between(mount, int(sys.argv[3]) if len(sys.argv) > 3 else None)
    mount.up()
    turn = int(os.environ.get("BETWEEN_TURN", "0"))
    for sc in crash.SCENARIOS:
        if sc.name not in FIRST or not (which in ("short", "all") or fnmatch.fnmatch(sc.name, which)):
            continue
        try:
            turn = walk.walk(sc, SHORT if which == "short" else 1, turn)
        except Exception:  # the rest is to be walked nevertheless
            print("FAIL %s: %s" % (sc.name, traceback.format_exc().replace("\n", " | ")), flush=True)
            if mount.process.poll() is not None:
                sh("umount", "-l", mount.point, check=False)
                mount.up()
    mount.down()
    print("# %d cases in all" % walk.points)


if __name__ == "__main__":
    main()
