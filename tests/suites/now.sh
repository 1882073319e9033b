#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# now/ of a mount: of guests that run and that do not. One instant of all disks, while they are written to; readers together; what else wants the
# domain meanwhile; a disk that is full; killed between all steps, with libvirtd and with qemu:///embed: nothing is left, and the guest
# has noticed nothing. What it costs.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/ctl-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
faults_pick
id libvirt-qemu >/dev/null 2>&1 || skip_suite "there is no user libvirt-qemu (package libvirt-daemon-system)"
M=$W/mnt N=$W/mnt2
mkdir "$M" "$N" "$W/out"

# The state of things: what a job would have left.
no_job() { V domjobinfo "$1" | grep -q None; }
no_scratch() { [ -z "$(find "$W/images" "$W/full" -name '*.now-*' 2>/dev/null)" ]; }
no_socket() { [ -z "$(find /var/lib/libvirt/qemu -name 'now-*' 2>/dev/null)" ]; }
nothing_left() { no_job "$1" && no_scratch && no_socket; }
# nothing_is_left NAME DOM: soon.
nothing_is_left() {
	if wait_until 15 nothing_left "$2"; then
		ok "$1"
	else
		fail "$1" "$(V domjobinfo "$2" | xargs) $(find "$W/images" "$W/full" /var/lib/libvirt/qemu -name '*now-*' -printf '%p ' 2>/dev/null)"
	fi
}
logged() { wait_until 10 grep -Eq -e "$2" "$M/$1/log"; }
# log_says NAME DOM PATTERN
log_says() { if logged "$2" "$3"; then ok "$1"; else fail "$1" "no /$3/ in: $(tail -n 3 "$M/$2/log" | tr '\n' '|')"; fi; }
shown_as() { [ "$(json "$M/$1/snapshots.json" .domain.state)" = "$2" ]; }
# the error that reading all of descriptor $1 ends with
read_fd() { cat <&"$1" 2>&1 >/dev/null | sed 's/.*: //'; }

# ---------------------------------------------------------------- a guest that is shut off

lab_libvirtd own
domain_with web vda:32M vdb:16M
guest_write web vda 0x11 0 4M
guest_write web vdb 0x12 1M 4M
snap web s1 'vda vdb' --disk-only
guest_write web vda 0x21 2M 4M
qemu-img create -q -f raw "$W/images/raw.vda.raw" 8M
pattern 7 1048576 | dd of="$W/images/raw.vda.raw" seek=3 bs=1M conv=notrunc status=none
domain_define raw "$(disk_xml vda raw "$W/images/raw.vda.raw")"
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
D=$M/web
same 'find meets no now/' '' "$(find "$M" -name now)"
same 'inside it ls works' 'vda.img vdb.img' "$(cd "$D/now" && echo *)"
same 'no other name' ENOENT "$(errno_of cat "$D/now/vdc.img")"
same 'nothing is written there' EROFS "$(errno_of sh -c "echo x >'$D/now/vda.img'")"
for t in vda vdb; do check "off: $t is what the guest would see" cmp "$D/now/$t.img" "${MODEL[web/$t]}"; done
check 'off: a raw one' cmp "$M/raw/now/vda.img" "$W/images/raw.vda.raw"
same 'off: its mtime is that of the image' "$(stat -c %Y "$(active_path web vda)")" "$(stat -c %Y "$D/now/vda.img")"
cp --sparse=always "$D/now/vda.img" "$W/out/vda"
check 'off: holes are known' test "$(du -k "$W/out/vda" | cut -f1)" -le 6200
exec 5<"$D/now/vda.img" 6<"$D/now/vdb.img"
head -c 65536 <&5 >/dev/null
check 'off: who reads keeps nobody from starting it' V start web
wait_until 10 shown_as web running
same 'off: and gets ESTALE when it runs' 'Stale file handle' "$(read_fd 5)"
same 'off: also who had read nothing' 'Stale file handle' "$(read_fd 6)"
exec 5<&- 6<&-
exec 5<"$M/raw/now/vda.img"
head -c 65536 <&5 >/dev/null
check 'off: nor from writing to the image' qemu-io -f raw -c 'write -q -P 9 0 1M' "$W/images/raw.vda.raw"
same 'off: which is ESTALE, too' 'Stale file handle' "$(read_fd 5)"
exec 5<&-
same 'off: nothing of it begins a job' 0 "$(grep -c 'backup job' "$D/log")"

# ---------------------------------------------------------------- a guest that runs

chain_before=$(V domblklist web)
ls -lR "$D/now" >/dev/null
stat "$D/now/vda.img" >/dev/null
find "$D/now" -size +1M >/dev/null
[ -r "$D/now/vda.img" ]
check 'running: ls, stat and find begin no job' no_job web
tar -C "$M" -cf - . | wc -c >"$W/out/tar"
check 'running: tar and rsync copy all that is listed' rsync -a "$M/" "$W/out/all/"
check 'running: all of it' test "$(cat "$W/out/tar")" -gt $((40 << 20))
chmod -R u+w "$W/out/all" && rm -rf "$W/out/all"
same 'running: and begin no job' 0 "$(grep -c 'backup job' "$D/log")"
for t in vda vdb; do check "running: $t is what the guest sees" cmp "$D/now/$t.img" "${MODEL[web/$t]}"; done
nothing_is_left 'running: nothing is left when it is closed' web
cp --sparse=always "$D/now/vda.img" "$W/out/vda2"
check 'running: holes are known' test "$(du -k "$W/out/vda2" | cut -f1)" -le 6200
check 'running: and it is the same' cmp "$W/out/vda2" "$W/out/vda"
check 'running: QEMU reads it, at many places at a time' test "$(qemu-img compare -f raw -F raw "$D/now/vda.img" "${MODEL[web/vda]}")" = 'Images are identical.'

# A record goes to one disk, then to the other. At any instant the second one has as many as the first, or one less.
records() { python3 -c "
import sys
data = open(sys.argv[1], 'rb').read()
n = 0
while 8 << 20 <= len(data) and data[(8 << 20) + n * 65536] == n % 250 + 1: n += 1
print(n)" "$1"; }
write_records() {
	local n=0
	while [ ! -e "$W/stop" ] && [ "$n" -lt 120 ]; do
		guest_write web vda $((n % 250 + 1)) $(((8 << 20) + n * 65536)) 64k
		guest_write web vdb $((n % 250 + 1)) $(((8 << 20) + n * 65536)) 64k
		n=$((n + 1))
		echo "$n" >"$W/written"
	done
}
write_records &
writer=$!
wait_until 20 test -s "$W/written"
for i in 1 2 3; do
	sleep 0.7
	exec 5<"$D/now/vda.img"
	a0=$(cat "$W/written")
	sleep 1
	cp "$D/now/vdb.img" "$W/out/b"
	cat <&5 >"$W/out/a"
	exec 5<&-
	a=$(records "$W/out/a") b=$(records "$W/out/b") z=$(cat "$W/written")
	note "instant $i: $a records on vda, $b on vdb; $a0 were written when it was there, $z when both were read"
	check "one instant of both disks ($i)" test "$a" -ge "$b" -a $((a - b)) -le 1
	check "and it is that of the open ($i)" test "$a" -le $((a0 + 1)) -a "$z" -gt $((a0 + 1))
	wait_until 10 no_job web
done
: >"$W/stop"
wait "$writer"
check 'the guest has all that it wrote' cmp "$D/now/vda.img" "${MODEL[web/vda]}"
same 'its chain is what it was' "$chain_before" "$(V domblklist web)"

# Two readers, and one who reads nothing.
exec 5<"$D/now/vda.img" 6<"$D/now/vdb.img"
cp "${MODEL[web/vda]}" "$W/out/then"
t1=$(stat -c %Y "$D/now/vda.img")
sleep 1.1
guest_write web vda 0x77 0 12M
check 'two readers: the second has the instant of the first' cmp "$D/now/vda.img" "$W/out/then"
same 'two readers: with its time' "$t1" "$(stat -c %Y "$D/now/vda.img")"
exec 5<&-
sleep 0.5
check 'two readers: when one goes the other one reads on' cmp <(dd if=/proc/self/fd/6 bs=1M status=none) "${MODEL[web/vdb]}"
check_not 'two readers: while the job is there' no_job web
check 'who reads nothing does not hinder the guest' test "$(V domstate web)" = running
exec 6<&-
nothing_is_left 'two readers: nothing is left when both are gone' web
check 'a later one has a later instant' cmp "$D/now/vda.img" "${MODEL[web/vda]}"
check_not 'with a later time' test "$t1" = "$(stat -c %Y "$D/now/vda.img")"
many() {
	local pids=() p bad=0
	for _ in 1 2 3 4 5 6; do
		cmp -s "$D/now/vda.img" "${MODEL[web/vda]}" &
		pids+=($!)
		cmp -s "$D/now/vdb.img" "${MODEL[web/vdb]}" &
		pids+=($!)
	done
	for p in "${pids[@]}"; do wait "$p" || bad=$((bad + 1)); done
	[ "$bad" = 0 ]
}
check 'twelve at a time' many
check 'one after the other, without a pause' bash -c 'for i in 1 2 3 4 5 6; do cmp "$1" "$2" || exit; done' - "$D/now/vdb.img" "${MODEL[web/vdb]}"

# ---------------------------------------------------------------- what else wants the domain

exec 5<"$D/now/vda.img"
for command in 'create s9' 'delete s1' 'commit s1' 'pull' 'revert s1 force'; do
	does_not "beside it: $command" web "$command" EBUSY 'now/ of this domain is being read \(process [0-9]+ of user 0\): wait until what is open there is closed'
done
does 'beside it: a hold' web 'hold s1'
does 'beside it: a release' web 'release s1'
mount_snapfs "$N" -o refresh=0.3 "$URI" || die 'no second mount'
same 'another mount: its now/' EBUSY "$(errno_of cat "$N/web/now/vda.img")"
has 'another mount: the log says who reads' "$(cat "$N/web/log")" "cannot open now/vda.img: now/ of this domain is being read \(process ${SNAPFS_PIDS[$M]} of user 0\)"
(echo 'create s9' >"$N/web/ctl") 2>/dev/null
has 'another mount: its commands' "$(head -n 1 "$N/web/ctl")" 'now/ of this domain is being read \(process'
unmount_snapfs "$N"
check_not 'another mount: it has ended nothing' no_job web
check 'another mount: which is read on' cmp <(cat <&5) "${MODEL[web/vda]}"
(echo '1 match=*' >"$D/retain") 2>/dev/null
same 'beside it: a policy is stored' '1 match=*' "$(cat "$D/retain")"
exec 5<&-
nothing_is_left 'beside it: nothing is left' web
does 'afterwards: a snapshot' web 'create s2'
one_left() { [ "$(V snapshot-list web --name | grep -c .)" = 1 ]; }
check 'and retention goes on' wait_until 20 one_left
echo off >"$D/retain"
does 'a policy meanwhile: there is another one' web 'create s3'
exec 5<"$D/now/vda.img"
(echo '1 match=*' >"$D/retain") 2>/dev/null
has 'a policy meanwhile: it is stored, and has to wait' "$(head -n 1 "$D/ctl")" '^failed: retain .*the policy is stored, but: now/ of this domain is being read'
check_not 'a policy meanwhile: nothing is dropped' one_left
exec 5<&-
check 'a policy meanwhile: when it is closed it has its turn' wait_until 20 one_left
echo off >"$D/retain"
does 'a policy, and another mount reads: there is another one' web 'create s4'
mount_snapfs "$N" -o refresh=0.3 "$URI" || die 'no second mount'
exec 5<"$N/web/now/vda.img"
(echo '1 match=*' >"$D/retain") 2>/dev/null
sleep 4
check_not 'a policy, and another mount reads: nothing is dropped' one_left
same 'a policy, and another mount reads: the log says so once' 1 "$(sed '1,/create s4/d' "$D/log" | grep -c 'failed: .*now/ of this domain is being read')"
exec 5<&-
check 'a policy, and another mount reads: when it is closed it has its turn' wait_until 20 one_left
echo off >"$D/retain"
wait_until 10 nothing_left web
# One who does not answer: so many ask who it is that there is no room for more.
exec 5<"$D/now/vda.img"
kill -STOP "${SNAPFS_PIDS[$M]}"
at_exit 'kill -CONT "${SNAPFS_PIDS[$M]}" 2>/dev/null'
cat >"$W/ask.py" <<'PY'
import socket
name = next(w for l in open("/proc/net/unix") for w in l.split() if w.startswith("@virt-snapfs/") and w.endswith(".now"))
try:
    for _ in range(5000):
        with socket.socket(socket.AF_UNIX) as s:
            s.setblocking(False)
            s.connect("\0" + name[1:])
except BlockingIOError:
    print("full")
PY
same 'many ask: there is an end to it' full "$(python3 "$W/ask.py")"
same 'many ask: EBUSY' EBUSY "$(errno_of cat "$N/web/now/vda.img")"
has 'many ask: the log says why all the same' "$(tail -n 1 "$N/web/log")" 'cannot open now/vda.img: now/ of this domain is being read'
kill -CONT "${SNAPFS_PIDS[$M]}"
exec 5<&-
nothing_is_left 'many ask: nothing is left' web
unmount_snapfs "$N"
check 'of the new chain' cmp "$D/now/vda.img" "${MODEL[web/vda]}"
wait_until 10 nothing_left web
# Somebody else's.
mkdir "$W/backups"
chmod 1777 "$W/backups"
echo "<domainbackup mode='pull'><server transport='unix' socket='$W/backups/nbd'/><disks><disk name='vda' type='file'><scratch file='$W/backups/scratch'/></disk></disks></domainbackup>" >"$W/pull.xml"
echo "<domaincheckpoint><name>c1</name></domaincheckpoint>" >"$W/checkpoint.xml"
Vq backup-begin web "$W/pull.xml" "$W/checkpoint.xml"
same "another tool's job" EBUSY "$(errno_of cat "$D/now/vda.img")"
log_says "another tool's job: the log says what to do" web 'cannot open now/vda.img: a backup program is at work on disk vda: wait until it is done .*domjobabort web'
check_not "another tool's job is left alone" no_job web
Vq domjobabort web
wait_until 10 no_job web
check 'a checkpoint is no hindrance' cmp "$D/now/vda.img" "${MODEL[web/vda]}"
same 'and is there still' c1 "$(V checkpoint-list web --name | xargs)"
wait_until 10 nothing_left web
Vq checkpoint-delete web c1
exec 5<"$D/now/vda.img"
Vq domjobabort web
log_says 'ended by somebody else: the log says so' web 'now/ is read no more: its backup job is there no more'
same 'ended by somebody else: EIO' 'Input/output error' "$(read_fd 5)"
check 'ended by somebody else: a new one begins' cmp "$D/now/vda.img" "${MODEL[web/vda]}"
exec 5<&-
nothing_is_left 'ended by somebody else: nothing is left' web
exec 5<"$D/now/vda.img"
Vq destroy web
same 'the guest ends: EIO' 'Input/output error' "$(read_fd 5)"
exec 5<&-
check 'the guest ends: no scratch file is left' wait_until 15 no_scratch
wait_until 10 shown_as web 'shut off'
check 'the guest ends: and it is read as one that is off' cmp "$D/now/vda.img" "${MODEL[web/vda]}"
Vq start web

# ---------------------------------------------------------------- ends of readers and of mounts

wait_until 10 shown_as web running
kill -STOP "$(cat /run/libvirtd.pid)"
cat "$D/now/vda.img" >/dev/null 2>&1 &
reader=$!
sleep 1
kill -INT "$reader" 2>/dev/null
kill -TERM "$reader"
check 'a libvirtd that hangs: who waits can be ended' wait_until 5 gone "$reader"
check 'a libvirtd that hangs: nobody else waits' timeout 5 ls -l "$D" "$D/now"
lab_libvirtd_goes_on
nothing_is_left 'and nothing is left when it goes on' web
exec 5<"$D/now/vda.img"
head -c 1000000 <&5 >/dev/null
lab_libvirtd_kill KILL
check 'libvirtd is killed: reading goes on' cmp <(dd if=/proc/self/fd/5 bs=1M status=none) "${MODEL[web/vda]}"
lab_libvirtd_start 5<&-
check 'libvirtd is back: and on' cmp -n 16777216 <(dd if=/proc/self/fd/5 bs=1M status=none) "${MODEL[web/vda]}"
exec 5<&-
nothing_is_left 'libvirtd is back: and nothing is left when it is closed' web
can_be_read() { head -c 1 "$D/now/vda.img" >/dev/null; }
check 'libvirtd is back: a new one can be begun' wait_until 20 can_be_read
wait_until 10 nothing_left web
exec 5<"$D/now/vda.img"
said=$(grep -c 'is not cleared away yet' "$D/log")
lab_libvirtd_kill KILL
exec 5<&-
says_more() { [ "$(grep -c 'is not cleared away yet' "$D/log")" -gt "$said" ]; }
check 'libvirtd is away when it is closed: the log says so' wait_until 10 says_more
lab_libvirtd_start
nothing_is_left 'libvirtd is away when it is closed: what is left goes when it is back' web
check 'and then it can be read' wait_until 20 can_be_read
wait_until 10 nothing_left web
qemu=$(cat /run/libvirt/qemu/web.pid)
exec 5<"$D/now/vda.img"
at_exit 'kill -CONT "$qemu" 2>/dev/null'
kill -STOP "$qemu"
cat <&5 >/dev/null 2>&1 &
reader=$!
sleep 0.5
check_not 'a QEMU that hangs: who reads waits' gone "$reader"
kill -TERM "$reader"
check 'a QEMU that hangs: and can be ended' wait_until 5 gone "$reader"
kill -CONT "$qemu"
exec 5<&-
nothing_is_left 'and nothing is left when it goes on' web
unmount_snapfs "$M"
mount_snapfs "$M" -o ro,refresh=0.3 "$URI" || die 'no mount'
same '-o ro, running' EROFS "$(errno_of cat "$D/now/vda.img")"
check '-o ro, off' cmp "$M/raw/now/vda.img" "$W/images/raw.vda.raw"
unmount_snapfs "$M"
mount_snapfs "$M" -o refresh=0.3,list=now "$URI" || die 'no mount'
same '-o list=now: ls shows it' now "$(find "$D" -mindepth 1 -maxdepth 1 -type d -printf '%f')"
exec 5<"$D/now/vda.img"
head -c 1000000 <&5 >/dev/null
pid=${SNAPFS_PIDS[$M]}
kill -TERM "$pid"
check 'SIGTERM while it is read: it ends' wait_until 20 gone "$pid"
unset "SNAPFS_PIDS[$M]"
exec 5<&-
nothing_is_left 'SIGTERM while it is read: nothing is left' web

# killed: the mount at $M is, if it was not by itself.
killed() {
	local pid=${SNAPFS_PIDS[$M]}
	unset "SNAPFS_PIDS[$M]"
	{ kill -KILL "$pid"; wait "$pid"; } 2>/dev/null
	umount -l "$M" 2>/dev/null
}
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
exec 5<"$D/now/vda.img"
killed
exec 5<&-
check_not 'killed: the job goes on' no_job web
scratch=$(find "$W/images" -name 'web.vda.*now-*')
check 'killed: and the files are there' test -f "$scratch"
# Another file in the place of one of ours: QEMU has the first one open.
mv "$scratch" "$scratch.moved"
echo precious >"$scratch"
guest_write web vda 0x55 1M 1M
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
check 'killed: the next mount ends the job' wait_until 15 no_job web
log_says 'killed: and says so' web "what a mount that was interrupted had left of now/ is cleared away"
same "killed: another one's file is left alone" precious "$(cat "$scratch" 2>/dev/null)"
rm -f "$scratch" "$scratch.moved"
nothing_is_left 'killed: nothing is left' web
check 'killed: the guest has noticed nothing' test "$(V domstate web)" = running
check 'killed: and can be read' cmp "$D/now/vda.img" "${MODEL[web/vda]}"
unmount_snapfs "$M"

# ---------------------------------------------------------------- killed between all steps

# each_step WHICH DOM IS-CLEAN: at every fault point from the first open to what the last close leaves.
each_step() {
	local n=0 at died=0 bad='' left
	export VIRT_SNAPFS_FAULT=$W/fault
	while [ "$n" -lt 60 ]; do
		n=$((n + 1))
		rm -f "$VIRT_SNAPFS_FAULT"
		mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
		wait_until 20 test -e "$M/$2/now/vda.img" || die "$2 does not show"
		wait_until 10 shown_running "$2"
		echo "$n" >"$VIRT_SNAPFS_FAULT"
		head -c 1000 "$M/$2/now/vda.img" >/dev/null 2>&1
		wait_until 2 gone "${SNAPFS_PIDS[$M]}" || sleep 1
		read -r left at <"$VIRT_SNAPFS_FAULT"
		rm -f "$VIRT_SNAPFS_FAULT"
		if [ "$left" != 0 ]; then
			unmount_snapfs "$M"
			break
		fi
		died=$((died + 1))
		killed
		mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount again'
		wait_until 20 test -e "$M/$2/now/vda.img"
		if [ "$1" = embed ] && ! wait_until 10 no_scratch && grep -q 'if that lasts, the guest has to be shut down' "$M/$2/log"; then
			note "killed at $at: libvirt, which was that process, was clearing away and knows nothing of it (README, Limits)"
			unmount_snapfs "$M"
			Vq destroy "$2"
			Vq start "$2"
			mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount after that'
			wait_until 20 test -e "$M/$2/now/vda.img"
			wait_until 10 shown_running "$2"
		fi
		wait_until 10 no_scratch || bad+=" $at: $(find "$W/images" -name '*now-*' -printf '%f ')"
		cmp -s "$M/$2/now/vdb.img" "${MODEL[$2/vdb]}" || bad+=" $at: it cannot be read: $(tail -n 1 "$M/$2/log")"
		unmount_snapfs "$M"
		"$3" "$2" || bad+=" $at: a job"
		[ "$(V domstate "$2")" = running ] || bad+=" $at: the guest is $(V domstate "$2")"
	done
	unset VIRT_SNAPFS_FAULT
	note "$1: killed at $died places"
	check "$1: there are places to be killed at" test "$died" -ge 12
	same "$1: killed at each of them, and nothing is left" '' "$bad"
}
shown_running() { shown_as "$1" running; }
each_step libvirtd web nothing_left

# ---------------------------------------------------------------- an agent

gcc -m32 -O1 -ffreestanding -fno-pic -fno-stack-protector -nostdlib -static -Wl,-Ttext=0x100000,--build-id=none \
	-o "$W/port" "$TESTS/control/agent-port.c" || die 'the guest with an agent does not build'
chmod 644 "$W/port"
cat >"$W/agent.py" <<'PY'
import sys, time, os
sys.path.insert(0, sys.argv[1])
from agent import Agent
agent = Agent(sys.argv[2])
agent.freeze = sys.argv[3]
while not os.path.exists(sys.argv[2] + ".end"):
    time.sleep(0.05)
    with open(sys.argv[2] + ".new", "w") as f:
        f.write("%s %s\n" % ("frozen" if agent.frozen else "thawed", " ".join(c for _, c in agent.seen)))
    os.rename(sys.argv[2] + ".new", sys.argv[2] + ".said")
PY
mkdir "$W/agents"
chmod 1777 "$W/agents"
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
connected() { V dumpxml "$1" | grep -q "state='connected'"; }
for how in answers refuses; do
	a=$W/agents/$how
	python3 "$W/agent.py" "$TESTS/control" "$a" $how &
	agent=$!
	wait_until 10 test -S "$a"
	qemu-img create -q -f qcow2 "$W/images/$how.qcow2" 4M
	domain_xml "$how" "$(disk_xml vda qcow2 "$W/images/$how.qcow2")<channel type='unix'><source mode='connect' path='$a'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>" |
		sed "s|</os>|<kernel>$W/port</kernel></os>|" >"$W/.dom.xml"
	Vq define "$W/.dom.xml"
	Vq start "$how"
	check "agent $how: its port is open" wait_until 30 connected "$how"
	wait_until 10 shown_as "$how" running
	check "agent $how: it is read" dd if="$M/$how/now/vda.img" of=/dev/null bs=1M
	sleep 0.3
	has "agent $how: it was asked" "$(cat "$a.said")" 'guest-fsfreeze-freeze'
	has "agent $how: and nothing stays frozen" "$(cat "$a.said")" '^thawed'
	if [ $how = answers ]; then
		log_says 'agent answers: the log says that it was frozen' $how "a backup job has begun, with the guest's file systems frozen"
	else
		log_says 'agent refuses: the log says why it was not' $how 'now/ is read all the same: '
	fi
	nothing_is_left "agent $how: nothing is left" $how
	: >"$a.end"
	wait "$agent"
	Vq destroy "$how"
done

# ---------------------------------------------------------------- a full disk

# A guest of one sector, which fills the rest of its first disk with 0x5a as fast as it can.
cat >"$W/boot.s" <<'S'
.code16
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x7c00, %sp
	movw $0x1000, %ax
	movw %ax, %es
	xorw %di, %di
	movb $0x5a, %al
	movw $0x8000, %cx
	cld
	rep stosb
	sti
again:	movw $packet, %si
	movw $0x4300, %ax
	movb $0x80, %dl
	int $0x13
	jc again
	addl $64, packet + 8
	cmpl $49152, packet + 8
	jb again
over:	hlt
	jmp over
	.balign 4
packet:	.byte 16, 0
	.word 64, 0, 0x1000
	.quad 64
	.org 510
	.word 0xaa55
S
as --32 -o "$W/boot.o" "$W/boot.s" && ld -m elf_i386 -e 0x7c00 -Ttext 0x7c00 --oformat binary -o "$W/boot" "$W/boot.o" || die 'the guest of one sector does not build'
mkdir "$W/full"
mount -t tmpfs -o size=40M,mode=755 tmpfs "$W/full"
head -c 24M /dev/urandom >"$W/full/disk.raw"
dd if="$W/boot" of="$W/full/disk.raw" conv=notrunc status=none
domain_define full "$(disk_xml vda raw "$W/full/disk.raw")"
Vq start full --paused
wait_until 10 shown_as full paused
exec 5<"$M/full/now/vda.img"
check_not 'full: a job is there' no_job full
Vq resume full
filled() { [ "$(tail -c 1M "$W/full/disk.raw" | tr -d 'Z' | wc -c)" = 0 ]; }
check 'full: the guest goes on, and writes all that it wants to' wait_until 60 filled
log_says 'full: the log says why now/ is not read any more' full 'now/ is read no more: only [0-9]+ MiB are left beside'
grep -q 'had to wait' "$M/full/log" && note 'the guest was faster than the watch, and had to wait'
check 'full: it runs' test "$(V domstate full)" = running
same 'full: who reads gets ENOSPC' 'No space left on device' "$(read_fd 5)"
exec 5<&-
nothing_is_left 'full: nothing is left' full
check 'full: there is room again' test "$(df -k --output=avail "$W/full" | tail -n 1)" -gt 8192
check 'full: and then it is read' cmp -n 1048576 -i 1048576 "$M/full/now/vda.img" "$W/full/disk.raw"
wait_until 10 nothing_left full
Vq destroy full

stuck() { V domstate full --reason | grep -q 'paused (I/O error)'; }
goes_on() { [ "$(V domstate full)" = running ]; }
# anew: the guest is about to write, and now/ is open as 5
anew() {
	head -c 24M /dev/urandom >"$W/full/disk.raw"
	dd if="$W/boot" of="$W/full/disk.raw" conv=notrunc status=none
	wait_until 10 shown_as full 'shut off'
	Vq start full --paused
	wait_until 10 shown_as full paused
	exec 5<"$M/full/now/vda.img"
}
anew
killed
exec 5<&-
Vq resume full
check 'full, and killed: the guest is stuck' wait_until 60 stuck
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
check 'full, and killed: the next mount lets it go on' wait_until 20 goes_on
check 'full, and killed: and it writes all that it wants to' wait_until 60 filled
log_says 'full, and killed: the log says so' full 'the guest had to wait for room, and goes on'
log_says 'full, and killed: and whose it was' full 'what a mount that was interrupted had left of now/ is cleared away'
nothing_is_left 'full, and killed: nothing is left' full
Vq destroy full
anew
kill -STOP "${SNAPFS_PIDS[$M]}" # or it would end the job before
Vq resume full
check 'full, and libvirtd away: the guest is stuck' wait_until 60 stuck
lab_libvirtd_kill KILL
kill -CONT "${SNAPFS_PIDS[$M]}"
log_says 'full, and libvirtd away: the log says what is left' full 'the backup job of now/ is not cleared away yet'
exec 5<&-
lab_libvirtd_start
check 'full, and libvirtd back: the guest goes on' wait_until 30 goes_on
check 'full, and libvirtd back: and writes all that it wants to' wait_until 60 filled
log_says 'full, and libvirtd back: the log says whose it was' full '[0-9] what was left of now/ is cleared away'
nothing_is_left 'full, and libvirtd back: nothing is left' full
Vq destroy full
# One that was so before, for want of room for its own disk.
rm "$W/full/disk.raw"
truncate -s 24M "$W/full/disk.raw"
dd if="$W/boot" of="$W/full/disk.raw" conv=notrunc status=none
head -c 30M /dev/zero >"$W/full/other"
Vq start full
check 'stuck before: it is' wait_until 60 stuck
rm "$W/full/other"
wait_until 10 shown_as full paused
check 'stuck before: it can be read' cmp "$M/full/now/vda.img" "$W/full/disk.raw"
nothing_is_left 'stuck before: nothing is left' full
check 'stuck before: and it waits on' stuck
Vq destroy full
umount "$W/full"

# ---------------------------------------------------------------- names

head -c 4M /dev/urandom >"$W/images/shared.raw"
long=$(printf '%0150d' 7)
head -c 4M /dev/urandom >"$W/images/${long}c.raw"
head -c 4M /dev/urandom >"$W/images/${long}d.raw"
domain_define names "$(disk_xml vdc raw "$W/images/${long}c.raw")$(disk_xml vdd raw "$W/images/${long}d.raw")"
domain_define shared "$(disk_xml vda raw "$W/images/shared.raw" file '<shareable/>')$(disk_xml vdb raw "$W/images/shared.raw" file '<shareable/>')"
Vq start names
Vq start shared
wait_until 10 shown_as names running
wait_until 10 shown_as shared running
for t in c d; do check "names that begin alike: vd$t" cmp "$M/names/now/vd$t.img" "$W/images/$long$t.raw"; done
nothing_is_left 'names: nothing is left' names
Vq destroy names
same 'one file for two disks: QEMU makes no backup of it' EIO "$(errno_of cat "$M/shared/now/vda.img")"
log_says 'one file for two disks: the log says so' shared 'cannot open now/vda.img: the backup job: .*Failed to get shared "write" lock'
nothing_is_left 'one file for two disks: nothing is left' shared
Vq destroy shared

# ---------------------------------------------------------------- a directory that is away

mkdir "$W/there"
chmod 711 "$W/there"
head -c 4M /dev/urandom >"$W/there/disk.raw"
domain_define away "$(disk_xml vda raw "$W/there/disk.raw")"
Vq start away
wait_until 10 shown_as away running
has_scratch() { [ -n "$(find "$1" -name '*.now-*')" ]; }
lacks_scratch() { ! has_scratch "$1"; }
for with in nothing another; do
	exec 5<"$M/away/now/vda.img"
	mv "$W/there" "$W/away"
	[ $with = nothing ] || mkdir -m 711 "$W/there"
	exec 5<&-
	log_says "away, $with there: the log says what is left" away 'the backup job of now/ has ended, but not all of it is cleared away yet: .*/there/disk.raw.now-.*its directory is not there now'
	sleep 2
	check "away, $with there: the file stays" has_scratch "$W/away"
	[ $with = nothing ] || rmdir "$W/there"
	mv "$W/away" "$W/there"
	check "away, $with there: and goes when it is back" wait_until 20 lacks_scratch "$W/there"
	log_says "away, $with there: the log says so" away '[0-9] what was left of now/ is cleared away'
done
same 'away: all of it is said once' 2 "$(grep -c 'cleared away yet' "$M/away/log")"
check 'away: and it can be read' cmp "$M/away/now/vda.img" "$W/there/disk.raw"
wait_until 10 no_job away
# After a start of the host a device may have another number.
exec 5<"$M/away/now/vda.img"
killed
exec 5<&-
notes=$(grep -rl "now.scratch" "$STATE_DIRECTORY")
check 'another number of the device: it is noted' test -f "$notes"
sed -i 's/%0[Aa][0-9]* /%0A4711 /' "$notes"
has 'another number of the device: and is another one' "$(cat "$notes")" 'A4711 '
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
check 'another number of the device: the file goes' wait_until 15 lacks_scratch "$W/there"
check 'another number of the device: and the note' wait_until 5 test ! -e "$notes"
# As after libvirtd was killed when a job had just begun: QEMU has it, and libvirt does not know it.
exec 5<"$M/away/now/vda.img"
killed
exec 5<&-
Vq domjobabort away
wait_until 10 no_job away
qemu-io -f qcow2 -c 'sleep 6000' "$(find "$W/there" -name '*.now-*')" &
holder=$!
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
log_says 'in use, unknown to libvirt: the log says what helps' away 'is open in QEMU.*, although libvirt knows no such backup job any more: if that lasts, the guest has to be shut down and started'
same 'in use, unknown to libvirt: EBUSY' EBUSY "$(errno_of cat "$M/away/now/vda.img")"
wait "$holder"
check 'in use no more: it goes' wait_until 20 lacks_scratch "$W/there"
unmount_snapfs "$M"
mkdir -p "$(dirname "$notes")"
printf 'now\tscratch\t1 2\n' >"$notes"
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
log_says 'a note that cannot be read: the log says so' away 'left of now/ is not cleared away yet: a note of a scratch file: it cannot be read'
check 'a note that cannot be read: it hinders nobody' cmp "$M/away/now/vda.img" "$W/there/disk.raw"
wait_until 10 no_job away
check 'a note that cannot be read: nothing else stays' wait_until 10 lacks_scratch "$W/there"
is_left_alone() { [ "$(cat "$notes")" = $'now\tscratch\t1 2' ]; }
check 'a note that cannot be read: it does' wait_until 10 is_left_alone
rm "$notes"
Vq destroy away

# ---------------------------------------------------------------- what it costs

unmount_snapfs "$M"
faulty=$SNAPFS
SNAPFS=$BUILD/fs/virt-snapfs
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
head -c 384M /dev/urandom >"$W/images/fast.raw"
domain_define fast "$(disk_xml vda raw "$W/images/fast.raw")"
Vq start fast --paused
wait_until 10 shown_as fast paused
ratio=0
for _ in 1 2 3; do # others may be at work on this machine
	"$TESTS/bench/now.py" "$URI" "$M" fast vda 7 >"$W/bench" 2>&1
	note_file "$W/bench"
	ratio=$(sed -n 's/.* \([0-9]*\) % of .*/\1/p' "$W/bench")
	[ "${ratio:-0}" -lt 80 ] || break
done
check 'now/ is read at 80 % of the speed of nbdcopy, at least' test "${ratio:-0}" -ge 80
check 'and right' cmp "$M/fast/now/vda.img" "$W/images/fast.raw"
Vq destroy fast
rm "$W/images/fast.raw"
Vq destroy web
unmount_snapfs "$M"
SNAPFS=$faulty

# ---------------------------------------------------------------- qemu:///embed

lab_embed
export LIBVIRT_LOG_OUTPUTS=4:file:/dev/null
rm -rf "${W:?}/images"
domain_with own vda:8M vdb:4M
guest_write own vda 0x31 1M 2M
guest_write own vdb 0x32 1M 2M
Vq start own
guest_write own vdb 0x33 2M 1M
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
wait_until 20 shown_running own
for t in vda vdb; do check "embed: $t" cmp "$M/own/now/$t.img" "${MODEL[own/$t]}"; done
exec 5<"$M/own/now/vda.img"
does_not 'embed: beside it' own 'create x' EBUSY 'now/ of this domain is being read'
exec 5<&-
check 'embed: no scratch file is left' wait_until 10 no_scratch
does 'embed: afterwards' own 'create x'
unmount_snapfs "$M"
check 'embed: nor a job' no_job own
SNAPFS=$faulty
each_step embed own no_job
V destroy own >/dev/null
suite_end
