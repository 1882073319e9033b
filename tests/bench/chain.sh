#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# tests/bench/chain.sh [DEPTH...]: what does a long chain cost (64 and 200)?
# The same disk of 1 GiB with 512 MiB of data in one layer, and spread over so many: an internal snapshot of the uppermost, read from end to end in pieces of
# 512K and in places of 4K, first pass and after it. Medians of five mounts' passes, in turn; the ratio is to the one layer. Needs root; SNAPFS or BUILD says
# what is mounted.
set -u
. "$(dirname "$0")/../lib.sh"
[ "${1:-}" != --help ] || { sed -n '/^# tests/,/^set/{/^set/d; s/^# //p}' "$0" >&2; exit 2; }
suite_in_namespace "$0" "$@"
suite_begin
SNAPFS=${SNAPFS:-$BUILD/fs/virt-snapfs}
snapfs_pick
[ $# -gt 0 ] || set -- 64 200
M=$W/mnt
mkdir "$M"

# Each cluster of 64K of the disk's first half has its data in a layer by chance; the second half is a hole.
build() { # DEPTH
	python3 - "$1" "$W" <<'PY'
import random
import subprocess
import sys

depth, top = int(sys.argv[1]), sys.argv[2]
random.seed(depth)
mine = [[] for _ in range(depth)]
for k in range(8192):
    mine[random.randrange(depth)].append(k)
for i in range(depth):
    path = "%s/d%d.%d.qcow2" % (top, depth, i)
    base = ["-b", "d%d.%d.qcow2" % (depth, i - 1), "-F", "qcow2"] if i else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, path, "1G"], check=True)
    writes = [a for k in mine[i] for a in ("-c", "write -q -P %d %dk 64k" % (1 + k % 255, 64 * k))]
    for at in range(0, len(writes), 2000):
        subprocess.run(["qemu-io", "-f", "qcow2", *writes[at:at + 2000], path], check=True, stdout=subprocess.DEVNULL)
subprocess.run(["qemu-img", "snapshot", "-c", "s", path], check=True)
PY
}
measure() { # DEPTH: four times in ms: sequential and at random, first pass and next
	mount_snapfs "$M" "$W/d$1.$(($1 - 1)).qcow2" >/dev/null 2>&1 || die 'no mount'
	python3 - "$M/d$1.$(($1 - 1))/s.disk.img" <<'PY'
import os
import random
import sys
import time

f = os.open(sys.argv[1], os.O_RDONLY)
random.seed(1)
places = [random.randrange(131072) * 4096 for _ in range(8000)]


def sequential():
    for k in range(2048):
        os.pread(f, 524288, k * 524288)


def scattered():
    for p in places:
        os.pread(f, 4096, p)


def ms(what):
    t = time.monotonic()
    what()
    return (time.monotonic() - t) * 1000


scattered_first = ms(scattered)
first = ms(sequential)
print(first, ms(sequential), scattered_first, ms(scattered))
PY
	unmount_snapfs "$M"
}

for depth in 1 "$@"; do build "$depth"; done
for round in 1 2 3 4 5; do
	for depth in 1 "$@"; do echo "$depth $(measure "$depth")" >>"$W/figures"; done
	note "round $round of 5"
done
python3 - "$W/figures" <<'PY'
import statistics
import sys

figures = {}
for line in open(sys.argv[1]):
    depth, *times = line.split()
    figures.setdefault(int(depth), []).append([float(t) for t in times])
medians = {d: [statistics.median(c) for c in zip(*rows)] for d, rows in figures.items()}
for i, what in enumerate(("sequential 512K, first pass", "sequential 512K, after it", "4K at random, first pass", "4K at random, after it")):
    for d in sorted(medians):
        print("%-30s %4d layers %8.0f ms  %5.2f x" % (what, d, medians[d][i], medians[d][i] / medians[1][i]))
PY
suite_end
