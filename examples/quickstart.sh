#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# quickstart.sh: virt-snapfs on virtual machines of its own, in one command, on Debian 12 or 13.
#
#	examples/quickstart.sh           installs what is needed, builds, makes the demo, mounts it and leaves it up
#	examples/quickstart.sh --stop    takes it down and removes it
#	examples/quickstart.sh --once    does it all, shows it, and cleans up
#
# Run it as root, or as any user: it asks for root (sudo) by itself, only for the steps that need it, which are installing packages
# and, where /dev/fuse is not open to users, the demo itself. Nothing outside its own directory is changed, but that libvirt makes
# /run/libvirt where there is none: it is a private one without a daemon (qemu:///embed), the machine runs under TCG and needs no KVM. On Debian 12 root gets a package that
# brings, and may start, libvirt's daemon; it is not used. BUILD=DIR: where the build is, or goes.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
TOP=$PWD
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C.UTF-8
DOMAIN=web01 # is started, its CPU paused, and has external snapshots
OTHER=db01   # is shut off, and has internal ones
NOTE=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/virt-snapfs-quickstart # where the demo's directory is noted

# What the build needs, and what the demo needs.
PACKAGES='build-essential meson ninja-build pkgconf libfuse3-dev libvirt-dev zlib1g-dev libdeflate-dev libzstd-dev libxml2-dev
	libjson-c-dev libnbd-dev uthash-dev fuse3 qemu-utils qemu-system-x86 seabios libvirt-clients libvirt-daemon-driver-qemu e2fsprogs'

say() { printf '\n== %s\n' "$*"; }
show() { # COMMAND...: prints it as one would type it, then its output
	local word line=
	for word in "${L[@]}" "$@"; do
		case $word in
		*[!A-Za-z0-9_./:,=+-]*) line+=" '$word'" ;;
		*) line+=" $word" ;;
		esac
	done
	printf '$%s\n' "$line"
	"${L[@]}" "$@" </dev/null | sed 's/^/  /'
}
# write LINE FILE: the same for a line that is written into a file of the mount.
write() {
	printf '$%s\n' "${L[*]:+ ${L[*]} sh -c \"} echo '$1' > $2${L[*]:+\"}"
	# shellcheck disable=SC2016
	"${L[@]}" sh -c 'echo "$1" >"$2"' - "$1" "$2" || give_up "$("${L[@]}" head -n 1 "$(dirname "$2")/ctl")"
}
# tell DOMAIN COMMAND: through ctl, and what came of it.
tell() {
	write "$2" "$WORK/mnt/$1/ctl"
	outcome "$1"
}
outcome() {
	show head -n 1 "$WORK/mnt/$1/ctl"
	show cat "$WORK/mnt/$1/snapshots"
}
give_up() {
	printf '\nquickstart: %s\n' "$*" >&2
	exit 1
}
usage() { sed -n 's/^#\t//p' "$TOP/examples/quickstart.sh"; }

# ---------------------------------------------------------------- root, where it is needed

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		return 1
	fi
}
# become_root WHAT-FOR WHAT-ELSE: makes sure that as_root will work, or says what a user without it can do.
become_root() {
	[ "$(id -u)" = 0 ] && return
	command -v sudo >/dev/null && sudo -v && return
	give_up "$1 needs root, and you may not become root here. $2"
}
L=() # before the commands of the demo: nothing, or sudo
# to SIGNAL PID: by the shell's own kill, for the program of that name may be missing (procps).
# shellcheck disable=SC2016
to() { "${L[@]}" sh -c 'kill -s "$1" "$2" 2>/dev/null' sh "$@"; }

# lacking PACKAGE...: those that are not installed.
lacking() {
	local p
	for p; do [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || printf '%s\n' "$p"; done
}
# of_the_daemon: what a libvirt without a daemon needs all the same, as long as Debian's QEMU driver is not complete in itself (12:
# libvirt 9.0; 13 with 11.3 is): a storage back end, and for root the user that it looks up. The daemon itself is not used.
of_the_daemon() {
	dpkg --compare-versions "$(LC_ALL=C apt-cache policy libvirt-daemon-driver-qemu | sed -n 's/^ *Candidate: //p')" ge 11 && return
	echo libvirt-daemon
	[ ${#L[@]} = 0 ] && [ "$(id -u)" != 0 ] || echo libvirt-daemon-system
}
apt_get() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy "$@" >>"$WORK/apt.log" 2>&1 </dev/null && return
	tail -20 "$WORK/apt.log"
	give_up "apt-get $1 failed (see above)"
}
UPDATED=
install_packages() { # PACKAGE...
	local missing
	command -v apt-get >/dev/null || give_up "this is not Debian; please install what README.md lists under Build, then make a build with meson"
	mapfile -t missing < <(lacking "$@")
	[ ${#missing[@]} -gt 0 ] || return 0
	say "Installing ${missing[*]}"
	# shellcheck disable=SC2046
	become_root 'Installing packages' "Ask somebody who may to run: apt-get install $(echo "${missing[@]}" $(of_the_daemon))"
	[ -n "$UPDATED" ] || apt_get update
	UPDATED=1
	apt_get install --no-install-recommends "${missing[@]}"
}

build() {
	say 'Building'
	BUILD=${BUILD:-$TOP/build}
	if ! { [ -w "$TOP" ] && { [ ! -e "$BUILD" ] || [ -w "$BUILD" ]; }; }; then BUILD=$WORK/build; fi
	if ! { { [ -f "$BUILD/build.ninja" ] || meson setup "$BUILD" -Dtests=false; } && ninja -C "$BUILD" fs/virt-snapfs; } >"$WORK/build.log" 2>&1 </dev/null; then
		tail -30 "$WORK/build.log"
		give_up 'the build failed (see above)'
	fi
	SNAPFS=$BUILD/fs/virt-snapfs
	echo "$SNAPFS"
}

# ---------------------------------------------------------------- the demo machine

virsh_() { "${L[@]}" env LIBVIRT_LOG_OUTPUTS=2:file:"$WORK/libvirt.log" virsh -q -c "$URI" "$@" </dev/null; }

# day NAME FILE: what the guest "did" that day, namely replace its file system by one with another note in it.
day() {
	mkdir -p "$WORK/root"
	echo "written on $1" >"$WORK/root/note.txt"
	head -c "$((RANDOM % 2000000 + 100000))" /dev/urandom >"$WORK/root/work-of-$1"
	rm -f "$WORK/fs.raw"
	mke2fs -q -t ext4 -d "$WORK/root" "$WORK/fs.raw" 48M >/dev/null 2>&1 &&
		"${L[@]}" qemu-img convert -n -f raw -O qcow2 "$WORK/fs.raw" "$2" && rm -f "$WORK/fs.raw" || give_up "cannot write $2"
}

# machine NAME IMAGE...: defines it; its disks are vda, vdb, ...
machine() {
	local name=$1 letters=abc disks='' n=0 i
	shift
	for i; do
		disks+="<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$i'/>"
		disks+="<target dev='vd${letters:n:1}' bus='virtio'/></disk>"
		n=$((n + 1))
	done
	cat >"$WORK/$name.xml" <<-XML
		<domain type='qemu'>
		  <name>$name</name>
		  <memory unit='MiB'>64</memory>
		  <vcpu>1</vcpu>
		  <os><type arch='x86_64' machine='pc'>hvm</type></os>
		  <devices>$disks</devices>
		</domain>
	XML
	virsh_ define "$WORK/$name.xml" >/dev/null
}

make_demo() {
	local i=$WORK/images conf
	say "Virtual machines '$DOMAIN' and '$OTHER' in a private libvirt ($URI)"
	# max_core: libvirt's own limit is none, and sudo leaves no more than 0.
	conf='security_driver = "none"\nstdio_handler = "file"\nnamespaces = []\nmax_core = 0\n'
	# As root, QEMU is to stay root: the directory is nobody else's business.
	if [ "$(id -u)" = 0 ] || [ ${#L[@]} -gt 0 ]; then conf+='user = "root"\ngroup = "root"\ndynamic_ownership = 0\n'; fi
	mkdir -p "$WORK/libvirt/etc" "$i" "$WORK/mnt" || exit 1
	# shellcheck disable=SC2059
	printf "$conf" >"$WORK/libvirt/etc/qemu.conf"
	qemu-img create -q -f qcow2 "$i/$DOMAIN.qcow2" 48M && qemu-img create -q -f qcow2 "$i/$DOMAIN-data.qcow2" 16M &&
		qemu-img create -q -f qcow2 "$i/$OTHER.qcow2" 48M || exit 1
	machine "$DOMAIN" "$i/$DOMAIN.qcow2" "$i/$DOMAIN-data.qcow2" &&
		day monday "$i/$DOMAIN.qcow2" &&
		"${L[@]}" qemu-io -f qcow2 -c 'write -q -P 1 0 4M' "$i/$DOMAIN-data.qcow2" >/dev/null &&
		virsh_ snapshot-create-as "$DOMAIN" monday --disk-only >/dev/null &&
		day tuesday "$i/$DOMAIN.monday" &&
		virsh_ snapshot-create-as "$DOMAIN" tuesday --disk-only >/dev/null &&
		day wednesday "$i/$DOMAIN.tuesday" &&
		"${L[@]}" qemu-io -f qcow2 -c 'write -q -P 3 2M 4M' "$i/$DOMAIN-data.tuesday" >/dev/null &&
		machine "$OTHER" "$i/$OTHER.qcow2" &&
		day saturday "$i/$OTHER.qcow2" &&
		virsh_ snapshot-create-as "$OTHER" saturday >/dev/null &&
		day sunday "$i/$OTHER.qcow2" &&
		virsh_ start "$DOMAIN" --paused >/dev/null || # the last: virsh 9.0 can crash when it leaves while it finds a running guest
		give_up "the demo could not be made; see $WORK/libvirt.log and $WORK/libvirt/log/qemu/$DOMAIN.log"
	echo "$DOMAIN is started (paused, for it has nothing to run), with the external snapshots monday and tuesday; $OTHER is shut off, with the internal snapshot saturday"
}

mount_demo() {
	local set=("STATE_DIRECTORY=$WORK/state" "LIBVIRT_LOG_OUTPUTS=2:file:$WORK/libvirt.log")
	say 'Mounting (the variables keep the demo out of /var)'
	show env "${set[@]}" "$SNAPFS" "$URI" "$WORK/mnt" || give_up 'virt-snapfs could not mount (see above)'
}

show_demo() {
	local t=$WORK/mnt/$DOMAIN o=$WORK/mnt/$OTHER
	say 'What is there'
	show ls -l "$t"
	show cat "$t/snapshots"
	show cat "$t/chain"
	show debugfs -R 'cat /note.txt' "$t/monday.vda.img" 2>/dev/null
	show debugfs -R 'cat /note.txt' "$t/tuesday.vda.img" 2>/dev/null

	say 'The same bytes as QEMU gives'
	show cp "$WORK/images/$OTHER.qcow2" "$WORK/copy.qcow2" &&
		show qemu-img snapshot -a saturday "$WORK/copy.qcow2" &&
		show qemu-img convert -f qcow2 -O raw "$WORK/copy.qcow2" "$WORK/copy.raw" &&
		show cmp "$WORK/copy.raw" "$o/saturday.vda.img" || give_up 'saturday.vda.img differs from what qemu-img gives'
	echo 'identical' # the copies stay, so that these lines can be typed again
}

sum() { "${L[@]}" sha256sum "$1" | cut -c1-64; }

# What is written into ctl and retain is done when the write returns.
control_demo() {
	local t=$WORK/mnt/$DOMAIN before
	say 'Taking a snapshot of the machine that is started'
	tell "$DOMAIN" 'create wednesday'
	before=$(sum "$t/wednesday.vda.img")

	say 'Keeping the newest two, whoever took them: first only to see, then in earnest, which merges monday away'
	write '2 match=*' "$t/retain.plan"
	show cat "$t/retain.plan"
	write '2 match=*' "$t/retain"
	outcome "$DOMAIN"

	say "Merging tuesday's layer away, too: first only to see"
	tell "$DOMAIN" 'try commit tuesday'
	tell "$DOMAIN" 'commit tuesday'
	show cat "$t/chain"
	[ "$(sum "$t/wednesday.vda.img")" = "$before" ] || give_up 'wednesday.vda.img has changed'
	show debugfs -R 'cat /note.txt' "$t/wednesday.vda.img" 2>/dev/null
	echo 'wednesday reads as before'

	say 'Back to saturday on the other machine, whose snapshots are internal; what was written since is kept as sunday'
	tell "$OTHER" 'revert saturday keep=sunday'
	show debugfs -R 'cat /note.txt' "$WORK/mnt/$OTHER/sunday.vda.img" 2>/dev/null
}

look_around() {
	local sudo=${L[*]:+${L[*]} } t=$WORK/mnt/$DOMAIN
	cat <<-END

		== It is up. Look around:

		  ${sudo}ls -l $t $WORK/mnt/$OTHER
		  ${sudo}cp --sparse=always $t/wednesday.vda.img /tmp/   # a disk as it was
		  ${sudo}debugfs -R 'ls -l /' $t/wednesday.vda.img      # a file system in it, without mounting it
		  ${sudo}mount -o loop,ro,noload $t/wednesday.vda.img /mnt   # ... or mounted (as root)
		  ${sudo}cat $t/wednesday.xml                           # the machine's definition at that time
		  ${sudo}cat $t/ctl                                     # what can be commanded
		  ${sudo}cat $t/log                                     # what was done

		While it is mounted no other process can open this private libvirt; a real one (qemu:///system) has no such limit.

		Everything is in $WORK. To take it down:  $0 --stop
	END
}

# ---------------------------------------------------------------- down again

stop_demo() { # quiet if nothing is up
	local pid why
	WORK=$(cat "$NOTE" 2>/dev/null) || return 1
	# Only ever a directory that this script has made.
	if [ -z "$WORK" ] || [ ! -f "$WORK/made-by-virt-snapfs-quickstart" ]; then
		rm -f "$NOTE"
		return 1
	fi
	L=()
	if grep -qx sudo "$WORK/made-by-virt-snapfs-quickstart"; then
		L=(sudo)
		become_root 'Taking the demo down' 'It was started by somebody who could.'
	fi
	if grep -q " $WORK/mnt fuse" /proc/mounts; then
		why=$("${L[@]}" fusermount3 -u "$WORK/mnt" 2>&1) || give_up "$WORK/mnt cannot be unmounted: $why"
		# libvirt inside it lets go of the machine's monitor last
		for _ in {1..100}; do
			pid=$("${L[@]}" cat "$WORK/libvirt/run/qemu/driver.pid" 2>/dev/null) && to 0 "$pid" || break
			sleep 0.1
		done
	fi
	pid=$("${L[@]}" cat "$WORK/libvirt/run/qemu/$DOMAIN.pid" 2>/dev/null)
	# The machine, if it is still that one.
	if [ -n "$pid" ] && "${L[@]}" grep -qa -e "$WORK/" "/proc/$pid/cmdline" 2>/dev/null; then
		to TERM "$pid"
		for _ in {1..50}; do
			to 0 "$pid" || break
			sleep 0.1
		done
		to 0 "$pid" && give_up "the demo's machine, process $pid, does not end; $WORK is left"
	fi
	"${L[@]}" rm -rf --one-file-system "$WORK"
	rm -f "$NOTE"
}

# ---------------------------------------------------------------- main

mode=${1:-up}
case $mode in
up | --once) ;;
--stop)
	if stop_demo; then echo "The demo is down, and $WORK is removed."; else echo 'No demo is up.'; fi
	exit 0
	;;
-h | --help)
	usage
	exit 0
	;;
*)
	usage >&2
	exit 2
	;;
esac
[ $# -le 1 ] || { usage >&2; exit 2; }
echo 'On two cores this takes three seconds, and half a minute more, plus the download of 180 MB of packages, where nothing is installed yet.'
stop_demo && echo "(the previous demo was taken down)"

mkdir -p "$(dirname "$NOTE")" || exit 1
WORK=$(mktemp -d /tmp/vsdemo.XXXXXX) || exit 1 # short: libvirt's sockets below it may have 107 bytes
: >"$WORK/made-by-virt-snapfs-quickstart"
echo "$WORK" >"$NOTE"
URI="qemu:///embed?root=$WORK/libvirt"
UP=
# shellcheck disable=SC2329,SC2317
at_exit() {
	local st=$?
	trap - EXIT
	if [ "$mode" = --once ] && [ -n "$UP" ] || [ ! -d "$WORK/libvirt" ]; then
		stop_demo
	elif [ -z "$UP" ] && [ -d "$WORK" ]; then
		echo "($WORK is left for its logs; $0 --stop removes it and what runs in it)" >&2
	fi
	exit "$st"
}
trap at_exit EXIT
trap 'exit 130' INT TERM

# shellcheck disable=SC2086
install_packages $PACKAGES
[ -e /dev/fuse ] || give_up 'there is no /dev/fuse here (in a container: --device /dev/fuse --cap-add SYS_ADMIN)'
if [ "$(id -u)" != 0 ] && ! { [ -r /dev/fuse ] && [ -w /dev/fuse ]; }; then
	become_root '/dev/fuse is not open to users here, so mounting' 'Ask for rights to /dev/fuse.'
	L=(sudo)
	echo sudo >"$WORK/made-by-virt-snapfs-quickstart"
fi
# shellcheck disable=SC2046
install_packages $(of_the_daemon)
build
make_demo
mount_demo
show_demo
control_demo
UP=1
if [ "$mode" = --once ]; then
	say 'Done; cleaning up'
else
	look_around
fi
