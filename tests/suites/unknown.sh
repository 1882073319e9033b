#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What is not known: images that were moved away or cannot be read, records that went, other paths to the same file, metadata of ours
# that cannot be understood. Nobody may write to or remove a file that such a thing might stand on. See tests/control/unknown.py.
#
#	ROWS_ONLY='row 5*'   only the cases whose names match
#	ROWS=full            each shut off and running, with one disk and two
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
adopt python3 "$TESTS/control/unknown.py" "$W/mnt"
if sanitizer_report "$W/mount.log" >"$W/.report"; then
	fail 'no sanitizer report' "$(head -1 "$W/.report")"
	note_file "$W/.report" 60
else
	ok 'no sanitizer report'
fi
is_mounted "$W/mnt" && umount -l "$W/mnt"
suite_end
