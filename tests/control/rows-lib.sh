# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
# shellcheck shell=bash
#
# rows-lib.sh: suites whose cases are in Python (witness.py), for those that have read lib.sh and lab.sh and are in their
# namespace.
#
#	ROWS_ONLY='row 5*'   only the cases whose names match
#	ROWS=full            each case in all of its cells: shut off and running, one disk and two
#	CI=...               of some suites (begun, unknown, files) every other case, by the day

# rows PROGRAM [ARGUMENT...]: a libvirtd, and tests/control/PROGRAM at a mount that it makes. Then the suite is over.
rows() {
	local program=$1
	shift
	lab_libvirtd
	mkdir "$W/mnt" "$W/g"
	chmod 755 "$W/g"
	export URI W SNAPFS
	adopt python3 -B "$TESTS/control/$program" "$W/mnt" "$@"
	if sanitizer_report "$W/mount.log" >"$W/.report"; then
		fail 'no sanitizer report' "$(head -1 "$W/.report")"
		note_file "$W/.report" 60
	else
		ok 'no sanitizer report'
	fi
	is_mounted "$W/mnt" && umount -l "$W/mnt"
	suite_end
}

# need_fault_points: a build with -Dfaults=true, as run.sh's second one is; else one is made.
need_fault_points() {
	snapfs_pick
	grep -q VIRT_SNAPFS_FAULT "$SNAPFS" && return
	note 'building one with fault points'
	{ meson setup "$W/build" "$TOP" -Dfaults=true -Dtests=false && ninja -C "$W/build" fs/virt-snapfs; } >"$W/build.log" 2>&1 ||
		die "it does not build: $(tail -3 "$W/build.log")"
	SNAPFS=$W/build/fs/virt-snapfs
}
