#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# nightly.sh: tonight's snapshot of each domain, and a backup of what its snapshots hold, with restic. For cron.
#
#	nightly.sh MOUNTPOINT DOMAIN...
#
# Where the backup goes is restic's own business: RESTIC_REPOSITORY (or RESTIC_REPOSITORY_FILE) and RESTIC_PASSWORD_FILE, or
# whatever else restic reads from the environment. Say once how many snapshots each domain keeps (echo 7 > MOUNTPOINT/DOMAIN/retain);
# without that none is ever dropped. In /etc/cron.d:
#
#	RESTIC_REPOSITORY=/backup/restic
#	RESTIC_PASSWORD_FILE=/etc/restic-password
#	15 2 * * * root /usr/local/sbin/nightly.sh /srv/snapshots web01 db01
#
# Silent when all went well. Otherwise each problem is a line on stderr, and the exit status is 1 (2: wrong usage); the other
# domains are done all the same. While an earlier run is still at it, a second one does nothing and says so.
#
# Why in this order: all snapshots first, so that they are of one moment, nearly; then the pruning, so that nothing which restic has
# listed is dropped before restic has read it; then the backup. It needs no holds, for a file that is being read is not pruned.
# An image which could not be read to its end makes restic's snapshot incomplete: it is then tagged so, and the run fails.
set -u -o pipefail
export LC_ALL=C.UTF-8

NIGHT=auto-$(date +%Y-%m-%d-%H%M%S)
FAILED=0

problem() {
	printf 'nightly: %s\n' "$*" >&2
	FAILED=1
}
give_up() {
	problem "$*"
	exit 1
}
USAGE='usage: nightly.sh MOUNTPOINT DOMAIN...'
usage() {
	echo "$USAGE" >&2
	exit 2
}
if [ $# = 1 ] && { [ "$1" = -h ] || [ "$1" = --help ]; }; then
	echo "$USAGE"
	exit 0
fi

# tell DOMAIN COMMAND: through ctl; what comes of it stands in there.
tell() {
	{ printf '%s\n' "$2" >"$MNT/$1/ctl"; } 2>/dev/null && return
	problem "$1: $(head -n 1 "$MNT/$1/ctl" 2>&1)"
	return 1
}

# complete DOMAIN: is tonight's snapshot there, with all its disks? A disk that cannot be shown would be missing from the backup.
complete() {
	local state
	state=$(awk -v name="$NIGHT" '$1 == name { print $3 }' "$MNT/$1/snapshots")
	[ "$state" = ok ] && return
	problem "$1: snapshot $NIGHT is ${state:-not there}, so it is not backed up: see $MNT/$1/snapshots.json"
	return 1
}

# back_up DOMAIN: its images and definitions; the other files are about the present.
back_up() {
	local log status id
	log=$(restic backup --tag virt-snapfs \
		--exclude "$MNT/*/ctl" --exclude "$MNT/*/retain*" --exclude "$MNT/*/jobs" --exclude "$MNT/*/chain" --exclude "$MNT/*/log" \
		"$MNT/$1" 2>&1)
	status=$?
	[ $status = 0 ] && return
	problem "$1: restic failed (status $status): $(grep -iE 'error|fatal|cannot|denied|no space' <<<"$log" | head -n 3 | tr '\n' ' ')"
	# 3: it has saved a snapshot, but something could not be read.
	id=$(sed -nE 's/^snapshot ([0-9a-f]+) saved$/\1/p' <<<"$log")
	if [ -n "$id" ]; then
		problem "$1: restic's snapshot $id is incomplete"
		restic tag -q --add incomplete "$id" >/dev/null || problem "$1: and it could not be tagged so"
	fi
	return 1
}

[ $# -ge 2 ] || usage
MNT=$(realpath -e -- "$1" 2>/dev/null) || give_up "there is no $1"
shift
command -v restic >/dev/null || give_up 'restic is not installed'

# The lock is on the mountpoint itself: it goes with the process, however that ends.
exec 9<"$MNT" || give_up "$MNT cannot be opened"
flock -n 9 || give_up "an earlier run is still on at $MNT; nothing was done"
mountpoint -q -- "$MNT" || give_up "nothing is mounted at $MNT"
why=$(restic -q cat config 2>&1 >/dev/null) || give_up "the backup's repository cannot be opened: $(paste -sd ' ' <<<"$why")"

taken=()
for domain; do
	if [ ! -d "$MNT/$domain" ]; then
		problem "there is no domain '$domain' at $MNT"
	elif [ ! -w "$MNT/$domain/ctl" ]; then
		problem "$domain: snapshots cannot be taken by this user, or through this mount (ro)"
	elif tell "$domain" "create $NIGHT"; then
		taken+=("$domain")
	fi
done
for domain in "${taken[@]}"; do tell "$domain" prune; done
for domain in "${taken[@]}"; do
	if complete "$domain"; then back_up "$domain"; fi
done
exit $FAILED
