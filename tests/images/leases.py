#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""leases: a reader that knows what it must see, and somebody who opens the image for writing all the time.

usage: leases.py read FILE WANT STOP [--strict] [--spoil]
       leases.py open IMAGE TIMES
       leases.py knock IMAGE
       leases.py watch METRICS STOP
       leases.py swap IMAGE TIMES
       leases.py swap1 IMAGE

read   reads FILE in requests of 512 KiB, from its beginning to its end and again, and sometimes at random, until the file STOP is there. Each must
       be as in the file WANT, or an error; --strict: no error either. "begun" is printed after the first one. --spoil: some bytes are changed on the way, which has to be noticed.
open   opens IMAGE for reading and writing so often, with pauses, and says how long that took.
knock  opens it so with O_NONBLOCK every tenth of a second. Once refused, it has to succeed from then on, for a second.
watch  reads the file METRICS until the file STOP is there: no counter of bytes may ever fall.
swap   does so, and each time deletes the first of the image's snapshots as QEMU does (the header first), fills all of its clusters with other bytes,
       puts them back as they were and makes the snapshot anew, at another time. Whoever hands on bytes of it that nobody holds still is found out.
swap1  deletes and fills once, and leaves it so. "open" is printed once the image is open, "done" at the end.
"""
import errno
import os
import random
import struct
import sys
import time

REQUEST = 512 << 10
GARBAGE = b"\xee"


def reading(path, want_path, stop, strict, spoil):
    with open(want_path, "rb") as f:
        want = f.read()
    fd, reads, errors, wrong, off = -1, 0, 0, 0, 0
    buf = bytearray(REQUEST)
    while not os.path.exists(stop):
        if reads + errors == 1:
            print("begun", flush=True)
        try:
            if fd < 0:
                fd = os.open(path, os.O_RDONLY)
            if random.random() < 0.1:
                off = random.randrange(0, len(want), 4096)
            n = os.preadv(fd, [buf], off)
        except OSError as e:
            errors += 1
            if strict or e.errno not in (errno.ESTALE, errno.ENOENT, errno.EBUSY, errno.EUCLEAN):
                print(f"FAIL a read at {off}: {e}")
            if fd >= 0:
                os.close(fd)
            fd = -1
            continue
        reads += 1
        if spoil and reads % 50 == 0:
            buf[n // 2] ^= 1
        if buf[:n] != want[off:off + n]:
            wrong += 1
            if wrong <= 3:
                at = next(i for i in range(n) if buf[i] != want[off + i])
                print(f"FAIL wrong bytes at {off + at}: {buf[at:at + 8].hex()} instead of {want[off + at:off + at + 8].hex()}")
        off = off + n if off + n < len(want) else 0
    print(f"# {reads} reads, {errors} errors, {wrong} wrong")
    if not wrong and not (strict and errors) and reads:
        print(f"ok {reads} reads without a wrong byte")
    return 0


def percentiles(name, took):
    took.sort()
    at = [took[min(len(took) - 1, int(len(took) * p))] * 1000 for p in (0.5, 0.9, 0.99)]
    print(f"# {name}: {len(took)} times, p50 {at[0]:.3f} ms, p90 {at[1]:.3f} ms, p99 {at[2]:.3f} ms, longest {took[-1] * 1000:.3f} ms")
    print(f"{'ok' if at[1] < 100 and took[-1] < 2 else 'FAIL'} {name}: nobody waits for long")


def open_it(image, took):
    begun = time.monotonic()
    fd = os.open(image, os.O_RDWR)
    took.append(time.monotonic() - begun)
    return fd


def opening(image, times):
    took = []
    for _ in range(times):
        os.close(open_it(image, took))
        time.sleep(random.uniform(0, 0.06))
    percentiles("open", took)


def succeeds(image):
    time.sleep(0.1)
    try:
        os.close(os.open(image, os.O_RDWR | os.O_NONBLOCK))
    except BlockingIOError:
        return False
    return True


def knocking(image):
    free = 0
    while succeeds(image):
        free += 1
        if free == 50:
            print("FAIL knock: it is never refused")
            return
    got = [succeeds(image) for _ in range(10)]
    print(f"{'ok' if all(got) else 'FAIL'} knock: who was refused once gets in afterwards: {got.count(True)} times of {len(got)}")


def watching(metrics, stop):
    last, looks = {}, 0
    while not os.path.exists(stop):
        with open(metrics, encoding="utf-8") as f:
            now = {name: int(value) for name, value in (line.rsplit(" ", 1) for line in f) if "_bytes_total" in name}
        for name, value in now.items():
            if value < last.get(name, 0):
                print(f"FAIL watch: {name} falls from {last[name]} to {value}")
        last = now
        looks += 1
        time.sleep(0.01)
    print(f"{'ok' if last and looks > 20 else 'FAIL'} watch: counters were looked at {looks} times")


class Snapshot:
    """The first one in the table: where its record is, and its clusters."""

    def __init__(self, fd):
        self.fd = fd
        self.head = os.pread(fd, 12, 60)
        bits, = struct.unpack(">I", os.pread(fd, 4, 20))
        self.cluster = 1 << bits
        _, table = struct.unpack(">IQ", self.head)
        self.nsec_off = table + 20
        l1_off, l1_n = struct.unpack(">QI", os.pread(fd, 12, table))
        self.data = {}
        for l1, in struct.iter_unpack(">Q", os.pread(fd, 8 * l1_n, l1_off)):
            l2_off = l1 & 0x00fffffffffffe00
            for entry, in struct.iter_unpack(">Q", os.pread(fd, self.cluster, l2_off)) if l2_off else ():
                host = entry & 0x00fffffffffffe00
                if host:
                    self.data[host] = os.pread(fd, self.cluster, host)

    def delete(self, fd):
        os.pwrite(fd, struct.pack(">I", 0) + self.head[4:], 60)

    def fill(self, fd):
        for host in self.data:
            os.pwrite(fd, GARBAGE * self.cluster, host)

    def put_back(self, fd):
        for host, data in self.data.items():
            os.pwrite(fd, data, host)
        nsec, = struct.unpack(">I", os.pread(fd, 4, self.nsec_off))
        os.pwrite(fd, struct.pack(">I", (nsec + 1) % 1000000000), self.nsec_off)
        os.pwrite(fd, self.head, 60)


def swapping(image, times):
    fd = os.open(image, os.O_RDONLY)
    snapshot = Snapshot(fd)
    os.close(fd)
    took = []
    for _ in range(times):
        fd = open_it(image, took)
        snapshot.delete(fd)
        snapshot.fill(fd)
        time.sleep(random.uniform(0, 0.002))
        snapshot.put_back(fd)
        os.close(fd)
        time.sleep(random.uniform(0, 0.1))
    percentiles("swap", took)


def swapping_once(image):
    fd = os.open(image, os.O_RDONLY)
    snapshot = Snapshot(fd)
    os.close(fd)
    took = []
    fd = open_it(image, took)
    print(f"open {took[0]:.1f}", flush=True)
    snapshot.delete(fd)
    snapshot.fill(fd)
    os.close(fd)
    print("done", flush=True)


def main():
    words = [w for w in sys.argv[1:] if not w.startswith("--")]
    match words:
        case "read", file, want, stop:
            return reading(file, want, stop, "--strict" in sys.argv, "--spoil" in sys.argv)
        case "open", image, times:
            return opening(image, int(times))
        case "watch", metrics, stop:
            return watching(metrics, stop)
        case "knock", image:
            return knocking(image)
        case "swap", image, times:
            return swapping(image, int(times))
        case "swap1", image:
            return swapping_once(image)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
