#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# incremental.sh: a domain's snapshots as files in a directory: the first one whole, each later one as what changed since.
#
#	incremental.sh [--plain] backup MOUNTPOINT/DOMAIN DIRECTORY
#	incremental.sh [--plain] list DIRECTORY
#	incremental.sh [--plain] restore DIRECTORY/TARGET/NAME IMAGE
#
# `backup` adds every snapshot that can be read and is not there yet, oldest first; `restore` makes the raw file IMAGE of one. What changed
# comes from diff/ of the mount: only that is read, and no bitmap has to be kept in the guest's images for it. For another host:
# `rsync -a DIRECTORY/ host:DIRECTORY/`, which sends what is new, because no file of the directory ever changes.
#
#	DIRECTORY/vda/monday.qcow2       whole                           --plain: monday.img
#	DIRECTORY/vda/tuesday.qcow2      an overlay on monday.qcow2      --plain: tuesday.json and tuesday.data
#	DIRECTORY/vda/tuesday.id         which snapshot that is: inode number, time and size of its image, and on what it stands
#
# An overlay is restored with qemu-img. With --plain nothing but dd is needed: the bytes of .data, one behind the other, belong where .json
# says, in the file of the snapshot before, and what is "zero" there has no bytes in .data.
#
# A name that is used again, for another snapshot, is noticed by its .id: then nothing is taken for what it is not. What a snapshot
# was compared with has to be in the mount still, as it was; where none of those that were backed up is, the next one is whole again.
# Silent when all went well. Else each problem is a line on stderr, and the exit status is 1 (2: wrong usage).
set -u -o pipefail
export LC_ALL=C.UTF-8

FAILED=0
problem() {
	printf 'incremental: %s\n' "$*" >&2
	FAILED=1
}
give_up() {
	problem "$*"
	exit 1
}
USAGE='usage: incremental.sh [--plain] backup MOUNTPOINT/DOMAIN DIRECTORY
       incremental.sh [--plain] list DIRECTORY
       incremental.sh [--plain] restore DIRECTORY/TARGET/NAME IMAGE'
usage() {
	echo "$USAGE" >&2
	exit 2
}

# identity IMAGE: the same number, time and size: the same snapshot.
identity() { stat -c '%i %.9Y %s' -- "$1"; }

# in_place TEMPORARY... : what was written is on the disk before it has its name.
in_place() {
	local f
	sync -- "$@" || return
	for f; do mv -- "$f" "${f%.new}" || return; done
}

# copy_data JSON IMAGE: the bytes of what changed, one behind the other
copy_data() {
	local start length
	while read -r start length; do
		dd if="$2" bs=1M iflag=skip_bytes,count_bytes,fullblock skip="$start" count="$length" status=none || return
	done < <(jq -r '.[] | select(.zero | not) | "\(.start) \(.length)"' "$1")
}

# save_whole STEM FILE...: STEM is where it goes, without an ending
save_whole() {
	if [ -n "$PLAIN" ]; then
		cp --sparse=always -- "$DOMAIN/$3" "$1.img.new" && in_place "$1.img.new"
	else
		cp -- "$DOMAIN/qcow2/${3%.img}.qcow2" "$1.qcow2.new" && in_place "$1.qcow2.new"
	fi
}

# save_difference STEM NAME FILE BASE: BASE is the name of the snapshot before
save_difference() {
	local diff="$DOMAIN/diff/$4..${3%.img}"
	if [ -n "$PLAIN" ]; then
		cp -- "$diff.json" "$1.json.new" && copy_data "$1.json.new" "$DOMAIN/$3" >"$1.data.new" && in_place "$1.json.new" "$1.data.new"
	else
		cp -- "$diff.qcow2" "$1.qcow2.new" && chmod u+w -- "$1.qcow2.new" &&
			qemu-img rebase -q -u -f qcow2 -F qcow2 -b "./$4.qcow2" "$1.qcow2.new" && in_place "$1.qcow2.new"
	fi
}

# save TARGET NAME FILE: one disk of one snapshot
save() {
	local at="$DIR/$1" stem="$DIR/$1/$2" id base=${LAST[$1]-}
	id=$(identity "$DOMAIN/$3") || return
	if [ -e "$stem.id" ]; then
		[ "$(cut -d' ' -f1-3 <"$stem.id")" = "$id" ] && LAST[$1]=$2 && return
		problem "$at has another snapshot of the name '$2': rename its files there, or this snapshot; it is not backed up"
		return 1
	fi
	mkdir -p -- "$at" || return
	if [ -n "$base" ]; then
		save_difference "$stem" "$2" "$3" "$base"
	else
		save_whole "$stem" "$2" "$3"
	fi || { problem "$3 could not be saved in $at"; return 1; }
	# It was not exchanged for another one while it was copied.
	[ "$(identity "$DOMAIN/$3")" = "$id" ] || { problem "$3 is another snapshot by now: what was copied of it is not kept"; rm -f -- "$stem".*; return 1; }
	[ -z "$base" ] || [ "$(identity "$DOMAIN/$base.${3##"$2".}")" = "$(cut -d' ' -f1-3 <"$at/$base.id")" ] ||
		{ problem "'$base', with which '$2' was compared, is another snapshot by now: that is not kept"; rm -f -- "$stem".*; return 1; }
	printf '%s %s\n' "$id" "${base:+./$base}" >"$stem.id.new" && in_place "$stem.id.new" && LAST[$1]=$2
}

backup() {
	local target name file
	declare -gA LAST=() # by target: the newest that is in both
	[ -d "$DOMAIN" ] || give_up "there is no domain at $DOMAIN"
	mkdir -p -- "$DIR" || exit 1
	exec 9<"$DIR"
	flock -n 9 || give_up "an earlier run is still on at $DIR; nothing was done"
	find "$DIR" -name '*.new' -delete
	while IFS=$'\t' read -r target name file; do
		save "$target" "$name" "$file"
	done < <(jq -r '.snapshots[] | .file as $name | .disks[] | select(.file != null and (.state == "ok" or .state == "detached")) |
		[.target, $name, .file] | join("\t")' "$DOMAIN/snapshots.json")
}

# apply JSON DATA IMAGE
apply() {
	local start length zero from=0
	while read -r start length zero; do
		if [ "$zero" = true ]; then
			dd if=/dev/zero of="$3" bs=1M iflag=count_bytes,fullblock oflag=seek_bytes seek="$start" count="$length" conv=notrunc status=none || return
		else
			dd if="$2" of="$3" bs=1M iflag=skip_bytes,count_bytes,fullblock oflag=seek_bytes skip="$from" seek="$start" count="$length" \
				conv=notrunc status=none || return
			from=$((from + length))
		fi
	done < <(jq -r '.[] | "\(.start) \(.length) \(.zero)"' "$1")
}

# restore_plain STEM IMAGE: what it stands on first
restore_plain() {
	local base size
	read -r _ _ size base <"$1.id" || return
	if [ -z "$base" ]; then
		cp --sparse=always -- "$1.img" "$2" && chmod u+w -- "$2"
		return
	fi
	restore_plain "$(dirname -- "$1")/$base" "$2" && truncate -s "$size" -- "$2" && apply "$1.json" "$1.data" "$2"
}

PLAIN=
if [ "${1-}" = --plain ]; then
	PLAIN=yes
	shift
fi
case ${1-} in
-h | --help)
	echo "$USAGE"
	;;
backup)
	[ $# = 3 ] || usage
	DOMAIN=$(realpath -e -- "$2" 2>/dev/null) || give_up "there is no $2"
	DIR=$3
	backup
	;;
list)
	[ $# = 2 ] || usage
	find "$2" -name '*.id' -printf '%P\n' | sed 's/\.id$//' | sort
	;;
restore)
	[ $# = 3 ] || usage
	[ -e "$2.id" ] || give_up "there is no backup $2"
	[ ! -e "$3" ] || give_up "$3 is there already"
	if [ -n "$PLAIN" ]; then restore_plain "$2" "$3"; else qemu-img convert -q -f qcow2 -O raw "$2.qcow2" "$3"; fi ||
		{ rm -f -- "$3"; give_up "$2 could not be restored"; }
	;;
*) usage ;;
esac
exit $FAILED
