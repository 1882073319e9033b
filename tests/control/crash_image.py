# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""The walk of crash.py over the commands on a plain image: crash_image.py MOUNTPOINT.

Each command is walked on an image of its own for every point; qemu-img, killed by nobody, does all or nothing.
"""
import errno
import json
import os
import re
import sys

from guests import MIB, WORK, Mount, Wrong, bytes_of, name_of, sh, until

# command, door, what a repetition may say if it had been complete, what the entries are then, and whose bytes the image has
CASES = [("create n", "ctl", errno.EEXIST, "abn", None), ("delete a", "ctl", errno.ENOENT, "b", None),
         ("revert a", "ctl", 0, "ab", "a"), ("1n match=*", "retain", 0, "b", None), ("hold a", "ctl", 0, "ab", None)]


def make(path):
    """Entries a and b. Returns what they read as, and the present content as None."""
    wanted = {}
    sh("qemu-img", "create", "-q", "-f", "qcow2", path, str(MIB))
    for i, name in enumerate("ab"):
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P %d %d 256k" % (i + 1, i * MIB // 4), path)
        sh("qemu-img", "snapshot", "-c", name, path)
        wanted[name] = bytes_of(path)
    sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 512k 256k", path)
    wanted[None] = bytes_of(path)
    return wanted


def entries(path):
    out = json.loads(sh("qemu-img", "info", "-U", "--output=json", path).stdout)
    return "".join(sorted(s["name"] for s in out.get("snapshots", [])))


def check(mount, path, wanted, after, content):
    """Entries are those before or after, and read right, in QEMU and in the mount; so does the image."""
    stem = os.path.basename(path)[:-6]
    now = entries(path)
    if now not in after:
        raise Wrong("the entries are '%s'" % now)
    for name in now:
        right = wanted.get(name, wanted[None])
        if bytes_of(path, snapshot=name) != right:
            raise Wrong("QEMU reads '%s' with other bytes" % name)

        def read():
            try:
                with open("%s/%s/%s.disk.img" % (mount.point, stem, name), "rb") as f:
                    data = f.read()
            except OSError as e:
                return name_of(e.errno)
            if data != right:
                raise Wrong("'%s' HAS OTHER BYTES" % name)
            return None
        until("'%s'" % name, read)
    if bytes_of(path) not in [wanted[c] for c in content]:
        raise Wrong("the image has other bytes")
    sh("qemu-img", "check", "-q", path)


def step(point, case, n):
    """Where it died; None: the command ended before."""
    command, door, complete, after, content = case
    stem = "%s%d" % (re.sub(r"\W", "", command), n)
    path = os.path.join(WORK, "i", stem + ".qcow2")
    wanted = make(path)
    mount = Mount(point, [path])
    mount.up()
    try:
        mount.arm(n)
        number = mount.write(stem, command, door)
        left, where = mount.disarm()
        if left and number:
            raise Wrong("it ended with %s" % name_of(number))
        if not left:
            mount.after_death()
            mount.up()
            check(mount, path, wanted, ("ab", after), {None, content})
            number = mount.write(stem, command, door)
            if number not in (0, complete):
                raise Wrong("repeated: %s" % mount.outcome(stem))
        check(mount, path, wanted, (after,), {content})
        made = {s["name"]: s for s in json.loads(mount.text(stem, "snapshots.json"))["snapshots"]}
        if "n" in after and not made["n"]["ours"]:
            raise Wrong("'n' does not count as taken here")
        if command == "hold a" and not made["a"]["held"]:
            raise Wrong("'a' is not held")
        if door == "retain" and mount.text(stem, "retain").strip() != "1 match=*":
            raise Wrong("the policy is '%s'" % mount.text(stem, "retain").strip())
        return None if left else where
    finally:
        if mount.process.poll() is None:
            mount.down()
        os.unlink(path)


def main():
    os.makedirs(os.path.join(WORK, "i"))
    for case in CASES:
        n = 1
        while True:
            name = "an image: %s: point %d" % (case[0], n)
            try:
                where = step(sys.argv[1], case, n)
            except (Wrong, OSError) as e:
                print("FAIL %s: %s" % (name, e), flush=True)
                break
            if not where:
                break
            print("ok %s (%s)" % (name, where), flush=True)
            n += 1
        if n == 1:
            print("FAIL an image: %s: it has no fault points" % case[0], flush=True)
        print("# an image: %s: %d fault points walked" % (case[0], n - 1), flush=True)


main()
