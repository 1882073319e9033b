#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# space.sh [COUNT [FIRST-SEED [LAYERS]]]: what snapshots take, and what deleting them frees: foretold of images with random histories, and then
# done by QEMU (of the day, as in random-images.sh); and what `space` says of domains, before `ctl` deletes.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/ctl-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin

Q2=$(tool q2-tool) || { note_file "$W/build.log"; die "q2-tool cannot be built"; }
images=$TESTS/images
export PYTHONDONTWRITEBYTECODE=1
count=${1:-12} first=${2:-$(date +%Y%m%d00)} layers=${3:-1}
note "seeds $first to $((first + count - 1))"

# shellcheck disable=SC2046
adopt python3 "$images/usage.py" "$Q2" "$W/random" $(seq "$first" $((first + count - 1)))

# A judge who never condemns proves nothing.
out=$(python3 "$images/usage.py" --spoil "$Q2" "$W/spoilt" 1 2)
has "a wrong figure is noticed" "$out" '^FAIL history 1: '
has_not "a wrong figure is noticed of every image" "$out" '^ok'

# ---------------------------------------------------------------- the file, on plain images

snapfs_pick
M=$W/mnt
mkdir "$M" "$W/images"
g=$W/images/plain.qcow2
qemu-img create -q -f qcow2 "$g" 64M
for i in 1 2 3; do
	qemu-io -c "write -q -P $i 0 $((i * 2))M" "$g" >/dev/null
	qemu-img snapshot -c "s$i" "$g"
done
qemu-io -c 'write -q -P 9 0 1M' "$g" >/dev/null
cp "$g" "$W/images/broken.qcow2"
python3 -c "import sys; sys.path.insert(0, '$images'); from q2img import Image
with Image(sys.argv[1]) as i: i.put(i.l2_entry_off(1 << 20, i.entries()[0]['l1_off']), 8, 1 << 40)" "$W/images/broken.qcow2"
# figure DOM SNAPSHOT KEY
figure() { json "$M/$1/space.json" ".snapshots[] | select(.name == \"$2\").$3"; }
# freed IMAGE NAME...: bytes that lose their refcount when QEMU deletes these
freed() { python3 -c "import sys; sys.path.insert(0, '$images'); import usage
print(usage.delete(sys.argv[1], sys.argv[2:]) * usage.Image(sys.argv[1]).cluster)" "$@"; }
counted() { python3 -c "import sys; sys.path.insert(0, '$images'); import usage
print(usage.counted(sys.argv[1]) * usage.Image(sys.argv[1]).cluster)" "$1"; }

mount_snapfs "$M" "$g" "$W/images/broken.qcow2" || die 'no mount'
find "$M" -ls >/dev/null
du -a "$M" >/dev/null
ls -lR "$M" >/dev/null
same 'who only looks has nothing counted' '0 0' "$(stat -c %s "$M/plain/space" "$M/plain/space.json" | xargs)"
said=$(cat "$M/plain/space")
same 'once it was read its size is known' "$((${#said} + 1))" "$(stat -c %s "$M/plain/space")"
has 'the table has a row for each snapshot' "$said" '^s2 +internal +ok +4.* 0 B +-$'
has 'and for each disk' "$said" "^disk +.* MiB +.* MiB +$g +-\$"
check 'space.json is JSON' jq -e '.version == 1 and (.snapshots | length) == 3 and .disks[0].target == "disk"' "$M/plain/space.json"
for s in s1 s2 s3; do same "what deleting '$s' frees" "$(freed "$g" $s)" "$(figure plain $s frees)"; done
echo '1 match=s*' >"$M/plain/retain.plan" # nothing of it is stored
same 'no policy drops nothing' 0 "$(json "$M/plain/space.json" .policy.drops)"
mib() { python3 -c "print('%.1f' % ($1 / 2**20))"; }
# plan_of DOM: what retain.plan should say of all but s3
plan_of() {
	local of=$W/images/$1.qcow2
	[ -e "$of" ] || of=$W/images/$1.vda.qcow2
	printf '%s\n' "drop s1 no term keeps it; would free $(mib "$(freed "$of" s1)") MiB within the image" \
		"drop s2 no term keeps it; would free $(mib "$(freed "$of" s2)") MiB within the image; all 2 that would go, together, would free $(mib "$(freed "$of" s1 s2)") MiB within the image" \
		'keep s3 newest 1 of 1'
}
same 'retain.plan: what each would free, and all together' "$(plan_of plain)" "$(cat "$M/plain/retain.plan")"
same 'nothing of it at the next open' "$(printf 'keep s%d not taken\n' 1 2 3)" "$(cut -d' ' -f1-4 "$M/plain/retain.plan")"
same 'the same, read by who has written it' "$(plan_of plain)" "$(bash -c 'exec 3<>"$1"; echo "1 match=s*" >&3; cat <&3' - "$M/plain/retain.plan")"
echo '1 match=s*' >"$M/plain/retain.plan"
same 'once it is open its size is known' "$(plan_of plain | wc -c)" "$(python3 -c 'import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print(len(os.read(fd, 1 << 20)))' "$M/plain/retain.plan")"
echo '1 match=s*' >"$M/broken/retain.plan"
has 'of a damaged image the reason is there, and why there is no figure' "$(grep -c '^drop s[12] no term keeps it; what that would free is not known: .*\(end of the file\|cut off\)' "$M/broken/retain.plan")" '^2$'
has 'a damaged image says so' "$(json "$M/broken/space.json" '.snapshots[0] | "\(.frees) \(.reason)"')" '^null .*(end of the file|cut off)'
has 'what try says is the same' "$(ctl plain 'try delete s1 s2\n' && outcome plain)" "would free $(python3 -c "print('%.1f' % ($(freed "$g" s1 s2) / 2**20))") MiB within the image"
frees=$(figure plain s3 frees) disk=$(stat -c %b "$g")
same 'delete' 0 "$(ctl plain 'delete s3\n')"
check 'du shows it, but for what tables leave of their clusters' test $(((disk - $(stat -c %b "$g")) * 512)) -ge $((frees - 4 * 65536))
same 'delete' 0 "$(ctl plain 'delete s2\n')"
same 'afterwards it is counted anew' "$(freed "$g" s1)" "$(figure plain s1 frees)"
unmount_snapfs "$M"

# An image that takes long: a signal ends the waiting, and neither the mount nor others wait for it.
python3 "$images/make-usage.py" "$W/images/long.qcow2" 30 512 100
mount_snapfs "$M" "$W/images/long.qcow2" "$g" || die 'no mount'
begun=$(date +%s%N)
timeout -s INT 0.2 cat "$M/long/space" >/dev/null
took=$((($(date +%s%N) - begun) / 1000000))
check "a signal ends it (after $took ms)" test "$took" -lt 1500
check 'and others are answered meanwhile' timeout 5 cat "$M/plain/space"
unmount_snapfs "$M"

# ---------------------------------------------------------------- layers, with libvirt

lab_libvirtd
unset "SNAPFS_PIDS[$M]"
mount_snapfs "$M" -o refresh=0.5 "$URI" || die 'no mount'

# chain DOM [FORMAT]: base <- s1 <- s2 <- s3, which overwrite some of each other
chain() {
	local i
	domain_with "$1" "vda:64M:${2:-qcow2}"
	qemu-io -f "${2:-qcow2}" -c 'write -q -P 7 0 16M' "$W/images/$1.vda.${2:-qcow2}" >/dev/null
	qemu-io -f raw -c 'write -q -P 7 0 16M' "${MODEL[$1/vda]}" >/dev/null
	for i in 1 2 3; do
		snap "$1" "s$i" vda --disk-only
		guest_write "$1" vda "$((i + 1))" "$((i * 4 - 2))M" "$((i + 3))M"
	done
	wait_until 15 test -e "$M/$1/s3.vda.img"
}
on_disk() { stat -c '%b' "$W/images/$1".* | awk '{n += $1 * 512} END {print n}'; }
# tells_truth NAME DOM SNAPSHOT [SLACK]: what was foretold is freed, by du, or more where it was a lower bound. A file system may need a block or two for
# where the base now has its extents.
tells_truth() {
	local foretold before after more=${4:-8192} bound=''
	foretold=$(figure "$2" "$3" frees)
	[ "$(figure "$2" "$3" lower_bound)" = false ] || more=$((16 << 20)) bound=' or more'
	before=$(on_disk "$2")
	does "$1: delete" "$2" "delete $3" || return
	after=$(on_disk "$2")
	note "$1: foretold $foretold$bound, freed $((before - after))"
	check "$1: as foretold" test $((before - after)) -ge $((foretold - 8192)) -a $((before - after)) -le $((foretold + more))
}
chain files
for s in s2 s1 s3; do tells_truth "overlay of $s" files "$s"; done
chain flat raw
tells_truth 'overlay on a raw image' flat s1
# What QEMU has to allocate below: of a raw file its holes, and an L2 table only where there is none.
domain_with holey vda:64M:raw
qemu-io -f raw -c 'write -q -P 7 0 3M' "$W/images/holey.vda.raw" >/dev/null
for i in 1 2; do
	snap holey "s$i" vda --disk-only
	guest_write holey vda "$((i + 1))" "$((i * 2))M" 4M
done
wait_until 15 test -e "$M/holey/s2.vda.img"
tells_truth 'overlay on a raw image with holes' holey s1
# zeroed DOM LOWER UPPER: the overlay of s2 is merged into the one of s1.
zeroed() {
	domain_with "$1" vda:64M
	snap "$1" s1 vda --disk-only
	[ -z "$2" ] || qemu-io -f qcow2 -c "$2" "$W/images/$1.vda.s1" >/dev/null
	snap "$1" s2 vda --disk-only
	qemu-io -f qcow2 -c "$3" "$W/images/$1.vda.s2" >/dev/null
	snap "$1" s3 vda --disk-only
	wait_until 15 test -e "$M/$1/s3.vda.img"
	tells_truth "a table of ${2:-nothing}, and $3" "$1" s2
}
zeroed tabled0 '' 'write -q -P 1 8M 1M'
zeroed tabled1 'write -q -z 4M 1M' 'write -q -P 1 8M 1M'
zeroed tabled2 'discard -q 4M 1M' 'write -q -P 1 4608k 1M'
zeroed tabled3 'write -q -P 5 0 64k' 'write -q -P 1 8M 1M'

# scrawled DOM SEED: the same with writes, zeros, discards and compressed clusters at random, and clusters of any size. QEMU may
# not spell out the zeros, and of a cluster that is written in part the file system may hold only that part.
scrawled() {
	local i
	RANDOM=$2
	domain_with "$1" vda:16M
	qemu-img create -q -f qcow2 -o "cluster_size=$((1 << (12 + RANDOM % 7)))" "$W/images/$1.vda.qcow2" 16M
	for i in 1 2 3 4; do
		python3 -c "import random, sys; sys.path.insert(0, '$images'); from q2img import *
scrawl(sys.argv[1], scribble(random.Random(int(sys.argv[2])), 16 << 20, 65536, 12, make_patterns('$W')))" "$(active_path "$1" vda)" "$2$i"
		[ "$i" = 4 ] || snap "$1" "s$i" vda --disk-only
	done
	wait_until 15 test -e "$M/$1/s3.vda.img"
}
for ((seed = first; seed < first + layers; seed++)); do
	scrawled "seed$seed" "$seed"
	for s in s2 s3 s1; do tells_truth "overlay of $s, seed $seed" "seed$seed" $s $((8 << 16)); done
done
chain kept
does 'hold' kept 'hold s1'
same 'a held one would not go' 'null it is held' "$(figure kept s1 frees) $(figure kept s1 reason)"
qemu-img create -q -f qcow2 -b "$W/images/kept.vda.s2" -F qcow2 "$W/images/lodger.qcow2"
domain_define lodger "$(disk_xml vda qcow2 "$W/images/lodger.qcow2")"
wait_until 15 test -e "$M/lodger"
echo '1 match=s*' >"$M/kept/retain.plan"
has 'what would stay says so in retain.plan, too' "$(cat "$M/kept/retain.plan")" '^drop s2 no term keeps it; would (stay|free nothing): .*lodger'
has 'what others need frees nothing, and it says who' "$(figure kept s2 frees) $(figure kept s2 moves) $(figure kept s2 reason)" '^0 0 .*lodger'

# Of two disks one may be merged and the other not: then it is not nothing.
domain_with pair vda:8M vdb:8M
for i in 1 2; do
	snap pair "s$i" 'vda vdb' --disk-only
	for t in vda vdb; do guest_write pair $t "$i" 0 1M; done
done
domain_define borrower "$(disk_xml vda qcow2 "$W/images/pair.vda.qcow2")"
wait_until 15 test -e "$M/borrower"
echo '1 match=*' >"$M/pair/retain.plan"
has 'of two disks one is merged: what that frees, and what stays' "$(cat "$M/pair/retain.plan")" "^drop s1 no term keeps it; would free 0\.2 MiB and copy up to .* MiB; a file of it stays: domain 'borrower' \\(disk vda\\) needs it"

# What each holds is told by its files, whatever a delete would do to them.
on_files() { stat -c '%b' "$@" | awk '{n += $1 * 512} END {print n}'; }
chain loose
does 'pull' loose pull
l=$W/images/loose.vda
has 'they stand beside the disk now' "$(json "$M/loose/space.json" '[.snapshots[].state] | join(" ")')" '^detached detached detached$'
same 'a file that would be unlinked is held once' "$(on_files "$l".{qcow2,s1,s2}) $(on_files "$l".{qcow2,s1})" "$(figure loose s3 holds) $(figure loose s2 holds)"
chain saved
Vq start saved --paused
snap saved m1 vda --memspec "file=$W/images/saved.memory,snapshot=external" --diskspec vda,snapshot=external
Vq destroy saved
l=$W/images/saved.vda
wait_until 15 test -e "$M/saved/m1.vda.img"
holds=$(on_files "$W/images/saved.memory" "$l".{qcow2,s1,s2,s3})
same 'its memory is part of it' "$holds" "$(figure saved m1 holds)"
does 'hold' saved 'hold m1'
same 'also of one that would not go' "$holds null" "$(figure saved m1 holds) $(figure saved m1 frees)"

chain busy
Vq start busy --paused
guest_write busy vda 0x55 1M 6M
same 'of a running guest: a lower bound' 'true true' "$(figure busy s3 lower_bound) $(test "$(figure busy s1 lower_bound)" = false && echo true)"
has 'which the table marks' "$(cat "$M/busy/space")" '^s3 .*>='
tells_truth 'the guest runs' busy s3
Vq destroy busy

# Internal ones of a domain, and a policy that drops two together.
domain_with inner vda:64M
guest_write inner vda 1 0 4M
snap inner s1 vda
guest_write inner vda 2 4M 4M
snap inner s2 vda
guest_write inner vda 3 0 8M
snap inner s3 vda
wait_until 15 test -e "$M/inner/s3.vda.img"
i=$W/images/inner.vda.qcow2
for s in s1 s2 s3; do same "inside: what deleting '$s' frees" "$(freed "$i" $s)" "$(figure inner $s frees)"; done
together=$(freed "$i" s1 s2)
check 'two share what nobody else has' test "$together" -gt $(($(figure inner s1 frees) + $(figure inner s2 frees)))
would="would free $(python3 -c "print('%.1f' % ($together / 2**20))") MiB within the image"
has 'what another policy would drop can be tried' "$(ctl inner 'try retain 1 match=s*\n' && outcome inner)" "^ok: try retain 1 match=s\*: .*'s1'.*'s2'.*$would\$"
has 'and of one that keeps all there is nothing' "$(ctl inner 'try retain 2 *n match=s*\n' && outcome inner)" ': nothing to drop$'
same 'nothing came of it' "off s1 s2 s3" "$(cat "$M/inner/retain") $(json "$M/inner/space.json" '[.snapshots[].name] | join(" ")')"
for s in s1 s2 s3; do does "hold $s" inner "hold $s"; done
check 'a policy that drops nothing yet' sh -c 'echo "1 match=s*" >"$1"' - "$M/inner/retain"
for s in s1 s2 s3; do does "release $s" inner "release $s"; done
same 'what the policy drops together' "2 $together 0" "$(json "$M/inner/space.json" '.policy | "\(.drops) \(.frees) \(.moves)"')"
same 'retain.plan: of each, and of all' "$(plan_of inner)" "$(cat "$M/inner/retain.plan")"
as_long() { cat "$M/inner/retain.plan" >/dev/null && [ "$(stat -c %s "$M/inner/retain.plan")" = "$(plan_of inner | wc -c)" ]; }
check 'and it is as long as it says, until the mount looks anew' wait_until 5 as_long
does 'hold s1' inner 'hold s1'
has 'a held one is kept, and costs nothing' "$(head -1 "$M/inner/retain.plan")" '^keep s1 held$'
does 'release s1' inner 'release s1'
has 'in the table, too' "$(cat "$M/inner/space")" '^retain 1 match=s\*: drops 2, which together frees .* and moves 0 B$'
has 'and try' "$(ctl inner 'try prune\n' && outcome inner)" "$would"
before=$(counted "$i")
does 'prune' inner prune
same 'as foretold' "$together" $((before - $(counted "$i")))
unmount_snapfs "$M"

mount_snapfs "$M" -o ro "$URI" || die 'no mount'
same 'in a read-only mount too' "$(freed "$i" s3)" "$(figure inner s3 frees)"
unmount_snapfs "$M"
suite_end
