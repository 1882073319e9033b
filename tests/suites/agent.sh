#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# `create NAME quiesce` with a guest agent that answers, hangs, is late, dies, refuses, or is not there. The guest is
# agent-port.c, which does no more than open the agent's port. See tests/control/quiesce.py; for a part of it, rows-lib.sh.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/rows-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
gcc -m32 -O1 -ffreestanding -fno-pic -fno-stack-protector -nostdlib -static -Wl,-Ttext=0x100000,--build-id=none \
	-o "$W/port" "$TESTS/control/agent-port.c" || die "the guest does not build"
rows quiesce.py "$W/port"
