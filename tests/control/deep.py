# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Deep chains: deep.py MOUNTPOINT [SNAPSHOTS]. What a policy drops from a domain that is shut off, with that many snapshots.

All but the newest go in one merge; with every tenth one held, what lies between them goes in one merge each. The domain is
started once for all of it.
"""
import json
import os
import re
import sys
import threading
import time

from guests import MIB, Guest, Mount, Wrong, name_of, virsh


def make(name, n):
    g = Guest(name)
    for i in range(n):
        g.snap("s%03d" % i)
        g.flush()
        g.write("vda", 1 + i % 255, i * 8192 % (2 * MIB - 8192), 8192)
    return g


def starts(g):
    try:
        with open("/var/log/libvirt/qemu/%s.log" % g.name) as f:
            return f.read().count(": starting up libvirt version")
    except FileNotFoundError:
        return 0  # not once


class Watch(threading.Thread):
    """What `jobs` has said."""

    def __init__(self, mount, g):
        super().__init__()
        self.path = "%s/%s/jobs" % (mount.point, g.name)
        self.seen = set()
        self.over = False

    def run(self):
        while not self.over:
            with open(self.path) as f:
                self.seen |= {line for line in f.read().splitlines() if " left" in line}
            time.sleep(0.02)


def drop(mount, g, keep):
    before, began = starts(g), time.monotonic()
    watch = Watch(mount, g)
    watch.start()
    number = mount.write(g.name, "1n match=*", "retain")
    took = time.monotonic() - began
    watch.over = True
    watch.join()
    if number:
        raise Wrong("%s: %s" % (name_of(number), mount.outcome(g.name)))
    dropped = len(g.wanted) - len(keep)
    for name in sorted(g.wanted):
        if name not in keep:
            g.forget(name)
    print("# %d drops in %.1f s" % (dropped, took), flush=True)
    if starts(g) - before != 1:
        raise Wrong("the domain was started %d times" % (starts(g) - before))
    if not any("%d left" % dropped in line for line in watch.seen):
        raise Wrong("jobs never said '%d left', but %s" % (dropped, sorted(watch.seen)[-3:]))
    g.check_present()
    g.check_images()
    g.check_files(g.check_records())
    states = {s["name"]: s["state"] for s in json.loads(mount.text(g.name, "snapshots.json"))["snapshots"]}
    if states != {name: "ok" for name in keep}:
        raise Wrong("now there are %s" % states)


def case(title, what):
    try:
        what()
        print("ok %s" % title, flush=True)
    except (Wrong, OSError) as e:
        print("FAIL %s: %s" % (title, e), flush=True)


def startable():
    """How many layers a domain can have so that this libvirt starts it, well on the safe side: 10.8 to 11.10 nest too deep in JSON."""
    version = tuple(int(x) for x in re.search(r"(\d+)\.(\d+)\.\d+", virsh(["version", "--daemon"]).splitlines()[-1]).groups())
    return 20 if (10, 8) <= version <= (11, 10) else 199


def main():
    mount = Mount(sys.argv[1])
    n = min(int(sys.argv[2]) if len(sys.argv) > 2 else 60, startable())
    all_of, tenth = make("deep", n), make("tenth", n)
    mount.up()
    last = "s%03d" % (n - 1)
    held = ["s%03d" % i for i in range(0, n, 10)]
    case("all but the newest of %d go in one merge" % n, lambda: drop(mount, all_of, [last]))
    for name in held:
        if mount.write("tenth", "hold " + name):
            print("FAIL hold %s: %s" % (name, mount.outcome("tenth")))
    case("every tenth of %d is held: what lies between goes in one merge each, in one start" % n, lambda: drop(mount, tenth, held + [last]))
    mount.down()
    for g in all_of, tenth:
        g.end()


if __name__ == "__main__":
    main()
