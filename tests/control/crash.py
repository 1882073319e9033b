# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""virt-snapfs killed at every numbered fault point (vm/util/fault.h) of every command.

crash.py MOUNTPOINT main|all|PATTERN [POINT]: walks the main scenarios, all, or those whose names match. Each is run once undisturbed,
which tells how many points it has, and then once more for each of them, every time on a guest made anew. After each death
virt-snapfs is mounted again, and

  - every snapshot reads as it always did, except those that the command was to remove, which may be `stale` with a reason;
    which ones these are is in the table below and not asked of virt-snapfs,
  - the guest's disks are what they were, the images are sound, a guest that was shut off is shut off, one that ran runs,
  - the command, repeated, finishes, or says ENOENT or EEXIST if it had been complete,
  - afterwards libvirt's records, the files and the images are as after an undisturbed run, and libvirt can work with them.
"""
import errno
import fnmatch
import json
import os
import re
import sys
import time
import traceback

from guests import MIB, Guest, Mount, Wrong, name_of, sh, until, virsh

SCENARIOS = []


class Scenario:
    def __init__(self, name, build, command, targets=("vda",), running=False, door="ctl", doomed=(), after=None, during=None,
                 complete=(errno.ENOENT,), created=None, repeat=None, stops=False, usable=True):
        self.name = name
        self.build = build        # makes the history
        self.command = command
        self.door = door
        self.targets = targets
        self.running = running
        self.doomed = set(doomed) # snapshots that the command is to remove
        self.after = after or (lambda g: [g.forget(n) for n in doomed])  # the model, as it is to be in the end
        self.during = during or (lambda g: [g.present])  # what the disks may hold meanwhile
        self.complete = complete  # what a repetition may say if nothing was left to do
        self.created = created    # a snapshot of the present content that the command makes
        self.repeat = repeat or [command]
        self.stops = stops        # the command stops the guest
        self.usable = usable      # libvirt 9.0 itself can go on with such a history
        SCENARIOS.append(self)


class Main(Scenario):
    """One of those that are walked when not all are asked for."""


def line(*names, kind="external"):
    """Snapshots one after the other, each with data of its own before and after it."""
    def build(g):
        for i, name in enumerate(names):
            g.snap(name, kind)
            for k, t in enumerate(g.targets):
                g.write(t, 16 * (i + 1) + k, (i + 1) * MIB // 4, MIB // 2)
        g.flush()
    return build


def branched(g):
    """a and, on it, b; back to a, and c from there: b is on a branch of its own."""
    line("a", "b")(g)
    g.back_to("a")
    for k, t in enumerate(g.targets):
        g.write(t, 100 + k, MIB, MIB // 2)
    g.snap("c")
    for k, t in enumerate(g.targets):
        g.write(t, 110 + k, MIB // 2, MIB // 2)
    g.flush()


def reverted(name, keep=None):
    def after(g):
        if keep:
            g.note(keep, g.kinds[name])
        g.present = {t: bytearray(g.wanted[name][t]) for t in g.targets}
        g.current = name
    return after


def either(name):
    return lambda g: [g.present, g.wanted[name]]


def created(name, kind):
    return lambda g: g.note(name, kind)


two = ("vda", "vdb")
abc = line("a", "b", "c")
inside = line("a", "b", "c", kind="internal")

Main("delete the middle one, shut off", abc, "delete b", doomed="b")
Scenario("delete the oldest, shut off, two disks", abc, "delete a", targets=two, doomed="a")
Scenario("delete the newest, shut off", abc, "delete c", doomed="c")
Scenario("delete the middle one, running, two disks", abc, "delete b", targets=two, running=True, doomed="b")
Scenario("delete the oldest, running", abc, "delete a", running=True, doomed="a")
Scenario("delete the newest, running, two disks", abc, "delete c", targets=two, running=True, doomed="c")
Main("delete the end of a branch, shut off", branched, "delete b", doomed="b")
Main("delete an internal one, shut off, two disks", inside, "delete b", targets=two, doomed="b")
Scenario("delete an internal one, running", inside, "delete b", running=True, doomed="b")
Scenario("delete two, shut off", abc, "delete a b", doomed="ab")

Main("commit into the oldest one's image, shut off", abc, "commit a", doomed="a")
Scenario("commit the middle one, running", abc, "commit b", running=True, doomed="b")
Scenario("commit two of three, shut off, two disks", abc, "commit a b", targets=two, doomed="ab")
Scenario("commit two of three, running", abc, "commit a b", running=True, doomed="ab")
Scenario("commit the newest with pivot, running", abc, "commit c", running=True, doomed="c")
Main("commit all with pivot, running, two disks", abc, "commit a c", targets=two, running=True, doomed="abc")
Scenario("commit the newest two, shut off", abc, "commit b c", doomed="bc")

Scenario("pull alone, shut off, two disks", abc, "pull", targets=two, complete=())
Main("pull onto one, shut off", abc, "pull a", complete=())
Main("pull alone, running", abc, "pull", running=True, complete=())

Main("create external, shut off, two disks", line("a"), "create n", targets=two, created="n",
         after=created("n", "external"), complete=(errno.EEXIST,))
Scenario("create external, running", line("a"), "create n", running=True, created="n", after=created("n", "external"),
         complete=(errno.EEXIST,))
Main("create internal, shut off, two disks", line("a", kind="internal"), "create n", targets=two, created="n",
         after=created("n", "internal"), complete=(errno.EEXIST,))
Scenario("create internal, running", line("a", kind="internal"), "create n internal", running=True, created="n",
         after=created("n", "internal"), complete=(errno.EEXIST,))

Scenario("revert external, shut off, two disks", abc, "revert a", targets=two, during=either("a"), after=reverted("a"),
         complete=())
Scenario("revert external, running, force", abc, "revert b force", running=True, stops=True, during=either("b"),
         after=reverted("b"), complete=())
Main("revert external, keep", abc, "revert a keep=n", created="n", during=either("a"), after=reverted("a", "n"),
         complete=(errno.EEXIST,))
Scenario("revert internal, shut off, two disks", inside, "revert b", targets=two, during=either("b"), after=reverted("b"),
         complete=())
Main("revert internal, keep", inside, "revert b keep=n", created="n", during=either("b"), after=reverted("b", "n"),
         complete=(errno.EEXIST,))

Scenario("retain drops two, shut off", abc, "1n match=*", door="retain", doomed="ab", complete=())
Main("retain drops two, running", abc, "1n match=*", door="retain", running=True, doomed="ab", complete=())
Scenario("retain drops two internal ones", inside, "1n match=*", door="retain", doomed="ab", complete=())
Main("hold, shut off", abc, "hold a", complete=())
Scenario("hold, running", abc, "hold a", running=True, complete=())


# ---------------------------------------------------------------- checks

def snapshots_of(mount, guest):
    doc = json.loads(mount.text(guest.name, "snapshots.json"))
    return {s["name"]: s for s in doc["snapshots"]}


def read(mount, guest, snapshot, target):
    with open("%s/%s/%s.%s.img" % (mount.point, guest.name, snapshot, target), "rb") as f:
        return f.read()


def reads_right(mount, guest, name, contents):
    """None, or why it cannot be read now. Other bytes are never right."""
    for t in guest.targets:
        try:
            data = read(mount, guest, name, t)
        except OSError as e:
            return "%s.%s.img gives %s" % (name, t, name_of(e.errno))
        if data != bytes(contents[t]):
            raise Wrong("%s.%s.img HAS OTHER BYTES than at the snapshot" % (name, t))
    return None


def unharmed(mount, guest, name):
    s = snapshots_of(mount, guest).get(name)
    if not s:
        return "%s is not listed" % name
    if s["state"] not in ("ok", "detached"):
        return "%s is %s: %s" % (name, s["state"], s["reason"])
    return reads_right(mount, guest, name, guest.wanted[name])


def doomed_or_unharmed(mount, guest, name, contents):
    """One that the command was to remove: it reads right, or it is stale and says why, or its record is gone."""
    s = snapshots_of(mount, guest).get(name)
    if not s:
        listed = name in virsh(["snapshot-list", guest.name, "--name"]).split()
        return "%s has a record and is not listed" % name if listed else None
    if s["state"] in ("ok", "detached"):
        return reads_right(mount, guest, name, contents)
    if s["state"] == "stale":
        for t in guest.targets:
            try:
                if read(mount, guest, name, t) != bytes(contents[t]):
                    raise Wrong("%s is stale, and its file HAS OTHER BYTES" % name)
            except OSError:
                pass
        return None if s["reason"] else "%s is stale without a reason" % name
    return "%s is %s: %s" % (name, s["state"], s["reason"])


def settled(guest):
    """Jobs end by themselves, but a commit of the active layer only becomes ready."""
    jobs = guest.jobs()
    return None if not jobs or re.match(r"Active Block Commit: *\[ *100", jobs) else "a job runs: %s" % jobs


def unlisted(mount, guest):
    """Whatever the command has left lying about is in `chain`. The image that the domain began with is its owner's, and may be nobody's
    once no snapshot is left of it."""
    text = mount.text(guest.name, "chain")
    owned = [] if snapshots_of(mount, guest) else ["%s.qcow2" % t for t in guest.targets]
    missing = [f for f in sorted(os.listdir(guest.dir)) if os.path.join(guest.dir, f) not in text and f not in owned]
    return "chain does not list %s" % " ".join(missing) if missing else None


def check_after_death(mount, guest, sc, leaks=False):
    for name in guest.wanted:
        if name in sc.doomed:
            until("after the crash", lambda: doomed_or_unharmed(mount, guest, name, guest.wanted[name]))
        else:
            until("after the crash", lambda: unharmed(mount, guest, name))
    if sc.created and sc.created in snapshots_of(mount, guest):
        until("after the crash", lambda: doomed_or_unharmed(mount, guest, sc.created, guest.present))
    want = ("paused", "running") if sc.running else ("shut off",)

    def state():
        now = guest.state()
        return None if now in want or (sc.stops and now == "shut off") else "the guest is %s" % now
    until("after the crash", state)
    until("after the crash", lambda: settled(guest))
    until("after the crash", lambda: unlisted(mount, guest))
    if not guest.jobs():  # else QEMU lets nobody read; the disks will be looked at when the repetition is through
        guest.check_present(*sc.during(guest))
        guest.check_images(leaks, unmade=True)


def check_complete(mount, guest, sc, leaks=False):
    sc.after(guest)
    if sc.stops:
        guest.running = False
    want = ("paused", "running") if guest.running else ("shut off",)
    if guest.state() not in want:
        raise Wrong("afterwards the guest is %s" % guest.state())
    if guest.jobs():
        raise Wrong("afterwards a job is left: %s" % guest.jobs())
    for name in guest.wanted:
        wrong = unharmed(mount, guest, name)
        if wrong:
            raise Wrong("afterwards %s" % wrong)
    extra = set(snapshots_of(mount, guest)) - set(guest.wanted)
    if extra:
        raise Wrong("afterwards there is still %s" % sorted(extra))
    if sc.created and not snapshots_of(mount, guest)[sc.created]["ours"]:
        raise Wrong("'%s' does not count as taken here" % sc.created)
    guest.check_present()
    guest.check_images(leaks)
    used = guest.check_records()
    guest.check_files(used)
    if "left over" in mount.text(guest.name, "chain"):
        raise Wrong("chain still lists something as left over")


def repeat(mount, guest, sc):
    for command in sc.repeat:
        number = mount.write(guest.name, command, sc.door)
        if number and number not in sc.complete:
            raise Wrong("repeated: %s" % mount.outcome(guest.name))


def report(mount, guest):
    """What there is to see when something is wrong."""
    for name in "log", "chain", "snapshots":
        try:
            for text in mount.text(guest.name, name).splitlines()[-25:]:
                print("#   %s: %s" % (name, text), flush=True)
        except OSError as e:
            print("#   no %s: %s" % (name, e), flush=True)
    print("#   files: %s" % " ".join(sorted(os.listdir(guest.dir))), flush=True)


# ---------------------------------------------------------------- the walk

class Walk:
    def __init__(self, mount, point=None, short=False):
        """@short: of a scenario with many points every second one."""
        self.mount = mount
        self.point = point
        self.short = short
        self.points = 0
        self.serial = 0
        self.first = None

    def guest(self, sc):
        self.serial += 1
        g = Guest("g%d" % self.serial, sc.targets, sc.running)
        sc.build(g)
        g.flush()
        return g

    def listed(self, g):
        path = "%s/%s" % (self.mount.point, g.name)
        until("a new guest", lambda: None if os.path.isdir(path) and set(snapshots_of(self.mount, g)) >= set(g.wanted) else "is not listed")

    def undisturbed(self, sc):
        """How many points it has."""
        g = self.guest(sc)
        self.first = g
        self.listed(g)
        self.mount.arm(1000000)
        number = self.mount.write(g.name, sc.command, sc.door)
        left, where = self.mount.disarm()
        if number:
            raise Wrong("undisturbed: %s" % self.mount.outcome(g.name))
        check_complete(self.mount, g, sc)
        if sc.usable:
            g.check_usable()
        g.end()
        return 1000000 - left

    def at(self, sc, g, n):
        """Where it died, or None if it ended before."""
        self.listed(g)
        self.mount.arm(n)
        number = self.mount.write(g.name, sc.command, sc.door)
        left, where = self.mount.disarm()
        if left:
            if number:
                raise Wrong("it ended with %s before point %d was reached" % (name_of(number), n))
            return None
        self.mount.after_death()
        self.mount.up()
        return where

    def step(self, sc, g, n, last):
        where = "?"
        try:
            where = self.at(sc, g, n)
            if where:
                check_after_death(self.mount, g, sc)
                repeat(self.mount, g, sc)
            check_complete(self.mount, g, sc)
            if last and sc.usable:
                g.check_usable()
            print("ok %s: point %d (%s)" % (sc.name, n, where), flush=True)
        except (Wrong, OSError) as e:
            print("FAIL %s: point %d (%s): %s" % (sc.name, n, where, e), flush=True)
            report(self.mount, g)
        try:
            g.end()
        except Wrong as e:
            print("# %s" % e)
        return where

    def some(self, n):
        """CI has forty minutes for everything: every other point, on another day the others."""
        in_ci = self.short and os.environ.get("CI") and n > 12
        return range(1 + (int(time.time() // 86400) % 2 if in_ci else 0), n + 1, 2 if in_ci or (self.short and n > 30) else 1)

    def walk(self, sc):
        start = time.monotonic()
        try:
            n = self.undisturbed(sc)
            if not n:
                raise Wrong("it has no fault points; is this a build with -Dfaults=true?")
        except (Wrong, OSError) as e:
            print("FAIL %s: undisturbed: %s" % (sc.name, e), flush=True)
            report(self.mount, self.first)
            return
        points = [self.point] if self.point else self.some(n)
        guests = {k: self.guest(sc) for k in points}
        for k in points:
            if self.step(sc, guests[k], k, k == points[-1]):
                self.points += 1
        print("# %s: %d fault points walked in %.0f s" % (sc.name, len(points), time.monotonic() - start), flush=True)


def main():
    mount = Mount(sys.argv[1])
    which = sys.argv[2]
    walk = Walk(mount, int(sys.argv[3]) if len(sys.argv) > 3 else None, which == "main")
    mount.up()
    for sc in SCENARIOS:
        if which == "all" or (which == "main" and isinstance(sc, Main)) or fnmatch.fnmatch(sc.name, which):
            try:
                walk.walk(sc)
            except Exception:  # the rest is to be walked nevertheless
                print("FAIL %s: %s" % (sc.name, traceback.format_exc().replace("\n", " | ")), flush=True)
                if mount.process.poll() is not None:
                    sh("umount", "-l", mount.point, check=False)
                    mount.up()
    mount.down()
    print("# %d fault points in all" % walk.points)


if __name__ == "__main__":
    main()
