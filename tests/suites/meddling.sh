#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Others do something to the images, at once or long after they were noted, while this is mounted or not: what is right stays readable, what is
# not is seen, and is not forgotten. The cases of tests/control/kill.py that begin with "meddling".
#
#	KILL_ONLY='meddling: a name*'   only the cases whose names match
set -u
KILL_ONLY=${KILL_ONLY:-meddling*} exec bash "$(dirname "$0")/kill.sh" "$@"
