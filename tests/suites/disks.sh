#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Commands on disks of all sorts at once: a raw image, an overlay on a template, a block device that takes no part, a CD-ROM;
# paths and names with spaces, & and <. Memory that is lost is looked for through GLib as well.
set -u
export WHOLE_STACKS=1
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
have_loop || skip_suite 'no loop device can be had here'
lab_libvirtd
M=$W/mnt
I="$W/im ages & <x>"
mkdir "$M" "$I"
ESCAPED=$(sed 's/&/\&amp;/g; s/</\&lt;/g' <<<"$I")
qemu-img create -q -f raw "$I/odd.vda.raw" 8M
qemu-img create -q -f qcow2 "$I/template.qcow2" 8M
qwrite "$I/template.qcow2" 7 0 1M
template=$(sha "$I/template.qcow2")
qemu-img create -q -f qcow2 -b "$I/template.qcow2" -F qcow2 "$I/odd.vdb.qcow2"
truncate -s 1M "$W/cd.iso"
truncate -s 8M "$W/device"
LOOP=$(losetup -f --show "$W/device") || die 'no loop device'
at_exit "losetup -d $LOOP"
for t in vda vdb; do model_new odd $t 8M; done
qemu-io -f raw -c 'write -q -P 7 0 1M' "${MODEL[odd/vdb]}" >/dev/null
domain_define odd "$(disk_xml vda raw "$ESCAPED/odd.vda.raw")$(disk_xml vdb qcow2 "$ESCAPED/odd.vdb.qcow2")$(disk_xml vdc raw "$LOOP" block)
	<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='$W/cd.iso'/><target dev='sda' bus='sata'/><readonly/></disk>"
mount_snapfs "$M" -o refresh=0.5 "$URI" || die 'no mount'
wait_until 20 test -e "$M/odd/ctl" || die 'the domain does not show'

ctl() { # COMMAND
	local st
	(echo "$1" >"$M/odd/ctl") 2>/dev/null
	st=$?
	if [ "$st" = 0 ]; then ok "$mode: $1"; else fail "$mode: $1" "$(head -1 "$M/odd/ctl")"; fi
}
write() { # TARGET BYTE OFFSET LENGTH
	local path
	path=$(active_path odd "$1")
	if running odd || [ "${path%.raw}" = "$path" ]; then
		guest_write odd "$@"
	else
		qemu-io -f raw -c "write -q -P $2 $3 $4" "$path" >/dev/null
		qemu-io -f raw -c "write -q -P $2 $3 $4" "${MODEL[odd/$1]}" >/dev/null
	fi
}
right() { # NAME
	verify_listing "$mode: $1: what is there" "$M" odd
	verify_bytes "$mode: $1: its bytes" "$M" odd
}
mode=off
check_not 'an external snapshot of a block device' sh -c 'echo "create all external" >"$1"' - "$M/odd/ctl"
has 'the sentence names the disk and the way out' "$(head -1 "$M/odd/ctl")" "disk 'vdc' is the device '$LOOP'.*disks=.*EOPNOTSUPP"
for mode in off on; do
	[ "$mode" = on ] && Vq start odd --paused
	for i in 1 2 3 4; do
		for t in vda vdb; do write $t $((i * 3)) "${i}M" 128K; done
		ctl "create \"$mode s $i\" external disks=vda,vdb"
		for t in vda vdb; do want odd "$mode s $i" $t; done
	done
	for t in vda vdb; do write $t 77 6M 64K; done
	right 'created'
	ctl "delete \"$mode s 1\""
	want_gone odd "$mode s 1" vda vdb
	right 'deleted'
	ctl "commit \"$mode s 2\" \"$mode s 3\""
	want_gone odd "$mode s 2" vda vdb
	want_gone odd "$mode s 3" vda vdb
	right 'committed'
	ctl 'pull'
	right 'pulled'
done
# The block device stays as it is, so it has nothing to keep.
ctl 'revert "off s 4" force keep=kept'
for t in vda vdb; do want odd kept $t; done
right 'reverted'
check 'the domain starts' V start odd --paused
Vq destroy odd
for t in vda vdb; do
	qemu_bytes "$(active_path odd $t)" "$W/now.img"
	same "disk $t is what it was at the snapshot" "${WANT[odd/off s 4.$t.img]}" "$(sha "$W/now.img")"
done
same 'nobody wrote to the template' "$template" "$(sha "$I/template.qcow2")"
# As many layers as libvirt starts, and no more (the version table, libvirt/version.c).
for n in 20 40; do
	mkdir "$W/deep$n"
	qemu-img create -q -f qcow2 "$W/deep$n/1" 1M
	for ((i = 2; i <= n; i++)); do qemu-img create -q -f qcow2 -b "$W/deep$n/$((i - 1))" -F qcow2 "$W/deep$n/$i"; done
	domain_define "deep$n" "$(disk_xml vda qcow2 "$W/deep$n/$n")"
	wait_until 20 test -e "$M/deep$n/ctl"
	if V start "deep$n" --paused; then started=yes; else started=no; fi
	[ $started = no ] || Vq destroy "deep$n"
	sleep 1
	if (echo 'try create x' >"$M/deep$n/ctl") 2>/dev/null; then told=yes; else told=no; fi
	same "$n layers: libvirt starts it, and create adds one: both or neither" "$started" "$told"
	echo "# $n layers: $started: $(head -1 "$M/deep$n/ctl")"
	Vq undefine "deep$n"
done
unmount_all
suite_end
