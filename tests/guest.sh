#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# tests/guest.sh: snapshots of a real guest. A Debian boots under TCG, with three disks (ext4, ext4, xfs), its guest agent, and a program that
# writes a numbered record to each disk in turn, with fsync between. So at any moment the numbers on the three disks fall, by one at most: in every
# snapshot they have to, whatever was being written when it was taken, and while retention merges layers beneath the guest. What was taken
# with `quiesce` has to be clean without replaying any journal. Then the guest is reverted to one of them, and goes on from there.
#
#	tests/guest.sh          takes some ten minutes, and 2 GB; not among the suites of tests/run.sh
#
#	GUESTS=DIR    where the guest's root is kept once it was made (${XDG_CACHE_HOME:-/var/cache}/virt-snapfs-guests)
#	MIRROR=URL    where Debian comes from (http://deb.debian.org/debian)
#	BUILD=DIR     the build to test (build/ of the checkout)
set -u
GUESTS=${GUESTS:-${XDG_CACHE_HOME:-/var/cache}/virt-snapfs-guests}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
export GUESTS MIRROR

PACKAGES=linux-image-cloud-amd64,systemd-sysv,udev,qemu-guest-agent,xfsprogs,e2fsprogs,initramfs-tools
# The root is made before the namespaces, which have no network.
if [ -z "${VS_NAMESPACE:-}" ] && [ ! -e "$GUESTS/made" ]; then
	[ "$(id -u)" = 0 ] || { echo 'guest.sh: only root can make the guest' >&2; exit 1; }
	command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null || exit 1
	rm -rf --one-file-system "$GUESTS/root"
	mkdir -p "$GUESTS" && debootstrap --variant=minbase --include=$PACKAGES bookworm "$GUESTS/root" "$MIRROR" >"$GUESTS/log" 2>&1 ||
		{ echo "guest.sh: no guest can be made, see $GUESTS/log" >&2; exit 1; }
	: >"$GUESTS/made"
fi
. "$(dirname "$0")/lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
have_loop || { skip 'a real guest' 'no loop device to be had'; suite_end; }

# ---------------------------------------------------------------- the guest

R=$W/root
mkdir "$R" "$W/img" "$W/m"
cp -a "$GUESTS/root/." "$R"
cat >"$R/usr/local/sbin/writer" <<'X'
#!/bin/sh
# Goes on behind the last record that is on all disks.
n=$(tail -n 1 /c/records 2>/dev/null)
n=$(expr "${n:-0}" + 0)
for d in /a /b; do
	[ -e $d/records ] && head -n "$n" $d/records >$d/some && mv $d/some $d/records
done
while :; do
	n=$((n + 1))
	for d in /a /b /c; do
		printf '%08d\n' $n >>$d/records
		sync $d/records
	done
done
X
chmod 755 "$R/usr/local/sbin/writer"
cat >"$R/etc/systemd/system/writer.service" <<'X'
[Unit]
RequiresMountsFor=/a /b /c
[Service]
ExecStart=/usr/local/sbin/writer
[Install]
WantedBy=multi-user.target
X
ln -s /etc/systemd/system/writer.service "$R/etc/systemd/system/multi-user.target.wants/"
mkdir "$R/a" "$R/b" "$R/c"
printf '/dev/vda / ext4 defaults 0 1\n/dev/vdb /b ext4 defaults 0 2\n/dev/vdc /c xfs defaults 0 0\n' >"$R/etc/fstab"
echo guest >"$R/etc/hostname"
cp "$R"/boot/vmlinuz-* "$W/img/kernel"
cp "$R"/boot/initrd.img-* "$W/img/initrd"
mke2fs -q -t ext4 -d "$R" "$W/a.raw" 1200M || die 'no file system for the guest'
rm -rf --one-file-system "$R"
mke2fs -q -t ext4 "$W/b.raw" 64M
truncate -s 320M "$W/c.raw"
mkfs.xfs -q "$W/c.raw" || die 'no xfs'
for d in a b c; do
	qemu-img convert -O qcow2 "$W/$d.raw" "$W/img/$d.qcow2"
	rm "$W/$d.raw"
done
lab_libvirtd
disks=
for d in a b c; do
	disks+="<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='$W/img/$d.qcow2'/><target dev='vd$d' bus='virtio'/></disk>"
done
cat >"$W/guest.xml" <<X
<domain type='qemu'><name>guest</name><memory unit='MiB'>512</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>$W/img/kernel</kernel><initrd>$W/img/initrd</initrd>
<cmdline>root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet</cmdline></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>$disks
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<serial type='file'><source path='$W/console'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>
X
answers() { V qemu-agent-command guest '{"execute":"guest-ping"}' >/dev/null; }
Vq define "$W/guest.xml"
Vq start guest
note 'the guest boots'
check 'the guest boots, and its agent answers' wait_until 600 answers
answers || { note_file "$W/console" 20; suite_end; }
mount_snapfs "$W/m" -o refresh=1 "$URI" || die 'no mount'
M=$W/m/guest
wait_until 30 test -e "$M/ctl" || die 'the mount does not show the guest'

# ---------------------------------------------------------------- what is in a snapshot

# last FILE: the number of the last record in it, and whether all before it are there.
last() { awk 'length($0) != 8 || $1 + 0 != NR { exit bad = 1 } END { if (bad || NR == 0) print "broken at line " NR; else print NR }' "$1"; }
# copied NAME: its three disks, as a backup has them.
copied() {
	local t
	for t in vda vdb vdc; do cp --sparse=always "$M/$1.$t.img" "$W/$t.img" || return 1; done
}
# records NAME: "A B C", read from copies, on which the journals are replayed.
records() {
	local t out=
	for t in vda vdb vdc; do
		mkdir -p "$W/$t"
		mount -o loop"$([ $t = vdc ] && echo ,nouuid)" "$W/$t.img" "$W/$t" || { echo "$t cannot be mounted"; return; }
		out+="$(last "$W/$t$([ $t = vda ] && echo /a)/records") "
		umount "$W/$t"
	done
	echo "$out"
}
# in_order NAME "A B C"
in_order() {
	local a b c
	read -r a b c <<<"$2"
	if [[ $a$b$c =~ ^[0-9]+$ ]] && [ "$a" -ge "$b" ] && [ "$b" -ge "$c" ] && [ $((a - c)) -le 1 ]; then
		ok "the order of writes holds over three disks: $1 ($2)"
	else
		fail "the order of writes holds over three disks: $1" "$2"
	fi
}
# clean NAME: without a journal to be replayed.
clean() {
	check "$1: ext4 of vda is clean" e2fsck -fn "$W/vda.img"
	check "$1: ext4 of vdb is clean" e2fsck -fn "$W/vdb.img"
	check_not "$1: no journal of vda is to be replayed" sh -c "dumpe2fs -h '$W/vda.img' 2>/dev/null | grep -q needs_recovery"
	check_not "$1: no journal of vdb is to be replayed" sh -c "dumpe2fs -h '$W/vdb.img' 2>/dev/null | grep -q needs_recovery"
	# A frozen XFS says of itself that it is to be replayed, but all is in its place.
	mkdir -p "$W/ro"
	check "$1: xfs of vdc can be read without its journal" mount -o loop,ro,norecovery,nouuid "$W/vdc.img" "$W/ro"
	UNREPLAYED=$(last "$W/ro/records")
	umount "$W/ro"
}
ctl() { echo "$1" >"$M/ctl" 2>/dev/null; }

# ---------------------------------------------------------------- taken while it writes

check 'a policy' sh -c "echo 4 >'$M/retain'"
declare -A SAID
before=0
for n in 1 2 3 4 5 6 7 8; do
	quiesce=
	[ $((n % 2)) = 0 ] && quiesce=' quiesce'
	sleep 3
	if ctl "create s$n$quiesce"; then ok "create s$n$quiesce"; else fail "create s$n$quiesce" "$(head -n 1 "$M/ctl")"; fi
	copied "s$n" || fail "s$n is copied" 'no copy'
	[ -z "$quiesce" ] || clean "s$n"
	SAID[s$n]=$(records "s$n")
	[ -z "$quiesce" ] || same "s$n: and has all that was written" "$UNREPLAYED" "$(awk '{ print $3 }' <<<"${SAID[s$n]}")"
	in_order "s$n" "${SAID[s$n]}"
	now=${SAID[s$n]%% *}
	[[ $now =~ ^[0-9]+$ ]] && check "s$n has more than the one before" test "$now" -gt "$before" && before=$now
done
same 'retention has kept four' 's5 s6 s7 s8' "$(cd "$M" && printf '%s ' s*.vda.img | sed 's/\.vda\.img//g; s/ $//')"
for n in 5 6 7 8; do
	copied "s$n" || fail "s$n is copied again" 'no copy'
	same "s$n has what it had, after merges beneath it" "${SAID[s$n]}" "$(records "s$n")"
done
check 'the guest is well' answers

# ---------------------------------------------------------------- back to one of them

if ctl 'revert s6 force keep=late'; then ok 'revert s6 force keep=late'; else fail 'revert s6 force keep=late' "$(head -n 1 "$M/ctl")"; fi
copied late && SAID[late]=$(records late)
in_order late "${SAID[late]}"
Vq start guest
check 'the guest boots from s6' wait_until 600 answers
sleep 5
ctl 'create after quiesce' || fail 'create after quiesce' "$(head -n 1 "$M/ctl")"
copied after || fail 'after is copied' 'no copy'
clean after
SAID[after]=$(records after)
in_order after "${SAID[after]}"
from=${SAID[s6]%% *} to=${SAID[after]%% *}
check "it went on from s6 ($from, $to)" test "$to" -gt "$from"
copied late
same 'what was kept is what it was' "${SAID[late]}" "$(records late)"
Vq destroy guest
unmount_snapfs "$W/m"
suite_end
