#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""copies: each of the listed images that has internal snapshots, copied whole; judged by QEMU.

usage: copies.py [--jobs N] [--spoil] Q2-TOOL LIST.json

Of each copy:
  - `qemu-img check` has nothing to say, not even a leaked cluster
  - the snapshot table has the source's ids, names, dates, clocks and sizes, in its order
  - the present content, and every state after `qemu-img snapshot -a`, are the bytes that q2-tool reads of the source (which compare.py has
    compared with QEMU); the VM state of each snapshot is the source's, byte by byte through its L1 table
  - it has as many clusters as the tables and what is used take, counted here from the source's tables
  - read in any order it is the same, and a copy of it is itself
  - QEMU deletes its snapshots, one after the other, and has nothing to say in between

One line per image. --spoil flips one bit of each copy: then every line must say FAIL.
"""
import json
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import compare
from compare import Differs, oracle, oracle_bytes, q2
from exports import judge, put, qemu_says
from q2img import C62, Image, QemuRefused

MOST = 24  # states of one image that are compared; the first and last are always among them
OFFSET = 0x00FFFFFFFFFFFE00
spoil = False


# ---------------------------------------------------------------- what a copy has to have

def l1_table(img, off, n):
    raw = img.bytes(off, n * 8)
    return struct.unpack(">%dQ" % (len(raw) // 8), raw) + (0,) * (n - len(raw) // 8)


def l1_needed(img, size):
    return -(-size // (img.cluster * img.l2_entries()))


def used_by(img, table):
    """Host clusters of data and of streams that an L2 table keeps, and whether it says anything."""
    width, bits = 16 if img.extended else 8, img["cluster_bits"]
    raw, used = img.bytes(table, img.cluster), set()
    if not any(raw):
        return used, False
    for at in range(0, len(raw), width):
        entry = int.from_bytes(raw[at:at + 8], "big")
        if entry & C62:
            x = 62 - (bits - 8)
            start = entry & ((1 << x) - 1)
            end = (start & ~511) + (((entry >> x) & ((1 << (bits - 8)) - 1)) + 1) * 512
            used.update(range(start >> bits, (end - 1 >> bits) + 1))
        elif entry & OFFSET and (raw[at + 12:at + 16] != bytes(4) if width == 16 else not entry & 1):
            used.add((entry & OFFSET) >> bits)
    return used, True


def clusters_needed(path, present):
    """Of the copy, without refcounts: (all of them). @present: the disk's size that it shows, and its L1 table in the source."""
    with Image(path) as img:
        size, l1_off, l1_size = present
        need = l1_needed(img, size)
        tables = [(l1_off, min(l1_size, need), need)]
        length = 0
        for e in img.entries():
            tables.append((e["l1_off"], e["l1_size"], e["l1_size"]))
            extra = max(e["extra_len"], 16)
            length += (40 + extra + e["id_len"] + e["name_len"] + 7) // 8 * 8
        n, l2s = 1 + -(-length // img.cluster), set()
        for off, there, entries in tables:
            n += -(-entries * 8 // img.cluster)
            l2s.update(v & OFFSET for v in l1_table(img, off, there) if v & OFFSET)
        data = set()
        for table in l2s:
            used, any_ = used_by(img, table)
            n += any_
            data |= used
        return n + len(data)


def no_waste(case, path, present):
    need = clusters_needed(case["path"], present)
    with Image(path) as img:
        per_block = img.cluster * 8 >> img["refcount_order"]
        blocks = table = 0
        while True:
            all_ = need + blocks + table
            more = -(-all_ // per_block)
            if more <= blocks and -(-blocks * 8 // img.cluster) <= table:
                break
            blocks, table = more, -(-more * 8 // img.cluster)
        if img.length != all_ * img.cluster:
            raise Differs("the copy has %d clusters where %d are needed" % (img.length // img.cluster, all_))


# ---------------------------------------------------------------- the same

def entry_of(e):
    extra = e.extra
    state = struct.unpack(">Q", extra[:8])[0] if len(extra) >= 8 else e["vmstate32"]
    return e.id, e.name, e["date"], e["nsec"], e["clock"], state, e["l1_size"], extra[8:16], extra[16:]


def same_table(case, path):
    with Image(case["path"]) as source, Image(path) as copy:
        for a, b in zip(source.entries(), copy.entries(), strict=True):
            a, b = entry_of(a), entry_of(b)
            if not a[7]:
                a = a[:7] + (source["size"].to_bytes(8, "big"),) + a[8:]
            if a != b:
                raise Differs("a snapshot's entry: %r instead of %r" % (b, a))


def vm_states(path):
    """The clusters behind each snapshot's disk, by its L1 table."""
    out = []
    with Image(path) as img:
        for e in img.entries():
            size = struct.unpack(">Q", e.extra[8:16])[0] if len(e.extra) >= 16 else img["size"]
            for idx, l1 in enumerate(l1_table(img, e["l1_off"], e["l1_size"])):
                if idx < l1_needed(img, size) or not l1 & OFFSET:
                    continue
                width = 16 if img.extended else 8
                raw = img.bytes(l1 & OFFSET, img.cluster)
                for at in range(0, len(raw), width):
                    entry = int.from_bytes(raw[at:at + 8], "big")
                    if entry & OFFSET and not entry & (C62 | 1) and (width == 8 or raw[at + 12:at + 16] == b"\xff" * 4):
                        out.append((e.id, idx, at, img.bytes(entry & OFFSET, img.cluster).ljust(img.cluster, b"\0")))
    return out


def no_complaint(path, what):
    status, text = qemu_says("qemu-img", "check", "-f", "qcow2", path)
    if status or "No errors were found" not in text:
        raise Differs("check %s: %s" % (what, text[:300]))


def delete_all(path):
    with Image(path) as img:
        names = [e.name for e in img.entries()]
    if len(set(names)) < len(names) or not all(names) or len(names) > MOST or max(map(len, names)) > 200:
        return
    for name in names[1:] + names[:1]:
        p = subprocess.run([b"qemu-img", b"snapshot", b"-q", b"-d", name, os.path.basename(os.fsencode(path))], cwd=os.path.dirname(path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, check=False)
        if p.returncode:
            raise Differs("deleting %r: %s" % (name, p.stdout.decode(errors="replace")[:300]))
        no_complaint(path, "after %r was deleted" % name)


def some(states):
    return states if len(states) <= MOST else states[:MOST // 2] + states[-MOST // 2:]


def check_copy(case, state, *options):
    path = case["path"] + ".copy"
    with Image(case["path"]) as img:
        entries = img.entries()
        newest = max(range(len(entries)), key=lambda i: (entries[i]["date"], entries[i]["nsec"], i))
        e = entries[newest]
        size = struct.unpack(">Q", e.extra[8:16])[0] if len(e.extra) >= 16 else img["size"]
        present = (img["size"], img["l1_off"], img["l1_size"]) if options else (size, e["l1_off"], e["l1_size"])
    data = bytearray(q2("copy", case, state, *options))
    if spoil:
        data[len(data) - 5000 if len(data) > 70000 else len(data) * 2 // 3] ^= 0x10
    put(path, data)
    q2("copy-torture", case, state, *options, "--cache", 65536, "--reads", 60)
    copied = dict(case, path=path, clean=True)
    raw = case["path"] + ".raw"
    put(raw, q2("cat", case, -1 if options else newest))
    judge(path, raw)
    no_waste(case, path, present)
    same_table(case, path)
    if vm_states(case["path"]) != vm_states(path):
        raise Differs("the VM states are others")
    for i in some(list(range(len(entries)))):
        if oracle_bytes(copied, oracle(copied, i), None) != q2("cat", case, i):
            raise Differs("snapshot %d reads otherwise" % i)
        no_complaint(path + ".oracle", "after -a of %d" % i)
    if q2("copy", copied, 0, *options) != data:
        raise Differs("a copy of the copy is another one")
    delete_all(path)


def check(case):
    if case["windows"] or case["format"] != "qcow2":
        return None
    try:
        count = sum(r.startswith("snapshot ") for r in q2("info", case, -1).decode().splitlines())
        if not count:
            return None
        if count > 1000:
            return "ok %s: too large to be copied, not tried" % case["name"]
        check_copy(case, 0, "--present")
        check_copy(case, count - 1)
    except (Differs, QemuRefused, subprocess.TimeoutExpired) as e:
        return "FAIL %s: %s" % (case["name"], str(e).replace("\n", " | "))
    finally:
        for end in (".copy", ".raw", ".copy.oracle"):
            if os.path.exists(case["path"] + end):
                os.unlink(case["path"] + end)
    return "ok %s" % case["name"]


def main():
    global spoil
    args = sys.argv[1:]
    jobs = int(args.pop(args.index("--jobs") + 1)) if "--jobs" in args else os.cpu_count()
    spoil = "--spoil" in args
    compare.tool, listing = [a for a in args if not a.startswith("--")]
    with open(listing, encoding="utf-8") as f:
        cases = json.load(f)
    with ThreadPoolExecutor(jobs) as pool:
        lines = [line for line in pool.map(check, cases) if line]
    print("\n".join(lines))
    sys.exit(any(not line.startswith("ok ") for line in lines))


if __name__ == "__main__":
    main()
