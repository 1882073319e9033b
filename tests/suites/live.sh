#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# live.sh [ROUNDS [SEED]]: QEMU writes, takes and deletes internal snapshots at full speed while threads read them. No byte of
# another snapshot is ever seen, no snapshot that exists throughout a read ever fails, and a deleted one is ESTALE.
set -u
. "$(dirname "$0")/../lib.sh"
suite_begin

READER=$(tool live-reader) || { note_file "$W/build.log"; die "live-reader cannot be built"; }
rounds=${1:-150} seed=${2:-$(date +%s)}
export PYTHONDONTWRITEBYTECODE=1
live() { # NAME ARGUMENT...
	mkdir "$W/$1"
	python3 "$TESTS/images/live.py" "${@:3}" "$2" "$W/$1" "$rounds" "${1%%-*}" "$seed"
}

for mode in writeback none; do
	adopt live "$mode" "$READER"
	if [ -x "$BUILD_ASAN/tests/live-reader" ]; then
		adopt live "$mode-asan" "$BUILD_ASAN/tests/live-reader"
	fi
done

# A reader that cannot find a wrong byte proves nothing.
rounds=5
has "wrong bytes are noticed" "$(live writeback-spoil "$READER" --spoil)" '^FAIL s[0-9]+: wrong byte'
suite_end
