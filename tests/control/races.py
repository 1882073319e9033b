# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Our commands and virsh's at the same moment: see tests/suites/races.sh and witness.py.

races.py MOUNTPOINT. Each race is run RACES times (default 5) on a guest made for it, the second of the two beginning a little later or
earlier each time. Who wins is open. What both have answered, and nothing else, must be so afterwards; how often it was not is
counted.
"""
import os
import re
import threading
import time

from guests import MIB, PATIENCE, Virsh, Wrong, until, virsh
from witness import case, main

RACES = int(os.environ.get("RACES", "5"))
SPREAD = float(os.environ.get("SPREAD", "0.6"))  # seconds within which the second one begins


class Others:
    """A virsh of its own, at once ready."""

    def __init__(self):
        self.virsh = Virsh()
        self.answer = ""
        self.virsh.ask("list")

    def ask(self, line):
        self.answer = self.virsh.ask(line)

    @property
    def done(self):
        return not re.search(r"^error:", self.answer, re.M)

    def end(self):
        self.virsh.end()


def side_by_side(lab, g, command, others, line, delay):
    """@delay: how much later virsh begins; negative: earlier. Gives what ours answered."""
    theirs = threading.Thread(target=others.ask, args=(line,))
    if delay < 0:
        theirs.start()
        time.sleep(-delay)
    job = lab.begin(g, command, until_it_writes=False)
    if delay >= 0:
        time.sleep(delay)
        theirs.start()
    got = job.over()
    theirs.join(PATIENCE)
    return got


def settle(lab, g, command, tolerated):
    """What was begun is finished. None, or why not."""
    end = time.monotonic() + PATIENCE
    while True:
        got = lab.write(g, command)
        if got not in ("EBUSY", "ETIMEDOUT") or time.monotonic() > end:
            return None if got in tolerated else "repeated, '%s' gave %s: %s" % (command, got, lab.said(g))
        time.sleep(0.2)


def race(name, run, history="ab", few=2):
    """@run(lab, g, others, delay) -> a short word for who won; raises Wrong."""
    def do(lab, running, targets):
        guests = [lab.guest(running, targets, history) for _ in range(RACES)]
        tally, wrong = {}, []
        others = Others()
        try:
            for i, g in enumerate(guests):
                delay = SPREAD * (i / max(1, RACES - 1) - 0.4)
                try:
                    outcome = run(lab, g, others, delay)
                    tally[outcome] = tally.get(outcome, 0) + 1
                except Wrong as e:
                    wrong.append("at %+.2f s: %s (ours: %s; virsh: %s)" % (delay, e, lab.said(g), " ".join(others.answer.split())))
        finally:
            others.end()
        print("# %d races: %s; went wrong: %d" % (len(guests), ", ".join("%s %d" % x for x in sorted(tally.items())), len(wrong)), flush=True)
        if wrong:
            raise Wrong("%d of %d went wrong. %s" % (len(wrong), len(guests), " // ".join(wrong)))
    case(name, few=few)(do)


def overlays(g, names):
    return [g.file(t, n) for t in g.targets for n in names]


def all_is_well(lab, g, may_go):
    """libvirt's records are those of the books, and what each names reads as it must; libvirt starts it."""
    lab.listed(g)
    extra = sorted(set(g.names()) - set(g.wanted))
    if extra:
        raise Wrong("libvirt has records that should not be: %s" % extra)
    lab.intact(g, may_go=may_go, records=False)
    g.check_records()
    shown = set(lab.snapshots(g))
    if shown != set(g.wanted):
        until("the mount", lambda: None if set(lab.snapshots(g)) == set(g.wanted) else "shows %s" % sorted(lab.snapshots(g)), 10)
    lab.starts(g)


def won(got, others):
    return "both said ok" if got == "0" and others.done else "ours" if got == "0" else "theirs" if others.done else "neither"


# ---------------------------------------------------------------- 21

def create_and_delete(lab, g, others, delay):
    """The new overlay is to stand on the layer that virsh merges away."""
    got = side_by_side(lab, g, "create n", others, "snapshot-delete %s b" % g.name, delay)
    if others.done:
        g.forget("b")
    if got == "0":
        g.note("n", "external", g.current)
    elif "n" in g.names():
        raise Wrong("'create n' gave %s, and there is a record of 'n'" % got)
    all_is_well(lab, g, overlays(g, "b"))
    return won(got, others)


def create_and_forget(lab, g, others, delay):
    """virsh removes the record alone; libvirt 9.0 changes those after it."""
    got = side_by_side(lab, g, "create n", others, "snapshot-delete %s b --metadata" % g.name, delay)
    if others.done:
        g.forget("b")
    if got == "0":
        g.note("n", "external", g.current)
    lab.listed(g)
    until("the mount", lambda: lab.unharmed(g, "a"))
    if got == "0":
        until("the mount", lambda: lab.unharmed(g, "n"))
    g.check_present()
    lab.starts(g)
    return won(got, others)


race("row 21: create while virsh deletes the newest snapshot", create_and_delete)
race("row 21: create while virsh removes a record", create_and_forget, few=1)


# ---------------------------------------------------------------- 22

def merge_and_delete(command, doomed, theirs):
    def do(lab, g, others, delay):
        got = side_by_side(lab, g, command, others, "snapshot-delete %s %s" % (g.name, theirs), delay)
        done = won(got, others)
        if others.done and theirs in g.names():
            raise Wrong("virsh had deleted '%s', and its record is back" % theirs)
        if got != "0":
            wrong = settle(lab, g, command, ("0", "ENOENT"))
            if wrong:
                raise Wrong(wrong)
        if others.done:
            g.forget(theirs)
        elif theirs not in g.names():
            raise Wrong("virsh had not deleted '%s', and its record is gone" % theirs)
        for n in doomed:
            if n in g.wanted:
                g.forget(n)
        all_is_well(lab, g, overlays(g, doomed + theirs))
        return done
    return do


race("row 22: delete the oldest while virsh deletes the next", merge_and_delete("delete a", "a", "b"), "abc")
race("row 22: delete the oldest while virsh deletes the newest", merge_and_delete("delete a", "a", "c"), "abc", few=1)
race("row 22: commit while virsh deletes the newest", merge_and_delete("commit a b", "ab", "d"), "abcd", few=1)


def delete_and_create(lab, g, others, delay):
    """The active layer is merged while virsh puts another one on it."""
    words = " ".join("--diskspec %s,snapshot=external,file=%s" % (t, g.file(t, "n")) for t in g.targets)
    got = side_by_side(lab, g, "delete b", others, "snapshot-create-as %s n --disk-only %s" % (g.name, words), delay)
    done = won(got, others)
    if got != "0":
        wrong = settle(lab, g, "delete b", ("0", "ENOENT"))
        if wrong:
            raise Wrong(wrong)
    if others.done:
        g.note("n", "external", g.current)
    g.forget("b")
    all_is_well(lab, g, overlays(g, "b"))
    return done


race("row 22: delete the newest while virsh takes another", delete_and_create, "ab", few=1)


def delete_and_redefine(lab, g, others, delay):
    """Somebody else gives a record another description meanwhile; that is not to be undone."""
    path = os.path.join(g.dir, ".theirs.xml")
    text = g.record("c").replace("</name>", "</name><description>by others</description>", 1)
    with open(path, "w") as f:
        f.write(text)
    got = side_by_side(lab, g, "hold b", others, "snapshot-create %s %s --redefine --current" % (g.name, path), delay)
    if got != "0":
        raise Wrong("'hold b' gave %s" % got)
    with open(path, "w") as f:
        f.write(text.replace("by others", "by others again"))
    got = side_by_side(lab, g, "delete a", others, "snapshot-create %s %s --redefine --current" % (g.name, path), delay)
    os.unlink(path)
    if got != "0":
        wrong = settle(lab, g, "delete a", ("0", "ENOENT"))
        if wrong:
            raise Wrong(wrong)
    g.forget("a")
    g.seen.pop(path, None)
    if others.done and "by others again" not in g.record("c"):
        raise Wrong("what virsh wrote into the record of 'c' is lost")
    all_is_well(lab, g, overlays(g, "a"))
    return won(got, others)


race("row 22: delete the oldest while virsh writes to a later record", delete_and_redefine, "abc", few=1)


# ---------------------------------------------------------------- 23

def revert_and_start(lab, g, others, delay):
    """Whoever sees the domain shut off starts it at once."""
    over = threading.Event()
    started = []

    def keep_starting():
        time.sleep(max(0, delay))
        while not over.is_set() and not started:
            others.ask("start %s --paused" % g.name)
            if others.done:
                started.append(time.monotonic())
            time.sleep(0.002)
    before = dict(g.active_now())
    thread = threading.Thread(target=keep_starting)
    thread.start()
    got = lab.write(g, "revert a force")
    over.set()
    thread.join(PATIENCE)
    said = lab.said(g)
    ours = g.active_now()
    stopped = {r.split(None, 1)[0]: r.split(None, 1)[1].strip() for r in virsh(["domblklist", g.name, "--inactive"]).splitlines() if r.strip()}
    if ours != stopped:
        raise Wrong("'revert' gave %s (%s); the guest runs on %s, and after the next power cycle it has %s" % (got, said, ours, stopped))
    g.running = g.state() != "shut off"
    if got == "0":
        g.reverted("a")
        if ours == before:
            raise Wrong("'revert' said ok, and the disks are the old ones")
    g.check_present(g.present, *([] if got == "0" else [g.wanted["a"]]))
    if got != "0" and ours != before:
        g.reverted("a")
    # What the guest writes now is there after a power cycle.
    if g.running:
        g.write("vda", 0x5a, MIB, 65536)
        g.flush()
    all_is_well(lab, g, list(before.values()))
    return ("ok" if got == "0" else got) + (", started meanwhile" if started else "")


race("row 23: revert force while somebody starts the domain", revert_and_start, few=2)


if __name__ == "__main__":
    main()
