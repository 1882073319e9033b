#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""usage: what deleting snapshots of an image with a random history frees, foretold by q2-tool and then done by QEMU.

usage: usage.py [--jobs N] [--spoil] Q2-TOOL DIRECTORY SEED [SEED...]

Of each image:
  - every snapshot is deleted from a copy of its own: so many clusters less have a refcount (refcount blocks left out) as was foretold
  - some sets of snapshots are deleted one after the other, in any order: likewise, as foretold for the set
  - what is in use is all that is counted but the header, the table of snapshots and the refcounts
  - a copy with all its snapshots takes about as much as was estimated
  - what a snapshot holds, and what only it does, is what a walk through its tables here finds

One line per image. --spoil adds to what is foretold: then every line must say FAIL.
"""
import importlib.util
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from q2img import C62, Image, QemuRefused, create, make_patterns, qemu

OFFSET = 0x00FFFFFFFFFFFE00
STEPS = (8, 20)
SETS = 3
spoil = 0
tool = None


def load(name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


history = load("make-random")


class Differs(Exception):
    pass


# ---------------------------------------------------------------- histories

class Life(history.Life):
    """As in make-random, but mainly of snapshots; each has a name of its own."""

    def take(self):
        self.names += 1
        qemu("qemu-img", "snapshot", "-q", "-c", "n%d%s" % (self.names, "x" * self.rng.choice((0, 0, 5, 200))), self.path)

    def save(self):
        """With the state of a machine."""
        self.names += 1
        qemu_monitor(self.path, "savevm v%d" % self.names)

    def on_one(self, verb):
        names = [n for n, _ in snapshots(self.path)]
        if names:
            qemu("qemu-img", "snapshot", "-q", verb, self.rng.choice(names), self.path)
        with Image(self.path) as img:
            self.size = img["size"]

    def step(self):
        steps = [self.write] * 5 + [self.resize]
        if self.plain:
            steps += [self.take] * 5 + [lambda: self.on_one("-d"), lambda: self.on_one("-a")]
            if self.rng.random() < 0.15:
                steps += [self.save] * 3
        try:
            self.rng.choice(steps)()
        except QemuRefused:
            pass  # what QEMU did is the history


def qemu_monitor(path, *commands):
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-machine", "none", "-m", "4", "-monitor", "stdio", "-drive",
            "if=none,id=d0,discard=unmap,file=" + path]
    p = subprocess.run(argv, input="".join(c + "\n" for c in commands) + "quit\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, timeout=60)
    if "Error" in p.stdout:
        raise QemuRefused(p.stdout[-300:])


def make(top, seed, patterns):
    rng = random.Random(seed)
    d = os.path.join(top, str(seed))
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    opts, plain = history.options(rng, False)
    size, path = history.disk_size(rng), os.path.join(d, "img.qcow2")
    create(path, size, **opts)
    life = Life(rng, path, opts, plain, size, patterns)
    for _ in range(rng.randrange(*STEPS)):
        life.step()
    mend(path)
    return path, rng


def mend(path):
    """QEMU loses a cluster now and then when it reverts. What it has lost it does not free."""
    subprocess.run(["qemu-img", "check", "-q", "-r", "all", os.path.basename(path)], cwd=os.path.dirname(path), stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


# ---------------------------------------------------------------- QEMU's word: its refcounts

def counted(path):
    """Clusters with a refcount, without those of the refcounts themselves."""
    with Image(path) as img:
        width = 1 << img["refcount_order"] if img["version"] == 3 else 16
        cluster, n, own = img.cluster, 0, 0
        for i in range(img["reftable_clusters"] * cluster // 8):
            block = img.get(img["reftable_off"] + i * 8, 8) & OFFSET
            if block:
                own += 1
                n += count_block(img.bytes(block, cluster), width)
        return n - own - img["reftable_clusters"]


def count_block(block, width):
    if width >= 8:
        step = width // 8
        return sum(any(block[i:i + step]) for i in range(0, len(block), step))
    return sum((b >> shift) & ((1 << width) - 1) != 0 for b in block for shift in range(0, 8, width))


def snapshots(path):
    with Image(path) as img:
        return [(e.name.decode(), e.id.decode()) for e in img.entries()]


def delete(path, names):
    copy = path + ".copy"
    shutil.copy(path, copy)
    before = counted(copy)
    for name in names:
        qemu("qemu-img", "snapshot", "-q", "-d", name, copy)
    return before - counted(copy)


# ---------------------------------------------------------------- a walk of our own

def reached(img, l1_off, n):
    """The clusters that this L1 table leads to, with its own; and the bytes that are referred to from there."""
    cluster, bits = img.cluster, img["cluster_bits"]
    l1 = -(-n * 8 // cluster)
    clusters, size = {(l1_off >> bits) + i for i in range(l1)}, l1 * cluster
    step = 16 if img.extended else 8
    data_file = img["version"] == 3 and img["incompatible"] & 4
    for i in range(n):
        l2 = img.get(l1_off + i * 8, 8) & OFFSET
        if not l2:
            continue
        clusters.add(l2 >> bits)
        size += cluster
        table = img.bytes(l2, cluster)
        for at in range(0, cluster, step):
            entry = int.from_bytes(table[at:at + 8], "big")
            if data_file or not entry & ~(1 << 63):
                continue
            if entry & C62:
                x = 62 - (bits - 8)
                off = entry & ((1 << x) - 1)
                length = ((entry >> x & ((1 << (bits - 8)) - 1)) + 1) * 512 - off % 512
            elif entry & OFFSET:
                off, length = entry & OFFSET, cluster
            else:
                continue
            clusters.update(range(off >> bits, (off + length - 1 >> bits) + 1))
            size += length
    return clusters, size


def walk(path):
    with Image(path) as img:
        tables = [(img["l1_off"], img["l1_size"])] + [(e["l1_off"], e["l1_size"]) for e in img.entries()]
        return [reached(img, *t) for t in tables], img.cluster, -(-sum(e.padded_len for e in img.entries()) // img.cluster)


# ---------------------------------------------------------------- the comparison

def foretold(path, members=()):
    out = subprocess.run([tool, "usage", path, *map(str, members)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    if out.returncode:
        raise Differs("q2-tool: " + out.stderr.strip())
    rows = [dict(w.split("=") for w in line.split() if "=" in w) for line in out.stdout.splitlines()]
    return [{k: int(v) for k, v in row.items()} for row in rows]


def same(what, want, got, path=None):
    if want == got + spoil:
        return
    checks = [subprocess.run(["qemu-img", "check", p], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout[:300]
              for p in (path, path + ".copy")] if path else []
    raise Differs("%s: %d, and foretold was %d; qemu-img check before and after: %s" % (what, want, got, checks))


def check_walk(path, said):
    found, cluster, table = walk(path)
    total = said.pop()
    for i, ((clusters, size), row) in enumerate(zip(found, said)):
        others = set().union(*(f[0] for k, f in enumerate(found) if k != i))
        same("state %d holds" % i, size, row["holds"])
        same("only state %d has" % i, len(clusters - others) * cluster, row["only"])
    same("used", len(set().union(*(f[0] for f in found))) * cluster, total["used"])
    qemu("qemu-img", "check", "-q", os.path.basename(path), cwd=os.path.dirname(path))
    same("used, by QEMU", (counted(path) - 1 - table) * cluster, total["used"])


def check_deletes(path, rng, said):
    names, cluster = snapshots(path), None
    with Image(path) as img:
        cluster = img.cluster
    for i, (name, _) in enumerate(names):
        same("deleting '%s' freed" % name, delete(path, [name]) * cluster, said[i + 1]["frees"], path)
    for _ in range(SETS if len(names) > 1 else 0):
        members = rng.sample(range(len(names)), rng.randrange(2, len(names) + 1))
        freed = delete(path, [names[m][0] for m in members]) * cluster
        same("deleting %s freed" % members, freed, foretold(path, members)[-1]["together"], path)
    return len(names)


def check_compact(path, n, said):
    """The estimate, beside the copy itself, in which streams lie closer, and a cluster that reads as zeros is left out."""
    out = subprocess.run([tool, "copy", "--present", "--snapshot-index", str(n - 1), path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         timeout=60)
    with Image(path) as img:
        waste, clusters = (said - len(out.stdout)) / img.cluster, len(out.stdout) / img.cluster
    if out.returncode or not -1 <= waste <= 2 + clusters / 4:
        raise Differs("a copy takes %d, and foretold was %d: %s" % (len(out.stdout), said, out.stderr.decode()[:200]))


def check(seed, top, patterns):
    n = 0
    try:
        path, rng = make(top, seed, patterns)
        said = foretold(path)
        n = check_deletes(path, rng, said)
        if n:
            check_compact(path, n, said[-1]["compact"])
        check_walk(path, said)
    except (Differs, QemuRefused, subprocess.TimeoutExpired) as e:
        return "FAIL history %d: %s" % (seed, str(e).replace("\n", " | "))
    finally:
        if not os.environ.get("KEEP"):
            shutil.rmtree(os.path.join(top, str(seed)), ignore_errors=True)
    return "ok history %d: %d snapshots" % (seed, n)


def main():
    global spoil, tool
    args = sys.argv[1:]
    jobs = os.cpu_count()
    if "--jobs" in args:
        at = args.index("--jobs")
        jobs, args = int(args[at + 1]), args[:at] + args[at + 2:]
    spoil = 512 if "--spoil" in args else 0
    tool, top, *seeds = [a for a in args if not a.startswith("--")]
    os.makedirs(top, exist_ok=True)
    patterns = make_patterns(top)
    with ThreadPoolExecutor(jobs) as pool:
        for line in pool.map(lambda s: check(int(s), top, patterns), seeds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
