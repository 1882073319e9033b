#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# What is not known is needed: images that were moved away or cannot be read, other paths to the same file, images of other users.
# Nobody may write to or remove a file that such a thing might stand on. See tests/control/unknown.py; for a part of it, rows-lib.sh.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
rows unknown.py
