#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Internal snapshots and the tools that are told a name: entries of one name in one image, or in another disk of the guest; disks that were
# detached since; disks that the definition leaves out. What is refused has changed nothing, and what is done is done to no other entry.
# And overlays of several domains that would all get one name.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
M=$W/mnt
mkdir "$M"
lab_libvirtd
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'

entries() { qemu-img snapshot -U -l "$1" | awk 'NR > 2 { printf "%s%s:%s", sep, $1, $2; sep = " " }'; }
# refused NAME DOM COMMAND TEXT: with EPERM, by `try` as well, and nothing has changed
refused() {
	local before after said
	before=$(for f in "$W/images/$2".*; do entries "$f"; done; V snapshot-list "$2" --name)
	(echo "try $3" >"$M/$2/ctl") 2>/dev/null && fail "$1" 'try has nothing against it'
	if (echo "$3" >"$M/$2/ctl") 2>/dev/null; then fail "$1" "$(head -1 "$M/$2/ctl")"; fi
	said=$(head -1 "$M/$2/ctl")
	has "$1" "$said" "$4"
	after=$(for f in "$W/images/$2".*; do entries "$f"; done; V snapshot-list "$2" --name)
	same "$1: nothing has changed" "$before" "$after"
}
does() { if (echo "$3" >"$M/$2/ctl") 2>/dev/null; then ok "$1"; else fail "$1" "$(head -1 "$M/$2/ctl")"; fi; }
seen() { wait_until 10 jq -e --argjson n "$2" '.snapshots | length == $n' "$M/$1/snapshots.json" >/dev/null || die "$1: $(cat "$M/$1/snapshots")"; }
shown() { jq -r --argjson r "$2" '.snapshots[] | select(.recorded == $r) | .name' "$M/$1/snapshots.json"; }

# ---------------------------------------------------------------- two entries of one name in one image

for order in 'first second' 'second first'; do
	for state in off running; do
		d=twice-${order%% *}-$state
		domain_with "$d" vda:4M
		f=$W/images/$d.vda.qcow2
		take() { if [ "$1" = first ]; then qwrite "$f" 1 0 64k; qemu-img snapshot -c i1 "$f"; else qwrite "$f" 2 0 64k; Vq snapshot-create-as "$d" i1; fi; }
		for who in $order; do take "$who"; sleep 1.1; done
		qwrite "$f" 3 0 64k
		[ $state = off ] || Vq start "$d"
		seen "$d" 2
		mine=$(shown "$d" true)
		for c in delete revert; do refused "$d: $c" "$d" "$c $mine$([ $c = revert ] && echo ' force')" "an entry that is called 'i1', too, and is snapshot"; done
		(echo '1 match=i*' >"$M/$d/retain") 2>/dev/null
		same "$d: retention leaves both" 2 "$(entries "$f" | wc -w)"
	done
done

# ---------------------------------------------------------------- an entry of that name in another disk of the guest

domain_with other vda:4M vdb:4M
a=$W/images/other.vda.qcow2 b=$W/images/other.vdb.qcow2
qwrite "$b" 5 0 64k
qemu-img snapshot -c i1 "$b"
Vq detach-disk other vdb --config
Vq snapshot-create-as other i1
Vq attach-disk other "$b" vdb --driver qemu --subdriver qcow2 --config
Vq start other
seen other 2
mine=$(shown other true)
refused 'another disk of the guest: delete' other "delete $mine" "vdb.qcow2' has an entry that is called 'i1', too.*: detach that disk, or shut the domain down"
(echo '1 match=i*' >"$M/other/retain") 2>/dev/null
has 'another disk of the guest: retention' "$(entries "$b")" ':i1$'
Vq destroy other
wait_until 10 grep -q 'shut off' <(V domstate other)
does 'shut off it goes' other "delete $mine"
same 'and it alone' ' 1:i1' "$(entries "$a") $(entries "$b")"

# ---------------------------------------------------------------- a disk that was detached since

domain_with gone vda:4M vdb:4M
a=$W/images/gone.vda.qcow2 b=$W/images/gone.vdb.qcow2
Vq snapshot-create-as gone i1
Vq detach-disk gone vdb --config
Vq start gone
seen gone 1
refused 'a guest without one of its disks' gone 'delete i1' "disk vdb, in which 'i1' is too, is not attached"
Vq destroy gone
mv "$b" "$W/away"
sleep 0.7
refused 'shut off, and its image is away' gone 'delete i1' "disk vdb, in which 'i1' was taken, is none of the domain's any more, and what lies at .* cannot be read: put it back"
mv "$W/away" "$b"
Vq attach-disk gone "$b" vdb --driver qemu --subdriver qcow2 --config
sleep 0.7
does 'with its disk again' gone 'delete i1'
same 'both entries are gone' ' ' "$(entries "$a") $(entries "$b")"

# ---------------------------------------------------------------- a child that was taken of other disks

# libvirt 9.0 removes all of it, and then fails at the record of the child: what it says is not what has become of it.
for state in off running; do
	d=child-$state
	domain_with "$d" vda:4M vdb:4M
	a=$W/images/$d.vda.qcow2 b=$W/images/$d.vdb.qcow2
	Vq snapshot-create-as "$d" i1
	Vq detach-disk "$d" vdb --config
	Vq snapshot-create-as "$d" i2
	Vq attach-disk "$d" "$b" vdb --driver qemu --subdriver qcow2 --config
	[ $state = off ] || Vq start "$d"
	seen "$d" 2
	does "$state: a child of fewer disks: delete" "$d" 'delete i1'
	same "$state: it is gone, and the child is there" '2:i2 |i2' "$(entries "$a") $(entries "$b")|$(V snapshot-list "$d" --name | xargs)"
	does "$state: and the child can be deleted" "$d" 'delete i2'
	same "$state: all are gone" ' |' "$(entries "$a") $(entries "$b")|$(V snapshot-list "$d" --name | xargs)"
done

# ---------------------------------------------------------------- a disk that the definition leaves out

domain_with left vda:4M vdb:4M
V dumpxml left >"$W/left.xml"
python3 - "$W/left.xml" <<'PY'
import sys
parts = open(sys.argv[1]).read().split("<disk ")
text = "<disk ".join(p if "left.vdb." not in p else p.replace("type='file'", "type='file' snapshot='no'", 1) for p in parts)
open(sys.argv[1], "w").write(text)
PY
Vq define "$W/left.xml"
sleep 0.7
for state in off running; do
	[ $state = off ] || Vq start left
	(echo 'create i1 internal' >"$M/left/ctl") 2>/dev/null
	has "$state: a disk with snapshot='no' is in no internal snapshot unasked" "$(head -1 "$M/left/ctl")" "also 'vdb', which the definition leaves out"
	same "$state: and none is taken" ' ' "$(entries "$W/images/left.vda.qcow2") $(entries "$W/images/left.vdb.qcow2")"
done
Vq destroy left
sleep 0.7
does 'asked for by name it is' left 'create i1 internal disks=vda,vdb'
same 'in both' '1:i1 1:i1' "$(entries "$W/images/left.vda.qcow2") $(entries "$W/images/left.vdb.qcow2")"

# ---------------------------------------------------------------- domains whose images have one stem in one directory

# Each wants the same path for its overlay of NAME, at the same moment; that one is quicker is no reason for the others to have none.
for end in .qcow2 .img .raw ''; do
	xml=
	for t in vda vdb; do
		qemu-img create -q -f qcow2 "$W/images/stem-$t$end" 4M || die "stem-$t$end"
		xml+=$(disk_xml "$t" qcow2 "$W/images/stem-$t$end")
	done
	domain_define "stem${end/./-}" "$xml"
done
stems=(stem stem-qcow2 stem-img stem-raw)
for d in "${stems[@]}"; do wait_until 10 test -e "$M/$d/ctl" || die "no $d"; done
for state in off running; do
	[ $state = off ] || for d in "${stems[@]}"; do Vq start "$d" --paused; done
	for name in a b c; do
		makers=()
		for d in "${stems[@]}"; do
			(echo "create $state-$name" >"$M/$d/ctl") 2>/dev/null &
			makers+=($!)
		done
		refusals=''
		for i in "${!makers[@]}"; do wait "${makers[i]}" || refusals+=$(head -1 "$M/${stems[i]}/ctl"); done
		same "$state: all take $name at once" '' "$refusals"
	done
	want=$([ $state = off ] && echo 32 || echo 56)
	used=$(for d in "${stems[@]}"; do for t in vda vdb; do qemu-img info -U --backing-chain --output=json "$(active_path "$d" $t)" | jq -r '.[].filename'; done; done | sort -u | wc -l)
	same "$state: each has files of its own, and nothing is left over" "$want $want" "$(find "$W/images" -name 'stem-*' | wc -l) $used"
done
unmount_snapfs "$M"
suite_end
