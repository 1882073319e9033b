#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""live: a QEMU that takes and deletes internal snapshots as fast as it can, under the eyes of live-reader.

usage: live.py [--spoil] LIVE-READER DIRECTORY ROUNDS CACHE-MODE SEED

CACHE-MODE: writeback or none (O_DIRECT). Each round writes the whole disk anew (data, compressed and zero clusters; some
of it discarded first), takes a snapshot, and deletes as many others as are needed to keep between one and six. What each
serial holds and what CONTROL means is told in live-reader.c. Prints `ok` or `FAIL` lines.
"""
import json
import mmap
import os
import random
import socket
import subprocess
import sys

from q2img import create, numbers

CLUSTER, CLUSTERS, SERIALS = 65536, 32, 65536
NONE, CREATING, LIVE, DYING, DEAD = range(5)
THREADS = 4


class Qmp:
    def __init__(self, image, mode):
        cache = "cache.direct=%s" % ("on" if mode == "none" else "off")
        ours, theirs = socket.socketpair()
        # not over stdio, where qemu-io prints
        self.p = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S", "-chardev",
             "socket,id=q,fd=%d" % theirs.fileno(), "-mon", "chardev=q,mode=control", "-blockdev",
             "driver=qcow2,node-name=t,discard=unmap,%s,file.driver=file,file.discard=unmap,file.%s,file.filename=%s"
             % (cache, cache, image)], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        theirs.close()
        self.f = ours.makefile("rwb")
        self.f.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.f.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.f.flush()
        while True:
            answer = json.loads(self.f.readline())
            if "error" in answer:
                raise RuntimeError("%s: %s" % (command, answer["error"]["desc"]))
            if "return" in answer:
                return answer["return"]

    def io(self, command):
        """qemu-io inside QEMU. It does not tell whether it worked; if not, the readers will see wrong bytes."""
        self("human-monitor-command", **{"command-line": 'qemu-io t "%s"' % command})

    def quit(self):
        self("quit")
        self.p.wait(30)


def fill(qmp, directory, rng, serial):
    pattern = os.path.join(directory, "pattern")
    with open(pattern, "wb") as f:
        f.write(numbers(512, serial))
    kinds = ["zero" if (serial + c) % 7 == 3 else rng.choice(("data", "data", "data", "compressed")) for c in range(CLUSTERS)]
    c = 0
    while c < CLUSTERS:
        n = 1
        while c + n < CLUSTERS and kinds[c + n] == kinds[c]:
            n += 1
        where = "%d %d" % (c * CLUSTER, n * CLUSTER)
        if kinds[c] == "zero":
            qmp.io("write -z %s %s" % (rng.choice(("", "-u")), where))
        else:
            if kinds[c] == "compressed" or rng.random() < 0.2:
                qmp.io("discard " + where)  # QEMU compresses only into clusters that it need not free
            qmp.io("write %s -s %s %s" % ("-c" if kinds[c] == "compressed" else "", pattern, where))
        c += n


def rounds(qmp, directory, state, count, rng):
    alive = []
    for serial in range(1, count + 1):
        fill(qmp, directory, rng, serial)
        state[serial] = CREATING
        qmp("blockdev-snapshot-internal-sync", device="t", name="s%d" % serial)
        state[serial] = LIVE
        alive.append(serial)
        keep = rng.randrange(1, 7)
        while len(alive) > keep:
            # often the newest, so that the next snapshot gets the same id at the same place
            victim = alive.pop(-1 if rng.random() < 0.4 else rng.randrange(len(alive)))
            state[victim] = DYING
            qmp("blockdev-snapshot-delete-internal-sync", device="t", name="s%d" % victim)
            state[victim] = DEAD


def main():
    args = [a for a in sys.argv[1:] if a != "--spoil"]
    reader, directory, count, mode, seed = args[0], args[1], int(args[2]), args[3], int(args[4])
    image, control = os.path.join(directory, "live.qcow2"), os.path.join(directory, "control")
    create(image, CLUSTERS * CLUSTER)
    with open(control, "w+b") as f:
        f.truncate(1 + SERIALS)
        shared = mmap.mmap(f.fileno(), 1 + SERIALS)
    state = memoryview(shared)[1:]
    qmp = Qmp(image, mode)
    p = subprocess.Popen([reader, image, control, str(THREADS)] + (["spoil"] if "--spoil" in sys.argv else []),
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    name = "%d rounds, cache %s, seed %d" % (count, mode, seed)
    try:
        rounds(qmp, directory, state, count, random.Random(seed))
    finally:
        shared[0] = 1
        text = p.communicate(timeout=120)[0].decode(errors="replace")
        qmp.quit()
    for line in text.splitlines():
        print(line if line.startswith("FAIL") else "# " + line)
    seen = dict(w.split("=") for w in text.splitlines()[-1].split() if "=" in w) if text else {}
    if p.returncode not in (0, 1):
        print("FAIL %s: live-reader ended with status %d" % (name, p.returncode))
    elif p.returncode == 0 and (int(seen["reads"]) < 10 * count or int(seen["stale"]) < 1 or int(seen["views"]) < count):
        print("FAIL %s: too little was read to prove anything" % name)
    elif p.returncode == 0:
        print("ok %s" % name)


if __name__ == "__main__":
    main()
