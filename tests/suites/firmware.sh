#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# What a domain keeps beside its disks: the variables of its firmware and an emulated TPM belong to a snapshot of ours, are put back by
# revert, and are removed with it. Among the guests is one that boots UEFI. See tests/control/firmware.py; for a part of it, rows-lib.sh.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
need_fault_points
rows firmware.py
