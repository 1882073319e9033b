# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""What more and more of something costs: goals 9, 12 and 13, and curves. Each function is a part of bench.py."""
import os
import re
import statistics
import subprocess
import time

from images import GIB, MIB, TIB
from serve import cp, cpu_of, dd, in_turn, memory_of, open_and_read, run, warm

HERE = os.path.dirname(os.path.abspath(__file__))
CACHES = 64 + 32  # MiB: tables and decompressed clusters (fs/view.c)


def middle(figures):
    return statistics.median(figures)


def opens(lab, image, *shown, options="lease=off"):
    """[ms, ...]: until the first byte of each of these files of a new mount is there."""
    stem = os.path.basename(image)[:-6]
    way = lab.snapfs([image], "%s/%s.disk.img" % (stem, shown[0]), options=options)
    took = [open_and_read("%s/%s/%s.disk.img" % (way.mount, stem, s)) for s in shown]
    way.close()
    return took


def large(lab, images, report, q):
    image = images.large(TIB, q(100, 10) * GIB, 1000)
    warm(image)
    took = [opens(lab, image, "s00500", "s00500", "s00501") for _ in range(lab.rounds)]
    for i, what in enumerate(("first", "second", "another snapshot's")):
        report.goal(9, "1 TiB, %d GiB mapped, 1,000 snapshots: %s open and first byte" % (q(100, 10), what), "< 5", middle([t[i] for t in took]), "ms")


def virtual_size(lab, images, report, q):
    sizes = [GIB, 64 * GIB, TIB] + q([16 * TIB], [])
    points = {"open and first byte": [], "cp --sparse=always": [], "memory": []}
    for size in sizes:
        image = images.large(size, 512 * MIB, 1)
        warm(image)
        points["open and first byte"].append(middle([opens(lab, image, "s")[0] for _ in range(lab.rounds)]))
        way = lab.snapshot(image)
        points["cp --sparse=always"].append(1000 * middle([cp(lab, way).wall for _ in range(lab.rounds)]))
        points["memory"].append(memory_of(way.pids[0]))
        way.close()
    for what, ys in points.items():
        report.curve(what, "virtual size in GiB", [s // GIB for s in sizes], ys, "MiB" if what == "memory" else "ms", "flat")


def rest(pid):
    """Until it is idle: where something was written just now it looks for some rounds more."""
    idle = 0
    for _ in range(10):
        before = cpu_of(pid)
        time.sleep(4)  # a look that took long is followed by a rest, and may be followed by another one
        idle = idle + 1 if cpu_of(pid) - before < 0.01 else 0
        if idle == 2:
            return


def snapshots(lab, images, report, q):
    """An image with more and more of them, each of which is its present content."""
    counts = [64, 1024, 65536]
    names, first, another, memory, idle = [], [], [], [], []
    for n in counts:
        image = images.get("many-%d.qcow2" % n, 0, lambda path, n=n: subprocess.run([HERE + "/many.py", path, str(n)], check=True))
        stem, at = os.path.basename(image)[:-6], "s%05d" % (n // 2)
        begun = time.monotonic()
        way = lab.snapfs([image], "%s/%s.disk.img" % (stem, at), options="lease=off,refresh=0.25")
        names.append(1000 * (time.monotonic() - begun))
        took = [open_and_read("%s/%s/s%05d.disk.img" % (way.mount, stem, n // 2 + i)) for i in range(lab.rounds + 1)]
        first.append(took[0])
        another.append(middle(took[1:]))
        memory.append(memory_of(way.pids[0], "VmRSS"))
        rest(way.pids[0])
        before = cpu_of(way.pids[0])
        time.sleep(q(20, 2))
        idle.append(1000 * (cpu_of(way.pids[0]) - before) / q(80, 8))
        if n == counts[-1]:
            run(["cat", "%s/%s/snapshots.json" % (way.mount, stem)], way)
            report.goal(12, "65,536 snapshots: most memory, snapshots.json read", "< 64", memory_of(way.pids[0]), "MiB")
        way.close()
    report.curve("mount to names", "snapshots in an image", counts, names, "ms", "linear")
    report.curve("memory", "snapshots in an image", counts, memory, "MiB", "linear")
    report.curve("first open and first byte", "snapshots in an image", counts, first, "ms", "flat")
    report.curve("open and first byte of another", "snapshots in an image", counts, another, "ms", "flat")
    report.goal(12, "65,536 snapshots: CPU of a refresh, beyond that of 64", "<= 1", idle[-1] - idle[0], "ms")
    report.goal(12, "65,536 snapshots: first open and first byte", "< 5", first[-1], "ms")
    report.goal(12, "65,536 snapshots: open and first byte of another", "< 5", another[-1], "ms")


def busy():
    with open("/proc/stat") as f:
        t = [int(x) for x in f.readline().split()[1:9]]
    return sum(t) - t[3] - t[4], sum(t)


def memory(lab, images, report, q):
    gib = q(100, 8)
    image = images.large(TIB, q(100, 10) * GIB, 1000)
    warm(image)
    way = lab.snapshot(image)
    r = run(["dd", "if=" + way.path, "of=/dev/null", "bs=512K", "count=%d" % (gib * 2048)], way)
    report.task("sequential, 512K, %d GiB of 1 TiB" % gib, "first pass", "warm", {"virt-snapfs": [r]}, gib * GIB)
    report.goal(13, "most memory after %d GiB were read (32 and the caches' %d)" % (gib, CACHES), "< %d" % (32 + CACHES), r.peak, "MiB")
    lab.close()

    raw, image = images.data(q(1024, 128))
    warm(raw, image)
    way = lab.snapshot(image)
    full = []

    def once(w):
        if w.name == "one":
            return dd(way)
        before = busy()
        r = run(["sh", "-c", "for i in 1 2 3 4; do dd if='%s' of=/dev/null bs=512K 2>/dev/null & done; wait" % way.path], way)
        full.append((busy()[0] - before[0]) / max(busy()[1] - before[1], 1))
        return r

    class Reader:
        def __init__(self, name):
            self.name = name

    got = in_turn(lab.rounds, [Reader("one"), Reader("four")], once)
    gain = middle([4 * a.wall / b.wall for a, b in zip(got["one"], got["four"])])
    report.goal(13, "four readers: bytes in the time of one (the CPUs are %d %% busy)" % (100 * middle(full)), ">= 1.8", gain, "x",
                met=gain >= 1.8 or middle(full) >= 0.95)


def domains(lab, images, report, q):
    """Goals 10 and 11 are scale.sh's figures, in libvirtds of its own."""
    del lab, images
    counts, lines = q([100, 1000], [10, 100]), []
    env = {k: v for k, v in os.environ.items() if k not in ("VS_NAMESPACE", "STATE_DIRECTORY")}
    for n in counts:
        out = subprocess.run(["bash", HERE + "/scale.sh", str(n), str(q(100, 10)), "internal", str(q(30, 5))], env=env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, text=True, check=True).stdout
        print("\n# scale.sh %d\n%s" % (n, out), flush=True)
        lines.append({k: [float(x) for x in re.findall(r"[\d.]+(?= (?:ms|MiB))", v)] for k, v in re.findall(r"^(\S.*?) {2,}(.*)$", out, re.M)})
    for key, unit, design in (("mount to names", "ms", "linear"), ("mount to all records", "ms", "linear"), ("find", "ms", "linear"),
                              ("memory", "MiB", "linear"), ("ls -l of one", "ms", "flat")):
        if all(line.get(key) for line in lines):
            report.curve(key, "domains", counts, [line[key][0] for line in lines], unit, design)
    key = "idle, %d s" % q(30, 5)
    report.data["scale"] = lines
    report.curve("idle CPU of %d s" % q(30, 5), "domains", counts, [line[key][0] for line in lines], "ms", "linear")
