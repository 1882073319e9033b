#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Many domains. Where there are more than fifty, those of which libvirt's own files have not changed are not asked for anything, and where one changes
# it alone is looked at, with those that share a file with it. So after every change, whoever makes it, all domains are compared with
# what a mount shows that has just begun, and has looked at everything.
# tests/bench/scale.sh says what a thousand cost.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
M=$W/mnt N=$W/fresh I=$W/many J=$W/more
mkdir "$M" "$N" "$I" "$J"
domains=60 snapshots=4

# ---------------------------------------------------------------- a lab

lab_libvirtd
qemu-img create -q -f qcow2 "$J/d0000.000.qcow2" 1M
domain_define d0000 "$(disk_xml vda qcow2 "$J/d0000.000.qcow2")"
Vq snapshot-create-as d0000 s000
cp /etc/libvirt/qemu/d0000.xml "$J/config.xml"
cp /var/lib/libvirt/qemu/snapshot/d0000/s000.xml "$J/record.xml"
Vq undefine d0000 --snapshots-metadata
qemu-img create -q -f qcow2 "$I/d0000.000.qcow2" 1M
domain_define d0000 "$(disk_xml vda qcow2 "$I/d0000.000.qcow2")"
Vq snapshot-create-as d0000 s000 --disk-only --diskspec "vda,file=$I/d0000.001.qcow2"
cp /etc/libvirt/qemu/d0000.xml "$I/config.xml"
cp /var/lib/libvirt/qemu/snapshot/d0000/s000.xml "$I/record.xml"
lab_libvirtd_kill TERM
"$TESTS/bench/many.py" "$I" external 0 "$domains" "$snapshots" || die 'many.py'
lab_libvirtd_start

# Of every domain: what there is, what state it is in, who stands on what.
texts() { # MOUNTPOINT
	local d
	for d in "$1"/*/; do
		printf '== %s\n' "$(basename "$d")"
		find "$d" -mindepth 1 -printf '%f %s\n' | grep -E '(img|xml) ' | LC_ALL=C sort
		jq -c '.snapshots[] | [.name, .kind, .state, .held, .ours, .current, .parent, .created_ns, (.disks | map([.target, .file, .state, .size, .format, .chain]))]' "$d/snapshots.json"
		sed 's/ (cannot be read.*//; s/cannot open .*//' "$d/chain"
	done
}
as_a_fresh_one() {
	mount_snapfs "$N" -o ro "$URI" || return 1
	texts "$N" >"$W/fresh.txt"
	unmount_snapfs "$N"
	texts "$M" >"$W/old.txt"
	cmp -s "$W/old.txt" "$W/fresh.txt"
}
# agrees NAME: soon, for what others do is seen at the next look.
agrees() {
	if wait_until 20 as_a_fresh_one; then ok "$1"; else fail "$1" "$(diff "$W/old.txt" "$W/fresh.txt" | head -12 | tr '\n' '|')"; fi
}
shows() { [ -e "$M/$1/$2.vda.img" ]; }

mount_snapfs "$M" -o refresh=1 "$URI" || die 'no mount'
same 'every domain is there' "$domains" "$(find "$M" -mindepth 1 -maxdepth 1 -name 'd*' | wc -l)"
same 'every image is there' "$((domains * snapshots))" "$(find "$M" -name '*.img' | wc -l)"
sleep 3 # so that what was written just now is no reason to ask
agrees 'as it was mounted'

# ---------------------------------------------------------------- what others do

Vq snapshot-create-as d0007 virsh --disk-only
check 'a snapshot of virsh is seen' wait_until 15 shows d0007 virsh
agrees 'a snapshot of virsh'
Vq snapshot-delete d0008 s003 --metadata
agrees 'a record is gone'
V snapshot-dumpxml d0009 s001 | sed 's/<creationTime>.*</<creationTime>1600000000</; s/<name>s001</<description>another<\/description>&/' >"$W/redefined.xml"
Vq snapshot-create d0009 "$W/redefined.xml" --redefine
is_redefined() { jq -e '.snapshots[] | select(.name == "s001") | .created_ns == 1600000000000000000' "$M/d0009/snapshots.json"; }
check 'a record that is defined anew is seen' wait_until 15 is_redefined
agrees 'a record is defined anew'
Vq snapshot-current d0010 s001
agrees 'another one is current'
truncate -s 1M "$I/more.raw"
Vq attach-disk d0011 "$I/more.raw" vdb --config --subdriver raw
has_vdb() { grep -q '^vdb' "$M/d0011/chain"; }
check 'a definition that changes is seen' wait_until 15 has_vdb
agrees 'a definition changes'

# ---------------------------------------------------------------- who comes to stand on another's image

qemu-img create -q -f qcow2 -b "$I/d0012.002.qcow2" -F qcow2 "$I/clone.qcow2"
agrees 'an overlay that belongs to nobody lies beside the images'
domain_define clone "$(disk_xml vda qcow2 "$I/clone.qcow2")"
agrees 'a domain comes that stands on the image of another'
check 'and that one says so' grep -q "domain 'clone'" "$M/d0012/chain"
same 'so that it is not merged into' EPERM "$(errno_of bash -c "echo 'commit s001' >'$M/d0012/ctl'")"
Vq snapshot-create-as clone one --disk-only
agrees 'the clone has a snapshot'
V dumpxml d0013 --inactive | sed "s|$I/d0013.004.qcow2|$I/d0014.004.qcow2|" >"$W/moved.xml"
Vq define "$W/moved.xml"
agrees 'a domain goes over to the images of another'
has 'both write to it' "$(cat "$M/d0014/chain")" "domain 'd0013'"
V dumpxml d0013 --inactive | sed "s|$I/d0014.004.qcow2|$I/d0013.004.qcow2|" >"$W/moved.xml"
Vq define "$W/moved.xml"
agrees 'and back'
mv "$I/d0015.001.qcow2" "$W/away"
is_missing() { grep -q 'missing' "$M/d0015/chain"; }
check 'a layer is missing' wait_until 15 is_missing
same 'so nobody knows what is needed' EPERM "$(errno_of bash -c "echo 'delete s001' >'$M/d0016/ctl'")"
mv "$W/away" "$I/d0015.001.qcow2"
agrees 'and is there again'
Vq undefine clone --snapshots-metadata
rm "$I"/clone*
agrees 'a domain goes, and its images'

# ---------------------------------------------------------------- commands

echo 'create ours' >"$M/d0017/ctl" || fail create "$(head -1 "$M/d0017/ctl")"
check 'what is created is there at once' shows d0017 ours
agrees 'a snapshot of ours'
for i in 1 2 3; do echo "create ours$i" >"$M/d0017/ctl" || fail create "$(head -1 "$M/d0017/ctl")"; done
agrees 'some more'
echo 'hold s002' >"$M/d0018/ctl" || fail hold "$(head -1 "$M/d0018/ctl")"
same 'one is held' true "$(jq '.snapshots[] | select(.name == "s002") | .held' "$M/d0018/snapshots.json")"
agrees 'one is held, of another domain'
echo 'delete ours2' >"$M/d0017/ctl" || fail delete "$(head -1 "$M/d0017/ctl")"
check_not 'what is deleted is gone at once' shows d0017 ours2
agrees 'one of ours is deleted'
echo 'delete ours' >"$M/d0017/ctl" || fail delete "$(head -1 "$M/d0017/ctl")"
agrees 'and another one'

# ---------------------------------------------------------------- a libvirtd that comes back

lab_libvirtd_kill KILL
rm "/var/lib/libvirt/qemu/snapshot/d0019/s003.xml"
lab_libvirtd_start
lost() { ! shows d0019 s003; }
check 'what changed meanwhile is seen' wait_until 40 lost
agrees 'libvirtd was away'
unmount_snapfs "$M"

# ---------------------------------------------------------------- more records than a mount waits for

lab_libvirtd_kill TERM
"$TESTS/bench/many.py" "$J" internal "$domains" $((domains + 60)) 100 || die 'many.py'
lab_libvirtd_start
wait_until 60 V snapshot-list "d0$((domains + 59))" --name
# What is there at once, of domains in all orders: nobody is to take a part of it for everything.
first_of() { # NAME EXPECTED: of a mount that has just begun, what the Python text says (M: where it is)
	mount_snapfs "$M" -o refresh=1 "$URI" || die 'no mount'
	same "$1" "$2" "$(python3 -c "import json, os, sys
M, domains, snapshots = sys.argv[1], ['d%04d' % k for k in range(int(sys.argv[2]), int(sys.argv[2]) + 60)], ['s%03d' % k for k in range(100)]
$(cat)" "$M" "$domains")"
	unmount_snapfs "$M"
}
first_of 'whoever lists a domain at once sees all of it' '6000 images of 60 domains' <<'PY'
print('%d images of %d domains' % (sum(f.endswith('.img') for d in reversed(domains) for f in os.listdir(M + '/' + d)), len(set(domains) & set(os.listdir(M)))))
PY
first_of 'whoever asks for one by its name finds it' 6000 <<'PY'
print(sum(os.path.exists('%s/%s/%s.vda.img' % (M, d, s)) for d in reversed(domains) for s in snapshots))
PY
first_of 'a name that is not there is not there in the end' '60 times no' <<'PY'
print('%d times no' % sum(not os.path.exists('%s/%s/none.vda.img' % (M, d)) for d in reversed(domains)))
PY
first_of 'the texts have all of it' "{'ok': 6000}" <<'PY'
states = {}
for d in reversed(domains):
    for s in json.load(open('%s/%s/snapshots.json' % (M, d)))['snapshots']:
        states[s['state']] = states.get(s['state'], 0) + 1
print(states)
PY

# libvirtd dies meanwhile: who cannot be told all is told that, and not a part of it.
complete() { # how many domains are listed as a whole; prints those that are not, but for who got an error
	python3 -c "import os, sys
M, ok = sys.argv[1], 0
for k in range(int(sys.argv[2]), int(sys.argv[2]) + 60):
    try:
        n = sum(f.endswith('.img') for f in os.listdir('%s/d%04d' % (M, k)))
    except OSError as e:
        continue
    ok += n == 100
    if n != 100:
        print('d%04d has %d' % (k, n))
print(ok)" "$M" "$domains"
}
mount_snapfs "$M" -o refresh=1 "$URI" || die 'no mount'
lab_libvirtd_kill KILL
has 'libvirtd dies: nobody sees a part for the whole' "$(complete | wc -l)" '^1$'
lab_libvirtd_start
is_complete() { [ "$(complete)" = 60 ]; }
check 'and it is all there when that is back' wait_until 60 is_complete
unmount_snapfs "$M"

# A disk that is a file of this mount, in a domain that was not read yet: who reads the records does not wait for himself.
for k in 0 20 40 59; do
	domain_define "on$k" "$(disk_xml vda raw "$M/d$(printf %04d $((domains + k)))/s099.vda.img")"
done
first_of 'disks that lie in this mount' "['d0000', 'on0'] 60" <<'PY'
print([d for d in ('d0000', 'on0') if os.path.isdir('%s/%s' % (M, d))], sum(len([f for f in os.listdir(M + '/' + d) if f.endswith('.img')]) == 100 for d in domains))
PY
mount_snapfs "$M" -o refresh=1 "$URI" || die 'no mount'
echo 'hold s001' >"$M/d0018/ctl" || fail hold "$(head -1 "$M/d0018/ctl")"
same 'and commands wait until all is read' true "$(jq '.snapshots[] | select(.name == "s001") | .held' "$M/d0018/snapshots.json")"
echo 'delete s003' >"$M/d0002/ctl" || fail delete "$(head -1 "$M/d0002/ctl")"
check_not 'also those that remove something' shows d0002 s003
unmount_snapfs "$M"
suite_end
