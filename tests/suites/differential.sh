#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# differential.sh [GLOB]: every feature of the format, in images that QEMU made, read by us and by QEMU: bytes, sizes, extents,
# of the present content and of every snapshot. GLOB chooses images by name.
set -u
. "$(dirname "$0")/../lib.sh"
suite_begin

Q2=$(tool q2-tool) || { note_file "$W/build.log"; die "q2-tool cannot be built"; }
images=$TESTS/images
export PYTHONDONTWRITEBYTECODE=1

python3 "$images/make-good.py" "$W/good" "${1:-*}" || die "the images cannot be made"
adopt python3 "$images/compare.py" --torture "$Q2" "$W/good/list.json"

# A comparison that cannot fail proves nothing: with one bit of each oracle flipped, it must.
python3 "$images/make-good.py" "$W/spoilt" 'version [23]' || die "the images cannot be made"
out=$(python3 "$images/compare.py" --spoil "$Q2" "$W/spoilt/list.json")
has "one wrong bit is noticed" "$out" '^FAIL version 2: present content: byte [0-9]+ is'
has_not "one wrong bit is noticed in every image" "$out" '^ok'
suite_end
