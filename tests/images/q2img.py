# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""q2img: qcow2 images as bytes, for tests.

Two halves: wrappers that let QEMU make an image, and a few lines that find a field in it so that a test can overwrite it.
The second half is written from QEMU's docs/interop/qcow2.txt alone and shares nothing with the reader under test.
"""
import os
import random
import struct
import subprocess

C63 = 1 << 63  # COPIED
C62 = 1 << 62  # compressed

# offset and size of each header field
HEADER = {
    "magic": (0, 4), "version": (4, 4), "backing_off": (8, 8), "backing_len": (16, 4), "cluster_bits": (20, 4),
    "size": (24, 8), "crypt": (32, 4), "l1_size": (36, 4), "l1_off": (40, 8), "reftable_off": (48, 8),
    "reftable_clusters": (56, 4), "nb_snapshots": (60, 4), "snapshots_off": (64, 8), "incompatible": (72, 8),
    "compatible": (80, 8), "autoclear": (88, 8), "refcount_order": (96, 4), "header_length": (100, 4),
    "compression": (104, 1),
}
# the same for the fixed part of a snapshot's entry
ENTRY = {
    "l1_off": (0, 8), "l1_size": (8, 4), "id_len": (12, 2), "name_len": (14, 2), "date": (16, 4), "nsec": (20, 4),
    "clock": (24, 8), "vmstate32": (32, 4), "extra_len": (36, 4),
}


class QemuRefused(Exception):
    pass


def qemu(*argv, cwd=None):
    """Runs a QEMU tool to its end; its complaint is the exception's text.

    @cwd is the image's directory wherever it matters: QEMU looks for a data file with a relative name in its own working
    directory, not beside the image as it does for a backing file."""
    p = subprocess.run([os.fsencode(a) for a in argv], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE)
    if p.returncode or b"failed:" in p.stdout:
        raise QemuRefused("%r: %s" % (argv, (p.stderr + p.stdout).decode(errors="replace").strip()[-300:]))
    return p.stdout


def create(path, size, backing=None, backing_format=None, unchecked=False, **options):
    """qemu-img create; the directory of @path is the working directory, so that relative names mean what they say."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if unchecked:
        argv.append("-u")
    if options:
        argv += ["-o", ",".join("%s=%s" % kv for kv in options.items())]
    if backing is not None:
        argv += ["-b", backing, "-F", backing_format]
    argv.append(os.path.basename(path))
    if size is not None:
        argv.append(str(size))
    qemu(*argv, cwd=os.path.dirname(path) or ".")
    return path


def io(path, *commands, fmt="qcow2"):
    """qemu-io with commands like 'write -P 5 0 64k'; all of them must work."""
    argv = ["qemu-io", "-f", fmt]
    for c in commands:
        argv += ["-c", c]
    out = qemu(*argv, os.path.basename(path), cwd=os.path.dirname(path) or ".")
    for line in out.decode(errors="replace").splitlines():
        if "rror" in line or "invalid" in line or "usage" in line:
            raise QemuRefused("qemu-io %r: %s" % (commands, line))


def scrawl(path, commands):
    """qemu-io with what scribble() made up. QEMU refuses to compress into a cluster that is in use; let it."""
    argv = ["qemu-io", "-f", "qcow2"]
    for c in commands:
        argv += ["-c", c]
    subprocess.run(argv + [os.path.basename(path)], cwd=os.path.dirname(path) or ".", stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def snapshot(path, name):
    qemu("qemu-img", "snapshot", "-c", name, os.path.basename(path), cwd=os.path.dirname(path) or ".")


def resize(path, size, shrink=False):
    qemu("qemu-img", "resize", "-q", *(["--shrink"] if shrink else []), "-f", "qcow2", os.path.basename(path), str(size),
         cwd=os.path.dirname(path) or ".")


def mixed_data(size, seed):
    """Text-like, repetitive, random and zero stretches: clusters that compress to every possible length."""
    rng = random.Random(seed)
    out = bytearray()
    words = [rng.randbytes(rng.randint(2, 9)) for _ in range(400)]
    while len(out) < size:
        n = rng.choice((700, 3000, 9000, 40000))
        kind = rng.randrange(4)
        if kind == 0:
            out += rng.randbytes(n)
        elif kind == 1:
            out += bytes([rng.randrange(256)]) * n
        elif kind == 2:
            out += b"".join(rng.choice(words) for _ in range(n // 5))
        else:
            out += bytes(n)
    return bytes(out[:size])


def numbers(size, serial):
    """Eight bytes of @serial over and over: any cluster that strays from its place is noticed."""
    return struct.pack(">Q", serial) * (size // 8)


class Image:
    """An image file open for patching. Integers are big-endian; offsets are host offsets unless named guest."""

    def __init__(self, path):
        self.path = path
        self.f = open(path, "r+b", buffering=0)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.f.close()

    # ---- numbers anywhere
    def get(self, off, size):
        return int.from_bytes(os.pread(self.f.fileno(), size, off), "big")

    def put(self, off, size, value):
        os.pwrite(self.f.fileno(), value.to_bytes(size, "big"), off)

    def bytes(self, off, size):
        return os.pread(self.f.fileno(), size, off)

    def write(self, off, data):
        os.pwrite(self.f.fileno(), data, off)

    def truncate(self, size):
        self.f.truncate(size)

    @property
    def length(self):
        return os.fstat(self.f.fileno()).st_size

    # ---- header
    def __getitem__(self, field):
        return self.get(*HEADER[field])

    def __setitem__(self, field, value):
        self.put(*HEADER[field], value)

    @property
    def cluster(self):
        return 1 << self["cluster_bits"]

    @property
    def extended(self):
        return self["version"] == 3 and bool(self["incompatible"] & 16)

    def header_len(self):
        return self["header_length"] if self["version"] == 3 else 72

    def extensions(self):
        """[(type, offset of its header, data)]"""
        off, out = self.header_len(), []
        while True:
            kind, size = self.get(off, 4), self.get(off + 4, 4)
            if not kind:
                return out
            out.append((kind, off, self.bytes(off + 8, size)))
            off += 8 + (size + 7) // 8 * 8

    def set_extensions(self, extensions, end=True):
        """Rewrites the extension area and puts the backing name behind it, as QEMU does."""
        name = self.bytes(self["backing_off"], self["backing_len"]) if self["backing_off"] else b""
        raw = b""
        for kind, data in extensions:
            raw += struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
        if end:
            raw += bytes(8)
        start = self.header_len()
        self.write(start, bytes(self.cluster - start))
        self.write(start, raw)
        if name:
            self["backing_off"] = start + len(raw)
            self.write(start + len(raw), name)

    def set_backing(self, name, fmt=b"qcow2"):
        """Any bytes as the backing name; @fmt None records no format."""
        self["backing_off"] = 0
        keep = [(k, d) for k, _, d in self.extensions() if k != 0xE2792ACA]
        self.set_extensions(([(0xE2792ACA, fmt)] if fmt is not None else []) + keep)
        off = self.header_len() + sum(8 + (len(d) + 7) // 8 * 8 for _, _, d in self.extensions()) + 8
        self["backing_off"], self["backing_len"] = off, len(name)
        self.write(off, name)

    # ---- mapping
    def l2_entries(self):
        return self.cluster // (16 if self.extended else 8)

    def l1_entry_off(self, guest_off, l1_off=None):
        """Where the L1 entry for @guest_off is; @l1_off None means the active table."""
        return (self["l1_off"] if l1_off is None else l1_off) + guest_off // (self.cluster * self.l2_entries()) * 8

    def l2_entry_off(self, guest_off, l1_off=None):
        l2 = self.get(self.l1_entry_off(guest_off, l1_off), 8) & 0x00FFFFFFFFFFFE00
        assert l2, "no L2 table there"
        return l2 + guest_off // self.cluster % self.l2_entries() * (16 if self.extended else 8)

    # ---- snapshot table
    def entries(self):
        """[Entry], as the table has them."""
        out, off = [], self["snapshots_off"]
        for _ in range(self["nb_snapshots"]):
            e = Entry(self, off)
            out.append(e)
            off += e.padded_len
        return out

    def set_table(self, raw, count, off=None):
        """A new table at the end of the file, with no refcounts of its own: only readers may open the image now."""
        c = self.cluster
        if off is None:
            off = (self.length + c - 1) // c * c
        self.write(off, raw)
        self.truncate(max(self.length, (off + len(raw) + c - 1) // c * c))
        self["nb_snapshots"], self["snapshots_off"] = count, off


class Entry:
    def __init__(self, img, off):
        self.img, self.off = img, off

    def __getitem__(self, field):
        pos, size = ENTRY[field]
        return self.img.get(self.off + pos, size)

    def __setitem__(self, field, value):
        pos, size = ENTRY[field]
        self.img.put(self.off + pos, size, value)

    @property
    def extra(self):
        return self.img.bytes(self.off + 40, self["extra_len"])

    def set_extra(self, field_off, value):
        """+0 VM state size, +8 disk size, +16 icount"""
        assert field_off + 8 <= self["extra_len"]
        self.img.put(self.off + 40 + field_off, 8, value)

    @property
    def id(self):
        return self.img.bytes(self.off + 40 + self["extra_len"], self["id_len"])

    @property
    def name(self):
        return self.img.bytes(self.off + 40 + self["extra_len"] + self["id_len"], self["name_len"])

    @property
    def name_off(self):
        return self.off + 40 + self["extra_len"] + self["id_len"]

    @property
    def padded_len(self):
        return (40 + self["extra_len"] + self["id_len"] + self["name_len"] + 7) // 8 * 8

    @property
    def raw(self):
        return self.img.bytes(self.off, self.padded_len)


def make_entry(l1_off, l1_size, id, name, disk_size=None, vmstate=0, date=1700000000, nsec=0, clock=0, extra=None):
    """The bytes of one entry. @extra overrides the extra data; else 16 or 0 bytes of it by @disk_size."""
    if extra is None:
        extra = b"" if disk_size is None else struct.pack(">QQ", vmstate, disk_size)
    raw = struct.pack(">QIHHIIQII", l1_off, l1_size, len(id), len(name), date, nsec, clock, min(vmstate, 2**32 - 1),
                      len(extra)) + extra + id + name
    return raw + bytes(-len(raw) % 8)


# ---------------------------------------------------------------- writing like a guest

PATTERN_FILES = 4


def make_patterns(dirname, seed=1):
    """Files for qemu-io's `write -s`; returns their paths."""
    paths = []
    for i in range(PATTERN_FILES):
        path = os.path.join(dirname, "pattern%d.bin" % i)
        if not os.path.exists(path):
            with open(path, "wb") as f:
                f.write(mixed_data(200001 + 7 * i, seed * 100 + i))
        paths.append(os.path.abspath(path))
    return paths


def scribble(rng, size, cluster, count, patterns, compressed=True):
    """@count commands for qemu-io that write, zero, discard and compress all over a disk of @size bytes."""
    commands = []

    def extent(unit):
        off = rng.randrange(max(size // unit, 1)) * unit
        most = max((size - off) // unit, 1)
        length = min(rng.choice((1, 1, 2, 3, 8, 40)), most) * unit
        return min(off, size - 512), min(length, size - min(off, size - 512))

    def source():
        return "-P %d" % rng.randrange(1, 256) if rng.random() < 0.5 else "-s %s" % rng.choice(patterns)

    units = [u for u in (512, 2048, cluster // 32, cluster // 4, cluster, cluster * 3) if 512 <= u <= size]
    while len(commands) < count:
        kind = rng.randrange(10)
        if kind < 4:
            off, length = extent(rng.choice(units))
            commands.append("write %s %d %d" % (source(), off, length))
        elif kind < 6 and compressed:
            off, length = extent(cluster)
            if off % cluster == 0 and (length % cluster == 0 or off + length == size):
                commands.append("write -c %s %d %d" % (source(), off, length))
        elif kind < 8:
            off, length = extent(rng.choice(units))
            commands.append("write -z %s %d %d" % (rng.choice(("", "-u")), off, length))
        else:
            off, length = extent(rng.choice(units))
            commands.append("discard %d %d" % (off, length))
    return commands
