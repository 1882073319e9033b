# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Who serves a file, who reads it, and what that takes.

A *way* is one contender: a name, the file that it shows (or none, where the reader speaks to it otherwise), and the processes behind it. A *run* is one
reader from its start to its end: wall time, CPU seconds of the reader and of all who serve it, and the most memory that those have had meanwhile.
"""
import collections
import json
import os
import shutil
import statistics
import subprocess
import time

MIB = 1 << 20

Run = collections.namedtuple("Run", "wall cpu peak")


def cpu_of(pid):
    """Seconds, to the microsecond: the process's CPU clock, as clock_getcpuclockid(3) makes its number."""
    return time.clock_gettime(~pid << 3 | 2)


def memory_of(pid, what="VmHWM"):
    """MiB."""
    with open("/proc/%d/status" % pid) as f:
        return next((int(line.split()[1]) / 1024 for line in f if line.startswith(what + ":")), 0.0)


def forget_peak(pid):
    with open("/proc/%d/clear_refs" % pid, "w") as f:
        f.write("5")


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise RuntimeError("nothing after %d s" % seconds)
        time.sleep(0.01)


class Way:
    def __init__(self, name, path=None, servers=(), mount=None, argv=None):
        self.name, self.path, self.servers, self.mount, self.argv = name, path, list(servers), mount, argv
        self.pids = [s.pid for s in self.servers]

    def close(self):
        if self.mount:
            subprocess.run(["fusermount3", "-u", self.mount], check=False, stderr=subprocess.DEVNULL)
        for s in reversed(self.servers):
            try:
                s.wait(5 if self.mount else 0.1)
            except subprocess.TimeoutExpired:
                s.terminate()
                s.wait()
        self.servers, self.mount = [], None


class Lab:
    """Starts what serves, and ends it. @work: a directory of its own."""

    def __init__(self, work, snapfs, rounds):
        self.work, self.program, self.rounds, self.ways, self.n = work, snapfs, rounds, [], 0
        self.missing = set()
        self.copy = None  # where `cp` copies to: a tmpfs

    def has(self, *tools):
        gone = [t for t in tools if not shutil.which(t)]
        self.missing.update(gone)
        return not gone

    def place(self, kind, make=os.mkdir):
        self.n += 1
        path = os.path.join(self.work, "%s%d" % (kind, self.n))
        make(path)
        return path

    def start(self, *argv, **more):
        log = open(os.path.join(self.work, "log"), "ab")
        return subprocess.Popen(argv, stdin=more.get("stdin", subprocess.DEVNULL), stdout=log, stderr=log)

    def add(self, way):
        self.ways.append(way)
        return way

    def close(self):
        while self.ways:
            self.ways.pop().close()

    def raw(self, path):
        return self.add(Way("raw file", path))

    def snapfs(self, sources, shown, name="virt-snapfs", options="lease=off"):
        """@shown: the file below the mount, which the way shows; the mount is way.mount."""
        mount = self.place("m")
        way = Way(name, os.path.join(mount, shown), [self.start(self.program, "-f", "-o", options, *sources, mount)], mount)
        self.add(way)
        wait_for(lambda: os.path.ismount(mount) or way.servers[0].poll() is not None)
        if not os.path.ismount(mount):
            raise RuntimeError("virt-snapfs %s does not mount" % sources)
        wait_for(lambda: os.path.exists(way.path))
        return way

    def snapshot(self, image, name="virt-snapfs", options="lease=off"):
        return self.snapfs([image], os.path.basename(image)[:-6] + "/s.disk.img", name, options)

    def qsd(self, image):
        """QEMU's own FUSE export. It knows no internal snapshots: of these images the present content is the same."""
        if not self.has("qemu-storage-daemon"):
            return None
        path = self.place("qsd", lambda p: open(p, "w").close())
        server = self.start("qemu-storage-daemon", "--blockdev", "driver=file,node-name=f,filename=%s,read-only=on" % image, "--blockdev",
                            "driver=qcow2,node-name=q,file=f,read-only=on", "--export", "type=fuse,id=e,node-name=q,mountpoint=%s,writable=off" % path)
        way = self.add(Way("QEMU's FUSE export", path, [server], path))
        wait_for(lambda: os.path.getsize(path))
        return way

    def nbd(self, image):
        socket = os.path.join(self.work, "nbd%d" % len(self.ways))
        server = self.start("qemu-nbd", "-r", "-t", "-e", "16", "-f", "qcow2", "-l", "s", "-k", socket, image)
        wait_for(lambda: os.path.exists(socket))
        return server, "nbd+unix:///?socket=" + socket

    def nbdcopy(self, image):
        if not self.has("qemu-nbd", "nbdcopy"):
            return None
        server, uri = self.nbd(image)
        return self.add(Way("qemu-nbd + nbdcopy", None, [server], argv=["nbdcopy", uri, "null:"]))

    def nbdfuse(self, image):
        if not self.has("qemu-nbd", "nbdfuse"):
            return None
        server, uri = self.nbd(image)
        mount = self.place("m")
        way = self.add(Way("qemu-nbd + nbdfuse", mount + "/disk", [server, self.start("nbdfuse", "-r", mount + "/disk", uri)], mount))
        wait_for(lambda: os.path.exists(way.path))
        return way

    def convert(self, image, size):
        """qemu-img with the flags that were fastest: requests out of order, as many as it takes, and nothing is written."""
        return self.add(Way("qemu-img convert", argv=["qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "qcow2", "-l", "snapshot.name=s", image,
                                                      "--target-image-opts", "driver=null-co,size=%d" % size]))

    def others(self, image, size):
        return [w for w in (self.convert(image, size), self.nbdcopy(image), self.nbdfuse(image), self.qsd(image)) if w]


# ---------------------------------------------------------------- what is measured

def run(argv, way=None):
    pids = way.pids if way else []
    for p in pids:
        forget_peak(p)
    served, begun = sum(map(cpu_of, pids)), time.monotonic()
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    wall = time.monotonic() - begun
    child.returncode = status
    if status:
        raise RuntimeError("%s: %s" % (" ".join(argv), said.decode(errors="replace").strip()))
    cpu = used.ru_utime + used.ru_stime + sum(map(cpu_of, pids)) - served
    return Run(wall, cpu, sum(map(memory_of, pids)) if pids else used.ru_maxrss / 1024 if way and way.argv else 0)


def dd(way):
    """From one end to the other."""
    return run(way.argv or ["dd", "if=" + way.path, "of=/dev/null", "bs=512K"], way)


def cp(lab, way):
    if os.path.exists(lab.copy):
        os.unlink(lab.copy)
    return run(["cp", "--sparse=always", way.path, lab.copy], way)


def fio(way, queue, seconds=2.0, **more):
    """4K at random, by so many threads: a run whose wall time is that of one read of the whole queue, and the latency that 99 % keep to, in ms."""
    argv = ["fio", "--name=r", "--filename=" + way.path, "--readonly", "--rw=randread", "--bs=4k", "--ioengine=psync", "--thread", "--invalidate=0",
            "--numjobs=%d" % queue, "--group_reporting", "--time_based", "--runtime=%gms" % (1000 * seconds), "--output-format=json", "--fallocate=none"]
    argv += ["--%s=%s" % o for o in more.items()]
    served = sum(map(cpu_of, way.pids))
    p = subprocess.run(argv, check=True, capture_output=True)
    job = json.loads(p.stdout[p.stdout.index(b"{"):])["jobs"][0]
    r, n = job["read"], max(job["read"]["total_ios"], 1)
    mine = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    return Run(1 / max(r["iops"], 1e-9), (mine + sum(map(cpu_of, way.pids)) - served) / n, sum(map(memory_of, way.pids))), \
        r["clat_ns"]["percentile"]["99.000000"] / 1e6


def in_turn(rounds, ways, once):
    """{name: [run, ...]}: each once a round, and not always in one order."""
    got = {w.name: [] for w in ways}
    for i in range(rounds):
        for w in ways[i % len(ways):] + ways[:i % len(ways)]:
            got[w.name].append(once(w))
    return got


def median(runs, what="wall"):
    return statistics.median(getattr(r, what) for r in runs)


def ratio(a, b, what="wall"):
    """a / b, the median over the rounds."""
    return statistics.median(getattr(x, what) / max(getattr(y, what), 1e-9) for x, y in zip(a, b))


def open_and_read(path):
    """ms until a file is open and its first byte there."""
    begun = time.monotonic()
    f = os.open(path, os.O_RDONLY)
    os.pread(f, 1, 0)
    took = time.monotonic() - begun
    os.close(f)
    return 1000 * took


# ---------------------------------------------------------------- the page cache

def cool(*paths):
    """Out of the page cache. The host below a virtual machine may have it still."""
    for path in paths:
        f = os.open(path, os.O_RDONLY)
        os.fsync(f)
        os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(f)


def warm(*paths):
    """Into it, in the large pieces that a reader makes: what was written in small ones lies there so, and is read at half the speed."""
    cool(*paths)
    for path in paths:
        subprocess.run(["dd", "if=" + path, "of=/dev/null", "bs=1M"], check=True, stderr=subprocess.DEVNULL)
