#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Layers of different sizes, and bases that cannot take what would be merged into them: a device or a file system that is too small,
# a read-only one, a version 2 image with internal snapshots. Whatever is refused is refused by `try`, too, and changes nothing; what is
# advised works. See vm/command/fit.c.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
lab_libvirtd
M=$W/mnt
mkdir "$M"
mount_snapfs "$M" -o refresh=0.5 "$URI" || die 'no mount'

# new DOMAIN FORMAT PATH [block]
new() {
	D=$1
	domain_define "$D" "$(disk_xml vda "$2" "$3" "${4:-file}")"
	wait_until 20 test -e "$M/$D/ctl" || die "$D does not show"
}
ctl() { (echo "$1" >"$M/$D/ctl") 2>/dev/null; }
said() { head -1 "$M/$D/ctl"; }
does() { if ctl "$1"; then ok "$D: $1"; else fail "$D: $1" "$(said)"; fi; }
active() { active_path "$D" vda; }
write() { qwrite "$(active)" "$@"; }
# external NAME: by libvirt, whose overlay lies beside the others; then it is seen.
external() {
	Vq snapshot-create-as "$D" "$1" --disk-only --diskspec "vda,file=$W/$D.$1,stype=file"
	wait_until 10 test -e "$M/$D/$1.vda.img" || die "$D: $1 does not show"
}
# All that can be read: sizes and bytes of every snapshot but those named, and of the disk.
everything() {
	local f
	for f in "$M/$D"/*.img; do
		case " $* " in *" $(basename "$f" .vda.img) "*) continue ;; esac
		[ -e "$f" ] || continue # there is none
		echo "$(basename "$f") $(stat -c %s "$f") $(sha "$f")"
	done
	qemu_bytes "$(active)" "$W/.now"
	echo "disk $(stat -c %s "$W/.now") $(sha "$W/.now")"
}
# refused COMMAND WORDS: by `try` as well, and nothing changes.
refused() {
	local before
	sleep 0.6
	before=$(everything)
	check_not "$D: try $1" ctl "try $1"
	has "$D: try $1 says why" "$(said)" "$2"
	check_not "$D: $1" ctl "$1"
	has "$D: $1 says why" "$(said)" "$2"
	same "$D: after the refused $1 all reads as before" "$before" "$(everything)"
	has_not "$D: nothing was begun" "$(cat "$M/$D/snapshots")" 'stale'
}
# harmless COMMAND [NAME]...: is done, and all but the names reads as before.
harmless() {
	local command=$1 before
	shift
	sleep 0.6
	before=$(everything "$@")
	does "$command"
	sleep 0.6
	same "$D: after $command all else reads as before" "$before" "$(everything "$@")"
}

# A layer that was made shorter hides the end of its base.
qemu-img create -q -f qcow2 "$W/short.qcow2" 8M
qwrite "$W/short.qcow2" 1 0 8M
new short qcow2 "$W/short.qcow2"
does 'create s1'
qemu-img resize -q --shrink "$(active)" 4M
does 'create s2'
qemu-img resize -q "$(active)" 8M
does 'create s3'
refused 'delete s1' "short.s1.qcow2.*hides the end of .*delete 's2' first.*EOPNOTSUPP"
refused 'commit s1' 'hides the end of .*EOPNOTSUPP'
harmless 'delete s2' s2
harmless 'delete s1' s1

# The same under the disk: the guest's would grow. A pull down to a snapshot would show it again; one down to nothing does not.
qemu-img create -q -f qcow2 "$W/hidden.qcow2" 8M
qwrite "$W/hidden.qcow2" 1 0 8M
new hidden qcow2 "$W/hidden.qcow2"
does 'create s1'
qemu-img resize -q --shrink "$(active)" 4M
refused 'delete s1' "hides the end of .*'pull'.*EOPNOTSUPP"
does 'create s2'
qemu-img resize -q "$(active)" 8M
refused 'pull s1' "hides the end of .*'pull' without a name.*EOPNOTSUPP"
harmless 'pull'

# A short layer in the middle of what goes: QEMU writes the zeros that it stood for.
qemu-img create -q -f qcow2 "$W/middle.qcow2" 8M
qwrite "$W/middle.qcow2" 1 0 8M
new middle qcow2 "$W/middle.qcow2"
does 'create s1'
qemu-img resize -q --shrink "$(active)" 4M
does 'create s2'
qemu-img resize -q "$(active)" 8M
does 'create s3'
harmless 'commit s1 s2' s1 s2

# What QEMU would show when an image grows that ends within a cluster and was larger once.
qemu-img create -q -f qcow2 "$W/tail.qcow2" 8M
qwrite "$W/tail.qcow2" 1 0 8M
qemu-img resize -q --shrink "$W/tail.qcow2" $((4 * 1048576 + 512))
new tail qcow2 "$W/tail.qcow2"
does 'create s1'
qemu-img resize -q "$(active)" 8M
does 'create s2'
refused 'delete s1' 'ends within a cluster.*EOPNOTSUPP'
qemu-img create -q -f qcow2 "$W/clean.qcow2" $((4 * 1048576 + 512))
qwrite "$W/clean.qcow2" 1 0 $((4 * 1048576 + 512))
new clean qcow2 "$W/clean.qcow2"
does 'create s1'
qemu-img resize -q "$(active)" 8M
write 3 6M 64k
does 'create s2'
harmless 'delete s1' s1

# An image of version 2 with an internal snapshot cannot grow.
qemu-img create -q -f qcow2 -o compat=0.10 "$W/two.qcow2" 4M
qwrite "$W/two.qcow2" 1 0 1M
qemu-img snapshot -c inside "$W/two.qcow2"
new two qcow2 "$W/two.qcow2"
external s1
qemu-img resize -q "$(active)" 8M
write 3 6M 64k
external s2
refused 'delete s1' "version 2.*'pull'.*EOPNOTSUPP"
harmless 'pull'

# A read-only file system.
mkdir "$W/ro"
qemu-img create -q -f qcow2 "$W/ro/base.qcow2" 4M
qwrite "$W/ro/base.qcow2" 1 0 1M
new fixed qcow2 "$W/ro/base.qcow2"
external s1
write 2 0 64k
external s2
mount --bind "$W/ro" "$W/ro" && mount -o remount,ro,bind "$W/ro" || die 'no read-only bind mount'
at_exit "umount -l '$W/ro'"
refused 'delete s1' 'cannot be: Read-only file system.*EROFS'

# A full file system is met only on the way: what was begun can be finished when there is room, or left by `pull`.
for way in room pull; do
	mkdir "$W/full-$way"
	mount -t tmpfs -o size=6m none "$W/full-$way" || die 'no tmpfs'
	at_exit "umount -l '$W/full-$way'"
	qemu-img create -q -f qcow2 "$W/full-$way/base.qcow2" 16M
	qwrite "$W/full-$way/base.qcow2" 1 0 2M
	new "full-$way" qcow2 "$W/full-$way/base.qcow2"
	external s1
	write 2 1M 8M
	external s2
	write 3 4M 64k
	external s3
	sleep 1.2
	before=$(everything s1)
	does 'try delete s1'
	has "$D: try says how much there is" "$(said)" 'at most 8[.0-9]* MiB, and its file system has 3[.0-9]* MiB free'
	check_not "$D: delete s1" ctl 'delete s1'
	has "$D: what was met, and the way out" "$(said)" "the base may have been written to, so repeat 'delete s1'.*'pull'.*ENOSPC"
	same "$D: all else reads as before" "$before" "$(everything s1)"
	check_not "$D: another command first" ctl 'delete s2'
	has "$D: it names both ways out" "$(said)" "repeat 'delete s1' first; if that cannot be finished, 'pull'"
	check_not "$D: again" ctl 'delete s1'
	has "$D: the way out again" "$(said)" "'pull'"
	if [ "$way" = room ]; then
		mount -o remount,size=64m "$W/full-$way"
		does 'delete s1'
	else
		does 'try pull'
		does 'pull'
		same "$D: after the pull all else reads as before" "$before" "$(everything s1)"
		has "$D: the log" "$(cat "$M/$D/log")" "'delete s1' was begun and has become void"
		does 'delete s1'
	fi
	same "$D: in the end all else reads as before" "$before" "$(everything)"
	has_not "$D: the record is gone" "$(cat "$M/$D/snapshots")" '^s1 '
	harmless 'delete s2' s2
	check "$D: it starts" V start "$D" --paused
	Vq destroy "$D"
done

if have_loop; then
	# A device cannot grow.
	truncate -s 4M "$W/device"
	LOOP=$(losetup -f --show "$W/device") || die 'no loop device'
	at_exit "losetup -d $LOOP"
	new device raw "$LOOP" block
	external s1
	qemu-img resize -q "$(active)" 8M
	write 2 6M 64k
	external s2
	before=$(sha "$LOOP")
	refused 'delete s1' "device '$LOOP' has 4194304 bytes.*8388608.*ENOSPC"
	same 'nobody wrote to the device' "$before" "$(sha "$LOOP")"
	truncate -s 8M "$W/device"
	losetup -c "$LOOP"
	harmless 'delete s1' s1

	# An image on a device that has no room for what would be merged, and then has.
	truncate -s 2M "$W/small"
	SMALL=$(losetup -f --show "$W/small") || die 'no loop device'
	at_exit "losetup -d $SMALL"
	qemu-img create -q -f qcow2 "$SMALL" 16M
	new small qcow2 "$SMALL" block
	external s1
	write 2 1M 6M
	external s2
	refused 'delete s1' "device '$SMALL' has 2097152 bytes.*ENOSPC"
	truncate -s 9M "$W/small"
	losetup -c "$SMALL"
	harmless 'delete s1' s1
else
	skip 'devices' 'no loop device can be had here'
fi

# The base keeps its data in a file that is another domain's disk.
qemu-img create -q -f qcow2 -o data_file="$W/apart.raw",data_file_raw=on "$W/apart.qcow2" 4M
new apart qcow2 "$W/apart.qcow2"
write 1 0 64k
external s1
write 2 0 64k
external s2
harmless 'delete s2' s2
domain_define neighbour "$(disk_xml vda raw "$W/apart.raw")"
theirs=$(sha "$W/apart.raw")
sleep 1.2
refused 'commit s1' "'neighbour' .disk vda.*EPERM"
harmless 'delete s1' s1
same "nobody wrote to the neighbour's disk" "$theirs" "$(sha "$W/apart.raw")"

unmount_all
suite_end
