#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Layers that a dead backup program has left become snapshots: shown, reverted to, merged away. See tests/control/adopt.py; for a part of it,
# rows-lib.sh.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
need_fault_points
rows adopt.py
