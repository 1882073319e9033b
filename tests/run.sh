#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# tests/run.sh [NAME...]: installs what the tests need (Debian 12 or 13, only what is missing), builds twice (plain, and with
# AddressSanitizer, UndefinedBehaviorSanitizer and the fault points of vm/util/fault.h), and runs the unit tests and every suite
# of tests/suites, or only those named ("unit" is the unit tests). Run it as root or as a user with sudo. The last line is
# "N passed, N failed, N skipped", counted over all cases; the exit status is 1 if anything failed.
#
# Suites run two at a time (three while one of those runs that sleep most), each in namespaces of its own; most of them mainly wait. What one has said is printed when it is done.
#
#	JOBS=2               suites at a time
#	SUITE_TIMEOUT=900    seconds that one suite may take
#	BUILD, BUILD_ASAN    where to build (default: build and build-asan in the checkout)
#	CI                   set: without root every suite fails, instead of being skipped; and what takes long is done in part, or on one day in
#	                     three, for all has to be done in forty minutes, also where the machine has other things to do
#	TURN                 which of the three: 0, 1 or 2 (default: by the day)
set -u
cd "$(dirname "$0")/.." || exit 1
TOP=$PWD
SUITE_TIMEOUT=${SUITE_TIMEOUT:-900}
JOBS=${JOBS:-2}
TURN=${TURN:-$(($(date +%s) / 86400 % 3))}
PASSED=0 FAILED=0 SKIPPED=0
SUMMARY=()
declare -A RUNNING=() LOG=() BEGAN=() # suites, by process
export LC_ALL=C.UTF-8

PACKAGES='build-essential meson ninja-build pkgconf libfuse3-dev libvirt-dev zlib1g-dev libdeflate-dev libzstd-dev libxml2-dev
	libjson-c-dev libnbd-dev libnbd-bin python3-prometheus-client libcriterion-dev uthash-dev fuse3 qemu-utils qemu-system-common qemu-system-x86 seabios libvirt-daemon
	libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-clients e2fsprogs xfsprogs btrfs-progs lvm2 dosfstools mount util-linux iproute2 procps attr jq
	python3 swtpm swtpm-tools ovmf rsync restic borgbackup systemd shellcheck mandoc man-db groff-base'

say() { printf '## %s\n' "$*"; }
last_line() { # STATUS
	printf '%d passed, %d failed, %d skipped\n' "$PASSED" "$FAILED" "$SKIPPED"
	exit "$1"
}
# count NAME PASSED FAILED SKIPPED SECONDS [REMARK]
count() {
	PASSED=$((PASSED + $2)) FAILED=$((FAILED + $3)) SKIPPED=$((SKIPPED + $4))
	SUMMARY+=("$(printf '%-24s %5d passed %4d failed %4d skipped %5d s  %s' "$1" "$2" "$3" "$4" "$5" "${6:-}")")
}
give_up() {
	say "$*"
	FAILED=$((FAILED + 1))
	last_line 1
}

case ${1:-} in
-h | --help)
	sed -n '/^# tests\/run.sh/,/^set -u/{/^set -u/d; s/^# \{0,1\}//; p}' "$0"
	exit 0
	;;
esac
NAMES=("$@")
for n in "${NAMES[@]}"; do
	[ "$n" = unit ] || [ -f "tests/suites/$n.sh" ] || give_up "there is no suite '$n'"
done

# ---------------------------------------------------------------- root, packages

ROOT=()
if [ "$(id -u)" != 0 ]; then
	if command -v sudo >/dev/null && sudo -v; then
		ROOT=(sudo)
	else
		say "not root, and sudo does not help: nothing can be installed, and suites need root"
	fi
fi
missing=()
for p in $PACKAGES; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
	say "installing: ${missing[*]}"
	[ "$(id -u)" = 0 ] || [ ${#ROOT[@]} -gt 0 ] ||
		give_up "these packages are missing, and only root can install them: run this as root or with sudo"
	log=$(mktemp)
	if ! "${ROOT[@]}" apt-get update -q >"$log" 2>&1 </dev/null ||
		! "${ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >>"$log" 2>&1 </dev/null; then
		tail -30 "$log"
		rm -f "$log"
		give_up "apt-get could not install them"
	fi
	rm -f "$log"
fi

# ---------------------------------------------------------------- builds

TEMPORARY=
# shellcheck disable=SC2329,SC2317
tidy() {
	local pid
	for pid in "${!RUNNING[@]}"; do
		"${ROOT[@]}" sh -c 'kill "$1"' sh "$pid"
		rm -f "${LOG[$pid]}"
	done
	if [ -n "$TEMPORARY" ]; then rm -rf "$TEMPORARY"; fi
}
trap tidy EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# build_dir NAME: where that build goes. In the checkout, or, where that cannot be written, in a temporary directory.
build_dir() {
	if [ -d "$TOP/$1" ] && [ -w "$TOP/$1" ] || { [ ! -e "$TOP/$1" ] && [ -w "$TOP" ]; }; then echo "$TOP/$1"; else echo "$TEMPORARY/$1"; fi
}
if [ -z "${BUILD:-}" ] || [ -z "${BUILD_ASAN:-}" ]; then
	TEMPORARY=$(mktemp -d)
	chmod 755 "$TEMPORARY"
fi
BUILD=${BUILD:-$(build_dir build)}
BUILD_ASAN=${BUILD_ASAN:-$(build_dir build-asan)}
export BUILD BUILD_ASAN

# build DIR MESON-OPTION...
build() {
	local dir=$1 log
	shift
	log=$(mktemp)
	say "building in $dir"
	# What is there may have been made without the tests, by quickstart.sh for instance.
	if { { [ -f "$dir/build.ninja" ] && meson configure "$dir" -Dtests=true "$@"; } || meson setup "$dir" "$@"; } >"$log" 2>&1 </dev/null && ninja -C "$dir" >>"$log" 2>&1 </dev/null; then
		rm -f "$log"
		return 0
	fi
	# Left over from another place or another time: once more from nothing.
	if [ -d "$dir/meson-private" ] && rm -rf "$dir" && meson setup "$dir" "$@" >"$log" 2>&1 </dev/null && ninja -C "$dir" >>"$log" 2>&1 </dev/null; then
		rm -f "$log"
		return 0
	fi
	tail -60 "$log"
	rm -f "$log"
	return 1
}
build "$BUILD" || give_up "the build failed"
build "$BUILD_ASAN" -Db_sanitize=address,undefined -Db_lundef=false -Dfaults=true || give_up "the build with sanitizers failed"

# ---------------------------------------------------------------- what runs

wanted() { # NAME: was it asked for?
	local n
	[ ${#NAMES[@]} -gt 0 ] || return 0
	for n in "${NAMES[@]}"; do [ "$n" = "$1" ] && return 0; done
	return 1
}

# units DIR NAME: every unit test executable through meson; a Criterion one counts its cases, any other counts as one.
units() {
	local dir=$1 name=$2 start=$SECONDS out
	say "$name"
	# shellcheck disable=SC2086
	ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		meson test -C "$dir" --no-rebuild --num-processes 2 --print-errorlogs </dev/null 2>&1 | grep -v '^$'
	out=$(python3 - "$dir/meson-logs/testlog.json" <<'PY'
import json, re, sys
ok = bad = skipped = 0
try:
    lines = open(sys.argv[1]).read().splitlines()
except OSError:
    lines = []
for line in lines:
    t = json.loads(line)
    text = re.sub(r"\x1b\[[0-9;]*m", "", t.get("stdout", "") + t.get("stderr", ""))
    m = re.findall(r"Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: (\d+) \| Crashing: (\d+)", text)
    if t["result"] == "SKIP":
        skipped += 1
    elif m:
        p = sum(int(x[1]) for x in m)
        f = sum(int(x[2]) + int(x[3]) for x in m)
        ok += p
        bad += f if f or t["result"] in ("OK", "EXPECTEDFAIL") else 1
    elif t["result"] in ("OK", "EXPECTEDFAIL"):
        ok += 1
    else:
        bad += 1
print(ok, bad, skipped)
PY
	)
	# shellcheck disable=SC2086
	set -- $out
	if [ "${1:-0}" = 0 ] && [ "${2:-0}" = 0 ]; then
		count "$name" 0 1 0 $((SECONDS - start)) 'no unit test ran'
	else
		count "$name" "$1" "$2" "$3" $((SECONDS - start))
	fi
}

# begin NAME: starts that suite.
begin() {
	local log
	log=$(mktemp)
	"${ROOT[@]}" env CI="${CI:-}" BUILD="$BUILD" BUILD_ASAN="$BUILD_ASAN" timeout -k 20 "$SUITE_TIMEOUT" bash "tests/suites/$1.sh" >"$log" 2>&1 </dev/null &
	RUNNING[$!]=$1 LOG[$!]=$log BEGAN[$!]=$SECONDS
}
# reap: waits for one of them, prints what it has said, and counts it.
reap() {
	local pid st name log last took
	wait -n -p pid "${!RUNNING[@]}"
	st=$?
	name=${RUNNING[$pid]} log=${LOG[$pid]} took=$((SECONDS - BEGAN[$pid]))
	unset "RUNNING[$pid]"
	say "$name"
	cat "$log"
	last=$(tail -n 1 "$log")
	rm -f "$log"
	if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		if [ "$st" != 0 ] && [ "${BASH_REMATCH[2]}" = 0 ]; then
			count "$name" "${BASH_REMATCH[1]}" 1 "${BASH_REMATCH[3]}" "$took" "ended with status $st"
		else
			count "$name" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}" "$took"
		fi
	elif [ "$st" = 124 ] || [ "$st" = 137 ]; then
		count "$name" 0 1 0 "$took" "not done after $SUITE_TIMEOUT s"
	else
		count "$name" 0 1 0 "$took" "died (status $st) without its closing line"
	fi
}
# in_order: the suites that were asked for, those that take long first, so that no long one is left alone at the end.
in_order() {
	local s long=(kill matrix meddling crash between chaos trouble jobs random-commands guards begun unknown hostile examples)
	for s in "${long[@]}"; do [ -f "tests/suites/$s.sh" ] && wanted "$s" && echo "$s"; done
	for s in tests/suites/*.sh; do
		s=$(basename "$s" .sh)
		[[ " ${long[*]} " == *" $s "* ]] || { wanted "$s" && echo "$s"; }
	done
}

# another_day NAME: in CI, is it not the turn of that suite?
another_day() {
	local i turns=('crash now chaos made space leases'
		'kill between begun jobs races records exports'
		'meddling scale random-commands hostile firmware live advice sizes bounds agent unknown elsewhere')
	local on_the_next='disks clients guards examples' # .ci/run has them done on the next Debian then
	[ -n "${CI:-}" ] && [ ${#NAMES[@]} = 0 ] || return
	for i in 0 1 2; do
		[ "$i" != "$TURN" ] && [[ " ${turns[i]} " == *" $1 "* ]] && return
	done
	[ "$TURN" = 0 ] && [[ " $on_the_next " == *" $1 "* ]]
}

# room: how many may run now. Some sleep for most of their time: beside one of these there is room for one more.
room() { [[ " ${RUNNING[*]-} " =~ \ (kill|meddling|begun|unknown|agent|leases|libvirtd)\  ]] && echo $((JOBS + 1)) || echo "$JOBS"; }

# Of the suites: somebody else's mount may come and go meanwhile.
traces() {
	grep -c '/vs\.[^ ]* fuse\.virt-snapfs' /proc/mounts
	for p in $(pgrep '^virt-snapfs$'); do readlink "/proc/$p/exe"; done | grep -c -e "^$BUILD/" -e "^$BUILD_ASAN/"
	losetup -a 2>/dev/null | wc -l
}
# left_behind: is there more of anything than before? Less is somebody else's doing, as loop devices are everybody's.
left_behind() { paste <(echo "$before") <(traces) | awk '$2 > $1 { more = 1 } END { exit !more }'; }
before=$(traces)
if wanted unit; then
	units "$BUILD" 'unit'
	units "$BUILD_ASAN" 'unit (sanitizers)'
fi
for s in $(in_order); do
	if another_day "$s"; then
		count "$s" 0 0 1 0 'in CI on another day'
		continue
	fi
	while [ ${#RUNNING[@]} -ge "$(room)" ]; do reap; done
	begin "$s"
done
while [ ${#RUNNING[@]} -gt 0 ]; do reap; done
for _ in {1..20}; do # what a namespace held goes a moment after it
	left_behind || break
	sleep 0.5
done
if ! left_behind; then
	count 'nothing is left behind' 1 0 0 0
else
	count 'nothing is left behind' 0 1 0 0 "mounts, processes, loop devices: $(echo "$before" | xargs) before, $(traces | xargs) after"
fi

say summary
printf '%s\n' "${SUMMARY[@]}"
[ "$FAILED" = 0 ]
last_line $?
