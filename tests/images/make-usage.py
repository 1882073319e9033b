#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""make-usage: a large disk with many snapshots, of which only the tables take room on disk.

usage: make-usage.py IMAGE SNAPSHOTS GIB PER-THOUSAND [CLUSTER-BITS]

All of the disk is mapped. Between two snapshots the guest has written to so many of a thousand L2 tables, one cluster of each of them. The
data is a hole in the file; refcounts are left out, so that only readers may open it.
"""
import array
import os
import random
import sys

from q2img import HEADER, make_entry

C63 = 1 << 63


class Maker:
    def __init__(self, path, snapshots, size, bits):
        self.f, self.cluster = open(path, "wb"), 1 << bits
        self.end = self.cluster
        self.per_table = self.cluster // 8
        self.n_tables = size // (self.cluster * self.per_table)
        self.size, self.bits = size, bits
        self.tables = [None] * self.n_tables
        self.l1 = [0] * self.n_tables

    def take(self, clusters):
        at, self.end = self.end, self.end + clusters * self.cluster
        return at

    def put(self, numbers):
        """A table of its own place."""
        raw = array.array("Q", numbers)
        raw.byteswap()
        data = raw.tobytes()
        at = self.take(-(-len(data) // self.cluster))
        os.pwrite(self.f.fileno(), data, at)
        return at

    def fill(self):
        for i in range(self.n_tables):
            data = self.take(self.per_table)
            self.tables[i] = [data + k * self.cluster for k in range(self.per_table)]
            self.l1[i] = self.put(self.tables[i])

    def write(self, i, rng):
        self.tables[i][rng.randrange(self.per_table)] = self.take(1)
        self.l1[i] = self.put(self.tables[i])


def main():
    path, snapshots, gib, changed = sys.argv[1], *map(int, sys.argv[2:5])
    bits = int(sys.argv[5]) if len(sys.argv) > 5 else 16
    m, rng, table = Maker(path, snapshots, gib << 30, bits), random.Random(1), b""
    m.fill()
    for n in range(snapshots):
        table += make_entry(m.put(m.l1), len(m.l1), b"%d" % (n + 1), b"s%d" % (n + 1), disk_size=m.size)
        for i in rng.sample(range(m.n_tables), m.n_tables * changed // 1000):
            m.write(i, rng)
    fields = {"magic": 0x514649FB, "version": 3, "cluster_bits": bits, "size": m.size, "l1_size": len(m.l1), "l1_off": m.put(m.l1),
              "nb_snapshots": snapshots, "snapshots_off": m.take(-(-len(table) // m.cluster)), "reftable_off": m.take(1),
              "reftable_clusters": 1, "refcount_order": 4, "header_length": 104}
    os.pwrite(m.f.fileno(), table, fields["snapshots_off"])
    for field, value in fields.items():
        off, size = HEADER[field]
        os.pwrite(m.f.fileno(), value.to_bytes(size, "big"), off)
    m.f.truncate(m.end)


if __name__ == "__main__":
    main()
