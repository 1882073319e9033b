#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# chaos.sh [STEPS [SEED...]]: a random walk over everything at once, with interruptions, other tools beside, files that come and go
# and two mounts, compared with a model after every step; see tests/control/chaos.py. Seeds are printed. A walk that fails prints
# its steps: `chaos.sh again FILE...` repeats them, `chaos.sh shrink FILE` makes the list shorter. `chaos.sh lists` repeats the short
# lists in tests/control/chaos.d, each of which has found something once; which says what. Without arguments: those lists,
# and three short walks.
#
#	CHAOS_VERBOSE=1      print each step
#	CHAOS_KEEP=DIR       leave the steps of walks that fail there
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd
chaos() { adopt python3 "$TESTS/control/chaos.py" "$URI" "$W/$1" "$SNAPFS" "${@:2}"; }
if [ $# = 0 ] || [ "$1" = lists ]; then
	chaos lists again "$TESTS"/control/chaos.d/*.steps
	[ $# != 0 ] || chaos walks 50 1 2 3
elif [ $# = 1 ]; then
	chaos walks "$1" "${SEED:-1}"
else
	chaos walks "$@"
fi
suite_end
