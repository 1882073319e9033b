#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Real clients: cp, tar, rsync, dd, restic and borg copy the images of a mount, and what comes back is identical. A second
# backup after a remount reads no image again. A file system inside a snapshot is mounted, and a file restored from it.
set -u
. "$(dirname "$0")/../lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
SNAPFS=${SNAPFS:-$BUILD/fs/virt-snapfs}
snapfs_pick
M=$W/mnt
mkdir "$M" "$W/want"
export HOME=$W # caches of the backup programs

# ---------------------------------------------------------------- two images: a file system, and patterns; plain and compressed

mkdir -p "$W/root/etc"
for i in {1..40}; do head -c $((i * 9973)) /dev/urandom >"$W/root/file$i"; done
echo 'the right one' >"$W/root/etc/motd"
mke2fs -q -t ext4 -d "$W/root" "$W/fs.raw" 48M >/dev/null 2>&1 || die 'mke2fs'
g=$W/guest.qcow2
qemu-img convert -f raw -O qcow2 "$W/fs.raw" "$g"
qemu-img snapshot -c good "$g"
cp "$W/fs.raw" "$W/want/good"
clusters=$(qemu-img map --output=json -f qcow2 "$g" | jq '[.[] | select(.data) | .length] | add / 1024') # that are allocated, in KiB
qwrite "$g" 0 0 8M # the guest loses its file system
qwrite "$g" 0xaa 40M 5M
qemu-img snapshot -c bad "$g"
qemu_bytes "$g" "$W/want/bad"
qwrite "$g" 0xbb 20M 3M
qemu-img convert -q -c -f raw -O qcow2 "$W/fs.raw" "$W/small.qcow2"
qemu-img snapshot -c packed "$W/small.qcow2"
cp "$W/fs.raw" "$W/want/packed"
qwrite "$W/small.qcow2" 0xcc 0 1M
IMAGES=(guest/good guest/bad small/packed)
up() { mount_snapfs "$M" "$@" "$g" "$W/small.qcow2" || die 'no mount'; }
# identical NAME DIR: DIR has the three images as they are in the tree
identical() {
	local i bad=''
	for i in "${IMAGES[@]}"; do cmp -s "$2/$i.disk.img" "$W/want/${i#*/}" || bad+=" $i: $(cmp "$2/$i.disk.img" "$W/want/${i#*/}" 2>&1)"; done
	if [ -n "$bad" ]; then fail "$1" "$bad"; else ok "$1"; fi
}
# no_doors NAME DIR: nothing that is made while it is read has come along
no_doors() { same "$1: no hidden door was read" '' "$(find "$2" \( -name qcow2 -o -name diff -o -name '*.disk.qcow2' -o -name '*.json' ! -name snapshots.json ! -name space.json \) 2>&1)"; }
stored() { du -sk "$1" | cut -f1; }

up
identical 'the mount itself' "$M"
# A copy made by looking for zeros is as small as QEMU's. One that trusts SEEK_DATA and SEEK_HOLE (auto in coreutils 9.7;
# in 9.1 it looks as well) has every allocated cluster, and no other. 64 KiB are for the copy's own metadata.
declare -A most=([always]=$(($(stored "$W/want/good") + 64)) [auto]=$((clusters + 64)))
for how in always auto never; do
	rm -rf "$W/out"
	check "cp --sparse=$how" cp -r --sparse="$how" "$M" "$W/out"
	identical "cp --sparse=$how: identical" "$W/out"
	[ "$how" = never ] || check "cp --sparse=$how: with the holes" test "$(stored "$W/out/guest/good.disk.img")" -le "${most[$how]}"
done
chmod -R u+w "$W/out"
rm -rf "$W/out" && mkdir "$W/out"
check 'tar -S' tar -C "$M" -cSf "$W/t.tar" .
check 'tar -S: small' test "$(stored "$W/t.tar")" -lt $((3 * (48 << 10)))
tar -C "$W/out" -xf "$W/t.tar"
identical 'tar -S: identical' "$W/out"
chmod -R u+w "$W/out"
rm -rf "$W/out" "$W/t.tar"
check 'rsync -aS' rsync -aS "$M/" "$W/out/"
identical 'rsync -aS: identical' "$W/out"
no_doors 'rsync' "$W/out"
no_doors 'find' "$M"
same 'rsync -a: a second run finds nothing to do' '' "$(rsync -aS --out-format=%n "$M/" "$W/out/" 2>&1 | grep '\.img$')"
chmod -R u+w "$W/out"
rm -rf "$W/out"
for bs in 4095 65537 1000003 3M; do
	same "dd bs=$bs" "$(sha "$W/want/bad")" "$(dd if="$M/guest/bad.disk.img" bs=$bs 2>/dev/null | sha256sum | cut -c1-64)"
	same "dd bs=$bs, compressed" "$(sha "$W/want/packed")" "$(dd if="$M/small/packed.disk.img" bs=$bs 2>/dev/null | sha256sum | cut -c1-64)"
done
same 'dd iflag=direct' "$(sha "$W/want/good")" "$(dd if="$M/guest/good.disk.img" iflag=direct bs=1M 2>/dev/null | sha256sum | cut -c1-64)"
same 'qemu-img reads it' '' "$(qemu-img compare -f raw -F raw "$M/guest/good.disk.img" "$W/want/good" | grep -v identical)"
par=()
for i in 1 2 3 4; do
	(sha256sum <"$M/guest/good.disk.img" | cut -c1-64 >"$W/par.$i") &
	par+=($!)
done
for p in "${par[@]}"; do wait "$p"; done
same 'four readers at once' "$(sha "$W/want/good")" "$(sort -u "$W"/par.*)"

# ---------------------------------------------------------------- a file system in a snapshot

mkdir "$W/guestfs"
if ! have_loop; then
	skip 'loop mount' 'no loop device to be had'
elif mount -o loop,ro,noload "$M/guest/good.disk.img" "$W/guestfs" 2>"$W/.err"; then
	same 'loop mount: a file' 'the right one' "$(cat "$W/guestfs/etc/motd")"
	cp "$W/guestfs/file40" "$W/restored"
	same 'loop mount: a restored file' "$(sha "$W/root/file40")" "$(sha "$W/restored")"
	same 'loop mount: all files' "$(cd "$W/root" && find . -type f -exec sha256sum {} + | sort)" "$(cd "$W/guestfs" && find . -type f -exec sha256sum {} + | sort)"
	umount "$W/guestfs"
	if mount -o loop,ro,noload "$M/small/packed.disk.img" "$W/guestfs"; then
		same 'loop mount: from compressed clusters' "$(sha "$W/root/file40")" "$(sha "$W/guestfs/file40")"
		umount "$W/guestfs"
	else
		fail 'loop mount: from compressed clusters' 'mount failed'
	fi
else
	fail 'loop mount' "$(cat "$W/.err")"
fi
same 'without a loop device: debugfs' 'the right one' "$(debugfs -R 'cat /etc/motd' "$M/guest/good.disk.img" 2>/dev/null)"
unmount_snapfs "$M"

# ---------------------------------------------------------------- backups that come a second time

# Counted are the READ requests in the debug log (-d). It does not say which file a request is for, so the measured runs leave
# the text files out: what is read then is an image.
TEXTS=(snapshots snapshots.json space space.json chain jobs log ctl retain retain.plan)
reads() { grep -c 'opcode: READ ' "${SNAPFS_LOGS[$M]}"; }

excludes=()
for t in "${TEXTS[@]}"; do excludes+=(--exclude "*/$t"); done
export RESTIC_PASSWORD=test RESTIC_REPOSITORY=$W/restic RESTIC_CACHE_DIR=$W/.cache
check 'restic: a repository' restic -q init
up -d
check 'restic: first backup' restic -q backup "${excludes[@]}" "$M"
n=$(reads)
check "restic: that one reads images ($n READ requests)" test "$n" -gt 0
unmount_snapfs "$M"
up -d
check 'restic: second backup, after a remount' restic -q backup "${excludes[@]}" "$M"
same 'restic: reads no image again' 0 "$(reads)"
unmount_snapfs "$M"
qemu-img snapshot -c later "$g"
qemu_bytes "$g" "$W/want/later"
up -d
check 'restic: third backup, with a new snapshot' restic -q backup "${excludes[@]}" "$M"
n=$(reads)
check "restic: reads that one ($n READ requests)" test "$n" -gt 0 -a "$n" -lt $((2 * (48 << 20) / 131072))
check 'restic: restore' restic -q restore latest --target "$W/out"
identical 'restic: identical' "$W/out$M"
no_doors 'restic' "$W/out$M"
same 'restic: the new one too' "$(sha "$W/want/later")" "$(sha "$W/out$M/guest/later.disk.img")"
chmod -R u+w "$W/out"
rm -rf "$W/out" "$RESTIC_REPOSITORY"
check 'restic is not disturbed by the texts' test -s "$M/guest/snapshots"
unmount_snapfs "$M"

export BORG_REPO=$W/borg BORG_BASE_DIR=$W BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
echo "newer than everything else" >"$W/newest" # borg never trusts the newest file of a run
check 'borg: a repository' borg init -e none
excludes=()
for t in "${TEXTS[@]}"; do excludes+=(--exclude "sh:**/$t"); done
up -d
check 'borg: first backup' borg create "${excludes[@]}" ::one "$M" "$W/newest"
n=$(reads)
check "borg: that one reads images ($n READ requests)" test "$n" -gt 0
unmount_snapfs "$M"
up -d
check 'borg: second backup, after a remount' borg create "${excludes[@]}" ::two "$M" "$W/newest"
same 'borg: reads no image again' 0 "$(reads)"
unmount_snapfs "$M"
mkdir "$W/out"
check 'borg: restore' sh -c 'cd "$1" && borg extract --sparse ::two' - "$W/out"
identical 'borg: identical' "$W/out$M"
no_doors 'borg' "$W/out$M"
chmod -R u+w "$W/out"
rm -rf "$W/out" "$BORG_REPO"
suite_end
