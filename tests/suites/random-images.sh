#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# random-images.sh [COUNT [FIRST-SEED]]: images with random histories, compared with QEMU as in differential.sh. A case is
# named after its seed: `random-images.sh 1 SEED` repeats it, KEEP=1 leaves the image of a failure where the note says.
# Without a first seed the day's number is used, so that every day's run sees other images.
set -u
. "$(dirname "$0")/../lib.sh"
suite_begin

Q2=$(tool q2-tool) || { note_file "$W/build.log"; die "q2-tool cannot be built"; }
images=$TESTS/images
export PYTHONDONTWRITEBYTECODE=1
count=${1:-40} first=${2:-$(date +%Y%m%d00)}
note "seeds $first to $((first + count - 1))"

# In portions, so that thousands of images need the room of a few.
for ((seed = first; seed < first + count; seed += 10)); do
	last=$((seed + 9 < first + count ? seed + 9 : first + count - 1))
	# shellcheck disable=SC2046
	python3 "$images/make-random.py" "$W/random" $(seq "$seed" "$last") || die "the images of seeds $seed to $last cannot be made"
	failed=$N_FAIL
	adopt python3 "$images/compare.py" --torture "$Q2" "$W/random/list.json"
	if [ -n "${KEEP:-}" ] && [ "$failed" != "$N_FAIL" ]; then
		kept=$(mktemp -d "${TMPDIR:-/tmp}/random-images.XXXXXX")
		cp -a "$W/random/." "$kept" && note "kept in $kept"
	fi
	rm -rf "$W/random"
done
suite_end
