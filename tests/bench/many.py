#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""many.py: makes many domains with many snapshots each of one that libvirt has made, in seconds.

usage: many.py DIRECTORY KIND FIRST LAST SNAPSHOTS     domains FIRST..LAST-1, while no libvirtd runs
       many.py IMAGE SNAPSHOTS                         an image with so many snapshots inside it

DIRECTORY has what libvirt wrote about a domain `d0000` with one snapshot `s000` and its image d0000.000.qcow2 (config.xml, record.xml), and
images come to lie there, too. What differs from one domain and snapshot to the next is exchanged in the text. KIND is internal (all in
one image) or external (each overlay stands on the one before).
"""
import os
import re
import struct
import sys
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "images"))
from q2img import make_entry  # noqa: E402

MIB = 1 << 20
BITS = 9  # clusters of 512 bytes: an image has some KiB
CONFIG, RECORDS = "/etc/libvirt/qemu", "/var/lib/libvirt/qemu/snapshot"
NAMES = "d%04d", "s%03d", "%s.%03d.qcow2"
NOW = 1700000000


def image(size=MIB, bits=BITS, backing=None, entries=()):
    """The bytes of an empty image: header, refcounts (of the first clusters only: it is for readers), L1, snapshots."""
    c = 1 << bits
    n_l1 = max(1, size // (c * c // 8))
    l1_clusters = (n_l1 * 8 + c - 1) // c
    table = b"".join(entries)
    ext = struct.pack(">II", 0xE2792ACA, 5) + b"qcow2" + bytes(3) + bytes(8) if backing else bytes(8)
    name = backing.encode() if backing else b""
    head = struct.pack(">IIQIIQIIQQIIQQQQII", 0x514649FB, 3, 104 + len(ext) if backing else 0, len(name), bits, size, 0, n_l1, 3 * c, c, 1,
                       len(entries), (3 + l1_clusters) * c if entries else 0, 0, 0, 0, 4, 104) + ext + name
    body = head.ljust(c, b"\0") + struct.pack(">Q", 2 * c).ljust(c, b"\0")
    used = 3 + l1_clusters + (len(table) + c - 1) // c
    body += (struct.pack(">H", 1) * min(used, c // 2)).ljust(c, b"\0")
    return body + bytes(l1_clusters * c) + table.ljust((len(table) + c - 1) // c * c, b"\0")


def entry(k, name, size, c):
    n_l1 = max(1, size // (c * c // 8))
    return make_entry(3 * c, n_l1, b"%d" % (k + 1), name, disk_size=size, date=NOW + k, nsec=0)


class Many:
    def __init__(self, top, kind, snapshots):
        self.top, self.external, self.n = top, kind == "external", snapshots
        self.config = open(os.path.join(top, "config.xml")).read()
        self.record = open(os.path.join(top, "record.xml")).read()
        self.old_uuid = re.search("<uuid>(.*?)</uuid>", self.config).group(1)

    def path(self, dom, k):
        return os.path.join(self.top, NAMES[2] % (dom, k if self.external else 0))

    def text(self, text, dom, own, source, overlay):
        text = text.replace(self.old_uuid, own).replace("<name>d0000<", "<name>%s<" % dom)
        if self.external:
            text = text.replace(self.path("d0000", 1), "@OVERLAY@")
        text = text.replace(self.path("d0000", 0), source)
        return text.replace("@OVERLAY@", overlay)

    def snapshot(self, dom, own, k):
        text = self.text(self.record, dom, own, self.path(dom, k), self.path(dom, k + 1))
        name = NAMES[1] % k
        text = text.replace("<name>s000<", "<name>%s<" % name, 1)
        text = re.sub("<creationTime>.*?<", "<creationTime>%d<" % (NOW + k), text, count=1)
        text = re.sub("<active>.*?<", "<active>%d<" % (k == self.n - 1), text, count=1)
        if k:
            text = text.replace("</name>", "</name><parent><name>%s</name></parent>" % (NAMES[1] % (k - 1)), 1)
        with open(os.path.join(RECORDS, dom, name + ".xml"), "w") as f:
            f.write(text)

    def images(self, dom):
        if not self.external:
            with open(self.path(dom, 0), "wb") as f:
                f.write(image(entries=[entry(k, (NAMES[1] % k).encode(), MIB, 1 << BITS) for k in range(self.n)]))
            return
        for k in range(self.n + 1):
            with open(self.path(dom, k), "wb") as f:
                f.write(image(backing=self.path(dom, k - 1) if k else None))
            os.utime(self.path(dom, k), (NOW + k - 1, NOW + k - 1))  # each was written before its snapshot was taken, and not after

    def domain(self, i):
        dom = NAMES[0] % i
        own = str(uuid.uuid5(uuid.NAMESPACE_OID, dom))
        self.images(dom)
        top = self.path(dom, self.n)
        with open(os.path.join(CONFIG, dom + ".xml"), "w") as f:
            text = self.config.replace(self.path("d0000", 1), top) if self.external else self.config
            f.write(self.text(text, dom, own, top, top))
        os.makedirs(os.path.join(RECORDS, dom), exist_ok=True)
        for k in range(self.n):
            self.snapshot(dom, own, k)


if len(sys.argv) == 3:
    with open(sys.argv[1], "wb") as out:
        out.write(image(64 * MIB, 16, entries=[entry(k, b"s%05d" % k, 64 * MIB, 1 << 16) for k in range(int(sys.argv[2]))]))
else:
    many = Many(sys.argv[1], sys.argv[2], int(sys.argv[5]))
    for number in range(int(sys.argv[3]), int(sys.argv[4])):
        many.domain(number)
