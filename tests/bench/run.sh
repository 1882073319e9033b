#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# tests/bench/run.sh [--quick] [--rounds N] [--out FILE] [PART...]: how fast is it, beside the raw file, qemu-img, qemu-nbd with nbdcopy or nbdfuse, and
# QEMU's own FUSE export, on the same bytes and in turn? And what do size, depth, snapshots and domains cost? At the end each goal has its figure. Absolute times
# say little on a machine that others use: look at ratios, and at CPU time, which is that of who reads and of who serves. It installs what is missing (a contender
# that cannot be had is said to be missing), makes its images once, some 15 GiB, in $BENCH_CACHE (virt-snapfs-bench in $XDG_CACHE_HOME or /var/cache), and
# runs in namespaces of its own. Needs root; SNAPFS or BUILD says what is measured. The figures go to FILE.json, README's picture and table to FILE.svg and FILE.md. --help lists the parts.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
# Before the network is gone.
if [ -z "${VS_NAMESPACE:-}" ] && [ "$(id -u)" = 0 ]; then
	missing=()
	for p in fuse3 qemu-utils qemu-system-common qemu-system-x86 libvirt-daemon-system libvirt-clients libnbd-bin fio python3; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
	done
	[ ${#missing[@]} = 0 ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
		note "not all of these could be installed: ${missing[*]}"
fi
suite_in_namespace "$0" "$@"
suite_begin
export SNAPFS=${SNAPFS:-$BUILD/fs/virt-snapfs}
[ -x "$SNAPFS" ] || die "there is no $SNAPFS: build it, or set SNAPFS or BUILD"
cache=${BENCH_CACHE:-${XDG_CACHE_HOME:-/var/cache}/virt-snapfs-bench}
mkdir -p "$cache" "$W/bench/tmpfs"
mount -t tmpfs tmpfs "$W/bench/tmpfs" || die 'no tmpfs'
at_exit 'umount "$W/bench/tmpfs"'
lab_libvirtd
URI=$URI python3 -B "$TESTS/bench/bench.py" --cache "$cache" --work "$W/bench" "$@"
