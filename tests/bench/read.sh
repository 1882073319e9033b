#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# tests/bench/read.sh VIRT-SNAPFS [ROUNDS [MIB]]: how fast is an internal snapshot read from one end to the other? The same bytes (1024 MiB, all in the
# page cache) by dd bs=512K from a raw file, from mounts with and without leases, from QEMU's own FUSE export (qemu-storage-daemon), and by
# nbdcopy (libnbd-bin) from qemu-nbd; and by cp --sparse=always to a tmpfs. In turn, so many rounds (7). What is printed are medians: of the times of one round,
# and of what they are of the raw file's in the same round; and, for others are at work on most machines, the least times and what those are of the raw file's least. CPU time is that of the client and of who serves it. What is not installed is left out.
set -u
export LC_ALL=C.UTF-8
[ $# -ge 1 ] || { sed -n '/^# tests/,/^set/{/^set/d; s/^# //p}' "$0" >&2; exit 2; }
snapfs=$1 rounds=${2:-7} mib=${3:-1024}
D=$(mktemp -d) || exit 1
pids=()
# shellcheck disable=SC2329,SC2317
leave() {
	fusermount3 -u "$D/leased" 2>/dev/null
	fusermount3 -u "$D/copied" 2>/dev/null
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done
	wait
	rm -rf --one-file-system "$D"
	rm -rf "$out"
}
out=$(mktemp -d /dev/shm/read.XXXXXX) || exit 1
trap leave EXIT
mkdir "$D/leased" "$D/copied"
dd if=/dev/urandom of="$D/raw" bs=4M count="$((mib / 4))" iflag=fullblock status=none || exit 1
qemu-img convert -f raw -O qcow2 "$D/raw" "$D/i.qcow2" && qemu-img snapshot -c s "$D/i.qcow2" || exit 1
# As they are in the page cache when they were read once: what was written in small pieces lies there in small pieces, and is read at half the speed.
sync "$D/raw" "$D/i.qcow2"
for f in "$D/raw" "$D/i.qcow2"; do
	dd if="$f" iflag=nocache count=0 status=none
	dd if="$f" of=/dev/null bs=1M status=none
done

names=(raw leased copied)
declare -A file=([raw]=$D/raw [leased]=$D/leased/i/s.disk.img [copied]=$D/copied/i/s.disk.img) server=()
for way in leased copied; do
	[ $way = leased ] && o=on || o=off
	"$snapfs" -f -o "lease=$o" "$D/i.qcow2" "$D/$way" >"$D/$way.log" 2>&1 &
	pids+=($!) server[$way]=$!
done
if command -v qemu-storage-daemon >/dev/null; then
	: >"$D/export"
	qemu-storage-daemon --blockdev "driver=file,node-name=f,filename=$D/i.qcow2,read-only=on" --blockdev driver=qcow2,node-name=q,file=f,read-only=on \
		--export "type=fuse,id=e,node-name=q,mountpoint=$D/export,writable=off" >"$D/qsd.log" 2>&1 &
	pids+=($!) server[qsd-fuse]=$! file[qsd-fuse]=$D/export
	names+=(qsd-fuse)
fi
if command -v qemu-nbd >/dev/null && command -v nbdcopy >/dev/null; then
	qemu-nbd -r -t -e 8 -f qcow2 -k "$D/nbd" "$D/i.qcow2" >"$D/nbd.log" 2>&1 &
	pids+=($!) server[qemu-nbd]=$!
	names+=(qemu-nbd)
fi
sleep 1.5
for n in "${names[@]}"; do
	[ -z "${file[$n]:-}" ] || cmp -s "$D/raw" "${file[$n]}" || { echo "$n: other bytes" >&2; cat "$D"/*.log >&2; exit 1; }
done

cat >"$D/run.py" <<'PY'
import os, resource, statistics, subprocess, sys, time
rounds, mib, nbd, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
tick = os.sysconf("SC_CLK_TCK")
ways = [w.split("=") for w in sys.argv[5:]]  # name=pid=file

def served(pid):
    if not pid:
        return 0.0
    with open(f"/proc/{pid}/stat") as f:
        rest = f.read().rsplit(")", 1)[1].split()
    return (int(rest[11]) + int(rest[12])) / tick

def once(argv, pid):
    before, cpu, begun = resource.getrusage(resource.RUSAGE_CHILDREN), served(pid), time.monotonic()
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + served(pid) - cpu

def commands(name, path):
    if not path:
        return {"read": ["nbdcopy", "nbd+unix:///?socket=" + nbd, "null:"]}
    return {"read": ["dd", "if=" + path, "of=/dev/null", "bs=512K"], "cp": ["cp", "--sparse=always", path, out + "/copy"]}

got = {}
for _ in range(rounds):
    for what in ("read", "cp"):
        for name, pid, path in ways:
            argv = commands(name, path).get(what)
            if argv:
                if what == "cp" and os.path.exists(out + "/copy"):
                    os.unlink(out + "/copy")
                got.setdefault((what, name), []).append(once(argv, pid))
print(f"{mib} MiB, medians of {rounds} rounds")
print(f"{'':6} {'':9} {'wall ms':>8} {'MiB/s':>7} {'of raw speed':>13} {'least ms':>9} {'of raw':>7} {'CPU ms':>7} {'x raw CPU':>10}")
for (what, name), runs in sorted(got.items(), key=lambda k: k[0][0] != "read"):
    raw = got[what, "raw"]
    wall, cpu = (statistics.median(r[i] for r in runs) for i in (0, 1))
    speed = statistics.median(a[0] / b[0] for a, b in zip(raw, runs))
    least, raw_least = min(r[0] for r in runs), min(r[0] for r in raw)
    load = statistics.median(b[1] / a[1] for a, b in zip(raw, runs))
    print(f"{what:6} {name:9} {wall * 1000:8.0f} {mib / wall:7.0f} {speed:13.2f} {least * 1000:9.0f} {raw_least / least:7.2f} {cpu * 1000:7.0f} {load:10.2f}")
PY
args=()
for n in "${names[@]}"; do args+=("$n=${server[$n]:-}=${file[$n]:-}"); done
python3 "$D/run.py" "$rounds" "$mib" "$D/nbd" "$out" "${args[@]}"
grep '^virt_snapfs_spliced_bytes_total{by="lease"}' "$D"/{leased,copied}/.metrics | sed "s|$D/||"
