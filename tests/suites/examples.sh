#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# examples/ at work on a private libvirtd: the systemd unit and the fstab line mount it, nightly.sh backs it up with restic,
# restore-file.sh and restore-disk.sh get things back, quickstart.sh shows it all. What comes back is compared with what the guest
# had, by QEMU's reading. So is what must fail: each failure has its sentence and leaves nothing behind.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
E=$TOP/examples
lab_libvirtd
mount -t tmpfs -o mode=755 tmpfs /srv
mount -t tmpfs -o mode=755 tmpfs /usr/local/bin
install -m 755 "$SNAPFS" /usr/local/bin/virt-snapfs
M=/srv/snapshots
export HOME=$W LIBVIRT_DEFAULT_URI=$URI
no_mount() { ! is_mounted "$M"; }
ended() { ! pgrep -x virt-snapfs; }
# fails NAME STATUS PATTERN COMMAND...: with that status, and one line on stderr that matches.
fails() {
	local name=$1 status=$2 pattern=$3 got
	shift 3
	run "$@"
	got=$?
	if [ "$got" = "$status" ] && grep -Eq -e "$pattern" <<<"$ERR"; then
		ok "$name"
	else
		fail "$name" "status $got instead of $status, or '$(head -c 400 <<<"$ERR" | tr '\n' '|')' has no /$pattern/"
	fi
}

# ---------------------------------------------------------------- a guest with a partition table, ext4 in the second partition

mkdir -p "$W/root/etc" "$W/root/with space"
echo 'Monday was fine.' >"$W/root/etc/motd"
head -c 3000000 /dev/urandom >"$W/root/with space/big \"one\""
ln -s motd "$W/root/etc/link"
mke2fs -q -t ext4 -d "$W/root" "$W/fs.raw" 24M >/dev/null 2>&1 || die mke2fs
python3 - "$W/disk.raw" <<'PY' || die 'no partition table'
import struct, sys
with open(sys.argv[1], "wb") as f:
    f.truncate(40 << 20)
    f.seek(446)
    for kind, start, sectors in (0x82, 2048, 8192), (0x83, 10240, 49152):
        f.write(struct.pack("<BBBBBBBBII", 0, 0, 2, 0, kind, 0, 2, 0, start, sectors))
    f.seek(510)
    f.write(b"\x55\xaa")
PY
dd if="$W/fs.raw" of="$W/disk.raw" bs=1M seek=5 conv=notrunc status=none
# guest DOMAIN: vda is that disk, vdb has patterns
guest() {
	domain_with "$1" vda:40M vdb:8M
	qemu-img convert -n -f raw -O qcow2 "$W/disk.raw" "$W/images/$1.vda.qcow2"
	cp "$W/disk.raw" "${MODEL[$1/vda]}"
	guest_write "$1" vdb 0x11 1M 2M
}
guest web01
guest db01
Vq start web01 --paused

# ---------------------------------------------------------------- the unit and the fstab line

unit=$E/virt-snapfs@.service
if have_analyze=$(command -v systemd-analyze); then
	# It looks for the manual pages, too, which are not installed here.
	same 'unit: systemd-analyze verify' '' "$(systemd-analyze --man=no verify "$unit" 2>&1 | head -5)"
	systemd-analyze security --offline=true --no-pager "$unit" >"$W/security" 2>&1
	level=$(sed -nE 's/.*Overall exposure level for .*: ([0-9.]+) .*/\1/p' "$W/security")
	check "unit: exposure ${level:-unknown} of 10" awk -v l="${level:-10}" 'BEGIN { exit !(l <= 4.0) }'
else
	skip 'unit: systemd-analyze' "there is none: ${have_analyze:-package systemd}"
fi
same 'unit: nothing that gives it a mount namespace' '' "$(grep -E '^(Private(Tmp|Devices|Mounts|Users|IPC|Network)|Protect(System|Home|Proc|Kernel[A-Za-z]*|ControlGroups|Hostname)|ProcSubset|MountAPIVFS|RootDirectory|RootImage|TemporaryFileSystem|Dynamic[A-Za-z]*|MountFlags|[A-Za-z]*Paths)=' "$unit")"
# unit_line KEY: its command, as systemd would have it for virt-snapfs@snapshots
unit_line() {
	local line
	line=$(sed -nE "s/^$1=-?//p" "$unit" | sed 's/%[iI]/snapshots/g')
	(set -a && eval "$(sed -nE 's/^Environment=(.*) (OPTIONS=.*)/\1; \2/p' "$unit")" && eval "printf '%s\n' \"$line\"")
}
read -ra start < <(unit_line ExecStartPre)
"${start[@]}"
read -ra start < <(unit_line ExecStart)
same 'unit: what it starts' "/usr/local/bin/virt-snapfs -o allow_other qemu:///system $M" "${start[*]}"
confined=(python3 "$TESTS/control/confine.py" "$unit")
"${confined[@]}" true 2>"$W/.err" || { note "not confined: $(head -1 "$W/.err")" && confined=(); }
# The sanitizers' own system calls are none of the unit's business.
install -m 755 "$BUILD/fs/virt-snapfs" /usr/local/bin/virt-snapfs
check 'unit: ExecStart, with its capabilities and system calls, mounts' "${confined[@]}" "${start[@]}"
check 'unit: the mount is there for everybody' is_mounted "$M"
for c in 'create one' 'create two' 'delete one' 'commit two'; do
	check "unit: $c" sh -c 'echo "$1" >"$2/web01/ctl"' - "$c" "$M"
done
for c in 'create one' 'try revert one' 'revert one' 'pull' 'delete one'; do
	check "unit: shut off, $c" sh -c 'echo "$1" >"$2/db01/ctl" || { head -1 "$2/db01/ctl"; exit 1; }' - "$c" "$M"
done
# Gone, as after a crash, its mount is dead; ExecStopPost clears it away.
kill -KILL "$(pgrep -x virt-snapfs)"
wait_until 10 ended
check_not 'unit: after a crash the mount is dead' stat "$M/web01"
read -ra stop < <(unit_line ExecStopPost)
"${confined[@]}" "${stop[@]}" 2>/dev/null
check 'unit: ExecStopPost clears it away' no_mount
check 'unit: and it starts again' "${confined[@]}" "${start[@]}"
kill -TERM "$(pgrep -x virt-snapfs)"
check 'unit: SIGTERM unmounts' wait_until 20 no_mount
wait_until 20 ended

install -m 755 "$SNAPFS" /usr/local/bin/virt-snapfs
check 'fstab: the line' mount --fstab "$E/fstab" "$M"
has 'fstab: mounted as fuse.virt-snapfs' "$(grep " $M " /proc/mounts)" ' fuse\.virt-snapfs '
check 'fstab: the domains are there' test -f "$M/db01/ctl"
same 'README has the line, too' "$(grep -v '^#' "$E/fstab")" "$(grep -h ' fuse\.virt-snapfs ' "$TOP/README.md" | sed 's/^ *//')"

# ---------------------------------------------------------------- nightly.sh

nightly() { "$E/nightly.sh" "$M" "$@"; }
latest() { restic -q snapshots --json | jq -r "$1"; }
night_of() { awk '$1 ~ /^auto-/ { print $1 }' "$M/$1/snapshots" | tail -n "${2:-1}" | head -n 1; }
for s in nightly restore-file restore-disk; do
	for o in -h --help; do
		status "$s: $o" 0 "$E/$s.sh" $o
		has "$s: $o: the usage, on stdout" "$OUT" "^usage: $s\.sh "
		same "$s: $o: and nothing on stderr" '' "$ERR"
	done
done
fails 'nightly: no domain' 2 '^usage: ' "$E/nightly.sh" "$M"
export RESTIC_PASSWORD=test RESTIC_REPOSITORY=$W/restic RESTIC_CACHE_DIR=$W/.cache
fails 'nightly: no repository' 1 '^nightly: the backup.s repository cannot be opened: .*config: no such file' nightly web01
same 'nightly: in one line' 1 "$(wc -l <<<"$ERR")"
same 'nightly: and then no snapshot is taken' '' "$(night_of web01)"
restic -q init || die 'restic init'
fails 'nightly: no such mountpoint' 1 'there is no /nowhere' "$E/nightly.sh" /nowhere web01
mkdir "$W/empty"
fails 'nightly: nothing mounted' 1 "nothing is mounted at $W/empty" "$E/nightly.sh" "$W/empty" web01
echo 2 >"$M/web01/retain"
fails 'nightly: one domain is not there' 1 "^nightly: there is no domain 'nobody' at" nightly nobody web01 db01
same 'nightly: the others are done' '/srv/snapshots/db01 /srv/snapshots/web01' "$(latest '[.[].paths[]] | sort | join(" ")')"
first=$(night_of web01)
for t in vda vdb; do want web01 "$first" $t; done
for t in vda vdb; do want db01 "$(night_of db01)" $t; done
guest_write web01 vda 0xa1 30M 64k
guest_write web01 vdb 0xa2 0 1M
status 'nightly: the next night' 0 nightly web01 db01
same 'nightly: is silent' '' "$OUT$ERR"
second=$(night_of web01)
for t in vda vdb; do want web01 "$second" $t; done
for t in vda vdb; do want db01 "$(night_of db01)" $t; done
guest_write web01 vdb 0xa3 3M 1M
status 'nightly: the third' 0 nightly web01
third=$(night_of web01)
for t in vda vdb; do want web01 "$third" $t; done
same 'nightly: the policy is kept' "$second $third" "$(awk '$1 ~ /^auto-/ { print $1 }' "$M/web01/snapshots" | xargs)"
want_gone web01 "$first" vda vdb
verify_listing 'nightly: those files, no others' "$M" web01 db01
verify_bytes 'nightly: with the right bytes' "$M" web01 db01
check 'nightly: restic finds its repository sound' restic -q check
check 'nightly: restore' restic -q restore latest --path "$M/web01" --target "$W/restored"
for f in "$second.vda.img" "$second.vdb.img" "$third.vda.img" "$third.vdb.img"; do
	same "nightly: restored as it was: ${f#*.}, ${f%%.*}" "${WANT[web01/$f]}" "$(sha "$W/restored$M/web01/$f")"
done
check 'nightly: with the definition' virsh -q -c test:///default define --validate "$W/restored$M/web01/$third.xml"
same 'nightly: and nothing of the present' '' "$(find "$W/restored" -name ctl -o -name jobs -o -name 'retain*' -o -name log)"
chmod -R u+w "$W/restored" && rm -rf "$W/restored"

echo 9 >"$M/web01/retain"

# Yesterday's run is still on: restic waits at a pipe.
mkfifo "$W/password"
unset RESTIC_PASSWORD
RESTIC_PASSWORD_COMMAND="cat '$W/password'" nightly web01 >"$W/slow.out" 2>&1 &
slow=$!
check 'nightly: a run holds the lock' wait_until 20 pgrep -f "^cat $W/password"
export RESTIC_PASSWORD=test
n=$(wc -l <"$M/web01/snapshots")
fails 'nightly: a second run' 1 '^nightly: an earlier run is still on' nightly web01
same 'nightly: which does nothing' "$n" "$(wc -l <"$M/web01/snapshots")"
kill "$slow"
wait "$slow"
for _ in 1 2; do timeout 2 sh -c ': >"$1"' - "$W/password"; done # its cat
check 'nightly: the lock goes with the run' wait_until 20 flock -n "$M" true

# An image that cannot be read to its end: what restic does then.
cat >"$W/restic-fails" <<'X'
#!/bin/bash
# restic, to which one file becomes unreadable half-way
[ "$1" = backup ] && { "$REAL" "$@" --exclude '*.vdb.img'; echo 'error: read web01.vdb.img: input/output error'; exit 3; }
exec "$REAL" "$@"
X
mkdir "$W/bin"
install -m 755 "$W/restic-fails" "$W/bin/restic"
REAL=$(command -v restic) PATH=$W/bin:$PATH fails 'nightly: restic cannot read an image' 1 'web01: restic failed \(status 3\): .*input/output error' nightly web01
has 'nightly: says that the backup is incomplete' "$ERR" "web01: restic's snapshot [0-9a-f]+ is incomplete"
same 'nightly: and tags it' 'virt-snapfs incomplete' "$(latest '.[-1].tags | join(" ")')"

# The backup's disk is full.
mkdir "$W/small"
mount -t tmpfs -o size=2M tmpfs "$W/small"
RESTIC_REPOSITORY=$W/small/r restic -q init
RESTIC_REPOSITORY=$W/small/r fails 'nightly: no room for the backup' 1 'web01: restic failed .*no space left' nightly web01
umount "$W/small"

check 'umount' umount "$M"
wait_until 20 ended
check 'mounted read-only' /usr/local/bin/virt-snapfs -o ro,allow_other qemu:///system "$M"
fails 'nightly: mounted read-only' 1 'db01: snapshots cannot be taken' nightly db01
umount "$M"
wait_until 20 ended
fails 'nightly: not mounted any more' 1 'nothing is mounted' nightly db01
mount_snapfs "$M" -o allow_other qemu:///system || die 'no mount'

# ---------------------------------------------------------------- restore-file.sh

img=$M/web01/$third.vda.img
big='/with space/big "one"'
mkdir "$W/got"
chmod 777 "$W/got"
check 'restore-file: by debugfs, from a partition' "$E/restore-file.sh" "$img" /etc/motd "$W/got"
same 'restore-file: what was in it' 'Monday was fine.' "$(cat "$W/got/motd")"
check 'restore-file: a name with blanks and quotes, to a new name' "$E/restore-file.sh" "$img" "$big" "$W/got/big"
same 'restore-file: all of it' "$(sha "$W/root$big")" "$(sha "$W/got/big")"
check 'restore-file: into the current directory' sh -c 'cd "$1" && rm motd && "$2/restore-file.sh" "$3" etc/motd' - "$W/got" "$E" "$img"
same 'restore-file: with the usual mode' 644 "$(stat -c %a "$W/got/motd")"
fails 'restore-file: not over a file' 1 'motd is there already' "$E/restore-file.sh" "$img" /etc/motd "$W/got"
fails 'restore-file: no such file' 1 '^restore-file: there is no /etc/nix in .*looked at:.* ext4' "$E/restore-file.sh" "$img" /etc/nix "$W/got"
fails 'restore-file: a directory' 1 '/etc is no file' "$E/restore-file.sh" "$img" /etc "$W/got"
fails 'restore-file: a link' 1 '/etc/link is a symbolic link to motd' "$E/restore-file.sh" "$img" /etc/link "$W/got"
fails 'restore-file: no such image' 1 'nix.img does not exist' "$E/restore-file.sh" "$M/web01/nix.img" /etc/motd "$W/got"
fails 'restore-file: no arguments' 2 '^usage: ' "$E/restore-file.sh" "$img"
fails 'restore-file: nowhere to put it' 1 'nothing can be written in /nowhere' "$E/restore-file.sh" "$img" /etc/motd /nowhere/motd
fails 'restore-file: a disk without a file system' 1 'there is no /etc/motd' "$E/restore-file.sh" "$M/web01/$third.vdb.img" /etc/motd "$W/got/x"
mount -t tmpfs -o size=1M tmpfs "$W/small"
fails 'restore-file: no room' 1 'could not be written in full' "$E/restore-file.sh" "$img" "$big" "$W/small/big"
same 'restore-file: and no half of it' '' "$(ls -A "$W/small")"
umount "$W/small"
cp --sparse=always "$img" "$W/got/disk.img"
chmod 644 "$W/got/disk.img"
install -m 755 "$E/restore-file.sh" "$W/theirs" # the checkout may be where they cannot read
check 'restore-file: without root' as_user nobody "$W/theirs" "$W/got/disk.img" /etc/motd "$W/got/by-nobody"
same 'restore-file: without root, what was in it' 'Monday was fine.' "$(cat "$W/got/by-nobody")"
fails 'restore-file: -m without root' 1 'needs root' as_user nobody "$W/theirs" -m "$W/got/disk.img" /etc/motd "$W/got/x"
if have_loop; then
	check 'restore-file: -m' "$E/restore-file.sh" -m "$img" "$big" "$W/got/mounted"
	same 'restore-file: -m, all of it' "$(sha "$W/root$big")" "$(sha "$W/got/mounted")"
	fails 'restore-file: -m, no such file' 1 'there is no /etc/nix' "$E/restore-file.sh" -m "$img" /etc/nix "$W/got/x"
	fails 'restore-file: -m, a link' 1 'is a symbolic link to motd' "$E/restore-file.sh" -m "$img" /etc/link "$W/got/x"
else
	skip 'restore-file: -m' 'no loop device to be had'
fi
same 'restore-file: leaves nothing else' 'big by-nobody disk.img motd' "$(find "$W/got" -mindepth 1 ! -name mounted -printf '%f\n' | LC_ALL=C sort | xargs)"

# ---------------------------------------------------------------- restore-file.sh on the disks of guests that run

# file_systems PLACE TYPE...: each in a file of its own, with /etc/motd of long ago, unmounted; then mounted, given a new /etc/motd
# that is safe (fsync) but only in the journal, and copied as it lies there: what a snapshot of a running guest has. PLACE/TYPE is that
# copy, PLACE/TYPE.clean the one before.
declare -A MKFS=([ext4]='mke2fs -q -t ext4' [ext2]='mke2fs -q -t ext2' [xfs]='mkfs.xfs -q' [btrfs]='mkfs.btrfs -q --mixed') \
	FS_SIZE=([ext4]=24M [ext2]=8M [xfs]=300M [btrfs]=64M)
old='Long ago.' new="Monday was fine, $(date +%s)."
put() { python3 -c 'import os, sys
path, text = sys.argv[1:]
with open(path + ".new", "w") as f:
    f.write(text + "\n"); f.flush(); os.fsync(f.fileno())
os.rename(path + ".new", path)
os.fsync(os.open(os.path.dirname(path), os.O_RDONLY))' "$@"; }
file_systems() {
	local place=$1 type dev root
	shift
	mkdir -p "$place" "$W/fs"
	for type; do
		truncate -s "${FS_SIZE[$type]}" "$place/$type.clean"
		${MKFS[$type]} "$place/$type.clean" >"$W/.out" 2>&1 || die "mkfs $type: $(tail -n 1 "$W/.out")"
		dev=$(losetup -f --show "$place/$type.clean") && mount -t "$type" "$dev" "$W/fs" || die "mount $type"
		# As Debian's installer makes it.
		root=$W/fs
		if [ "$type" = btrfs ]; then root=$W/fs/@rootfs && btrfs -q subvolume create "$root"; fi
		mkdir "$root/etc"
		put "$root/etc/motd" "$old"
		put "$root/etc/$type" "$type"
		umount "$W/fs"
		cp --sparse=always "$place/$type.clean" "$place/$type.now"
		losetup -d "$dev"
		dev=$(losetup -f --show "$place/$type.now") && mount -t "$type" "$dev" "$W/fs" || die "mount $type"
		put "$root/etc/motd" "$new"
		cp --sparse=always "$place/$type.now" "$place/$type"
		umount "$W/fs"
		losetup -d "$dev"
		rm "$place/$type.now"
	done
}
# replayed PLACE TYPE: what a start of the guest would make of /etc/motd.
replayed() {
	local dev
	cp --sparse=always "$1/$2" "$1/replayed"
	e2fsck -y "$1/replayed" >/dev/null 2>&1
	dev=$(losetup -f --show "$1/replayed") && mount -t "$2" "$dev" "$W/fs" || die "mount $2"
	cat "$W/fs/etc/motd" "$W/fs/@rootfs/etc/motd" 2>/dev/null
	umount "$W/fs"
	losetup -d "$dev"
}
# disk_of FILE TYPE:START-MIB:SIZE-MIB:CONTENT...: a disk with that MBR; TYPE in hex.
disk_of() {
	local file=$1 part
	shift
	rm -f "$file"
	python3 - "$file" "$@" <<'PY' || die 'no partition table'
import struct, sys
parts = [p.split(":") for p in sys.argv[2:]]
with open(sys.argv[1], "wb") as f:
    f.truncate(max(int(p[1]) + int(p[2]) for p in parts) + 1 << 20)
    f.seek(446)
    for kind, start, size, _ in parts:
        f.write(struct.pack("<BBBBBBBBII", 0, 0, 2, 0, int(kind, 16), 0, 2, 0, int(start) << 11, int(size) << 11))
    f.seek(510)
    f.write(b"\x55\xaa")
PY
	for part; do
		IFS=: read -r _ start _ content <<<"$part"
		dd if="$content" of="$file" bs=1M seek="$start" conv=sparse,notrunc status=none
	done
}
# of_lvm FILE ROOT HOME: a physical volume with three logical ones: /home, and around it root in two pieces.
of_lvm() {
	local dev
	truncate -s 64M "$1"
	dev=$(losetup -f --show "$1") || die 'no loop device'
	l() { LVM_SUPPRESS_FD_WARNINGS=1 lvm "$@" --devices "$dev" --driverloaded n --nolocking >"$W/.out" 2>&1 || die "lvm $*: $(tail -n 1 "$W/.out")"; }
	l pvcreate "$dev"
	l vgcreate guest-vg "$dev"
	l lvcreate -an -Zn -Wn -l 3 -n root guest-vg
	l lvcreate -an -Zn -Wn -l 2 -n home guest-vg
	l lvextend -l +3 guest-vg/root
	losetup -d "$dev"
	dd if="$2" of="$1" bs=1M seek=1 count=12 conv=sparse,notrunc status=none
	dd if="$2" of="$1" bs=1M seek=21 skip=12 count=12 conv=sparse,notrunc status=none
	dd if="$3" of="$1" bs=1M seek=13 conv=sparse,notrunc status=none
}
file=$E/restore-file.sh
if have_loop; then
	mkdir "$W/guests"
	mkdir -m 1777 "$W/tmp"
	export TMPDIR=$W/tmp
	file_systems "$W/was" ext4 ext2 xfs btrfs
	truncate -s 8M "$W/was/esp"
	mkfs.vfat -F 12 "$W/was/esp" >/dev/null
	for t in ext4 xfs btrfs; do same "restore-file: the test's $t has something to replay" "$new" "$(replayed "$W/was" $t)"; done
	fscked=$(replayed "$W/was" ext2)
	of_lvm "$W/was/lvm" "$W/was/ext4" "$W/was/ext2.clean"
	of_lvm "$W/was/lvm.clean" "$W/was/ext4.clean" "$W/was/ext2.clean"
	G=$W/guests
	for s in '' .clean; do
		disk_of "$G/ext4$s.img" "ef:1:8:$W/was/esp" "83:9:24:$W/was/ext4$s"
		disk_of "$G/xfs$s.img" "ef:1:8:$W/was/esp" "83:9:300:$W/was/xfs$s"
		disk_of "$G/btrfs$s.img" "ef:1:8:$W/was/esp" "83:9:64:$W/was/btrfs$s"
		disk_of "$G/lvm$s.img" "ef:1:8:$W/was/esp" "8e:9:64:$W/was/lvm$s"
		cp --sparse=always "$W/was/ext2$s" "$G/ext2$s.img"
	done
	# As they are shown by a mount.
	sources=()
	for f in "$G"/*.img; do
		qemu-img convert -f raw -O qcow2 "$f" "${f%.img}.qcow2"
		qemu-img snapshot -c s "${f%.img}.qcow2"
		sources+=("${f%.img}.qcow2")
	done
	mkdir "$W/shown"
	mount_snapfs "$W/shown" "${sources[@]}" || die 'no mount of the guests'
	mkdir "$W/out"
	got() { # IMAGE FILE OPTION...: what restore-file.sh gives of it
		rm -f "$W/out/got"
		"$file" "${@:3}" "$W/shown/$1/s.disk.img" "/etc/$2" "$W/out/got" 2>"$W/.err" && cat "$W/out/got"
	}
	for t in ext4 xfs btrfs lvm ext2; do
		same "restore-file: $t, unmounted" "$old" "$(got $t.clean motd)"
		want=$new
		if [ $t = ext2 ]; then want=$fscked; fi
		same "restore-file: $t, in use: what the guest had made safe" "$want" "$(got $t motd)"
		same "restore-file: $t: says nothing" '' "$(cat "$W/.err")"
	done
	for t in ext4 xfs btrfs; do same "restore-file: -m $t, in use" "$new" "$(got $t motd -m)"; done
	for t in ext4 xfs btrfs lvm; do
		same "restore-file: --unclean $t: as it lies there" "$old" "$(got $t motd --unclean)"
		has "restore-file: --unclean $t: says so" "$(cat "$W/.err")" '^restore-file: note: the [a-z0-9]+ file system was in use; what its journal holds is not in this file$'
	done
	same 'restore-file: -m --unclean ext4' "$old" "$(got ext4 motd -m --unclean)"
	same 'restore-file: a logical volume behind another one' ext2 "$(got lvm ext2)"
	fails 'restore-file: what was looked at' 1 'looked at: vfat\(cannot be mounted: .+\) ext4 ext2$' "$file" "$W/shown/lvm/s.disk.img" /nix "$W/out/x"
	# Without the tools to replay with.
	mkdir "$W/less"
	for c in $(compgen -c | grep -vx 'qemu-storage-daemon' | sort -u); do [ -n "$(type -P "$c")" ] && ln -sf "$(type -P "$c")" "$W/less/$c"; done
	sed 's|^PATH=.*||' "$file" >"$W/less/.restore-file"
	for t in ext4 xfs btrfs; do
		PATH=$W/less fails "restore-file: $t in use, no overlay to be had" 1 "the $t file system at byte 9437184 was in use, and its journal cannot be replayed: there is no qemu-storage-daemon; --unclean" \
			bash "$W/less/.restore-file" "$W/shown/$t/s.disk.img" /etc/motd "$W/out/x"
		check_not "restore-file: $t: nothing is written" test -e "$W/out/x"
		PATH=$W/less check "restore-file: $t unmounted needs none" bash "$W/less/.restore-file" "$W/shown/$t.clean/s.disk.img" /etc/motd "$W/out/$t"
	done
	# Without root.
	cp --sparse=always "$G/ext4.img" "$G/lvm.img" "$G/xfs.img" "$W/out/"
	chmod 777 "$W/out"
	chmod 644 "$W"/out/*.img
	: >"$W/fuse.conf"
	for t in ext4 lvm; do
		same "restore-file: $t in use, without root" "$new" "$(as_user nobody "$W/theirs" "$W/out/$t.img" /etc/motd "$W/out/nobody.$t" && cat "$W/out/nobody.$t")"
	done
	fails 'restore-file: xfs without root' 1 'looked at: vfat\(needs root\) xfs\(needs root\)' as_user nobody "$W/theirs" "$W/out/xfs.img" /etc/motd "$W/out/x"
	same 'restore-file: nothing is left attached, mounted or running' '' "$(losetup -a | grep -F "$W/"; pgrep qemu-storage; ls -A "$TMPDIR")"
	unset TMPDIR
	for t in ext4 xfs btrfs lvm; do qemu-img compare -q -f raw -F raw "$G/$t.img" "$W/shown/$t/s.disk.img" || fail "restore-file: $t" 'the image was changed'; done
	unmount_snapfs "$W/shown"
	rm -r "$W/guests" "$W/was" "$W/out"
else
	skip 'restore-file: file systems in use' 'no loop device to be had'
fi

# ---------------------------------------------------------------- restore-disk.sh

disk() { "$E/restore-disk.sh" -c "$URI" "$@"; }
# read_by_guest DOMAIN DISK BYTE OFFSET LENGTH: what the started guest's QEMU reads there is that byte. It says so in its log.
read_by_guest() {
	local n log=/var/log/libvirt/qemu/$1.log
	n=$(($(printf '%d' "'${2:2:1}") - 97))
	: >"$log"
	V qemu-monitor-command "$1" --hmp "qemu-io -d /machine/peripheral/virtio-disk$n/virtio-backend \"read -P $3 $4 $5\""
	wait_until 10 grep -qE '^(read ([0-9]+)/\2 bytes|Pattern verification failed|read failed)' "$log"
	grep -qE '^read ([0-9]+)/\1 bytes' "$log" && ! grep -q 'failed' "$log"
}
new=$W/images/restored.qcow2
fails 'restore-disk: no arguments' 2 '^usage: ' disk "$img"
fails 'restore-disk: a format that is none' 2 '^usage: ' disk -O vmdk "$img" "$new" web01
fails 'restore-disk: a running domain' 1 "the domain 'web01' is paused: shut it down first" disk "$img" "$new" web01
fails 'restore-disk: no such image' 1 'nix.vda.img cannot be read' disk "$M/web01/nix.vda.img" "$new" db01
fails 'restore-disk: no such directory' 1 'there is no directory /nowhere' disk "$img" /nowhere/x db01
fails 'restore-disk: no such disk' 1 "domain 'db01' has no disk vdq" disk "$img" "$new" db01 vdq
check_not 'restore-disk: nothing was written so far' test -e "$new"
old=$(active_path db01 vda)
before=$(sha "$old")
check 'restore-disk: into a stopped domain' disk "$M/web01/$second.vdb.img" "$new" db01 vdb
same 'restore-disk: it is the disk now' "$new" "$(active_path db01 vdb)"
same 'restore-disk: the other disk is as it was' "$old $before" "$(active_path db01 vda) $(sha "$old")"
qemu_bytes "$new" "$W/bytes"
same 'restore-disk: qcow2, by QEMU' "${WANT[web01/$second.vdb.img]}" "$(sha "$W/bytes")"
check 'restore-disk: qcow2, sound' qemu-img check -q "$new"
check 'restore-disk: small' test "$(du -k "$new" | cut -f1)" -lt 6000
check 'restore-disk: the domain starts with it' V start db01 --paused
check 'restore-disk: and sees it' read_by_guest db01 vdb 0xa2 0 1M
check_not 'restore-disk: (which this would tell)' read_by_guest db01 vdb 0xa3 0 1M
Vq destroy db01
fails 'restore-disk: not over a file' 1 'restored.qcow2 is there already' disk "$img" "$new" web01-look
fails 'restore-disk: not even with -f over an image of a domain' 1 'is an image of domain db01: give another name' disk -f "$M/web01/$second.vdb.img" "$(active_path db01 vda)" db01 vdb
same 'restore-disk: which is as it was' "$before" "$(sha "$old")"
raw=$W/images/look.img
echo old >"$raw"
check 'restore-disk: a new domain, raw, over an old file' disk -f "$M/web01/$third.vda.img" "$raw" web01-look
same 'restore-disk: raw, by QEMU' "${WANT[web01/$third.vda.img]}" "$(qemu_bytes "$raw" "$W/bytes" raw && sha "$W/bytes")"
check 'restore-disk: raw, with the holes' test "$(du -k "$raw" | cut -f1)" -lt 12000
same 'restore-disk: the new domain has that disk alone' "vda $raw" "$(V domblklist web01-look | xargs)"
check_not 'restore-disk: and another identity' test "$(V domuuid web01-look)" = "$(V domuuid web01)"
check 'restore-disk: the new domain runs beside the old one' V start web01-look --paused
check 'restore-disk: and sees its disk' read_by_guest web01-look vda 0xa1 30M 64k
same 'restore-disk: a file system in it' 'Monday was fine.' "$(debugfs -R 'cat /etc/motd' "$raw?offset=5242880" 2>/dev/null)"
Vq destroy web01-look
check 'restore-disk: a managed save' sh -c 'virsh -q -c "$1" start db01 --paused && virsh -q -c "$1" managedsave db01 --paused' - "$URI"
fails 'restore-disk: is respected' 1 "the domain 'db01' has a managed save" disk "$img" "$W/images/x.qcow2" db01
Vq managedsave-remove db01
check_not 'restore-disk: so nothing is written' test -e "$W/images/x.qcow2"
mount -t tmpfs -o size=2M tmpfs "$W/small"
fails 'restore-disk: no room' 1 'not enough room in .*: [0-9]+ MiB are needed, [0-9]+ MiB are free' disk "$M/web01/$third.vda.img" "$W/small/x.qcow2" db01
same 'restore-disk: nothing half is left' '' "$(ls -A "$W/small")"
umount "$W/small"
fails 'restore-disk: libvirt is not there' 1 'restore-disk: libvirt: ' "$E/restore-disk.sh" -c qemu:///nowhere "$img" "$W/images/x.qcow2" db01
check_not 'restore-disk: and nothing is written' test -e "$W/images/x.qcow2"
verify_bytes 'all snapshots are as they were' "$M" web01 db01
unmount_snapfs "$M"

# ---------------------------------------------------------------- quickstart.sh

# quickstart [OPTION]: with its output in $OUT, and libvirt's words if it fails.
quickstart() {
	local name="quickstart${1:+ $1}" st demo f
	run timeout 300 "$E/quickstart.sh" "$@"
	st=$?
	same "$name" 0 $st
	[ $st = 0 ] && return
	demo=$(sed -nE "s|.*root=([^)]*)/libvirt\).*|\1|p" <<<"$OUT" | head -n 1)
	note_file "$W/.err"
	for f in "$demo"/libvirt.log "$demo"/libvirt/log/qemu/*.log; do note_file "$f" 20; done
}
quickstart --once
has 'quickstart: says first how long it takes' "$(head -n 1 <<<"$OUT")" ' takes .* seconds'
for line in '== The same bytes as QEMU gives' 'identical' "  keep wednesday newest 1 of 2" "  drop monday no term keeps it; would .* MiB.* and copy up to [0-9.]* MiB" \
	'  written on wednesday' 'wednesday reads as before' '  written on sunday' '== Done; cleaning up'; do
	has "quickstart: $line" "$OUT" "^$line\$"
done
# typed [PATTERN]: what was typed, a line each, with the mountpoint away
typed() { sed -nE 's/^\$ //p' <<<"$OUT" | sed -E 's|/tmp/vsdemo\.[^/]*/mnt/||g'; }
same 'quickstart: after each command its outcome and the snapshots' '' \
	"$(typed | awk '/^echo .* > .*\/(ctl|retain)$/ { dir = $NF; sub(/\/[a-z]*$/, "", dir); for (i = 0; i < 2; i++) { getline n[i] }
		if (n[0] != "head -n 1 " dir "/ctl" || n[1] != "cat " dir "/snapshots") print $0 ": " n[0] "; " n[1] }')"
same 'quickstart: the commands' "web01/ctl web01/retain web01/ctl web01/ctl db01/ctl" "$(typed | sed -nE 's/^echo .* > (.*\/(ctl|retain))$/\1/p' | xargs)"
# table COMMAND: the snapshots that were shown after it
table() {
	sed -nE "/^\\$ echo '$1' > .*\/(ctl|retain)\$/,\$p" <<<"$OUT" | sed -nE '/^  NAME /,/^[^ ]|^$/p' | sed -E '/^[^ ]|^$/,$d; 1d; s/ 20[0-9T:+-]+//; s/ +/ /g; s/^ //' | paste -sd '|'
}
same 'quickstart: retention has merged monday away' 'tuesday external ok no no - vda,vdb|wednesday external ok no no tuesday vda,vdb' "$(table '2 match=\*')"
has 'quickstart: and says so' "$OUT" "^  ok: retain 2 match=\*: disk vda: merged 'web01.monday' into 'web01.qcow2' "
same 'quickstart: what the commands have left' 'wednesday external ok no no - vda,vdb' "$(table 'commit tuesday')"
same 'quickstart: internal snapshots' 'saturday internal ok no no - vda|sunday internal ok no no saturday vda' "$(table 'revert saturday keep=sunday')"
left=$(find /tmp -maxdepth 1 -name 'vsdemo.*' -newer "$W/fs.raw")
same 'quickstart: leaves nothing' '' "$left"

# What it types can be typed: into a demo that was only just made, line by line, all of it says what it said. The program is one that does
# not mount, so quickstart.sh leaves it there.
script=$(sed -nE 's/^\$ //p' <<<"$OUT")
said=$OUT
made=$(sed -nE 's|^env STATE_DIRECTORY=([^ ]*)/state .*|\1|p' <<<"$script")
mkdir -p "$W/no-build/fs"
printf 'rule no\n command = true\nbuild fs/virt-snapfs: phony\n' >"$W/no-build/build.ninja"
printf '#!/bin/sh\nexit 1\n' >"$W/no-build/fs/virt-snapfs"
chmod 755 "$W/no-build/fs/virt-snapfs"
BUILD=$W/no-build status 'quickstart: a demo that is not mounted' 1 timeout 300 "$E/quickstart.sh"
anew=$(sed -nE 's|.*root=([^)]*)/libvirt\).*|\1|p' <<<"$OUT" | head -n 1)
# masked: what differs from one demo to the next: where it is, when, how much the guest wrote.
masked() { sed -E "s|${1:-/nowhere}|DEMO|g; s/20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9:+]+/DATE/g; s/[A-Z][a-z]{2} +[0-9]+ [0-9:]{5} /DATE /; s/[0-9.]+ (KiB|MiB)/SIZE/g; s/^  total .*/total/; /^  [-d]r/s/ +[0-9]+ DATE/ DATE/; s/ +/ /g"; }
{
	while IFS= read -r line; do
		printf 'printf "%%s\n" %q\n' "\$ $line"
		printf '{ %s; } 2>/dev/null </dev/null | sed "s/^/  /"\n' "$line"
	done <<<"${script//"$made"/"$anew"}"
} >"$W/script"
timeout 120 bash "$W/script" >"$W/script.out"
same 'quickstart: what it types can be typed line by line' "$(grep -E '^(\$|  )' <<<"$said" | masked "$made")" "$(masked "$anew" <"$W/script.out")"
status 'quickstart --stop: that demo' 0 "$E/quickstart.sh" --stop

# It stays up: what it has printed can be typed.
quickstart
mnt=$(sed -nE 's|^\$ env .* ([^ ]*/mnt)$|\1|p' <<<"$OUT")
mounted=$(sed -nE 's/^\$ (env .*)/\1/p' <<<"$OUT")
sed -nE 's/^  ((ls|cat|debugfs) [^#]*).*/\1/p' <<<"$(sed -n '/^== It is up/,$p' <<<"$OUT")" >"$W/look"
check 'quickstart: it proposes to look around' test "$(wc -l <"$W/look")" = 5
check 'quickstart: which is as it says' sh -e "$W/look"
demo_gone() { no_mount_at "$mnt" && ended; }
no_mount_at() { ! is_mounted "$1"; }
fusermount3 -u "$mnt"
check 'quickstart: unmounted' wait_until 20 demo_gone
check 'quickstart: how it was mounted' sh -c "$mounted"
check 'quickstart: mounts it again' grep -q '^wednesday ' "$mnt/web01/snapshots"
status 'quickstart --stop' 0 "$E/quickstart.sh" --stop
check_not 'quickstart --stop: the mount is gone' is_mounted "$mnt"
check_not 'quickstart --stop: and its directory' test -e "$(dirname "$mnt")"
status 'quickstart --stop: nothing is up' 0 "$E/quickstart.sh" --stop
status 'quickstart: a wrong word' 2 "$E/quickstart.sh" --nix
suite_end
