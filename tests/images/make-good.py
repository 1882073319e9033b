#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""make-good: images that QEMU reads, one for every feature of the format that the reader claims.

usage: make-good.py DIRECTORY [GLOB]

Each image lives in a directory of its own under DIRECTORY, because backing names are relative. DIRECTORY/list.json tells
compare.py what there is to compare:
    name     the case
    path     the image
    format   raw or qcow2
    states   indexes into the snapshot table, -1 = the present content; null = all of them
    windows  [[offset, length]] where the disk is too large to compare whole; null = all bytes and the map
    allow    directories beside the image's own that it names files in
    clean    false where QEMU must be talked into opening the image for writing (the corrupt bit)
"""
import fnmatch
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys

from q2img import *

KIB, MIB = 1024, 1024 * 1024
CASES = []
patterns = []


def case(name, **facts):
    """Registers a function (directory, image path, random numbers) that makes one image."""
    def register(make):
        CASES.append((name, make, facts))
        return make
    return register


def suffix(n):
    return "%dM" % (n // MIB) if n >= MIB else "%dk" % (n // KIB) if n >= KIB else str(n)


def live_through(path, rng, size, cluster, snapshots=2, writes=14, compressed=True):
    """A short life: writes, a snapshot, writes, a snapshot, writes."""
    for i in range(snapshots):
        scrawl(path, scribble(rng, size, cluster, writes, patterns, compressed))
        snapshot(path, "s%d" % i)
    scrawl(path, scribble(rng, size, cluster, writes, patterns, compressed))


def write_raw(path, size, seed):
    with open(path, "wb") as f:
        f.write(mixed_data(size, seed))
    return path


def sub(d, name):
    os.makedirs(os.path.join(d, name), exist_ok=True)
    return os.path.join(d, name)


# ---------------------------------------------------------------- geometry

@case("version 2")
def _(d, img, rng):
    create(img, 8 * MIB, compat="0.10")
    # zero writes become data or nothing in version 2
    live_through(img, rng, 8 * MIB, 64 * KIB)


@case("version 3")
def _(d, img, rng):
    create(img, 8 * MIB, compat="1.1")
    live_through(img, rng, 8 * MIB, 64 * KIB)


def cluster_sizes():
    for bits in range(9, 22):
        c = 1 << bits
        size = 8 * MIB if bits < 18 else 16 * MIB

        @case("cluster size %s" % suffix(c))
        def _(d, img, rng, c=c, size=size):
            create(img, size, cluster_size=c)
            live_through(img, rng, size, c)

    for bits in (9, 12, 16, 21):
        for method in ("zlib", "zstd"):
            @case("%s in clusters of %s, converted" % (method, suffix(1 << bits)))
            def _(d, img, rng, c=1 << bits, method=method):
                raw = write_raw(os.path.join(d, "in.raw"), 4 * MIB + 512, 7)
                qemu("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
                     "cluster_size=%d,compression_type=%s" % (c, method), raw, img)
                snapshot(img, "converted")
                scrawl(img, scribble(rng, 4 * MIB, c, 10, patterns))


cluster_sizes()


def refcount_widths():
    for bits in (1, 2, 4, 8, 16, 32, 64):
        @case("refcount width %d" % bits)
        def _(d, img, rng, bits=bits):
            create(img, 8 * MIB, refcount_bits=bits)
            # One bit cannot say that a snapshot shares a cluster. Two count to 3: one snapshot, the present, and the revert
            # to it; a host cluster of compressed ones has more users.
            live_through(img, rng, 8 * MIB, 64 * KIB, snapshots=min(bits - 1, 2), compressed=bits > 4)


refcount_widths()


@case("virtual size 0")
def _(d, img, rng):
    create(img, 0)


@case("virtual size 512")
def _(d, img, rng):
    create(img, 512)
    io(img, "write -P 9 0 512")
    snapshot(img, "one sector")


@case("virtual size that is no multiple of a cluster")
def _(d, img, rng):
    size = 3 * MIB + 512 * 7
    create(img, size)
    io(img, "write -P 8 %d %d" % (size - 512 * 9, 512 * 9))
    live_through(img, rng, size, 64 * KIB)


@case("virtual size that is no multiple of a sector")
def _(d, img, rng):
    create(img, 4 * MIB)
    io(img, "write -P 8 3M 1M")
    with Image(img) as i:
        i["size"] = 4 * MIB - 100  # QEMU rounds down to whole sectors


@case("last cluster compressed, cut by the virtual size")
def _(d, img, rng):
    raw = write_raw(os.path.join(d, "in.raw"), 64 * KIB * 5 + 512 * 3, 3)
    qemu("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, img)


# Its L1 table has QEMU's limit of 32 MiB: 2 EiB of 2 MiB clusters, 128 GiB of 512-byte clusters.
@case("largest virtual size, clusters of 2M", windows=[
    [0, 4 * MIB], [1 << 40, MIB], [(1 << 61) - 4 * MIB, 4 * MIB], [(1 << 60) - MIB, 2 * MIB]])
def _(d, img, rng):
    create(img, "2E", cluster_size="2M")
    # The last clusters of the disk. QEMU cannot snapshot it: there is no host offset for a second 2 EiB's VM state.
    io(img, "write -P 1 0 1M", "write -P 2 %d 64k" % (1 << 40), "write -P 3 %d 64k" % ((1 << 61) - 64 * KIB),
       "write -P 4 %d 128k" % ((1 << 60) - 64 * KIB))


@case("largest virtual size, clusters of 512", windows=[
    [0, MIB], [(1 << 36) - MIB, 2 * MIB], [(1 << 37) - MIB, MIB]])
def _(d, img, rng):
    create(img, "128G", cluster_size=512)
    io(img, "write -P 1 0 64k", "write -P 3 %d 64k" % ((1 << 37) - 64 * KIB), "write -P 4 %d 128k" % ((1 << 36) - 64 * KIB))
    # no snapshot: QEMU needs more than ten minutes to take one of 65,536 clusters of L1


# ---------------------------------------------------------------- clusters

@case("zero clusters, plain and allocated")
def _(d, img, rng):
    create(img, 2 * MIB)
    io(img, "write -z -u 0 64k", "write -P 20 64k 64k", "write -z 64k 64k", "write -P 21 128k 192k", "write -z -u 192k 64k")
    snapshot(img, "s")
    # A zero cluster that keeps the host cluster it shares with the snapshot, and one that is written again.
    io(img, "write -z 128k 64k", "write -P 22 64k 4k", "write -P 23 0 512")


@case("zero clusters over a backing file")
def _(d, img, rng):
    write_raw(os.path.join(d, "base.raw"), 2 * MIB, 5)
    create(img, 2 * MIB, "base.raw", "raw")
    io(img, "write -z -u 0 64k", "write -P 20 64k 64k", "write -z 64k 64k", "discard 256k 64k", "write -z 300k 1000k")
    snapshot(img, "s")
    io(img, "discard 64k 64k", "write -P 21 512k 4k")


@case("data past the end of the file")
def _(d, img, rng):
    create(img, 2 * MIB)
    io(img, "write -P 1 0 1M")
    snapshot(img, "s")
    with Image(img) as i:
        # the last guest cluster lies where the file is long over: QEMU reads zeros there
        i.put(i.l2_entry_off(15 * 64 * KIB), 8, C63 | 64 * KIB * 1000)


@case("a hole in the middle of a data cluster's host file")
def _(d, img, rng):
    create(img, 2 * MIB)
    io(img, "write -P 1 0 1M")
    with Image(img) as i:
        host = i.get(i.l2_entry_off(128 * KIB), 8) & 0x00FFFFFFFFFFFE00
    qemu("fallocate", "-p", "-o", str(host + 4096), "-l", "8192", img)
    snapshot(img, "s")


def compressed_kinds():
    for method in ("zlib", "zstd"):
        @case("%s beside plain clusters" % method)
        def _(d, img, rng, method=method):
            create(img, 8 * MIB, compression_type=method)
            io(img, "write -c -P 5 0 64k", "write -c -s %s 64k 1M" % patterns[0], "write -P 6 128k 4k")
            snapshot(img, "s")
            scrawl(img, ["write -c -s %s 64k 64k" % patterns[1], "write -z 256k 64k", "discard 320k 64k"])
            live_through(img, rng, 8 * MIB, 64 * KIB)


compressed_kinds()


def extended_l2():
    for c in (16 * KIB, 64 * KIB, 2 * MIB):
        @case("extended L2, clusters of %s" % suffix(c))
        def _(d, img, rng, c=c):
            size, s = (16 if c > MIB else 8) * MIB, c // 32
            create(img, size, extended_l2="on", cluster_size=c)
            io(img,
               "write -P 1 %d %d" % (s, s),                    # one subcluster, the rest unallocated
               "write -P 2 %d %d" % (5 * s, 3 * s),            # a run of them
               "write -z %d %d" % (10 * s, 2 * s),             # zero subclusters among them
               "write -z %d %d" % (c + 2 * s, s),              # zero subclusters in a cluster without data
               "write -P 3 %d %d" % (2 * c + 31 * s, 2 * s),   # last and first subcluster of neighbours
               "write -c -P 4 %d %d" % (4 * c, c))                # compressed, its bitmap unused
            if c < 2 * MIB:
                io(img, "write -P 5 %d %d" % (5 * c, c),                          # every subcluster is data
                   "write -P 6 %d %d" % (6 * c, c), "write -z %d %d" % (6 * c, c),    # all zero, cluster kept
                   "write -P 7 %d %d" % (7 * c, c), "discard %d %d" % (7 * c + s, s),  # one discarded
                   "write -z -u %d %d" % (8 * c, c))                              # all zero, no cluster
            snapshot(img, "s")
            io(img, "write -P 9 %d %d" % (s, 4 * s), "write -P 10 %d 512" % (c + 2 * s))
            live_through(img, rng, size, c, snapshots=1)

        @case("extended L2 over a backing file, clusters of %s" % suffix(c))
        def _(d, img, rng, c=c):
            size, s = 4 * MIB, c // 32
            write_raw(os.path.join(d, "base.raw"), 3 * MIB + 1000, 6)
            create(img, size, "base.raw", "raw", extended_l2="on", cluster_size=c)
            io(img, "write -P 1 %d %d" % (s, s), "write -z %d %d" % (4 * s, 2 * s), "write -z %d %d" % (c + s, s),
               "write -P 2 3M %d" % s, "discard 0 %d" % (2 * s))
            live_through(img, rng, size, c)


extended_l2()


@case("extended L2, preallocated: a cluster without a subcluster bit")
def _(d, img, rng):
    create(img, 4 * MIB, extended_l2="on", preallocation="metadata")
    io(img, "write -P 1 2k 2k", "write -z 6k 2k")
    snapshot(img, "s")
    io(img, "write -P 2 64k 1k")


def preallocations():
    for mode in ("off", "metadata", "falloc", "full"):
        @case("preallocation %s" % mode)
        def _(d, img, rng, mode=mode):
            create(img, 4 * MIB, preallocation=mode)
            live_through(img, rng, 4 * MIB, 64 * KIB, snapshots=1, writes=6, compressed=False)


preallocations()


# ---------------------------------------------------------------- external data files

@case("external data file")
def _(d, img, rng):
    create(img, 8 * MIB, data_file="img.data")
    scrawl(img, scribble(rng, 8 * MIB, 64 * KIB, 20, patterns, compressed=False))


@case("external data file, raw")
def _(d, img, rng):
    create(img, 8 * MIB, data_file="img.data", data_file_raw="on")
    scrawl(img, scribble(rng, 8 * MIB, 64 * KIB, 20, patterns, compressed=False))


@case("external data file, absolute name, extended L2")
def _(d, img, rng):
    create(img, 4 * MIB, data_file=os.path.join(sub(d, "elsewhere"), "img.data"), extended_l2="on")
    scrawl(img, scribble(rng, 4 * MIB, 64 * KIB, 20, patterns, compressed=False))


@case("external data file over a backing file")
def _(d, img, rng):
    write_raw(os.path.join(d, "base.raw"), 4 * MIB, 11)
    create(img, 4 * MIB, "base.raw", "raw", data_file="img.data")
    scrawl(img, scribble(rng, 4 * MIB, 64 * KIB, 12, patterns, compressed=False))


@case("external data file shorter than the disk")
def _(d, img, rng):
    create(img, 4 * MIB, data_file="img.data")
    io(img, "write -P 3 0 1M", "write -P 4 3M 1M")
    os.truncate(os.path.join(d, "img.data"), 3 * MIB + 1000)


@case("external data file beneath an overlay")
def _(d, img, rng):
    base = create(os.path.join(d, "base.qcow2"), 4 * MIB, data_file="base.data")
    scrawl(base, scribble(rng, 4 * MIB, 64 * KIB, 12, patterns, compressed=False))
    create(img, 4 * MIB, "base.qcow2", "qcow2")
    live_through(img, rng, 4 * MIB, 64 * KIB, snapshots=1)


# ---------------------------------------------------------------- chains

@case("overlay over raw")
def _(d, img, rng):
    write_raw(os.path.join(d, "base.raw"), 8 * MIB, 21)
    create(img, 8 * MIB, "base.raw", "raw")
    live_through(img, rng, 8 * MIB, 64 * KIB)


@case("overlay over a raw file with holes")
def _(d, img, rng):
    with open(os.path.join(d, "base.raw"), "wb") as f:
        for off in (0, MIB, 3 * MIB + 4096):
            os.pwrite(f.fileno(), b"r" * 8192, off)
        f.truncate(4 * MIB)
    create(img, 4 * MIB, "base.raw", "raw")
    io(img, "write -P 1 64k 64k")
    snapshot(img, "s")


@case("overlay longer than its backing file")
def _(d, img, rng):
    write_raw(os.path.join(d, "base.raw"), 4 * MIB, 22)
    create(img, 8 * MIB, "base.raw", "raw")
    io(img, "write -P 1 4000k 200k", "write -z 3M 2k")
    snapshot(img, "s")
    io(img, "write -P 2 6M 64k", "write -P 3 4M 512")


@case("overlay shorter than its backing file")
def _(d, img, rng):
    write_raw(os.path.join(d, "base.raw"), 4 * MIB, 23)
    create(img, 2 * MIB, "base.raw", "raw")
    live_through(img, rng, 2 * MIB, 64 * KIB)


@case("backing file ends inside a sector")
def _(d, img, rng):
    with open(os.path.join(d, "odd.raw"), "wb") as f:
        f.write(b"B" * 1000001)
    create(img, 2 * MIB, "odd.raw", "raw")
    io(img, "write -P 1 64k 64k")
    snapshot(img, "s")


@case("a middle layer shorter than both its neighbours")
def _(d, img, rng):
    write_raw(os.path.join(d, "base.raw"), 8 * MIB, 24)
    create(os.path.join(d, "mid.qcow2"), 2 * MIB + 512, "base.raw", "raw")
    create(img, 8 * MIB, "mid.qcow2", "qcow2")  # past 2 MiB it must not see the base
    io(img, "write -P 1 2000k 4k", "write -P 2 4M 64k")
    snapshot(img, "s")


@case("layers with different cluster sizes and features")
def _(d, img, rng):
    write_raw(os.path.join(d, "0.raw"), 6 * MIB + 700, 25)
    below, fmt = "0.raw", "raw"
    for i, options in enumerate((dict(compat="0.10", cluster_size="4k"), dict(extended_l2="on"),
                                 dict(cluster_size=512), dict(compression_type="zstd", cluster_size="1M"))):
        name = "%d.qcow2" % (i + 1)
        layer = create(os.path.join(d, name), 8 * MIB, below, fmt, **options)
        scrawl(layer, scribble(rng, 8 * MIB, {0: 4096, 1: 65536, 2: 512, 3: MIB}[i], 10, patterns))
        below, fmt = name, "qcow2"
    create(img, 8 * MIB, below, fmt, extended_l2="on", cluster_size="16k")
    live_through(img, rng, 8 * MIB, 16 * KIB)


@case("snapshots in every layer of a chain")
def _(d, img, rng):
    below = None
    for name in ("a.qcow2", "b.qcow2", "img.qcow2"):
        layer = create(os.path.join(d, name), 4 * MIB, below, "qcow2" if below else None)
        live_through(layer, rng, 4 * MIB, 64 * KIB, writes=6)
        below = name


@case("relative names up and down the tree")
def _(d, img, rng):
    write_raw(os.path.join(sub(d, "low"), "base.raw"), 2 * MIB, 26)
    mid = create(os.path.join(sub(d, "mid"), "mid.qcow2"), 2 * MIB, "../low/base.raw", "raw")
    io(mid, "write -P 1 64k 64k")
    create(img, 2 * MIB, "mid/mid.qcow2", "qcow2")  # and its `..` is relative to mid/
    live_through(img, rng, 2 * MIB, 64 * KIB)


@case("absolute name in an allowed directory", allow=["other"])
def _(d, img, rng):
    base = write_raw(os.path.join(sub(d, "other"), "base.raw"), 2 * MIB, 27)
    create(img, 2 * MIB, os.path.abspath(base), "raw")
    live_through(img, rng, 2 * MIB, 64 * KIB)


@case("a name with a colon behind a slash")
def _(d, img, rng):
    write_raw(os.path.join(d, "a:b.raw"), 2 * MIB, 28)
    create(img, 2 * MIB, "./a:b.raw", "raw")
    live_through(img, rng, 2 * MIB, 64 * KIB, snapshots=1)


def json_names():
    forms = {
        "qcow2 over file": '{"driver":"qcow2","file":{"driver":"file","filename":"%s"}}',
        "flat keys": '{"driver":"qcow2","file.driver":"file","file.filename":"%s"}',
        "keys in another order": '{"file":{"filename":"%s","driver":"file"},"driver":"qcow2"}',
    }
    for what, form in forms.items():
        @case("json: name, %s" % what)
        def _(d, img, rng, form=form):
            base = create(os.path.join(d, "base.qcow2"), 2 * MIB)
            io(base, "write -P 1 0 1M")
            create(img, 2 * MIB, "json:" + form % os.path.abspath(base), "qcow2")
            live_through(img, rng, 2 * MIB, 64 * KIB, snapshots=1)

    @case("json: name, raw over file")
    def _(d, img, rng):
        base = write_raw(os.path.join(d, "base.raw"), 2 * MIB, 29)
        create(img, 2 * MIB, 'json:{"driver":"raw","file":{"driver":"file","filename":"%s"}}' % os.path.abspath(base), "raw")
        live_through(img, rng, 2 * MIB, 64 * KIB, snapshots=1)


json_names()


@case("a qcow2 file that is recorded as raw")
def _(d, img, rng):
    io(create(os.path.join(d, "base.qcow2"), 2 * MIB), "write -P 1 0 64k")
    create(img, 2 * MIB, "base.qcow2", "raw")  # the guest sees the bytes of the file, header and all
    io(img, "write -P 2 512 512")


@case("the image is a symlink: names are relative to the link", image="link/img.qcow2")
def _(d, img, rng):
    write_raw(os.path.join(d, "base.raw"), MIB, 30)  # this one would be wrong
    write_raw(os.path.join(sub(d, "link"), "base.raw"), MIB, 31)
    create(os.path.join(d, "real.qcow2"), MIB, "base.raw", "raw")
    os.symlink("../real.qcow2", os.path.join(d, "link", "img.qcow2"))


@case("a chain of 64", states=[-1, 0, 1])
def _(d, img, rng):
    write_raw(os.path.join(d, "0.raw"), 4 * MIB, 32)
    for i in range(1, 65):
        name = "img.qcow2" if i == 64 else "%d.qcow2" % i
        layer = create(os.path.join(d, name), 4 * MIB, "%d.%s" % (i - 1, "raw" if i == 1 else "qcow2"),
                       "raw" if i == 1 else "qcow2", cluster_size=rng.choice((4096, 65536)))
        io(layer, "write -P %d %d 16k" % (i, i * 48 * KIB), "write -P %d 3M 4k" % i)
    snapshot(img, "s0")
    io(img, "write -P 200 0 4k")
    snapshot(img, "s1")


@case("an overlay with snapshots over a backing file that is shorter than some of them")
def _(d, img, rng):
    write_raw(os.path.join(d, "base.raw"), 3 * MIB + 77, 33)
    create(img, 2 * MIB, "base.raw", "raw")
    io(img, "write -P 1 0 64k")
    snapshot(img, "short")
    resize(img, 6 * MIB)
    io(img, "write -P 2 5M 64k")
    snapshot(img, "long")
    resize(img, MIB, shrink=True)
    snapshot(img, "tiny")


# ---------------------------------------------------------------- internal snapshots

@case("snapshots of a disk that grew and shrank")
def _(d, img, rng):
    create(img, 4 * MIB)
    live_through(img, rng, 4 * MIB, 64 * KIB, snapshots=1)
    resize(img, 8 * MIB)
    io(img, "write -P 7 7M 1M")
    snapshot(img, "big")
    resize(img, 2 * MIB, shrink=True)
    snapshot(img, "tiny")


@case("snapshots of a disk that grew and shrank, many L1 entries")
def _(d, img, rng):
    create(img, MIB, cluster_size=512)  # 32 KiB for an L1 entry
    live_through(img, rng, MIB, 512, snapshots=1)
    resize(img, 3 * MIB)
    scrawl(img, scribble(rng, 3 * MIB, 512, 20, patterns))
    snapshot(img, "big")
    resize(img, 512 * KIB, shrink=True)
    snapshot(img, "tiny")
    resize(img, 2 * MIB)


@case("a snapshot whose L1 is shorter than its disk")
def _(d, img, rng):
    create(img, MIB, cluster_size=512)
    io(img, "write -P 1 0 1M")
    snapshot(img, "s")
    with Image(img) as i:
        i.entries()[0]["l1_size"] = 10  # the rest of the disk is unallocated, not an error


@case("VM state behind the disk", states=None)
def _(d, img, rng):
    create(img, 8 * MIB)
    hmp = 'savevm vm1\nqemu-io d0 "write -P 37 1M 64k"\nsavevm vm2\ndelvm vm1\nqemu-io d0 "write -P 38 7M 1M"\nsavevm vm3\nquit\n'
    subprocess.run(["qemu-system-x86_64", "-machine", "isapc,accel=tcg", "-m", "8", "-S", "-display", "none", "-serial",
                    "none", "-monitor", "stdio", "-nodefaults", "-drive", "if=none,id=d0,format=qcow2,file=" + img],
                   input=hmp.encode(), stdout=subprocess.DEVNULL, check=True, timeout=60)
    with Image(img) as i:
        assert all(struct.unpack(">Q", e.extra[:8])[0] for e in i.entries()) and i["nb_snapshots"] == 2


def entry_shapes():
    # how much extra data an entry has: 0 is what QEMU before 1.1 wrote, 8 lacks the disk size, more is from the future
    for extra in (0, 8, 16, 24, 32, 1024):
        @case("snapshot entries with %d bytes of extra data" % extra)
        def _(d, img, rng, extra=extra):
            create(img, 4 * MIB)
            live_through(img, rng, 4 * MIB, 64 * KIB, snapshots=3, writes=6)
            with Image(img) as i:
                table = b""
                for e in i.entries():
                    full = struct.pack(">QQQ", 0, 4 * MIB, 2**64 - 1) + b"unknown!" * 125
                    table += make_entry(e["l1_off"], e["l1_size"], e.id, e.name, date=e["date"], nsec=e["nsec"],
                                        extra=full[:extra])
                i.write(i["snapshots_off"], table)


entry_shapes()


@case("an entry without disk size follows the disk")
def _(d, img, rng):
    create(img, 4 * MIB)
    io(img, "write -P 1 0 4M")
    snapshot(img, "s")
    resize(img, 6 * MIB)
    with Image(img) as i:
        e = i.entries()[0]
        i.write(e.off, make_entry(e["l1_off"], e["l1_size"], e.id, e.name, extra=b""))


@case("names of every kind")
def _(d, img, rng):
    create(img, MIB)
    names = [b"a/b", b"../../etc/passwd", b".", b"..", b"dup", b"dup", b"new\nline", "sp\u00e4\u00dfe \U0001f642".encode(),
             b"bad\xff\xfe", b"", b"L" * 255, b"1", b"2", b"7", b"current"]
    for n, name in enumerate(names):
        io(img, "write -P %d 0 1M" % (n + 1))
        snapshot(img, name)
    io(img, "write -P 99 0 1M")


@case("ids that repeat and names that look like ids")
def _(d, img, rng):
    create(img, MIB)
    for n, name in enumerate(("3", "1", "2", "x")):
        io(img, "write -P %d 0 1M" % (n + 1))
        snapshot(img, name)
    with Image(img) as i:
        e = i.entries()
        i.write(e[1].name_off - 1, b"1")  # the second is called 1 and has the first one's id


@case("ids and names longer than QEMU's buffers")
def _(d, img, rng):
    create(img, MIB)
    for n in range(2):
        io(img, "write -P %d 0 1M" % (n + 1))
        snapshot(img, "s%d" % n)
    with Image(img) as i:
        raw = b"".join(make_entry(e["l1_off"], e["l1_size"], b"i" * 400 + e.id, b"n" * 9000 + e.name, MIB)
                       for e in i.entries())
        i.write(i["snapshots_off"], raw)


@case("300 snapshots", states=[-1, 0, 1, 2, 50, 128, 255, 256, 298, 299])
def _(d, img, rng):
    create(img, 4 * MIB)
    qmp = ['{"execute":"qmp_capabilities"}']
    for n in range(300):
        qmp.append('{"execute":"human-monitor-command","arguments":{"command-line":"qemu-io t \\"write -P %d %d 8k\\""}}'
                   % (n % 255 + 1, n * 13 * KIB))
        qmp.append('{"execute":"blockdev-snapshot-internal-sync","arguments":{"device":"t","name":"n%d"}}' % n)
    qmp.append('{"execute":"quit"}')
    subprocess.run(["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio",
                    "-blockdev", "driver=qcow2,node-name=t,cache.no-flush=on,file.driver=file,file.cache.no-flush=on,"
                    "file.filename=" + img], input="\n".join(qmp).encode(), stdout=subprocess.DEVNULL, check=True, timeout=120)
    with Image(img) as i:
        assert i["nb_snapshots"] == 300


# QEMU needs four seconds to open this.
@case("65,536 snapshots", states=[777, 65535])
def _(d, img, rng):
    create(img, MIB)
    for n in range(3):
        io(img, "write -P %d 0 1M" % (n + 1))
        snapshot(img, "s%d" % n)
    io(img, "write -P 9 0 1M")
    with Image(img) as i:
        real = i.entries()
        i.set_table(b"".join(make_entry(real[n % 3]["l1_off"], real[n % 3]["l1_size"], b"%d" % (n + 1), b"n%d" % n, MIB,
                                        nsec=n) for n in range(65536)), 65536)


# ---------------------------------------------------------------- the rest of the header

@case("lazy refcounts, left dirty by a crash")
def _(d, img, rng):
    create(img, 4 * MIB, lazy_refcounts="on")
    scrawl(img, scribble(rng, 4 * MIB, 64 * KIB, 10, patterns))
    snapshot(img, "s")
    p = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 77 0 64k", "-c", "flush", "-c", "abort", img],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=no_core)
    assert p.returncode == -signal.SIGABRT
    with Image(img) as i:
        assert i["incompatible"] & 1


@case("marked corrupt", clean=False)
def _(d, img, rng):
    create(img, 4 * MIB)
    live_through(img, rng, 4 * MIB, 64 * KIB)
    with Image(img) as i:
        i["incompatible"] |= 2


@case("unknown compatible and autoclear features, unknown header extension")
def _(d, img, rng):
    create(img, 4 * MIB)
    live_through(img, rng, 4 * MIB, 64 * KIB, snapshots=1)
    with Image(img) as i:
        i["compatible"] |= 1 << 63
        i["autoclear"] |= 1 << 62
        i.set_extensions([(0x12345678, b"from the future")] + [(k, data) for k, _, data in i.extensions()])


@case("persistent bitmaps")
def _(d, img, rng):
    create(img, 4 * MIB)
    qemu("qemu-img", "bitmap", "--add", "-g", "32k", img, "b1")
    qemu("qemu-img", "bitmap", "--add", "-g", "64k", "--disable", img, "b2")
    live_through(img, rng, 4 * MIB, 64 * KIB)


@case("a header that ends at byte 104")
def _(d, img, rng):
    create(img, 4 * MIB)
    live_through(img, rng, 4 * MIB, 64 * KIB, snapshots=1)
    with Image(img) as i:
        exts = [(k, data) for k, _, data in i.extensions()]
        i["header_length"] = 104
        i.set_extensions(exts)


@case("a header that is longer than ours")
def _(d, img, rng):
    create(img, 4 * MIB)
    live_through(img, rng, 4 * MIB, 64 * KIB, snapshots=1)
    with Image(img) as i:
        exts = [(k, data) for k, _, data in i.extensions()]
        i["header_length"] = 256
        i.write(112, b"\xee" * 144)
        i.set_extensions(exts)


@case("plain raw", image="img.raw", format="raw")
def _(d, img, rng):
    write_raw(img, 4 * MIB, 40)


@case("plain raw with holes that ends inside a sector", image="img.raw", format="raw")
def _(d, img, rng):
    with open(img, "wb") as f:
        os.pwrite(f.fileno(), b"r" * 8192, MIB)
        f.truncate(2 * MIB + 100)


# ---------------------------------------------------------------- main

def no_core():
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main():
    global patterns
    top, glob = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "*"
    os.makedirs(top, exist_ok=True)
    patterns = make_patterns(top)
    listed = []
    for n, (name, make, facts) in enumerate(CASES):
        if not fnmatch.fnmatch(name, glob):
            continue
        d = os.path.join(top, "%03d" % n)
        shutil.rmtree(d, ignore_errors=True)
        os.makedirs(d)
        img = os.path.join(d, facts.get("image", "img.qcow2"))
        try:
            make(d, img, random.Random(name))
        except (QemuRefused, AssertionError, subprocess.SubprocessError) as e:
            sys.exit("make-good: %s: %s" % (name, e))
        listed.append(dict(name=name, path=img, format=facts.get("format", "qcow2"), states=facts.get("states"),
                           windows=facts.get("windows"), clean=facts.get("clean", True),
                           allow=[os.path.join(d, a) for a in facts.get("allow", [])]))
    with open(os.path.join(top, "list.json"), "w") as f:
        json.dump(listed, f, indent=1)


if __name__ == "__main__":
    main()
