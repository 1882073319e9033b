#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What is not known is needed: images that were moved away or cannot be read, other paths to the same file, records that others
# removed, metadata of ours that cannot be understood. Nobody may write to or remove a file that such a thing might stand on. See
# tests/control/unknown.py; for a part of it, rows-lib.sh.
#
#	RACES=6   how often a stranger makes a file at the path that create has planned
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
need_fault_points
rows unknown.py
