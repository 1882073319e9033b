# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""The images that are read: made once, kept in a directory, and made again where one is not as it was left.

Each has the snapshot `s`, which is its present content as well. Beside each file NAME is NAME.is: its size and time when it was done.
"""
import os
import random
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "images"))
from q2img import C63, make_entry  # noqa: E402

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
CLUSTER = 65536
SPAN = CLUSTER // 8 * CLUSTER  # what one L2 table maps


def img(*argv):
    subprocess.run(["qemu-img", *argv], check=True, stdout=subprocess.DEVNULL)


def write_in_order(path, writes):
    """qemu-io, a few thousand writes (at KiB, byte) of 64 KiB at a time."""
    for at in range(0, len(writes), 2000):
        argv = [a for off, byte in writes[at:at + 2000] for a in ("-c", "write -q -P %d %dk 64k" % (byte, off))]
        subprocess.run(["qemu-io", "-f", "qcow2", *argv, path], check=True, stdout=subprocess.DEVNULL)


def by_hand(path, size, mapped, snapshots, data=64 * MIB):
    """An image for readers alone: @mapped bytes of its @size lie in one stretch of @data bytes, over and over, so that a map of any length
    takes its tables and nothing else. Each snapshot has an L1 table of its own, as QEMU makes them."""
    n_l1, n_l2 = (size + SPAN - 1) // SPAN, mapped // SPAN
    l1_len = (n_l1 * 8 + CLUSTER - 1) // CLUSTER * CLUSTER
    l2_off = 3 * CLUSTER + (snapshots + 1) * l1_len
    table_off = l2_off + n_l2 * CLUSTER
    entries = b"".join(make_entry(3 * CLUSTER + (k + 1) * l1_len, n_l1, b"%d" % (k + 1), b"s%05d" % k if k else b"s", disk_size=size, date=1700000000 + k)
                       for k in range(snapshots))
    data_off = table_off + (len(entries) + CLUSTER - 1) // CLUSTER * CLUSTER
    head = struct.pack(">IIQIIQIIQQIIQQQQII", 0x514649FB, 3, 0, 0, 16, size, 0, n_l1, 3 * CLUSTER, CLUSTER, 1, snapshots, table_off, 0, 0, 0, 4, 104)
    l1 = struct.pack(">%dQ" % n_l2, *(l2_off + i * CLUSTER | C63 for i in range(n_l2))).ljust(l1_len, b"\0")
    with open(path, "wb") as f:
        f.write(head)
        f.seek(CLUSTER)
        f.write(struct.pack(">Q", 2 * CLUSTER).ljust(CLUSTER, b"\0") + struct.pack(">H", 1) * (CLUSTER // 2))
        f.write(l1 * (snapshots + 1))
        for i in range(n_l2):
            f.write(struct.pack(">%dQ" % (CLUSTER // 8), *(data_off + (i * SPAN + k * CLUSTER) % data | C63 for k in range(CLUSTER // 8))))
        f.write(entries)
        f.seek(data_off)
        f.write(os.urandom(data))


class Images:
    def __init__(self, top):
        self.top = top
        os.makedirs(top, exist_ok=True)

    def get(self, name, needs, make, say=True):
        """The path of @name, made by @make(path) if it is not there as it was. @needs: bytes that it takes."""
        path = os.path.join(self.top, name)
        try:
            st = os.stat(path)
            with open(path + ".is") as f:
                if f.read() == "%d %d\n" % (st.st_size, st.st_mtime_ns):
                    return path
        except OSError:
            pass
        room = os.statvfs(self.top)
        if room.f_bavail * room.f_frsize < needs + GIB:
            raise RuntimeError("%s: there is no room for %d MiB" % (self.top, needs // MIB))
        if os.path.exists(path):
            os.unlink(path)
        if say:
            print("# making %s" % name, flush=True)
        child = os.fork()  # what this process has had of memory counts for those that it starts
        if not child:
            try:
                make(path)
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("%s could not be made" % path)
        st = os.stat(path)
        with open(path + ".is", "w") as f:
            f.write("%d %d\n" % (st.st_size, st.st_mtime_ns))
        return path

    def convert(self, raw, name, *options):
        def make(path):
            img("convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
            img("snapshot", "-c", "s", path)

        return self.get(name, os.stat(raw).st_blocks * 512, make)

    # ------------------------------------------------------------ a raw file, and the same as qcow2

    def data(self, mib):
        """Nothing in it is like anything else."""
        def make(path):
            subprocess.run(["dd", "if=/dev/urandom", "of=" + path, "bs=4M", "count=%d" % (mib // 4), "iflag=fullblock"], check=True, stderr=subprocess.DEVNULL)

        raw = self.get("data-%d.raw" % mib, mib * MIB, make)
        return raw, self.convert(raw, "data-%d.qcow2" % mib)

    def text(self, mib, how):
        """Words, which deflate brings to some 40 %; compressed by deflate or zstd."""
        def make(path):
            rng = random.Random(1)
            words = [bytes(rng.choices(b"etaoinshrdlucmfwyp", k=rng.randrange(2, 11))) for _ in range(8000)]
            with open(path, "wb") as f:
                for _ in range(mib // 4):
                    f.write(b" ".join(rng.choices(words, k=900000))[:4 * MIB].ljust(4 * MIB, b" "))

        raw = self.get("text-%d.raw" % mib, mib * MIB, make)
        return raw, self.convert(raw, "%s-%d.qcow2" % (how, mib), "-c", "-W", "-m", "4", "-o", "compression_type=%s" % {"deflate": "zlib"}.get(how, how))

    def sparse(self, mib, of):
        """@of MiB of data, in pieces of 1 to 8 MiB all over a disk of @mib."""
        def make(path):
            rng = random.Random(2)
            left, at = of, 0
            with open(path, "wb") as f:
                f.truncate(mib * MIB)
                while left:
                    n = min(rng.randrange(1, 9), left)
                    f.seek(at * MIB)
                    f.write(os.urandom(n * MIB))
                    left -= n
                    at += n + n * (mib - of) // of

        raw = self.get("sparse-%d-%d.raw" % (mib, of), of * MIB, make)
        return raw, self.convert(raw, "sparse-%d-%d.qcow2" % (mib, of))

    def holes(self, mib):
        def make(path):
            with open(path, "wb") as f:
                f.truncate(mib * MIB)

        raw = self.get("holes-%d.raw" % mib, 0, make)
        return raw, self.convert(raw, "holes-%d.qcow2" % mib)

    def scattered(self, mib):
        """Written at random: no cluster lies behind the one before."""
        def make(path):
            places = list(range(mib * 16))
            random.Random(3).shuffle(places)
            img("create", "-q", "-f", "qcow2", path, "%dM" % mib)
            write_in_order(path, [(64 * k, 1 + k % 255) for k in places])
            img("snapshot", "-c", "s", path)

        image = self.get("scattered-%d.qcow2" % mib, mib * MIB, make)
        raw = self.get("scattered-%d.raw" % mib, mib * MIB, lambda path: img("convert", "-f", "qcow2", "-O", "raw", "-S", "0", image, path))
        return raw, image

    # ------------------------------------------------------------ images of a kind

    def chain(self, depth, mib):
        """A disk of @mib, of which the first half has data, each cluster in a layer by chance; the paths of the layers, the uppermost last."""
        def make(layer, base, mine, last):
            def made(path):
                img("create", "-q", "-f", "qcow2", *(["-b", os.path.basename(base), "-F", "qcow2"] if base else []), path, "%dM" % mib)
                write_in_order(path, [(64 * k, 1 + k % 255) for k in mine])
                if last:
                    img("snapshot", "-c", "s", path)

            return self.get("chain-%d-%d.%d.qcow2" % (mib, depth, layer), mib * MIB // depth, made, say=not layer)

        rng, mine = random.Random(depth), [[] for _ in range(depth)]
        for k in range(mib * 8):
            mine[rng.randrange(depth)].append(k)
        layers = []
        for i in range(depth):
            layers.append(make(i, layers[-1] if layers else None, mine[i], i == depth - 1))
        return layers

    def large(self, size, mapped, snapshots):
        name = "large-%dG-%dM-%d.qcow2" % (size // GIB, mapped // MIB, snapshots)
        return self.get(name, 64 * MIB + mapped // 8192 + snapshots * (size // SPAN * 8), lambda path: by_hand(path, size, mapped, snapshots))
