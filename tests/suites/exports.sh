#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# exports.sh [COUNT [FIRST-SEED]]: states of images as qcow2 files of their own and as overlays on each other, and images with all their
# snapshots, made while they are read and judged by QEMU: the images of every feature, and some with random histories (of the day, as in
# random-images.sh).
set -u
. "$(dirname "$0")/../lib.sh"
suite_begin

Q2=$(tool q2-tool) || { note_file "$W/build.log"; die "q2-tool cannot be built"; }
images=$TESTS/images
export PYTHONDONTWRITEBYTECODE=1
count=${1:-10} first=${2:-$(date +%Y%m%d00)}
note "seeds $first to $((first + count - 1))"

python3 "$images/make-good.py" "$W/good" '*' || die "the images cannot be made"
adopt python3 "$images/exports.py" "$Q2" "$W/good/list.json"
adopt python3 "$images/copies.py" "$Q2" "$W/good/list.json"
rm -rf "$W/good"
# shellcheck disable=SC2046
python3 "$images/make-random.py" "$W/random" $(seq "$first" $((first + count - 1))) || die "the random images cannot be made"
adopt python3 "$images/exports.py" "$Q2" "$W/random/list.json"
adopt python3 "$images/copies.py" "$Q2" "$W/random/list.json"

# A judge who never condemns proves nothing: with one bit of each made file flipped, he must.
python3 "$images/make-good.py" "$W/spoilt" 'version [23]' || die "the images cannot be made"
out=$(python3 "$images/exports.py" --spoil "$Q2" "$W/spoilt/list.json")
has "one wrong bit is noticed" "$out" '^FAIL version 2: .*(check|compare): '
has_not "one wrong bit is noticed in every image" "$out" '^ok'
out=$(python3 "$images/copies.py" --spoil "$Q2" "$W/spoilt/list.json")
has "one wrong bit of a copy is noticed" "$out" '^FAIL version 2: '
has_not "one wrong bit of a copy is noticed in every image" "$out" '^ok'
suite_end
