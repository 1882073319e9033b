#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""exports: every state of the listed images as a qcow2 file of its own, and as an overlay on every other state; judged by QEMU.

usage: exports.py [--jobs N] [--spoil] Q2-TOOL LIST.json

What q2-tool reads of a state is what compare.py has compared with QEMU. Of each state's file:
  - `qemu-img check` has nothing to say, not even a leaked cluster
  - `qemu-img compare` with the state's bytes
  - read in any order it is the same
  - it stores no cluster of which the map says that it is zero: no larger than what is allocated, in clusters, and the tables
and of each pair's: check and compare likewise, on a raw file of the first one; and the changes, copied over that file, make the second one.

One line per image. --spoil flips one bit of each made file: then every line must say FAIL.
"""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import compare
from compare import Differs, q2
from q2img import Image, QemuRefused

TIMEOUT = 120
PAIRS = 20  # of one image; the first and last states are always among them
spoil = False


def qemu_says(*argv):
    """The last of them is a file; where it is matters to QEMU, see q2img.qemu()."""
    p = subprocess.run(argv, cwd=os.path.dirname(argv[-1]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT)
    return p.returncode, p.stdout.strip()


def put(path, data):
    with open(path, "wb") as f:
        f.write(data)


def made(case, path, state, *options):
    data = bytearray(q2("export", case, state, *options))
    if spoil and data:
        data[len(data) - 5000 if len(data) > 70000 else len(data) * 2 // 3] ^= 0x10
    put(path, data)
    q2("export-torture", case, state, *options, "--cache", 65536, "--reads", 60)


def judge(path, raw):
    status, text = qemu_says("qemu-img", "check", "-f", "qcow2", path)
    if status or "No errors were found" not in text:
        raise Differs("check: %s" % text[:300])
    status, text = qemu_says("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw)
    if status or "identical" not in text:
        raise Differs("compare: %s" % text[:300])


def no_waste(case, state, path, raw):
    with Image(path) as img:
        cluster, l1 = 1 << img["cluster_bits"], img["l1_size"] * 8
    # The map's own word; of raw files what the file system has of them.
    seek, _, extents = q2("report", case, state).decode(errors="replace").partition("map\n")[2].partition("extents\n")
    rows = [line.split(" ", 3)[:3] for line in (seek if case["format"] == "raw" else extents).splitlines()]
    clusters, tables, per_table, last = 0, 0, cluster * cluster // 8, -1
    touched = set()
    for off, length, kind in rows:
        if kind == "zero" or not int(length):
            continue
        first, end = int(off) // cluster, (int(off) + int(length) - 1) // cluster
        clusters += end - first + 1 - (first == last)
        last = end
        touched.update(range(int(off) // per_table, (int(off) + int(length) - 1) // per_table + 1))
    tables = len(touched)
    data = clusters + 2 * tables  # streams that end within a cluster
    refs = (data + 8) // (cluster // 2) + 2
    most = (1 + 1 + refs + -(-l1 // cluster) + tables + data) * cluster
    if os.path.getsize(path) > most:
        raise Differs("the file has %d bytes where %d suffice" % (os.path.getsize(path), most))


def apply(case, a, b, path):
    """What changed, from the second one's bytes, over the first one's: as dd would."""
    with open(path, "r+b") as f, open("%s.%d" % (case["path"], b), "rb") as source:
        for line in q2("changes", case, b, "--before-index", a).decode().splitlines():
            off, length, kind = line.split()
            f.seek(int(off))
            source.seek(int(off))
            f.write(bytes(int(length)) if kind == "zero" else source.read(int(length)))
        f.truncate(os.path.getsize(source.name))


def check_state(case, state):
    raw, path = "%s.%d" % (case["path"], state), case["path"] + ".made"
    put(raw, q2("cat", case, state))
    made(case, path, state)
    judge(path, raw)
    no_waste(case, state, path, raw)


def check_pair(case, a, b):
    path, raws = case["path"] + ".made", ["%s.%d" % (case["path"], s) for s in (a, b)]
    made(case, path, b, "--before-index", a, "--backing", raws[0])
    judge(path, raws[1])
    with open(raws[0], "rb") as f:
        put(path, f.read())
    apply(case, a, b, path)
    with open(path, "rb") as f, open(raws[1], "rb") as g:
        if f.read() != g.read():
            raise Differs("the changes over the one do not make the other")


def some_pairs(states):
    pairs = [(a, b) for a in states for b in states if a != b]
    pairs.sort(key=lambda p: (p[0] not in (states[0], states[-1]), p[1] not in (states[0], states[-1]), (p[0] * 7 + p[1] * 13) % 17))
    return pairs[:PAIRS]


def check(case):
    doing = "states"
    try:
        if case["windows"]:
            return "ok %s: too large to be copied, not tried" % case["name"]
        count = sum(r.startswith("snapshot ") for r in q2("info", case, -1).decode().splitlines()) if case["format"] == "qcow2" else 0
        states = case["states"] if case["states"] is not None else [-1, *range(count)]
        for doing in states:
            check_state(case, doing)
        for doing in some_pairs(states):
            check_pair(case, *doing)
    except (Differs, QemuRefused, subprocess.TimeoutExpired) as e:
        return "FAIL %s: %s: %s" % (case["name"], doing, str(e).replace("\n", " | "))
    finally:
        for name in os.listdir(os.path.dirname(case["path"])):
            if name.startswith(os.path.basename(case["path"]) + ".") and name.rpartition(".")[2].lstrip("-").isdigit():
                os.unlink(os.path.join(os.path.dirname(case["path"]), name))
        if os.path.exists(case["path"] + ".made"):
            os.unlink(case["path"] + ".made")
    return "ok %s" % case["name"]


def main():
    global spoil
    args = sys.argv[1:]
    jobs = int(args.pop(args.index("--jobs") + 1)) if "--jobs" in args else os.cpu_count()
    spoil = "--spoil" in args
    compare.tool, listing = [a for a in args if not a.startswith("--")]
    with open(listing) as f:
        cases = json.load(f)
    with ThreadPoolExecutor(jobs) as pool:
        lines = list(pool.map(check, cases))
    print("\n".join(lines))
    sys.exit(any(not line.startswith("ok ") for line in lines))


if __name__ == "__main__":
    main()
