#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""compare: every state of the listed images as q2-tool reads it and as QEMU does.

usage: compare.py [--jobs N] [--torture] [--spoil] Q2-TOOL LIST.json

The oracle for a snapshot is what a guest would see had it been reverted to: a copy of the image, `qemu-img snapshot -a ID`
on it, then `qemu-img convert` and `qemu-img map`. Not `convert -l`, which keeps the present virtual size. By id, which
QEMU looks for before the name; where an id is not unique the wanted entry is first moved to the front of the copy's table.

Compared are size, bytes, the holes that lseek tells, the extents, and the sum of what is allocated. QEMU's "data": true is
our data. Two differences are allowed, both only where all bytes are zeros:
  - beneath a data cluster we ask the file system for holes more often than QEMU, which does so only in images that it
    takes for preallocated (and then says "zero": true beside "data": true); so lseek may tell a hole where QEMU and the
    extents tell data
  - where a raw file ends inside a sector QEMU ends the data at that byte, we at the end of the sector

One line per image: `ok NAME` or `FAIL NAME: why`. --spoil flips one bit of each oracle: then every line must say FAIL.
"""
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from q2img import Image, QemuRefused, qemu

TIMEOUT = 120
tool, torture, spoil = None, False, False


class Differs(Exception):
    pass


def q2(command, case, state, *more):
    argv = [tool, command, case["path"], *map(str, more), "--format", case["format"]]
    for d in case["allow"]:
        argv += ["--allow", d]
    if state >= 0:
        argv += ["--snapshot-index", str(state)]
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=TIMEOUT)
    if p.returncode:
        raise Differs("%s: status %d: %s" % (command, p.returncode, p.stderr.decode(errors="replace").strip()[-1500:]))
    return p.stdout


# ---------------------------------------------------------------- the oracle

def revert(copy, state):
    """Makes snapshot @state the copy's present content, and says under which id QEMU found it."""
    with Image(copy) as img:
        entries = img.entries()
        wanted = entries[state]
        ident = wanted.id
        if [e.id for e in entries].count(ident) > 1:
            raw = [e.raw for e in entries]
            img.write(img["snapshots_off"], raw.pop(state) + b"".join(raw))
    qemu("qemu-img", "snapshot", "-q", "-a", ident, os.path.basename(copy), cwd=os.path.dirname(copy))


def oracle(case, state):
    """A file whose present content is the wanted state, for QEMU. The image itself is never opened for writing."""
    if state < 0 and case["clean"]:
        return case["path"]
    copy = case["path"] + ".oracle"
    shutil.copyfile(case["path"], copy)  # a name relative to the image must mean the same for the copy
    if case["format"] == "qcow2":
        with Image(copy) as img:
            if img["version"] == 3:
                img["incompatible"] &= ~2  # corrupt: QEMU would not write
                img["autoclear"] &= ~1  # bitmaps: QEMU would not revert
    if state >= 0:
        revert(copy, state)
    return copy


def oracle_bytes(case, path, window):
    out = case["path"] + ".bytes"
    if window:
        options = "driver=raw,offset=%d,size=%d,file.driver=qcow2,file.file.driver=file,file.file.filename=%s" % (*window, path)
        qemu("qemu-img", "convert", "--image-opts", "-O", "raw", options, out, cwd=os.path.dirname(path))
    else:
        qemu("qemu-img", "convert", "-f", case["format"], "-O", "raw", path, out, cwd=os.path.dirname(path))
    with open(out, "rb") as f:
        data = bytearray(f.read())
    os.unlink(out)
    if spoil and data:
        data[len(data) // 2] ^= 1
    return bytes(data)


def merged(runs):
    """[(start, length, is data)] without neighbours of one kind."""
    out = []
    for start, length, data in runs:
        if out and out[-1][2] == data:
            out[-1] = (out[-1][0], out[-1][1] + length, data)
        else:
            out.append((start, length, data))
    return out


def oracle_map(case, path):
    text = qemu("qemu-img", "map", "--output=json", "-f", case["format"], path, cwd=os.path.dirname(path))
    return merged((e["start"], e["length"], e["data"]) for e in json.loads(text) if e["length"])


# ---------------------------------------------------------------- the comparison

def first_difference(want, got):
    if len(want) != len(got):
        return "%d bytes instead of %d" % (len(got), len(want))
    for base in range(0, len(want), 4096):
        if want[base:base + 4096] != got[base:base + 4096]:
            for i in range(base, len(want)):
                if want[i] != got[i]:
                    return "byte %d is 0x%02x instead of 0x%02x" % (i, got[i], want[i])
    return None


def check_bytes(case, state, path):
    """Returns the bytes, or those of the last window."""
    for window in case["windows"] or [None]:
        want = oracle_bytes(case, path, window)
        got = q2("read", case, state, *window) if window else q2("cat", case, state)
        why = first_difference(want, got)
        if why:
            raise Differs("%s%s" % (why, " of the window at %d" % window[0] if window else ""))
    return got


def report(case, state):
    """Size, bytes allocated, what lseek tells and what the extents tell."""
    more = ["--cache", 256 << 20] if case["windows"] else []  # room for an L1 table of 32 MiB
    numbers, _, maps = q2("report", case, state, *more).decode(errors="replace").partition("map\n")
    size, allocated = map(int, numbers.split())
    seek, _, extents = maps.partition("extents\n")
    rows = [[line.split(" ", 3)[:3] for line in text.splitlines()] for text in (seek, extents)]
    return size, allocated, *(merged((int(off), int(n), kind != "zero") for off, n, kind in r) for r in rows)


def check_maps(case, path, content, allocated, seek, extents):
    if allocated != sum(length for _, length, data in seek if data):
        raise Differs("allocated says %d, lseek says %d" % (allocated, sum(x[1] for x in seek if x[2])))
    for start, end in beyond(seek, extents):
        raise Differs("lseek tells data at %d-%d, extents tell zeros" % (start, end))
    if case["windows"]:
        return
    want = oracle_map(case, path)
    for start, end in beyond(want, extents):
        raise Differs("QEMU tells data at %d-%d, extents tell zeros" % (start, end))
    for start, end in beyond(seek, want):
        if any(content[start:end]) or end - start >= 512 or end % 512:
            raise Differs("lseek tells data at %d-%d, QEMU a hole" % (start, end))
    for start, end in beyond(want, seek) + beyond(extents, seek):
        if any(content[start:end]):
            raise Differs("lseek tells a hole at %d-%d, where there are bytes" % (start, end))


def beyond(a, b):
    """The stretches [(start, end)] that are data in @a and not in @b."""
    out, holes = [], [(start, start + length) for start, length, data in b if not data]
    for start, length, data in a:
        if data:
            out += [(max(start, h), min(start + length, e)) for h, e in holes if h < start + length and e > start]
    return out


def check_state(case, state):
    path = oracle(case, state)
    content = check_bytes(case, state, path)
    size, *maps = report(case, state)
    want = virtual_size(path) if case["windows"] else len(content)
    if size != want:
        raise Differs("size %d instead of %d" % (size, want))
    check_maps(case, path, content, *maps)
    if torture and not case["windows"]:
        q2("torture", case, state, "--cache", 65536, "--reads", 100)


def virtual_size(path):
    return json.loads(qemu("qemu-img", "info", "--output=json", path, cwd=os.path.dirname(path)))["virtual-size"]


def check_list(case):
    """The snapshot table as we list it, against the bytes on disk and QEMU's count. And what QEMU made was not cut off."""
    if not spoil:
        q2("whole", case, -1)
    rows = [r.split() for r in q2("info", case, -1).decode().splitlines() if r.startswith("snapshot ")]
    with Image(case["path"]) as img:
        if len(rows) != img["nb_snapshots"]:
            raise Differs("%d snapshots listed instead of %d" % (len(rows), img["nb_snapshots"]))
        for row, e in zip(rows[:1000], img.entries()):
            want = ["id=" + shown(e.id), "name=" + shown(e.name), "date=%d.%09d" % (e["date"], e["nsec"]), "clock=%d" % e["clock"]]
            if row[2:6] != want:
                raise Differs("listed as %r instead of %r" % (row[2:6], want))
    return len(rows)


def shown(name):
    name = name.split(b"\0")[0]
    return "".join("%%%02X" % c if c <= 32 or c == 37 or c >= 127 else chr(c) for c in name)


def check(case):
    state = "listing"
    try:
        count = check_list(case) if case["format"] == "qcow2" else 0
        states = case["states"] if case["states"] is not None else [-1, *range(count)]
        for state in states:
            check_state(case, state)
    except (Differs, QemuRefused, subprocess.TimeoutExpired) as e:
        where = {-1: "present content", "listing": "listing"}.get(state, "snapshot index %s" % state)
        return "FAIL %s: %s: %s" % (case["name"], where, str(e).replace("\n", " | "))
    finally:
        if os.path.exists(case["path"] + ".oracle"):
            os.unlink(case["path"] + ".oracle")
    return "ok %s" % case["name"]


def main():
    global tool, torture, spoil
    args = sys.argv[1:]
    jobs = int(args.pop(args.index("--jobs") + 1)) if "--jobs" in args else os.cpu_count()
    torture, spoil = "--torture" in args, "--spoil" in args
    tool, listing = [a for a in args if not a.startswith("--")]
    with open(listing) as f:
        cases = json.load(f)
    with ThreadPoolExecutor(jobs) as pool:
        lines = list(pool.map(check, cases))
    print("\n".join(lines))
    sys.exit(any(not line.startswith("ok ") for line in lines))


if __name__ == "__main__":
    main()
