#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# tests/bench/scale.sh [DOMAINS [SNAPSHOTS [internal|external [IDLE]]]]: what do many domains with many snapshots cost (1000, 100, internal)?
# In a libvirtd of its own, with domains that are shut off: mount to names, mount to all records, ls -l of one, find, memory, what it and libvirtd
# use in IDLE seconds (30), when a snapshot of virsh's is seen, and a create there against the same with 10 domains. Needs root; SNAPFS or BUILD says
# what is mounted. One figure a line. (`run.sh domains` does this with a few and with many domains; one image with many snapshots is a part of its own there.)
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
[ "${1:-}" != --help ] || { sed -n '/^# tests/,/^set/{/^set/d; s/^# //p}' "$0" >&2; exit 2; }
suite_in_namespace "$0" "$@"
suite_begin
SNAPFS=${SNAPFS:-$BUILD/fs/virt-snapfs}
snapfs_pick
domains=${1:-1000} snapshots=${2:-100} kind=${3:-internal} idle=${4:-30}
M=$W/mnt I=$W/many
mkdir "$M" "$I"

say() { printf '%-46s %s\n' "$1" "$2"; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
# cpu_ms PID: so far, of the process and of its children that have ended.
cpu_ms() { awk '{ sub(/.*\) /, ""); print ($12 + $13 + $14 + $15) * 10 }' "/proc/$1/stat"; }
memory() { awk -v k="$2:" '$1 == k { print int($2 / 1024) " MiB" }' "/proc/$1/status"; }
# ms COMMAND...: how long it takes.
ms() {
	local begun
	begun=$(now_ms)
	"$@" >/dev/null 2>&1
	echo $(($(now_ms) - begun))
}
# in_inventory: snapshots that have been read, by .metrics.
in_inventory() { awk '/^virt_snapfs_snapshots\{.*state="ok"/ { n += $NF } END { print n + 0 }' "$M/.metrics"; }
# The text of .metrics has a line for each of some things of each domain: to ask too often would be what is measured.
all_read() { sleep 2; [ "$(in_inventory)" -ge "$1" ]; }

mount_it() { # SOURCE...
	env --default-signal "$SNAPFS" -f -o refresh=2 "$@" "$M" >"$W/log" 2>&1 </dev/null &
	pid=$!
	SNAPFS_PIDS[$M]=$pid SNAPFS_LOGS[$M]=$W/log
	until is_mounted "$M" || gone "$pid"; do sleep 0.05; done
	is_mounted "$M" || die "virt-snapfs does not mount: $(tail -2 "$W/log")"
}

# template: what libvirt itself writes about one.
template() {
	local extra=()
	lab_libvirtd
	qemu-img create -q -f qcow2 "$I/d0000.000.qcow2" 1M
	domain_define d0000 "$(disk_xml vda qcow2 "$I/d0000.000.qcow2")"
	[ "$kind" = internal ] || extra=(--disk-only --diskspec "vda,file=$I/d0000.001.qcow2")
	Vq snapshot-create-as d0000 s000 "${extra[@]}"
	cp /etc/libvirt/qemu/d0000.xml "$I/config.xml"
	cp /var/lib/libvirt/qemu/snapshot/d0000/s000.xml "$I/record.xml"
}
# make FIRST LAST: domains of these numbers, and a libvirtd that knows them.
make() {
	lab_libvirtd_kill TERM
	"$TESTS/bench/many.py" "$I" "$kind" "$1" "$2" "$snapshots" || die 'many.py'
	lab_libvirtd_start
	wait_until 300 V snapshot-list "d$(printf %04d $(($2 - 1)))" --name
	daemon=$(cat /run/libvirtd.pid)
}
# create NAME: wall and CPU of one.
create() {
	local begun ours theirs wall
	ours=$(cpu_ms "$pid") theirs=$(cpu_ms "$daemon") begun=$(now_ms)
	echo "create $1" >"$M/d0003/ctl" || note "$(head -1 "$M/d0003/ctl")"
	wall=$(($(now_ms) - begun))
	echo "$wall ms, CPU $(($(cpu_ms "$pid") - ours)) ms, of libvirtd $(($(cpu_ms "$daemon") - theirs)) ms"
}
creates() { # LABEL
	create "$2-1" >/dev/null
	for i in 2 3 4; do say "$1: create" "$(create "$2-$i")"; sleep 3; done
}
ask_names() {
	{
		echo 'list --all --name'
		for ((i = 0; i < domains; i++)); do printf 'snapshot-list --name d%04d\n' "$i"; done
	} | virsh -q -c "$URI" >"$W/names" 2>&1
}

template
make 0 10
mount_it "$URI"
wait_until 60 all_read $((10 * snapshots))
creates '10 domains' few
unmount_snapfs "$M"

make 10 "$domains"
say "$domains domains, $snapshots $kind snapshots each" ''
say 'libvirt: names by one virsh' "$(ms ask_names) ms"
all=$((domains * snapshots))
theirs=$(cpu_ms "$daemon")
begun=$(now_ms)
mount_it "$URI"
ls "$M" >"$W/ls"
say 'mount to names' "$(($(now_ms) - begun)) ms ($(grep -c . "$W/ls") domains)"
wait_until 600 all_read "$all" || note "only $(in_inventory) of $all were read: $(tail -2 "$W/log")"
say 'mount to all records' "$(($(now_ms) - begun)) ms, CPU $(cpu_ms "$pid") ms, of libvirtd $(($(cpu_ms "$daemon") - theirs)) ms"
say 'ls -l of one' "$(ms ls -l "$M/d0005") ms, again $(ms ls -l "$M/d0005") ms"
say 'memory' "$(memory "$pid" VmRSS)"
begun=$(now_ms)
n=$(find "$M" | wc -l)
say 'find' "$(($(now_ms) - begun)) ms ($n names)"
say 'memory' "$(memory "$pid" VmRSS), at most $(memory "$pid" VmHWM)"
sleep 20
ours=$(cpu_ms "$pid") theirs=$(cpu_ms "$daemon")
sleep "$idle"
say "idle, $idle s" "$(($(cpu_ms "$pid") - ours)) ms of CPU, of libvirtd $(($(cpu_ms "$daemon") - theirs)) ms"
for i in 1 2 3; do
	if [ "$kind" = external ]; then Vq snapshot-create-as d0007 "virsh$i" --disk-only; else Vq snapshot-create-as d0007 "virsh$i"; fi
	say 'a snapshot of virsh is seen after' "$(ms wait_until 60 test -e "$M/d0007/virsh$i.vda.img") ms"
	sleep 1.3
done
sleep 5
creates "$domains domains" many
say 'memory' "$(memory "$pid" VmRSS), at most $(memory "$pid" VmHWM)"
unmount_snapfs "$M"
suite_end
