#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# random-commands.sh [STEPS [SEED]]: random commands on several domains, through ctl and behind its back, compared with a model
# after every step. The seed is printed; without one (here or as SEED=...) it is 1, so that a run can be compared with the last
# one. A walk that fails prints its steps: random-commands.sh again FILE repeats those.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd

FIRST=${1:-200}
SECOND=${2:-${SEED:-1}}
adopt python3 "$TESTS/control/walk.py" "$URI" "$W/walk" "$SNAPFS" "$FIRST" "$SECOND"
suite_end
