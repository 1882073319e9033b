#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Backup programs beside us: checkpoints and their bitmaps, backup jobs. After each command the next incremental backup, by libvirt's own interface,
# is what the guest sees; or the refusal has said beforehand that it would not be.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/ctl-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd
M=$W/mnt
mkdir "$M" "$W/backups"
chmod 1777 "$W/backups"
mount_snapfs "$M" -o refresh=0.5 "$URI" || die "no mount"

chain() { # DOM: three snapshots, shut off
	domain_with "$1" vda:8M
	guest_write "$1" vda 1 0 1M
	local i
	for i in 1 2 3; do
		snap "$1" "s$i" vda --disk-only
		guest_write "$1" vda "$((i + 1))" "${i}M" 1M
	done
}

# ---------------------------------------------------------------- backups

N=0
no_job() { V domjobinfo "$1" | grep -q None; }
# backup DOM: to a file of its own, the first one full, each other one from the checkpoint of the one before on; with a new checkpoint.
backup() {
	local dom=$1 from='' before=$N
	N=$((N + 1))
	[ "$before" = 0 ] || from="<incremental>c$before</incremental>"
	echo "<domainbackup mode='push'>$from<disks><disk name='vda' type='file'><target file='$W/backups/$dom.$N'/><driver type='qcow2'/></disk></disks></domainbackup>" >"$W/backup.xml"
	echo "<domaincheckpoint><name>c$N</name></domaincheckpoint>" >"$W/checkpoint.xml"
	V backup-begin "$dom" "$W/backup.xml" "$W/checkpoint.xml" >"$W/backup.log" 2>&1 || return 1
	wait_until 30 no_job "$dom" || return 1
	[ "$before" = 0 ] || qemu-img rebase -u -f qcow2 -F qcow2 -b "$W/backups/$dom.$before" "$W/backups/$dom.$N"
}
# backed_up NAME DOM: the next backup, restored with those before, is what the guest sees.
backed_up() {
	backup "$2" || { fail "$1" "no backup: $(tail -n 3 "$W/backup.log")"; return; }
	qemu_bytes "$W/backups/$2.$N" "$W/restored" || { fail "$1" 'it cannot be read'; return; }
	same "$1" "$(sha "${MODEL[$2/vda]}")" "$(sha "$W/restored")"
}
bitmaps() { qemu-img info -U --output=json "$1" | jq -r '[."format-specific".data.bitmaps[]?.name] | join(" ")'; }

# ---------------------------------------------------------------- a guest that runs

chain web
Vq start web --paused
verify_listing 'before there are any' "$M" web
has_not 'no checkpoints, and none are shown' "$(cat "$M/web/chain")" checkpoint
backed_up 'a full backup' web
wait_until 15 grep -q "checkpoint 'c1' appeared" "$M/web/log"
check 'the log says that there is one' grep -q "checkpoint 'c1' appeared" "$M/web/log"
check 'chain lists it' grep -qx '  c1' "$M/web/chain"
same 'and so does snapshots.json' c1 "$(jq -r '.domain.checkpoints | join(" ")' "$M/web/snapshots.json")"
BYTE=40
# and_then NAME DOM COMMAND: a command between two writes, and a backup of both.
and_then() {
	BYTE=$((BYTE + 1))
	guest_write "$2" vda "$BYTE" "$((BYTE % 7))M" 192k
	does "$1" "$2" "$3"
	guest_write "$2" vda "$((BYTE + 100))" "$((BYTE % 5 + 2))M" 64k
	verify_bytes "$1: all read as before" "$M" "$2"
	[ "${4:-}" = off ] || backed_up "$1: the next backup" "$2"
}
does 'a snapshot' web 'create s4'
want web s4 vda
and_then 'what freezes' web 'create s5'
unset "WANT[web/s5.vda.img]"
want_gone web s2 vda
and_then 'what merges frozen layers' web 'delete s2'
want_gone web s3 vda
and_then 'what merges a line' web 'commit s3'
and_then 'what pulls' web 'pull s4'
want_gone web s5 vda
and_then 'what merges the active layer' web 'delete s5'
want_gone web s4 vda
and_then 'once more' web 'commit s4'
and_then 'what pulls all' web 'pull'
refused 'a revert' web 'revert s1 force' EOPNOTSUPP "checkpoint 'c1' and others.*checkpoint-delete web c1"
check 'the guest goes on' running web
does 'a hold' web 'hold s1'
does 'a release' web 'release s1'

# ---------------------------------------------------------------- while one is made

echo "<domainbackup mode='pull'><server transport='unix' socket='$W/nbd.sock'/><disks><disk name='vda' type='file'><scratch file='$W/backups/scratch'/></disk></disks></domainbackup>" >"$W/pull.xml"
Vq backup-begin web "$W/pull.xml"
wait_until 15 grep -q 'job: backup' "$M/web/chain"
check 'chain shows that one is made' grep -q 'vda  job: backup' "$M/web/chain"
for command in 'create s9' 'delete s1' 'commit s1' 'pull' 'revert s1 force'; do
	refused "beside it: $command" web "$command" EBUSY "a backup program is at work on disk vda: .*domjobabort web"
done
verify_bytes 'it harms no reader' "$M" web
Vq domjobabort web
wait_until 15 no_job web
wait_until 15 eval '! grep -q job: "$M/web/chain"'
backed_up 'afterwards' web

# ---------------------------------------------------------------- a guest that does not run

Vq destroy web
refused 'no snapshot: what is written then would be in no bitmap' web 'create s6' EOPNOTSUPP "checkpoint 'c1' and others.*start --paused web.*checkpoint-delete web c1"
refused 'no revert' web 'revert s1' EOPNOTSUPP "checkpoint 'c1' and others.*checkpoint-delete"
check 'chain names the bitmaps' grep -q "has bitmap .*c$N" "$M/web/chain"
N=0
chain db
Vq start db --paused
verify_listing 'another guest' "$M" db
backed_up 'its full backup' db
does 'a snapshot of it' db 'create s4'
want db s4 vda
does 'and another one' db 'create s5'
want db s5 vda
Vq destroy db
has 'what recorded has a bitmap' "$(bitmaps "$(active_path db vda)")" c1
want_gone db s2 vda
does 'what merges frozen layers, while it is off' db 'delete s2'
verify_bytes 'all read as before' "$M" db
want_gone db s5 vda
does 'what merges the active layer' db 'delete s5'
verify_bytes 'all read as before' "$M" db
want_gone db s3 vda
does 'what merges a line' db 'commit s3'
does 'what pulls' db 'pull s1'
verify_bytes 'all read as before' "$M" db
Vq start db --paused
guest_write db vda 77 5M 64k
backed_up 'the next backup, when it runs again' db
for c in $(V checkpoint-list db --name); do Vq checkpoint-delete db "$c"; done
Vq destroy db
does 'without checkpoints one is taken' db 'create s7'
wait_until 15 grep -q "checkpoint 'c1' disappeared" "$M/db/log"
check 'the log says that they have gone' grep -q "checkpoint 'c1' disappeared" "$M/db/log"
verify_bytes 'all read as before' "$M" db
unmount_snapfs "$M"
suite_end
