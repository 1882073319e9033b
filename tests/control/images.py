# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Ways to make an image unreadable for a while, and other paths to it; for the suites unknown, files and records.

WAYS: (what, context manager of a path, what the refusal must say). PATHS: (what, context manager of a path that gives another name).
"""
import contextlib
import os
import re
import shutil
import struct
import time

from guests import WORK, Wrong, sh
from witness import LOOK, differences, picture

NO = "EPERM|EOPNOTSUPP"
ELSEWHERE = os.path.join(WORK, "elsewhere")
SERIAL = [0]


def new_directory():
    """One that libvirt has never named."""
    SERIAL[0] += 1
    path = os.path.join(ELSEWHERE, str(SERIAL[0]))
    os.makedirs(path)
    return path


# ---------------------------------------------------------------- images that cannot be read

@contextlib.contextmanager
def moved(path):
    """Where nobody looks."""
    away = os.path.join(new_directory(), os.path.basename(path))
    os.rename(path, away)
    try:
        yield
    finally:
        os.rename(away, path)


@contextlib.contextmanager
def renamed(path):
    """Beside where it was."""
    os.rename(path, path + ".away")
    try:
        yield
    finally:
        if os.path.exists(path + ".away"):
            os.rename(path + ".away", path)


def put(path, off, data):
    """A few bytes, and what was there; as if it had never been opened."""
    s = os.stat(path)
    with open(path, "r+b") as f:
        f.seek(off)
        old = f.read(len(data))
        f.seek(off)
        f.write(data)
    os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns))
    return old


@contextlib.contextmanager
def written(path, off, data):
    old = put(path, off, data)
    try:
        yield
    finally:
        put(path, off, old)


def feature(path):
    """An incompatible feature that nobody knows."""
    return written(path, 72, struct.pack(">Q", 1 << 40))


def magic(path):
    return written(path, 0, b"NOPE")


def wild_name(path):
    """The name of its backing file lies beyond the header."""
    return written(path, 8, struct.pack(">QI", 1 << 40, 30))


@contextlib.contextmanager
def cut(path):
    keep = os.path.join(new_directory(), os.path.basename(path))
    shutil.copyfile(path, keep)
    s = os.stat(path)
    os.truncate(path, 60)
    try:
        yield
    finally:
        with open(keep, "rb") as f, open(path, "r+b") as g:  # the same inode: it is the same file
            shutil.copyfileobj(f, g)
        os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns))
        os.unlink(keep)


@contextlib.contextmanager
def swapped(path):
    """Another file has its name: a directory, which is no image at all."""
    with moved(path):
        os.mkdir(path)
        try:
            yield
        finally:
            os.rmdir(path)


WAYS = [("moved away", moved, "missing"), ("renamed", renamed, "missing"), ("with an unknown feature", feature, "feature"),
        ("cut short", cut, "."), ("without its magic", magic, "."), ("with a backing name that lies nowhere", wild_name, "."),
        ("with a directory in its place", swapped, ".")]


# ---------------------------------------------------------------- other paths to the same file

@contextlib.contextmanager
def by_bind(path):
    bound = new_directory()
    sh("mount", "--bind", os.path.dirname(path), bound)
    try:
        yield os.path.join(bound, os.path.basename(path))
    finally:
        sh("umount", "-l", bound)


@contextlib.contextmanager
def by_file(path):
    yield "file:" + path


@contextlib.contextmanager
def by_json(path):
    yield 'json:{"file":{"driver":"file","filename":"%s","locking":"off","aio":"threads"}}' % path


@contextlib.contextmanager
def by_dots(path):
    yield os.path.join(os.path.dirname(path), "..", os.path.basename(os.path.dirname(path)), ".", os.path.basename(path))


@contextlib.contextmanager
def by_symlink(path):
    link = os.path.join(WORK, "g", "link")
    os.symlink(os.path.dirname(path), link)
    try:
        yield os.path.join(link, os.path.basename(path))
    finally:
        os.unlink(link)


@contextlib.contextmanager
def by_hard_link(path):
    other = os.path.join(os.path.dirname(path), "hard.link")
    os.link(path, other)
    try:
        yield other
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(other)


def outside(path, make):
    """@make(name) makes something that leads to it, in a directory that libvirt does not name."""
    other = os.path.join(new_directory(), "other")
    make(other)
    return other


@contextlib.contextmanager
def by_hard_link_outside(path):
    other = outside(path, lambda name: os.link(path, name))
    try:
        yield other
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(other)


@contextlib.contextmanager
def by_image_outside(path):
    """Not itself, but an overlay on it."""
    other = outside(path, lambda name: sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", name))
    try:
        yield other
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(other)


@contextlib.contextmanager
def by_path(path):
    yield path


def rebase(path, name, fmt="qcow2"):
    sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", fmt, "-b", name, path)


PATHS = [("through a bind mount", by_bind), ("as file:", by_file), ("as json: with options", by_json), ("with ..", by_dots),
         ("through a symbolic link", by_symlink), ("by a hard link", by_hard_link),
         ("by a hard link elsewhere", by_hard_link_outside), ("through an image elsewhere", by_image_outside)]


# ---------------------------------------------------------------- retention

def nothing_but(lab, g, before, allowed, what):
    """Of what has changed since @before, all must match @allowed."""
    changed = [d for d in differences(before, picture(*lab.guests)) if not re.search(allowed, d)]
    if changed:
        raise Wrong("%s has changed %s" % (what, "; ".join(changed)[:700]))


def retention_keeps(lab, g, path):
    """A policy that would drop 'a' keeps it, says why, and says it once."""
    policy = r"^(XML of |/etc/libvirt/qemu/)[^:]*: .*policy="
    before = picture(*lab.guests)
    lab.write(g, "1 match=*", "retain")
    said = lab.said(g)
    if os.path.basename(path) not in said and "mounted" not in said:
        raise Wrong("retain says '%s', which does not name '%s'" % (said, path))
    nothing_but(lab, g, before, policy, "the policy")
    time.sleep(2 * LOOK)
    nothing_but(lab, g, before, policy, "retention")
    spoken = [l for l in lab.text(g, "log").splitlines() if os.path.basename(path) in l and "stays" in l and "retain" in l]
    if len(spoken) > 2:
        raise Wrong("retention has said %d times that it keeps something: %s" % (len(spoken), spoken[-1]))
    lab.write(g, "off", "retain")
