#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# restore-file.sh: one file out of a snapshot.
#
#	restore-file.sh [-m] SNAPSHOT.img PATH-IN-GUEST [TARGET]
#
# TARGET is a new file, or a directory (default: the current one). Each partition is looked through, the first one that has
# PATH-IN-GUEST is taken. ext2, ext3 and ext4 are read with debugfs, which any user may do who can read the image. What else the
# kernel knows is mounted read-only through a loop device: that needs root, and so does -m, which does so with ext as well.
#
#	restore-file.sh /srv/snapshots/web01/monday.vda.img /etc/motd
#	restore-file.sh /srv/snapshots/web01/monday.vda.img /var/lib/app.db /tmp/app.db
#
# The exit status is 0, 1 (one sentence on stderr) or 2 (wrong usage). TARGET is there only when it is whole.
set -u -o pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin

PART='' # what is being written
DIR=''  # where it is mounted
# shellcheck disable=SC2329,SC2317
tidy() {
	local status=$?
	if [ -n "$PART" ]; then rm -f -- "$PART"; fi
	if [ -n "$DIR" ]; then
		mountpoint -q "$DIR" && umount "$DIR"
		rmdir "$DIR"
	fi
	exit $status
}
trap tidy EXIT
trap 'exit 130' INT TERM HUP

give_up() {
	printf 'restore-file: %s\n' "$*" >&2
	exit 1
}
usage() {
	echo 'usage: restore-file.sh [-m] SNAPSHOT.img PATH-IN-GUEST [TARGET]' >&2
	exit 2
}

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
type_of() { blkid -p -O "$1" -S "$2" -s TYPE -o value -- "$IMAGE" 2>/dev/null; } # OFFSET LENGTH
debug() { debugfs -R "$2" "$IMAGE?offset=$1" 2>&1 | grep -v '^debugfs [0-9]'; }    # OFFSET REQUEST
quoted() { printf '"%s"' "${1//\"/\"\"}"; }

# ---------------------------------------------------------------- ext, without root

# by_debugfs OFFSET: 1: it is not there
by_debugfs() {
	local about type size
	about=$(debug "$1" "stat $(quoted "$WHAT")")
	type=$(sed -nE 's/.* Type: ([a-z]+) .*/\1/p' <<<"$about" | head -n 1)
	size=$(sed -nE 's/.* Size: ([0-9]+)$/\1/p' <<<"$about" | head -n 1)
	case $type in
	regular) ;;
	symlink) give_up "$WHAT is a symbolic link to $(sed -nE 's/^Fast link dest: "(.*)"$/\1/p' <<<"$about"): ask for that" ;;
	'')
		grep -q 'not found' <<<"$about" && return 1
		give_up "the file system cannot be read: $(head -n 1 <<<"$about")"
		;;
	*) give_up "$WHAT is no file ($type)" ;;
	esac
	grep -q '^Filesystem features:.* needs_recovery' <<<"$(debug "$1" 'show_super_stats -h')" &&
		echo 'restore-file: note: the file system was in use; what its journal holds is not in it yet (nor is it with -m)' >&2
	debug "$1" "dump $(quoted "$WHAT") $(quoted "$PART")" >&2
	[ "$(stat -c %s -- "$PART")" = "$size" ] || give_up "$WHAT could not be written in full to $(dirname "$TARGET")"
}

# ---------------------------------------------------------------- anything else, as root

# by_mount OFFSET LENGTH TYPE
by_mount() {
	local options=loop,ro,nodev,nosuid,noexec,offset=$1,sizelimit=$2 status=0
	case $3 in
	ext[234]) options+=,noload ;;
	xfs) options+=,norecovery,nouuid ;;
	esac
	DIR=${DIR:-$(mktemp -d)} || exit 1
	mount -t "$3" -o "$options" -- "$IMAGE" "$DIR" || give_up "the $3 file system at byte $1 cannot be mounted (see above)"
	# Links are looked up as the guest would, and not in our own /.
	if [ -f "$DIR$WHAT" ] && [ ! -L "$DIR$WHAT" ] && [[ $(realpath -- "$DIR$WHAT") == "$DIR"/* ]]; then
		cp -- "$DIR$WHAT" "$PART" && [ "$(stat -c %s -- "$PART")" = "$(stat -c %s -- "$DIR$WHAT")" ] ||
			give_up "$WHAT could not be written in full to $(dirname "$TARGET")"
	elif [ -L "$DIR$WHAT" ]; then
		give_up "$WHAT is a symbolic link to $(readlink -- "$DIR$WHAT"): ask for that"
	elif [ -e "$DIR$WHAT" ]; then
		give_up "$WHAT is no file"
	else
		status=1
	fi
	umount "$DIR"
	return $status
}

# ---------------------------------------------------------------- main

BY=debugfs
while getopts m option; do
	case $option in
	m) BY=mount ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# = 2 ] || [ $# = 3 ] || usage
IMAGE=$1 WHAT=/${2#/} TARGET=${3:-.}
if [ -d "$TARGET" ]; then TARGET=${TARGET%/}/$(basename -- "$WHAT"); fi
if [ ! -f "$IMAGE" ] || [ ! -r "$IMAGE" ]; then give_up "$IMAGE cannot be read"; fi
if [ -e "$TARGET" ] || [ -L "$TARGET" ]; then give_up "$TARGET is there already"; fi
PART=$(mktemp -- "$(dirname -- "$TARGET")/.restore.XXXXXX") || { PART='' && give_up "nothing can be written in $(dirname -- "$TARGET")"; }
[ "$BY" = debugfs ] || [ "$(id -u)" = 0 ] || give_up '-m needs root'

seen=''
while read -r offset length; do
	type=$(type_of "$offset" "$length")
	seen+=" ${type:-unknown}"
	case $BY-$type in
	debugfs-ext[234]) by_debugfs "$offset" || continue ;;
	*-) continue ;;
	*-swap | *-LVM2_member | *-crypto_LUKS | *-linux_raid_member) continue ;;
	*)
		if [ "$(id -u)" != 0 ]; then
			seen+='(needs root)'
			continue
		fi
		by_mount "$offset" "$length" "$type" || continue
		;;
	esac
	mv -n -- "$PART" "$TARGET" && [ ! -e "$PART" ] || give_up "$TARGET is there already"
	PART=''
	chmod "$(printf %o $((0666 & ~$(umask))))" -- "$TARGET"
	exit 0
done < <(parts)
give_up "there is no $WHAT in $IMAGE; looked at:$seen"
