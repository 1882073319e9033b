#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# What commands refuse, so that nobody reads differently: each time the errno, a sentence that names who needs what, the same
# answer from `try`, and not a byte or a record changed. Then revert, which may discard, and try.
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

mount_snapfs "$M" -o "refresh=$REFRESH" "$URI" || die "no mount"

# ---------------------------------------------------------------- guards

# shared: base <- s1 <- s2 <- s3, and another domain stands on the overlay that s1 started.
chain() { # DOM: four layers, shut off
	domain_with "$1" vda:4M
	guest_write "$1" vda 1 0 1M
	local i
	for i in 1 2 3; do
		snap "$1" "s$i" vda --disk-only
		guest_write "$1" vda "$((i + 1))" "${i}M" 1M
	done
}
chain shared
chain branch
chain vols
chain guard
chain saved
qemu-img create -q -f qcow2 -b "$W/images/shared.vda.s1" -F qcow2 "$W/images/lodger.qcow2"
domain_define lodger "$(disk_xml vda qcow2 "$W/images/lodger.qcow2")"
mkdir "$W/pool"
qemu-img create -q -f qcow2 -b "$W/images/vols.vda.s1" -F qcow2 "$W/pool/clone.qcow2"
Vq pool-create-as clones dir --target "$W/pool"
verify_listing 'more domains' "$M" shared branch vols guard saved
wait_until 15 test -e "$M/lodger"
refused 'commit below a shut-off domain' shared 'commit s1' EPERM "lodger"
refused 'of a line that it stands in' shared 'commit s1 s2' EPERM "lodger"
refused 'of what it stands on' shared 'commit s2' EPERM "lodger"
Vq start lodger --paused
refused 'commit below a running domain' shared 'commit s1' EPERM "lodger"
before=$(cd "$W/images" && sha256sum shared.* lodger.qcow2)
does 'delete keeps the files that it needs' shared 'delete s1'
same 'all of them, byte by byte' "$before" "$(cd "$W/images" && sha256sum shared.* lodger.qcow2)"
want_gone shared s1 vda
verify_listing 'only the record has gone' "$M" shared
Vq destroy lodger
does 'the same where it is shut off' shared 'delete s2'
same 'all of them, byte by byte' "$before" "$(cd "$W/images" && sha256sum shared.* lodger.qcow2)"
want_gone shared s2 vda
verify_bytes 'the others read as before' "$M" shared
check 'the other domain starts' V start lodger --paused
Vq destroy lodger
wait_until 20 grep -q 'clone.qcow2' "$M/vols/chain"
refused 'commit below a pool volume' vols 'commit s1' EPERM "clone.qcow2|pool|volume"
does 'hold' guard 'hold s2'
refused 'commit of a held one' guard 'commit s2' EPERM "'s2' is held"
refused 'of a line with a held one in it' guard 'commit s1 s3' EPERM "'s2' is held"
refused 'delete of a held one' guard 'delete s2' EPERM "'s2' is held"
refused 'a held one among several: nothing is done' guard 'delete s3 s2' EPERM "'s2'"
verify_listing 'and all are there' "$M" guard
does 'release' guard 'release s2'

# A part of a file, and an encrypted one: what stands in the definition besides the file would not come along.
truncate -s 8M "$W/images/part.raw"
domain_define part "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$W/images/part.raw'><slices>
	<slice type='storage' offset='1048576' size='4194304'/></slices></source><target dev='vda' bus='virtio'/></disk>"
domain_define secret "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$W/images/secret.qcow2'>
	<encryption format='luks'><secret type='passphrase' uuid='$(cat /proc/sys/kernel/random/uuid)'/></encryption></source>
	<target dev='vda' bus='virtio'/></disk>"
encrypt() {
	qemu-img create -q -f qcow2 --object secret,id=k,data=x -o encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10 "$W/images/secret.qcow2" 4M 2>/dev/null
}
wait_until 60 encrypt # on a busy machine "Unable to get accurate CPU usage"
wait_until 15 test -e "$M/secret"
wait_until 15 test -e "$M/part"
refused 'a snapshot of a part of a file' part 'create s1' EOPNOTSUPP "slice of '?$W/images/part.raw"
refused 'a snapshot of an encrypted disk' secret 'create s1' EOPNOTSUPP "secret.qcow2'? is encrypted"
Vq snapshot-create-as part v1 --disk-only
wait_until 15 grep -q '^v1 ' "$M/part/snapshots"
refused 'delete where virsh has taken one' part 'delete v1' EOPNOTSUPP 'v1.* slice of'
refused 'and commit' part 'commit v1' EOPNOTSUPP 'v1.* slice of'
refused 'and revert' part 'revert v1' EPERM 'slice of'

# Bitmaps of backup programs: libvirt carries on what records, and nobody what does not any more.
chain bits
verify_listing 'one with bitmaps' "$M" bits
bitmaps() { qemu-img info -U --output=json "$1" | jq -r '[."format-specific".data.bitmaps[]?.name] | join(" ")'; }
does 'all of them are noted' bits 'hold s1'
does 'and none is held' bits 'release s1'
qemu-img bitmap --add "$W/images/bits.vda.s2" kept
does 'hold once more' bits 'hold s1'
does 'and release' bits 'release s1'
verify_bytes 'who adds a bitmap to a frozen file has changed nothing that is read' "$M" bits
qwrite "$W/images/bits.vda.s2" 99 0 64k
becomes 'who writes to it has' "$M" bits s3 stale
refused 'and it stays as it is' bits 'delete s2' EPERM "must stay as it is: snapshot 's3' stood on it when it was right"
does 'but for who goes with it' bits 'delete s3'
want_gone bits s3 vda
does 'a bitmap that records' bits 'delete s2'
want_gone bits s2 vda
same 'is carried on' kept "$(bitmaps "$W/images/bits.vda.s1")"
qemu-img bitmap --add --disable "$W/images/bits.vda.s1" 'of last week'
refused 'one that does not' bits 'delete s1' EPERM "bitmap 'of last week' of '.*/bits.vda.s1' would be lost"
refused 'nor by commit' bits 'commit s1' EPERM "bitmap 'of last week'"
Vq start bits --paused
refused 'nor while it is up' bits 'delete s1' EPERM "bitmap 'of last week'"
Vq destroy bits
qemu-img bitmap --remove "$W/images/bits.vda.s1" 'of last week'
does 'when it is taken away' bits 'delete s1'
want_gone bits s1 vda

# A domain that got another name: its records hold the old one.
chain oldname
verify_listing 'one that is renamed' "$M" oldname
Vq domrename oldname newname
wait_until 15 test -e "$M/newname/s3.vda.img"
want=$(sha "$M/newname/s2.vda.img")
Vq start newname --paused
same 'revert of a renamed domain' 0 "$(python3 "$TESTS/control/door.py" write "$M/newname/ctl" 'revert s2 force\n')"
same 'its name stays' "newname shut off" "$(V list --all --name | grep -x newname) $(V domstate newname)"
same 'and its snapshots' "$want" "$(sha "$M/newname/s2.vda.img")"
check 'it starts' V start newname --paused
Vq destroy newname

# No room for what a revert makes: found before the guest is stopped for it.
mkdir "$W/small"
mount -t tmpfs -o size=3M tmpfs "$W/small"
qemu-img create -q -f qcow2 "$W/small/tight.qcow2" 1M
domain_define tight "$(disk_xml vda qcow2 "$W/small/tight.qcow2")"
Vq start tight --paused
wait_until 15 test -e "$M/tight/ctl"
same 'a snapshot on a small file system' 0 "$(python3 "$TESTS/control/door.py" write "$M/tight/ctl" 'create s1\n')"
dd if=/dev/zero of="$W/small/filler" bs=64k status=none 2>/dev/null
for line in 'try revert s1 force' 'revert s1 force'; do
	same "no room: $line" ENOSPC "$(python3 "$TESTS/control/door.py" write "$M/tight/ctl" "$line\n")"
	same 'the guest is up' paused "$(V domstate tight)"
done
rm "$W/small/filler"
same 'there is again' 0 "$(python3 "$TESTS/control/door.py" write "$M/tight/ctl" 'revert s1 force\n')"
Vq undefine tight --snapshots-metadata
umount -l "$W/small"

# A domain that somebody has defined on what a snapshot froze.
qemu-img create -q -f qcow2 "$W/images/spoilt.qcow2" 4M
domain_define spoilt "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$W/images/spoilt.qcow2'/><target dev='vda' bus='virtio'/></disk>"
Vq snapshot-create-as spoilt s1 --disk-only
wait_until 15 grep -q '^s1 ' "$M/spoilt/snapshots"
V dumpxml spoilt --inactive | sed -e 's/spoilt\.s1/spoilt.qcow2/' -e '/<backingStore/,/<\/backingStore>/d' >"$W/.spoilt.xml"
Vq define "$W/.spoilt.xml"
wait_until 15 grep -q 'writes to what a snapshot froze' "$M/spoilt/chain"
has 'a domain on what a snapshot froze' "$(cat "$M/spoilt/chain")" '^! .*/spoilt\.qcow2 '
Vq undefine spoilt --snapshots-metadata

# A branch: back to s1, and on from there.
does 'revert to s1, and on from there' branch 'revert s1'
rm -f "${MODEL[branch/vda]}"
truncate -s 4M "${MODEL[branch/vda]}"
qemu-io -f raw -c 'write -q -P 1 0 1M' "${MODEL[branch/vda]}" >/dev/null
guest_agrees 'the guest has what it had at s1' branch/vda
same 's1 is current' s1 "$(V snapshot-current branch --name)"
guest_write branch vda 0x99 3M 512K
takes 'a branch' branch 'create b1' b1 vda
guest_write branch vda 0x9a 2M 512K
verify_listing 'all are there' "$M" branch
verify_bytes 'all read right' "$M" branch
refused 'commit of the other branch' branch 'commit s1' EOPNOTSUPP 'active layer'
refused 'commit over the fork' branch 'commit b1 s2' EINVAL 'branch'
refused 'commit beneath another branch' branch 'commit s2' EOPNOTSUPP 'active layer'
does 'back to the first branch' branch 'revert s2'
refused 'commit of what two branches stand on' branch 'commit s1' EPERM 'branches'
before=$(cd "$W/images" && sha256sum branch.vda.qcow2)
does 'delete of the fork keeps the file' branch 'delete s1'
same 'byte by byte' "$before" "$(cd "$W/images" && sha256sum branch.vda.qcow2)"
want_gone branch s1 vda
verify_listing 'the others are there' "$M" branch
verify_bytes 'and read right' "$M" branch

# mixed: an internal snapshot in the overlay that an external one started.
domain_with mixed vda:4M
guest_write mixed vda 0x71 0 1M
snap mixed base vda --disk-only
Vq start mixed --paused
guest_write mixed vda 0x72 1M 1M
snap mixed inside vda
guest_write mixed vda 0x73 0 3M
verify_listing 'an internal one in an overlay' "$M" mixed
refused 'delete would drop it' mixed 'delete base' EPERM "'inside'"
refused 'commit too' mixed 'commit base' EPERM "'inside'"
refused 'pull would ruin it' mixed 'pull' EPERM "'inside'"
refused 'pull to the base has nothing to do' mixed 'create more' EPERM 'internal'
Vq destroy mixed
refused 'the same while it is shut off: delete' mixed 'delete base' EPERM "'inside'"
refused 'commit' mixed 'commit base' EPERM "'inside'"
refused 'pull' mixed 'pull' EPERM "'inside'"
verify_bytes 'all read right' "$M" mixed

# A managed save would be used up by the start that a merge needs, and belongs to the disks as they are.
Vq start saved
Vq managedsave saved
refused 'a managed save: commit' saved 'commit s1' EPERM 'managed save'
refused 'delete' saved 'delete s1' EPERM 'managed save'
refused 'pull' saved 'pull' EPERM 'managed save'
refused 'create' saved 'create s4' EPERM 'managed save.*managedsave-remove saved'
refused 'revert' saved 'revert s1' EPERM 'managed save.*managedsave-remove saved'
refused 'with force and keep=' saved 'revert s1 force keep=s4' EPERM 'managed save'
has 'chain names it' "$(cat "$M/saved/chain")" 'managed save'
has 'it is still there' "$(V dominfo saved)" '^Managed save: +yes'
does 'a snapshot can be held all the same' saved 'hold s1'
Vq managedsave-remove saved
does 'and without it a pull is done' saved 'pull'
verify_bytes 'all read right' "$M" saved

# libvirt's word for a delete that was not completed.
V snapshot-dumpxml guard s1 | sed "s|<disk name='vda' snapshot='external' type='file'>|&<snapshotDeleteInProgress/>|" >"$W/.u.xml"
if V snapshot-create guard "$W/.u.xml" --redefine && V snapshot-dumpxml guard s1 | grep -q snapshotDeleteInProgress; then
	refused 'an unfinished foreign delete: commit' guard 'commit s1' EPERM 'delete'
	refused 'delete' guard 'delete s2' EPERM 'delete'
else
	skip 'an unfinished foreign delete' "this libvirt ($(virsh --version)) does not take the element in a redefinition: $(tr '\n' ' ' <"$W/.virsh.err" | head -c 100)"
fi

# ---------------------------------------------------------------- revert

chain back
Vq start back
verify_listing 'a domain to revert' "$M" back
V suspend back >/dev/null
refused 'revert while it is paused' back 'revert s2' EBUSY 'force'
does 'policy' back 'hold s1'
echo '*n' >"$M/back/retain"
takes 'force, keep=' back 'revert s2 force keep=kept' kept vda
same 'it is shut off: s2 has no memory' 'shut off' "$(V domstate back)"
same 'kept is ours' true "$(field "$M" back kept .ours)"
verify_listing 'kept is there' "$M" back
verify_bytes 'all read right, kept as the guest was' "$M" back
qemu_bytes "$(active_path back vda)" "$W/.back.img"
same 'the guest has what it had at s2' "${WANT[back/s2.vda.img]}" "$(sha "$W/.back.img")"
same 'current is s2' s2 "$(V snapshot-current back --name)"
same 'the hold is still there, and the policy' 'true *n' "$(field "$M" back s1 .held) $(cat "$M/back/retain")"
has 'in libvirt, too' "$(V dumpxml back --inactive)" 'policy.*\*n'
check 'it starts' V start back --paused
Vq destroy back
does 'revert to what was kept' back 'revert kept'
qemu_bytes "$(active_path back vda)" "$W/.back.img"
same 'brings back what there was before' "${WANT[back/kept.vda.img]}" "$(sha "$W/.back.img")"
verify_bytes 'all read right' "$M" back

# A device of the host that is given to the guest is in the definition that comes back. Here is none, so the guest cannot start.
domain_with pci vda:4M
V dumpxml pci | sed "s|</devices>|<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x0000' bus='0x7f' slot='0x1f' function='0x7'/></source></hostdev></devices>|" >"$W/.dom.xml"
Vq define "$W/.dom.xml"
guest_write pci vda 1 0 1M
wait_until 15 test -e "$M/pci/ctl"
takes 'a PCI device: create' pci 'create p1' p1 vda
guest_write pci vda 2 1M 1M
takes 'a PCI device: and again' pci 'create p2' p2 vda
guest_write pci vda 3 2M 1M
does_not 'a PCI device: delete, for which it has to be started' pci 'delete p1' EOPNOTSUPP 'nothing was written: .*cannot be started'
verify_bytes 'a PCI device: so all is as before' "$M" pci
does 'a PCI device: revert' pci 'revert p1'
qemu_bytes "$(active_path pci vda)" "$W/.pci.img"
same 'a PCI device: the guest has what it had' "${WANT[pci/p1.vda.img]}" "$(sha "$W/.pci.img")"
has 'a PCI device: it is there' "$(V dumpxml pci --inactive)" "<hostdev .*type='pci'"
verify_bytes 'a PCI device: all read right' "$M" pci

# With memory; and by virsh, which restores the old metadata.
domain_with mem vda:4M
guest_write mem vda 1 0 1M
Vq start mem
wait_until 15 test -e "$M/mem/ctl"
takes 'an internal one with memory' mem 'create m1 internal' m1 vda
guest_write mem vda 2 1M 1M
does 'hold it' mem 'hold m1'
echo '5n' >"$M/mem/retain"
Vq destroy mem
does 'revert to it' mem 'revert m1'
same 'it runs: m1 has memory' running "$(V domstate mem)"
V suspend mem >/dev/null
qemu_bytes "$(active_path mem vda)" "$W/.mem.img"
same 'the guest has what it had' "${WANT[mem/m1.vda.img]}" "$(sha "$W/.mem.img")"
same 'hold and policy are there' 'true 5' "$(field "$M" mem m1 .held) $(cat "$M/mem/retain")"
Vq destroy mem
Vq snapshot-revert mem m1
held_and_policy() { [ "$(field "$M" mem m1 .held) $(cat "$M/mem/retain")" = 'true 5' ]; }
check 'after a revert by virsh as well' wait_until 15 held_and_policy
does 'the next command puts them back into libvirt' mem 'try prune\nrelease m1\nhold m1'
has 'there they are' "$(V dumpxml mem --inactive)" 'policy="5"'
Vq destroy mem

# ---------------------------------------------------------------- try

before=$(picture_of_all)
for line in 'create zz' 'create zz disks=vda desc="d"' 'delete s1' 'delete s1 kept' 'commit s1' 'commit s1 s2' 'pull' 'pull s1' 'revert s1' \
	'revert s2 keep=zz' 'hold s2' 'release s1' 'prune'; do
	got=$(ctl back "try $line\n")
	said=$(outcome back)
	case $line in
	'delete s1'* | 'commit s1'*) same "try $line: s1 is held" EPERM "$got" ;;
	*) same "try $line" 0 "$got" ;;
	esac
	has "try $line says something" "$said" '^(ok|failed): try .*: .+'
done
same 'try changes nothing' '' "$(diff <(cat <<<"$before") <(picture_of_all) | head -c 600)"
does 'while a hold does' back 'hold s2'
if [ "$before" != "$(picture_of_all)" ] && grep -q '<domainsnapshot>' <<<"$before"; then ok 'which this test sees'; else fail 'which this test sees' 'the pictures are the same'; fi
does_not 'try cancel of no job' back 'try cancel 99' ENOENT 'no job 99'
# A disk on the network takes no part, and stays.
net() { echo "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='$1'><host transport='unix' socket='$W/nbd.sock'/></source><target dev='vdd' bus='virtio'/></disk>"; }
qemu-img create -q -f qcow2 "$W/images/far.qcow2" 8M
model_new far vda 8M
domain_define far "$(disk_xml vda qcow2 "$W/images/far.qcow2")$(net x)"
wait_until 15 test -e "$M/far/ctl"
guest_write far vda 5 0 1M
takes 'one with a disk on the network' far 'create n1 disks=vda' n1 vda
guest_write far vda 6 1M 1M
takes 'and another snapshot' far 'create n2 disks=vda' n2 vda
does 'back to the first' far 'revert n1'
verify_bytes 'both read as before' "$M" far
check 'the disk on the network is what it was' grep -q "name='x'" <<<"$(V dumpxml far)"
V dumpxml far | sed "s/name='x'/name='y'/" >"$W/far.xml"
Vq define "$W/far.xml"
sleep 1
refused 'where it is another one by now' far 'revert n2' EPERM "disk vdd: at 'n2' the domain had it with 'network disk .nbd x.'"
# A revert of several disks that fails at one of them: the others may have gone back.
domain_with half vda:4M vdb:4M
rm "$W/images/half.vdb.qcow2"
qemu-img create -q -f qcow2 -o refcount_bits=2 "$W/images/half.vdb.qcow2" 4M
wait_until 15 test -e "$M/half/ctl"
for t in vda vdb; do qemu-io -c "write -q -P 9 1M 256k" "$W/images/half.$t.qcow2" >/dev/null; done # what all of them have
for i in 1 2; do
	for t in vda vdb; do qemu-io -c "write -q -P $i 0 256k" "$W/images/half.$t.qcow2" >/dev/null; done
	does "half: create s$i" half "create s$i internal"
done
does_not 'half: one of its disks cannot go back' half 'revert s1' EIO "of its disks some are at 's1' now \\(vda\\), and others are not \\(vdb\\): "
suite_end
