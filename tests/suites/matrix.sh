#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Every command x {running, shut off} x {internal, external} x {1, 2 disks} x {linear, branched, shared base}, and histories that
# went wrong once or could. Each step is predicted, tried (`try`), done, and everything that is left is compared with books,
# virsh and QEMU's tools: see tests/control/matrix.py, which does the work through the mounted files. One step is one case,
# and names its cell.
#
# By default each shape runs once with each state and kind, the number of disks taking turns, so that a run stays short.
# In CI (CI is set) every other cell is run, by the day. MATRIX=full runs all of it, on embed too. MATRIX_ONLY=REGEX runs only the cells whose names match.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
cells() { # DIRECTORY: on the libvirt at $URI
	mkdir -p "$1"
	adopt python3 -B "$TESTS/control/matrix.py" "$URI" "$1" "$SNAPFS"
}

note 'on a libvirtd of its own'
lab_libvirtd
cells "$W/libvirtd"

note 'on embed, mounted and unmounted around every question to virsh'
lab_embed
cells "$W/embed"
suite_end
