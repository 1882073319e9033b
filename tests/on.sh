#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# tests/on.sh: README's two commands on a fresh Debian, where nothing is installed that they do not install themselves.
#
#	tests/on.sh RELEASE [WORD...]
#
# RELEASE is bookworm, trixie, or another one that debootstrap knows. The words are carried out in their order, in one root:
#
#	quickstart    examples/quickstart.sh --once, then without that and --stop: they also have to leave nothing behind
#	by-user       the same, by a user with sudo and a checkout of their own
#	by-sudo       the same, but typed after sudo
#	build         what README's section Build says, as it is typed
#	all           tests/run.sh
#	NAME...       tests/run.sh NAME..., for names that stand together
#
# Without words: quickstart all quickstart. So `tests/on.sh trixie quickstart unit mount quickstart` is the demo, two suites, and
# the demo again on what they have left. The last line is "N passed, N failed, N skipped", as of tests/run.sh; the exit status is
# 1 if anything failed, 2 for wrong usage.
#
# What is tested is what would be cloned: the checkout's tracked files, as they are in the work tree now. They go to root's home,
# which nobody else may read. The release is made once, by debootstrap (installed if there is none), and never touched again: each
# run has a copy, which goes with it. Downloaded packages are kept, too. All runs in mount, process, IPC and UTS namespaces, so that
# nothing can be left mounted or running; the network is the host's, for apt. Needs root (or sudo) and 4 GB of disk.
#
#	ROOTS=DIR     where releases and packages are kept (${XDG_CACHE_HOME:-/var/cache}/virt-snapfs-roots); rm -r DIR for new ones
#	MIRROR=URL    where Debian comes from (http://deb.debian.org/debian)
#	KEEP=1        leave the copy, and say where it is
#	JOBS, SUITE_TIMEOUT, CI    as for tests/run.sh
set -u -o pipefail
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C.UTF-8
umask 022
ME=$(realpath -- "$0") || exit 1
TOP=$(dirname "$(dirname "$ME")")
PASS_ON=(JOBS SUITE_TIMEOUT CI TERM http_proxy https_proxy no_proxy) # of our environment, into the root
NAMESPACES=(-m -p -i -u -f --kill-child --mount-proc --propagation private)
PASSED=0 FAILED=0 SKIPPED=0

say() { printf '### %s\n' "$*"; }
usage() {
	sed -nE 's/^#\t(tests.*)/usage: \1/p' "$ME" >&2
	exit 2
}
# give_up WHY: nothing more can be tested, which is a failure.
give_up() {
	printf 'on.sh: %s\n' "$*" >&2
	printf '%d passed, %d failed, %d skipped\n' $PASSED $((FAILED + 1)) $SKIPPED
	exit 1
}

# ---------------------------------------------------------------- inside: process 1 of the namespaces, and its only child

# device NAME MODE KIND MAJOR MINOR
device() { mknod -m "$2" "$ROOT/dev/$1" "$3" "$4" "$5" || give_up "there can be no device $1 in the root"; }

# devices: what udev gives a host, with its modes. There is no /dev/kvm: the guests are to run under TCG.
devices() {
	local i
	mount -t tmpfs -o mode=755,nosuid tmpfs "$ROOT/dev" || give_up "cannot mount a tmpfs on the root's /dev"
	device null 666 c 1 3
	device zero 666 c 1 5
	device full 666 c 1 7
	device random 666 c 1 8
	device urandom 666 c 1 9
	device tty 666 c 5 0
	device fuse 666 c 10 229
	device loop-control 660 c 10 237
	for i in {0..63}; do device "loop$i" 660 b 7 "$i"; done
	chgrp 6 "$ROOT"/dev/loop* # disk
	ln -s /proc/self/fd "$ROOT/dev/fd"
	for i in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${i%:*}" "$ROOT/dev/${i#*:}"; done
	mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
	ln -s pts/ptmx "$ROOT/dev/ptmx"
	mount -t devpts -o newinstance,mode=620,ptmxmode=666,gid=5 devpts "$ROOT/dev/pts" &&
		mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$ROOT/dev/shm" || give_up "cannot mount the root's /dev/pts and /dev/shm"
}

# enter: makes the copy our root. Not by chroot(1): unshare(1) works in a root that is a mount point only.
enter() {
	mount --bind "$ROOT" "$ROOT" && devices &&
		mount -t proc -o nosuid,nodev,noexec proc "$ROOT/proc" &&
		mount -t sysfs -o nosuid,nodev,noexec sysfs "$ROOT/sys" &&
		mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$ROOT/run" &&
		mkdir -m 1777 "$ROOT/run/lock" || give_up "cannot mount /proc, /sys and /run in the root"
	# Each is seen through the other until the old one is gone.
	cd "$ROOT" && pivot_root . . && umount -l . && cd / || give_up "cannot make $ROOT the root (pivot_root failed)"
	hostname "$RELEASE" && printf '127.0.0.1\tlocalhost %s\n::1\tlocalhost\n' "$RELEASE" >/etc/hosts
}

count() { PASSED=$((PASSED + $1)) FAILED=$((FAILED + $2)) SKIPPED=$((SKIPPED + $3)); }
# at_work: what a demo could leave: mounts, files, and processes other than bash and diff. (What every Debian has must do: pgrep
# is not among it.)
at_work() {
	local file name
	cut -d ' ' -f 2,3 /proc/mounts
	find /tmp -mindepth 1 -maxdepth 1
	for file in /proc/[0-9]*/comm; do
		{ read -r name <"$file"; } 2>/dev/null && [ "$name" != bash ] && [ "$name" != diff ] && printf 'process: %s\n' "$name"
	done
}
quickstart() { # [COMMAND...]: by which it is started
	local before left
	before=$(at_work)
	if "$@" examples/quickstart.sh --once </dev/null 2>&1; then count 1 0 0; else
		say "quickstart: ended with status $?"
		count 0 1 0
	fi
	if "$@" examples/quickstart.sh </dev/null >/dev/null 2>&1 && "$@" examples/quickstart.sh --stop </dev/null; then count 1 0 0; else
		say "quickstart, left up and taken down: ended with status $?"
		count 0 1 0
	fi
	left=$(diff <(echo "$before") <(at_work))
	if [ -z "$left" ]; then count 1 0 0; else
		say 'quickstart: has left something behind (mounts, processes, files in /tmp):'
		printf '%s\n' "$left"
		count 0 1 0
	fi
}
by_user() { # [sudo]
	if ! id user >/dev/null 2>&1; then
		{ apt-get update -q && apt-get install -qy --no-install-recommends sudo; } >/run/on.log 2>&1 </dev/null &&
			useradd -m -s /bin/bash user && echo 'user ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/user &&
			mkdir ~user/virt-snapfs && tar -c --exclude './build*' . | tar -C ~user/virt-snapfs -x && chown -R user: ~user/virt-snapfs ||
			give_up "there can be no user with sudo: $(tail -n 1 /run/on.log)"
	fi
	cd ~user/virt-snapfs && quickstart setpriv --reuid=user --regid=user --init-groups env HOME="$(echo ~user)" USER=user LOGNAME=user "$@"
	cd - >/dev/null || exit
}
# build: the first block of that section; apt's question is answered by its configuration. It is done beside what else there is.
build() {
	local commands
	mkdir ~/built && tar -c --exclude './build*' . | tar -C ~/built -x && cd ~/built || give_up 'the checkout cannot be copied'
	commands=$(sed -nE '/^## Build/,/^## [^B]/s/^    //p' README.md)
	printf '%s\n' "$commands"
	printf 'APT::Get::Assume-Yes "true";\n' >/etc/apt/apt.conf.d/95yes
	apt-get update -q >/run/on.log 2>&1 </dev/null
	if bash -e -c "$commands" </dev/null >>/run/on.log 2>&1 && virt-snapfs --version; then count 1 0 0; else
		tail -n 30 /run/on.log
		count 0 1 0
	fi
	rm /etc/apt/apt.conf.d/95yes
	cd - >/dev/null || exit
}
# run [NAME...]: tests/run.sh, whose last line is counted.
run() {
	local log=/run/on.log st
	tests/run.sh "$@" </dev/null 2>&1 | tee "$log"
	st=$?
	if [[ $(tail -n 1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		count "${BASH_REMATCH[@]:1}"
		[ "$st" = 0 ] || [ "${BASH_REMATCH[2]}" != 0 ] || count 0 1 0
	else
		say "tests/run.sh: ended with status $st, without its closing line"
		count 0 1 0
	fi
}
# step COMMAND [WORD...]
step() {
	local began=$SECONDS bad=$FAILED
	say "$RELEASE: $*"
	"$@"
	say "$RELEASE: $*: $([ "$bad" = "$FAILED" ] && echo good || echo FAILED), $((SECONDS - began)) s"
}
inside() {
	local names=() word
	ROOT=$1 RELEASE=$2
	shift 2
	enter
	cd ~/virt-snapfs || give_up 'the checkout is not there'
	for word in "$@" end; do
		if [[ $word =~ ^(quickstart|by-user|by-sudo|build|all|end)$ ]] && [ ${#names[@]} -gt 0 ]; then
			step run "${names[@]}"
			names=()
		fi
		case $word in
		quickstart | build) step "$word" ;;
		by-user) step by_user ;;
		by-sudo) step by_user sudo ;;
		all) step run ;;
		end) ;;
		*) names+=("$word") ;;
		esac
	done
	printf '%d passed, %d failed, %d skipped\n' $PASSED $FAILED $SKIPPED
	[ $FAILED = 0 ]
	exit
}

# ---------------------------------------------------------------- outside

# tracked: the tracked files that there are now, each ended by NUL. (git archive would have what is committed only.)
tracked() {
	git -c safe.directory="$TOP" -C "$TOP" ls-files -z | while IFS= read -r -d '' file; do
		if [ -e "$TOP/$file" ] || [ -L "$TOP/$file" ]; then printf '%s\0' "$file"; fi
	done
}

# make_release: the release as its installer would leave it, at $ROOTS/$RELEASE. A half made one has another name.
make_release() {
	local new=$ROOTS/$RELEASE.new log=$ROOTS/$RELEASE.log
	if ! command -v debootstrap >/dev/null; then
		{ apt-get update -q && apt-get install -qy --no-install-recommends debootstrap; } >"$log" 2>&1 </dev/null ||
			give_up "debootstrap is not here and cannot be installed: $(grep -m1 '^E:' "$log"), see $log"
	fi
	[ -e "/usr/share/debootstrap/scripts/$RELEASE" ] || give_up "debootstrap knows no release '$RELEASE'"
	say "making $ROOTS/$RELEASE (once)"
	rm -rf --one-file-system "$new"
	# It mounts /proc and /sys in there.
	setpriv --pdeathsig KILL unshare "${NAMESPACES[@]}" debootstrap --variant=minbase "$RELEASE" "$new" "$MIRROR" >"$log" 2>&1 </dev/null ||
		give_up "debootstrap cannot make $RELEASE from $MIRROR: $(tail -n 1 "$log"), see $log"
	printf 'deb %s main\n' "$MIRROR $RELEASE" "$MIRROR $RELEASE-updates" "$MIRROR-security $RELEASE-security" >"$new/etc/apt/sources.list"
	# What systemd makes; and no service is to be started, for it is not there to do it.
	ln -s ../proc/self/mounts "$new/etc/mtab"
	printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
	chmod 755 "$new/usr/sbin/policy-rc.d"
	mkdir -p "$ROOTS/$RELEASE.debs"
	mv "$new" "$ROOTS/$RELEASE"
}

# debs DIR TO: those packages there, too, by link.
debs() { find "$1" -maxdepth 1 -name '*.deb' -exec cp -ln -t "$2" {} + 2>/dev/null; }

# make_copy: $COPY/root is this run's own, with the checkout in it.
make_copy() {
	local old root proxy=''
	exec 9>"$ROOTS/lock" && flock 9 || give_up "cannot lock $ROOTS/lock"
	[ -d "$ROOTS/$RELEASE" ] || make_release
	# What a run left that was killed.
	for old in "$ROOTS"/run.*; do
		[ -d "$old" ] && flock -n "$old" true && rm -rf --one-file-system "$old"
	done
	COPY=$(mktemp -d "$ROOTS/run.XXXXXX") && exec 8<"$COPY" && flock -n 8 || give_up "cannot make a directory in $ROOTS"
	exec 9>&-
	chmod 755 "$COPY"
	root=$COPY/root
	cp -a --reflink=auto "$ROOTS/$RELEASE" "$root" || give_up "cannot copy $ROOTS/$RELEASE"
	debs "$ROOTS/$RELEASE.debs" "$root/var/cache/apt/archives"
	cp --remove-destination -L /etc/resolv.conf "$root/etc/resolv.conf" || give_up 'there is no /etc/resolv.conf to go by'
	eval "$(apt-config shell proxy Acquire::http::Proxy 2>/dev/null)"
	[ -z "$proxy" ] || printf 'Acquire::http::Proxy "%s";\n' "$proxy" >"$root/etc/apt/apt.conf.d/90proxy"
	mkdir "$root/root/virt-snapfs" && tracked | tar -C "$TOP" -c --null -T - | tar -C "$root/root/virt-snapfs" -x --no-same-owner ||
		give_up "cannot copy the tracked files of $TOP (is it a git checkout?)"
}

# shellcheck disable=SC2329,SC2317
tidy() {
	local st=$? try
	trap - EXIT
	# With process 1 goes all the rest, and with its parent process 1.
	if [ -n "$INSIDE" ]; then kill -KILL "$INSIDE" && wait "$INSIDE"; fi 2>/dev/null
	if [ -n "$COPY" ]; then
		debs "$COPY/root/var/cache/apt/archives" "$ROOTS/$RELEASE.debs"
		if [ -n "${KEEP:-}" ]; then
			rm -rf --one-file-system "$ROOTS/$RELEASE.kept"
			mv "$COPY/root" "$ROOTS/$RELEASE.kept" && rmdir "$COPY" && say "the root is left in $ROOTS/$RELEASE.kept" >&2
		else
			for try in {1..50}; do # until its last process is gone
				rm -rf --one-file-system "$COPY" 2>/dev/null && break
				[ "$try" != 50 ] || say "$COPY cannot be removed" >&2
				sleep 0.1
			done
		fi
	fi
	exit "$st"
}

outside() {
	local word v st why environment=(HOME=/root USER=root LOGNAME=root SHELL=/bin/bash)
	environment+=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
	case ${1:--} in -*) usage ;; esac
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || give_up 'making a root and its namespaces needs root, and there is no sudo here'
		exec sudo --preserve-env=ROOTS,MIRROR,KEEP,XDG_CACHE_HOME,"$(IFS=, && echo "${PASS_ON[*]}")" bash "$ME" "$@"
	fi
	RELEASE=$1
	shift
	[ $# -gt 0 ] || set -- quickstart all quickstart
	for word; do
		[[ $word =~ ^(quickstart|by-user|by-sudo|build|all|unit)$ ]] || [ -f "$TOP/tests/suites/$word.sh" ] || give_up "there is no suite '$word'"
	done
	ROOTS=${ROOTS:-${XDG_CACHE_HOME:-/var/cache}/virt-snapfs-roots}
	MIRROR=${MIRROR:-http://deb.debian.org/debian} MIRROR=${MIRROR%/}
	mkdir -p "$ROOTS" && ROOTS=$(realpath "$ROOTS") || give_up "cannot make $ROOTS"
	why=$(unshare "${NAMESPACES[@]}" true 2>&1) || give_up "it needs namespaces of its own: $why"
	COPY='' INSIDE=''
	trap tidy EXIT
	trap 'exit 143' TERM
	trap 'exit 130' INT
	trap 'exit 129' HUP
	make_copy
	for v in "${PASS_ON[@]}"; do [ -z "${!v:-}" ] || environment+=("$v=${!v}"); done
	env -i "${environment[@]}" setpriv --pdeathsig KILL unshare "${NAMESPACES[@]}" \
		bash "$ME" --inside "$COPY/root" "$RELEASE" "$@" </dev/null 8<&- &
	INSIDE=$!
	wait "$INSIDE"
	st=$?
	INSIDE=''
	[ $st -le 1 ] || give_up "it was ended from outside (status $st)"
	exit $st
}

if [ "${1:-}" = --inside ]; then
	shift
	# Process 1 does nothing but wait: it inherits what others leave, and has to reap it.
	inside "$@" &
	wait $!
	exit
fi
outside "$@"
