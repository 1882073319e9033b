#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""make-random: one image with a random history, from a seed.

usage: make-random.py DIRECTORY SEED [SEED...]

Cluster size, features, backing chain, and a dozen steps of writes, zeros, discards, compression, snapshots taken, deleted
and reverted to, and resizes. The same seed makes the same image (but for its dates). DIRECTORY/list.json is as make-good.py writes it;
the name of a case holds its seed.
"""
import json
import os
import random
import shutil
import sys

from q2img import *

MIB = 1024 * 1024


def options(rng, chained):
    """What `qemu-img create -o` gets, the cluster size, and whether it may hold snapshots and compressed clusters."""
    bits = rng.choice((9, 10, 11, 12, 12, 13, 14, 15, 16, 16, 16, 17, 18, 20, 21))
    o = {"cluster_size": 1 << bits}
    plain = True
    if rng.random() < 0.15:
        o["compat"] = "0.10"
        return o, plain
    if bits >= 14 and rng.random() < 0.4:
        o["extended_l2"] = "on"
    if rng.random() < 0.3:
        o["refcount_bits"] = rng.choice((8, 32, 64))
    if rng.random() < 0.3:
        o["compression_type"] = "zstd"
    if rng.random() < 0.2:
        o["lazy_refcounts"] = "on"
    if rng.random() < 0.12:
        plain = False
        o.pop("lazy_refcounts", None)
        o.pop("compression_type", None)
        o["data_file"] = "data%d.raw" % rng.randrange(1 << 30)
        if not chained and rng.random() < 0.5:
            o["data_file_raw"] = "on"
    elif not chained and rng.random() < 0.15:
        o["preallocation"] = rng.choice(("metadata", "falloc", "full"))
    return o, plain


def disk_size(rng):
    size = rng.randrange(1, 17) * 256 * 1024
    return size if rng.random() < 0.5 else size + rng.randrange(1, 500) * 512


def base(d, rng):
    """A raw file, with holes or without, of any length."""
    with open(os.path.join(d, "base.raw"), "wb") as f:
        if rng.random() < 0.7:
            f.write(mixed_data(rng.randrange(1, 4 * MIB), rng.randrange(1 << 30)))
        else:
            for _ in range(5):
                os.pwrite(f.fileno(), mixed_data(rng.randrange(1, 100000), rng.randrange(1 << 30)), rng.randrange(4 * MIB))
    return "base.raw", "raw"


class Life:
    """One layer, as it was changed step by step."""

    def __init__(self, rng, path, opts, plain, size, patterns):
        self.rng, self.path, self.size, self.plain, self.patterns = rng, path, size, plain, patterns
        self.cluster, self.v2 = opts["cluster_size"], opts.get("compat") == "0.10"
        self.names = 0

    def write(self):
        scrawl(self.path, scribble(self.rng, self.size, self.cluster, self.rng.randrange(3, 14), self.patterns, self.plain))

    def take(self):
        self.names += 1
        name = self.rng.choice(("s%d", "%d", "s%d")) % self.names
        snapshot(self.path, name)

    def ids(self):
        with Image(self.path) as img:
            return [e.id for e in img.entries()]

    def on_one(self, verb):
        ids = self.ids()
        if ids:
            qemu("qemu-img", "snapshot", "-q", verb, self.rng.choice(ids), os.path.basename(self.path), cwd=os.path.dirname(self.path))
        with Image(self.path) as img:
            self.size = img["size"]

    def resize(self):
        if self.v2 and self.ids():
            return
        size = disk_size(self.rng)
        resize(self.path, size, shrink=size < self.size)
        self.size = size

    def step(self):
        try:
            steps = [self.write] * 4 + [self.resize]
            if self.plain:
                steps += [self.take] * 4 + [lambda: self.on_one("-d"), lambda: self.on_one("-a")]
            self.rng.choice(steps)()
        except QemuRefused:
            pass  # QEMU knows best what it can do; what it did is the history


def make(top, seed, patterns):
    rng = random.Random(seed)
    d = os.path.join(top, str(seed))
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    below, fmt = base(d, rng) if rng.random() < 0.4 else (None, None)
    depth = rng.choice((1, 1, 2, 3))
    for layer in range(depth):
        path = os.path.join(d, "img.qcow2" if layer == depth - 1 else "layer%d.qcow2" % layer)
        opts, plain = options(rng, below is not None)
        size = disk_size(rng)
        create(path, size, below, fmt, **opts)
        life = Life(rng, path, opts, plain, size, patterns)
        for _ in range(rng.randrange(3, 7) if layer < depth - 1 else rng.randrange(6, 16)):
            life.step()
        below, fmt = os.path.basename(path), "qcow2"
    return dict(name="random image of seed %d" % seed, path=path, format="qcow2", states=None, windows=None, clean=True,
                allow=[])


def main():
    top, seeds = sys.argv[1], sys.argv[2:]
    os.makedirs(top, exist_ok=True)
    patterns = make_patterns(top)
    listed = [make(top, int(seed), patterns) for seed in seeds]
    with open(os.path.join(top, "list.json"), "w") as f:
        json.dump(listed, f, indent=1)


if __name__ == "__main__":
    main()
