#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# leases.sh [TIMES]: images that are read while others open them for writing. The bytes go without a copy where nobody does, and only there; who
# opens waits for the replies on their way and for nothing else; whatever he writes then, no reader sees it. virt-snapfs is stopped and killed
# meanwhile, also at the worst of moments.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
faults_pick
times=${1:-250}
TOOL=$TESTS/images/leases.py
M=$W/mnt
mkdir "$M" "$W/i"
# A file system that has leases, wherever this runs.
mount -t tmpfs -o mode=755 tmpfs "$W/i" || die 'no tmpfs'
at_exit 'umount -l "$W/i"'
g=$W/i/g.qcow2
export PYTHONDONTWRITEBYTECODE=1
# After somebody wanted to write a file is left alone for seconds (fs/lease-pause.h); here for ms, but where that is what is looked at: so there is often a lease to be given up.
export VIRT_SNAPFS_PAUSE=20

# value NAME: of .metrics
value() { awk -v n="virt_snapfs_$1" '$1 == n { print $2 }' "$M/.metrics"; }
by_lease() { value 'spliced_bytes_total{by="lease"}'; }
lease_has() { [ "$(by_lease)" = "$1" ]; } # counted just after the reader has the bytes
# make IMAGE WANT [SIZE]: a snapshot `s` with bytes that are all different, and a present content that shares none of them
make() {
	local size=${3:-4M}
	head -c "$size" /dev/urandom >"$2"
	qemu-img convert -f raw -O qcow2 "$2" "$1" && qemu-img snapshot -c s "$1" && qwrite "$1" 0x11 0 "$size"
}
# reads_right NAME FILE WANT
reads_right() { same "$1" "$(sha "$3")" "$(dd if="$2" bs=512K 2>"$W/.err" | sha256sum | cut -c1-64)"; }
up() { mount_snapfs "$M" -o refresh=0.1,lease=on "$@" || die 'no mount'; }
# reader FILE WANT [OPTION]: in the background, and it has begun; reader_end NAME: its lines
reader() {
	rm -f "$W/stop" "$W/reader"
	python3 "$TOOL" read "$1" "$2" "$W/stop" "${@:3}" >"$W/reader" 2>&1 &
	READER=$!
	wait_until 10 grep -q '^begun' "$W/reader"
}
reader_end() {
	touch "$W/stop"
	wait "$READER"
	note "$1: $(grep -m1 '^#' "$W/reader")"
	if grep -q '^ok' "$W/reader" && ! grep -q '^FAIL' "$W/reader"; then ok "$1"; else fail "$1" "$(head -n 3 "$W/reader" | tr '\n' ' ')"; fi
}

# ---------------------------------------------------------------- when it is taken, and when not

make "$g" "$W/want" 16M
up "$g"
reads_right 'an image that nobody has open' "$M/g/s.disk.img" "$W/want"
if [ "$(by_lease)" = 0 ]; then
	skip 'leases' 'there are none to be had here (README, Limits)'
	suite_end
fi
check 'all of it goes without a copy' wait_until 1 lease_has $((16 << 20))
exec 5<"$M/g/s.disk.img"
dd bs=512K count=1 <&5 >/dev/null 2>&1
same 'it has a lease' 1 "$(value leases)"
check 'which goes when nobody reads' wait_until 2 sh -c "grep -q '^virt_snapfs_leases 0' '$M/.metrics'"
same 'and nobody had to wait for it' 0 "$(value lease_breaks_total)"
dd bs=512K count=1 <&5 >/dev/null 2>&1
same 'it comes again' 1 "$(value leases)"
exec 5<&-
wait_until 1 sh -c "grep -q '^virt_snapfs_leases 0' '$M/.metrics'"
same 'and goes with the last close' 0 "$(value leases)"
n=$(by_lease)
exec 6<>"$g"
reads_right 'one that somebody has open for writing' "$M/g/s.disk.img" "$W/want"
same 'is copied' "$n" "$(by_lease)"
exec 6<&-
sleep 0.1
reads_right 'one that nobody has open any more' "$M/g/s.disk.img" "$W/want"
check 'goes without a copy again' test "$(by_lease)" -gt "$n"
dd if="$M/g/s.disk.img" of=/dev/null bs=512K count=1 2>/dev/null
check 'O_NONBLOCK: at once, if not always with success' python3 -c '
import os, sys, time
begun = time.monotonic()
try:
    os.close(os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK))
except BlockingIOError:
    pass
assert time.monotonic() - begun < 1
time.sleep(0.3)
os.close(os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK))' "$g"
unmount_snapfs "$M"
for o in refresh=0.1 lease=off; do
	mount_snapfs "$M" -o $o "$g" || die 'no mount'
	reads_right "who has not asked for it (-o $o)" "$M/g/s.disk.img" "$W/want"
	same "has no lease (-o $o)" '0 0' "$(by_lease) $(value leases)"
	unmount_snapfs "$M"
done

# ---------------------------------------------------------------- stopped at the worst of moments: begun

# Stopped between the last look at the lease and the device, for longer than the kernel waits: meanwhile the snapshot is deleted and its
# clusters get other bytes. Once as it is, and once without that look's having to be just before, which has to be noticed. What comes of it is seen at the end.
limit=$(cat /proc/sys/fs/lease-break-time)
# worst NAME: mounts, reads, is stopped, and is written to
worst() {
	local m=$W/worst.$1 image=$W/i/$1.qcow2
	mkdir "$m"
	make "$image" "$W/want.$1"
	export VIRT_SNAPFS_STOP=$W/stop.$1
	[ "$1" = blind ] && export VIRT_SNAPFS_BLIND=1
	mount_snapfs "$m" -o lease=on "$image" || die 'no mount'
	unset VIRT_SNAPFS_STOP VIRT_SNAPFS_BLIND
	touch "$W/stop.$1"
	dd if="$m/$1/s.disk.img" of="$W/got.$1" bs=512K count=1 2>"$W/err.$1" &
	READERS+=($!)
	wait_until 5 grep -q '^State:.T' "/proc/${SNAPFS_PIDS[$m]}/status" || fail "stopped ($1)" 'it is not'
	python3 "$TOOL" swap1 "$image" >"$W/swap.$1" 2>&1 &
	READERS+=($!)
}
READERS=()
if [ "$limit" -ge 20 ] && [ "$limit" -le 60 ]; then
	worst seeing
	worst blind
fi

# How long the kernel lets somebody wait: not so shortly that it may be over before a reply has gone, and not for ever (0).
for seconds in 0 19 20; do
	echo $seconds >"$W/limit"
	mount --bind "$W/limit" /proc/sys/fs/lease-break-time
	up "$g"
	reads_right "lease-break-time is $seconds" "$M/g/s.disk.img" "$W/want"
	check "lease-break-time is $seconds: what goes without a copy" wait_until 1 lease_has $(((seconds == 20) * 16 << 20))
	unmount_snapfs "$M"
	umount /proc/sys/fs/lease-break-time
done

[ ${#READERS[@]} = 0 ] || same 'stopped at the worst of moments: nobody has it open yet' '' "$(cat "$W/swap.seeing")"

# ---------------------------------------------------------------- who does not wait

# Two snapshots of one image are read all the time, so that there are two leases; pauses are as long as they are.
make "$W/i/two.qcow2" "$W/want.s"
qemu-img snapshot -c s2 "$W/i/two.qcow2"
pattern 17 4M >"$W/want.s2"
unset VIRT_SNAPFS_PAUSE
up "$W/i/two.qcow2"
reader "$M/two/s.disk.img" "$W/want.s" --strict
python3 "$TOOL" read "$M/two/s2.disk.img" "$W/want.s2" "$W/stop" --strict >"$W/reader2" 2>&1 &
second=$!
wait_until 5 sh -c "grep -q '^virt_snapfs_leases 2' '$M/.metrics'"
adopt python3 "$TOOL" knock "$W/i/two.qcow2"
check 'and leases come again' wait_until 10 sh -c "grep -q '^virt_snapfs_leases 2' '$M/.metrics'"
reader_end 'two snapshots of one image, and somebody who opens it with O_NONBLOCK'
wait "$second"
has 'the other one' "$(cat "$W/reader2")" '^ok'
unmount_snapfs "$M"
export VIRT_SNAPFS_PAUSE=20

# ---------------------------------------------------------------- a slow disk

# A reply of 512 KiB is made in four steps, and each of them takes so long; neither who kills its reader nor who opens the image waits for all of them.
make "$W/i/slow.qcow2" "$W/want.slow"
export VIRT_SNAPFS_SLOW=700
up "$W/i/slow.qcow2"
unset VIRT_SNAPFS_SLOW
now_ms() { echo $(($(date +%s%N) / 1000000)); }
slowly() { dd if="$M/slow/s.disk.img" of="$W/got.slow" bs=512K count=1 2>/dev/null; }
(exec dd if="$M/slow/s.disk.img" of=/dev/null bs=512K count=1 2>/dev/null) &
reading=$!
sleep 0.3
same 'a slow disk: there is a lease' 1 "$(value leases)"
begun=$(now_ms)
kill -KILL "$reading"
wait "$reading" 2>/dev/null
took=$(($(now_ms) - begun))
check "a slow disk: a reader that is killed ends ($took ms)" test "$took" -lt 1500
slowly &
reading=$!
sleep 0.3
begun=$(now_ms)
exec 6<>"$W/i/slow.qcow2"
took=$(($(now_ms) - begun))
exec 6<&-
check "a slow disk: who opens the image gets in ($took ms)" test "$took" -lt 1500
wait "$reading"
same 'a slow disk: and the reader gets a copy' "$(head -c 512K "$W/want.slow" | sha256sum)" "$(sha256sum <"$W/got.slow")"
check 'a slow disk: that somebody waited was counted' test "$(value lease_breaks_total)" = 1
unmount_snapfs "$M"

# ---------------------------------------------------------------- counted once

# Between each look at the lease and the device so much time passes that nothing goes out: it is copied in the end.
export VIRT_SNAPFS_LATE=200
up "$W/i/slow.qcow2"
unset VIRT_SNAPFS_LATE
rm -f "$W/stop"
python3 "$TOOL" watch "$M/.metrics" "$W/stop" >"$W/watch" 2>&1 &
watching=$!
slowly
same 'what could not be sent is copied' "$(head -c 512K "$W/want.slow" | sha256sum)" "$(sha256sum <"$W/got.slow")"
same 'and counted once' "$((512 << 10)) 0" "$(value read_bytes_total) $(by_lease)"
touch "$W/stop"
wait "$watching"
adopt cat "$W/watch"
unmount_snapfs "$M"

# ---------------------------------------------------------------- chains, and where there is none

qemu-img create -q -f qcow2 -b "$g" -F qcow2 "$W/i/o.qcow2"
qwrite "$W/i/o.qcow2" 0x22 1M 1M
cp "$g" "$W/i/base.qcow2"
qemu-img rebase -u -f qcow2 -F qcow2 -b "$W/i/base.qcow2" "$W/i/o.qcow2"
qemu-img snapshot -c t "$W/i/o.qcow2"
qemu_bytes "$W/i/o.qcow2" "$W/want.t"
qwrite "$W/i/o.qcow2" 0x33 0 4M
up "$W/i/o.qcow2"
reads_right 'a snapshot that stands on another file' "$M/o/t.disk.img" "$W/want.t"
check 'goes without a copy' test "$(by_lease)" -gt 0
n=$(by_lease)
exec 6<>"$W/i/base.qcow2"
reads_right 'that somebody has open for writing' "$M/o/t.disk.img" "$W/want.t"
same 'and then it is copied' "$n" "$(by_lease)"
exec 6<&-
unmount_snapfs "$M"

# Where whoever writes to a file need not write to this one.
mkdir "$W/i/low" "$W/i/up" "$W/i/work" "$W/merged"
cp "$g" "$W/i/low/"
if mount -t overlay -o "lowerdir=$W/i/low,upperdir=$W/i/up,workdir=$W/i/work" overlay "$W/merged" 2>/dev/null; then
	up "$W/merged/g.qcow2"
	reads_right 'on overlayfs' "$M/g/s.disk.img" "$W/want"
	same 'on overlayfs: is copied' 0 "$(by_lease)"
	unmount_snapfs "$M"
	umount "$W/merged"
else
	skip 'on overlayfs' 'it cannot be mounted here'
fi
if have_loop; then
	truncate -s 64M "$W/i/dev.raw"
	dev=$(losetup -f --show "$W/i/dev.raw")
	dd if="$g" of="$dev" bs=1M 2>/dev/null
	up "$dev"
	reads_right 'on a device' "$M/$(basename "$dev")/s.disk.img" "$W/want"
	same 'on a device: is copied' 0 "$(by_lease)"
	unmount_snapfs "$M"
	losetup -d "$dev"
else
	skip 'on a device' 'no loop device to be had'
fi
mkdir "$W/theirs"
chown nobody "$W/theirs"
chmod 644 "$g"
SNAPFS_AS=nobody SNAPFS=$BUILD/fs/virt-snapfs mount_snapfs "$W/theirs" -o "refresh=0.1,lease=on,ro" "$g" || die 'no mount'
as_nobody() { as_user nobody sh -c "$1"; }
same "another user's image" "$(sha "$W/want")" "$(as_nobody "dd if='$W/theirs/g/s.disk.img' bs=512K 2>/dev/null" | sha256sum | cut -c1-64)"
same "another user's image: is copied" 0 "$(as_nobody "cat '$W/theirs/.metrics'" | awk '$1 == "virt_snapfs_spliced_bytes_total{by=\"lease\"}" { print $2 }')"
unmount_snapfs "$W/theirs"

# ---------------------------------------------------------------- somebody opens it for writing, all the time

up "$g"
reader "$M/g/s.disk.img" "$W/want" --strict
adopt python3 "$TOOL" open "$g" "$times"
reader_end 'opened for writing, and read'
check "leases were broken for it: $(value lease_breaks_total)" test "$(value lease_breaks_total)" -gt $((times / 10))
unmount_snapfs "$M"

# QEMU's tools, which must all succeed.
up "$g"
reader "$M/g/s.disk.img" "$W/want" --strict
n=$(by_lease) bad='' rounds=$((times / 20 + 1)) begun=$(date +%s%N)
for i in $(seq "$rounds"); do
	{
		qemu-img snapshot -c "o$i" "$g" &&
			qemu-io -f qcow2 -c "write -q -P $((i % 200 + 1)) $((i % 16))M 1M" -c "discard $(((i + 3) % 16))M 64k" "$g" &&
			qemu-img snapshot -d "o$i" "$g"
	} >"$W/.out" 2>&1 || bad+=" round $i: $(tr '\n' ' ' <"$W/.out")"
done
same 'qemu-img snapshot -c, -d and qemu-io while it is read' '' "$bad"
note "$rounds rounds of three took $((($(date +%s%N) - begun) / 1000000)) ms, $(value lease_breaks_total) leases were broken"
reader_end 'snapshots come and go, and clusters are used again'
check 'some of that went without a copy' test "$(by_lease)" -gt "$n"
same 'the image is as it should be' '' "$(qemu-img check -q "$g" 2>&1)"
unmount_snapfs "$M"

# The snapshot itself goes, its clusters get other bytes, and it comes again.
make "$g" "$W/want"
up -o refresh=0.05 "$g"
reader "$M/g/s.disk.img" "$W/want"
adopt python3 "$TOOL" swap "$g" "$times"
reader_end 'the snapshot goes, its clusters are filled, and it comes again'
check "of that $(($(by_lease) >> 20)) MiB went without a copy, and $(value lease_breaks_total) leases were broken" test "$(by_lease)" -gt 0 -a "$(value lease_breaks_total)" -gt $((times / 20))
reader "$M/g/s.disk.img" "$W/want" --spoil
sleep 2
touch "$W/stop"
wait "$READER"
has 'wrong bytes are noticed' "$(cat "$W/reader")" '^FAIL wrong bytes'
unmount_snapfs "$M"

# ---------------------------------------------------------------- guests

lab_libvirtd
mkdir -p "$W/i/images"
make "$W/i/images/web.qcow2" "$W/want" 16M
domain_define web "$(disk_xml vda qcow2 "$W/i/images/web.qcow2")"
up "$URI"
wait_until 10 test -e "$M/web/s.vda.img" || die 'the snapshot does not show'
reader "$M/web/s.vda.img" "$W/want" --strict
bad='' slowest=0
# timed WORD...: virsh does it, and how long that takes counts
timed() {
	local begun=$(($(date +%s%N) / 1000000)) took
	V "$@" >/dev/null || bad+=" $*: $(tr '\n' ' ' <"$W/.virsh.err")"
	took=$(($(date +%s%N) / 1000000 - begun))
	[ $took -le $slowest ] || slowest=$took
}
for i in $(seq $((times / 250 + 2))); do
	sleep 0.0$i
	timed start web --paused
	sleep 0.3
	n=$(by_lease)
	sleep 0.3
	same "while the guest runs nothing goes without a copy ($i)" "$n" "$(by_lease)"
	case $((i % 3)) in
	0) timed destroy web ;;
	1) timed managedsave web && sleep 0.2 && timed start web --paused && timed destroy web ;;
	2) timed snapshot-create-as web "t$i" && timed destroy web && timed snapshot-delete web "t$i" ;;
	esac
	sleep 0.2
	check "and when it does not run, it does ($i)" test "$(by_lease)" -gt "$n"
done
same 'virsh start, managedsave, snapshot-create-as, snapshot-delete, destroy' '' "$bad"
note "the slowest took $slowest ms"
reader_end 'a guest starts and ends while a snapshot of its disk is read'

# Our own commands, which change the image that is read.
reader "$M/web/s.vda.img" "$W/want" --strict
bad=''
for i in $(seq $((times / 250 + 2))); do
	(echo "create c$i internal" >"$M/web/ctl") 2>/dev/null || bad+=" create: $(head -n 1 "$M/web/ctl")"
	(echo "delete c$i" >"$M/web/ctl") 2>/dev/null || bad+=" delete: $(head -n 1 "$M/web/ctl")"
done
same 'our own create and delete of others' '' "$bad"
reader_end 'our own commands, and read'
unmount_snapfs "$M"

# External ones: what is read of is merged into, by our commands, for whom the locks are dropped.
head -c 16M /dev/urandom >"$W/want.e"
qemu-img convert -f raw -O qcow2 "$W/want.e" "$W/i/images/ext.qcow2"
domain_define ext "$(disk_xml vda qcow2 "$W/i/images/ext.qcow2")"
for s in a b c; do
	Vq snapshot-create-as ext $s --disk-only
	qwrite "$(active_path ext vda)" 0x4$((${#s})) $((RANDOM % 8))M 2M
done
qemu_bytes "$(active_path ext vda)" "$W/want.now"
Vq snapshot-create-as ext d --disk-only
up "$URI"
wait_until 10 test -e "$M/ext/d.vda.img" || die 'the snapshot does not show'
reader "$M/ext/d.vda.img" "$W/want.now" --strict
(echo 'commit a b' >"$M/ext/ctl") || fail 'commit' "$(head -n 1 "$M/ext/ctl")"
(echo 'delete c' >"$M/ext/ctl") || fail 'delete' "$(head -n 1 "$M/ext/ctl")"
reader_end 'layers are merged beneath'
unmount_snapfs "$M"

# ---------------------------------------------------------------- stopped, killed

make "$g" "$W/want"
up "$g"
pid=${SNAPFS_PIDS[$M]}
dd if="$M/g/s.disk.img" of=/dev/null bs=512K 2>/dev/null
exec 5<"$M/g/s.disk.img"
dd bs=512K count=1 <&5 >/dev/null 2>&1
kill -STOP "$pid"
python3 -c 'import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR))' "$g" &
opener=$!
sleep 1
check 'SIGSTOP: who opens it for writing waits' kill -0 "$opener"
kill -CONT "$pid"
check 'SIGCONT: no longer' wait_until 2 gone "$opener"
exec 5<&-
reader "$M/g/s.disk.img" "$W/want"
sleep 0.5
disown "$pid"
kill -KILL "$pid"
took=$(python3 -c 'import os, sys, time
begun = time.monotonic()
os.close(os.open(sys.argv[1], os.O_RDWR))
print(int((time.monotonic() - begun) * 1000))' "$g")
check "SIGKILL: the image can be opened at once ($took ms)" test "$took" -lt 1000
touch "$W/stop"
wait "$READER"
unset "SNAPFS_PIDS[$M]"
umount -l "$M" 2>/dev/null

# ---------------------------------------------------------------- stopped at the worst of moments: what came of it

if [ ${#READERS[@]} = 0 ]; then
	skip 'stopped at the worst of moments' "lease-break-time is $limit"
	suite_end
fi
wait_until $((limit + 15)) grep -q "^done" "$W/swap.seeing"
wait_until 5 grep -q "^done" "$W/swap.blind"
check "who opens it for writing waits as long as the kernel lets him: $(head -n 1 "$W/swap.seeing") s of $limit" grep -q "^done" "$W/swap.seeing"
for m in "$W/worst.seeing" "$W/worst.blind"; do kill -CONT "${SNAPFS_PIDS[$m]}"; done
for p in "${READERS[@]}"; do wait "$p"; done
head -c "$(stat -c %s "$W/got.seeing")" "$W/want.seeing" >"$W/part"
same 'and then no byte of his goes out' "$(sha "$W/part")" "$(sha "$W/got.seeing")"
note "the reader has $(stat -c %s "$W/got.seeing") bytes, $(tail -n 1 "$W/err.seeing")"
same 'without looking it would have' 'ee ee ee ee' "$(head -c 4 "$W/got.blind" | od -An -tx1 | xargs)"
suite_end
