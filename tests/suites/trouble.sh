#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Commands where something below fails: a disk that is full, a libvirtd that is away or does not list what it has files of, another user, another
# mount. And the same doors on an image source, where qemu-img does the work.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/ctl-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd
M=$W/mnt
mkdir "$M" "$W/images" "$W/full"
chmod 711 "$W/images"
REFRESH=0.5

# ---------------------------------------------------------------- a power cut

# What a disk has at that moment, with an operating system that has written out nothing but what it was told to: what is unlinked is gone from it
# after five seconds (ext4), what was only written comes to it after thirty. cache='unsafe' makes QEMU say nothing.
truncate -s 160M "$W/disk"
mkfs.ext4 -q -F "$W/disk"
mkdir "$W/power" "$W/cut"
if mount -o loop "$W/disk" "$W/power"; then
	at_exit 'umount -l "$W/power"'
	for d in cuton cutoff cutpull cutdata; do # of the last only the base's data is on that disk, and in a file of its own
		on=$W/power with=()
		[ $d != cutdata ] || on=$W/images with=(-o "data_file=$W/power/$d.raw,data_file_raw=on")
		qemu-img create -q -f qcow2 "${with[@]}" "$on/$d.qcow2" 32M
		model_new "$d" vda 32M
		domain_define "$d" "$(disk_xml vda qcow2 "$on/$d.qcow2" | sed "s|type='qcow2'|& cache='unsafe'|")"
		[ $d = cutoff ] || Vq start "$d" --paused
		for i in 1 2 3; do
			guest_write "$d" vda "$i" "$((i * 8 - 8))M" "$((i == 2 ? 8 : 1))M"
			Vq snapshot-create-as "$d" --name "s$i" --disk-only --diskspec "vda,file=$on/$d.s$i"
			want "$d" "s$i" vda
		done
	done
	mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"
	sync -f "$W/power"
	does 'a merge, and the power goes' cuton 'delete s1'
	does 'of a domain that is shut off' cutoff 'delete s1'
	does 'with a data file on another disk than its header' cutdata 'delete s1'
	does 'a pull' cutpull 'pull'
	does 'and what that has left' cutpull 'delete s1 s2 s3'
	for f in power/cuton.s1 power/cutoff.s1 power/cutpull.s2 images/cutdata.s1; do check_not "$f is gone" test -e "$W/$f"; done
	sleep 7
	cp --sparse=always "$W/disk" "$W/disk.cut"
	mount -o loop "$W/disk.cut" "$W/cut" || die 'no mount of what is left'
	for d in cuton cutoff cutpull; do
		layers=("$d.s3")
		[ $d = cutpull ] || layers=("$d.qcow2" "$d.s2" "$d.s3")
		for f in "${layers[@]}"; do # their names for one another lead to the other file system
			below=$(qemu-img info -U --output=json "$W/cut/$f" | jq -r '."full-backing-filename" // empty')
			[ -z "$below" ] || qemu-img rebase -u -f qcow2 -F qcow2 -b "$W/cut/$(basename "$below")" "$W/cut/$f"
		done
		same "$d: what the guest has is on the disk" "$(sha "${MODEL[$d/vda]}")" "$(qemu_bytes "$W/cut/$d.s3" "$W/cut.raw"; sha "$W/cut.raw")"
		[ $d = cutpull ] || same "$d: and the snapshot that stays" "${WANT[$d/s2.vda.img]}" "$(qemu_bytes "$W/cut/$d.qcow2" "$W/cut.raw"; sha "$W/cut.raw")"
	done
	same 'cutdata: the snapshot that stays, in its data file' "${WANT[cutdata/s2.vda.img]}" "$(sha "$W/cut/cutdata.raw")"
	umount "$W/cut"
	unmount_snapfs "$M"
	for d in cuton cutpull cutdata; do Vq destroy "$d"; done
	for d in cuton cutoff cutpull cutdata; do
		Vq undefine "$d" --snapshots-metadata
		want_gone "$d" s1 vda; want_gone "$d" s2 vda; want_gone "$d" s3 vda
	done
else
	skip 'a power cut' 'no loop device'
fi

# ---------------------------------------------------------------- what was merged does not reach the disk

# A thin disk that is full: writing to the page cache works, writing that out fails, and is told once: to QEMU at the end of its job, which says nothing of it,
# or, with cache='unsafe', to nobody before us.
thin=(thinon thinoff unsafeon unsafeoff)
fill() { head -c 1G /dev/zero >"$W/thin/full" 2>/dev/null; }
room() { rm -f "$W/thin/full"; }
same_bytes() { [ "$(sha "${MODEL[$1/vda]}")" = "$(qemu_bytes "$W/onthin/$1.s1" "$W/cut.raw"; sha "$W/cut.raw")" ]; }
mkdir "$W/thin" "$W/onthin"
mount -t tmpfs -o size=900M tmpfs "$W/thin"
at_exit 'umount -l "$W/thin"'
truncate -s 768M "$W/thin/disk"
mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0 "$W/thin/disk"
if mount -o loop "$W/thin/disk" "$W/onthin"; then
	at_exit 'umount -l "$W/onthin"'
	for d in "${thin[@]}"; do
		qemu-img create -q -f qcow2 -o preallocation=falloc "$W/onthin/$d.qcow2" 32M
		model_new "$d" vda 32M
		domain_define "$d" "$(disk_xml vda qcow2 "$W/onthin/$d.qcow2" | if [[ $d == unsafe* ]]; then sed "s|type='qcow2'|& cache='unsafe'|"; else cat; fi)"
		[[ $d == *off ]] || Vq start "$d" --paused
		for i in 1 2 3; do
			guest_write "$d" vda "$i" "$((i * 8 - 8))M" "$((i == 2 ? 8 : 1))M"
			Vq snapshot-create-as "$d" --name "s$i" --disk-only --diskspec "vda,file=$W/images/$d.s$i"
			want "$d" "s$i" vda
		done
	done
	mount_snapfs "$M" -o "refresh=$REFRESH,allow_path=$W/onthin" "$URI" || die "no mount"
	sync -f "$W/onthin" 2>/dev/null
	fill
	for d in "${thin[@]}"; do
		does_not "$d: a merge" "$d" 'delete s1' ENOSPC "repeat 'delete s1'"
		check "$d: what was to go is there" test -e "$W/images/$d.s1"
		[[ $d == *on ]] || same "$d: the guest's disk reads as before at once" "$(sha "${MODEL[$d/vda]}")" "$(qemu_bytes "$W/images/$d.s3" "$W/cut.raw"; sha "$W/cut.raw")"
		same "$d: and its record" s1 "$(V snapshot-list "$d" --name | grep -x s1)"
	done
	room
	for d in thinon unsafeon; do Vq destroy $d; done # what it has of the base is not what the disk has
	for d in "${thin[@]}"; do
		does "$d: repeated, where there is room" "$d" 'delete s1'
		want_gone "$d" s1 vda
		check_not "$d: it is gone" test -e "$W/images/$d.s1"
		dd if="$W/onthin/$d.qcow2" iflag=nocache count=0 status=none # not from the page cache
		same "$d: what the guest has is on the disk" "$(sha "${MODEL[$d/vda]}")" "$(qemu_bytes "$W/images/$d.s3" "$W/cut.raw"; sha "$W/cut.raw")"
		verify_bytes "$d: and the snapshots that stay" "$M" "$d"
	done
	# What was the active layer goes into it: afterwards the guest writes there, so nobody can tell from the content.
	for d in pivoton pivotoff; do
		qemu-img create -q -f qcow2 -o preallocation=falloc "$W/onthin/$d.qcow2" 32M
		model_new "$d" vda 32M
		domain_define "$d" "$(disk_xml vda qcow2 "$W/onthin/$d.qcow2")"
		[ $d = pivotoff ] || Vq start $d --paused
		guest_write $d vda 1 0 1M
		Vq snapshot-create-as $d --name s1 --disk-only --diskspec "vda,file=$W/images/$d.s1"
		guest_write $d vda 2 8M 8M
		wait_until 15 test -e "$M/$d/s1.vda.img"
	done
	sync -f "$W/onthin" 2>/dev/null
	fill
	for d in pivoton pivotoff; do
		ctl "$d" 'delete s1\n' >/dev/null
		has "$d: the newest" "$(outcome "$d")" "^failed: .*repeat 'delete s1'"
		room
		ctl $d 'delete s1\n' >/dev/null
		has "$d: repeated, its layer stays" "$(outcome $d)" "'.*$d.s1' stays, for it is not proven that all of it|^failed: "
		check "$d: and is there" test -e "$W/images/$d.s1"
		[ $d = pivoton ] || same "$d: all of it is on the disk now" "$(sha "${MODEL[$d/vda]}")" \
			"$(dd if="$W/onthin/$d.qcow2" iflag=nocache count=0 status=none; qemu_bytes "$W/onthin/$d.qcow2" "$W/cut.raw"; sha "$W/cut.raw")"
		fill
	done
	room
	# Pulled into a layer there.
	for d in pulledon pulledoff foreign; do
		qemu-img create -q -f qcow2 "$W/images/$d.qcow2" 32M
		model_new "$d" vda 32M
		domain_define "$d" "$(disk_xml vda qcow2 "$W/images/$d.qcow2")"
		[ $d = pulledoff ] || Vq start $d --paused
		[ $d != foreign ] || Vq snapshot-create-as $d --name s0 --disk-only --diskspec "vda,file=$W/images/$d.s0"
		guest_write $d vda 1 0 12M
		Vq snapshot-create-as $d --name s1 --disk-only --diskspec "vda,file=$W/onthin/$d.s1"
		want $d s1 vda
		guest_write $d vda 2 16M 64k
		wait_until 15 test -e "$M/$d/s1.vda.img"
	done
	sync -f "$W/onthin" 2>/dev/null
	fill
	V blockpull foreign vda --wait >/dev/null || fail 'foreign: virsh blockpull' 'it is to say that it is complete'
	ctl foreign 'delete s1\n' >/dev/null
	has 'foreign: what virsh has pulled is not on the disk' "$(outcome foreign)" "^failed: .*foreign.s0' stays: .*(is not on the disk|cannot be written to the disk|not write out)"
	ctl foreign 'delete s1\n' >/dev/null
	check 'foreign: what it was pulled from stays' test -e "$W/images/foreign.s0"
	for d in pulledon pulledoff; do
		ctl "$d" 'pull\n' >/dev/null
		has "$d: a pull" "$(outcome "$d")" '^failed: '
		[ $d = pulledon ] || same "$d: it reads as before at once" "$(sha "${MODEL[$d/vda]}")" "$(qemu_bytes "$W/onthin/$d.s1" "$W/cut.raw"; sha "$W/cut.raw")"
	done
	room
	Vq destroy pulledon
	for d in pulledon pulledoff; do
		wait_until 15 same_bytes "$d"
		same "$d: off, it reads as before" "$(sha "${MODEL[$d/vda]}")" "$(qemu_bytes "$W/onthin/$d.s1" "$W/cut.raw"; sha "$W/cut.raw")"
		does "$d: repeated" $d 'pull'
		ctl $d 'delete s1\n' >/dev/null
		want_gone $d s1 vda
		same "$d: what the guest has is on the disk" "$(sha "${MODEL[$d/vda]}")" "$(dd if="$W/onthin/$d.s1" iflag=nocache count=0 status=none; qemu_bytes "$W/onthin/$d.s1" "$W/cut.raw"; sha "$W/cut.raw")"
	done
	unmount_snapfs "$M"
	for d in pivoton foreign; do Vq destroy $d; done
	for d in "${thin[@]}" foreign pivoton pivotoff pulledon pulledoff; do
		Vq undefine "$d" --snapshots-metadata
		want_gone "$d" s2 vda; want_gone "$d" s3 vda
		rm -f "$W/images/$d".*
	done
	umount "$W/onthin"
	# A journal that cannot be written: who waited for that write is told, and nobody else before the next change.
	truncate -s 0 "$W/thin/disk"
	truncate -s 256M "$W/thin/disk"
	mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0,nodiscard "$W/thin/disk"
	mount -o loop "$W/thin/disk" "$W/onthin" || die 'no mount of a file system with a journal'
	qemu-img create -q -f qcow2 -o preallocation=full "$W/onthin/journal.qcow2" 32M
	model_new journal vda 32M
	domain_define journal "$(disk_xml vda qcow2 "$W/onthin/journal.qcow2")"
	for i in 1 2 3; do
		guest_write journal vda "$i" "$((i * 8 - 8))M" "$((i == 2 ? 8 : 1))M"
		Vq snapshot-create-as journal --name "s$i" --disk-only --diskspec "vda,file=$W/images/journal.s$i"
		want journal "s$i" vda
	done
	mount_snapfs "$M" -o "refresh=$REFRESH,allow_path=$W/onthin" "$URI" || die "no mount"
	sync -f "$W/onthin"
	sleep 6
	debugfs -R 'blocks <8>' "$W/thin/disk" 2>/dev/null | tr ' ' '\n' | awk 'NF && $1 != last + 1 { if (NR > 1) print first, last - first + 1; first = $1 } NF { last = $1 } END { print first, last - first + 1 }' |
		while read -r from n; do fallocate -p -o $((from * 4096)) -l $((n * 4096)) "$W/thin/disk"; done
	fill
	ctl journal 'delete s1\n' >/dev/null
	has 'a journal that cannot be written: a merge fails' "$(outcome journal)" "^failed: "
	check 'what was to go is there' test -e "$W/images/journal.s1"
	unmount_snapfs "$M"
	umount "$W/onthin"
	room
	e2fsck -fy "$W/thin/disk" >/dev/null 2>&1
	mount -o loop "$W/thin/disk" "$W/onthin"
	mount_snapfs "$M" -o "refresh=$REFRESH,allow_path=$W/onthin" "$URI" || die "no mount"
	wait_until 15 test -e "$M/journal/ctl"
	same 'the guest has what it had' "$(sha "${MODEL[journal/vda]}")" "$(qemu_bytes "$W/images/journal.s3" "$W/cut.raw"; sha "$W/cut.raw")"
	does 'repeated, when it can' journal 'delete s1'
	want_gone journal s1 vda
	verify_bytes 'and the snapshots that stay' "$M" journal
	unmount_snapfs "$M"
	Vq undefine journal --snapshots-metadata
	want_gone journal s2 vda; want_gone journal s3 vda
	rm -f "$W/images/journal".*
	umount "$W/onthin"
else
	skip 'what was merged does not reach the disk' 'no loop device'
fi
umount "$W/thin"

# ---------------------------------------------------------------- a full disk

# The images of `full` are on a small file system; the guest writes 12 MiB into each of two layers.
mount -t tmpfs -o size=64M tmpfs "$W/full"
at_exit 'umount -l "$W/full"'
qemu-img create -q -f qcow2 "$W/full/base.qcow2" 64M
model_new full vda 64M
domain_define full "$(disk_xml vda qcow2 "$W/full/base.qcow2")"
guest_write full vda 1 0 1M
Vq start full --paused
for i in 1 2; do
	Vq snapshot-create-as full --name "s$i" --disk-only --diskspec "vda,file=$W/full/s$i"
	want full "s$i" vda
	guest_write full vda "$((i + 1))" "$((i * 8))M" 12M
done
domain_with away vda:4M
snap away a1 vda --disk-only
snap away a2 vda --disk-only
mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"
verify_listing 'the images are listed' "$M" full away
fallocate -l "$(($(stat -f -c "%a * %S" "$W/full") - 4194304))" "$W/full/ballast"
does_not 'pull into a full disk' full pull 'ENOSPC' 'full|space'
guest_agrees 'the guest has what it had' full/vda
verify_bytes 'and the snapshots' "$M" full
does_not 'commit into a full disk' full 'commit s1' 'ENOSPC' 's1|space'
guest_agrees 'the guest has what it had' full/vda
same 'and is as it was' paused "$(V domstate full)"
want_gone full s1 vda
verify_bytes 'the other snapshot reads right' "$M" full
check 'no job is left' no_jobs "$M" full
does_not 'what a begun commit works on is its own' full 'pull s1' EPERM "repeat 'commit s1' first"
dd if=/dev/zero of="$W/full/ballast2" bs=4k status=none 2>/dev/null
does_not 'create on a full disk' full 'create s3' 'ENOSPC' 'full|space'
guest_agrees 'the guest has what it had' full/vda
same 'nothing is left of it' 's1 s2' "$(V snapshot-list full --name | tr '\n' ' ' | sed 's/ *$//')"
rm "$W/full/ballast" "$W/full/ballast2"
does 'with room again, the commit is finished' full 'commit s1'
does 'and the pull' full pull
verify_listing 'exactly the other snapshot is there' "$M" full
verify_bytes 'and right' "$M" full
guest_agrees 'and the guest' full/vda

# ---------------------------------------------------------------- libvirtd away

lab_libvirtd_kill TERM
does_not 'libvirtd has ended' away 'create x' EHOSTDOWN 'libvirt'
does_not 'try, too' away 'try create x' EHOSTDOWN 'libvirt'
same 'retain, too' EHOSTDOWN "$(python3 "$TESTS/control/door.py" write "$M/away/retain" '3\n')"
same 'texts can be read' off "$(cat "$M/away/retain")"
plan() { timeout 60 sh -c 'echo "1 match=a*" >"$1"; cat "$1"' - "$M/away/retain.plan"; }
same 'retain.plan, too, without what nobody can count now' 'drop a1 no term keeps it|keep a2 newest 1 of 1' "$(plan | paste -sd '|')"
lab_libvirtd_start
works_again() { [ "$(ctl away 'hold a1\n')" = 0 ]; }
check 'when it is back commands work' wait_until 60 works_again
at_exit 'kill -CONT "$(cat /run/libvirtd.pid)"'
kill -STOP "$(cat /run/libvirtd.pid)"
does_not 'libvirtd hangs' away 'create x' 'EHOSTDOWN|ETIMEDOUT' '.'
lab_libvirtd_goes_on
check 'when it goes on commands work' wait_until 60 works_again
does 'and what nobody could count' away 'release a1'
has 'is counted' "$(plan)" '^drop a1 no term keeps it; would free'
does 'hold' away 'hold a1'
same 'and nothing has been done meanwhile' 'a1 a2' "$(V snapshot-list away --name | tr '\n' ' ' | sed 's/ *$//')"
unmount_snapfs "$M"

# ---------------------------------------------------------------- what libvirt has and does not list

# A record that could not be written libvirtd drops from its list, and one that it cannot read it skips at its start; the files are there.
records=/var/lib/libvirt/qemu/snapshot
fill() { dd if=/dev/zero of=$records/ballast bs=4k status=none 2>/dev/null; }
anew() { # SIGNAL
	lab_libvirtd_kill "$1"
	lab_libvirtd_start
}
for d in lost cut middle; do
	domain_with $d vda:4M
	guest_write $d vda 1 0 1M
done
mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die 'no mount'
for d in lost cut middle; do
	for i in 1 2 3; do
		[ $d$i != lost3 ] || continue
		does "$d: create s$i" $d "create s$i"
		want $d s$i vda
		guest_write $d vda $((i + 1)) 0 1M
		sleep 1.1
	done
	does "$d: hold s2" $d 'hold s2'
done
cp -a $records "$W/records"
mount -t tmpfs -o size=80k tmpfs $records
at_exit "umount -l $records"
cp -a "$W/records/." $records/
fill
does_not 'no record can be written' lost 'delete s1' 'EIO|ENOSPC' "the record of snapshot 's2'"
want_gone lost s1 vda
before=$(V domblklist cut)
does_not 'nor a new one: it is said what has become of the disk' cut 'create s4' 'EIO|ENOSPC' "there is no such snapshot, but disk vda stands on 'cut.vda.s4.qcow2' now: 'adopt'"
check_not 'and the disk stands there' test "$before" = "$(V domblklist cut)"
rm $records/ballast
for c in 'delete s1' 'try delete s1' 'commit s1 s2' 'revert s2 force'; do
	does_not "with room again: $c" lost "$c" EPERM "libvirt has a file with the record of snapshot 's2' and does not list it: start libvirtd anew"
done
does_not 'nor do others' cut 'delete s1' EPERM "snapshot 's2' of domain 'lost' may need it: its record lies in '$records/lost/s2.xml' and libvirt does not list it"
(echo 1 >"$M/lost/retain") 2>/dev/null
does 'a new one can be taken' lost 'create s4'
want lost s4 vda
same 'its name is not given to another' EEXIST "$(ctl lost 'create s2\n')"
check 'the layers are all there' test -e "$W/images/lost.vda.s1.qcow2" -a -e "$W/images/lost.vda.s2.qcow2"
verify_bytes 'and it reads as before' "$M" lost
(echo off >"$M/lost/retain") 2>/dev/null
anew TERM
finish() { [ "$(ctl lost 'delete s1\n')" = 0 ]; }
check 'libvirtd started anew: the command can be finished' wait_until 30 finish
verify_listing 'all others are there' "$M" lost
verify_bytes 'and right' "$M" lost
same 's2 is held still' true "$(jq '.snapshots[] | select(.name == "s2").held' "$M/lost/snapshots.json")"
does 'the layer without a record becomes a snapshot' cut 'adopt s4'
want cut s4 vda

# One that others come after: libvirt 9.0 cannot list any of that domain then, newer ones have not lost it.
fill
got=$(ctl middle 'delete s1\n')
rm $records/ballast
if [ "$got" = 0 ]; then
	want_gone middle s1 vda
else
	has 'no record can be written, of one in the middle' "$got" 'EIO|ENOSPC'
	for c in 'delete s1' 'revert s3 force' 'create s4'; do
		does_not "one that others come after: $c" middle "$c" 'EIO|EPERM' "libvirt does not list the snapshots of the domain .as where it has lost one that others come after|does not list it: start libvirtd anew"
	done
	want_gone middle s1 vda
	want_gone middle s2 vda # whether it can be read until then depends on which look met it
fi
verify_bytes 'all others are readable' "$M" middle
unmount_snapfs "$M"
lab_libvirtd_kill KILL
cp $records/cut/s2.xml "$W/s2.xml"
: >$records/cut/s2.xml
lab_libvirtd_start
mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die 'no mount'
for c in 'try delete s1' 'delete s1' 'commit s1'; do
	does_not "a record that is cut off: $c" cut "$c" EPERM "libvirt has a file with the record of snapshot 's2'"
done
cp "$W/s2.xml" $records/cut/s2.xml
cp /etc/libvirt/qemu/away.xml "$W/away.xml"
sed -i 's/<vcpu/<vcpu odd=/' /etc/libvirt/qemu/away.xml
anew TERM
all_there() { [ -e "$M/cut/s2.vda.img" ]; }
check 'put right and read again it is there' wait_until 30 all_there
for c in 'try delete s1' 'delete s1'; do
	does_not "a definition that is damaged: $c" cut "$c" EPERM "domain 'away' may need it: '/etc/libvirt/qemu/away.xml' lies among libvirt's definitions and libvirt lists no such domain"
done
cp "$W/away.xml" /etc/libvirt/qemu/away.xml
anew TERM
check 'put right and read again that one is there, too' wait_until 30 test -e "$M/away/ctl"
verify_bytes 'the bytes are right' "$M" cut
does 'and what was refused is done' cut 'delete s1'

# Pools: one that is not active, and one whose definition is damaged.
does 'release' cut 'release s2'
mkdir "$W/pool"
qemu-img create -q -f qcow2 -b "$W/images/cut.vda.qcow2" -F qcow2 "$W/pool/v.qcow2"
Vq pool-define-as p dir --target "$W/pool"
sleep 1
has 'a pool that is not active' "$(ctl cut 'try delete s2\n' >/dev/null; outcome cut)" "cut.vda.qcow2' stays .volume 'v.qcow2' of pool 'p' needs it"
cp /etc/libvirt/storage/p.xml "$W/p.xml"
: >/etc/libvirt/storage/p.xml
anew TERM
back() { [ "$(ctl cut 'try create s9\n')" != EHOSTDOWN ]; }
check 'libvirt is back' wait_until 30 back
does_not 'a pool whose definition is damaged' cut 'delete s2' EPERM "'/etc/libvirt/storage/p.xml' lies among libvirt's definitions of pools and libvirt lists no such pool"
rm /etc/libvirt/storage/p.xml "$W/pool/v.qcow2"
finish() { [ "$(ctl cut 'delete s2\n')" = 0 ]; }
check 'where it is not there any more the command is carried out' wait_until 10 finish

# A managed save that is put back while libvirtd runs.
Vq start cut --paused
Vq managedsave cut
lab_libvirtd_kill TERM
mv /var/lib/libvirt/qemu/save/cut.save "$W/cut.save"
lab_libvirtd_start
mv "$W/cut.save" /var/lib/libvirt/qemu/save/
check 'libvirt is back once more' wait_until 30 back
sleep 1
for c in 'try revert s3' 'revert s3' 'delete s3'; do does_not "a managed save that is not listed: $c" cut "$c" EPERM "cut.save'.* libvirt does not list"; done
rm /var/lib/libvirt/qemu/save/cut.save
finish() { [ "$(ctl cut 'revert s3\n')" = 0 ]; }
check 'when it is gone the command is carried out' wait_until 10 finish

# A checkpoint's record likewise: what is written after a snapshot of a domain that is shut off would be missing in the next backup.
mkdir -p /var/lib/libvirt/qemu/checkpoint/cut
: >/var/lib/libvirt/qemu/checkpoint/cut/c1.xml
for c in 'try create s9' 'create s9' 'revert s3'; do does_not "a checkpoint that is not listed: $c" cut "$c" EPERM "checkpoint/cut/c1.xml' lies among libvirt's checkpoints of this domain"; done
rm /var/lib/libvirt/qemu/checkpoint/cut/c1.xml
does 'without it' cut 'create s9'

# Something writes to it, though libvirt says that it does not run: a QEMU that a libvirtd started anew has lost sight of, say.
qemu-nbd --persistent -k "$W/nbd.sock" -f qcow2 "$(active_path cut vda)" >/dev/null 2>&1 &
nbd=$!
wait_until 10 test -S "$W/nbd.sock"
for c in 'try create s10' 'create s10' 'try revert s9' 'revert s9' 'try delete s9'; do does_not "written to though it is shut off: $c" cut "$c" EBUSY 'open for writing, though the domain does not run'; done
end_pid "$nbd"
does 'when nobody does any more' cut 'create s10'
unmount_snapfs "$M"

# ---------------------------------------------------------------- other users

mount_snapfs "$M" -o "refresh=$REFRESH,allow_other,gid=$(id -g nobody)" "$URI" || die "no mount with allow_other"
check 'allow_other: others read texts' as_user nobody cat "$M/away/snapshots"
for f in ctl retain retain.plan; do
	same "but do not write $f" EACCES "$(errno_of as_user nobody sh -c "echo prune > '$M/away/$f'")"
	same "nor read it" EACCES "$(errno_of as_user nobody cat "$M/away/$f")"
done
same 'the owner does' 0 "$(ctl away 'release a1\n')"
unmount_snapfs "$M"
mount_snapfs "$M" -o ro "$URI" || die "no read-only mount"
same 'ro: ctl, retain and retain.plan are not there' 'chain jobs log snapshots snapshots.json space space.json' "$(cd "$M/away" && find . -type f ! -name '*.img' ! -name '*.xml' | sed 's|./||' | sort | tr '\n' ' ' | sed 's/ $//')"
unmount_snapfs "$M"

# ---------------------------------------------------------------- an image source

I=$W/images/disk.qcow2
qemu-img create -q -f qcow2 "$I" 8M
mount_snapfs "$M" -o "refresh=$REFRESH" "$I" || die "no mount of an image"
sum_now() { qemu_bytes "$I" "$W/.now.img" && sha "$W/.now.img"; }
declare -A AT=()
for i in 1 2 3; do
	qwrite "$I" "$i" "${i}M" 2M
	AT[m$i]=$(sum_now)
	does "create m$i" disk "create m$i"
done
qwrite "$I" 9 0 1M
same 'QEMU sees the three' 3 "$(qemu-img snapshot -l "$I" | grep -c ' m[0-9] ')"
same 'each reads as it must' "${AT[m1]} ${AT[m2]} ${AT[m3]}" "$(for i in 1 2 3; do sum_of "$M/disk/m$i.disk.img"; done | tr '\n' ' ' | sed 's/ $//')"
sums() { sha256sum "$W"/images/*; getfattr --only-values -n user.virt-snapfs "$I" 2>/dev/null; }
before=$(sums)
does_not 'commit' disk 'commit m1' EOPNOTSUPP 'delete'
does_not 'pull' disk 'pull' EOPNOTSUPP 'layers'
does_not 'pull NAME' disk 'pull m1' EOPNOTSUPP 'layers'
does_not 'an external one' disk 'create x external' EOPNOTSUPP 'internal'
does_not 'quiesce' disk 'create x quiesce' EOPNOTSUPP 'guest'
does_not 'disks=' disk 'create x disks=disk' EOPNOTSUPP 'disk'
does_not 'digits only' disk 'create 7' EINVAL 'digits'
does_not 'the name is taken' disk 'create m1' EEXIST "'m1'"
does_not 'no such snapshot' disk 'delete nosuch' ENOENT "'nosuch'"
for line in 'create x' 'delete m1' 'revert m1' 'revert m1 keep=x' 'hold m1' 'release m1' 'prune' 'delete m1 m2'; do does "try $line" disk "try $line"; done
same 'none of these has changed a byte' "$before" "$(sums)"
does 'hold' disk 'hold m1'
does_not 'delete of a held one' disk 'delete m1' EPERM 'held'
does_not 'a quoted name with a space is taken' disk 'delete "m 1"' ENOENT "'m 1'"
does 'delete' disk 'delete m2'
check_not 'its file is gone at once' test -e "$M/disk/m2.disk.img"
same 'the others read as before' "${AT[m1]} ${AT[m3]}" "$(sum_of "$M/disk/m1.disk.img") $(sum_of "$M/disk/m3.disk.img")"
AT[now]=$(sum_now)
does 'revert with keep=' disk 'revert m1 keep=kept'
same 'the image has what it had at m1' "${AT[m1]}" "$(sum_now)"
same 'kept reads as it was before' "${AT[now]}" "$(sum_of "$M/disk/kept.disk.img")"
same 'current shows the present content' "${AT[m1]}" "$(sum_of "$M/disk/current.disk.img")"
same 'retain' 0 "$(python3 "$TESTS/control/door.py" write "$M/disk/retain" '1\n')"
same 'keeps the newest and the held one' 'kept m1' "$(cd "$M/disk" && find . -name '*.disk.img' ! -name 'current*' | sed 's|./||; s|.disk.img||' | sort | tr '\n' ' ' | sed 's/ $//')"
does 'create prunes in the same write' disk 'create m4'
same 'one of ours is left' 'm1 m4' "$(qemu-img snapshot -l "$I" | grep -o ' \(m[0-9]\|kept\) ' | tr -d ' ' | sort | tr '\n' ' ' | sed 's/ $//')"
unmount_snapfs "$M"
mount_snapfs "$M" -o "refresh=$REFRESH" "$I" || die "no second mount of an image"
same 'policy, hold and whose they are survive a remount' '1 true true' "$(cat "$M/disk/retain") $(field "$M" disk m1 .held) $(field "$M" disk m4 .ours)"
has 'in the attribute' "$(getfattr --only-values -n user.virt-snapfs "$I" 2>&1)" 'policy="1"'
setfattr -x user.virt-snapfs "$I"
does 'a command where the attribute was lost' disk 'hold m1'
has 'the log says that there was none' "$(cat "$M/disk/log")" 'it had no notes of ours: those that were known of the image at this path were put there$'
has 'and there it is' "$(getfattr --only-values -n user.virt-snapfs "$I" 2>&1)" 'policy="1"'
does 'release' disk 'release m1'
does 'prune' disk 'prune'
same 'then m1 goes' m4 "$(qemu-img snapshot -l "$I" | grep -o ' \(m[0-9]\|kept\) ' | tr -d ' ')"
check 'qemu-img check is clean' qemu-img check -q "$I"
mount --bind "$I" "$I" && mount -o remount,bind,ro "$I" || die "no read-only bind mount"
does_not 'qemu-img cannot write' disk 'create m5' EROFS 'qemu-img'
umount "$I"
qemu-img snapshot -c m5 "$I"
check 'somebody else takes one under that name' wait_until 20 test -e "$M/disk/m5.disk.img"
same 'which is not ours' false "$(field "$M" disk m5 .ours)"
does 'hold the other' disk 'hold m4'
does 'another one is taken' disk 'create m6'
same 'still' false "$(field "$M" disk m5 .ours)"
does 'release' disk 'release m4'
does 'delete' disk 'delete m6'
qemu-img snapshot -d m5 "$I"

qemu-system-x86_64 -S -display none -monitor none -serial none -nodefaults -machine pc,accel=tcg -m 16 -pidfile "$W/qemu.pid" -daemonize \
	-drive "file=$I,format=qcow2,if=none,id=d" -device virtio-blk-pci,drive=d >/dev/null 2>&1 || die "no QEMU"
for line in 'create x' 'delete m4' 'revert m4'; do does_not "open in QEMU: $line" disk "$line" EBUSY 'open in QEMU|lock'; done
does_not 'try says so' disk 'try delete m4' EBUSY 'open in QEMU|lock'
does 'a hold needs no file' disk 'hold m4'
end_pid "$(cat "$W/qemu.pid")"

# One that may not be written: the outcome is what its owner can do something about.
mount --bind "$I" "$I" && mount -o remount,bind,ro "$I" || die 'no read-only image'
does_not 'on a read-only mount' disk 'create x' EROFS 'qemu-img: .*Read-only file system'
umount "$I"
mkdir -m 777 "$W/theirs" "$W/theirs/mnt"
cp "$I" "$W/theirs/image.qcow2"
chown nobody "$W/theirs/mnt" "$W/theirs/image.qcow2"
chmod 444 "$W/theirs/image.qcow2"
if SNAPFS_AS=nobody SNAPFS=$BUILD/fs/virt-snapfs mount_snapfs "$W/theirs/mnt" -o "refresh=$REFRESH" "$W/theirs/image.qcow2"; then
	tell() { as_user nobody sh -c 'echo "$1" >"$2/ctl" && head -n 1 "$2/ctl" || head -n 1 "$2/ctl"' - "$1" "$W/theirs/mnt/image" 2>"$W/.err"; }
	has 'a read-only image' "$(tell 'create x')" '^failed: create x: qemu-img: .*Permission denied \(EACCES\)$'
	unmount_snapfs "$W/theirs/mnt"
else
	fail 'a read-only image' 'no mount'
fi

# What lies beside it and stands on it: seen at once.
for fmt in qcow2 qed; do
	qemu-img create -q -f $fmt -b "$I" -F qcow2 "$W/images/over.$fmt"
	before=$(qemu-img convert -f $fmt -O raw "$W/images/over.$fmt" "$W/.over.img" && sha "$W/.over.img")
	does_not "revert under an overlay beside it: $fmt" disk 'revert m4' EPERM "over\\.$fmt"
	same "which reads as ever: $fmt" "$before" "$(qemu-img convert -f $fmt -O raw "$W/images/over.$fmt" "$W/.over.img" && sha "$W/.over.img")"
	rm "$W/images/over.$fmt"
done
does 'revert when it is gone' disk 'try revert m4'
does 'when it has ended, release' disk 'release m4'
does 'and delete' disk 'delete m4'
same 'nothing is left' '' "$(qemu-img snapshot -l "$I")"
same 'the content is what it was' "${AT[m1]}" "$(sum_now)"
unmount_snapfs "$M"

# Its own business is its own: what its header names may be what nobody can open.
mkdir "$W/odd"
qemu-img create -q -f qcow2 "$W/odd/below" 1M
qemu-img create -q -f qcow2 -b "$W/odd/below" -F qcow2 "$W/odd/i \"x\", y=z.qcow2"
rm "$W/odd/below"
mkfifo "$W/odd/below"
mount_snapfs "$M" -o "refresh=$REFRESH" "$W/odd/i \"x\", y=z.qcow2" || die 'no mount of an odd image'
dir=$(ls "$M")
for command in 'create f' 'revert f' 'delete f'; do
	timeout 20 sh -c 'echo "$1" >"$2"' - "$command" "$M/$dir/ctl" 2>/dev/null
	check_not "stands on a FIFO: '$command' ends" test $? = 124
done
unmount_snapfs "$M"
suite_end
