#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# retain and retain.plan on a private libvirtd, and on an image source: the language, what is counted, when it is applied,
# and that it travels with the domain. Old snapshots are made by redefining records with other dates.
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

door() { python3 "$TESTS/control/door.py" "$@"; }
policy() { cat "$M/$1/retain"; }
names() { V snapshot-list "$1" --name | LC_ALL=C sort | tr '\n' ' ' | sed 's/^ *//; s/ *$//'; }
names_are() { [ "$(names "$1")" = "$2" ]; }

domain_with gram vda:1M
domain_with ext vda:4M
domain_with int vda:4M
domain_with run vda:4M vdb:4M
Vq start run --paused
domain_with cal vda:1M
mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"

# ---------------------------------------------------------------- the language

same 'there is no policy at first' off "$(policy gram)"
# written | read back
while IFS='|' read -r line canonical; do
	same "'$line' is a policy" 0 "$(door write "$M/gram/retain" "$line\n")"
	same "'$line' reads as '$canonical'" "$canonical" "$(policy gram)"
	same "which can be written back" "0 $canonical" "$(door write "$M/gram/retain" "$canonical\n") $(policy gram)"
done <<'X'
7|7
7n|7
7d4w12m|7d 4w 12m
12m 4w,7d|7d 4w 12m
*d 3|3 *d
*n|*n
24h7d4w12m5y|24h 7d 4w 12m 5y
3 min=2d|3 min=2d
3d match=auto-*|3d match=auto-*
off|off
X
check 'echo > retain' sh -c "echo '5 2w' > '$M/gram/retain'"
same 'a line without its newline' 0 "$(door write "$M/gram/retain" '5 2w')"
for line in '' ' ' 0 0d '7x' '7D' '7d4' 'min=2d' 'match=*' 'min=2d match=a' 'min=3' 'min=2n 3' 'min= 3' 'match= 3' 'off 3' '3 off' '-1' '7,,x' '10000' \
	'1.5d' 'd' '*' '3 4\n5 6' '3\x00' 'keep 3'; do
	same "'$line' is none" EINVAL "$(door write "$M/gram/retain" "$line\n")"
done
same 'and the old policy stays' '5 2w' "$(policy gram)"
has 'the sentence is in ctl' "$(outcome gram)" "^failed: retain: .*'keep'.*EINVAL"
same 'a failed write fails later ones of the open file' 'EINVAL ECANCELED' "$(door write "$M/gram/retain" '0\n' '3\n')"
has 'the policy is in the metadata of the domain' "$(V dumpxml gram --inactive)" 'policy="5 2w"'

# ---------------------------------------------------------------- retain.plan

for i in 1 2 3 4; do does "create p$i" ext "create p$i"; done
Vq snapshot-create-as ext --name theirs --disk-only
does 'hold p1' ext 'hold p1'
wait_until 15 test -e "$M/ext/theirs.vda.img"
p=$(cat "$M/ext/retain.plan")
same 'no policy: everything is kept' 5 "$(grep -c '^keep ' <<<"$p")"
door plan "$M/ext/retain.plan" '2\n' >"$W/plan"
same 'a policy written to retain.plan is shown by that open file' "wrote 0
keep p1 
drop p2 
keep p3 
keep p4 
keep theirs " "$(sed 's/^\(keep\|drop\) \([^ ]*\) .*/\1 \2 /' "$W/plan")"
same 'with a reason each' 5 "$(grep -Ec '^(keep|drop) [^ ]+ .{4,}' "$W/plan")"
has 'held' "$(cat "$W/plan")" '^keep p1 .*held'
has 'not ours' "$(cat "$W/plan")" '^keep theirs .*not'
has 'the newest' "$(cat "$W/plan")" '^keep p4 .*newest 1 of 2'
has 'dropped' "$(cat "$W/plan")" '^drop p2 .+'
same 'by the next open' "$(tail -n +2 "$W/plan")" "$(cat "$M/ext/retain.plan")"
same 'and no longer' 5 "$(grep -c '^keep ' "$M/ext/retain.plan")"
same 'nothing is stored' off "$(policy ext)"
same 'nothing is dropped' 'p1 p2 p3 p4 theirs' "$(names ext)"
has_not 'not even in libvirt' "$(V dumpxml ext --inactive)" 'policy='
door plan "$M/ext/retain.plan" '2\n' >/dev/null
echo off >"$M/ext/retain"
same 'nor after a policy was stored' 5 "$(grep -c '^keep ' "$M/ext/retain.plan")"
same 'a bad one is refused' 'wrote EINVAL' "$(door plan "$M/ext/retain.plan" '7x\n' | grep wrote)"
door plan "$M/ext/retain.plan" '2 match=the*\n' >"$W/plan"
has 'match= counts others' "$(cat "$W/plan")" '^keep theirs .*newest 1 of 2'
has 'so one more of ours goes' "$(cat "$W/plan")" '^drop p3 '
cat "$M/ext/retain.plan" >/dev/null
hold_open r "$M/ext/p2.vda.img"
door plan "$M/ext/retain.plan" '2\n' >"$W/plan"
has 'one that is open is kept' "$(cat "$W/plan")" '^keep p2 .*(open|read)'
cat "$M/ext/retain.plan" >/dev/null

# ---------------------------------------------------------------- applied

same 'writing a policy applies it' 0 "$(door write "$M/ext/retain" '1\n')"
same 'before the write returns: p3 is gone; held, open, foreign and newest ones are there' 'p1 p2 p4 theirs' "$(names ext)"
check_not 'its file is gone' test -e "$M/ext/p3.vda.img"
has 'the log says so' "$(cat "$M/ext/log")" "retention dropped 'p3'"
let_go r
read_by_nobody() { grep -q '^drop p2 ' "$M/ext/retain.plan"; }
check 'nobody reads p2 any more' wait_until 15 read_by_nobody
same 'prune' 0 "$(ctl ext 'prune\n')"
same 'takes it' 'p1 p4 theirs' "$(names ext)"
does 'create, with a policy' ext 'create p5'
same 'prunes in the same write' 'p1 p5 theirs' "$(names ext)"
has 'and says so' "$(outcome ext)" 'ok: create p5: .*retention dropped 1'
does 'try create, with a policy' ext 'try create p6'
has 'says what would go' "$(outcome ext)" "retention would then drop 'p5'"
does 'try revert with keep=' ext 'try revert p5 keep=k1'
has 'does, too' "$(outcome ext)" "retention would then drop 'p5'"
same 'and neither has done it' 'p1 p5 theirs' "$(names ext)"
does 'revert with keep=' ext 'revert p5 keep=k1'
same 'prunes in the same write' 'k1 p1 theirs' "$(names ext | tr ' ' '\n' | sort | xargs)"
has 'and says so' "$(outcome ext)" 'ok: revert p5 keep=k1: .*retention dropped 1'
does 'a snapshot for what follows' ext 'create p5'
same 'a policy for others' 0 "$(door write "$M/ext/retain" '1 match=the*\n')"
Vq snapshot-create-as ext --name theirs2 --disk-only
check "a snapshot of virsh appears: it is applied" wait_until 30 names_are ext 'p1 theirs2'
same 'running: write' 0 "$(door write "$M/run/retain" '2\n')"
for i in 1 2 3 4; do guest_write run vda "$i" 0 1M; guest_write run vdb "$i" 1M 1M; takes "running: create q$i" run "create q$i" "q$i" 'vda vdb'; done
same 'running: the newest two are left' 'q3 q4' "$(names run)"
want_gone run q1 vda vdb
want_gone run q2 vda vdb
verify_bytes 'and read right' "$M" run
guest_agrees 'and the guest' run/vda run/vdb
has 'it is in the running instance' "$(V dumpxml run)" 'policy="2"'
has 'and in the configuration' "$(V dumpxml run --inactive)" 'policy="2"'
same 'internal: write' 0 "$(door write "$M/int/retain" '2\n')"
for i in 1 2 3; do guest_write int vda "$i" 0 1M; takes "internal: create n$i" int "create n$i internal" "n$i" vda; done
same 'internal: the newest two are left' 'n2 n3' "$(names int)"
want_gone int n1 vda
verify_bytes 'and read right' "$M" int
same 'internal: QEMU agrees' 2 "$(qemu-img snapshot -l "$W/images/int.vda.qcow2" | grep -c ' n[0-9] ')"
qemu-img snapshot -c byhand "$W/images/int.vda.qcow2"
wait_until 15 test -e "$M/int/byhand.vda.img"
same 'match=*' 0 "$(door write "$M/int/retain" '1 match=*\n')"
same 'drops no unrecorded one' 'n3 byhand' "$(names int) $(qemu-img snapshot -l "$W/images/int.vda.qcow2" | grep -o byhand)"
same 'off' 0 "$(door write "$M/int/retain" 'off\n')"
for i in 4 5; do does "off: create n$i" int "create n$i internal"; done
same 'and nothing is dropped' 'n3 n4 n5' "$(names int)"

# ---------------------------------------------------------------- a mount by itself deletes nothing

unmount_snapfs "$M"
for i in 1 2 3; do Vq snapshot-create-as ext --name "theirs3$i" --disk-only; done
mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"
wait_until 15 test -e "$M/ext/theirs33.vda.img"
same 'the policies survive a remount' '1 match=the*|2|off|5 2w' "$(policy ext)|$(policy run)|$(policy int)|$(policy gram)"
same 'holds and whose they are, too' 'true true' "$(field "$M" ext p1 '"\(.held) \(.ours)"')"
sleep 2
same 'nothing was dropped' 'p1 theirs2 theirs31 theirs32 theirs33' "$(names ext)"
same 'prune does it' 0 "$(ctl ext 'prune\n')"
same 'then' 'p1 theirs33' "$(names ext)"
unmount_snapfs "$M"
mount_snapfs "$M" -o "ro,refresh=$REFRESH" "$URI" || die "no read-only mount"
same 'ro: no doors' '' "$(cd "$M/ext" && find . -name ctl -o -name 'retain*')"
Vq snapshot-create-as ext --name theirs34 --disk-only
wait_until 15 test -e "$M/ext/theirs34.vda.img"
sleep 2
same 'ro: nothing is enforced' 'p1 theirs33 theirs34' "$(names ext)"
unmount_snapfs "$M"
V dumpxml gram --inactive | sed 's|<vcpu[^>]*>1<|<vcpu>2<|' >"$W/.g.xml"
Vq define "$W/.g.xml"
mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"
same 'a policy survives a redefinition' '5 2w' "$(policy gram)"

# ---------------------------------------------------------------- a copied domain

# As one copies it: the images, the definition with our metadata in it, and the records. Nothing was taken there.
domain_with first vda:1M
wait_until 15 test -e "$M/first/ctl"
same 'a policy to copy' 0 "$(door write "$M/first/retain" '2\n')"
old=$(dirname "$(active_path first vda)") new=$W/second
mkdir "$new"
for i in 1 2 3; do
	guest_write first vda "$i" 0 64K
	same "a snapshot to copy: $i" 0 "$(ctl first "create s$i external\n")"
done
names=$(names first)
same 'two are left' 's2 s3' "$names"
for f in "$old"/first*; do cp -p "$f" "$new/"; done
for f in "$new"/first*; do
	below=$(qemu-img info --output=json "$f" | jq -r '."backing-filename" // empty')
	[ -z "$below" ] || qemu-img rebase -u -f qcow2 -F qcow2 -b "$new/$(basename "$below")" "$f" || die "rebase of $f"
done
V dumpxml first --inactive | sed "s|<name>first<|<name>second<|; s|'$old/first|'$new/first|; /<uuid>/d" >"$W/.g.xml"
Vq define "$W/.g.xml"
for s in $names; do
	V snapshot-dumpxml first "$s" |
		sed "s|'$old/first|'$new/first|; s|<name>first<|<name>second<|; s|<uuid>.*</uuid>|<uuid>$(V domuuid second)</uuid>|; /<parent>/,/<.parent>/{/s1/d}" >"$W/.s.xml"
	Vq snapshot-create second "$W/.s.xml" --redefine
done
wait_until 15 test -e "$M/second/s3.vda.img"
for s in $names; do
	same "the copied $s is right" "$(sha "$M/first/$s.vda.img")" "$(sha "$M/second/$s.vda.img")"
	same "and was not taken there" false "$(field "$M" second "$s" .ours)"
done
same 'the policy came with it' 2 "$(policy second)"
for i in 4 5 6; do same "a snapshot of the copy: $i" 0 "$(ctl second "create s$i external\n")"; done
same 'of its own the policy keeps two, and all that were copied' "$names s5 s6" "$(names second)"
for s in $names; do
	same "the copied $s is still right" "$(sha "$M/first/$s.vda.img")" "$(sha "$M/second/$s.vda.img")"
done

# ---------------------------------------------------------------- another one of the same UUID, or path

# What was noted of the one is not for the other: the policy would drop what nobody asked to.
domain_with heir vda:1M
uuid=$(V domuuid heir)
wait_until 15 test -e "$M/heir/ctl"
same 'a policy' 0 "$(door write "$M/heir/retain" '1 match=*\n')"
Vq undefine heir
rm "$W/images"/heir*
heir_left() { ! test -e "$M/heir"; }
check 'its domain is gone' wait_until 15 heir_left
qemu-img create -q -f qcow2 "$W/images/stranger.qcow2" 1M
V dumpxml first --inactive | sed "s|<uuid>.*</uuid>|<uuid>$uuid</uuid>|; s|<name>first<|<name>stranger<|; /<metadata>/,/<.metadata>/d
	s|<source file='[^']*'|<source file='$W/images/stranger.qcow2'|" >"$W/.g.xml"
Vq define "$W/.g.xml"
for i in 1 2 3; do Vq snapshot-create-as stranger "v$i" --disk-only; done
wait_until 15 test -e "$M/stranger/v3.vda.img"
same 'of another domain with that UUID it is off' off "$(policy stranger)"
has 'the log says why' "$(cat "$M/stranger/log")" "'1 match=.' was noted for another one of this UUID"
Vq snapshot-create-as stranger v4 --disk-only
wait_until 15 test -e "$M/stranger/v4.vda.img"
same 'and nothing is dropped' 'v1 v2 v3 v4' "$(names stranger)"
same 'it can be set' 0 "$(door write "$M/stranger/retain" '3 match=*\n')"
same 'and is applied' 'v2 v3 v4' "$(names stranger)"
# A revert brings back a definition without any metadata of ours: it is the same domain, which its disks show.
domain_with reverted vda:1M
for i in 1 2; do Vq snapshot-create-as reverted "v$i"; done
wait_until 15 test -e "$M/reverted/v2.vda.img"
same 'a policy where no snapshot is of ours' 0 "$(door write "$M/reverted/retain" '5 match=*\n')"
Vq snapshot-revert reverted v1
sleep 2
same 'virsh reverts: the policy stays' '5 match=*' "$(policy reverted)"
same 'and again' 0 "$(ctl reverted 'revert v2\n')"
sleep 2
same 'a revert of ours' '5 match=*' "$(policy reverted)"
mkdir "$W/images2" "$W/mnt2"
qemu-img create -q -f qcow2 "$W/images2/i.qcow2" 1M
mount_snapfs "$W/mnt2" -o refresh=0.5 "$W/images2/i.qcow2" || die 'no second mount'
same 'an image: a policy' 0 "$(door write "$W/mnt2/i/retain" '1 match=*\n')"
qemu-img create -q -f qcow2 "$W/images2/other" 1M
for i in 1 2 3; do qemu-img snapshot -c "keep$i" "$W/images2/other"; done
mv "$W/images2/other" "$W/images2/i.qcow2"
wait_until 15 test -e "$W/mnt2/i/keep3.vda.img"
sleep 1
same 'of another image at that path it is off' off "$(tr -d '\n' <"$W/mnt2/i/retain")"
same 'and nothing is dropped' 3 "$(qemu-img snapshot -l "$W/images2/i.qcow2" | grep -c keep)"
qemu-img snapshot -d keep3 "$W/images2/i.qcow2"
same 'it can be set, and one more is taken' '0 0' "$(door write "$W/mnt2/i/retain" '2 match=*\n') $(door write "$W/mnt2/i/ctl" 'create new\n')"
same 'and is applied' '2' "$(qemu-img snapshot -l "$W/images2/i.qcow2" | grep -c 'keep2\|new')"
unmount_snapfs "$W/mnt2"

# ---------------------------------------------------------------- a calendar

# One snapshot at noon of each of these days, taken by nobody in particular.
days='2024-12-31 2025-06-15 2025-12-31 2026-01-01 2026-01-31 2026-02-01 2026-02-08 2026-02-09 2026-02-10'
for d in $days; do taken="${taken:-} c$d/12:00"; done
n=0
for t in $taken e2026-02-10/20:00; do # the evening of the last day as well
	n=$((n + 1))
	guest_write cal vda "$n" 0 64K
	snap cal "${t%/*}" vda --disk-only
	V snapshot-dumpxml cal "${t%/*}" | sed "s|<creationTime>.*</creationTime>|<creationTime>$(date -d "$(tr / ' ' <<<"${t#?}")" +%s)</creationTime>|" >"$W/.s.xml"
	Vq snapshot-create cal "$W/.s.xml" --redefine --current
done
dated() { [ "$(field "$M" cal e2026-02-10 '.created_ns / 1000000000 | floor')" = "$(date -d '2026-02-10 20:00' +%s)" ]; }
check 'the last date is seen' wait_until 30 dated
kept() { door plan "$M/cal/retain.plan" "$1 match=*\n" | sed -n 's/^keep \([^ ]*\) .*/\1/p' | tr '\n' ' ' | sed 's/ $//'; }
same 'days: the newest of each of the last three that have one' 'c2026-02-08 c2026-02-09 e2026-02-10' "$(kept 3d)"
same 'weeks begin on Monday: the 8th is a Sunday, the 9th a Monday' 'c2026-02-08 e2026-02-10' "$(kept 2w)"
same 'months' 'c2025-12-31 c2026-01-31 e2026-02-10' "$(kept 3m)"
same 'years' 'c2024-12-31 c2025-12-31 e2026-02-10' "$(kept '*y')"
same 'hours' 'c2026-02-10 e2026-02-10' "$(kept 2h)"
same 'a union' 'c2025-12-31 c2026-01-31 c2026-02-09 e2026-02-10' "$(kept '2d3m')"
same 'min= keeps what is younger' "$(tr ' ' '\n' <<<"$days" | sed 's/^/c/' | tr '\n' ' ')e2026-02-10" "$(kept '1 min=99y')"
cat "$M/cal/retain.plan" >/dev/null
same 'applied' 0 "$(door write "$M/cal/retain" '2d *m match=*\n')"
same 'what is left' 'c2024-12-31 c2025-06-15 c2025-12-31 c2026-01-31 c2026-02-09 e2026-02-10' "$(names cal)"
for d in 2025-12-31 2025-06-15; do check "$d is there" test -e "$M/cal/c$d.vda.img"; done
for d in 2026-01-01 2026-02-01 2026-02-08 2026-02-10; do want_gone cal "c$d" vda; done
verify_listing 'no other is listed' "$M" cal
verify_bytes 'what is left reads as before' "$M" cal
guest_agrees 'and so does the guest' cal/vda
unmount_snapfs "$M"

# Deep chains.
mkdir "$W/g"
chmod 755 "$W/g"
export URI W SNAPFS
adopt python3 "$TESTS/control/deep.py" "$W/deep" "${DEEP:-60}"
suite_end
