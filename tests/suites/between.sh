#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# A command killed at a fault point, then another command, then the first one again, on a private libvirtd. See tests/control/between.py.
#
#	BETWEEN_ONLY=all          every point of every scenario with every other command (about a day), or of those whose names match
#	BETWEEN_POINT=7           only that point
#	BETWEEN_TURN=3            which of the others comes first
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
faults_pick
lab_libvirtd
mkdir "$W/mnt" "$W/g"
chmod 755 "$W/g"
export URI W SNAPFS
adopt python3 "$TESTS/control/between.py" "$W/mnt" "${BETWEEN_ONLY:-short}" ${BETWEEN_POINT:+"$BETWEEN_POINT"}
if sanitizer_report "$W/mount.log" >"$W/.report"; then
	fail 'no sanitizer report' "$(head -1 "$W/.report")"
	note_file "$W/.report" 60
else
	ok 'no sanitizer report'
fi
is_mounted "$W/mnt" && umount -l "$W/mnt"
suite_end
