#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""make-hostile: images that break one rule each, and what must come of them.

usage: make-hostile.py DIRECTORY [GLOB]

Most cases start from the *trio*: a disk of 1 MiB with the snapshots a, b and c, every byte of which is 0xa1, 0xb2, 0xc3, and
the present content 0xd4. Each has its own L1, L2 and data, so what a case does to b must not show in a, c and the present.

DIRECTORY/list.json tells judge.py what to expect. A case is {name, path, allow, differs, qemu, checks}, a check
    state    -1 = present content, 0.. = index in the snapshot table, null = the listing (q2-tool info)
    read     null = the whole disk, else [offset, length]
    bytes    [[byte, count]...]: what must be read; or
    qemu     true: whatever `qemu-img convert` reads there; or
    error    the errno's name, and `text`, a regular expression that the message must match
    any      true: bytes or an error, but no harm
    cache    limit of the caches, if not q2-tool's own
    lists    for the listing, a regular expression that its text must match
`qemu`: false where QEMU is not to be asked (it would hang, recurse, or reach out). `differs`: why it is right that QEMU
accepts what we refuse, or the other way round; everywhere else judge.py insists that we agree on that.
"""
import fnmatch
import json
import os
import shutil
import socket
import struct
import sys
import zlib

from q2img import *

C = 65536
MIB = 1 << 20
A, B, CC, D = 0xA1, 0xB2, 0xC3, 0xD4
FILL = {0: A, 1: B, 2: CC, -1: D}
PRESENT, LISTING = -1, None

top = None
cases = []
fixtures = {}


# ---------------------------------------------------------------- expectations

def whole(state):
    return {"state": state, "bytes": [[FILL[state], MIB]]}


def zeros_at(state, off, length=C):
    """The state's bytes, but zeros from @off on."""
    return {"state": state, "bytes": [[FILL[state], off], [0, length], [FILL[state], MIB - off - length]]}


def zeros(state, size=MIB):
    return {"state": state, "bytes": [[0, size]]}


def fails(state, errno, text):
    return {"state": state, "error": errno, "text": text}


def as_qemu(state):
    return {"state": state, "qemu": True}


def survives(state):
    """Bytes or an error, whichever: it only must not do harm."""
    return {"state": state, "any": True}


def listing(text=""):
    return {"state": LISTING, "lists": text}


def rest(*done):
    """Every state of the trio that the case does not name reads as ever."""
    named = {c["state"] for c in done if c.get("read") is None}
    return [*done, *([] if LISTING in named else [listing()]), *(whole(s) for s in FILL if s not in named)]


def everywhere(errno, text):
    """The header cannot be accepted: nothing of the image can."""
    return [fails(LISTING, errno, text), fails(PRESENT, errno, text)]


def unreachable(errno, text):
    """The header can be listed, but no state can be opened."""
    return [listing(), *(fails(s, errno, text) for s in FILL)]


# ---------------------------------------------------------------- fixtures

def trio(directory, name="img.qcow2", **options):
    """A copy of the image with three snapshots."""
    key = tuple(sorted(options.items()))
    if key not in fixtures:
        path = os.path.join(top, "trio%d.qcow2" % len(fixtures))
        create(path, MIB, **options)
        for n in range(3):
            io(path, "write -P %d 0 1M" % FILL[n])
            snapshot(path, "abc"[n])
        io(path, "write -P %d 0 1M" % D)
        fixtures[key] = path
    path = os.path.join(directory, name)
    shutil.copyfile(fixtures[key], path)
    return path


def add(name, checks, make, allow=(), qemu=True, differs=None, **options):
    """One case. @make gets the open Image (a trio with @options) and the directory; it returns nothing."""
    cases.append(dict(name=name, checks=checks, make=make, allow=allow, qemu=qemu, differs=differs, options=options))


def field(name, value, checks, **kw):
    def make(img, d):
        img[name] = value
    add("%s = %#x" % (name, value), checks, make, **kw)


def cut(size, checks, **kw):
    v = "version 2" if kw.get("compat") == "0.10" else "version 3"
    add("%s cut off at byte %d" % (v, size), checks, lambda img, d: img.truncate(size), **kw)


PAST_EOF = "QEMU reads a metadata table past the end of the file as zeros; here it is damage, because every writer writes whole tables"

# ---------------------------------------------------------------- 1, 2, 3: magic, version, geometry, lengths

field("magic", 0x514649FA, everywhere("EINVAL", "not a qcow2 image"))
for version in (0, 1, 4):
    field("version", version, everywhere("ENOTSUP", "version %d" % version))
cut(0, everywhere("EINVAL", "not a qcow2 image"))
cut(3, everywhere("EINVAL", "not a qcow2 image"))
for size in (71, 72, 103):  # what is missing reads as zeros, and so does the header's length
    cut(size, everywhere("EINVAL", "header length 0"))
for size in (104, 111):     # QEMU opens this, with a table of empty snapshots
    cut(size, everywhere("EUCLEAN", "cut off|past the end"), differs=PAST_EOF)
for size in (71, 72):
    cut(size, everywhere("EUCLEAN", "cut off|past the end"), differs=PAST_EOF, compat="0.10")
for bits in (0, 8, 22, 0xFFFFFFFF):  # shifts by them would be undefined
    field("cluster_bits", bits, everywhere("EINVAL", "cluster size"))
field("header_length", 96, everywhere("EINVAL", "header length 96 "))
field("header_length", 0x7FFFFFFF, everywhere("EINVAL", "header length"))
field("header_length", 0xFFFFFFFF, everywhere("EINVAL", "header length"))
field("header_length", C + 8, everywhere("EINVAL", "header length"))


def odd_header_length(img, d):
    img.set_extensions([])
    img["header_length"] = 113  # no multiple of 8, which only the specification asks for


add("header length that is odd", rest(), odd_header_length)

# ---------------------------------------------------------------- 4: virtual size

field("size", 0, rest({"state": PRESENT, "bytes": []}))
field("size", 1000, rest({"state": PRESENT, "bytes": [[D, 512]]}))  # whole sectors, as in QEMU
field("size", 1 << 63, everywhere("EFBIG", "virtual size"))
field("size", (1 << 64) - 1, everywhere("EFBIG", "virtual size"))
field("size", (1 << 63) - 1, everywhere("EFBIG|EINVAL", "virtual size|L1 table"))
field("size", 1 << 50, everywhere("EINVAL", "L1 table of 1 entries is too small"))

# ---------------------------------------------------------------- 5 to 9: features, compression, refcounts

for bit in (5, 63):
    field("incompatible", 1 << bit, everywhere("ENOTSUP", "bit %d" % bit))


def named_feature(img, d):
    img.set_extensions([(0x6803F857, bytes([0, 6]) + b"time travel".ljust(46, b"\0"))])
    img["incompatible"] = 1 << 6


add("an unknown feature that the image names", everywhere("ENOTSUP", "time travel"), named_feature)


def feature_names(img, d):  # 46 bytes without an end, and a table that is cut off
    img.set_extensions([(0x6803F857, bytes([0, 6]) + b"n" * 46 + b"\0\6half")])
    img["incompatible"] = 1 << 6


add("a feature name without an end", everywhere("ENOTSUP", "n{46}' "), feature_names)


def compression(flag, method):
    def make(img, d):
        img["incompatible"] = flag << 3
        img["compression"] = method
    return make


add("compression bit without a method", everywhere("EINVAL", "compression"), compression(1, 0))
add("compression method without the bit", everywhere("EINVAL", "compression"), compression(0, 1))
add("compression method 2", everywhere("ENOTSUP", "compression type 2"), compression(1, 2))
for size in ("4k", "8k"):
    field("incompatible", 16, everywhere("EINVAL", "extended L2"), cluster_size=size)
field("refcount_order", 7, everywhere("EINVAL", "refcount"))
field("reftable_clusters", 0, everywhere("EINVAL", "no refcount table"))
field("reftable_clusters", 129, everywhere("EFBIG", "refcount table of 129 clusters"))
field("reftable_clusters", 0xFFFFFFFF, everywhere("EFBIG", "refcount table"))
field("reftable_off", 0x10200, everywhere("EINVAL", "refcount table offset 0x10200 "))
field("reftable_off", (1 << 64) - C, everywhere("EINVAL", "refcount table offset 0xffffffffffff0000"))
field("crypt", 3, everywhere("EINVAL", "encryption method 3"))

# ---------------------------------------------------------------- 10: the active L1

field("l1_size", 0xFFFFFFFF, everywhere("EFBIG", "L1 table of 4294967295 entries"))
field("l1_size", 4194305, everywhere("EFBIG", "L1 table of 4194305 entries"))
field("l1_size", 0, everywhere("EINVAL", "L1 table of 0 entries is too small"))
field("l1_off", 0x30200, everywhere("EINVAL", "L1 table offset 0x30200 is not aligned"))
field("l1_off", (1 << 64) - C, everywhere("EINVAL", "L1 table offset"))
field("l1_off", (1 << 63) - C, everywhere("EUCLEAN|EINVAL", "L1 table"))
field("l1_off", 1 << 40, everywhere("EUCLEAN", "L1 table at (offset )?0x10000000000 .*past"), differs=PAST_EOF)
# The header read as an L1 table names an L2 table far beyond the file.
field("l1_off", 0, rest(fails(PRESENT, "EUCLEAN", "L2 table at offset 0x[0-9a-f]+ .*past the end")), differs=PAST_EOF)

# ---------------------------------------------------------------- 11: header extensions


def extension(kind, length, data=b""):
    """An extension whose length field says @length, whatever there is."""
    def make(img, d):
        img.set_extensions([])
        img.write(112, struct.pack(">II", kind, length) + data)
    return make


for kind, what in ((0x12345678, "unknown"), (0xE2792ACA, "backing format"), (0x6803F857, "feature names"),
                   (0x44415441, "data file"), (0x23852875, "bitmaps"), (0x0537BE77, "encryption")):
    for length in (0x7FFFFFFF, 0xFFFFFFFF, C):
        add("%s extension of %#x bytes" % (what, length), everywhere("EINVAL", "extension|encryption"), extension(kind, length))
add("backing format of 200 bytes", everywhere("EINVAL", "backing format name of 200 bytes"),
    extension(0xE2792ACA, 200, b"q" * 200))
add("backing format of 16 bytes", everywhere("EINVAL", "backing format name of 16 bytes"), extension(0xE2792ACA, 16, b"q" * 16))
add("encryption extension in a plain image", everywhere("EINVAL", "encryption"), extension(0x0537BE77, 16, bytes(16)))
add("bitmaps extension of 23 bytes", everywhere("EINVAL", "bitmaps extension of 23 bytes"), extension(0x23852875, 23, bytes(23)))


def no_end(img, d):
    length = C - 112 - 8
    img.set_extensions([])
    img.write(112, struct.pack(">II", 0x12345678, length) + b"x" * length)


add("extensions to the end of the cluster, without an end mark", rest(), no_end)


def luks(length):
    def make(img, d):
        extension(0x0537BE77, length, struct.pack(">QQ", C * 1000, C))(img, d)
        img["crypt"] = 2
    return make


add("encryption extension of 8 bytes", everywhere("EINVAL", "encryption"), luks(8), qemu=False)


def encryption(fmt, reason):
    def make(img, d):
        s = ["--object", "secret,id=s0,data=123456"]
        more = ",encrypt.iter-time=10" if fmt == "luks" else ""
        for again in range(20, -1, -1):  # LUKS measures how fast this machine is, which it can be too busy for
            try:
                qemu("qemu-img", "create", "-q", *s, "-f", "qcow2", "-o", "encrypt.format=%s,encrypt.key-secret=s0%s" % (fmt, more),
                     img.path, "1M")
                break
            except QemuRefused as e:
                if "CPU usage" not in str(e) or not again:
                    raise
        qemu("qemu-io", *s, "--image-opts", "-c", "write -P 24 0 1M",
             "driver=qcow2,encrypt.key-secret=s0,file.driver=file,file.filename=" + img.path)
        qemu("qemu-img", "snapshot", "--object", s[1], "-c", "s", "--image-opts",
             "driver=qcow2,encrypt.key-secret=s0,file.driver=file,file.filename=" + img.path)
    add("%s image" % reason, [listing("unsupported reason=is%20encrypted%20\\(" + reason), fails(PRESENT, "ENOTSUP", reason),
                              fails(0, "ENOTSUP", reason)], make, qemu=False)


encryption("luks", "LUKS")
encryption("aes", "AES")

BITMAPS = "a damaged bitmap directory says nothing about the disk, and QEMU fails because it would have to keep it up to date"


def bitmaps(count, reserved, directory_size, directory_off):
    def make(img, d):
        extension(0x23852875, 24, struct.pack(">IIQQ", count, reserved, directory_size, directory_off))(img, d)
        img["autoclear"] = 1
    return make


add("bitmaps: reserved field set", rest(), bitmaps(1, 7, 64, 4 * C), differs=BITMAPS)
add("bitmaps: none of them", rest(), bitmaps(0, 0, 64, 4 * C), differs=BITMAPS)
add("bitmaps: directory misaligned", rest(), bitmaps(1, 0, 64, 4 * C + 8), differs=BITMAPS)
add("bitmaps: directory of zeros past the end", rest(), bitmaps(1, 0, 64, 4096 * C), differs=BITMAPS)
add("bitmaps: directory far too large", rest(), bitmaps(65535, 0, 1 << 62, 4 * C), differs=BITMAPS)

# ---------------------------------------------------------------- 12: backing names, the gate

field("backing_off", (1 << 64) - 1, everywhere("EINVAL", "backing file name offset"))
field("backing_off", C + 1, everywhere("EINVAL", "backing file name offset 0x10001 is outside the first cluster"))


def long_name(off, length):
    def make(img, d):
        img["backing_off"], img["backing_len"] = off, length
    return make


add("backing name of 4 GiB", everywhere("EINVAL", "backing file name of 4294967295 bytes"), long_name(512, 0xFFFFFFFF))
add("backing name of 1024 bytes", everywhere("EINVAL", "backing file name of 1024 bytes"), long_name(512, 1024))
add("backing name across the end of the first cluster", everywhere("EINVAL", "backing file name of 100 bytes"),
    long_name(C - 99, 100))
add("backing name of no bytes", rest(), long_name(512, 0))


def base_raw(d, name="base.raw"):
    with open(os.path.join(d, name), "wb") as f:
        f.write(b"r" * MIB)


def backing(what, name, errno, text, fmt=b"raw", prepare=None, allow=(), checks=None):
    def make(img, d):
        if prepare:
            prepare(d)
        img.set_backing(name(d) if callable(name) else name, fmt)
    add("backing: " + what, checks or unreachable(errno, text), make, allow=allow, qemu=False)


def fifo(d):
    os.mkfifo(os.path.join(d, "pipe"))


def unix_socket(d):
    s = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(d)  # the name of a socket is short
    s.bind("sock")
    os.chdir(here)


def symlink(target):
    return lambda d: os.symlink(target, os.path.join(d, "link"))


def neighbour(d):
    os.makedirs(os.path.join(top, "neighbour"), exist_ok=True)
    base_raw(os.path.join(top, "neighbour"))


def qcow2_looking(d):
    trio(d, "base.qcow2")


backing("name with a NUL inside ends there", b"base.raw\0/../../../etc/passwd", None, None, prepare=base_raw, checks=rest())
backing("itself", b"img.qcow2", "ELOOP", "loops", fmt=b"qcow2")
backing("itself by another way", lambda d: b"../%s/./img.qcow2" % os.path.basename(d).encode(), "ELOOP", "loops", fmt=b"qcow2")
backing("missing", b"nothing.raw", "ENOENT", "nothing.raw")
backing("a directory", b".", "EISDIR|EPERM", "neither a regular file")
backing("the root directory", b"/", "EISDIR|EPERM", "neither a regular file")
backing("a FIFO", b"pipe", "EPERM", "neither a regular file", prepare=fifo)
backing("a socket", b"sock", "EPERM", "neither a regular file", prepare=unix_socket)
backing("/dev/zero, which never ends", b"/dev/zero", "EPERM", "neither a regular file")
backing("/dev/mem", b"/dev/mem", "EPERM|ENOENT", "/dev/mem")
backing("a terminal", b"/dev/tty", "EPERM|ENXIO", "/dev/tty")
backing("/dev/stdin", b"/dev/stdin", "EPERM|ENXIO|ENOENT", "")
backing("/dev/fdset", b"/dev/fdset/1", "EPERM|ENOENT", "fdset")
backing("/proc/self/mem, a regular file", b"/proc/self/mem", "EPERM", "outside the directories")
backing("/proc/self/fd", b"/proc/self/fd/0", "EPERM|ENOENT|ENXIO", "")
backing("/etc/passwd", b"/etc/passwd", "EPERM", "/etc/passwd.*outside the directories")
backing("/etc/passwd as qcow2", b"/etc/passwd", "EPERM", "/etc/passwd.*outside the directories", fmt=b"qcow2")
backing("/etc/passwd through dots", lambda d: b"../" * 20 + b"etc/passwd", "EPERM", "/etc/passwd.*outside the directories")
backing("a symlink to /etc/passwd", b"link", "EPERM", "/etc/passwd.*outside the directories", prepare=symlink("/etc/passwd"))
backing("through a symlink to /etc", b"link/passwd", "EPERM", "/etc/passwd.*outside the directories", prepare=symlink("/etc"))
backing("a symlink to itself", b"link", "ELOOP", "link", prepare=symlink("link"))
backing("a neighbour directory", b"../neighbour/base.raw", "EPERM", "neighbour.*outside the directories", prepare=neighbour)
backing("a neighbour directory that is allowed", b"../neighbour/base.raw", None, None, prepare=neighbour,
        allow=["../neighbour"], checks=rest())
# `/x/neighbour` allowed must not allow `/x/neighbourhood`
backing("a directory whose name only begins like an allowed one", b"../neighbour/base.raw", "EPERM", "outside the directories",
        prepare=lambda d: (neighbour(d), os.makedirs(os.path.join(top, "neighb"), exist_ok=True)), allow=["../neighb"])
backing("no format recorded", b"base.raw", "EPERM", "no format recorded", fmt=None, prepare=base_raw)
backing("no format recorded over something like a qcow2", b"base.qcow2", "EPERM", "no format recorded", fmt=None,
        prepare=qcow2_looking)
backing("an empty format recorded", b"base.raw", "EPERM|ENOTSUP", "format", fmt=b"", prepare=base_raw)
backing("a format that is not read here", b"base.raw", "ENOTSUP", "format 'vmdk'", fmt=b"vmdk", prepare=base_raw)
backing("a protocol as the format", b"base.raw", "ENOTSUP", "format 'file'", fmt=b"file", prepare=base_raw)
backing("raw recorded as qcow2", b"base.raw", "EINVAL", "base.raw' is not a qcow2 image", fmt=b"qcow2", prepare=base_raw)
for url in (b"nbd://127.0.0.1:10809/x", b"nbd:unix:/tmp/x", b"http://127.0.0.1/x", b"https://127.0.0.1/x", b"ftp://127.0.0.1/x",
            b"ssh://127.0.0.1/etc/passwd", b"iscsi://127.0.0.1/x/0", b"rbd:pool/x", b"fat:rw:/etc", b"blkdebug::base.raw",
            b"file:base.raw", b"fd:0", b"host_device:/dev/sda", b"nvme://0000:00:00.0/1", b"x:y"):
    backing("the name " + url.decode(), url, "EPERM", "only local files", prepare=base_raw)


def json_name(what, text):
    backing("json: " + what, lambda d: b"json:" + text.replace("@", d).encode(), "EPERM|EINVAL", "json:", prepare=base_raw)


json_name("not json", "{")
json_name("nothing", "")
json_name("no object", '["raw"]')
json_name("deep nesting", "[" * 900)
json_name("deep objects", '{"file":' * 110)
json_name("another driver", '{"driver":"nbd","host":"127.0.0.1"}')
json_name("another format driver", '{"driver":"vmdk","file":{"driver":"file","filename":"@/base.raw"}}')
json_name("another driver below raw", '{"driver":"raw","file":{"driver":"http","url":"http://127.0.0.1/"}}')
json_name("another driver below raw, flat", '{"driver":"raw","file.driver":"nbd","file.filename":"@/base.raw"}')
json_name("blkdebug in between", '{"driver":"raw","file":{"driver":"blkdebug","image":{"driver":"file","filename":"@/base.raw"}}}')
json_name("quorum", '{"driver":"quorum","vote-threshold":1,"rewrite-corrupted":true,"children":["/etc/passwd"]}')
json_name("an offset", '{"driver":"raw","offset":512,"file":{"driver":"file","filename":"@/base.raw"}}')
json_name("an option of the file driver", '{"driver":"raw","file":{"driver":"file","filename":"@/base.raw","locking":"off"}}')
json_name("a node name instead of a file", '{"driver":"raw","file":"node0"}')
json_name("a data file", '{"driver":"qcow2","data-file":{"driver":"file","filename":"/etc/passwd"},'
                         '"file":{"driver":"file","filename":"@/base.raw"}}')
json_name("two file names", '{"driver":"raw","file.filename":"@/base.raw","file":{"driver":"file","filename":"/etc/passwd"}}')
json_name("no file name", '{"driver":"raw","file":{"driver":"file"}}')
json_name("a number as the file name", '{"driver":"raw","file":{"driver":"file","filename":7}}')
json_name("a relative file name", '{"driver":"raw","file":{"driver":"file","filename":"base.raw"}}')
json_name("json within json", '{"driver":"raw","file":{"driver":"file","filename":"json:{}"}}')
json_name("something behind the object", '{"driver":"raw","file":{"driver":"file","filename":"@/base.raw"}} x')
json_name("a contradiction of the recorded format", '{"driver":"qcow2","file":{"driver":"file","filename":"@/base.raw"}}')
backing("json: /etc/passwd", b'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}', "EPERM",
        "/etc/passwd.*outside the directories")


def loop(img, d):
    other = trio(d, "other.qcow2")
    img.set_backing(b"other.qcow2")
    with Image(other) as o:
        o.set_backing(b"img.qcow2")


add("backing: a loop of two", unreachable("ELOOP", "loops"), loop, qemu=False)


def link_loop(img, d):  # two names of one file
    os.link(img.path, os.path.join(d, "other.qcow2"))
    img.set_backing(b"other.qcow2")


add("backing: itself under another name", unreachable("ELOOP", "loops"), link_loop, qemu=False)


def deep(layers):
    def make(img, d):
        small = create(os.path.join(d, "1.qcow2"), MIB, cluster_size=512)
        io(small, "write -P 17 0 1k")
        for n in range(2, layers):
            path = os.path.join(d, "%d.qcow2" % n)
            shutil.copyfile(fixtures["small"], path) if "small" in fixtures else create(path, MIB, cluster_size=512)
            with Image(path) as i:
                i.set_backing(b"%d.qcow2" % (n - 1))
        img.set_backing(b"%d.qcow2" % (layers - 1))
    return make


add("backing: a chain of 200", rest(), deep(200), qemu=False)
add("backing: a chain of 201", unreachable("ELOOP", "deeper than 200"), deep(201), qemu=False)


def damaged_base(img, d):
    base = trio(d, "base.qcow2")
    with Image(base) as b:
        b["cluster_bits"] = 40
    img.set_backing(b"base.qcow2")


add("backing: a damaged image", unreachable("EINVAL", "base.qcow2': cluster size"), damaged_base)

# ---------------------------------------------------------------- 13: external data files


def data_file(what, name, errno, text, prepare=None):
    def make(img, d):
        img.f.close()
        os.unlink(img.path)
        create(img.path, MIB, data_file="img.data")
        io(img.path, "write -P 7 0 1M")
        img.__init__(img.path)
        if prepare:
            prepare(d)
        if name is not None:
            img.set_extensions([(0x44415441, name(d) if callable(name) else name)])
    checks = [listing("data-file" if name else ""), fails(PRESENT, errno, text)]
    add("data file: " + what, checks, make, qemu=False)


data_file("not recorded", b"", "EINVAL|ENOTSUP|EPERM", "data file|empty file name")
data_file("itself", b"img.qcow2", "ELOOP", "itself")
data_file("missing", b"gone.data", "ENOENT", "gone.data")
data_file("/etc/passwd", b"/etc/passwd", "EPERM", "/etc/passwd.*outside the directories")
data_file("a symlink to /etc/passwd", b"link", "EPERM", "/etc/passwd.*outside the directories", prepare=symlink("/etc/passwd"))
data_file("a FIFO", b"pipe", "EPERM", "neither a regular file", prepare=fifo)
data_file("/dev/zero", b"/dev/zero", "EPERM", "neither a regular file")
data_file("a directory", b".", "EISDIR|EPERM", "neither a regular file")
data_file("a URL", b"nbd://127.0.0.1/x", "EPERM", "only local files")
data_file("json: quorum", b'json:{"driver":"quorum","children":["/etc/passwd"]}', "EPERM", "json:")
data_file("a name of 60000 bytes", b"x" * 60000, "ENAMETOOLONG|EPERM|ENOENT", "")


def data_file_bit(img, d):
    img["incompatible"] = 4


add("data file: the bit without the extension", [listing("unsupported reason="), fails(PRESENT, "EINVAL|ENOTSUP", "data file")],
    data_file_bit)
field("autoclear", 2, everywhere("EINVAL", "data-file-raw"))


def data_file_entry(what, entry, text):
    def make(img, d):
        img.f.close()
        os.unlink(img.path)
        create(img.path, MIB, data_file="img.data")
        io(img.path, "write -P 7 0 1M")
        img.__init__(img.path)
        img.put(img.l2_entry_off(3 * C), 8, entry)
    add("data file: " + what, [listing(), fails(PRESENT, "EUCLEAN", text),
                               {"state": PRESENT, "read": [0, 3 * C], "bytes": [[7, 3 * C]]}], make)


data_file_entry("a compressed cluster", C62 | 3 * C, "guest offset 0x30000 is compressed in an image with an external data file")
data_file_entry("a cluster at another offset", C63 | 5 * C, "guest offset 0x30000 points at another place")
data_file_entry("a zero cluster at another offset", C63 | 5 * C | 1, "guest offset 0x30000 points at another place")

# ---------------------------------------------------------------- 14: L1 entries


def l1_of(img, state):
    return None if state == PRESENT else img.entries()[state]["l1_off"]


def l1_entry(what, value, check, cache=None, **kw):
    """The same damage to snapshot b and to the present content. @cache: once more with one of that size."""
    for state in (1, PRESENT):
        def make(img, d, state=state):
            off = img.l1_entry_off(0, l1_of(img, state))
            img.put(off, 8, value(img, off) if callable(value) else value)
        again = [dict(check(state), cache=cache)] if cache is not None else []
        add("L1 entry of %s: %s" % ("b" if state == 1 else "the present", what), rest(check(state), *again), make, **kw)


def refused(errno, text):
    return lambda state: fails(state, errno, text)


l1_entry("misaligned", lambda img, off: img.get(off, 8) | 0x200, refused("EUCLEAN", "L1 entry .*0x[0-9a-f]+.* not aligned"))
l1_entry("all ones", (1 << 64) - 1, refused("EUCLEAN", "L1 entry .*0x[0-9a-f]+.* not aligned"))
l1_entry("past the end of the file", C63 | 1 << 40, refused("EUCLEAN", "L2 table at offset 0x10000000000 .*past the end"),
         differs=PAST_EOF)
l1_entry("across the end of the file", lambda img, off: (img.truncate(img.length // C * C + 512),
                                                         C63 | img.length // C * C)[1],
         refused("EUCLEAN", "L2 table at offset 0x[0-9a-f]+ .*past the end"), differs=PAST_EOF)
# Without a cache only the part of a table is read that an answer needs; here the file has that part.
l1_entry("the second half across the end of the file", lambda img, off: (img.truncate(img.length // C * C + C // 2),
                                                                         C63 | img.length // C * C)[1],
         refused("EUCLEAN", "L2 table at offset 0x[0-9a-f]+ .*past the end"), cache=0, differs=PAST_EOF)
l1_entry("the header, that is, none", C63, zeros)
l1_entry("reserved bits set", lambda img, off: img.get(off, 8) | 0x7F << 56 | 0x1FF, whole)
l1_entry("the L1 table itself", lambda img, off: C63 | off // C * C, as_qemu)
l1_entry("the refcount table", lambda img, off: C63 | img["reftable_off"], as_qemu)
l1_entry("the snapshot table, whose dates can mean anything", lambda img, off: C63 | img["snapshots_off"], survives, qemu=False)

# ---------------------------------------------------------------- 15: L2 entries


def l2_entry(what, value, check, state=1, more=(), **kw):
    """Damage to the entry of guest offset 0x30000 of snapshot b; the clusters before it stay readable."""
    def make(img, d):
        off = img.l2_entry_off(3 * C, l1_of(img, state))
        img.put(off, 8, value(img, off) if callable(value) else value)
    checks = rest(check(state), {"state": state, "read": [0, 3 * C], "bytes": [[FILL[state], 3 * C]]},
                  {"state": state, "read": [4 * C, 12 * C], "bytes": [[FILL[state], 12 * C]]}, *more)
    add("L2 entry of %s%s: %s" % ("b" if state == 1 else "the present", ", version 2" if kw.get("compat") == "0.10" else "", what),
        checks, make, **kw)


def third_zero(state):
    return zeros_at(state, 3 * C)


for where in (1, PRESENT):
    l2_entry("misaligned", lambda img, off: img.get(off, 8) | 0x200, refused("EUCLEAN", "guest offset 0x30000 .*not aligned"), where)
    l2_entry("past the end of the file", C63 | 1 << 40, third_zero, where)
    l2_entry("all bits of the offset", C63 | 0x00FFFFFFFFFFFE00, refused("EUCLEAN", "guest offset 0x30000 .*not aligned"), where)
l2_entry("the largest offset", C63 | 0x00FFFFFFFFFF0000, third_zero)
l2_entry("zero flag", C63 | 1, refused("EUCLEAN", "guest offset 0x30000 has the zero flag"), compat="0.10")
l2_entry("zero flag and misaligned", lambda img, off: img.get(off, 8) | 0x201, refused("EUCLEAN", "guest offset 0x30000 .*not aligned"))
l2_entry("zero flag past the end", C63 | 1 << 40 | 1, third_zero)
l2_entry("reserved bits set", lambda img, off: img.get(off, 8) | 0x3F << 56 | 0x1FE, whole)
l2_entry("offset 0 with COPIED set", C63, third_zero)
l2_entry("its own L2 table", lambda img, off: C63 | off // C * C, as_qemu)
l2_entry("the refcount table", lambda img, off: C63 | img["reftable_off"], as_qemu)
l2_entry("another snapshot's cluster", lambda img, off: img.get(img.l2_entry_off(0, l1_of(img, 0)), 8),
         lambda s: {"state": s, "bytes": [[B, 3 * C], [A, C], [B, 12 * C]]})

# ---------------------------------------------------------------- 16: compressed clusters

UNDECODED = "compressed cluster of guest offset 0x30000 \\(at offset (0x[0-9a-f]+|0),.*cannot be decoded"
NSEC = 62 - 8  # with clusters of 64 KiB the sector count begins there


def compressed(what, stream, check, method="zlib", entry=None, **kw):
    """Snapshot b's cluster at 0x30000 becomes @stream, put at the end of the file with no room around it."""
    def make(img, d):
        off = (img.length + C - 1) // C * C + 100
        data = stream(img) if callable(stream) else stream
        img.write(off, data)
        value = C62 | ((off + len(data) - 1) // 512 - off // 512) << NSEC | off
        img.put(img.l2_entry_off(3 * C, l1_of(img, 1)), 8, entry(value, img) if entry else value)
    add("%s cluster: %s" % (method, what), rest(check, {"state": 1, "read": [0, 3 * C], "bytes": [[B, 3 * C]]}), make,
        compression_type=method, **kw)


def third(fill):
    return {"state": 1, "bytes": [[B, 3 * C], [fill, C], [B, 12 * C]]}


def deflate(data, window=-12):
    z = zlib.compressobj(6, zlib.DEFLATED, window)
    return z.compress(data) + z.flush()


def zstd_rle(length, window_log=17, fill=0x5A, last=True):
    """One frame made by hand: magic, window size, blocks that repeat one byte."""
    out = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    while length:
        n = min(length, 65536)
        length -= n
        out += (int(last and not length) | 1 << 1 | n << 3).to_bytes(3, "little") + bytes([fill])
    return out


BAD16 = fails(1, "EIO", UNDECODED)
hard = mixed_data(C, 4711)[:20000] + bytes(C - 20000)
compressed("well formed", deflate(b"Z" * C), third(0x5A))
compressed("COPIED set", deflate(b"Z" * C), third(0x5A), entry=lambda e, i: e | C63)
compressed("garbage", b"\xff" * 600, BAD16)
compressed("zeros", bytes(600), BAD16)
compressed("a stream that yields too little", deflate(b"Z" * (C - 1)), BAD16)
compressed("a stream that yields too much", deflate(b"Z" * (C + 1000)), third(0x5A))
compressed("a stream that is not terminated", deflate(b"Z" * 3 * C)[:-3], third(0x5A))
compressed("a window of 32 KiB", deflate((mixed_data(30000, 5) * 3)[:C], window=-15), as_qemu(1))
compressed("one sector too few", deflate(hard), BAD16, entry=lambda e, i: e - (1 << NSEC))
compressed("the largest sector count, past the end of the file", deflate(b"Z" * C), third(0x5A), entry=lambda e, i: e | 0xFF << NSEC)
compressed("past the end of the file", b"", BAD16, entry=lambda e, i: C62 | 1 << 40)
compressed("offset 0, the header", b"", BAD16, entry=lambda e, i: C62 | 1 << NSEC)
compressed("the largest offset", b"", BAD16, entry=lambda e, i: C62 | (1 << NSEC) - 1)
compressed("random bytes", mixed_data(2000, 99), BAD16)
compressed("well formed", zstd_rle(C), third(0x5A), "zstd")
compressed("garbage", b"\xff" * 600, BAD16, "zstd")
compressed("zeros", bytes(600), BAD16, "zstd")
compressed("a stream that yields too little", zstd_rle(C - 1), BAD16, "zstd")
compressed("a stream that yields too much", zstd_rle(C + 65536), BAD16, "zstd")
compressed("a frame that does not end", zstd_rle(C, last=False), BAD16, "zstd")
compressed("two frames", zstd_rle(C // 2) + zstd_rle(C // 2), third(0x5A), "zstd")
compressed("an empty frame first", zstd_rle(0)[:6] + b"\1\0\0" + zstd_rle(C), third(0x5A), "zstd")
compressed("a skippable frame first", b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd_rle(C), third(0x5A), "zstd")
compressed("a dictionary that nobody has", b"\x28\xb5\x2f\xfd\x03\x38\xff\xff\xff\xff" + zstd_rle(C)[6:], BAD16, "zstd")
compressed("a window of 4 MiB", zstd_rle(C, 22), third(0x5A), "zstd")
compressed("a window of 128 MiB", zstd_rle(C, 27), BAD16, "zstd",
           differs="a window above 4 MiB is an allocation that no cluster of at most 2 MiB needs; QEMU writes none")
compressed("a window of 2 TiB", zstd_rle(C, 41), BAD16, "zstd")
compressed("cut before the block", zstd_rle(C)[:-4], BAD16, "zstd")
compressed("a huge content size", b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + zstd_rle(C)[6:], BAD16, "zstd")

# ---------------------------------------------------------------- 17: extended L2


def subclusters(what, change, check, **kw):
    """@change gets descriptor and bitmap of b's cluster at 0x30000 and returns new ones."""
    def make(img, d):
        off = img.l2_entry_off(3 * C, l1_of(img, 1))
        entry, bitmap = change(img.get(off, 8), img.get(off + 8, 8), img)
        img.put(off, 8, entry)
        img.put(off + 8, 8, bitmap)
    add("subclusters: " + what, rest(check, {"state": 1, "read": [0, 3 * C], "bytes": [[B, 3 * C]]}), make, extended_l2="on", **kw)


BAD17 = fails(1, "EUCLEAN", "guest offset 0x30000 has subclusters that are both")
ALL32 = (1 << 32) - 1
subclusters("all both allocated and zero", lambda e, b, i: (e, (1 << 64) - 1), BAD17)
subclusters("one both allocated and zero", lambda e, b, i: (e, ALL32 | 1 << 63), BAD17)
subclusters("allocated without a cluster", lambda e, b, i: (0, ALL32), BAD17)
subclusters("one allocated without a cluster", lambda e, b, i: (0, 1 << 7), BAD17)
subclusters("zero flag of the standard entry, ignored", lambda e, b, i: (e | 1, b), whole(1))
subclusters("none in use", lambda e, b, i: (e, 0), zeros_at(1, 3 * C))
subclusters("all zero without a cluster", lambda e, b, i: (0, ALL32 << 32), zeros_at(1, 3 * C))
subclusters("misaligned cluster", lambda e, b, i: (e | 0x200, b), fails(1, "EUCLEAN", "guest offset 0x30000 .*not aligned"))
subclusters("every second one zero", lambda e, b, i: (e, 0x5555555500000000 | 0xAAAAAAAA),
            {"state": 1, "bytes": [[B, 3 * C], *([[0, 2048], [B, 2048]] * 16), [B, 12 * C]]})


def compressed_with_bitmap(e, b, img):
    off, data = (img.length + C - 1) // C * C, deflate(b"Z" * C)
    img.write(off, data)
    return C62 | off, (1 << 64) - 1


subclusters("a bitmap on a compressed cluster, ignored", compressed_with_bitmap, third(0x5A))

NO_TABLE = "the present content does not need the snapshot table, which QEMU reads whenever it opens an image"


def unlisted(text):
    return [fails(LISTING, "EFBIG", text), whole(PRESENT)]


# ---------------------------------------------------------------- 18: the snapshot table as a whole

field("nb_snapshots", 65537, everywhere("EFBIG", "65537 snapshots"))
field("nb_snapshots", 0xFFFFFFFF, everywhere("EFBIG", "4294967295 snapshots"))
field("snapshots_off", 0x50200, everywhere("EINVAL", "snapshot table offset 0x50200 is not aligned"))
field("snapshots_off", (1 << 64) - C, everywhere("EINVAL", "snapshot table offset"))


def no_snapshots_misaligned(img, d):
    img["nb_snapshots"], img["snapshots_off"] = 0, 0x50200


add("no snapshots, but their table is misaligned", everywhere("EINVAL", "snapshot table offset 0x50200 is not aligned"),
    no_snapshots_misaligned)


def zero_entries(img, d):
    img["nb_snapshots"], img["snapshots_off"] = 65536, 1 << 40


add("65,536 entries past the end of the file", [fails(LISTING, "EUCLEAN", "was cut off: its snapshot table"), whole(PRESENT)], zero_entries)
field("snapshots_off", 0, [listing(), whole(PRESENT)], qemu=False)  # the header as a table: must only be survived

# ---------------------------------------------------------------- 19: one entry


def entry(what, change, check, name=None, **kw):
    """@change gets snapshot b's Entry."""
    def make(img, d):
        change(img.entries()[1])
    add("entry of b: " + what, check if isinstance(check, list) else rest(check), make, **kw)


def put(field, value):
    def change(e):
        e[field] = value
    return change


entry("L1 misaligned", put("l1_off", 0x60200), fails(1, "EUCLEAN|EINVAL", "snapshot 'b'.*0x60200"))
entry("L1 of 32 GiB", put("l1_size", 0xFFFFFFFF), fails(1, "EFBIG", "snapshot 'b'"))
entry("L1 of one entry too many", put("l1_size", 4194305), fails(1, "EFBIG", "snapshot 'b'"))
# What lies behind the entries that the disk needs is VM state, if anything: not looked at, however much room there is.
entry("L1 of 32 MiB, most of it past the end", put("l1_size", 4194304), rest(whole(1), dict(whole(1), cache=256 << 20, read=[0, MIB])))
entry("L1 past the end", put("l1_off", 1 << 40), fails(1, "EUCLEAN", "L1 table at offset 0x10000000000 .*past the end"), differs=PAST_EOF)
entry("L1 near 2^63", put("l1_off", (1 << 63) - C), fails(1, "EUCLEAN|EINVAL", "snapshot 'b'|L1 table"), qemu=False)
entry("L1 near 2^64", put("l1_off", (1 << 64) - C), fails(1, "EUCLEAN|EINVAL", "snapshot 'b'.*0xffffffffffff0000"))
entry("L1 at the header", put("l1_off", 0), fails(1, "EUCLEAN", "L2 table at offset 0x[0-9a-f]+ .*past the end"), differs=PAST_EOF)
entry("L1 without entries", put("l1_size", 0), zeros(1), qemu=False)
entry("1025 bytes of extra data", put("extra_len", 1025), unlisted("1025 bytes of extra data"), differs=NO_TABLE)
entry("4 GiB of extra data", put("extra_len", 0xFFFFFFFF), unlisted("4294967295 bytes of extra data"), differs=NO_TABLE)
entry("date beyond 2106", put("date", 0xFFFFFFFF), [listing("date=4294967295")] + [whole(s) for s in FILL])
entry("nanoseconds beyond a second", put("nsec", 0xFFFFFFFF), rest())
entry("VM state of 2^64-1", lambda e: e.set_extra(0, (1 << 64) - 1), [listing("vmstate=18446744073709551615")] + [whole(s) for s in FILL])
entry("VM clock of 2^64-1", put("clock", (1 << 64) - 1), rest())


def disk(size):
    return lambda e: e.set_extra(8, size)


# QEMU reverts to none of these; `convert -l` does not look at the disk size, so it is not asked.
entry("disk size 2^62", disk(1 << 62), fails(1, "EFBIG", "snapshot 'b'"), qemu=False)
entry("disk size 2^64-1", disk((1 << 64) - 1), fails(1, "EUCLEAN|EFBIG|EINVAL", "snapshot 'b'.*disk size"), qemu=False)
entry("disk size that is no multiple of a sector", disk(1000001), fails(1, "EUCLEAN|EINVAL", "snapshot 'b'.*disk size"), qemu=False)
entry("disk size 0", disk(0), {"state": 1, "bytes": []}, qemu=False)
entry("disk size 512", disk(512), {"state": 1, "bytes": [[B, 512]]}, qemu=False)
entry("disk size 1 TiB with an L1 for 512 MiB", disk(1 << 40), [
    listing("disk=1099511627776"), whole(0), whole(2), whole(PRESENT),
    {"state": 1, "read": [0, MIB + C], "bytes": [[B, MIB], [0, C]]},
    {"state": 1, "read": [1 << 39, C], "bytes": [[0, C]]},
    {"state": 1, "read": [(1 << 40) - 512, C], "bytes": [[0, 512]]}], qemu=False)


def rewritten(what, ids_names, checks, **kw):
    """A new table with other ids and names for a, b and c."""
    def make(img, d):
        old = img.entries()
        img.set_table(b"".join(make_entry(e["l1_off"], e["l1_size"], i, n, MIB) for e, (i, n) in zip(old, ids_names)), 3)
    add("names: " + what, checks, make, **kw)


rewritten("65,535 bytes each", [(b"i" * 65535, b"n" * 65535)] * 3, rest(listing("snapshot 2 id=i{65535} name=n{65535}")), qemu=False)
rewritten("a NUL ends them", [(b"1", b"a\0hidden"), (b"2\0x", b"b"), (b"3", b"\0")], rest(listing("snapshot 0 id=1 name=a .*\n.*id=2 name=b .*\n.*id=3 name= ")))
rewritten("no id at all", [(b"", b"a"), (b"", b"b"), (b"", b"c")], rest(listing("snapshot 1 id= name=b ")), qemu=False)
rewritten("all the same", [(b"1", b"x")] * 3, rest(), qemu=False)
rewritten("slashes, dots, newlines, bad UTF-8", [(b"/", b"../.."), (b"\n", b"a\nb"), (b"\xff", b"\xc0\xaf")],
          rest(listing("name=../..")), qemu=False)

# ---------------------------------------------------------------- 20, 21: large tables


def table_of(length, **kw):
    """More bytes than that of one entry over and over."""
    def make(img, d):
        e = img.entries()[0]
        one = make_entry(e["l1_off"], e["l1_size"], b"1", **kw)
        img.set_table(one * (length // len(one) + 2), length // len(one) + 2)
    return make


add("a snapshot table of more than 64 MiB", unlisted("snapshot table is larger than 64 MiB"),
    table_of(64 * MIB, name=b"", extra=bytes(1024)), differs=NO_TABLE)
# What is listed is held in memory, and all listings together have a limit, of which this is more than one image's share.
add("a snapshot table of 8 MiB of names", unlisted("too large beside those of other images"),
    table_of(8 * MIB, name=b"n" * 65535, disk_size=MIB))


def large_l1s(img, d):
    hole = (img.length + C - 1) // C * C
    img.truncate(hole + 32 * MIB)
    img.set_table(b"".join(make_entry(hole, 4194304, b"%d" % n, b"", MIB, nsec=n) for n in range(65536)), 65536)


add("65,536 snapshots with an L1 of 32 MiB each", [listing("snapshot 65535 "), whole(PRESENT), zeros(0), zeros(65535)], large_l1s,
    qemu=False)


# ---------------------------------------------------------------- main

def main():
    global top
    top, glob = os.path.abspath(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "*"
    os.makedirs(top, exist_ok=True)
    fixtures["small"] = create(os.path.join(top, "small.qcow2"), MIB, cluster_size=512)
    listed = []
    for n, c in enumerate(cases):
        if not fnmatch.fnmatch(c["name"], glob):
            continue
        d = os.path.join(top, "%03d" % n)
        shutil.rmtree(d, ignore_errors=True)
        os.makedirs(d)
        path = trio(d, **c["options"])
        with Image(path) as img:
            c["make"](img, d)
        listed.append(dict(name=c["name"], path=path, allow=[os.path.join(d, a) for a in c["allow"]], qemu=c["qemu"],
                           differs=c["differs"], checks=c["checks"]))
    with open(os.path.join(top, "list.json"), "w") as f:
        json.dump(listed, f, indent=1)


if __name__ == "__main__":
    main()
