#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Commands that were begun and are not done, with others in between: ours, virsh's, by hand. And what becomes of the paused guest
# that a command has started, in other people's hands. See tests/control/begun.py; for a part of it, rows-lib.sh.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
rows begun.py
