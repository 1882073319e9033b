# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
# shellcheck shell=bash
#
# lib.sh: what every suite shares. A suite reads
#
#	set -u
#	. "$(dirname "$0")/../lib.sh"
#	suite_in_namespace "$0" "$@"      # optional: private mounts and processes, see there
#	suite_begin
#	...
#	suite_end
#
# One line per case on stdout: `ok NAME`, `FAIL NAME: why`, `skip NAME: why`. Everything else begins with `# `. The last
# line is `N passed, N failed, N skipped`; the exit status is 1 if anything failed. A suite that dies before suite_end
# prints no such line, and run.sh counts that as a failure.
#
# $W is the suite's own directory; it goes at the end. Processes are ended by the id that was noted when they were
# started, mounts by the path where they were made; nothing else is ever touched.

TESTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(dirname "$TESTS")
BUILD=${BUILD:-$TOP/build}
BUILD_ASAN=${BUILD_ASAN:-$TOP/build-asan}
export TESTS TOP BUILD BUILD_ASAN
export LC_ALL=C.UTF-8 TZ=UTC
PATH=$PATH:/usr/sbin:/sbin
umask 022

# A sanitizer report ends the program with status 99 and is found in its log. WHOLE_STACKS, set before this is read: an allocation's stack
# is followed through libraries too, at twice the time; else it ends in GLib, whose callers are not known then (lsan-short.supp).
export ASAN_OPTIONS=exitcode=99:detect_leaks=1:abort_on_error=0:fast_unwind_on_malloc=$((${WHOLE_STACKS:-0} == 0))
export UBSAN_OPTIONS=halt_on_error=1:exitcode=99:print_stacktrace=1
LSAN_OPTIONS=exitcode=99:print_suppressions=0:suppressions=$TESTS/lsan$([ "${WHOLE_STACKS:-0}" != 0 ] || echo -short).supp
export LSAN_OPTIONS

N_OK=0 N_FAIL=0 N_SKIP=0
AT_EXIT=()
W=

# ---------------------------------------------------------------- counting

note() { printf '# %s\n' "$*"; }
# note_file FILE [LINES]: its end, as notes.
note_file() { [ -s "$1" ] && tail -n "${2:-40}" "$1" | sed 's/^/#   /'; return 0; }

ok() { N_OK=$((N_OK + 1)); printf 'ok %s\n' "$1"; }
fail() { N_FAIL=$((N_FAIL + 1)); printf 'FAIL %s: %s\n' "$1" "${2:-failed}"; }
skip() { N_SKIP=$((N_SKIP + 1)); printf 'skip %s: %s\n' "$1" "$2"; }

# check NAME COMMAND...: ok if the command succeeds.
check() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		ok "$name"
	else
		fail "$name" "'$*' failed (status $?): $(head -c 500 <<<"$out" | tr '\n' ' ')"
	fi
}

# check_not NAME COMMAND...: ok if the command fails.
check_not() {
	local name=$1
	shift
	if "$@" >/dev/null 2>&1; then fail "$name" "'$*' succeeded"; else ok "$name"; fi
}

# same NAME WANT GOT
same() {
	if [ "$2" = "$3" ]; then ok "$1"; else fail "$1" "expected '$2', got '$3'"; fi
}

# has NAME TEXT PATTERN (extended regular expression, any line)
has() {
	if grep -Eq -e "$3" <<<"$2"; then
		ok "$1"
	else
		fail "$1" "no line matches /$3/ in: $(head -c 600 <<<"$2" | tr '\n' '|')"
		return 1
	fi
}

# has_not NAME TEXT PATTERN
has_not() {
	if grep -Eq -e "$3" <<<"$2"; then fail "$1" "a line matches /$3/: $(grep -Em1 -e "$3" <<<"$2")"; else ok "$1"; fi
}

# status NAME WANT COMMAND...: its exit status. Its output is left in $OUT (stdout) and $ERR (stderr).
status() {
	local name=$1 want=$2 got
	shift 2
	run "$@"
	got=$?
	if [ "$got" = "$want" ]; then ok "$name"; else fail "$name" "status $got instead of $want: $(head -c 300 <<<"$ERR" | tr '\n' ' ')"; fi
}
# run COMMAND...: fills $OUT and $ERR, returns its status.
run() {
	local st
	"$@" >"$W/.out" 2>"$W/.err" </dev/null
	st=$?
	OUT=$(tr -d '\0' <"$W/.out") ERR=$(tr -d '\0' <"$W/.err")
	return $st
}
# shellcheck disable=SC2034
OUT='' ERR=''

# adopt COMMAND...: a program that prints `ok`, `FAIL` and `skip` lines itself; they are counted here. Ending with a status
# that its lines do not explain is a failure, too.
adopt() {
	local line bad=$N_FAIL st
	while IFS= read -r line; do
		case $line in
		'ok '*) N_OK=$((N_OK + 1)) ;;
		'FAIL '*) N_FAIL=$((N_FAIL + 1)) ;;
		'skip '*) N_SKIP=$((N_SKIP + 1)) ;;
		esac
		printf '%s\n' "$line"
	done < <("$@" 2>&1)
	wait $!
	st=$?
	if [ "$st" != 0 ] && [ "$bad" = "$N_FAIL" ]; then fail "$(basename "$1")" "ended with status $st"; fi
}

# tool NAME [asan]: prints the path of the test program tests/NAME in $BUILD (or $BUILD_ASAN); one that was not built there
# is built under $W.
tool() {
	local dir=$BUILD options=()
	if [ "${2:-}" = asan ]; then
		dir=$BUILD_ASAN options=('-Db_sanitize=address,undefined' -Db_lundef=false)
	fi
	if [ ! -x "$dir/tests/$1" ]; then
		dir=$W/build${2:+-$2}
		{ [ -d "$dir" ] || meson setup "$dir" "$TOP" "${options[@]}"; } >>"$W/build.log" 2>&1
		ninja -C "$dir" "tests/$1" >>"$W/build.log" 2>&1
	fi
	printf '%s\n' "$dir/tests/$1"
	[ -x "$dir/tests/$1" ]
}

# errno_of COMMAND...: the symbolic errno of a command that fails because of one, by its message; "" if it succeeds.
errno_of() {
	local msg
	msg=$("$@" 2>&1 >/dev/null </dev/null) && return 0
	case $msg in
	*'Read-only file system'*) echo EROFS ;;
	*'Operation not permitted'*) echo EPERM ;;
	*'Permission denied'*) echo EACCES ;;
	*'No such file or directory'*) echo ENOENT ;;
	*'Stale file handle'*) echo ESTALE ;;
	*'Structure needs cleaning'*) echo EUCLEAN ;;
	*'Input/output error'*) echo EIO ;;
	*'Device or resource busy'*) echo EBUSY ;;
	*'Operation not supported'*) echo ENOTSUP ;;
	*'Function not implemented'*) echo ENOSYS ;;
	*'Not a directory'*) echo ENOTDIR ;;
	*'Is a directory'*) echo EISDIR ;;
	*'File exists'*) echo EEXIST ;;
	*'Invalid argument'*) echo EINVAL ;;
	*) echo "? $msg" ;;
	esac
}

# ---------------------------------------------------------------- beginning and end

# at_exit 'COMMAND': run when the suite ends, last one first.
at_exit() { AT_EXIT+=("$1"); }

# shellcheck disable=SC2329,SC2317
leave() {
	local st=$? i
	trap - EXIT
	for ((i = ${#AT_EXIT[@]} - 1; i >= 0; i--)); do
		eval "${AT_EXIT[i]}" >/dev/null 2>&1
	done
	[ -n "$W" ] && rm -rf --one-file-system "$W"
	exit "$st"
}

suite_begin() {
	W=$(mktemp -d "${TMPDIR:-/tmp}/vs.XXXXXX") || exit 1
	chmod 711 "$W"
	# What the mounts remember stays here; some of them are another user's.
	mkdir -m 1777 "$W/.state"
	export STATE_DIRECTORY=$W/.state
	trap leave EXIT
	trap 'exit 143' TERM
	trap 'exit 130' INT
	trap 'exit 129' HUP
	at_exit unmount_all
}

# die WHY: the suite cannot go on. No closing line, so it counts as failed.
die() {
	printf '# cannot go on: %s\n' "$*"
	exit 1
}

suite_end() {
	unmount_all
	printf '%d passed, %d failed, %d skipped\n' "$N_OK" "$N_FAIL" "$N_SKIP"
	[ "$N_FAIL" = 0 ]
	exit $?
}

# skip_suite WHY: nothing of it can run here.
skip_suite() {
	skip "$(basename "$0" .sh)" "$1"
	suite_end
}

# suite_in_namespace "$0" "$@": runs the rest of the suite as process 2 of its own mount and process namespaces (and network
# namespace with lab.sh). Whatever is mounted or started in it is gone when the suite is, however that ends. Needs root: an
# ordinary user's suite is skipped, unless this is a CI ($CI is set). Root's fails where namespaces are not to be had, for a run
# of which nothing could run is not to look like a good one.
# /dev/kvm is hidden (QEMU is to run under TCG), and /dev/fuse is readable by everybody, as it is on a real host.
suite_in_namespace() {
	if [ -z "${VS_NAMESPACE:-}" ]; then
		local why='' verdict=fail name
		name=$(basename "$1" .sh)
		if [ "$(id -u)" != 0 ]; then
			why='it needs root, for namespaces of its own'
			[ -n "${CI:-}" ] || verdict=skip
		else
			why=$(unshare -m -n -p -f --kill-child --mount-proc true 2>&1) && why='' ||
				why="it needs mount, network and process namespaces of its own, and cannot have them: $why"
		fi
		if [ -n "$why" ]; then
			$verdict "$name" "$why"
			suite_end
		fi
		# Process 1 does nothing but wait, for it inherits every daemon and has to reap it: a suite that is itself blocked in a
		# write to ctl would leave a QEMU that libvirt waits for as a zombie.
		# shellcheck disable=SC2016
		VS_NAMESPACE=1 exec unshare -m -n -p -f --kill-child --mount-proc --propagation private \
			bash -c 'bash "$@" </dev/null & wait $!' reaper "$@"
	fi
	local d
	# Not in /tmp: a file system of its own, so that the rest of the suite sees no trace of it.
	d=$(mktemp -d)
	mount -t tmpfs -o mode=755 tmpfs "$d" || die "cannot mount a tmpfs"
	# A file that can only be read: not usable, even for root, so libvirt sees a host without KVM once and for all.
	: >"$d/kvm"
	[ -e /dev/kvm ] && mount --bind "$d/kvm" /dev/kvm && mount -o remount,bind,ro /dev/kvm
	if mknod -m 666 "$d/fuse" c 10 229 2>/dev/null && [ -e /dev/fuse ]; then mount --bind "$d/fuse" /dev/fuse; fi
	umount -l "$d"
	rmdir "$d"
	ip link set lo up 2>/dev/null
	return 0
}

# ---------------------------------------------------------------- waiting

# wait_until SECONDS COMMAND...: polls every 50 ms; fails when the time is over.
wait_until() {
	local end=$(($(date +%s%N) + $1 * 1000000000))
	shift
	while ! "$@" >/dev/null 2>&1; do
		[ "$(date +%s%N)" -lt "$end" ] || return 1
		sleep 0.05
	done
}

gone() { ! kill -0 "$1" 2>/dev/null; }
# Asks the kernel and not the file system, which may be dead.
is_mounted() { grep -qF " $(sed 's/ /\\040/g' <<<"$1") " /proc/self/mounts; }

# end_pid PID: TERM, then KILL after five seconds.
end_pid() {
	kill "$1" 2>/dev/null || return 0
	wait_until 5 gone "$1" || kill -KILL "$1" 2>/dev/null
	wait "$1" 2>/dev/null
	return 0
}

sha() { sha256sum <"$1" | cut -c1-64; }

# ---------------------------------------------------------------- mounts of virt-snapfs

# Which build a suite mounts: SNAPFS=... beforehand, else the one with sanitizers if there is one.
snapfs_pick() {
	if [ -n "${SNAPFS:-}" ]; then return; fi
	SNAPFS=$BUILD_ASAN/fs/virt-snapfs
	[ -x "$SNAPFS" ] || SNAPFS=$BUILD/fs/virt-snapfs
	[ -x "$SNAPFS" ] || die "virt-snapfs is not built; run tests/run.sh, or set BUILD"
}

declare -A SNAPFS_PIDS=() SNAPFS_LOGS=()
SNAPFS_N=0

# sanitizer_report LOG: prints the first lines of one, succeeds if there is one.
sanitizer_report() {
	grep -E -m1 -A60 'ERROR: (Address|Leak|Thread|Undefined)|runtime error:|SUMMARY: .*Sanitizer|: Assertion .* failed|stack smashing' "$1"
}

# mount_snapfs MOUNTPOINT [ARGUMENT...]: virt-snapfs -f ARGUMENTS MOUNTPOINT in the background; returns when it answers.
# The log is "${SNAPFS_LOGS[MOUNTPOINT]}", the process "${SNAPFS_PIDS[MOUNTPOINT]}". SNAPFS_AS=USER runs it as that user.
mount_snapfs() {
	local mnt=$1 log pid
	shift
	snapfs_pick
	SNAPFS_N=$((SNAPFS_N + 1))
	log=$W/.snapfs.$SNAPFS_N.log
	if [ -n "${SNAPFS_AS:-}" ]; then
		(as_user_exec "$SNAPFS_AS" "$SNAPFS" -f "$@" "$mnt") >"$log" 2>&1 </dev/null &
	else
		# A script's background processes ignore SIGINT from birth; this one is to be as a terminal starts it.
		env --default-signal "$SNAPFS" -f "$@" "$mnt" >"$log" 2>&1 </dev/null &
	fi
	pid=$!
	SNAPFS_PIDS[$mnt]=$pid SNAPFS_LOGS[$mnt]=$log
	local end=$(($(date +%s) + 30))
	until is_mounted "$mnt"; do
		if gone "$pid" || [ "$(date +%s)" -ge "$end" ]; then
			note "virt-snapfs $* did not mount:"
			note_file "$log"
			end_pid "$pid"
			unset "SNAPFS_PIDS[$mnt]"
			return 1
		fi
		sleep 0.02
	done
	# It answers when this comes back, whatever it says (EACCES, if it is another user's).
	stat "$mnt" >/dev/null 2>&1
	return 0
}

# unmount_snapfs MOUNTPOINT: by fusermount3; waits for the process. A bad exit status or a sanitizer report is a failed case.
unmount_snapfs() {
	local mnt=$1 pid=${SNAPFS_PIDS[$1]:-} log=${SNAPFS_LOGS[$1]:-} st report
	[ -n "$pid" ] || return 0
	unset "SNAPFS_PIDS[$mnt]"
	if ! gone "$pid"; then
		fusermount3 -u "$mnt" 2>/dev/null || umount "$mnt" 2>/dev/null || { sleep 0.5; fusermount3 -u "$mnt" || fusermount3 -uz "$mnt"; } 2>/dev/null
		if ! wait_until 20 gone "$pid"; then
			fail "unmount $(basename "$mnt")" "virt-snapfs (process $pid) is still there after 20 s"
			note_file "$log"
			kill -KILL "$pid"
		fi
	fi
	wait "$pid"
	st=$?
	is_mounted "$mnt" && umount -l "$mnt"
	if report=$(sanitizer_report "$log"); then
		fail "no sanitizer report from the mount at $(basename "$mnt")" "$(head -1 <<<"$report")"
		sed 's/^/#   /' <<<"$report"
	elif [ "$st" != 0 ]; then
		fail "clean end of the mount at $(basename "$mnt")" "virt-snapfs ended with status $st"
		note_file "$log"
	fi
}

unmount_all() {
	local mnt
	for mnt in "${!SNAPFS_PIDS[@]}"; do unmount_snapfs "$mnt"; done
}

# as_user USER COMMAND...: without a login, groups or our environment beyond what the tests set.
as_user() { (as_user_exec "$@"); }
as_user_exec() {
	local user=$1
	shift
	exec setpriv --reuid="$(id -u "$user")" --regid="$(id -g "$user")" --clear-groups -- "$@"
}

# json FILE FILTER: jq, raw.
json() { jq -r "$2" "$1"; }

# ---------------------------------------------------------------- images

# have_loop: can a loop device be had here? Containers often have none.
have_loop() {
	local dev st
	truncate -s 1M "$W/.loop" && dev=$(losetup -r -f --show "$W/.loop" 2>/dev/null)
	st=$?
	[ "$st" = 0 ] && losetup -d "$dev"
	rm -f "$W/.loop"
	return $st
}

# pattern BYTE LENGTH [FILE]: LENGTH bytes of value BYTE.
pattern() { head -c "$2" /dev/zero | tr '\0' "\\$(printf %o "$1")"; }

# qwrite IMAGE BYTE OFFSET LENGTH: into a qcow2 that nobody has open.
qwrite() { qemu-io -f qcow2 -c "write -q -P $2 $3 $4" "$1" >/dev/null; }

# qemu_bytes IMAGE OUT [FORMAT]: what QEMU reads from its present content.
qemu_bytes() { qemu-img convert -U -f "${3:-qcow2}" -O raw "$1" "$2"; }

# qemu_snapshot_bytes IMAGE NAME-OR-ID OUT: what a guest would see had it booted from that snapshot. Works on a copy; the
# image must stand alone or on absolute names.
qemu_snapshot_bytes() {
	cp --reflink=auto --sparse=always "$1" "$W/.copy.qcow2" || return 1
	qemu-img snapshot -q -a "$2" "$W/.copy.qcow2" && qemu-img convert -f qcow2 -O raw "$W/.copy.qcow2" "$3"
	local st=$?
	rm -f "$W/.copy.qcow2"
	return $st
}
