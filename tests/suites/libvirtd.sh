#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# A real libvirtd (qemu:///system, private to this test) with real QEMU processes: every kind of history, mounted, while
# virsh goes on working. What must be readable comes from the books of lab.sh.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd
M=$W/mnt
mkdir "$M"
REFRESH=0.5

# ---------------------------------------------------------------- histories

# web01 runs: internal snapshots with memory, called by digits that are each other's qcow2 ids, then external ones.
domain_with web01 vda:32M vdb:17M
guest_write web01 vda 0x11 1M 2M
guest_write web01 vdb 0x12 0 1M
Vq start web01
snap web01 2 'vda vdb'
guest_write web01 vda 0x21 2M 3M
guest_write web01 vdb 0x22 16M 1M
snap web01 1 'vda vdb'
guest_write web01 vda 0x31 4M 64K
snap web01 monday 'vda vdb' --disk-only --atomic
guest_write web01 vda 0x41 0 1M
guest_write web01 vdb 0x42 512 512
snap web01 tuesday 'vda vdb' --disk-only --atomic
guest_write web01 vda 0x51 31M 1M

# off01 is shut off: internal, then external.
domain_with off01 vda:20M
guest_write off01 vda 0x61 0 4M
snap off01 i1 vda
guest_write off01 vda 0x62 2M 4M
snap off01 i2 vda
guest_write off01 vda 0x63 5M 4M
snap off01 e1 vda --disk-only
guest_write off01 vda 0x64 8M 2M
snap off01 e2 vda --disk-only
guest_write off01 vda 0x65 1M 1M

# mixed runs, and takes an internal snapshot in an overlay.
domain_with mixed vda:16M
guest_write mixed vda 0x71 0 1M
snap mixed base vda --disk-only
Vq start mixed --paused
guest_write mixed vda 0x72 1M 1M
snap mixed inside vda
guest_write mixed vda 0x73 0 3M
snap mixed above vda --disk-only
guest_write mixed vda 0x74 5M 1M

# deep: a chain of 33 layers.
domain_with deep vda:16M
for ((i = 1; i <= 32; i++)); do
	guest_write deep vda "$i" "$((i * 384))K" 512K
	snap deep "s$i" vda --disk-only
done
guest_write deep vda 0xff 0 64K

# some: one disk takes no part; a CD-ROM and a raw disk.
domain_with some vda:8M vdb:8M:qcow2 vdc:6M:raw
qemu-img create -q -f raw "$W/images/cd.iso" 1M
cat >"$W/.cd.xml" <<-X
	<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='$W/images/cd.iso'/>
	<target dev='hda' bus='ide'/><readonly/></disk>
X
Vq attach-device some "$W/.cd.xml" --config
qemu-io -f raw -c 'write -q -P 0x81 1M 1M' "$W/images/some.vdc.raw" >/dev/null
qemu-io -f raw -c 'write -q -P 0x81 1M 1M' "${MODEL[some/vdc]}" >/dev/null
guest_write some vda 0x82 0 1M
guest_write some vdb 0x83 0 1M
snap some part 'vda vdc' --disk-only --diskspec vda,snapshot=external --diskspec vdb,snapshot=no --diskspec vdc,snapshot=external
guest_write some vda 0x84 512K 1M
guest_write some vdb 0x85 0 2M
guest_write some vdc 0x86 1536K 1M

# branch: back to s0 by hand (what libvirt 9.0 asks for), then on from there.
domain_with branch vda:12M
guest_write branch vda 0x91 0 2M
snap branch s0 vda --disk-only
guest_write branch vda 0x92 1M 2M
snap branch s1 vda --disk-only
guest_write branch vda 0x93 2M 2M
V snapshot-dumpxml branch s0 >"$W/.s0.xml"
qemu-img create -q -f qcow2 -b "$W/images/branch.vda.qcow2" -F qcow2 "$W/images/branch.vda.back" || die "no overlay"
V dumpxml branch --inactive >"$W/.b.xml"
python3 - "$W/.b.xml" "$W/images/branch.vda.back" <<'PY'
import re, sys
s = open(sys.argv[1]).read()
s = re.sub(r"<source file='[^']*branch\.vda[^']*'[^>]*/>", "<source file='%s'/>" % sys.argv[2], s, count=1)
s = re.sub(r"<backingStore.*</backingStore>|<backingStore/>", "", s, flags=re.S)
open(sys.argv[1], "w").write(s)
PY
Vq define "$W/.b.xml"
Vq snapshot-create branch "$W/.s0.xml" --redefine --current
rm -f "${MODEL[branch/vda]}"
truncate -s 12M "${MODEL[branch/vda]}"
qemu-io -f raw -c 'write -q -P 0x91 0 2M' "${MODEL[branch/vda]}" >/dev/null
guest_write branch vda 0x94 3M 2M
snap branch br1 vda --disk-only
guest_write branch vda 0x95 4M 2M

# Names.
domain_with 'my vm%' vda:4M
guest_write 'my vm%' vda 0xa1 0 1M
Vq snapshot-create-as 'my vm%' --name 'a b~é%' --disk-only --diskspec "vda,file=$W/images/odd.1"
WANT['my vm%25/a b%7Eé%25.vda.img']=$(sha "${MODEL['my vm%/vda']}")
# shellcheck disable=SC2034 # read in lab.sh
SIZE['my vm%25/a b%7Eé%25.vda.img']=$((4 << 20))

# No disks; a network disk beside a file.
domain_define diskless ''
domain_with net vda:4M
guest_write net vda 0xb1 0 1M
V dumpxml net --inactive >"$W/.n.xml"
sed -i "s|</disk>|</disk><disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='export'><host name='127.0.0.1' port='10809'/></source><target dev='vdb' bus='virtio'/></disk>|" "$W/.n.xml"
Vq define "$W/.n.xml"
snap net n1 vda --disk-only --diskspec vda,snapshot=external --diskspec vdb,snapshot=no
# A snapshot that says it has the network disk too can only be put into words.
V snapshot-dumpxml net n1 >"$W/.n1.xml"
sed -i "s|<disk name='vdb' snapshot='no'/>|<disk name='vdb' snapshot='external' type='file'><driver type='qcow2'/><source file='$W/images/net.vdb.n1'/></disk>|" "$W/.n1.xml"
Vq snapshot-create net "$W/.n1.xml" --redefine --current

# A disk on a block device.
BLK=
if dev=$(truncate -s 24M "$W/blk" && losetup -f --show "$W/blk" 2>/dev/null); then
	exec 9<>"$dev"
	losetup -d "$dev" # only when nobody has it open any more, so it cannot be left behind
	BLK=$dev
	qemu-img create -q -f qcow2 "$dev" 16M
	model_new blk vda 16M
	domain_define blk "$(disk_xml vda qcow2 "$dev" block)"
	qemu-io -f qcow2 -c 'write -q -P 0xc1 0 2M' "$dev" >/dev/null
	qemu-io -f raw -c 'write -q -P 0xc1 0 2M' "${MODEL[blk/vda]}" >/dev/null
	snap blk in vda
	guest_write blk vda 0xc2 1M 2M
	snap blk ex vda --disk-only --diskspec "vda,snapshot=external,file=$W/images/blk.ex"
	guest_write blk vda 0xc3 2M 2M
fi

# A secret in a definition.
domain_with secret vda:4M
V dumpxml secret --inactive >"$W/.s.xml"
sed -i "s|</devices>|<graphics type='vnc' port='-1' passwd='geheim42'/></devices>|" "$W/.s.xml"
Vq define "$W/.s.xml"
guest_write secret vda 0xd1 0 64K
snap secret one vda
books_agree 'the books agree with QEMU' web01/vda web01/vdb off01/vda mixed/vda deep/vda some/vda branch/vda net/vda

# ---------------------------------------------------------------- the first look

ALL=(web01 off01 mixed deep some branch 'my vm%25' net secret)
[ -n "$BLK" ] && ALL+=(blk)
mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"
verify_listing 'exactly the images of the history are listed' "$M" "${ALL[@]}"
verify_bytes 'every image reads as at its snapshot' "$M" "${ALL[@]}"
[ -n "$BLK" ] || skip 'a disk on a block device' 'no loop device to be had'

same 'one directory per domain' "$(printf '%s\n' "${ALL[@]}" diskless | sort)" "$(cd "$M" && printf '%s\n' * | sort)"
same 'a domain without disks has texts and no images' 'chain ctl jobs log retain retain.plan snapshots snapshots.json space space.json' "$(cd "$M/diskless" && echo *)"
bad=
for d in "$M"/*/; do jq -e '.version and .domain.name and .domain.uuid and (.snapshots | type == "array")' "$d/snapshots.json" >/dev/null || bad+=" $d"; done
same 'every snapshots.json parses' '' "$bad"

j=$M/web01/snapshots.json
same 'json: domain' "web01 $(V domuuid web01 | head -1) running" "$(json "$j" '.domain | "\(.name) \(.uuid) \(.state)"')"
same 'json: a shut-off domain' 'shut off' "$(json "$M/off01/snapshots.json" .domain.state)"
same 'json: snapshots, oldest first' '2 1 monday tuesday' "$(json "$j" '[.snapshots[].name] | join(" ")')"
same 'json: kinds' 'internal internal external external' "$(json "$j" '[.snapshots[].kind] | join(" ")')"
same 'json: all ok' ok "$(jq -r '.snapshots[].state' "$M"/{web01,off01,mixed,deep,some,secret}/snapshots.json | sort -u)"
same 'json: memory' 'true true false false' "$(json "$j" '[.snapshots[].memory|tostring] | join(" ")')"
same 'json: recorded' true "$(json "$j" '.snapshots[].recorded' | sort -u)"
same 'json: parents' '- 2 1 monday' "$(json "$j" '.snapshots | map(.parent // "-") | join(" ")')"
same 'json: current' tuesday "$(json "$j" '.snapshots[] | select(.current) | .name')"
same 'json: sizes' "$((32 << 20)) $((17 << 20))" "$(field "$M" web01 monday '[.disks[].size|tostring] | join(" ")')"
same 'json: files' 'monday.vda.img monday.vdb.img' "$(field "$M" web01 monday '[.disks[].file] | join(" ")')"
same 'json: the chain of an external snapshot is its frozen image' "$W/images/web01.vda.monday $W/images/web01.vda.qcow2" "$(field "$M" web01 tuesday '.disks[0].chain | join(" ")')"
same 'json: format' 'qcow2 raw' "$(field "$M" some part '[.disks[] | select(.target != "vdb") | .format] | join(" ")')"
same 'json: creation time is libvirt'"'"'s' "$(V snapshot-dumpxml web01 monday | sed -n 's|.*<creationTime>\(.*\)</creationTime>|\1|p')" "$(field "$M" web01 monday '.created_ns / 1000000000 | floor')"
same 'image mtime is the creation time' "$(field "$M" web01 1 '.created_ns / 1000000000 | floor')" "$(stat -c %Y "$M/web01/1.vda.img")"
same 'a branch: both have the same parent' 's0 s0' "$(field "$M" branch s1 .parent) $(field "$M" branch br1 .parent)"
same 'a branch: the left one is detached or ok, never stale' '' "$(jq -r '.snapshots[] | select(.state != "ok" and .state != "detached") | .name' "$M/branch/snapshots.json")"
same 'a CD-ROM is no disk of the tree' '' "$(find "$M/some" -name '*hda*')"
same 'a network disk is unsupported, with a reason' 'unsupported true' "$(field "$M" net n1 '"\(.state) \(.reason | length > 0)"')"
has 'the table: heading' "$(cat "$M/web01/snapshots")" '^NAME +KIND +STATE +MEMORY +HELD +CREATED +PARENT +DISKS$'
has 'the table: a line' "$(cat "$M/web01/snapshots")" '^tuesday +external +ok +no +no +20[0-9T:+-]+ +monday +vda,vdb$'
has 'the table: spaces are %20' "$(cat "$M/my vm%25/snapshots")" '^a%20b%7Eé%25 +external +ok'
c=$(cat "$M/web01/chain")
for f in web01.vda.qcow2 web01.vda.monday web01.vda.tuesday web01.vdb.qcow2; do has "chain names $f" "$c" "$f"; done

for s in 2 monday; do
	sed 's|<name>web01</name>|<name>again</name>|; /<uuid>/d' "$M/web01/$s.xml" >"$W/.again.xml"
	check "$s.xml can be defined" V define "$W/.again.xml"
	V undefine again >/dev/null
done
check_not 'no secret in an .xml' grep -q geheim42 "$M/secret/one.xml"
has 'but the rest of it' "$(cat "$M/secret/one.xml")" "<graphics type=.vnc."
same 'text files have their true size' "$(wc -c <"$M/web01/chain")" "$(stat -c %s "$M/web01/chain")"

# ---------------------------------------------------------------- virsh at work below the mount

guest_write web01 vda 0x52 3M 1M
snap web01 live 'vda vdb' --disk-only
guest_write web01 vda 0x53 6M 1M
verify_listing 'virsh makes an external snapshot: it shows' "$M" web01
guest_write off01 vda 0x66 3M 1M
snap off01 e3 vda --disk-only
guest_write secret vda 0xd2 0 1M
snap secret two vda
guest_write secret vda 0xd3 0 2M
verify_listing 'virsh makes an internal snapshot: it shows' "$M" off01 secret
verify_bytes 'both read as at that time, and the old ones as before' "$M" web01 off01 secret

exec {fd}<"$M/secret/one.vda.img"
Vq snapshot-delete secret one
guest_write secret vda 0xd4 0 1M
got=$(sum_of "/dev/fd/$fd")
if [ -n "$got" ] && [ "$got" != "${WANT[secret/one.vda.img]}" ]; then
	fail 'an open file of a deleted snapshot never gives other bytes' 'it does'
else
	ok 'an open file of a deleted snapshot never gives other bytes'
fi
exec {fd}<&-
want_gone secret one vda
verify_listing 'virsh deletes an internal snapshot: it goes' "$M" secret
check_not 'its .xml too' test -e "$M/secret/one.xml"
verify_bytes 'the other one stays right' "$M" secret

Vq destroy web01
verify_listing 'the domain is shut off: the same images' "$M" web01
verify_bytes 'the same bytes' "$M" web01
exec {fd}<"$M/web01/2.vda.img" {fd2}<"$M/web01/live.vda.img" {fd3}<"$M/off01/e3.vda.img"
dd bs=64k count=4 of=/dev/null <&"$fd" 2>/dev/null
dd bs=64k count=4 of=/dev/null <&"$fd3" 2>/dev/null
check 'a domain starts while its snapshots are being read' V start web01
check 'and one whose active layer holds nothing open' V start off01 --paused
guest_write web01 vda 0x54 7M 1M
same 'and they read on' "${WANT[web01/2.vda.img]} ${WANT[web01/live.vda.img]}" "$(sum_of "/dev/fd/$fd") $(sum_of "/dev/fd/$fd2")"
exec {fd}<&- {fd2}<&- {fd3}<&-
Vq destroy off01

# Deleting an external snapshot writes into the frozen image: not while it is read here.
domain_with lock vda:8M
guest_write lock vda 1 0 4M
Vq start lock --paused
snap lock r1 vda --disk-only
guest_write lock vda 2 2M 4M
snap lock r2 vda --disk-only
guest_write lock vda 3 4M 4M
verify_listing 'a domain defined later shows' "$M" lock
exec {fd}<"$M/lock/r1.vda.img"
check_not 'virsh cannot merge into an image that is being read' V snapshot-delete lock r1
has 'because of the lock' "$(cat "$W/.virsh.err")" '[Ll]ock'
same 'the reader is not disturbed' "${WANT[lock/r1.vda.img]}" "$(sum_of "/dev/fd/$fd")"
exec {fd}<&-
verify_bytes 'nothing happened to it' "$M" lock
check 'once it is closed the merge runs' wait_until 15 V snapshot-delete lock r1
old=${WANT[lock/r1.vda.img]}
want_gone lock r1 vda
verify_listing 'the deleted one goes' "$M" lock
verify_bytes 'its child reads as before' "$M" lock
never_wrong 'the deleted one never gives other bytes' "$M" lock r1.vda.img "$old"

# Foreign block jobs leave libvirt's records as they were. a.qcow2 <- s1 <- s2 <- s3, commit s1's overlay downwards.
stack() { # DOM: three snapshots, running
	domain_with "$1" vda:8M
	guest_write "$1" vda 1 0 3M
	Vq start "$1" --paused
	snap "$1" s1 vda --disk-only
	guest_write "$1" vda 2 1M 3M
	snap "$1" s2 vda --disk-only
	guest_write "$1" vda 3 2M 3M
	snap "$1" s3 vda --disk-only
	guest_write "$1" vda 4 3M 3M
}
stack seen
stack cold
stack allc
verify_listing 'three more domains' "$M" seen cold allc
i=$W/images
Vq blockcommit seen vda --base "$i/seen.vda.qcow2" --top "$i/seen.vda.s1" --wait
becomes 'blockcommit seen: what it overwrote is stale' "$M" seen s1 stale
check_not 'and no file any more' test -e "$M/seen/s1.vda.img"
has 'with a reason' "$(field "$M" seen s1 .reason)" '.'
has 'which the table lists as well' "$(cat "$M/seen/snapshots")" '^s1 +external +stale '
never_wrong 's2, whose bytes are all still there, never wrong' "$M" seen s2.vda.img "${WANT[seen/s2.vda.img]}"
lost=${WANT[seen/s1.vda.img]}
want_gone seen s1 vda
[ -e "$M/seen/s2.vda.img" ] || want_gone seen s2 vda
verify_bytes 'the ones above read as before' "$M" seen

Vq blockcommit allc vda --base "$i/allc.vda.qcow2" --top "$i/allc.vda.s2" --wait --delete
becomes 'blockcommit --delete: s1 is stale' "$M" allc s1 stale
for s in s1 s2; do never_wrong "blockcommit --delete: $s never wrong" "$M" allc "$s.vda.img" "${WANT[allc/$s.vda.img]}"; done
# The file frozen at s3 is gone, but what it read as is in the base now: whoever saw the job can say so, others cannot know.
cat "$M/allc/snapshots.json" >"$W/allc.json"
has 'blockcommit --delete: s3 has a state' "$(jq -r '.snapshots[] | select(.name == "s3") | .state' "$W/allc.json")" '^(ok|detached|stale|busy)$' ||
	note_file "$W/allc.json" 200
never_wrong 'blockcommit --delete: s3 never wrong' "$M" allc s3.vda.img "${WANT[allc/s3.vda.img]}"

Vq blockcommit allc vda --active --pivot --wait
becomes 'active commit: s3 is stale' "$M" allc s3 stale
never_wrong 'active commit: s3 never wrong' "$M" allc s3.vda.img "${WANT[allc/s3.vda.img]}"
for s in s1 s2 s3; do want_gone allc "$s" vda; done

# An active commit of the newest layer alone dooms what froze its base, and nothing else.
stack top
verify_listing 'a domain for an active commit' "$M" top
Vq blockcommit top vda --active --pivot --wait --base "$i/top.vda.s2"
becomes 'active commit by one layer: the newest snapshot is stale' "$M" top s3 stale
never_wrong 'it is never wrong' "$M" top s3.vda.img "${WANT[top/s3.vda.img]}"
want_gone top s3 vda
verify_listing 'the others stay' "$M" top
verify_bytes 'with their bytes' "$M" top

stack pull
verify_listing 'a domain for blockpull' "$M" pull
Vq blockpull pull vda --wait
becomes 'blockpull: what is no longer below the disk is detached' "$M" pull s1 detached
becomes 'all of them' "$M" pull s3 detached
verify_listing 'and stays a file' "$M" pull
verify_bytes 'with its bytes' "$M" pull
stack part
Vq blockpull part vda --base "$i/part.vda.qcow2" --wait
becomes 'blockpull onto the base: s1 stands below' "$M" part s1 ok
becomes 's2 is detached' "$M" part s2 detached
verify_listing 'all are files' "$M" part
verify_bytes 'with their bytes' "$M" part

# ---------------------------------------------------------------- a mount that saw none of it

unmount_snapfs "$M"
Vq blockcommit cold vda --base "$i/cold.vda.qcow2" --top "$i/cold.vda.s2" --wait --delete
mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"
for s in s1 s2 s3; do
	never_wrong "commit while not mounted: $s never wrong" "$M" cold "$s.vda.img" "${WANT[cold/$s.vda.img]}"
	want_gone cold "$s" vda
done
never_wrong 'after a remount: the old commit is not forgotten' "$M" seen s1.vda.img "$lost"
verify_bytes 'after a remount: bytes' "$M" "${ALL[@]}" seen pull part lock top
same 'after a remount: detached ones are still' 'detached detached detached' "$(json "$M/pull/snapshots.json" '[.snapshots[].state] | join(" ")')"

# ---------------------------------------------------------------- domains come and go

domain_with brief vda:4M
guest_write brief vda 7 0 1M
snap brief b1 vda
verify_listing 'a new domain appears' "$M" brief
Vq snapshot-delete brief b1
Vq undefine brief
check 'an undefined one disappears' wait_until 15 test ! -e "$M/brief"
qemu-img snapshot -c byhand "$i/some.vdb.qcow2"
want some byhand vdb
verify_listing 'an internal snapshot that libvirt does not know is shown' "$M" some
same 'as not recorded' 'internal false' "$(field "$M" some byhand '"\(.kind) \(.recorded)"')"
verify_bytes 'with its bytes' "$M" some

# ---------------------------------------------------------------- libvirtd dies and comes back

exec {fd}<"$M/deep/s20.vda.img"
lab_libvirtd_kill KILL
sleep 2
verify_listing 'libvirtd is dead: the last picture stays' "$M" deep web01
verify_bytes 'and reads' "$M" deep web01 blk
same 'an open file reads on' "${WANT[deep/s20.vda.img]}" "$(sum_of "/dev/fd/$fd")"
exec {fd}<&-
check 'the log says so' wait_until 20 grep -qi 'libvirt' "$M/web01/log"
lab_libvirtd_start
guest_write deep vda 0xee 1M 64K
snap deep after vda --disk-only
if wait_until 45 test -e "$M/deep/after.vda.img"; then ok 'libvirtd is back: a new snapshot shows'; else fail 'libvirtd is back: a new snapshot shows' "not after 45 s; log: $(tail -3 "$M/deep/log" | tr '\n' '|')"; fi
verify_bytes 'and everything reads' "$M" "${ALL[@]}"
lab_libvirtd_kill TERM
lab_libvirtd_start
guest_write deep vda 0xef 1M 64K
snap deep again vda --disk-only
if wait_until 45 test -e "$M/deep/again.vda.img"; then ok 'a second restart is survived'; else fail 'a second restart is survived' 'no new snapshot after 45 s'; fi
verify_bytes 'bytes after both' "$M" deep web01

# ---------------------------------------------------------------- the other ways in

unmount_snapfs "$M"
mount_snapfs "$M" -o "ro,refresh=$REFRESH" "$URI" || die "no read-only mount"
verify_listing 'a read-only connection suffices' "$M" "${ALL[@]}"
verify_bytes 'and reads the same' "$M" web01 off01 branch
unmount_snapfs "$M"
LIBVIRT_DEFAULT_URI=$URI mount_snapfs "$M" || die "no mount of the default connection"
verify_listing "no source: libvirt's default" "$M" off01
unmount_snapfs "$M"
lab_libvirtd_kill TERM
status 'no libvirtd: the mount fails' 1 timeout 60 "$SNAPFS" "$URI" "$M"
has 'with one sentence that names the source' "$ERR" 'qemu:///system'
check_not 'and leaves nothing mounted' is_mounted "$M"
suite_end
