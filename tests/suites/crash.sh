#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# virt-snapfs killed at every numbered fault point (vm/util/fault.h) of every command, on a private libvirtd.
# See tests/control/crash.py and crash_image.py (an image source).
#
#	CRASH_ONLY=all          every scenario and not only the main ones, or those whose names match: CRASH_ONLY='delete*'
#	CRASH_POINT=7           only that point
#	CRASH_ONLY=image        only what is done to a plain image
#	CI=...                  every other point, by the day
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
adopt python3 "$TESTS/control/crash.py" "$W/mnt" "${CRASH_ONLY:-main}" ${CRASH_POINT:+"$CRASH_POINT"}
if [ -z "${CRASH_ONLY:-}" ] || [ "$CRASH_ONLY" = image ]; then adopt python3 "$TESTS/control/crash_image.py" "$W/mnt"; fi
if sanitizer_report "$W/mount.log" >"$W/.report"; then
	fail 'no sanitizer report' "$(head -1 "$W/.report")"
	note_file "$W/.report" 60
else
	ok 'no sanitizer report'
fi
is_mounted "$W/mnt" && umount -l "$W/mnt"
suite_end
