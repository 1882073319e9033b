#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# restore-file.sh: one file out of a snapshot.
#
#	restore-file.sh [-m] [--unclean] SNAPSHOT.img PATH-IN-GUEST [TARGET]
#
# TARGET is a new file, or a directory (default: the current one). Each partition is looked through, and each logical volume of LVM
# (package lvm2); the first one that has PATH-IN-GUEST is taken. ext2, ext3 and ext4 are read with debugfs, which any user may do who
# can read the image. What else the kernel knows is mounted read-only through a loop device: that needs root, and so does -m, which
# does so with ext as well. Of btrfs the subvolumes that installers make (@rootfs, @, root, @home) are looked through, too.
#
#	restore-file.sh /srv/snapshots/web01/monday.vda.img /etc/motd
#	restore-file.sh /srv/snapshots/web01/monday.vda.img /var/lib/app.db /tmp/app.db
#
# A snapshot of a running guest has file systems in use: what their journals hold is not in place yet, and a file read without it can
# be an old one, or in pieces of several times. So such a journal is replayed first, on a throw-away overlay in $TMPDIR
# (qemu-img and qemu-storage-daemon, packages qemu-utils and qemu-system-common). Where that cannot be done the file is refused; --unclean
# takes it as it lies there. A logical volume that is in several pieces is copied to $TMPDIR first.
#
# The exit status is 0, 1 (one sentence on stderr) or 2 (wrong usage). TARGET is there only when it is whole.
set -u -o pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin

PART='' # what is being written
TMP=''  # everything else
LOOP='' # the loop device in use
# shellcheck disable=SC2329,SC2317
tidy() {
	local status=$?
	if [ -n "$PART" ]; then rm -f -- "$PART"; fi
	if [ -n "$TMP" ]; then
		let_go
		rm -rf --one-file-system -- "$TMP"
	fi
	exit "$status"
}
trap tidy EXIT
trap 'exit 130' INT TERM HUP

note() { printf 'restore-file: %s\n' "$*" >&2; }
give_up() {
	note "$@"
	exit 1
}
USAGE='usage: restore-file.sh [-m] [--unclean] SNAPSHOT.img PATH-IN-GUEST [TARGET]'
usage() {
	echo "$USAGE" >&2
	exit 2
}
if [ $# = 1 ] && { [ "$1" = -h ] || [ "$1" = --help ]; }; then
	echo "$USAGE"
	exit 0
fi
have() { command -v "$1" >/dev/null; }

# ---------------------------------------------------------------- what is in the image

# parts: offset and length in bytes of each partition; of the whole image, if it has none.
parts() {
	local list
	list=$(partx -g -o START,SECTORS -- "$IMAGE" 2>/dev/null)
	if [ -n "$list" ]; then
		awk '$2 > 2 { printf "%.0f %.0f\n", $1 * 512, $2 * 512 }' <<<"$list"
	else
		echo "0 $(stat -c %s -- "$IMAGE")"
	fi
}
tag_of() { blkid -p -O "$1" -S "$2" -s "$3" -o value -- "$IMAGE" 2>/dev/null; } # OFFSET LENGTH TAG
bytes() { dd if="$IMAGE" iflag=skip_bytes,count_bytes bs=4M skip="$1" count="$2" "${@:3}" status=none; } # OFFSET LENGTH [OPERAND...]

# logical_volumes OFFSET LENGTH: of the volume group on that physical volume, those that lie on it alone and in plain
# pieces: OFFSET LENGTH OFFSET LENGTH ..., one volume a line. `pvck` reads a file as well, and needs no root.
logical_volumes() {
	bytes "$1" 4194304 of="$TMP/pv" 2>/dev/null
	pvck --dump metadata "$TMP/pv" 2>/dev/null | awk -v base="$1" -v uuid="$(tag_of "$1" "$2" UUID)" '
		function value() { return substr($0, index($0, "=") + 2) }
		$1 == "extent_size" { extent = $3 * 512 }
		/\{$/ { depth++; name[depth] = $1 }
		name[2] == "physical_volumes" && $1 == "id" && value() == "\"" uuid "\"" { ours = "\"" name[3] "\"" }
		name[2] == "physical_volumes" && $1 == "pe_start" { start["\"" name[3] "\""] = $3 * 512 }
		name[2] == "logical_volumes" && depth == 3 && /\{$/ { line = ""; plain = 1; visible = 0 }
		$1 == "status" && depth == 3 { visible = /"VISIBLE"/ }
		$1 == "extent_count" { count = $3 * extent }
		$1 == "type" && value() != "\"striped\"" { plain = 0 }
		$1 == "stripe_count" && $3 != 1 { plain = 0 }
		$1 == "stripes" { getline; if ($1 != ours ",") plain = 0; line = line sprintf("%.0f %.0f ", base + start[ours] + $2 * extent, count) }
		/^\}/ { if (name[2] == "logical_volumes" && depth == 3 && plain && visible) print line; depth-- }'
}

# volumes: what can have a file system: the partitions, and what is in those of LVM.
volumes() {
	parts | while read -r offset length; do
		if [ "$(tag_of "$offset" "$length" TYPE)" = LVM2_member ] && have pvck; then
			logical_volumes "$offset" "$length"
		else
			echo "$offset $length"
		fi
	done
}

# ---------------------------------------------------------------- one of them: FILE, from byte START, SIZE bytes

# lay_out OFFSET LENGTH...: one piece is read where it is.
lay_out() {
	local at=0
	FILE=$IMAGE START=$1 SIZE=$2
	[ $# -gt 2 ] || return 0
	FILE=$TMP/pieces START=0
	rm -f -- "$FILE"
	while [ $# -gt 0 ]; do
		bytes "$1" "$2" of="$FILE" conv=sparse,notrunc oflag=seek_bytes seek="$at" || give_up "a logical volume could not be copied to $TMP"
		at=$((at + $2))
		shift 2
	done
	truncate -s "$at" -- "$FILE"
	SIZE=$at
}

# overlay: the same, but it can be written to and then thrown away. 1: $WHY
overlay() {
	local tool
	[ "$FILE" = "$IMAGE" ] || return 0 # a copy already
	for tool in qemu-img qemu-storage-daemon; do have "$tool" || { WHY="there is no $tool" && return 1; }; done
	: >"$TMP/volume"
	if qemu-img create -q -f qcow2 "$TMP/cow" "$SIZE" 2>"$TMP/err" && qemu-storage-daemon --daemonize --pidfile "$TMP/pid" \
		--blockdev "driver=file,node-name=image,read-only=on,filename=${IMAGE//,/,,}" \
		--blockdev "driver=raw,node-name=volume,file=image,read-only=on,offset=$START,size=$SIZE" \
		--blockdev "driver=file,node-name=file,filename=${TMP//,/,,}/cow" --blockdev driver=qcow2,node-name=cow,file=file,backing=volume \
		--export "type=fuse,id=cow,node-name=cow,mountpoint=${TMP//,/,,}/volume,writable=on" 2>"$TMP/err"; then
		FILE=$TMP/volume START=0
		return 0
	fi
	WHY=$(tail -n 1 "$TMP/err")
	return 1
}

# let_go: of all that stands on it.
let_go() {
	local pid
	mountpoint -q "$TMP/mnt" 2>/dev/null && umount "$TMP/mnt"
	if [ -n "$LOOP" ]; then losetup -d "$LOOP"; fi
	LOOP=''
	if [ -f "$TMP/pid" ]; then
		pid=$(<"$TMP/pid")
		kill "$pid" 2>/dev/null
		for _ in {1..100}; do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.05
		done
		mountpoint -q "$TMP/volume" 2>/dev/null && fusermount3 -uz "$TMP/volume"
		rm -f -- "$TMP/pid" "$TMP/cow"
	fi
}

# refuse TYPE: what is there may not be what the guest would read.
refuse() {
	give_up "the $1 file system at byte $START was in use, and its journal cannot be replayed: ${WHY:-unknown}; --unclean takes the file as it is"
}
in_use() { note "note: the $1 file system was in use; what its journal holds is not in this file"; }

# ---------------------------------------------------------------- ext, without root

debug() { debugfs -R "$1" "$FILE?offset=$START" 2>&1 | grep -v '^debugfs [0-9]'; }
quoted() { printf '"%s"' "${1//\"/\"\"}"; }

# replay TYPE: as the guest would at its next start, e2fsck finishes what was begun.
replay() {
	local head
	head=$(debug 'show_super_stats -h')
	if ! grep -q '^Filesystem features:.* needs_recovery' <<<"$head" && grep -q '^Filesystem state: *clean$' <<<"$head"; then return; fi
	if [ -n "$UNCLEAN" ]; then
		in_use "$1"
		return
	fi
	overlay || refuse "$1"
	e2fsck -y "$FILE" >"$TMP/err" 2>&1 </dev/null
	if [ $? -ge 4 ]; then WHY=$(grep -v '^e2fsck [0-9]' "$TMP/err" | tail -n 1) && refuse "$1"; fi
}

# by_debugfs TYPE: 1: it is not there
by_debugfs() {
	local about type size flags
	about=$(debug 'show_super_stats -h')
	if ! grep -q '^Filesystem state:' <<<"$about"; then
		SEEN+="(cannot be read: $(head -n 1 <<<"$about"))"
		return 1
	fi
	replay "$1"
	about=$(debug "stat $(quoted "$WHAT")")
	type=$(sed -nE 's/.* Type: ([a-z]+) .*/\1/p' <<<"$about" | head -n 1)
	size=$(sed -nE 's/.* Size: ([0-9]+)$/\1/p' <<<"$about" | head -n 1)
	flags=$(sed -nE 's/.* Flags: (0x[0-9a-f]+)$/\1/p' <<<"$about" | head -n 1)
	case $type in
	regular) ;;
	symlink) give_up "$WHAT is a symbolic link to $(sed -nE 's/^Fast link dest: "(.*)"$/\1/p' <<<"$about"): ask for that" ;;
	'')
		grep -q 'not found' <<<"$about" && return 1
		give_up "the file system at byte $START cannot be read: $(head -n 1 <<<"$about")"
		;;
	*) give_up "$WHAT is no file ($type)" ;;
	esac
	if [ $((${flags:-0} & 0x800)) != 0 ]; then give_up "$WHAT is encrypted"; fi
	debug "dump $(quoted "$WHAT") $(quoted "$PART")" >&2
	[ "$(stat -c %s -- "$PART")" = "$size" ] || give_up "$WHAT could not be written in full to $(dirname "$TARGET")"
}

# ---------------------------------------------------------------- anything else, as root

# attach MODE-OPTION... and mount TYPE: a journal is replayed at once if the device can be written to; if it cannot, and there is
# something to replay, that fails.
attach() {
	LOOP=$(losetup -f --show "$@" -o "$START" --sizelimit "$SIZE" -- "$FILE" 2>"$TMP/err")
}
mounted() { # TYPE OPTIONS
	mkdir -p "$TMP/mnt"
	[ -n "$LOOP" ] && mount -t "$1" -o "ro,nodev,nosuid,noexec$2" -- "$LOOP" "$TMP/mnt" 2>"$TMP/err" && return
	WHY=$(sed -E 's/^mount: [^:]*: *//' "$TMP/err" | grep -v 'dmesg(1)' | head -n 1)
	let_go
	return 1
}

# mount_it TYPE: 1: it cannot be done, and that is not because of a journal
mount_it() {
	local options='' without=''
	case $1 in
	ext[234]) without=,noload ;;
	xfs) options=,nouuid without=,norecovery ;;
	btrfs) without=,rescue=nologreplay ;;
	esac
	attach --read-only
	mounted "$1" "$options" && return
	[ -n "$without" ] || return 1
	if [ -n "$UNCLEAN" ]; then
		attach --read-only
		mounted "$1" "$options$without" && in_use "$1"
		return
	fi
	overlay || refuse "$1"
	attach
	mounted "$1" "$options" && return
	# Can it be read without its journal? Then that is what was in the way.
	attach --read-only
	if mounted "$1" "$options$without"; then refuse "$1"; fi
	return 1
}

# places TYPE: where PATH-IN-GUEST can be in what is mounted. The top of a subvolume of btrfs is inode 256.
places() {
	local first=${WHAT#/} sub
	printf '%s\n' "$WHAT"
	[ "$1" = btrfs ] || return
	first=${first%%/*}
	for sub in @rootfs @ root; do is_subvolume "$sub" && printf '%s\n' "/$sub$WHAT"; done
	is_subvolume "@$first" && printf '%s\n' "/@$WHAT" | sed 's|^/@/|/@|'
}
is_subvolume() { [ "$(stat -c %i -- "$TMP/mnt/$1" 2>/dev/null)" = 256 ]; }

# by_mount TYPE: 1: it is not there
by_mount() {
	local place at
	if ! mount_it "$1"; then
		SEEN+="(cannot be mounted: ${WHY:-unknown})"
		return 1
	fi
	while IFS= read -r place; do
		at=$TMP/mnt$place
		# Links are looked up as the guest would, and not in our own /.
		if [ -f "$at" ] && [ ! -L "$at" ] && [[ $(realpath -- "$at") == "$(realpath -- "$TMP/mnt")"/* ]]; then
			cp -- "$at" "$PART" && [ "$(stat -c %s -- "$PART")" = "$(stat -c %s -- "$at")" ] ||
				give_up "$WHAT could not be written in full to $(dirname "$TARGET")"
			return 0
		elif [ -L "$at" ]; then
			give_up "$WHAT is a symbolic link to $(readlink -- "$at"): ask for that"
		elif [ -e "$at" ]; then
			give_up "$WHAT is no file"
		fi
	done < <(places "$1")
	return 1
}

# ---------------------------------------------------------------- main

BY=debugfs UNCLEAN=''
while [ $# -gt 0 ]; do
	case $1 in
	-m) BY=mount ;;
	--unclean) UNCLEAN=yes ;;
	--) shift && break ;;
	-*) usage ;;
	*) break ;;
	esac
	shift
done
[ $# = 2 ] || [ $# = 3 ] || usage
IMAGE=$1 WHAT=/${2#/} TARGET=${3:-.}
if [ -d "$TARGET" ]; then TARGET=${TARGET%/}/$(basename -- "$WHAT"); fi
if [ ! -e "$IMAGE" ]; then give_up "$IMAGE does not exist"; fi
if [ ! -f "$IMAGE" ] || [ ! -r "$IMAGE" ]; then give_up "$IMAGE cannot be read"; fi
IMAGE=$(realpath -- "$IMAGE")
if [ -e "$TARGET" ] || [ -L "$TARGET" ]; then give_up "$TARGET is there already"; fi
PART=$(mktemp -- "$(dirname -- "$TARGET")/.restore.XXXXXX") || { PART='' && give_up "nothing can be written in $(dirname -- "$TARGET")"; }
TMP=$(mktemp -d) || exit 1
[ "$BY" = debugfs ] || [ "$(id -u)" = 0 ] || give_up '-m needs root'

finish() {
	mv -n -- "$PART" "$TARGET" && [ ! -e "$PART" ] || give_up "$TARGET is there already"
	PART=''
	chmod "$(printf %o $((0666 & ~$(umask))))" -- "$TARGET"
	exit 0
}

SEEN='' WHY=''
while read -r -a pieces; do
	type=$(tag_of "${pieces[0]}" "${pieces[1]}" TYPE)
	SEEN+=" ${type:-unknown}"
	case $BY-$type in
	*-) continue ;;
	*-LVM2_member)
		have pvck || SEEN+='(needs the package lvm2)'
		continue
		;;
	*-swap | *-crypto_LUKS | *-linux_raid_member) continue ;;
	debugfs-ext[234])
		lay_out "${pieces[@]}"
		by_debugfs "$type" && finish
		;;
	*)
		if [ "$(id -u)" != 0 ]; then
			SEEN+='(needs root)'
			continue
		fi
		lay_out "${pieces[@]}"
		by_mount "$type" && finish
		;;
	esac
	let_go
done < <(volumes)
give_up "there is no $WHAT in $IMAGE; looked at:$SEEN"
