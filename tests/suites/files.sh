#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Whose a file is: active layers removed under a running guest, guests that stand on the mount itself, strangers' files where an
# overlay was planned, images that two domains write. See tests/control/files.py; for a part of it, rows-lib.sh.
#
#	RACES=6   how often a stranger makes a file at the path that create has planned
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
need_fault_points
rows files.py
