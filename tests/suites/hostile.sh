#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# hostile.sh [GLOB]: images that break one rule each. Expected: the exact errno and a message that names the rule, the place
# and the file; the rest of the image readable as ever; no crash, hang or unbounded memory; agreement with QEMU, but for the
# differences that make-hostile.py gives a reason for. Twice: with limits on memory, and with sanitizers. GLOB chooses by name.
set -u
. "$(dirname "$0")/../lib.sh"
suite_begin

Q2=$(tool q2-tool) || { note_file "$W/build.log"; die "q2-tool cannot be built"; }
Q2_ASAN=$(tool q2-tool asan) || { note_file "$W/build.log"; die "q2-tool cannot be built with sanitizers"; }
images=$TESTS/images
export PYTHONDONTWRITEBYTECODE=1

python3 "$images/make-hostile.py" "$W/bad" "${1:-*}" || die "the images cannot be made"
adopt python3 "$images/judge.py" --plain "$Q2" "$W/bad/list.json"
adopt python3 "$images/judge.py" --sanitized "$Q2_ASAN" "$W/bad/list.json"

# A judge that never says no proves nothing: the same images with expectations that are all wrong.
jq '[.[] | .checks[] |= (if .error then .error = "EXDEV" elif .bytes then .bytes = [[1, 3]]
	else .lists = "nothing of this kind" | del(.any) | .state = null end)]' "$W/bad/list.json" >"$W/bad/wrong.json"
has_not "wrong expectations are noticed" "$(python3 "$images/judge.py" --plain "$Q2" "$W/bad/wrong.json")" '^ok'
suite_end
