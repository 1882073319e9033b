#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# What is said of images and is not so: records that others removed, metadata of ours that cannot be understood, images that were
# moved. See tests/control/records.py; for a part of it, rows-lib.sh.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
rows records.py
