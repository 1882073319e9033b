#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Commands that take long: what others see meanwhile, how they are cancelled, and jobs that other tools started. $M is a mount
# without a limit, $S one of the same connection where block jobs are slow.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/ctl-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd
M=$W/mnt
S=$W/slow
mkdir "$M" "$S"
REFRESH=0.5

# long DOM MIB: base <- s1 (so many MiB, and a second each where jobs are slow) <- s2 <- active, running.
long() {
	domain_with "$1" "vda:$(($2 + 32))M"
	guest_write "$1" vda 1 0 1M
	Vq start "$1" --paused
	snap "$1" s1 vda --disk-only
	guest_write "$1" vda 2 4M "$2M"
	snap "$1" s2 vda --disk-only
	guest_write "$1" vda 3 16M 8M
	snap "$1" s3 vda --disk-only
	guest_write "$1" vda 4 "$(($2 + 8))M" 1M
}
long big 160
long sig 160
long alien 48
domain_with other vda:4M
guest_write other vda 9 0 1M
snap other o1 vda --disk-only

mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"
mount_snapfs "$S" -o "refresh=$REFRESH,bandwidth=1" "$URI" || die "no slow mount"
verify_listing 'exactly the images are listed' "$M" big sig alien other
verify_listing 'in the other mount too' "$S" big sig alien other
no_job() { [ "$(wc -l <"$M/big/jobs")" = 1 ]; }
wait_until 10 no_job # what a mount repairs at its beginning is a job, too
same 'jobs: nothing but the heading' 'ID COMMAND STATE PROGRESS SPEED ETA' "$(tr -s ' ' <"$M/big/jobs" | sed 's/ $//')"

# slow DOM TEXT: one write through the slow mount, in the background; its answer goes to $W/answer.
slow() {
	python3 "$TESTS/control/door.py" write "$S/$1/ctl" "$2\n" >"$W/answer" 2>&1 &
	SLOW=$!
	wait_until 30 moving "$S" "$1" "$2" || die "'$2' does not run: $(outcome_slow "$1")"
}
outcome_slow() { head -n 1 "$S/$1/ctl"; }

# ---------------------------------------------------------------- while a job runs

# Readers of the snapshots above the one that goes: s2 froze the layer that is merged into the base of s1.
watch_begin w2 "$S/big/s2.vda.img" "${WANT[big/s2.vda.img]}"
slow big 'commit s1'
with_speed() { job_row "$1" "$2" "$3" | grep -q 'iB/s'; }
wait_until 20 with_speed "$S" big 'commit s1'
has 'jobs: bar, percent, amount, speed, ETA' "$(job_row "$S" big 'commit s1')" \
	'^[0-9]+ +commit s1 +running +\[#*-*\] +[0-9]+%  [0-9.]+/[0-9.]+ MiB +[0-9.]+ [KM]iB/s +[0-9]+[hms0-9]*$'
same 'the bar has 20 places' 20 "$(job_row "$S" big 'commit s1' | sed 's/.*\[\(.*\)\].*/\1/' | tr -d '\n' | wc -c)"
swift 'cat ctl meanwhile' cat "$S/big/ctl"
swift 'cat jobs meanwhile' cat "$S/big/jobs"
swift 'ls meanwhile' ls -l "$S/big"
swift 'cat snapshots meanwhile' cat "$S/big/snapshots"
swift 'a second command is answered' python3 "$TESTS/control/door.py" write "$S/big/ctl" 'hold s3\n'
same 'with EBUSY' EBUSY "$OUT"
has 'and a sentence' "$(outcome_slow big)" '^failed: .*(EBUSY)'
swift 'a command through the other mount' python3 "$TESTS/control/door.py" write "$M/big/ctl" 'hold s3\n'
same 'gets EBUSY too: they share the lock' EBUSY "$OUT"
swift 'a write to retain' python3 "$TESTS/control/door.py" write "$S/big/retain" '7d\n'
same 'is a command, too' EBUSY "$OUT"
swift 'try is answered' python3 "$TESTS/control/door.py" write "$S/big/ctl" 'try hold s3\n'
for line in 'pull' 'delete s2' 'hold s1'; do
	swift "try $line is answered" python3 "$TESTS/control/door.py" write "$S/big/ctl" "try $line\n"
	same 'with EBUSY' EBUSY "$OUT"
	has 'and what is at work' "$(outcome_slow big)" "^failed: try $line: .*(see 'jobs'|job is running on disk vda: wait until it has ended) .EBUSY"
	has_not 'not with the advice to repeat it' "$(outcome_slow big)" repeat
done
has 'the reason says where to look' "$(jq -r '.snapshots[] | select(.name == "s1").reason' "$S/big/snapshots.json")" "^vda: 'commit s1' has begun, which changes its data: repeat it, unless 'jobs' shows that it runs\$"
swift 'another domain: its snapshots read' sha "$S/other/o1.vda.img"
same 'right' "${WANT[other/o1.vda.img]}" "$OUT"
swift 'this domain: other snapshots begin to read' dd "if=$S/big/s3.vda.img" of=/dev/null bs=64k count=1 status=none
same 'and read right' "${WANT[big/s2.vda.img]} ${WANT[big/s3.vda.img]}" "$(sum_of "$S/big/s2.vda.img") $(sum_of "$S/big/s3.vda.img")"
same 'through the other mount as well' "${WANT[big/s2.vda.img]} ${WANT[big/s3.vda.img]}" "$(sum_of "$M/big/s2.vda.img") $(sum_of "$M/big/s3.vda.img")"
same 'another domain takes commands meanwhile' 0 "$(python3 "$TESTS/control/door.py" write "$S/other/ctl" 'hold o1\n')"
same 'what is being merged away is stale' stale "$(state "$S" big s1)"
becomes 'in the other mount as well' "$M" big s1 stale
python3 "$TESTS/control/door.py" poll "$S/big/jobs" 20 >"$W/poll"
has 'poll(2) on jobs wakes up' "$(cat "$W/poll")" '^changed'
id=$(job_id "$S" big 'commit s1')
same 'the job is still there' running "$(job_row "$S" big 'commit s1' | awk '{ print $4 }')"
same 'cancel of another number' ENOENT "$(python3 "$TESTS/control/door.py" write "$S/big/ctl" "cancel $((id + 1000))\n")"
swift 'cancel ID is answered' python3 "$TESTS/control/door.py" write "$S/big/ctl" "cancel $id\n"
wait "$SLOW"
same 'the first writer gets ECANCELED' ECANCELED "$(cat "$W/answer")"
has 'with a sentence that says how to go on' "$(outcome_slow big)" 'commit s1'
check 'jobs is empty again' wait_until 10 no_jobs "$S" big
watch_end w2
same 'readers of the snapshot above were never disturbed' 'right 0' "$OUT"
want_gone big s1 vda
verify_listing 'what was being merged is stale, the others are there' "$M" big
verify_bytes 'and right' "$M" big
guest_agrees 'the guest has what it had' big/vda
same 'the domain still has no job' '' "$(V blockjob big vda)"
hold_open h3 "$M/big/s3.vda.img"
does_not 'what it has half removed cannot be held' big 'hold s1' EPERM "repeat 'commit s1' first"
does_not 'try says so' big 'try hold s1' EPERM "repeat 'commit s1' first"
does 'repeating the command finishes it' big 'commit s1'
same 'whoever had a later snapshot open reads on' "${WANT[big/s3.vda.img]}" "$(read_again h3)"
let_go h3
same 'its record is gone' 's2 s3' "$(V snapshot-list big --name | tr '\n' ' ' | sed 's/ *$//')"
verify_listing 'it is not listed any more' "$M" big
verify_bytes 'the others read as before' "$M" big
guest_agrees 'and the guest' big/vda
check_not 'its overlay is gone' test -e "$W/images/big.vda.s1"

# Small ones end quickly, and libvirt, QEMU's headers and our notes do not tell the same at one moment.
domain_with quick vda:32M
Vq start quick --paused
verify_listing 'another domain' "$M" quick
failed=
for i in {1..8}; do
	guest_write quick vda "$i" 4M 4M
	for n in a b c; do
		guest_write quick vda "$((i + 16))" 8M 64K
		python3 "$TESTS/control/door.py" write "$M/quick/ctl" "create $n\n" >/dev/null
	done
	watch_begin q1 "$M/quick/c.vda.img" "$(sum_of "$M/quick/c.vda.img")"
	watch_begin q2 "$M/quick/c.vda.img" "$(sum_of "$M/quick/c.vda.img")"
	for n in a b; do
		[ "$(python3 "$TESTS/control/door.py" write "$M/quick/ctl" "delete $n\n")" = 0 ] || failed+="$(head -n 1 "$M/quick/ctl") "
	done
	for w in q1 q2; do
		watch_end "$w"
		[ "$OUT" = 'right 0' ] || failed+="$w $OUT "
	done
	python3 "$TESTS/control/door.py" write "$M/quick/ctl" "delete c\n" >/dev/null
done
same 'small layers that go disturb no reader of what stays' '' "$failed"

# A QEMU that does not answer holds libvirt up, and the command; its writer can be killed all the same.
qemu=$(cat "/run/libvirt/qemu/quick.pid")
kill -STOP "$qemu"
python3 "$TESTS/control/door.py" write "$M/quick/ctl" 'create stuck\n' >/dev/null 2>&1 &
writer=$!
wait_until 10 grep -q 'create stuck' "$M/quick/jobs"
sleep 1
kill -KILL "$writer"
check 'whoever writes to a stopped QEMU can be killed' wait_until 40 gone "$writer"
has 'the job is listed still' "$(cat "$M/quick/jobs")" 'create stuck'
kill -CONT "$qemu"
check 'and ends when QEMU goes on' wait_until 60 no_jobs "$M" quick
check 'the base is sound' qemu-img check -q -U "$W/images/big.vda.qcow2"
# One that is killed while a command waits for it: nobody is told that he wrote nonsense, or that a file was replaced.
for c in 'create k' 'pull' 'delete a'; do
	V domstate quick | grep -q paused || Vq start quick --paused
	[ "$c" != 'delete a' ] || for n in a b; do does "create $n" quick "create $n"; done
	qemu=$(cat "/run/libvirt/qemu/quick.pid")
	kill -STOP "$qemu"
	python3 "$TESTS/control/door.py" write "$M/quick/ctl" "$c\n" >"$W/answer" 2>&1 &
	writer=$!
	wait_until 10 grep -q "$c" "$M/quick/jobs"
	sleep 0.3
	kill -KILL "$qemu"
	wait "$writer"
	same "QEMU is killed during $c" EIO "$(cat "$W/answer")"
	has 'which is said' "$(outcome quick)" "^failed: $c: .*(the guest has stopped|Unable to read from monitor|QEMU ended)"
	wait_until 20 no_jobs "$M" quick
done

# One that is killed when it has put the active layer on the base, and libvirt has not: its definition names another chain than the header then.
cat >"$W/at-header.py" <<'PY'
import os, signal, sys, time
path, pid = sys.argv[1], int(sys.argv[2])
def backing():
    with open(path, "rb") as f:
        head = f.read(20)
        f.seek(int.from_bytes(head[8:16], "big"))
        return f.read(int.from_bytes(head[16:20], "big"))
before, end = backing(), time.monotonic() + 30
print("ready", flush=True)
while backing() == before and time.monotonic() < end:
    pass
os.kill(pid, signal.SIGKILL)
PY
domain_with ends vda:4M
wait_until 15 test -e "$M/ends/ctl"
for i in 1 2 3; do
	V domstate ends | grep -q paused || Vq start ends --paused
	guest_write ends vda 1 0 256k
	does "ends $i: create a" ends "create a$i"
	guest_write ends vda 2 64k 256k
	does "ends $i: create b" ends "create b$i"
	guest_write ends vda 3 128k 256k
	sum=$(sum_of "$M/ends/b$i.vda.img")
	coproc KILLER { exec python3 "$W/at-header.py" "$(active_path ends vda)" "$(cat /run/libvirt/qemu/ends.pid)"; }
	killer=$KILLER_PID
	read -r _ <&"${KILLER[0]}"
	python3 "$TESTS/control/door.py" write "$M/ends/ctl" "delete a$i\n" >/dev/null
	wait "$killer" 2>/dev/null
	wait_until 20 no_jobs "$M" ends
	wait_until 10 eval '[ "$(V domstate ends)" = "shut off" ]'
	python3 "$TESTS/control/door.py" write "$M/ends/ctl" "delete a$i\n" >/dev/null # it may be done already
	has "ends $i: it is finished, or nothing was lost" "$(outcome ends)" "^(ok: delete a$i|failed: delete a$i: .*(no snapshot|has become void))"
	same "ends $i: what stays shows what it did" "$sum" "$(sum_of "$M/ends/b$i.vda.img" 2>&1)"
	does "ends $i: and another one can be taken" ends "create c$i"
	does "ends $i: or removed" ends "delete c$i"
done
# ---------------------------------------------------------------- signals

# A pull can be begun and cancelled any number of times.
for s in INT TERM HUP QUIT KILL; do
	# bash ignores SIGQUIT always, and Python has a handler for SIGINT.
	if [ "$s" = QUIT ]; then
		env --default-signal python3 "$TESTS/control/door.py" write "$S/sig/ctl" 'pull\n' >/dev/null 2>&1 &
	else
		env --default-signal bash -c "echo pull > '$S/sig/ctl'" 2>/dev/null &
	fi
	pid=$!
	wait_until 30 moving "$S" sig pull || fail "SIG$s: the job runs" "$(outcome_slow sig)"
	kill "-$s" "$pid"
	if wait_until 10 no_jobs "$S" sig; then ok "SIG$s to the writer ends the job"; else fail "SIG$s to the writer ends the job" "$(cat "$S/sig/jobs")"; fi
	{ wait "$pid"; } 2>/dev/null
	has "SIG$s: cancelled" "$(outcome_slow sig)" '^failed: pull: .*ECANCELED'
done 2>/dev/null # bash says who was killed
verify_bytes 'cancelled pulls have changed nothing' "$M" sig
guest_agrees 'nor for the guest' sig/vda
same 'and the chain is what it was' "$W/images/sig.vda.s3" "$(active_path sig vda)"

python3 "$TESTS/control/door.py" handled SIGWINCH,SIGUSR1,SIGCONT "$S/sig/ctl" 'pull\n' >"$W/answer" 2>&1 &
pid=$!
wait_until 30 moving "$S" sig pull || fail 'the job runs' "$(outcome_slow sig)"
kill -WINCH "$pid"
kill -USR1 "$pid"
kill -STOP "$pid"
kill -CONT "$pid"
before=$(job_row "$S" sig pull | grep -o '[0-9]*%' | tr -d %)
further() { [ "$(job_row "$S" sig pull | grep -o '[0-9]*%' | tr -d %)" -ge $((before + 4)) ]; }
check 'signals that do not end the writer do not end the job' wait_until 30 further
python3 "$TESTS/control/door.py" write "$S/sig/ctl" "cancel $(job_id "$S" sig pull)\n" >/dev/null
wait "$pid"
same 'the writer was told by cancel alone, and had its signals' 'ECANCELED 3' "$(cat "$W/answer")"
python3 "$TESTS/control/door.py" handled SIGWINCH,SIGTERM "$S/sig/ctl" 'pull\n' >"$W/answer" 2>&1 &
pid=$!
wait_until 30 moving "$S" sig pull || fail 'the job runs again' "$(outcome_slow sig)"
kill -WINCH "$pid"
sleep 0.5
kill -TERM "$pid"
check 'a fatal one after a harmless one is seen' wait_until 10 no_jobs "$S" sig
wait "$pid"
same 'also where it has a handler' 'ECANCELED 2' "$(cat "$W/answer")"

# Whatever else ends the writer ends the writer alone, and at once; the command goes on. fate WANT WHO HOW: what comes of a pull
# whose writer is ended by `kill -HOW`, or by one of its own threads (`to-itself HOW`).
fate() {
	local want=$1 who=$2 how=$3 name pid before
	name="$how, writer $who"
	exec {doomed_in}> >(exec env --default-signal python3 "$TESTS/control/door.py" doomed "$who" "$S/sig/ctl" 'pull\n' >/dev/null 2>&1)
	pid=$!
	wait_until 30 moving "$S" sig pull || fail "$name: the job runs" "$(outcome_slow sig)"
	case $how in
	to-itself*) echo "${how#* }" >&"$doomed_in" ;;
	*) kill "-$how" "$pid" ;;
	esac
	if [ "$want" = cancelled ]; then
		check "$name: cancels" wait_until 10 no_jobs "$S" sig
	else
		check "$name: the writer ends" wait_until 10 gone "$pid"
		before=$(job_row "$S" sig pull | grep -o '[0-9]*%' | tr -d %)
		further() { [ "$(job_row "$S" sig pull | grep -o '[0-9]*%' | tr -d %)" -ge $((before + 1)) ]; }
		check "$name: the command goes on" wait_until 10 further
		same "$name: and can be cancelled" 0 "$(python3 "$TESTS/control/door.py" write "$S/sig/ctl" "cancel $(job_id "$S" sig pull)\n")"
	fi
	exec {doomed_in}>&-
	wait_until 10 no_jobs "$S" sig
	check "$name: the writer is gone in the end" wait_until 10 gone "$pid"
	has "$name: the outcome" "$(grep ': pull: ' "$S/sig/log" | tail -n 1)" 'failed: pull: .*ECANCELED'
}
{
	for s in ALRM PIPE USR1 SEGV XCPU RTMIN+3; do fate 'goes on' alone "$s"; done
	for s in HUP QUIT KILL; do fate cancelled alone "$s"; done
	for s in TERM INT QUIT KILL 'to-itself SIGTERM' 'to-itself SIGQUIT'; do fate cancelled side "$s"; done
	for s in USR2 ABRT 'to-itself SIGUSR1' 'to-itself SIGSEGV' 'to-itself exit'; do fate 'goes on' side "$s"; done
	for s in HUP 'to-itself SIGINT'; do fate cancelled main "$s"; done
	for s in VTALRM 'to-itself exit'; do fate 'goes on' main "$s"; done
} 2>/dev/null
verify_bytes 'none of that has changed anything' "$M" sig
guest_agrees 'nor for the guest' sig/vda

# ---------------------------------------------------------------- several commands in one write

python3 "$TESTS/control/door.py" write "$S/sig/ctl" 'hold s1\npull\nhold s2\n' 'release s1\n' >"$W/answer" 2>&1 &
pid=$!
wait_until 30 moving "$S" sig pull || fail 'the second line runs' "$(outcome_slow sig)"
python3 "$TESTS/control/door.py" write "$S/sig/ctl" "cancel $(job_id "$S" sig pull)\n" >/dev/null
wait "$pid"
same 'cancel: the rest of the write is not done, nor are later ones' 'ECANCELED ECANCELED true false' \
	"$(cat "$W/answer") $(json "$S/sig/snapshots.json" '.snapshots[:2][].held' | tr '\n' ' ' | sed 's/ $//')"

# ---------------------------------------------------------------- jobs of others

Vq blockpull alien vda --bandwidth 1
foreign_runs() { moving "$1" alien "$2 vda"; }
if wait_until 20 foreign_runs "$M" pull; then ok "a foreign job shows in jobs"; else fail 'a foreign job shows in jobs' "$(cat "$M/alien/jobs")"; fi
has "with the ID '-'" "$(cat "$M/alien/jobs")" '^- +pull vda +running +\[#*-*\] +[0-9]+%  '
does_not 'commands give EBUSY then' alien 'commit s1' EBUSY 'job'
does_not 'delete too' alien 'delete s1' EBUSY 'job'
does_not 'pull too' alien 'pull' EBUSY 'job'
does_not 'create too' alien 'create x' EBUSY 'job'
does_not 'revert too' alien 'revert s1 force' EBUSY 'job'
does_not 'try says so' alien 'try delete s1' EBUSY 'job'
does_not "and it is not ours to cancel" alien 'cancel -' EINVAL 'others'
V blockjob alien vda --abort
check 'it goes from jobs when it ends' wait_until 20 no_jobs "$M" alien
verify_bytes 'all is as before' "$M" alien
Vq blockcommit alien vda --base "$W/images/alien.vda.qcow2" --top "$W/images/alien.vda.s1" --bandwidth 1
if wait_until 20 foreign_runs "$M" commit; then ok "a foreign commit shows in jobs"; else fail 'a foreign commit shows in jobs' "$(cat "$M/alien/jobs")"; fi
does_not 'EBUSY' alien 'delete s2' EBUSY 'job'
V blockjob alien vda --abort
wait_until 20 no_jobs "$M" alien
becomes 'what it has written over is stale' "$M" alien s1 stale
want_gone alien s1 vda
verify_bytes 'the others are right' "$M" alien

# ---------------------------------------------------------------- the mount ends while a command runs

slow sig pull
unmount_began=$(date +%s)
fusermount3 -u "$S" 2>/dev/null || kill -TERM "${SNAPFS_PIDS[$S]}"
wait "$SLOW"
has 'a mount that ends cancels what runs, and the writer hears of it' "$(cat "$W/answer")" '^(ECANCELED|ECONNABORTED|ENOTCONN)'
check 'it ends soon' test $(($(date +%s) - unmount_began)) -lt 60
unmount_snapfs "$S"
no_block_job() { [ -z "$(V blockjob sig vda)" ]; }
check 'and leaves no job behind' wait_until 20 no_block_job
mount_snapfs "$S" -o "refresh=$REFRESH,bandwidth=1" "$URI" || die "no slow mount"
env --default-signal python3 "$TESTS/control/door.py" doomed alone "$S/sig/ctl" 'pull\n' >/dev/null 2>&1 &
pid=$!
wait_until 30 moving "$S" sig pull || fail 'the job runs' "$(outcome_slow sig)"
kill -USR1 "$pid"
{ wait "$pid"; } 2>/dev/null
check 'a command whose writer has ended goes on' moving "$S" sig pull
unmount_began=$(date +%s)
unmount_snapfs "$S"
check 'until the mount ends' wait_until 20 no_block_job
check 'which it does soon' test $(($(date +%s) - unmount_began)) -lt 60
verify_bytes 'nor any other trace' "$M" sig
suite_end
