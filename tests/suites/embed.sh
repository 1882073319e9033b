#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# qemu:///embed: libvirt inside the process that mounts, no daemon. virsh makes the history beforehand; while the mount is up
# nobody else can open that root.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_embed
M=$W/mnt
mkdir "$M"
export LIBVIRT_LOG_OUTPUTS=4:file:/dev/null

domain_with demo vda:16M vdb:8M
guest_write demo vda 0x11 0 2M
guest_write demo vdb 0x12 1M 2M
snap demo first 'vda vdb'
guest_write demo vda 0x21 1M 2M
snap demo second 'vda vdb' --disk-only
guest_write demo vda 0x31 2M 2M
Vq start demo --paused
guest_write demo vdb 0x32 0 3M
snap demo third 'vda vdb' --disk-only
guest_write demo vda 0x41 3M 2M
snap demo fourth 'vda vdb'
guest_write demo vda 0x51 4M 2M
domain_with idle vda:4M
books_agree 'the books agree with QEMU' demo/vda demo/vdb

mount_snapfs "$M" -o refresh=0.5 "$URI" || die 'no mount'
verify_listing 'the images of the history' "$M" demo
verify_bytes 'their bytes' "$M" demo
same 'states' 'ok ok ok ok' "$(json "$M/demo/snapshots.json" '[.snapshots[].state] | join(" ")')"
same 'kinds' 'internal external external internal' "$(json "$M/demo/snapshots.json" '[.snapshots[].kind] | join(" ")')"
same 'memory' 'false false false true' "$(json "$M/demo/snapshots.json" '[.snapshots[].memory|tostring] | join(" ")')"
has 'the guest that virsh started is seen running' "$(json "$M/demo/snapshots.json" .domain.state)" '^(paused|running)$'
same 'a domain without snapshots has none' 'null' "$(json "$M/idle/snapshots.json" '.snapshots[0]')"
check_not 'virsh cannot open the same root' V list
unmount_snapfs "$M"

guest_write demo vda 0x61 5M 2M
snap demo fifth 'vda vdb' --disk-only
guest_write demo vda 0x71 6M 2M
snap demo sixth 'vda vdb' --disk-only
guest_write demo vda 0x81 7M 2M
Vq snapshot-delete demo sixth
want_gone demo sixth vda vdb
mount_snapfs "$M" -o refresh=0.5 "$URI" || die 'no second mount'
verify_listing 'mounted again: what virsh did meanwhile' "$M" demo
verify_bytes 'and the bytes' "$M" demo
# Each command is one more user of the one connection that an embedded driver can have.
many() {
	local i
	for i in {1..25}; do
		echo 'hold fifth' >"$M/demo/ctl" && echo 'release fifth' >"$M/demo/ctl" || { head -n 1 "$M/demo/ctl"; return 1; }
	done
}
check 'fifty commands' many
check 'commands that take, merge and remove' bash -c 'for i in 1 2 3 4; do echo "create n$i" >"$1" && echo "delete n$i" >"$1" || exit; done' - "$M/idle/ctl"
verify_bytes 'and the bytes after them' "$M" demo
# The daemon opens libvirt after its fork: in the background too.
unmount_snapfs "$M"
"$SNAPFS" "$URI" "$M"
same 'in the background: status' 0 $?
verify_bytes 'in the background: bytes' "$M" demo
fusermount3 -u "$M"
no_daemon() { ! pgrep -x virt-snapfs; }
check 'in the background: ends' wait_until 10 no_daemon
check 'and the root is free again' V list
status 'no such root: the mount fails' 1 timeout 60 "$SNAPFS" 'qemu:///embed?root=relative' "$M"
V destroy demo >/dev/null
suite_end
