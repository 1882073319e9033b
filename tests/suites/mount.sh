#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# The mount as a user meets it, on plain images: command line, life cycle, fstab, modes and numbers of the files, names, the
# file `current`, the gate. No libvirt. The oracle for bytes is qemu-img on a copy.
set -u
. "$(dirname "$0")/../lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
M=$W/mnt
I=$W/images
mkdir "$M" "$I" "$W/want"
chmod 755 "$I"
R=refresh=0.3

# ---------------------------------------------------------------- an image with two snapshots of different size

g=$I/good.qcow2
qemu-img create -q -f qcow2 "$g" 8M
qwrite "$g" 0x11 1M 2M
qemu-img snapshot -c one "$g"
qwrite "$g" 0x22 2M 2M
qemu-img resize -q "$g" 12M
qwrite "$g" 0x33 11M 512K
qemu-img snapshot -c two "$g"
qwrite "$g" 0x44 0 1M
qemu_snapshot_bytes "$g" one "$W/want/one"
qemu_snapshot_bytes "$g" two "$W/want/two"
qemu_bytes "$g" "$W/want/current"
all_right() { # NAME DIR
	same "$1" "$(sha "$W/want/one") $(sha "$W/want/two")" "$(sha "$2/one.disk.img" 2>&1) $(sha "$2/two.disk.img" 2>&1)"
}

# ---------------------------------------------------------------- command line

status '--help: status' 0 "$SNAPFS" --help
has '--help goes to stdout' "$OUT" '^[Uu]sage: .*virt-snapfs .*MOUNTPOINT'
status '-h: status' 0 "$SNAPFS" -h
status '--version: status' 0 "$SNAPFS" --version
has '--version says the version' "$OUT" '^virt-snapfs.* [0-9]+\.[0-9]+'
status '-V: status' 0 "$SNAPFS" -V
usage_error() { # NAME ARGUMENT...
	local name=$1
	shift
	status "usage: $name" 2 timeout 20 "$SNAPFS" "$@"
	is_mounted "$M" && umount "$M"
}
usage_error 'no arguments'
usage_error 'an unknown option' --bogus "$g" "$M"
usage_error 'an unknown -o option' -o bogus "$g" "$M"
usage_error 'refresh=0' -o refresh=0 "$g" "$M"
usage_error 'refresh=soon' -o refresh=soon "$g" "$M"
usage_error 'cache=maybe' -o cache=maybe "$g" "$M"
usage_error 'umask=9' -o umask=9 "$g" "$M"
usage_error 'a URI and an image' qemu:///system "$g" "$M"
usage_error 'two URIs' qemu:///system test:///default "$M"
usage_error 'a URI and no mount point' qemu:///system
has 'usage: says that it is the mount point that is missing' "$ERR" "no mountpoint was given behind 'qemu:///system'; try 'virt-snapfs --help'"
cannot() { # NAME PATTERN ARGUMENT...: fails with status 1, one sentence that names the matter, and nothing mounted
	local name=$1 pattern=$2
	shift 2
	status "$name: status" 1 timeout 20 "$SNAPFS" "$@"
	has "$name: says what" "$ERR" "$pattern"
	same "$name: in one line" 1 "$(grep -c . <<<"$ERR")"
	check_not "$name: nothing mounted" is_mounted "$M"
}
cannot 'no such image' 'nothere\.qcow2.*No such file' "$I/nothere.qcow2" "$M"
cannot 'no such mount point' 'nowhere' "$g" "$W/nowhere"
head -c 1M /dev/urandom >"$W/garbage.qcow2"
cannot 'not a qcow2 image' 'garbage\.qcow2' "$W/garbage.qcow2" "$M"
cannot 'a directory for an image' "$I" "$I" "$M"
mkfifo "$W/fifo.qcow2"
cannot 'a FIFO for an image' 'fifo\.qcow2' "$W/fifo.qcow2" "$M"
cannot 'one bad image among good ones' 'nothere' "$g" "$I/nothere.qcow2" "$M"
cannot '-o remount' 'cannot be remounted' -o remount,ro "$g" "$M"
cannot 'no such libvirt' 'socket' "qemu+unix:///system?socket=$W/nothere.sock" "$M"

# ---------------------------------------------------------------- life cycle

daemon_pid() { pgrep -x virt-snapfs | head -1; }
no_daemon() { ! pgrep -x virt-snapfs; }
start=$(date +%s)
out=$("$SNAPFS" "$g" "$M" 2>&1)
same 'the daemon: status' 0 $?
same 'the daemon: says nothing' '' "$out"
same 'the daemon: it answers at once' 'current.disk.img one.disk.img two.disk.img' "$(cd "$M/good" && echo *.img)"
check 'the daemon: holds nobody up' test $(($(date +%s) - start)) -lt 15
pid=$(daemon_pid)
same 'the daemon: has no terminal or directory of ours' '/ ' "$(readlink "/proc/$pid/cwd") $(readlink "/proc/$pid/fd/1" | grep -v /dev/null)"
all_right 'the daemon: bytes' "$M/good"
check 'fusermount3 -u' fusermount3 -u "$M"
check 'ends the process' wait_until 20 no_daemon
"$SNAPFS" "$g" "$M"
check 'umount' umount "$M"
check 'ends it too' wait_until 20 no_daemon
for sig in TERM INT; do
	mount_snapfs "$M" "$g" || { fail "SIG$sig" 'no mount'; continue; }
	pid=${SNAPFS_PIDS[$M]}
	exec {fd}<"$M/good/one.disk.img"
	kill -"$sig" "$pid"
	check "SIG$sig ends it, files open or not" wait_until 20 gone "$pid"
	check_not "SIG$sig unmounts" is_mounted "$M"
	exec {fd}<&-
	unmount_snapfs "$M"
done
# A process with a mount namespace of its own, as libvirt gives one to each QEMU. Says whether the umount
# has ended the daemon.
beside() {
	local pid other
	mount_snapfs "$M" "$g" || return
	pid=${SNAPFS_PIDS[$M]}
	unshare -m --propagation unchanged sh -c 'mount --make-rslave / && echo there >"$1" && exec sleep 60' - "$W/beside" &
	other=$!
	wait_until 10 test -s "$W/beside"
	umount "$M"
	if wait_until "$1" gone "$pid"; then echo ended; else kill -TERM "$pid" && echo "lives, and $(wait_until 20 gone "$pid" && echo 'SIGTERM ends it')"; fi
	kill "$other"
	wait "$other" 2>/dev/null
	rm -f "$W/beside"
	unmount_snapfs "$M"
} 2>/dev/null
same 'umount, where / is private and somebody has a copy of the mount' 'lives, and SIGTERM ends it' "$(beside 2)"
mount --make-rshared /
same 'umount, where / is shared' ended "$(beside 20)"
mount --make-rprivate /
mount_snapfs "$M" -d "$g" && unmount_snapfs "$M"
has '-d: shows requests' "$(cat "${SNAPFS_LOGS[$M]}")" 'opcode: INIT'

# fstab: mount(8) finds a helper in the system's own directories only, so the program is put there for the length of this
# namespace.
if mount -t tmpfs -o mode=755 tmpfs /usr/local/bin && install -m 755 "$BUILD/fs/virt-snapfs" /usr/local/bin/; then
	check 'mount -t fuse.virt-snapfs' mount -t fuse.virt-snapfs -o allow_other,_netdev,noauto "$g" "$M"
	all_right 'mount(8): bytes' "$M/good"
	umount "$M"
	wait_until 20 no_daemon
	printf '%s %s fuse.virt-snapfs ro,allow_other,_netdev,nofail 0 0\n' "$g" "$M" >"$W/fstab"
	check 'a line in fstab' mount --fstab "$W/fstab" "$M"
	all_right 'fstab: bytes' "$M/good"
	has 'fstab: mounted as fuse.virt-snapfs' "$(grep " $M " /proc/mounts)" ' fuse\.virt-snapfs ro,'
	umount "$M"
	wait_until 20 no_daemon
	check_not 'mount(8) hears of a failure' mount -t fuse.virt-snapfs "$I/nothere.qcow2" "$M"
	# What lines of fstab carry, one after the other, through mount(8) and mount.fuse3.
	bad=
	for o in defaults rw ro dev nodev suid nosuid exec noexec async sync dirsync atime noatime diratime nodiratime relatime norelatime \
		strictatime nostrictatime lazytime nolazytime iversion noiversion mand nomand silent loud nosymfollow auto noauto _netdev nofail \
		user=root users owner group nouser comment=backup x-systemd.automount,x-systemd.requires=libvirtd.service,x-systemd.idle-timeout=60 \
		x-gvfs-show X-mount.mkdir=0755 max_read=131072 allow_root auto_unmount default_permissions nonempty fsname=x,subtype=y clone_fd \
		entry_timeout=1,attr_timeout=1,negative_timeout=1 kernel_cache direct_io \
		rw,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=524288; do
		printf '%s %s fuse.virt-snapfs %s 0 0\n' "$g" "$M" "$o" >"$W/fstab"
		if mount --fstab "$W/fstab" "$M" 2>"$W/.err"; then
			[ "$(sha "$M/good/one.disk.img")" = "$(sha "$W/want/one")" ] || bad+=" $o: wrong bytes;"
			umount "$M"
			wait_until 20 no_daemon
		else
			bad+=" $o: $(head -n 1 "$W/.err");"
		fi
	done
	same 'fstab: each option that such a line may have' '' "$bad"
	mount -t fuse.virt-snapfs -o noexec,noatime "$g" "$M"
	has 'noexec, noatime: the kernel keeps to them' "$(grep " $M " /proc/mounts)" ' fuse\.virt-snapfs [^ ]*noexec,noatime'
	status 'mount -o remount: refused' 1 mount -o remount,ro "$M"
	has 'and says how instead' "$ERR" "'$M' cannot be remounted: unmount it"
	all_right 'the mount is as it was' "$M/good"
	umount "$M"
	wait_until 20 no_daemon
	umount /usr/local/bin
else
	skip 'mount -t fuse.virt-snapfs' 'nothing can be mounted over /usr/local/bin'
fi

"$SNAPFS" -o max_read=8192 "$g" "$M"
has 'max_read=: the kernel keeps to it' "$(grep " $M " /proc/mounts)" 'max_read=8192'
all_right 'max_read=: bytes' "$M/good"
umount "$M"
wait_until 20 no_daemon

# ---------------------------------------------------------------- places that are none

mount_snapfs "$M" "$g" || die 'no mount'
refused() { # NAME PATTERN ARGUMENT...: as `cannot`, and what is mounted stays
	status "$1: status" 1 timeout 20 "$SNAPFS" "${@:3}"
	has "$1: says what" "$ERR" "$2"
	same "$1: in one line" 1 "$(grep -c . <<<"$ERR")"
}
refused 'twice on one place' "^virt-snapfs: mountpoint '$M': virt-snapfs is mounted there already" "$g" "$M"
ln -s mnt "$W/same"
refused 'by another name' "'$W/same': virt-snapfs is mounted there already" "$g" "$W/same"
same 'it is there once' 1 "$(grep -c " $M " /proc/mounts)"
all_right 'and serves' "$M/good"
mount -t tmpfs -o mode=755 tmpfs "$M"
cannot_hide() { # NAME PATTERN ARGUMENT...
	refused "$@"
	check_not "$1: nothing mounted" is_mounted "${*: -1}"
}
check 'over something else that was mounted over it' "$SNAPFS" "$I/../images/good.qcow2" "$M"
check 'umount' umount "$M"
umount "$M"
check 'the first is still there' test -f "$M/good/one.disk.img"
unmount_snapfs "$M"
wait_until 20 no_daemon
mount_snapfs "$M" "$g" || die 'no mount'
kill -KILL "${SNAPFS_PIDS[$M]}"
{ wait "${SNAPFS_PIDS[$M]}"; } 2>/dev/null
unset "SNAPFS_PIDS[$M]"
refused 'where one has crashed' "'$M': a virt-snapfs that has ended is still mounted there: unmount it first" "$g" "$M"
umount "$M"
cannot_hide "over the image's directory" "would hide the image '$g'" "$g" "$I"
cannot_hide 'over one above it' "would hide the image '$g'" "$g" "$W"
refused 'over /' "would hide the image '$g'" "$g" /
mkdir "$W/links"
ln -s "$g" "$W/links/good.qcow2"
cannot_hide "over a link's directory" "would hide the image '$W/links/good.qcow2'" "$W/links/good.qcow2" "$W/links"
cannot_hide "over the directory where a link leads" "would hide the image '$W/links/good.qcow2'" "$W/links/good.qcow2" "$I"
mkdir "$W/bases" "$I/below"
qemu-img create -q -f qcow2 "$W/bases/base.qcow2" 1M
qemu-img create -q -f qcow2 -F qcow2 -b "$W/bases/base.qcow2" "$I/over.qcow2"
cannot_hide 'over its backing file' "would hide the (image '$W/bases/base.qcow2' of domain 'over'|directory '$W/bases')" -o "allow_path=$W/bases" "$I/over.qcow2" "$W/bases"
mount_snapfs "$I/below" "$g" && all_right "below the image's directory" "$I/below/good"
unmount_snapfs "$I/below"
wait_until 20 no_daemon

# ---------------------------------------------------------------- what stat says

mount_snapfs "$M" -o "$R" "$g" || die 'no mount'
D=$M/good
same 'the tree' "$(printf '%s\n' good good/{chain,ctl,current.disk.img,jobs,log,one.disk.img,retain,retain.plan,snapshots,snapshots.json,space,space.json,two.disk.img})" "$(cd "$M" && find . -mindepth 1 | sed 's|^\./||' | LC_ALL=C sort)"
all_right 'images: bytes' "$D"
same 'current: bytes' "$(sha "$W/want/current")" "$(sha "$D/current.disk.img")"
same 'images: mode' '440' "$(stat -c %a "$D/one.disk.img")"
same 'directories: mode' '550 550' "$(stat -c %a "$M" "$D" | xargs)"
same 'texts: mode' '440 440 440 440 440' "$(stat -c %a "$D"/{snapshots,snapshots.json,chain,jobs,log} | xargs)"
same 'what is written to: mode' '600 600 600' "$(stat -c %a "$D"/{ctl,retain,retain.plan} | xargs)"
same 'owner' '0:0 0:0 0:0' "$(stat -c %u:%g "$D" "$D/one.disk.img" "$D/chain" | xargs)"
same 'types' 'directory regular file regular file' "$(stat -c %F "$D" "$D/one.disk.img" "$D/snapshots" | sed 's/regular empty file/regular file/' | xargs)"
same 'st_size is the size at that snapshot' "$((8 << 20)) $((12 << 20)) $((12 << 20))" "$(stat -c %s "$D"/{one,two,current}.disk.img | xargs)"
for f in one two current; do
	check "$f: st_blocks says that there are holes" test $(($(stat -c '%b * %B' "$D/$f.disk.img"))) -lt "$(stat -c %s "$D/$f.disk.img")"
done
check 'st_blksize suits big reads' test "$(stat -c %o "$D/one.disk.img")" -ge 131072
qemu-img info -U --output=json "$g" >"$W/info.json"
when() { jq -r --arg n "$1" '.snapshots[] | select(.name == $n) | "\(."date-sec").\(."date-nsec" + 1000000000 | tostring | .[1:])"' "$W/info.json"; }
same 'mtime is the creation, to the nanosecond' "$(when one) $(when two)" "$(stat -c %.9Y "$D"/{one,two}.disk.img | xargs)"
same 'ctime is the same' "$(stat -c %.9Y "$D"/{one,two}.disk.img | xargs)" "$(stat -c %.9Z "$D"/{one,two}.disk.img | xargs)"
same "current has the file's mtime" "$(stat -c %.9Y "$g")" "$(stat -c %.9Y "$D/current.disk.img")"
check 'file system totals can be asked' stat -f "$M"
python3 - "$D/one.disk.img" >"$W/seek" <<'PY'
import os, sys
fd, out, off = os.open(sys.argv[1], os.O_RDONLY), [], 0
size = os.fstat(fd).st_size
while off < size:
    try:
        d = os.lseek(fd, off, os.SEEK_DATA)
    except OSError as e:
        out.append("E%d" % e.errno); break
    off = os.lseek(fd, d, os.SEEK_HOLE)
    out.append("%d-%d" % (d, off))
for o in (size, size + 1):
    try: os.lseek(fd, o, os.SEEK_DATA); out.append("?")
    except OSError as e: out.append("E%d" % e.errno)
print(*out)
PY
same 'SEEK_DATA and SEEK_HOLE are exact, ENXIO past the last' "$((1 << 20))-$((3 << 20)) E6 E6 E6" "$(cat "$W/seek")"
same 'read: at the end' 0 "$(dd if="$D/one.disk.img" bs=1 skip=$((8 << 20)) count=1 2>/dev/null | wc -c)"
same 'read: across the end' 100 "$(dd if="$D/one.disk.img" iflag=skip_bytes bs=4096 skip=$(((8 << 20) - 100)) count=1 2>/dev/null | wc -c)"
same 'read: odd place and length' "$(dd if="$W/want/two" iflag=skip_bytes,count_bytes bs=7777 skip=1048001 count=300001 2>/dev/null | sha256sum)" \
	"$(dd if="$D/two.disk.img" iflag=skip_bytes,count_bytes bs=7777 skip=1048001 count=300001 2>/dev/null | sha256sum)"
mmap_flag() { python3 -c 'import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(fd, 0, flags=getattr(mmap, sys.argv[2]), prot=mmap.PROT_READ)
sys.exit(0 if m[1 << 20] == 0x11 and m[0] == 0 and m[(3 << 20) - 1] == 0x11 else 1)' "$D/one.disk.img" "$1"; }
check 'MAP_PRIVATE' mmap_flag MAP_PRIVATE

# ---------------------------------------------------------------- what is refused

same 'write an image: EROFS' EROFS "$(errno_of dd if=/dev/zero of="$D/one.disk.img" count=1 conv=notrunc)"
same 'truncate an image: EROFS' EROFS "$(errno_of truncate -s 0 "$D/one.disk.img")"
same 'rm: EPERM' EPERM "$(errno_of rm -f "$D/one.disk.img")"
same 'rmdir: EPERM' EPERM "$(errno_of rmdir "$D")"
same 'mv: EPERM' EPERM "$(errno_of mv "$D/one.disk.img" "$D/three.disk.img")"
same 'mkdir: EPERM' EPERM "$(errno_of mkdir "$M/new")"
has 'a new file: refused' "$(errno_of touch "$D/new")" '^(EPERM|EROFS)$'
has 'chmod: refused' "$(errno_of chmod 777 "$D/one.disk.img")" '^(EPERM|EROFS)$'
has 'ln: refused' "$(errno_of ln "$D/one.disk.img" "$D/again")" '^(EPERM|EROFS)$'
same 'a name that is not there: ENOENT' ENOENT "$(errno_of cat "$D/three.disk.img")"
same 'a file as a directory: ENOTDIR' ENOTDIR "$(errno_of cat "$D/one.disk.img/x")"
all_right 'nothing of that did anything' "$D"
same 'another user does not see the tree' EACCES "$(errno_of as_user nobody ls "$M")"

# ---------------------------------------------------------------- texts

has 'snapshots: heading' "$(head -1 "$D/snapshots")" '^NAME +KIND +STATE +MEMORY +HELD +CREATED +PARENT +DISKS$'
same 'snapshots: the lines' 'one internal ok no no - disk|two internal ok no no - disk|' "$(tail -n +2 "$D/snapshots" | awk '{print $1, $2, $3, $4, $5, $7, $8}' | tr '\n' '|')"
same 'snapshots.json' 'one two' "$(json "$D/snapshots.json" '[.snapshots[].name] | join(" ")')"
same 'snapshots.json: kind, state, size' "internal ok $((8 << 20))" "$(json "$D/snapshots.json" '.snapshots[0] | "\(.kind) \(.state) \(.disks[0].size)"')"
same 'snapshots.json: chain' "$g" "$(json "$D/snapshots.json" '.snapshots[0].disks[0].chain | join(" ")')"
has 'chain names the image' "$(cat "$D/chain")" 'good\.qcow2'
same 'texts: true sizes' "$(cat "$D/snapshots" | wc -c) $(cat "$D/snapshots.json" | wc -c)" "$(stat -c %s "$D"/{snapshots,snapshots.json} | xargs)"
check 'log can be read' cat "$D/log"

# ---------------------------------------------------------------- numbers that last

inodes() { (cd "$M" && find . -printf '%i %p\n' | LC_ALL=C sort -k2); }
inodes >"$W/ino1"
same 'inode numbers: all different' '' "$(cut -d' ' -f1 "$W/ino1" | sort | uniq -d)"
check_not 'inode numbers: none is 0' grep -q '^0 ' "$W/ino1"
unmount_snapfs "$M"
mount_snapfs "$M" -o "uid=1234,gid=4321,umask=077,allow_other,cache=kernel,bandwidth=10" "$g" || die 'no mount'
inodes >"$W/ino2"
same 'inode numbers: the same at the next mount' '' "$(diff "$W/ino1" "$W/ino2")"
same 'uid=, gid=' '1234:4321 1234:4321 1234:4321' "$(stat -c %u:%g "$D" "$D/one.disk.img" "$D/chain" | xargs)"
same 'umask=' '500 400 400' "$(stat -c %a "$D" "$D/one.disk.img" "$D/chain" | xargs)"
check 'MAP_SHARED with cache=kernel' mmap_flag MAP_SHARED
all_right 'cache=kernel: bytes' "$D"
all_right 'cache=kernel: once more' "$D"
unmount_snapfs "$M"
mount_snapfs "$M" -o cache=none,ro "$g" || die 'no mount'
all_right 'cache=none: bytes' "$D"
unmount_snapfs "$M"

# ---------------------------------------------------------------- other users

nobody_gid=$(id -g nobody)
mount_snapfs "$M" -o "allow_other,gid=$nobody_gid" "$g" || die 'no mount'
same 'allow_other: the group may read' "$(sha "$W/want/one")" "$(as_user nobody sha256sum "$D/one.disk.img" | cut -c1-64)"
same 'allow_other: and not write' EACCES "$(errno_of as_user nobody dd if=/dev/null of="$D/one.disk.img" conv=notrunc)"
unmount_snapfs "$M"
mount_snapfs "$M" -o allow_other "$g" || die 'no mount'
same 'allow_other: modes hold' EACCES "$(errno_of as_user nobody ls "$D")"
unmount_snapfs "$M"

mkdir "$W/user" && cp "$g" "$W/user/mine.qcow2" && mkdir "$W/user/mnt" && chown -R nobody "$W/user"
install -m 755 "$BUILD/fs/virt-snapfs" "$W/theirs" # the checkout may be where they cannot read
if as_user nobody test -r /dev/fuse -a -w /dev/fuse; then
	: >"$W/fuse.conf"
	mount --bind "$W/fuse.conf" /etc/fuse.conf 2>/dev/null
	chmod 644 "$W/fuse.conf"
	if SNAPFS_AS=nobody SNAPFS=$W/theirs mount_snapfs "$W/user/mnt" "$W/user/mine.qcow2"; then
		same 'an ordinary user mounts' "$(sha "$W/want/one")" "$(as_user nobody sha256sum "$W/user/mnt/mine/one.disk.img" | cut -c1-64)"
		same 'and owns what is in it' nobody "$(as_user nobody stat -c %U "$W/user/mnt/mine/one.disk.img")"
		same 'not even root sees it' EACCES "$(errno_of ls "$W/user/mnt")"
		check 'and unmounts' as_user nobody fusermount3 -u "$W/user/mnt"
		unmount_snapfs "$W/user/mnt"
	else
		fail 'an ordinary user mounts' 'no mount'
	fi
	status 'allow_other needs the permission of /etc/fuse.conf' 1 as_user nobody "$W/theirs" -o allow_other "$W/user/mine.qcow2" "$W/user/mnt"
	has 'and says so' "$ERR" 'user_allow_other'
	usermount() { as_user nobody "$BUILD/fs/virt-snapfs" "$W/user/mine.qcow2" "$1"; }
	mkdir -m 755 "$W/rootsown"
	status 'where fusermount3 lets nobody mount' 1 usermount "$W/rootsown"
	same 'what it says is the reason' "virt-snapfs: cannot mount on '$W/rootsown': user has no write access to mountpoint $W/rootsown" "$ERR"
	echo user_allow_other >"$W/fuse.conf"
	if SNAPFS_AS=nobody SNAPFS=$BUILD/fs/virt-snapfs mount_snapfs "$W/user/mnt" -o allow_root "$W/user/mine.qcow2"; then
		same 'allow_root: root sees it' "$(sha "$W/want/one")" "$(sha "$W/user/mnt/mine/one.disk.img")"
		same 'allow_root: and nobody else' EACCES "$(errno_of as_user daemon ls "$W/user/mnt")"
		unmount_snapfs "$W/user/mnt"
	else
		fail 'allow_root' 'no mount'
	fi
	# A fusermount3 as it is confined by AppArmor: its mount(2) gets EACCES.
	printf '#!/bin/sh\necho "fusermount3: mount failed: Permission denied" >&2\nexit 1\n' >"$W/forbidden"
	chmod 755 "$W/forbidden"
	mount --bind "$W/forbidden" "$(command -v fusermount3)"
	mkdir -p /etc/apparmor.d
	mount -t tmpfs -o mode=755 tmpfs /etc/apparmor.d
	status 'where fusermount3 is forbidden to mount' 1 usermount "$W/user/mnt"
	same 'what it says is the reason' "virt-snapfs: cannot mount on '$W/user/mnt': mount failed: Permission denied" "$ERR"
	: >/etc/apparmor.d/fusermount3
	status 'and by AppArmor' 1 usermount "$W/user/mnt"
	has 'that is said, too' "$ERR" "mount failed: Permission denied .probably AppArmor: its profile /etc/apparmor.d/fusermount3 "
	same 'in one line' 1 "$(grep -c . <<<"$ERR")"
	umount /etc/apparmor.d "$(command -v fusermount3)"
	umount /etc/fuse.conf 2>/dev/null
else
	skip 'an ordinary user mounts' '/dev/fuse is not open to users here, and no other node can be made'
fi

# ---------------------------------------------------------------- what others do to the image

mount_snapfs "$M" -o "$R" "$g" || die 'no mount'
exec {fd}<"$D/one.disk.img"
head -c 65536 <&"$fd" >/dev/null
qemu-img snapshot -c three "$g"
check 'a new snapshot shows' wait_until 15 test -e "$D/three.disk.img"
same 'it reads as the present' "$(sha "$W/want/current")" "$(sha "$D/three.disk.img")"
same 'one that was open all the time goes on' "$(tail -c +65537 "$W/want/one" | sha256sum)" "$(cat <&"$fd" | sha256sum)"
exec {fd}<&-
ino=$(stat -c %i "$D/two.disk.img")
exec {fd}<"$D/three.disk.img"
exec {fd2}<"$D/two.disk.img"
qemu-img snapshot -d three "$g"
check 'a deleted one goes' wait_until 15 test ! -e "$D/three.disk.img"
qwrite "$g" 0x55 0 4M
same 'an open file of a deleted snapshot: ESTALE' ESTALE "$(errno_of cat "/dev/fd/$fd")"
same 'its neighbour, whose record moved, does not notice' "$(sha "$W/want/two")" "$(sha256sum <&"$fd2" | cut -c1-64)"
same 'and keeps its inode number' "$ino" "$(stat -c %i "$D/two.disk.img")"
exec {fd}<&- {fd2}<&-
qemu_bytes "$g" "$W/want/current"

# current: there while nobody writes.
shown() { test -e "$D/current.disk.img"; }
hidden() { ! shown; }
check 'current: shown' wait_until 15 shown
same 'current: the new bytes' "$(sha "$W/want/current")" "$(sha "$D/current.disk.img")"
coproc QIO { exec qemu-io -f qcow2 "$g" 2>&1; }
# shellcheck disable=SC2153
qio_pid=$QIO_PID
check 'current: goes when a writer comes' wait_until 15 hidden
all_right 'current: snapshots read on beside a writer' "$D"
check 'current: chain says why it is not there' grep -q 'its present content is not shown: .* is open for writing' "$D/chain"
for c in 'write -q -P 0x66 6M 1M' flush quit; do
	sleep 0.3 # qemu-io loses sight of what comes in one piece with the line before
	echo "$c" >&"${QIO[1]}"
done
wait_until 15 gone "$qio_pid" || end_pid "$qio_pid"
check 'current: comes back when the writer has gone' wait_until 15 shown
qemu_bytes "$g" "$W/want/current"
same 'current: with what it wrote' "$(sha "$W/want/current")" "$(sha "$D/current.disk.img")"
exec {fd}<"$D/current.disk.img"
head -c 4096 <&"$fd" >/dev/null
check_not 'current: nobody can begin to write while it is being read' qwrite "$g" 1 0 512
exec {fd}<&-
check 'current: once it is closed one can' wait_until 15 qwrite "$g" 0x67 6M 512
exec {fd}<"$D/one.disk.img"
head -c 4096 <&"$fd" >/dev/null
check 'a snapshot that is being read keeps no writer away' qwrite "$g" 0x77 7M 512K
exec {fd}<&-
qemu-system-x86_64 -accel tcg -m 32 -nodefaults -display none -S -monitor none \
	-drive "file=$g,format=qcow2,if=virtio" -pidfile "$W/qemu.pid" >/dev/null 2>&1 &
qemu=$!
at_exit "end_pid $qemu"
check 'current: goes when a machine starts' wait_until 20 hidden
all_right 'the machine does not disturb snapshots' "$D"
end_pid "$qemu"
check 'current: comes back when it is off' wait_until 15 shown
unmount_snapfs "$M"

# ---------------------------------------------------------------- what lies beneath is exchanged

# beneath KIND: an image of 4 MiB whose upper half comes from $L: a raw base, a layer in the middle, a data file of the base; or
# that cannot be read without $L, which is the image itself
beneath() {
	rm -rf "$I/low"
	mkdir "$I/low"
	pattern 0x11 4M >"$I/low/base.raw"
	L=$I/low/base.raw
	case $1 in
	raw | itself)
		qemu-img create -q -f qcow2 -F raw -b base.raw "$I/low/img.qcow2"
		;;
	layer)
		L=$I/low/mid.qcow2
		qemu-img create -q -f qcow2 "$L" 4M
		qwrite "$L" 0x11 2M 2M
		qemu-img create -q -f qcow2 -F qcow2 -b mid.qcow2 "$I/low/img.qcow2"
		;;
	data-file)
		L=$I/low/data.raw
		qemu-img create -q -f qcow2 -o "data_file=$L,data_file_raw=on" "$I/low/mid.qcow2" 4M
		qwrite "$I/low/mid.qcow2" 0x11 0 4M
		qemu-img create -q -f qcow2 -F qcow2 -b mid.qcow2 "$I/low/img.qcow2"
		;;
	esac
	touch -d '2 days ago' "$I"/low/*
	qemu-io -f qcow2 -c 'write -q -c -P 0x33 0 64k' "$I/low/img.qcow2" >/dev/null
	qemu-img snapshot -c s "$I/low/img.qcow2"
	if [ "$1" = itself ]; then L=$I/low/img.qcow2; fi
}
for cache in none auto kernel; do
	for what in raw/{rename,rename-alike,write,truncate} layer/{rename,truncate} data-file/rename itself/truncate; do
		beneath "${what%/*}"
		mount_snapfs "$M" -o "$R,cache=$cache" "$I/low/img.qcow2" || die 'no mount'
		adopt python3 "$TESTS/images/replaced.py" "$what, cache=$cache" "$M/img/s.disk.img" "$L" "${what#*/}"
		unmount_snapfs "$M"
	done
done
rm -rf "$I/low"

# A new open shows it at once, refresh or not, and closed files leave nothing behind.
for cache in none auto kernel; do
	beneath raw
	mount_snapfs "$M" -o "refresh=60,cache=$cache" "$I/low/img.qcow2" || die 'no mount'
	same "cache=$cache: the base as it was" 11 "$(od -An -tx1 -j 3M -N 1 "$M/img/s.disk.img" | xargs)"
	pattern 0x22 4M >"$I/low/new.raw"
	touch -r "$I/low/base.raw" "$I/low/new.raw"
	mv "$I/low/new.raw" "$I/low/base.raw"
	same "cache=$cache: another one shows at the next open" 22 "$(od -An -tx1 -j 3M -N 1 "$M/img/s.disk.img" | xargs)"
	unmount_snapfs "$M"
done

# ---------------------------------------------------------------- file handles

mount_snapfs "$M" -o "$R" "$g" || die 'no mount'
cat >"$W/handles.py" <<'PY'
# What do handles lead to, at once and after the kernel has forgotten what it knew?
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("f", ctypes.c_ubyte * 128)]
def get(path):
    h, mount_id = Handle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(h), ctypes.byref(mount_id), 0):
        return None
    return h
top = os.open(sys.argv[1], os.O_RDONLY)
def follow(h):
    fd = libc.open_by_handle_at(top, ctypes.byref(h), os.O_RDONLY) if h else -1
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    what = os.listdir(fd)[0] if os.path.isdir("/proc/self/fd/%d" % fd) else "%02x" % os.pread(fd, 1, 1 << 20 if os.fstat(fd).st_size > 1 << 20 else 0)[0]
    os.close(fd)
    return what
names = sys.argv[2:]
handles = [get(os.path.join(sys.argv[1], n)) for n in names]
print(*[follow(h) for h in handles], sep="|")
for _ in range(3):  # what was used just now is spared the first time
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("2")
print(*[follow(h) for h in handles], sep="|")
PY
{ read -r first; read -r second; } < <(python3 "$W/handles.py" "$M" good/one.disk.img good/snapshots good good/ctl)
same 'file handles lead where they led' '11|4e|chain|6e' "$first"
same 'also when the kernel has forgotten the inodes, but for what is written to' '11|4e|chain|Stale file handle' "$second"
unmount_snapfs "$M"

# ---------------------------------------------------------------- names

o=$I/odd.qcow2
qemu-img create -q -f qcow2 "$o" 1M
n=0
long=$(printf 'x%.0s' {1..255})
longu=$(printf 'é%.0s' {1..127})
for name in 'a b' 'a/b' '100%' '.hidden' 'til~de' 'ümlaut' $'ctl\x01\x7f' $'\xff\xfe' '' current dup dup 1 "$long" "$longu" '-n' 'x.disk.img' ..; do
	n=$((n + 1))
	qwrite "$o" "$n" "$((n * 4))K" 4K
	qemu-img snapshot -c "$name" "$o" -- 2>/dev/null || (cd "$I" && qemu-img snapshot -c "$name" odd.qcow2) || die "no snapshot '$name'"
	qemu_bytes "$o" "$W/want/odd.$n"
done
mkdir "$I/second"
cp "$g" "$I/second/good.qcow2"
mount_snapfs "$M" -o "$R" "$o" "$g" "$I/second/good.qcow2" || die 'no mount'
same 'two sources with one stem' 'good good~2 odd' "$(cd "$M" && echo *)"
all_right 'both read' "$M/good~2"
D=$M/odd
shown_as() { # NUMBER FILE
	same "name $1 is shown as $2" "$(sha "$W/want/odd.$1")" "$(sha "$D/$2.disk.img" 2>&1)"
}
shown_as 1 'a b'
shown_as 2 'a%2Fb'
shown_as 3 '100%25'
shown_as 4 '%2Ehidden'
shown_as 5 'til%7Ede'
shown_as 6 'ümlaut'
shown_as 7 'ctl%01%7F'
shown_as 8 '%FF%FE'
shown_as 9 '~9'
shown_as 10 'current~10'
shown_as 11 'dup~11'
shown_as 12 'dup~12'
shown_as 13 1
cut=$(printf 'x%.0s' {1..243})
shown_as 14 "$cut~14"
cut=$(printf 'é%.0s' {1..121})
shown_as 15 "$cut~15"
shown_as 16 '-n'
shown_as 17 'x.disk.img'
shown_as 18 '%2E.'
same 'no other files' 19 "$(find "$D" -name '*.img' | wc -l)"
same 'and no name is longer than a name may be' '' "$(cd "$D" && for f in *; do [ "$(printf %s "$f" | LC_ALL=C wc -c)" -gt 255 ] && echo "$f"; done)"
has 'tables: a space is %20' "$(cat "$D/snapshots")" '^a%20b +internal '
same 'snapshots.json has the shown and the raw name' 'a%2Fb a/b' "$(json "$D/snapshots.json" '.snapshots[1] | "\(.name) \(.raw_name)"')"
check 'snapshots.json is UTF-8 throughout' python3 -c 'import json, sys; json.loads(open(sys.argv[1], "rb").read().decode("utf-8"))' "$D/snapshots.json"
same 'every table line has eight columns' 8 "$(awk '{print NF}' "$D/snapshots" | sort -u)"
qemu-img snapshot -c 'til~de' "$o"
check 'a second bearer of a name: both get their id' wait_until 15 test -e "$D/til%7Ede~5.disk.img" -a -e "$D/til%7Ede~19.disk.img" -a ! -e "$D/til%7Ede.disk.img"
unmount_snapfs "$M"

# Ids that repeat cannot be made with QEMU: entry 2 of a copy gets the id of entry 1.
python3 - "$g" "$I/twin.qcow2" <<'PY'
import struct, sys
b = bytearray(open(sys.argv[1], "rb").read())
off = struct.unpack(">Q", b[64:72])[0]
def size(o):
    extra, = struct.unpack(">I", b[o + 36:o + 40]); idl, nl = struct.unpack(">HH", b[o + 12:o + 16])
    return extra, idl, (40 + extra + idl + nl + 7) & ~7
x1 = size(off)
o2 = off + x1[2]
b[o2 + 40 + size(o2)[0]] = b[off + 40 + x1[0]]
# ... and its name
n1, n2 = off + 40 + x1[0] + x1[1], o2 + 40 + size(o2)[0] + size(o2)[1]
b[n2:n2 + 3] = b[n1:n1 + 3]
open(sys.argv[2], "wb").write(b)
PY
mount_snapfs "$M" "$I/twin.qcow2" || die 'no mount'
same 'one name and one id twice: ~ID and ~ID~2' 'current.disk.img one~1.disk.img one~1~2.disk.img' "$(cd "$M/twin" && echo *.img)"
same 'each with its own bytes' "$(sha "$W/want/one") $(sha "$W/want/two")" "$(sha "$M/twin/one~1.disk.img" 2>&1) $(sha "$M/twin/one~1~2.disk.img" 2>&1)"
unmount_snapfs "$M"

# ---------------------------------------------------------------- encrypted

luks() { qemu-img create -q -f qcow2 --object secret,id=k,data=x -o encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10 "$I/luks.qcow2" 4M 2>/dev/null; }
wait_until 30 luks || die 'no LUKS image' # it measures how fast the machine is, which can be too busy for that
mount_snapfs "$M" "$I/luks.qcow2" || die 'no mount'
check_not 'an encrypted image has no present content' test -e "$M/luks/current.disk.img"
check 'and chain says why' grep -q "its present content is not shown: '$I/luks.qcow2' is encrypted (LUKS)" "$M/luks/chain"
unmount_snapfs "$M"

# ---------------------------------------------------------------- the gate

mkdir "$W/elsewhere"
qemu-img create -q -f raw "$W/elsewhere/base.raw" 4M
qemu-io -f raw -c 'write -q -P 0x5e 0 4M' "$W/elsewhere/base.raw" >/dev/null
over() { # NAME BACKING: an image there whose snapshot needs that backing file
	qemu-img create -q -f qcow2 "$I/$1.qcow2" 4M
	qwrite "$I/$1.qcow2" 0x5f 0 64K
	qemu-img snapshot -c s "$I/$1.qcow2"
	qemu-img rebase -q -u -F raw -b "$2" "$I/$1.qcow2"
}
over inside inside.raw
cp "$W/elsewhere/base.raw" "$I/inside.raw"
over outside "$W/elsewhere/base.raw"
over passwd /etc/passwd
over dotdot ../elsewhere/base.raw
ln -s "$W/elsewhere/base.raw" "$I/link.raw"
over symlink link.raw
over url nbd://127.0.0.1:1/x
mkfifo "$I/fifo.raw"
over fifo fifo.raw
over device /dev/zero
over missing missing.raw
over self self.qcow2
qemu-img rebase -q -u -F qcow2 -b self.qcow2 "$I/self.qcow2"
refused=(outside passwd dotdot symlink url fifo device missing self)
sources=()
for n in "${refused[@]}"; do sources+=("$I/$n.qcow2"); done
mount_snapfs "$M" -o "$R" "$g" "$I/inside.qcow2" "${sources[@]}" || die 'no mount'
qemu_snapshot_bytes "$I/inside.qcow2" s "$W/want/inside" 2>/dev/null || { (cd "$I" && cp inside.qcow2 .c.qcow2 && qemu-img snapshot -q -a s .c.qcow2 && qemu-img convert -f qcow2 -O raw .c.qcow2 "$W/want/inside"; rm -f .c.qcow2); }
same 'gate: beside the image is fine' "$(sha "$W/want/inside")" "$(sha "$M/inside/s.disk.img" 2>&1)"
for n in "${refused[@]}"; do
	if [ -e "$M/$n/s.disk.img" ] && timeout 20 cat "$M/$n/s.disk.img" >"$W/.leak" 2>/dev/null; then
		fail "gate: $n is not served" 'it reads without an error'
	elif grep -qa -e root: -e ^^^^ "$W/.leak" 2>/dev/null; then
		fail "gate: $n is not served" 'bytes of the forbidden file came out'
	else
		ok "gate: $n is not served"
	fi
	has "gate: $n has a state and a reason" "$(json "$M/$n/snapshots.json" '.snapshots[0] | "\(.state) \(.reason)"')" '^(unsupported|stale) .....'
done
all_right 'gate: the good image beside them' "$M/good"
unmount_snapfs "$M"
rm -f "$W/.leak"
mount_snapfs "$M" -o "allow_path=$W/elsewhere" -o "allow_path=/nowhere" "$I/outside.qcow2" "$I/symlink.qcow2" "$I/passwd.qcow2" || die 'no mount'
(head -c 64K /dev/zero | tr '\0' '\137'; head -c $((4032 << 10)) /dev/zero | tr '\0' '\136') >"$W/want/outside"
has 'of one that is not there it warns' "$(cat "${SNAPFS_LOGS[$M]}")" '^virt-snapfs: warning: allow_path=/nowhere: No such file or directory$'
same 'allow_path= opens a directory' "$(sha "$W/want/outside")" "$(sha "$M/outside/s.disk.img" 2>&1)"
same 'also behind a symbolic link' "$(sha "$W/want/outside")" "$(sha "$M/symlink/s.disk.img" 2>&1)"
check_not 'and no other' cat "$M/passwd/s.disk.img"
unmount_snapfs "$M"

# ---------------------------------------------------------------- clusters that lie here and there, and are not in the page cache

# Backwards, so that what the kernel fetches of itself is what lies before. Of 4 MiB a reader takes the first part.
qemu-img create -q -f qcow2 "$I/back.qcow2" 4M
(cd "$I" && for k in {63..0}; do echo "write -q -P $k $((64 * k))k 64k"; done | qemu-io -f qcow2 back.qcow2 >/dev/null && qemu-img snapshot -c s back.qcow2)
qemu_bytes "$I/back.qcow2" "$W/want/back"
in_cache() { fincore -nrbo RES "$I/back.qcow2"; }
fetched() { [ "$(in_cache)" -ge $((7 << 18)) ]; }
if [ "$(stat -f -c %T "$I")" = tmpfs ]; then
	skip 'cold: what is read next is fetched' 'a tmpfs has no disk'
else
	mount_snapfs "$M" "$I/back.qcow2" || die 'no mount'
	sync "$I/back.qcow2"
	dd if="$I/back.qcow2" iflag=nocache count=0 status=none
	check 'cold: nothing of it is in the page cache' test "$(in_cache)" -le $((1 << 18))
	dd if="$M/back/s.disk.img" of="$W/.part" bs=512K count=1 status=none
	check 'cold: what is read next is fetched' wait_until 5 fetched
	check 'cold: the bytes are right' cmp -n 524288 "$W/.part" "$W/want/back"
	unmount_snapfs "$M"
	mount_snapfs "$M" "$I/back.qcow2" || die 'no mount'
	dd if="$I/back.qcow2" iflag=nocache count=0 status=none
	for part in 5 1 3; do dd if="$M/back/s.disk.img" of="$W/.part" bs=512K count=1 skip=$part status=none; done
	sleep 0.3
	check 'cold: who reads here and there has nothing fetched for later' test "$(in_cache)" -le $((8 << 18))
	same 'cold: and all others' "$(sha "$W/want/back")" "$(sha "$M/back/s.disk.img")"
	unmount_snapfs "$M"
fi

# ---------------------------------------------------------------- a hostile image beside a good one

python3 - "$g" "$I/evil.qcow2" <<'PY'
import struct, sys
b = bytearray(open(sys.argv[1], "rb").read())
off = struct.unpack(">Q", b[64:72])[0]
b[off:off + 8] = struct.pack(">Q", 0x7ffffff0000) # the first snapshot's L1 table, far past the end
open(sys.argv[2], "wb").write(b)
PY
mount_snapfs "$M" "$I/evil.qcow2" "$g" || die 'no mount'
check_not 'hostile: the broken snapshot gives an error' cat "$M/evil/one.disk.img"
same 'hostile: its neighbour in the same image is well' "$(sha "$W/want/two")" "$(sha "$M/evil/two.disk.img")"
all_right 'hostile: so is the other image' "$M/good"
unmount_snapfs "$M"
check 'no image was written to' qemu-img check -q "$g"
suite_end
