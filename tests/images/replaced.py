#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""replaced: what a reader sees when a file beneath his image is exchanged, written or cut short.

usage: replaced.py TITLE FILE LAYER HOW

FILE is an image in a mount, LAYER a file that it stands on, which has what FILE shows from the middle on (byte 0x11 before, 0x22
after). HOW: `rename` (another file over it), `rename-alike` (one of the same size and times), `write` (in place), `truncate`.

At no time may one open file show bytes of both, and in the end there are no old ones: an open file from before gives ESTALE, and a
new one shows the new bytes, if the snapshot is still shown. One line per case: `ok NAME` or `FAIL NAME: why`.
"""
import errno
import os
import sys
import time

SECONDS = 15
title, path, layer, how = sys.argv[1:]
OLD, NEW = 0x11, 0x22


def result(name, good, why=""):
    print("ok %s: %s" % (title, name) if good else "FAIL %s: %s: %s" % (title, name, why), flush=True)


class Reader:
    """An open file, and all it has ever shown of the layer."""

    def __init__(self):
        self.fd = os.open(path, os.O_RDONLY)
        self.half = os.fstat(self.fd).st_size // 2
        self.seen = set()

    def read(self, n, of):
        """The n-th of so many parts of what the layer has: adds to what was seen, and says whether it could be read."""
        part = self.half // of
        try:
            self.seen |= set(os.pread(self.fd, part, self.half + n * part))
        except OSError as e:
            self.seen.add(errno.errorcode[e.errno])
            return False
        return True

    def all(self, parts=16):
        return all([self.read(n, parts) for n in range(parts)])

    def mixed(self):
        return OLD in self.seen and NEW in self.seen or self.seen - {OLD, NEW, "ESTALE"}

    def close(self):
        os.close(self.fd)


def change():
    size = os.stat(layer).st_size
    if how == "truncate":
        os.truncate(layer, 0)
    elif how == "write":
        with open(layer, "r+b") as f:
            content = f.read().replace(bytes([OLD]), bytes([NEW]))
            f.seek(0)
            f.write(content)
    else:
        with open(layer, "rb") as f:
            content = f.read()
        with open(layer + ".new", "wb") as f:
            f.write(content.replace(bytes([OLD]), bytes([NEW])))
        if how == "rename-alike":
            st = os.stat(layer)
            os.utime(layer + ".new", ns=(st.st_atime_ns, st.st_mtime_ns))
        os.rename(layer + ".new", layer)
    return size


def try_open():
    try:
        return Reader()
    except OSError as e:
        return errno.errorcode[e.errno]


def main():
    before = Reader()
    before.read(3, 16)
    before.read(4, 16)
    result("before", before.seen == {OLD}, before.seen)
    change()
    end, readers, done = time.monotonic() + SECONDS, [before], False
    while not done and time.monotonic() < end:
        before.read(len(readers) % 16, 16)
        one = try_open()
        if isinstance(one, Reader):
            one.all()
            readers.append(one)
            done = one.seen == {NEW} and "ESTALE" in before.seen
        else:
            done = one == "ENOENT" and "ESTALE" in before.seen
        time.sleep(0.05)
    for r in readers:
        r.all()
    result("no open file ever shows bytes of both", not any(r.mixed() for r in readers), [r.seen for r in readers if r.mixed()])
    early = [r for r in readers if OLD in r.seen]
    result("who has seen the old bytes gets ESTALE now", not any(r.read(n, 16) for r in early for n in range(16)),
           "%d of %d read on" % (sum(r.all() for r in early), len(early)))
    last = try_open()
    if isinstance(last, Reader):
        last.all()
        result("a new open shows the new bytes", last.seen == {NEW}, last.seen)
        last.all(8)
        result("and again", last.seen == {NEW}, last.seen)
    else:
        result("the snapshot is not shown any more", last == "ENOENT", last)


main()
