#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# hostile.sh [GLOB]: images that break one rule each. Expected: the exact errno and a message that names the rule, the place
# and the file; the rest of the image readable as ever; no crash, hang or unbounded memory; agreement with QEMU, but for the
# differences that make-hostile.py gives a reason for. Twice: with limits on memory, and with sanitizers. GLOB chooses by name.
#
# Then, mounted, images that break no rule and were made to cost (make-costly.py): each request is answered within seconds and
# rightly, its caller can be killed, and neither an unmount nor the image beside has to wait. And images with the longest
# snapshot tables there are, of which one does no harm and ten do no more.
set -u
. "$(dirname "$0")/../lib.sh"
suite_in_namespace "$0" "$@"
suite_begin

Q2=$(tool q2-tool) || { note_file "$W/build.log"; die "q2-tool cannot be built"; }
Q2_ASAN=$(tool q2-tool asan) || { note_file "$W/build.log"; die "q2-tool cannot be built with sanitizers"; }
images=$TESTS/images
export PYTHONDONTWRITEBYTECODE=1

python3 "$images/make-hostile.py" "$W/bad" "${1:-*}" || die "the images cannot be made"
adopt python3 "$images/judge.py" --plain "$Q2" "$W/bad/list.json"
adopt python3 "$images/judge.py" --sanitized "$Q2_ASAN" "$W/bad/list.json"

# A judge that never says no proves nothing: the same images with expectations that are all wrong.
jq '[.[] | .checks[] |= (if .error then .error = "EXDEV" elif .bytes then .bytes = [[1, 3]]
	else .lists = "nothing of this kind" | del(.any) | .state = null end)]' "$W/bad/list.json" >"$W/bad/wrong.json"
has_not "wrong expectations are noticed" "$(python3 "$images/judge.py" --plain "$Q2" "$W/bad/wrong.json")" '^ok'
rm -rf "$W/bad"

# ---------------------------------------------------------------- images made to cost time

M=$W/mnt
mkdir "$M" "$W/costly"
python3 "$images/make-costly.py" "$W/costly" || die "the costly images cannot be made"
honest=$W/honest.qcow2
qemu-img create -q -f qcow2 "$honest" 64M
qwrite "$honest" 0x77 0 32M
qemu-img snapshot -c s "$honest"
qemu_bytes "$honest" "$W/honest.raw"

SNAPFS=$BUILD/fs/virt-snapfs
[ -x "$SNAPFS" ] || die "virt-snapfs is not built"
while read -r name data size; do
	if mount_snapfs "$M" "$W/costly/$name.qcow2" "$honest"; then
		adopt python3 "$images/judge-costly.py" answers "$M" "${SNAPFS_PIDS[$M]}" "$name" "$data" "$size"
		same "$name: the image beside it" "$(sha "$W/honest.raw")" "$(sha "$M/honest/s.disk.img")"
		unmount_snapfs "$M"
	else
		fail "$name" 'no mount'
	fi
done <"$W/costly/list"

# With sanitizers each of these takes some seconds, which is the time to kill somebody in.
SNAPFS=$BUILD_ASAN/fs/virt-snapfs
slow=(as-many-tables as-many-tables-of-2-mib longest-l1 chain) files=()
for name in "${slow[@]}"; do files+=("$W/costly/$name.qcow2"); done
if mount_snapfs "$M" "${files[@]}" "$honest"; then
	adopt python3 "$images/judge-costly.py" waiters "$M" "${SNAPFS_PIDS[$M]}" "${slow[@]}"
	unmount_snapfs "$M"
else
	fail waiters 'no mount'
fi

# ---------------------------------------------------------------- images made to cost memory

SNAPFS=$BUILD/fs/virt-snapfs
long=()
for i in {1..10}; do
	long+=("$W/long$i.qcow2")
	qemu-img create -q -f qcow2 "$W/long$i.qcow2" 1M
done
if mount_snapfs "$M" -o refresh=0.3 "${long[@]}" "$honest"; then
	listed() { find "$M/long$1" -name '*.img' | wc -l; }
	refused() { grep -q "cannot be read: '$W/long$1.qcow2': its snapshot table is too large beside those of other images" "$M/long$1/chain"; }
	decided() { [ "$(listed "$1")" -ge 65536 ] || refused "$1"; }
	for i in {1..10}; do # entries that are all zeros, in a hole: the file takes 200 KiB
		truncate -s $(((1 << 40) + (4 << 20))) "$W/long$i.qcow2"
		printf '\0\1\0\0\0\0\1\0\0\0\0\0' | dd of="$W/long$i.qcow2" bs=1 seek=60 conv=notrunc status=none
	done
	for i in {1..10}; do wait_until 30 decided "$i" || fail "long tables: image $i" 'neither listed nor refused'; done
	n=0 m=0
	for i in {1..10}; do if refused "$i"; then m=$((m + 1)); else n=$((n + 1)); fi; done
	# there is room for two; a listing that is being replaced counts twice for as long, and may leave room for one
	has 'long tables: one or two are listed, the others are refused, with the reason' "$n $m" '^(1 9|2 8)$'
	ls -lR "$M" >"$W/.ls" 2>&1
	sleep 1
	check 'long tables: whoever was listed still is' test "$(grep -c '\.img$' "$W/.ls")" -gt 65536
	same 'long tables: the image beside them' "$(sha "$W/honest.raw")" "$(sha "$M/honest/s.disk.img")"
	peak=$(awk '/^VmHWM/ {print $2}' "/proc/${SNAPFS_PIDS[$M]}/status")
	check "long tables: memory ($((peak / 1024)) MiB)" test "$peak" -lt $((400 * 1024))
	unmount_snapfs "$M"
else
	fail 'long tables' 'no mount'
fi
suite_end
