#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# What cannot be finished is not begun, a mount ends while libvirtd hangs, and a merge takes no more room than was said. See
# tests/control/bounds.py; for a part of it, rows-lib.sh.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
need_fault_points
rows bounds.py
