#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# QEMU, libvirtd and virt-snapfs killed in the middle of a job, on a private libvirtd; and a foreign revert while unmounted.
# See tests/control/kill.py.
#
#	CI=...                  every other case, by the day
#	KILL_ONLY='libvirtd*'   only the cases whose names match; without it all but those of meddling.sh
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd
mkdir "$W/mnt" "$W/g"
chmod 755 "$W/g"
export URI W SNAPFS
adopt python3 "$TESTS/control/kill.py" "$W/mnt" ${KILL_ONLY:+"$KILL_ONLY"}
if sanitizer_report "$W/mount.log" >"$W/.report"; then
	fail 'no sanitizer report' "$(head -1 "$W/.report")"
	note_file "$W/.report" 60
else
	ok 'no sanitizer report'
fi
is_mounted "$W/mnt" && umount -l "$W/mnt"
suite_end
