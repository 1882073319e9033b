#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# qcow2/TARGET.qcow2 of a mount: a disk with all its internal snapshots. Of a guest that runs and writes, with saved memory that QEMU
# restores from the copy; when snapshots come and go while it is open; who stands on it; what it costs. What such a file is for every kind of
# image the suite `exports` asks.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
M=$W/mnt I=$W/im
mkdir "$M" "$I" "$W/out"

clean() {
	local said
	said=$(qemu-img check -f qcow2 "$1" 2>&1) && [[ $said == *'No errors were found'* ]] || { note "$said"; return 1; }
}
# reads_as FILE SNAPSHOT RAW: once it is gone back to
reads_as() {
	cp "$1" "$W/gone-back"
	chmod u+w "$W/gone-back"
	qemu-img snapshot -q -a "$2" "$W/gone-back" && clean "$W/gone-back" && qemu-img compare -q -f qcow2 -F raw "$W/gone-back" "$3"
}
# table FILE: what QEMU says of its snapshots
table() { qemu-img info -U --output=json "$1" | jq -S '.snapshots'; }
shows() { jq -r '.domain.whole[] | "\(.file) \(.shows)"' "$1/snapshots.json" | xargs; }

# ---------------------------------------------------------------- an image

g=$I/guest.qcow2
qemu-img create -q -f qcow2 "$I/base.qcow2" 16M
qwrite "$I/base.qcow2" 7 8M 4M
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 "$g" 32M
for step in "one:1 0 3M" "two:2 2M 4M" "x.y:3 20M 1M"; do
	# shellcheck disable=SC2086
	qwrite "$g" ${step#*:}
	qemu-img snapshot -c "${step%%:*}" "$g"
done
qemu-img snapshot -d two "$g"
qwrite "$g" 9 30M 64k
qemu-img create -q -f qcow2 "$I/none.qcow2" 1M
mount_snapfs "$M" -o list=qcow2 "$g" "$I/none.qcow2" || die 'no mount'
D=$M/guest
has 'it is listed' "$(find "$D/qcow2" -printf '%f ')" '(^| )disk\.qcow2 '
same 'a disk without internal snapshots has none' ENOENT "$(errno_of cat "$M/none/qcow2/disk.qcow2")"
same 'nor is there one of another disk' ENOENT "$(errno_of cat "$D/qcow2/vda.qcow2")"
same 'snapshots.json: it shows the present content' 'qcow2/disk.qcow2 null' "$(shows "$D")"
cp "$D/qcow2/disk.qcow2" "$W/out/copy"
check 'qemu-img check has nothing to say' clean "$W/out/copy"
same 'ids, names, dates, sizes as they were' "$(table "$g")" "$(table "$W/out/copy")"
check 'the present content' qemu-img compare -q -f qcow2 -F raw "$W/out/copy" "$D/current.disk.img"
for s in one x.y; do check "gone back to $s" reads_as "$W/out/copy" "$s" "$D/$s.disk.img"; done
has 'what it stands on, by an absolute path' "$(qemu-img info "$W/out/copy")" "backing file: $I/base.qcow2"
check 'smaller than the image, which has room of a deleted snapshot' test "$(stat -c %s "$W/out/copy")" -lt "$(stat -c %s "$g")"
was=$(stat -c '%i %s %Y' "$D/qcow2/disk.qcow2")
same 'its time is that of the last write' "$(stat -c %.6Y "$g")" "$(stat -c %.6Y "$D/qcow2/disk.qcow2")"
exec 5<"$D/qcow2/disk.qcow2"
head -c 65536 <&5 >/dev/null
mkdir "$W/mnt2"
mount_snapfs "$W/mnt2" "$g" || die 'no second mount'
same 'the same number, size and time at every mount' "$was" "$(stat -c '%i %s %Y' "$W/mnt2/guest/qcow2/disk.qcow2")"
check 'and the same bytes' cmp "$W/out/copy" "$W/mnt2/guest/qcow2/disk.qcow2"
unmount_snapfs "$W/mnt2"
check 'an open file keeps nobody from writing' qwrite "$g" 0x44 31M 64k
cat <&5 2>"$W/err" >/dev/null
has 'which makes it another one' "$(cat "$W/err")" 'Stale file handle'
exec 5<&-
cp "$D/qcow2/disk.qcow2" "$W/out/copy2"
check_not 'another one for who opens it now' cmp -s "$W/out/copy" "$W/out/copy2"
check 'with what was written' qemu-img compare -q -f qcow2 -F raw "$W/out/copy2" "$D/current.disk.img"
qemu-img snapshot -c more "$g"
wait_until 10 test -e "$D/more.disk.img" || fail 'a new snapshot' 'does not show'
same 'a new snapshot is in it' '3' "$(qemu-img info --output=json "$D/qcow2/disk.qcow2" | jq '.snapshots | length')"
unmount_snapfs "$M"

# ---------------------------------------------------------------- a guest that runs and writes, memory and all

lab_libvirtd
model_new web vda 32M
qemu-img create -q -f qcow2 "$I/web.qcow2" 32M
qwrite "$I/web.qcow2" 1 0 2M
domain_define web "$(disk_xml vda qcow2 "$I/web.qcow2")"
Vq start web
for n in 2 3 4; do
	guest_write web vda "$n" "${n}M" 1536k
	Vq snapshot-create-as web "s$n"
done
Vq snapshot-delete web s3
guest_write web vda 5 20M 1M
mount_snapfs "$M" -o refresh=0.5 "$URI" || die 'no mount'
D=$M/web
wait_until 20 test -e "$D/s4.vda.img" || die 'the snapshots do not show'
for s in s2 s4; do cp "$D/$s.vda.img" "$W/out/$s"; done
same 'running: it shows the newest snapshot' 'qcow2/vda.qcow2 s4' "$(shows "$D")"
(for ((k = 0; k < 60; k++)); do guest_write web vda $((k % 200 + 1)) $((k % 12 + 8))M 256k; done) >/dev/null 2>&1 &
writing=$!
cp "$D/qcow2/vda.qcow2" "$W/out/copy"
cp "$D/qcow2/vda.qcow2" "$W/out/again"
wait "$writing"
check 'running: qemu-img check has nothing to say' clean "$W/out/copy"
check 'running: twice the same, whatever the guest writes' cmp "$W/out/copy" "$W/out/again"
same 'running: the table, saved memory and all' "$(table "$I/web.qcow2")" "$(table "$W/out/copy")"
check 'running: opened as it is it is the newest snapshot' qemu-img compare -q -f qcow2 -F raw "$W/out/copy" "$W/out/s4"
for s in s2 s4; do check "running: gone back to $s" reads_as "$W/out/copy" "$s" "$W/out/$s"; done

# The copy in the image's place: libvirt and QEMU restore disk and memory from it.
Vq destroy web
mv "$I/web.qcow2" "$I/web.was"
cp "$W/out/copy" "$I/web.qcow2"
chmod u+w "$I/web.qcow2"
for s in s4 s2; do
	Vq snapshot-revert web "$s"
	same "restored from the copy with its memory: $s" running "$(V domstate web)"
	Vq destroy web
	check "and its disk: $s" qemu-img compare -q -f qcow2 -F raw "$I/web.qcow2" "$W/out/$s"
done
check 'the copy is clean after that' clean "$I/web.qcow2"
mv "$I/web.was" "$I/web.qcow2"

# ---------------------------------------------------------------- what comes and goes while it is open; who stands on it

ctl() { (echo "$1" >"$D/ctl") 2>/dev/null || { note "$1: $(head -1 "$D/ctl")"; return 1; }; }
Vq start web
exec 5<"$D/qcow2/vda.qcow2"
head -c 65536 <&5 >/dev/null
for s in t1 t2 t3; do check "create $s" ctl "create $s internal"; done
cat <&5 2>"$W/err" >/dev/null
has 'other snapshots: the open one is another one' "$(cat "$W/err")" 'Stale file handle'
exec 5<&-
exec 5<"$D/qcow2/vda.qcow2"
head -c 65536 <&5 >"$W/half"
(echo 1 >"$D/retain") 2>/dev/null
sleep 1
same 'retention drops none while it is open' 's2 s4 t1 t2 t3' "$(V snapshot-list web --name | xargs)"
cat <&5 >>"$W/half"
exec 5<&-
check 'and it is read to its end' clean "$W/half"
check 'prune' ctl prune
same 'then it does' 's2 s4 t3' "$(V snapshot-list web --name | xargs)"
Vq destroy web
qemu-img create -q -f qcow2 -b "$D/qcow2/vda.qcow2" -F qcow2 "$I/thrown.qcow2"
domain_define thrown "$(disk_xml vda qcow2 "$I/thrown.qcow2")"
wait_until 10 test -e "$M/thrown" || die 'the other domain does not show'
sleep 1
for s in s2 t3; do
	check_not "delete $s, which somebody stands on" ctl "delete $s"
	has 'and says who' "$(head -1 "$D/ctl")" "domain 'thrown'"
done
V undefine thrown
rm "$I/thrown.qcow2"
wait_until 10 test ! -e "$M/thrown" || die 'the other domain stays'
sleep 1
check 'delete s2, when nobody does any more' ctl 'delete s2'
V undefine --snapshots-metadata web

# Layers above it are no part of it: then it is as it was when they were put on.
domain_with mixed vda:4M
qwrite "$W/images/mixed.vda.qcow2" 1 0 64k
Vq snapshot-create-as mixed i1
qwrite "$W/images/mixed.vda.qcow2" 2 0 64k
Vq snapshot-create-as mixed e1 --disk-only
D=$M/mixed
wait_until 10 test -e "$D/e1.vda.img" || die 'the snapshots do not show'
same 'beneath an overlay it shows the newest internal snapshot' 'qcow2/vda.qcow2 i1' "$(shows "$D")"
cp "$D/qcow2/vda.qcow2" "$W/out/mixed"
check 'and does' qemu-img compare -q -f qcow2 -F raw "$W/out/mixed" "$D/i1.vda.img"
V undefine --snapshots-metadata mixed
unmount_snapfs "$M"

# ---------------------------------------------------------------- an image that contradicts itself

cp "$g" "$I/bad.qcow2"
number() { od -An -tx1 -j"$1" -N8 "$I/bad.qcow2" | tr -d ' \n'; }
l1=$((16#$(number 40)))
l2=$((16#$(number "$l1") & 0x00fffffffffffe00))
printf '\x80\x00\x00\x00\x00\x01\x02\x00' | dd of="$I/bad.qcow2" bs=1 seek=$((l2 + 16)) conv=notrunc status=none
mount_snapfs "$M" "$I/bad.qcow2" || die 'no mount'
same 'a map that contradicts itself: open' EUCLEAN "$(errno_of cat "$M/bad/qcow2/disk.qcow2")"
has 'and the log says why' "$(cat "$M/bad/log")" 'cannot open what is made of .*L2 entry .* not aligned'
unmount_snapfs "$M"

# ---------------------------------------------------------------- what it costs

timed() { local s; s=$(date +%s%N); "$@" >/dev/null 2>&1; echo $((($(date +%s%N) - s) / 1000000)); }
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }
SNAPFS=$BUILD/fs/virt-snapfs
for ((k = 0; k < 96; k++)); do seq $((k * 150000)) $((k * 150000 + 130000)) | head -c 700k; head -c 300k /dev/urandom; done >"$W/raw"
qemu-img convert -q -c -f raw -O qcow2 "$W/raw" "$I/packed.qcow2"
qemu-img snapshot -c s "$I/packed.qcow2"
qemu-img convert -q -f raw -O qcow2 "$W/raw" "$I/plain.qcow2"
qemu-img snapshot -c s "$I/plain.qcow2"
mount_snapfs "$M" "$I/packed.qcow2" "$I/plain.qcow2" || die 'no mount'
for f in packed/qcow2/disk.qcow2 plain/s.disk.img plain/qcow2/disk.qcow2; do cat "$M/$f" >/dev/null; done
ours=() theirs=() made=() image=()
for _ in 1 2 3 4 5; do
	ours+=("$(timed cp "$M/packed/qcow2/disk.qcow2" "$W/o1")")
	made+=("$(timed cp "$M/plain/qcow2/disk.qcow2" "$W/o2")")
	image+=("$(timed cp --sparse=never "$M/plain/s.disk.img" "$W/o3")")
done
for _ in 1 2 3; do theirs+=("$(timed qemu-img convert -c -l s -f qcow2 -O qcow2 "$I/packed.qcow2" "$W/o4")"); done
check 'the compressed copy is right' qemu-img compare -q -f qcow2 -F raw "$W/o1" "$W/raw"
ratio=$((100 * $(median "${theirs[@]}") / $(median "${ours[@]}")))
note "compressed, $(($(stat -c %s "$W/o1") >> 20)) MiB: cp of disk.qcow2 $(median "${ours[@]}") ms, qemu-img convert -c $(median "${theirs[@]}") ms: $((ratio / 100)).$((ratio % 100 / 10)) times as fast"
check 'compressed clusters are handed on: 8 times as fast as convert -c' test "$ratio" -ge 800
ratio=$((100 * $(median "${made[@]}") / $(median "${image[@]}")))
note "not compressed, $(($(stat -c %s "$W/o2") >> 20)) MiB: cp of disk.qcow2 $(median "${made[@]}") ms, of the .img $(median "${image[@]}") ms: $((ratio / 100)).$((ratio % 100 / 10)) times that"
check 'not compressed: it costs no more than two copies of the image' test "$ratio" -le 200
unmount_snapfs "$M"
suite_end
