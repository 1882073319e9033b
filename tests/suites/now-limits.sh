#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# now/ where it has its limits: disks that are not what their headers say, readers that do not stop at the end or at an error, a QEMU and a
# libvirtd that hang, more readers than QEMU lets in. Nobody else waits for any of it.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
M=$W/mnt I=$W/images
mkdir "$M" "$I"
lab_libvirtd

# ---------------------------------------------------------------- disks that are not what their headers say

# a slice of a raw file; a chain that the definition names otherwise than the headers do; encryption
truncate -s 8M "$I/odd.raw"
for x in a b; do qemu-img create -q -f qcow2 "$I/base-$x.qcow2" 4M; done
qwrite "$I/base-a.qcow2" 0xaa 0 1M
qwrite "$I/base-b.qcow2" 0xbb 0 1M
qemu-img create -q -f qcow2 -b "$I/base-a.qcow2" -F qcow2 "$I/top.qcow2"
qemu-img create -q -f qcow2 "$I/odd.vdc.qcow2" 4M
domain_define odd "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$I/odd.raw'><slices><slice type='storage' offset='1048576' size='4194304'/></slices></source><target dev='vda' bus='virtio'/></disk>
	<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$I/top.qcow2'/><backingStore type='file'><format type='qcow2'/><source file='$I/base-b.qcow2'/><backingStore/></backingStore><target dev='vdb' bus='virtio'/></disk>
	$(disk_xml vdc qcow2 "$I/odd.vdc.qcow2")"
domain_with web vda:16M
domain_with other vda:16M
qemu-img snapshot -c s "$I/other.vda.qcow2"
mount_snapfs "$M" -o refresh=0.4 "$URI" || die 'no mount'
wait_until 20 test -e "$M/other/s.vda.img" || die 'the domains do not show'
for state in off running; do
	[ $state = off ] || Vq start odd
	[ $state = off ] || wait_until 10 grep -q running "$M/odd/chain" || sleep 1
	same "$state: disks that the definition says more of than their headers are not there" vdc.img "$(find "$M/odd/now" -type f -printf '%f ' | sed 's/ $//')"
	same "$state: nor by their names" 'ENOENT ENOENT' "$(errno_of cat "$M/odd/now/vda.img") $(errno_of cat "$M/odd/now/vdb.img")"
done
Vq destroy odd

# ---------------------------------------------------------------- readers that go on

Vq start web
guest_write web vda 7 0 16M
wait_until 10 test -e "$M/web/now/vda.img" || die 'now/ is not there'
cat >"$W/reader.py" <<'PY'
import errno, os, signal, subprocess, sys
path, dom, uri = sys.argv[1:4]
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
assert os.pread(fd, 4096, size + 4096) == b"" and os.pread(fd, 4096, size) == b"", "past the end"
assert os.pread(fd, 8192, size - 4096) == b"\7" * 4096, "over the end"
for off in (0, size - 4096, 4 << 20):
    assert os.pread(fd, 4096, off) == b"\7" * 4096, "and then at %d" % off
print("ok past the end")
subprocess.run(["virsh", "-c", uri, "domjobabort", dom], check=True, stdout=subprocess.DEVNULL)
signal.alarm(20)
seen = set()
while not seen:  # libvirt has only begun to end it when it answers
    for off in range(0, size, 65536):
        try:
            assert os.pread(fd, 65536, off) == b"\7" * 65536, off
        except OSError as e:
            seen.add(errno.errorcode[e.errno])
print("ok on after an error")
PY
same 'a reader that does not stop at the end, nor at an error' 'ok past the end ok on after an error' "$(python3 "$W/reader.py" "$M/web/now/vda.img" web "$URI" 2>&1 | tail -2 | xargs)"

# ---------------------------------------------------------------- more than QEMU lets in

cat >"$W/many.py" <<'PY'
import errno, os, sys
fds = []
try:
    for _ in range(120):
        fds.append(os.open(sys.argv[1], os.O_RDONLY))
    print("all")
except OSError as e:
    print(errno.errorcode[e.errno], 80 <= len(fds) < 100)
PY
wait_until 20 python3 -c 'import sys; open(sys.argv[1], "rb").read(1)' "$M/web/now/vda.img"
same 'a hundred at a time: an error, and no wait' 'EMFILE True' "$(timeout 60 python3 "$W/many.py" "$M/web/now/vda.img")"
check 'and then there is room again' cmp -n 4096 "$M/web/now/vda.img" <(head -c 4096 /dev/zero | tr '\0' '\7')

# ---------------------------------------------------------------- who hangs, hangs alone

# others_go_on NAME: within two seconds
others_go_on() {
	local s
	sleep 2 # until they wait
	s=$(date +%s%N)
	check "$1: qcow2/ of another domain" timeout 10 cmp -s -n 4096 "$M/other/qcow2/s.vda.qcow2" "$M/other/qcow2/s.vda.qcow2"
	[[ $1 == libvirtd* ]] || check "$1: space of another domain" timeout 10 grep -q '^s ' "$M/other/space"
	# That can be refused: what libvirt 11 does not tell of the one that hangs may need it.
	[[ $1 == libvirtd* ]] || check "$1: a command of another domain is answered" timeout 10 sh -c 'echo "try delete s" >"$1"; :' sh "$M/other/ctl"
	check "$1: at once" test $((($(date +%s%N) - s) / 1000000)) -lt 2500
}
# N readers of a file, each of its own place; on a line of input they are killed, and it is told whether all are gone within five seconds. PID: a
# process that is stopped once the file is open, which half of them share.
cat >"$W/stuck.py" <<'PY'
import os, signal, sys, time
path, n = sys.argv[1], int(sys.argv[2])
pids = []
held = None
if len(sys.argv) > 3:
    held = os.open(path, os.O_RDONLY)
    os.kill(int(sys.argv[3]), signal.SIGSTOP)
for k in range(n):
    pid = os.fork()
    if not pid:
        fd = os.open(path, os.O_RDONLY) if held is None or k % 2 else held
        os.pread(fd, 4096, k * 700000)
        os._exit(0)
    pids.append(pid)
print("there", flush=True)
sys.stdin.readline()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
end = time.monotonic() + 5
while pids and time.monotonic() < end:
    pids = [p for p in pids if os.waitpid(p, os.WNOHANG)[0] == 0]
    time.sleep(0.05)
print("%d are left" % len(pids), flush=True)
PY
# stuck NAME PID [held]: while that process hangs, from now on or once the file is open
stuck() {
	local line from to pid
	coproc READERS { exec python3 "$W/stuck.py" "$M/web/now/vda.img" 40 ${3:+"$2"}; }
	pid=$READERS_PID
	exec {from}<&"${READERS[0]}" {to}>&"${READERS[1]}"
	read -r line <&"$from"
	others_go_on "$1"
	echo >&"$to"
	read -r line <&"$from"
	same "$1: who waits for it can be killed, in the queue as well" '0 are left' "$line"
	exec {from}<&- {to}>&-
	kill -CONT "$2"
	wait "$pid" 2>/dev/null
}
stuck 'a QEMU hangs' "$(cat /run/libvirt/qemu/web.pid)" held
sleep 2
kill -STOP "$(cat /run/libvirtd.pid)"
stuck 'libvirtd hangs' "$(cat /run/libvirtd.pid)"
unmount_snapfs "$M"

# ---------------------------------------------------------------- who hangs already when it is mounted

# libvirt 11 does not tell its snapshots then. That is no reason to say that there is none.
V snapshot-create-as web there --disk-only >/dev/null || die 'no snapshot of web'
kill -STOP "$(cat /run/libvirt/qemu/web.pid)"
mount_snapfs "$M" -o refresh=0.4 "$URI" || fail 'a QEMU hangs: it can be mounted' "$(cat "$W/mount.err" 2>/dev/null)"
for c in 'try delete there' 'try commit there' 'try hold there'; do
	timeout 60 sh -c 'echo "$1" >"$2"' sh "$c" "$M/web/ctl" 2>/dev/null
	has "a QEMU hangs: '$c' is answered" "$(head -1 "$M/web/ctl")" "$c"
	has_not "a QEMU hangs: '$c' is not told that there is no such snapshot" "$(head -1 "$M/web/ctl")" 'there is no snapshot'
done
kill -CONT "$(cat /run/libvirt/qemu/web.pid)"
again() { (echo 'hold there' >"$M/web/ctl") 2>/dev/null; }
check 'once it goes on it is there' wait_until 40 again
unmount_snapfs "$M"
suite_end
