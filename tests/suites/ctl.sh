#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# ctl and jobs, sentence by sentence of the contract, on a private libvirtd: every command is written to the mounted file,
# and virsh, qemu-img and the books of lab.sh say what came of it.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/ctl-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd
M=$W/mnt
mkdir "$M"
REFRESH=0.5

# ---------------------------------------------------------------- histories

# web runs: two disks, three external snapshots.
domain_with web vda:8M vdb:6M
guest_write web vda 0x11 0 2M
guest_write web vdb 0x12 0 1M
Vq start web --paused
for i in 1 2 3; do
	snap web "s$i" 'vda vdb' --disk-only
	guest_write web vda "$((0x20 + i))" "${i}M" 2M
	guest_write web vdb "$((0x30 + i))" "${i}M" 1M
done
# off is shut off: external ones.
domain_with off vda:8M
guest_write off vda 0x41 0 2M
for i in 1 2 3; do
	snap off "s$i" vda --disk-only
	guest_write off vda "$((0x50 + i))" "${i}M" 2M
done
# int is shut off: internal ones, one of them called by digits that are another one's id.
domain_with int vda:8M
guest_write int vda 0x61 0 2M
snap int one vda
guest_write int vda 0x62 1M 2M
snap int 1 vda
guest_write int vda 0x63 2M 2M
snap int three vda
guest_write int vda 0x64 3M 2M
# new has nothing yet.
domain_with new vda:8M vdb:4M
guest_write new vda 0x71 0 2M
domain_with my\ vm% vda:4M
books_agree 'the books agree with QEMU' web/vda web/vdb off/vda int/vda

mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"
verify_listing 'exactly the images of the history are listed' "$M" web off int

# ---------------------------------------------------------------- reading ctl

same 'before any command ctl says so' 'no command was given yet' "$(outcome web)"
usage=$(tail -n +2 "$M/web/ctl")
for c in create delete commit pull revert hold release prune try cancel; do has "the usage has $c" "$usage" "^ *$c( |\$)"; done
same 'ctl and retain* are the mounting user'"'"'s alone' '600 600 600' "$(stat -c %a "$M"/web/{ctl,retain,retain.plan} | tr '\n' ' ' | sed 's/ $//')"

# ---------------------------------------------------------------- the errno table

refused 'ENOENT: no such snapshot' web 'delete nosuch' ENOENT "nosuch"
refused 'ENOENT: no such disk' web 'create x disks=vdz' ENOENT "vdz"
does_not 'ENOENT: no such job' web 'cancel 99999' ENOENT '99999'
refused 'EEXIST: the name is taken' web 'create s1' EEXIST "'s1'"
refused 'EEXIST: keep= is taken' off 'revert s1 keep=s2' EEXIST "'s2'"
before=$(picture_of_all)
for line in 'frobnicate x' 'delete' 'create' 'create a/b' 'create x bogus' 'create x internal external' 'create x disks=' \
	'commit a b c' 'hold' 'hold a b' 'prune x' 'cancel' 'cancel x' 'cancel -' 'try' 'try try prune' 'delete "s1' 'create .' 'create ..' \
	'create x disks=vda,vda' 'revert s1 keep='; do
	does_not "EINVAL: $line" web "$line" EINVAL "$(sed 's/["\\.]/./g' <<<"$line" | cut -d' ' -f1)"
done
same 'they have changed nothing' '' "$(diff <(cat <<<"$before") <(picture_of_all))"
refused 'EINVAL: a control byte' web 'delete s\x01' EINVAL 'byte 0x01'
refused 'EINVAL: a NUL byte' web 'delete s1\0' EINVAL 'byte 0x00'
refused 'EINVAL: the third line is bad, nothing was done' web 'hold s1\nhold s2\nfrobnicate\n' EINVAL 'line 3'
refused 'EINVAL: digits only as an internal name' int 'create 77 internal' EINVAL 'digits'
does 'try create: an internal one is announced' int 'try create n internal'
has 'with its name' "$(outcome int)" "^ok: try create n internal: would take the internal snapshot 'n'"
refused 'EPERM: held' web 'hold s1\ndelete s1' EPERM 'held' changes
does 'release ends it' web 'release s1'
refused 'EPERM: mixing kinds, internal' web 'create x internal' EPERM 'external snapshots'
refused 'EPERM: mixing kinds, external' int 'create x external' EPERM 'internal snapshots'
refused 'EOPNOTSUPP: commit of an internal one' int 'commit one' EOPNOTSUPP 'delete frees it'
refused 'EOPNOTSUPP: pull to an internal one' int 'pull one' EOPNOTSUPP 'internal'
refused 'EOPNOTSUPP: quiesce of a shut-off domain' off 'create x quiesce' EOPNOTSUPP 'quiesce'
refused 'quiesce of a paused domain' web 'create x quiesce' EOPNOTSUPP 'while it runs'
refused 'EPERM: a name that is another one'"'"'s id, delete' int 'delete 1' EPERM "'one'"
refused 'EPERM: a name that is another one'"'"'s id, revert' int 'revert 1' EPERM "'one'"
refused 'revert while it runs' web 'revert s1' EBUSY 'force'
refused 'commit LAST before FIRST' web 'commit s2 s1' EINVAL 'branch'

# ---------------------------------------------------------------- lines

long=$(printf 'hold s1 %65000s# \\n' '')
same '64 KiB are accepted' 0 "$(ctl web "$long")"
same 'more is not' EINVAL "$(ctl web "$(printf 'release s1 %66000s\\n' '')")"
same 'and nothing was done' true "$(field "$M" web s1 .held)"
same 'several lines, in order' 0 "$(ctl web 'release s1\nhold s2\n\n# a comment\nrelease s2\nhold s3\nrelease s3')"
same 'held: none' 'false false false' "$(json "$M/web/snapshots.json" '[.snapshots[].held|tostring] | join(" ")')"
same 'they stop at the first failure' ENOENT "$(ctl web 'hold s1\nhold nosuch\nhold s2\n')"
same 'what came before it was done, what comes after was not' 'true false false' "$(json "$M/web/snapshots.json" '[.snapshots[].held|tostring] | join(" ")')"
same 'later writes through the same open file give ECANCELED' '0 ENOENT ECANCELED ECANCELED' "$(ctl web 'release s1\n' 'hold nosuch\n' 'hold s2\n' 'hold s3\n')"
same 'a text file of Python, which writes once more at its close, says the errno' ENOENT "$(python3 -c '
import errno, sys
try:
    with open(sys.argv[1], "w") as f:
        f.write("delete nosuch\n")
except OSError as e:
    print(errno.errorcode[e.errno])' "$M/web/ctl")"
exec 3<>"$M/web/ctl"
echo 'hold nosuch' >&3 2>/dev/null
has 'who reads there sees why the first one failed' "$(head -n 1 <&3)" "no snapshot 'nosuch'"
echo 'hold s2' >&3 2>/dev/null
has 'and that the next one was not done' "$(head -n 1 <&3)" '^failed: nothing of this was done, .*open it anew'
exec 3>&-
same 'also after a line that could not be parsed' 'EINVAL ECANCELED' "$(ctl web 'blah\n' 'hold s2\n')"
same 'and were not done' 'false false false' "$(json "$M/web/snapshots.json" '[.snapshots[].held|tostring] | join(" ")')"
for line in '\n' '# a comment\n' ' \n\n'; do
	ctl web 'hold nosuch\n' >/dev/null
	same "no command in it: '$line'" 0 "$(ctl web "$line")"
	same "and ctl says so: '$line'" 'ok: there was no command in what was written' "$(outcome web)"
done
check 'echo > ctl, with its O_TRUNC' sh -c "echo hold s1 > '$M/web/ctl'"
check 'echo >> ctl' sh -c "echo release s1 >> '$M/web/ctl'"
check_not 'sh sees a failure' sh -c "echo hold nosuch > '$M/web/ctl' && true"
has 'the log has the commands and what came of them' "$(cat "$M/web/log")" '^20[0-9T:+-]+ ok: hold s1'
has 'failures too' "$(cat "$M/web/log")" '^20[0-9T:+-]+ failed: hold nosuch: .*ENOENT'

# ---------------------------------------------------------------- the answer, through the same open file

# talk DOM FILE STEP...: what door.py says of each step, in one line.
talk() { python3 "$TESTS/control/door.py" talk "$M/$1/$2" "${@:3}" 2>&1 | paste -sd '|'; }
h1='ok: hold s1' r1='ok: release s1' last='        says what that policy would drop now; changes nothing'
same 'a shell reads the answer to each line that it writes' "$h1|$r1|failed: hold nosuch: there is no snapshot 'nosuch' (ENOENT)" \
	"$(bash -c 'exec 3<>"$1"; for c in "hold s1" "release s1" "hold nosuch"; do echo "$c" >&3; head -n 1 <&3; done' - "$M/web/ctl" 2>/dev/null | paste -sd '|')"
same 'read, read, cat, tail' "$h1||Write one command a line; the write returns when it is done.|$last|$r1|$last" \
	"$(bash -c 'exec 3<>"$1"; echo hold s1 >&3; for i in 1 2 3; do IFS= read -r l <&3; echo "$l"; done; cat <&3 | tail -n 1; echo release s1 >&3
		head -n 1 <&3; tail -n 1 <&3' - "$M/web/ctl" | paste -sd '|')"
same 'cat gets all of it, once' "$(printf 'ok: hold s1\n%s\n' "$usage" | sha256sum)" "$(bash -c 'exec 3<>"$1"; echo hold s1 >&3; cat <&3' - "$M/web/ctl" | sha256sum)"
same 'several through one descriptor' "0|$r1|0|$h1|0|$r1" "$(talk web ctl 'write:release s1\n' read:512 'write:hold s1\n' read:20 'write:release s1\n' pieces:4096)"
same 'in small pieces' "0|$h1" "$(talk web ctl 'write:hold s1\n' pieces:3)"
same 'what was read before the write is what was there before it' "$h1|0|$r1" "$(talk web ctl read:4096 'write:release s1\n' read:4096)"
same 'two writes, one read' "0|0|$r1" "$(talk web ctl 'write:hold s1\n' 'write:release s1\n' read:4096)"
same 'back to 0, in pieces' "0|$h1|0|$h1" "$(talk web ctl 'write:hold s1\n' read:100 seek:0 pieces:4)"
same 'pread at 0, and then read' "0|$r1|$r1" "$(talk web ctl 'write:release s1\n' pread:0:4096 read:4096)"
same 'pread within it' '0|hold s1|0' "$(talk web ctl 'write:hold s1\n' pread:4:4096 'write:release s1\n')"
same 'a copy of the descriptor' "0|$h1|0|$r1" "$(talk web ctl 'write:hold s1\n' dup read:4096 'write:release s1\n' read:4096)"
same 'pwrite' "8|$h1|11|$r1" "$(talk web ctl 'pwrite:0:hold s1\n' read:4096 'pwrite:0:release s1\n' read:4096)"
same 'in append mode, also when it fails' "$r1|0|$h1|ENOENT|failed: hold no: there is no snapshot 'no' (ENOENT)" \
	"$(talk web ctl read:4096 append 'write:hold s1\n' read:4096 'write:hold no\n' read:4096)"
same 'the end is behind it' "$(printf 'ok: release s1\n%s\n' "$usage" | wc -c) (nothing)" "$(talk web ctl 'write:release s1\n' end read:4096 | awk -F'|' '{ print $2 - 11, $3 }')"
same 'each open file has its own' "0|ENOENT|0|failed: hold no: there is no snapshot 'no' (ENOENT)|$r1" \
	"$(talk web ctl 'write:hold s1\n' 'other:write:hold no\n' 'write:release s1\n' other:read:4096 read:4096)"
same "Python's r+" "$h1 $h1 $r1" "$(python3 -c 'import sys
f = open(sys.argv[1], "r+")
f.write("hold s1\n"); f.flush(); a = f.readline(); f.seek(0); b = f.readline(); f.read()
f.write("release s1\n"); f.flush(); print(a.strip(), b.strip(), f.readline().strip())' "$M/web/ctl")"
python3 "$TESTS/control/door.py" talk "$M/off/ctl" 'write:try commit s1 s3\n' read:4096 >"$W/one" &
python3 "$TESTS/control/door.py" talk "$M/off/ctl" 'write:try delete nosuch\n' read:4096 >"$W/two"
wait $!
same 'two writers at once: each has the answer to its own' '0 ok: try commit s1 s3: |ENOENT failed: try delete nosuch: ' "$(paste -d ' ' -s "$W/one" | grep -o '.*s1 s3: ')|$(paste -d ' ' -s "$W/two" | grep -o '.*nosuch: ')"
same 'many at once: nobody has the answer to another one' 0 "$(python3 "$TESTS/control/door.py" crowd "$M/off/ctl" 6)"
same 'retain: what was stored' '7d 4w 12m|off' "$(bash -c 'exec 3<>"$1"; echo 7d4w12m >&3; cat <&3; echo off >&3; cat <&3' - "$M/new/retain" | paste -sd '|')"
has 'retain.plan: that policy' "$(bash -c 'exec 3<>"$1"; echo "3 match=*" >&3; head -n 1 <&3; echo "1 match=*" >&3; head -n 1 <&3' - "$M/web/retain.plan" | paste -sd '|')" \
	'^keep s1 newest 3 of 3\|drop s1 no term keeps it; would free .* MiB'
same 'retain.plan: what is no policy, and why' 'failed: term ' "$(bash -c 'exec 3<>"$1"; echo nonsense >&3; head -n 1 <&3' - "$M/web/retain.plan" 2>/dev/null | cut -c1-13)"
has 'the log says it, too' "$(tail -1 "$M/web/log")" 'retain.plan: .*nonsense.*EINVAL'
same 'all of it, and once' "$(printf 'keep s%d\n' 1 2 3)" "$(bash -c 'exec 3<>"$1"; echo "3 match=*" >&3; dd bs=5 status=none <&3' - "$M/web/retain.plan" | cut -d' ' -f1,2)"

# ---------------------------------------------------------------- names

takes 'quoted, with a space' new 'create "a b" desc="two words"' 'a b' 'vda vdb' 'a b'
has 'the description is libvirt'"'"'s' "$(V snapshot-dumpxml new 'a b')" '<description>two words</description>'
guest_write new vda 0x72 1M 1M
takes 'with %' new 'create 50%' '50%' 'vda vdb' '50%25'
guest_write new vda 0x73 2M 1M
takes 'create takes raw names' new 'create 50%25' '50%25' 'vda vdb' '50%2525'
verify_listing 'they are listed' "$M" new
does 'the shown form is tried first' new 'hold 50%25'
same 'so the first is held' 'true false' "$(json "$M/new/snapshots.json" '[.snapshots[1:][].held|tostring] | join(" ")')"
does 'raw where no shown form fits' new 'release 50%'
does 'the shown form of the other' new 'hold 50%2525'
does 'and its release' new 'release 50%2525'
takes 'only some disks' new 'create part disks=vdb external' part vdb
verify_listing 'vda takes no part' "$M" new
verify_bytes 'all read right' "$M" new
M2="$M/my vm%25"
for n in '"a b"' a%20b; do echo "create $n internal" >"$M2/ctl"; done
check_not 'what a table shows is what another one is called: neither is meant' sh -c "echo 'delete a%20b' >'$M2/ctl' 2>/dev/null"
has 'it says so' "$(head -n 1 "$M2/ctl")" '^failed: .*2 snapshots are called .a%20b.*EINVAL'
check 'as the files show it' sh -c "echo 'delete a%2520b' >'$M2/ctl'"
check 'and now as tables do' sh -c "echo 'delete a%20b' >'$M2/ctl'"
check 'a domain whose name needs escapes' sh -c "echo 'create x y' > '$M/my vm%25/ctl' 2>/dev/null; echo 'create x' > '$M/my vm%25/ctl'"
# ---------------------------------------------------------------- quiesce

domain_with agent vda:4M
Vq start agent
wait_until 15 test -e "$M/agent/ctl"
refused 'quiesce: a running domain without an agent' agent 'create x quiesce' EOPNOTSUPP 'agent'
Vq destroy agent
Vq undefine agent

# ---------------------------------------------------------------- done when the write returns

ls -l "$M/off" >/dev/null
takes 'create, shut off' off 'create fresh' fresh vda
check 'the file is there at once' test -e "$M/off/fresh.vda.img"
same 'and in ls' fresh.vda.img "$(cd "$M/off" && ls fresh.*.img)"
same 'its attributes are right' "$((8 << 20)) $(V snapshot-dumpxml off fresh | sed -n 's|.*<creationTime>\(.*\)</creationTime>|\1|p')" "$(stat -c '%s %Y' "$M/off/fresh.vda.img")"
same 'it reads as it must' "${WANT[off/fresh.vda.img]}" "$(sum_of "$M/off/fresh.vda.img")"
same 'it is ours, external, current' 'true external true' "$(field "$M" off fresh '"\(.ours) \(.kind) \(.current)"')"
same 'libvirt has it' fresh "$(V snapshot-current off --name)"
guest_write off vda 0x55 5M 1M
takes 'create, running' web 'create fresh' fresh 'vda vdb'
verify_bytes 'reads right at once' "$M" web
guest_write web vda 0x29 6M 1M
verify_bytes 'and once the guest has written on' "$M" web off
guest_agrees 'the guest too' web/vda web/vdb off/vda
takes 'create, internal, shut off: the kind that the others have' int 'create four' four vda
same 'internal it is' internal "$(field "$M" int four .kind)"
guest_write int vda 0x65 5M 1M
Vq start int --paused
refused 'an internal one of a running domain has to be asked for' int 'create five' EPERM "'internal'"
takes 'asked for' int 'create five internal' five vda
same 'it has memory' true "$(field "$M" int five .memory)"
guest_write int vda 0x66 6M 1M
verify_listing 'all are listed' "$M" int
verify_bytes 'all read right' "$M" int

# Readers of what goes, and of what stays.
for d in web off; do
	hold_open h1 "$M/$d/s1.vda.img"
	hold_open h2 "$M/$d/s2.vda.img"
	hold_open h3 "$M/$d/s3.vda.img"
	does "delete s2 ($d)" "$d" 'delete s2'
	same "who has it open gets ESTALE ($d)" ESTALE "$(read_again h2)"
	same "who has others open reads on ($d)" "${WANT[$d/s1.vda.img]} ${WANT[$d/s3.vda.img]}" "$(read_again h1) $(read_again h3)"
	check_not "its file is gone at once ($d)" test -e "$M/$d/s2.vda.img"
	same "its record too ($d)" 'fresh s1 s3' "$(V snapshot-list "$d" --name | sort | tr '\n' ' ' | sed 's/ *$//')"
	check_not "its overlay too ($d)" test -e "$W/images/$d.vda.s2"
	want_gone "$d" s2 vda vdb
	verify_listing "exactly the others are listed ($d)" "$M" "$d"
	let_go h1; let_go h2; let_go h3
done
verify_bytes 'the others read as before' "$M" web off
guest_agrees 'and the guests' web/vda web/vdb off/vda
same 'the domains are in the state they were in' 'paused/shut off' "$(V domstate web)/$(V domstate off)"
hold_open h1 "$M/int/three.vda.img"
hold_open h2 "$M/int/five.vda.img"
does 'delete an internal one while it runs' int 'delete three'
same 'who has it open gets ESTALE' ESTALE "$(read_again h1)"
same 'others read on' "${WANT[int/five.vda.img]}" "$(read_again h2)"
let_go h1; let_go h2
want_gone int three vda
verify_listing 'exactly the others are listed' "$M" int
verify_bytes 'and read as before' "$M" int
Vq destroy int
does 'several names in one delete' int 'delete four five'
want_gone int four vda
want_gone int five vda
verify_listing 'both are gone' "$M" int
verify_bytes 'the others read as before' "$M" int

# commit FIRST LAST and the active layer; pull.
for i in 4 5 6; do
	for d in web off; do
		takes "create ($d)" "$d" "create s$i" "s$i" "$([ "$d" = web ] && echo 'vda vdb' || echo vda)"
		guest_write "$d" vda "$((0x80 + i))" "$((i / 2))M" 1M
	done
done
for d in web off; do
	does "commit FIRST LAST ($d)" "$d" 'commit fresh s4'
	want_gone "$d" fresh vda vdb
	want_gone "$d" s4 vda vdb
	verify_listing "both are gone, no other ($d)" "$M" "$d"
	verify_bytes "the others read as before ($d)" "$M" "$d"
	does "commit of the active layer ($d)" "$d" 'commit s5 s6'
	alarm=$(grep -Em1 'is stale|block job' "$M/$d/log")
	same "the log has no alarm of what our own commands do for moments ($d)" '' "$alarm"
	want_gone "$d" s5 vda vdb
	want_gone "$d" s6 vda vdb
	verify_listing "both are gone, no other ($d)" "$M" "$d"
	verify_bytes "the others read as before ($d)" "$M" "$d"
	takes "a snapshot above ($d)" "$d" 'create top' top "$([ "$d" = web ] && echo 'vda vdb' || echo vda)"
	guest_write "$d" vda 0x8f 7M 1M
	does "pull to s3 ($d)" "$d" 'pull s3'
	same "top is readable, detached ($d)" detached "$(state "$M" "$d" top)"
	verify_bytes "all read as before ($d)" "$M" "$d"
	does "pull to nothing ($d)" "$d" pull
	same "the active layer stands alone ($d)" null "$(qemu-img info -U --output=json "$(active_path "$d" vda)" | jq -r '."backing-filename"')"
	verify_listing "all are still there ($d)" "$M" "$d"
	verify_bytes "and read as before ($d)" "$M" "$d"
	same "the domain is in the state it was in ($d)" "$([ "$d" = web ] && echo paused || echo 'shut off')" "$(V domstate "$d")"
done
guest_agrees 'the guests have what they had' web/vda web/vdb off/vda
bad=
for f in "$W"/images/{web,off,int}.*; do qemu-img check -q -U "$f" >/dev/null 2>&1 || bad+=" $f"; done
same 'qemu-img check finds nothing' '' "$bad"
suite_end
