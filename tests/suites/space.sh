#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# space.sh [COUNT [FIRST-SEED]]: what snapshots take, and what deleting them frees: foretold of images with random histories, and then
# done by QEMU (of the day, as in random-images.sh).
set -u
. "$(dirname "$0")/../lib.sh"
suite_begin

Q2=$(tool q2-tool) || { note_file "$W/build.log"; die "q2-tool cannot be built"; }
images=$TESTS/images
export PYTHONDONTWRITEBYTECODE=1
count=${1:-20} first=${2:-$(date +%Y%m%d00)}
note "seeds $first to $((first + count - 1))"

# shellcheck disable=SC2046
adopt python3 "$images/usage.py" "$Q2" "$W/random" $(seq "$first" $((first + count - 1)))

# A judge who never condemns proves nothing.
out=$(python3 "$images/usage.py" --spoil "$Q2" "$W/spoilt" 1 2)
has "a wrong figure is noticed" "$out" '^FAIL history 1: '
has_not "a wrong figure is noticed of every image" "$out" '^ok'
suite_end
