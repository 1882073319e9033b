#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""make-costly: small images that ask for a great deal of work or memory.

usage: make-costly.py DIRECTORY

All are sparse files of some kilobytes to some megabytes, written by hand. Each has one snapshot `s` whose disk is a hole of
hundreds of TiB with one cluster of data (byte 0x5a) just before its end, so that an answer which calls that cluster a hole can be
told from a right one. DIRECTORY/list has a line for each: name, offset of that cluster, size of the disk.
"""
import os
import struct
import sys

from q2img import make_entry

MIB = 1 << 20
ZERO = 1
DATA = 0x5A


def header(bits, size, l1_size, l1_off, n_snapshots, snapshots_off, backing=None):
    name = struct.pack(">II", 0xE2792ACA, 5) + b"qcow2" + bytes(3) + bytes(8) + backing if backing else b""
    fixed = struct.pack(">IIQIIQIIQQIIQ", 0x514649FB, 3, 104 + 24 if backing else 0, len(backing or b""), bits, size, 0,
                        l1_size, l1_off, 1 << bits, 1, n_snapshots, snapshots_off)
    return fixed + struct.pack(">QQQII", 0, 0, 0, 4, 104) + name


class Costly:
    """An image whose places are handed out one after the other."""

    def __init__(self, path, bits, l1_size):
        self.path, self.bits, self.c = path, bits, 1 << bits
        self.span = self.c // 8 * self.c
        self.l1_size = min(l1_size, ((1 << 63) - self.c) // self.span)
        self.size = self.l1_size * self.span
        self.end = 2 * self.c
        self.f = open(path, "wb")
        self.l1_off = self.room(self.l1_size * 8)

    def room(self, length):
        off, self.end = self.end, self.end + (length + self.c - 1) // self.c * self.c
        return off

    def write(self, off, data):
        self.f.seek(off)
        self.f.write(data)

    def l1(self, entries, first=0):
        self.write(self.l1_off + first * 8, struct.pack(">%dQ" % len(entries), *entries))

    def tables(self, n, entry=0):
        """So many L2 tables, of which every entry is @entry."""
        off = self.room(n * self.c)
        for i in range(n if entry else 0):
            self.write(off + i * self.c, struct.pack(">Q", entry) * (self.c // 8))
        return [off + i * self.c for i in range(n)]

    def data_at_the_end(self):
        """In the last table but one entry, so that holes lie on both sides."""
        table, cluster = self.room(self.c), self.room(self.c)
        self.l1([table], self.l1_size - 1)
        self.write(table + self.c - 16, struct.pack(">Q", cluster))
        self.write(cluster, bytes([DATA]) * self.c)
        return self.size - 2 * self.c

    def finish(self, before=b"", n_before=0, backing=None):
        """@before: entries of the snapshot table in front of `s`."""
        raw = before + make_entry(self.l1_off, self.l1_size, b"s", b"s", self.size)
        off = self.room(len(raw))
        self.write(off, raw)
        self.f.truncate(self.end)
        self.write(0, header(self.bits, self.size, self.l1_size, self.l1_off, n_before + 1, off, backing))
        self.f.close()
        old = os.stat(self.path).st_mtime - 3600
        os.utime(self.path, (old, old))


listed = []
top = None


def image(name, make, bits=16, l1_size=MIB, **kw):
    img = Costly(os.path.join(top, name + ".qcow2"), bits, l1_size)
    make(img)
    listed.append("%s %d %d" % (name, img.data_at_the_end(), img.size))
    img.finish(**kw)


def shared(n_tables, entry=0):
    def make(img):
        tables = img.tables(n_tables, entry)
        img.l1((tables * (img.l1_size // n_tables + 1))[:img.l1_size])
    return make


def distinct(img):
    """A table of its own for every entry, in a file that is all hole: nothing of it is stored."""
    first = img.room(img.l1_size * img.c)
    img.l1(range(first, first + img.l1_size * img.c, img.c))


def long_table(n, extra):
    """Entries that are long and say nothing."""
    one = [make_entry(0, 0, b"%d" % i, b"", extra=bytes(extra)) for i in range(n)]
    return dict(before=b"".join(one), n_before=n)


def chain(name, depth, l1_size):
    """Sparse layers, each with an L1 table as long as can be; the data is in the lowest one."""
    for i in range(depth):
        img = Costly(os.path.join(top, name if not i else "%s.%03d" % (name, i)) + ".qcow2", 16, l1_size)
        below = b"%s.%03d.qcow2" % (name.encode(), i + 1) if i < depth - 1 else None
        if not below:
            listed.append("%s %d %d" % (name, img.data_at_the_end(), img.size))
        img.finish(backing=below)


def main():
    global top
    top = sys.argv[1]
    os.makedirs(top, exist_ok=True)
    image("one-table", shared(1), **long_table(59000, 1024))
    image("one-table-of-zeros", shared(1, ZERO))
    image("thousand-tables", shared(1000))
    image("tables-of-2-mib", shared(2), bits=21)
    image("as-many-tables", distinct)
    image("as-many-tables-of-2-mib", distinct, bits=21, l1_size=4 * MIB)
    image("longest-l1", shared(1), l1_size=4 * MIB)
    chain("chain", 199, 4 * MIB)
    with open(os.path.join(top, "list"), "w") as f:
        f.write("\n".join(listed) + "\n")


if __name__ == "__main__":
    main()
