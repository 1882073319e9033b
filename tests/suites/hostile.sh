#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# hostile.sh [GLOB]: images that break one rule each. Expected: the exact errno and a message that names the rule, the place
# and the file; the rest of the image readable as ever; no crash, hang or unbounded memory; agreement with QEMU, but for the
# differences that make-hostile.py gives a reason for. Twice: with limits on memory, and with sanitizers. GLOB chooses by name.
#
# Then, mounted, images that break no rule and were made to cost (make-costly.py): each request is answered within seconds and
# rightly, its caller can be killed, and neither an unmount nor the image beside has to wait.
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
suite_end
