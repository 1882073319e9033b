#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# tests/bench/now.sh URI MOUNTPOINT DOMAIN TARGET [TIMES]: how fast is now/TARGET.img of a running domain? It is read from one end to the other, and
# so is the very same export, from the same socket, by nbdcopy (package libnbd-bin): in turn, so many times (5). The best of each counts,
# for others are at work on most machines.
set -u
export LC_ALL=C.UTF-8
[ $# -ge 4 ] || { sed -n '/^# tests/,/^set/{/^set/d; s/^# //p}' "$0" >&2; exit 2; }
uri=$1 file=$2/$3/now/$4.img times=${5:-5}
exec 5<"$file" || exit 1
socket=$(virsh -q -c "$uri" backup-dumpxml "$3" | sed -n "s/.*socket='\([^']*\)'.*/\1/p")
[ -S "$socket" ] || { echo "there is no socket '$socket'" >&2; exit 1; }

# best NAME COMMAND...: $best is the least time so far, in ms.
declare -A best=()
time_of() {
	local name=$1 begun ms
	shift
	begun=$(date +%s%N)
	"$@" >/dev/null || exit 1
	ms=$((($(date +%s%N) - begun) / 1000000))
	[ "${best[$name]:-$ms}" -lt "$ms" ] || best[$name]=$ms
}
for _ in $(seq "$times"); do
	time_of nbdcopy nbdcopy "nbd+unix:///$4?socket=$socket" null:
	time_of ours dd if="$file" bs=1M status=none
done
mib=$(($(stat -c %s "$file") >> 20))
printf '%d MiB: nbdcopy %d ms (%d MiB/s), now/ %d ms (%d MiB/s): %d %% of its speed\n' "$mib" "${best[nbdcopy]}" \
	$((mib * 1000 / best[nbdcopy])) "${best[ours]}" $((mib * 1000 / best[ours])) $((100 * best[nbdcopy] / best[ours]))
