# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""How fast bytes are read: goals 1 to 8 and 14. Each function is a part of bench.py."""
import os
import shutil
import subprocess
import threading
import time

from images import MIB
from now import beside_nbdcopy
from serve import Way, cool, cp, dd, fio, in_turn, median, ratio, run, warm

OFF, ON = "virt-snapfs", "virt-snapfs (lease=on)"
FUSE, NBDFUSE, CONVERT = "QEMU's FUSE export", "qemu-nbd + nbdfuse", "qemu-img convert"


def beside(report, number, what, want, got, other, ours=OFF):
    """A goal: so many times as fast as another contender, which may be missing."""
    report.goal(number, what, want, ratio(got[other], got[ours]) if other in got else None, "x")


def virsh(lab, *argv):
    subprocess.run(["virsh", "-q", "-c", lab.uri, *argv], check=True, stdout=subprocess.DEVNULL)


def define(lab, name, image):
    kind, xml = image.rsplit(".", 1)[1], os.path.join(lab.work, name + ".xml")
    with open(xml, "w") as f:
        f.write("<domain type='qemu'><name>%s</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>"
                "<emulator>/usr/bin/qemu-system-x86_64</emulator><disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/>"
                "<target dev='vda' bus='virtio'/></disk></devices></domain>" % (name, kind, image))
    virsh(lab, "define", xml)


def external(lab, name, image):
    """A domain that is shut off, of which an external snapshot has frozen @image."""
    define(lab, name, image)
    virsh(lab, "snapshot-create-as", name, "s", "--disk-only", "--diskspec", "vda,file=%s/%s.s.qcow2" % (lab.work, name))
    return lab.snapfs([lab.uri], name + "/s.vda.img", OFF)


def sequential(lab, images, report, q):
    size = q(1024, 128)
    raw, image = images.data(size)
    warm(raw, image)
    ways = [lab.raw(raw), lab.snapshot(image), lab.snapshot(image, ON, "lease=on"), *lab.others(image, size * MIB)]
    if lab.uri:
        ways.append(external(lab, "frozen", image))
        ways[-1].name = "virt-snapfs (external)"
    for w in ways:
        if w.path and subprocess.run(["cmp", "-s", raw, w.path], check=False).returncode:
            raise RuntimeError("%s: other bytes than %s" % (w.name, raw))
    got = in_turn(lab.rounds, ways, dd)
    report.task("sequential, 512K", "re-read", "warm", got, size * MIB)
    for ours, what in (("virt-snapfs (external)", "external snapshot, locked"), (ON, "internal, lease=on"), (OFF, "internal, lease=off")):
        if ours in got:
            beside(report, 1, "sequential, %s: of the raw file's speed" % what, ">= 0.65", got, "raw file", ours)
            report.goal(1, "sequential, %s: CPU beside the raw file's" % what, "<= 1.6", ratio(got[ours], got["raw file"], "cpu"), "x")
            beside(report, 1, "sequential, %s: %s" % (what, FUSE), ">= 6", got, FUSE, ours)
            beside(report, 1, "sequential, %s: nbdfuse" % what, ">= 8", got, NBDFUSE, ours)


class Writer:
    """QEMU's block layer, that has an image open and writes 64 KiB into its first 64 MiB a hundred times a second."""

    def __init__(self, lab, image):
        self.server = lab.start("qemu-io", "-f", "qcow2", image, stdin=subprocess.PIPE)
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def write(self):
        n = 0
        while not self.ends.wait(0.01):
            self.server.stdin.write(b"write -q -P %d %dk 64k\n" % (1 + n % 255, 64 * (n * 37 % 1024)))
            self.server.stdin.flush()
            n += 1

    def close(self):
        self.ends.set()
        self.thread.join()
        self.server.stdin.close()
        self.server.wait()


def written(lab, images, report, q):
    size = q(1024, 128)
    raw, image = images.data(size)
    live = os.path.join(lab.work, "live.qcow2")
    shutil.copyfile(image, live)
    writer = Writer(lab, live)
    try:
        time.sleep(1)
        warm(raw, live)
        got = in_turn(lab.rounds, [lab.raw(raw), lab.snapshot(live)], dd)
    finally:
        writer.close()
        lab.close()
        os.unlink(live)
    report.task("sequential, 512K, while QEMU writes", "re-read", "warm", got, size * MIB)
    beside(report, 2, "sequential, image being written: of the raw file's speed", ">= 0.5", got, "raw file")


def frozen_raw(lab, images, report, q):
    if not lab.uri:
        return report.goal(3, "external, frozen image is raw: of the raw file's speed", ">= 0.95", None)
    size = q(1024, 128)
    raw, _ = images.data(size)
    warm(raw)
    got = in_turn(lab.rounds, [lab.raw(raw), external(lab, "raw", raw)], dd)
    report.task("sequential, 512K, a raw image", "re-read", "warm", got, size * MIB)
    return beside(report, 3, "external, frozen image is raw: of the raw file's speed", ">= 0.95", got, "raw file")


def now(lab, images, report, q):
    """What a running guest has at this instant, beside nbdcopy from the very same export."""
    if not lab.uri or not lab.has("nbdcopy"):
        return
    size = q(512, 128)
    raw, _ = images.data(size)
    own = os.path.join(lab.work, "now.raw")
    shutil.copyfile(raw, own)
    warm(own)
    define(lab, "now", own)
    virsh(lab, "start", "now", "--paused")
    try:
        way = lab.snapfs([lab.uri], "now/now/vda.img")
        report.task("now/ of a guest, 512K", "re-read", "warm", beside_nbdcopy(lab.uri, way.path, "now", "vda", lab.rounds), size * MIB)
    finally:
        lab.close()
        virsh(lab, "destroy", "now")
        os.unlink(own)


def copied(lab, images, report, q):
    size, of = q((8192, 2560), (1024, 320))
    raw, image = images.sparse(size, of)
    warm(raw, image)
    got = in_turn(lab.rounds, [lab.raw(raw), lab.snapshot(image), lab.snapshot(image, ON, "lease=on")], lambda w: cp(lab, w))
    os.unlink(lab.copy)
    report.task("cp --sparse=always of %d MiB of %d" % (of, size), "re-read", "warm", got, of * MIB)
    for ours in (OFF, ON):
        report.goal(4, "cp --sparse=always to a tmpfs, %s: time beside the raw file's" % ("lease=on" if ours is ON else "lease=off"), "<= 1.35",
                    ratio(got[ours], got["raw file"]), "x")


def compressed(lab, images, report, q):
    size = q(512, 64)
    for how, want in (("deflate", ">= 2.5"), ("zstd", ">= 1.3")):
        raw, image = images.text(size, how)
        warm(raw, image)
        again = []

        def once(w, image=image, again=again):
            """Ours from a new mount each time, which knows nothing yet."""
            if w.name != OFF:
                return dd(w)
            way = lab.snapshot(image)
            first = dd(way)
            again.append(dd(way))
            way.close()
            return first

        got = in_turn(lab.rounds, [lab.raw(raw), Way(OFF, image), *lab.others(image, size * MIB)], once)
        report.task("sequential, 512K, %s" % how, "first pass", "warm", got, size * MIB)
        report.task("sequential, 512K, %s" % how, "re-read", "warm", {"raw file": got["raw file"], OFF: again}, size * MIB)
        beside(report, 5, "%s, first pass: %s -W -m 16" % (how, CONVERT), want, got, CONVERT)
        lab.close()
    size = q(4096, 512)
    raw, image = images.holes(size)
    warm(raw, image)
    got = in_turn(lab.rounds, [lab.raw(raw), lab.snapshot(image)], dd)
    report.task("sequential, 512K, holes", "re-read", "warm", got, size * MIB)
    beside(report, 5, "through holes: of the speed through the raw file's", ">= 0.5", got, "raw file")


def at_random(lab, images, report, q):
    raw, image = images.data(q(1024, 128))
    warm(raw, image)
    ways = [w for w in (lab.raw(raw), lab.snapshot(image), lab.qsd(image), lab.nbdfuse(image)) if w]
    for queue, want in ((1, ">= 2.2"), (16, ">= 2.4")):
        got = in_turn(lab.rounds, ways, lambda w, queue=queue: fio(w, queue, q(1.5, 0.25))[0])
        report.task("4K at random, queue %d" % queue, "re-read", "warm", got, 4096)
        beside(report, 6, "4K at random, queue %d: %s" % (queue, FUSE), want, got, FUSE)
    lab.close()
    raw, image = images.text(q(512, 64), "deflate")
    warm(raw, image)
    nbdfuse = lab.nbdfuse(image)
    again = []

    def once(w):
        if w.name != OFF:
            return fio(w, 1, q(2, 0.25))[0]
        way = lab.snapshot(image)
        first = fio(way, 1, q(2, 0.25))[0]
        dd(way)
        again.append(fio(way, 1, q(2, 0.25))[0])
        way.close()
        return first

    got = in_turn(lab.rounds, [Way(OFF, image)] + ([nbdfuse] if nbdfuse else []), once)
    report.task("4K at random, deflate", "first pass", "warm", got, 4096)
    beside(report, 6, "4K at random, deflate, from the mount: nbdfuse", ">= 10", got, NBDFUSE)
    got[OFF] = again
    report.task("4K at random, deflate", "re-read", "warm", got, 4096)
    beside(report, 6, "4K at random, deflate, re-read: nbdfuse", ">= 10", got, NBDFUSE)


def chains(lab, images, report, q):
    size, depths = q((1024, [1, 64, 200]), (128, [1, 64]))
    layers = [images.chain(d, size) for d in depths]
    ways = [Way("chain of %d" % d, chain[-1]) for d, chain in zip(depths, layers)]
    passes = {}
    for chain in layers:
        warm(*chain)

    def once(w):
        way = lab.snapshot(w.path)
        kept = passes.setdefault(w.name, [])
        kept.append((dd(way), fio(way, 1, q(1, 0.25))[0], dd(way), fio(way, 1, q(1, 0.25))[0]))
        way.close()
        return kept[-1][0]

    in_turn(lab.rounds, ways, once)
    for i, (what, passing) in enumerate((("sequential, 512K", "first pass"), ("4K at random", "first pass"), ("sequential, 512K", "re-read"),
                                         ("4K at random", "re-read"))):
        got = {name: [p[i] for p in kept] for name, kept in passes.items()}
        report.task("chains: " + what, passing, "warm", got, 4096 if i % 2 else size * MIB)
        for d in depths[1:] if passing == "re-read" else ():
            report.goal(7, "chain of %d, %s, after the first pass: time beside one of 1" % (d, what), "<= 1.3" if i % 2 else "<= 1.1",
                        ratio(got["chain of %d" % d], got["chain of 1"]), "x")
        report.curve("%s, %s" % (what, passing), "layers", depths, [1000 * median(got["chain of %d" % d]) for d in depths], "ms", "flat")
    if lab.uri:
        ways = [external(lab, "chain%d" % d, chain[-1]) for d, chain in zip(depths, layers) if d <= 64]
        for w, d in zip(ways, depths):
            w.name = "chain of %d" % d
            dd(w)
        got = in_turn(lab.rounds, ways, dd)
        report.task("chains, external: sequential, 512K", "re-read", "warm", got, size * MIB)
        report.goal(7, "chain of 64, external, sequential, 512K: time beside one of 1", "<= 1.1", ratio(got["chain of 64"], got["chain of 1"]), "x")
        report.goal(7, "chain of 64, external, sequential, 512K: CPU beside one of 1", "<= 1.1", ratio(got["chain of 64"], got["chain of 1"], "cpu"), "x")


def cold(lab, images, report, q):
    size = q(512, 64)
    raw, image = images.scattered(size)

    def once(w):
        cool(raw, image)
        if w.name != OFF:
            return dd(w)
        way = lab.snapshot(image)
        cool(image)
        first = dd(way)
        way.close()
        return first

    got = in_turn(lab.rounds, [lab.raw(raw), Way(OFF, image), *lab.others(image, size * MIB)], once)
    report.task("sequential, 512K, scattered clusters", "first pass", "cold", got, size * MIB)
    beside(report, 8, "scattered clusters, page cache cold: of the raw file's speed", ">= 0.95", got, "raw file")


def latency(lab, images, report, q):
    """One reads 4K at random; four stream, and snapshots come and go in another image of the mount, so that what is shown is made anew all the time."""
    raw, image = images.data(q(1024, 128))
    warm(raw, image)
    turn = os.path.join(lab.work, "turn.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", turn, "1G"], check=True)
    mounted = lab.snapfs([image, turn], os.path.basename(image)[:-6] + "/s.disk.img", OFF, "lease=off,refresh=0.1")
    ends, seen = threading.Event(), []

    def change():
        while not ends.wait(0.15):
            subprocess.run(["qemu-img", "snapshot", "-c", "t", turn], check=True)
            ends.wait(0.15)
            seen.append(os.path.exists(os.path.join(mounted.mount, "turn", "t.disk.img")))
            subprocess.run(["qemu-img", "snapshot", "-d", "t", turn], check=True)

    def stream(path):
        while not ends.is_set():
            run(["dd", "if=" + path, "of=/dev/null", "bs=512K"])

    got = {}
    for w in (lab.raw(raw), mounted):
        ends.clear()
        threads = [threading.Thread(target=change)] + [threading.Thread(target=stream, args=(w.path,)) for _ in range(4)]
        for t in threads:
            t.start()
        time.sleep(0.5)
        got[w.name] = sorted(fio(w, 1, q(3, 0.4))[1] for _ in range(lab.rounds))[lab.rounds // 2]
        ends.set()
        for t in threads:
            t.join()
    report.goal(14, "4K while four stream and what is shown changes: p99 (raw file: %.2g ms)" % got["raw file"], "< 5", got[OFF], "ms")
    print("# %d of %d changes were seen" % (sum(seen), len(seen)))
