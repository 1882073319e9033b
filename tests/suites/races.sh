#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Our commands and virsh's at the same moment, repeated: how often was something not as both had said? See tests/control/races.py; for
# a part of it, rows-lib.sh.
#
#	RACES=5     how often each race is run
#	SPREAD=0.6  seconds within which the second of the two begins
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
rows races.py
