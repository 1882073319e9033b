#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# Files that others reach or name by ways of their own: a raw image behind a mount that is not there for now, a hard link, a kernel, an argument of
# QEMU's, a saved guest. And what must not be lost with a name: a hold when its snapshot is renamed, our notes when the URI is spelled otherwise, a bitmap.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
. "$TESTS/control/ctl-lib.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
M=$W/mnt
mkdir "$M" "$W/bind" "$W/other"
lab_libvirtd
up() { mount_snapfs "$M" -o refresh=0.3 "$@" || die 'no mount'; }
down() { unmount_snapfs "$M"; unset "SNAPFS_PIDS[$M]"; }
up "$URI"

# three DOM [FORMAT]: three snapshots
three() {
	local i
	domain_with "$1" "vda:4M:${2:-qcow2}"
	qemu-io -f "${2:-qcow2}" -c 'write -q -P 7 0 1M' "$W/images/$1.vda.${2:-qcow2}" >/dev/null
	wait_until 15 test -e "$M/$1/ctl" || die "$1 does not show"
	for i in 1 2 3; do
		does "$1: create s$i" "$1" "create s$i"
		guest_write "$1" vda "$i" 0 64k
	done
}
# stays NAME DOM TEXT: neither `delete` nor retention removes s1, `try` says so, and nothing has changed
stays() {
	local before after
	before=$(stat -c '%n %s %Y %b' "$W/images/$2".*; V snapshot-list "$2" --name)
	has "$1: try says so" "$(ctl "$2" 'try delete s1\n' >/dev/null; outcome "$2")" "$3"
	ctl "$2" 'delete s1\n' >/dev/null
	(echo 1 >"$M/$2/retain") 2>/dev/null
	(echo off >"$M/$2/retain") 2>/dev/null
	after=$(stat -c '%n %s %Y %b' "$W/images/$2".*; V snapshot-list "$2" --name)
	same "$1: nothing has changed" "$before" "$(grep -v '^$' <<<"$after" | head -n "$(wc -l <<<"$before")")"
}

# ---------------------------------------------------------------- a raw image that is missing for now

three raw raw
mount --bind "$W/images" "$W/bind"
domain_define rawuser "$(disk_xml vda raw "$W/bind/raw.vda.raw")"
qemu-img create -q -f qcow2 -b "$W/bind/raw.vda.raw" -F raw "$W/other/over.qcow2"
domain_define rawover "$(disk_xml vda qcow2 "$W/other/over.qcow2")"
umount "$W/bind"
wait_until 15 test -e "$M/rawover"
sleep 0.7
stays 'the disk of another domain, behind a mount that is not there' raw "raw.vda.raw' must stay as it is: domain 'raw(user|over)' \\(disk vda\\) may need it: .*bind/raw.vda.raw' is missing, so which file that is is not known"
Vq undefine rawuser
sleep 0.7
stays 'what its image stands on, likewise' raw "domain 'rawover' \\(disk vda\\) may need it"
Vq undefine rawover
rm "$W/other/over.qcow2"
domain_define cdless "$(disk_xml vda raw "$W/other/gone.iso" | sed "s|</disk>|<readonly/></disk>|; s|device='disk'|device='cdrom'|; s|vda|sda|; s|virtio|sata|")"
sleep 0.7
# A guest may write to its own disk what looks like a saved guest.
domain_with likesaved vda:4M:raw
python3 - "$W/images/likesaved.vda.raw" <<'PY'
import struct, sys
domain = b"<domain type='qemu'><name>x</name><devices>%s</devices></domain>" % b"".join(
    b"<disk type='file'><source file='/net/away/%d'/><target dev='d%d'/></disk>" % (i, i) for i in range(8000))
with open(sys.argv[1], "r+b") as f:
    f.write(b"LibvirtQemudSave" + struct.pack("<II", 2, len(domain)) + bytes(68) + domain)
PY
sleep 0.7
does 'a medium that is gone hinders nobody, nor what a guest writes' raw 'delete s1'
Vq undefine cdless

# Of an internal one, too: the image may be another domain's by a path that is missing.
domain_with inner vda:4M
f=$W/images/inner.vda.qcow2
Vq snapshot-create-as inner s1
Vq snapshot-create-as inner s2
domain_define innertoo "$(disk_xml vda qcow2 "$W/bind/inner.vda.qcow2")"
wait_until 15 test -e "$M/innertoo"
sleep 0.7
stays 'an internal one of an image that another domain may have' inner "inner.vda.qcow2' must stay as it is: domain 'innertoo' \\(disk vda\\) may need it"
same 'both entries are there' 2 "$(qemu-img snapshot -l "$f" | grep -c 's[12]')"
Vq undefine innertoo
sleep 0.7

# ---------------------------------------------------------------- another name of the file

three linked
ln "$W/images/linked.vda.qcow2" "$W/other/hard"
sum=$(sha "$W/other/hard")
for c in 'try delete s1' 'delete s1' 'commit s1 s3'; do does_not "a hard link: $c" linked "$c" EPERM "linked.vda.qcow2' must stay as it is: it has 2 names"; done
same 'the other name reads as before' "$sum" "$(sha "$W/other/hard")"
rm "$W/other/hard"
does 'with one name it is merged into' linked 'delete s1'

# ---------------------------------------------------------------- named elsewhere in a definition

three named raw
b=$W/images/named.vda.raw
for how in kernel initrd nvdimm argument; do
	case $how in
	kernel) edit="s|</os>|<kernel>$b</kernel></os>|" ;;
	initrd) edit="s|</os>|<kernel>/vmlinuz</kernel><initrd>$b</initrd></os>|" ;;
	nvdimm) edit="s|<memory unit='KiB'>\\([0-9]*\\)</memory>|<maxMemory slots='4' unit='KiB'>4194304</maxMemory>&|; s|</os>|</os><cpu><numa><cell id='0' cpus='0' memory='64' unit='MiB'/></numa></cpu>|; s|</devices>|<memory model='nvdimm'><source><path>$b</path></source><target><size unit='MiB'>4</size><node>0</node></target></memory></devices>|" ;;
	argument) edit="s|<domain |<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' |; s|</domain>|<qemu:commandline><qemu:arg value='-drive'/><qemu:arg value='file=$b,format=raw,if=virtio,readonly=on'/></qemu:commandline></domain>|" ;;
	esac
	qemu-img create -q -f raw "$W/other/small.raw" 1M
	domain_define namer "$(disk_xml vda raw "$W/other/small.raw")"
	V dumpxml namer --inactive | sed "$edit" >"$W/namer.xml"
	check "$how: defined" V define "$W/namer.xml"
	sleep 0.7
	has "$how: the file stays" "$(ctl named 'try delete s1\n' >/dev/null; outcome named)" "named.vda.raw' stays \\(domain 'namer' \\(its definition names it\\) needs it\\)"
	Vq undefine namer
done
# given WHAT ARGUMENT...: namer is a domain that hands these to QEMU
given() {
	local what=$1
	shift
	domain_define namer "$(disk_xml vda raw "$W/other/small.raw")"
	V dumpxml namer --inactive | python3 -c 'import sys
from xml.sax.saxutils import quoteattr
text = sys.stdin.read().replace("<domain ", "<domain xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\" ", 1)
arguments = "".join("<qemu:arg value=%s/>" % quoteattr(a) for a in sys.argv[1:])
print(text.replace("</domain>", "<qemu:commandline>" + arguments + "</qemu:commandline></domain>"))' "$@" >"$W/namer.xml"
	check "$what: defined" V define "$W/namer.xml"
	sleep 0.7
}
# By a way that is not there for now: it may be the file of that name, and no other.
mount --bind "$W/images" "$W/bind"
domain_define namer "$(disk_xml vda raw "$W/other/small.raw")"
V dumpxml namer --inactive | sed "s|</os>|<kernel>$W/bind/named.vda.raw</kernel><initrd>$W/other/initrd.gone</initrd></os>|" >"$W/namer.xml"
Vq define "$W/namer.xml"
umount "$W/bind"
sleep 0.7
for c in 'try delete s1' 'delete s1'; do does_not "a kernel behind a mount that is not there: $c" named "$c" EPERM "named.vda.raw' must stay as it is: domain 'namer' may need it: it names '$W/bind/named.vda.raw', which is missing"; done
sed -i "s|bind/named.vda.raw|bind/vmlinuz|" "$W/namer.xml"
Vq define "$W/namer.xml"
sleep 0.7
has 'one of another name hinders nobody' "$(ctl named 'try delete s1\n' >/dev/null; outcome named)" '^ok: try delete s1'
Vq undefine namer
# An image that QEMU is given as it is stands on another: in a directory that nobody else names, and in QEMU's own spellings.
mkdir -p "$W/fa r,a;way"
qemu-img create -q -f qcow2 -b "$b" -F raw "$W/fa r,a;way/clone.qcow2" 4M
for how in drive blockdev relative json; do
	c="$W/fa r,a;way/clone.qcow2"
	case $how in
	drive) argument="file=${c//,/,,},format=qcow2,if=none,id=x" ;;
	blockdev) argument=$(jq -cn --arg f "$c" '{driver: "qcow2", file: {driver: "file", filename: $f}}' | sed 's|/|\\/|g') ;;
	relative) argument="file=${c//,/,,},format=qcow2,if=none,id=x" argument=${argument/=\//=} ;;
	json) argument="file=json:{\"driver\":\"qcow2\",,\"file.filename\":\"${c//,/,,}\"},,if=none" ;;
	esac
	given "$how" -drive "$argument"
	has "$how: what it stands on stays" "$(ctl named 'try delete s1\n' >/dev/null; outcome named)" "named.vda.raw' stays \\(domain 'namer' \\(its definition names it, or what stands on it\\) needs it\\)"
	Vq undefine namer
done
# What is missing for now may stand on any file, and so may what is named where nobody reads it.
c="$W/fa r,a;way/clone.qcow2"
json=$(jq -cn --arg f "$c" '{driver: "qcow2", file: {driver: "file", filename: $f}}')
for how in drive blockdev hda word directory; do
	case $how in
	drive) arguments=(-drive "if=none,id=x,file=${c//,/,,}") missing=$c ;;
	blockdev) arguments=(-blockdev "$json") missing=$c ;;
	hda) arguments=(-hda "$c") missing=$c ;;
	word) arguments=("$c") missing=$c ;;
	directory) # one that was never looked at for another reason
		mv "$W/fa r,a;way" "$W/shown"
		c=$W/shown/clone.qcow2
		arguments=(-drive "if=none,id=x,format=raw,file=fat:$W/shown") missing=$W/shown
		;;
	esac
	dir=$(dirname "$c")
	given "$how" "${arguments[@]}"
	mv "$dir" "$W/away"
	stays "$how: missing for now" named "named.vda.raw' must stay as it is: domain 'namer' may need it: it gives QEMU '$missing', which is missing"
	mv "$W/away" "$dir"
	sleep 0.7
	has "$how: back again" "$(ctl named 'try delete s1\n' >/dev/null; outcome named)" "named.vda.raw' stays \\((domain 'namer' \\(its definition names it, or what stands on it\\)|image '$c') needs it\\)"
	Vq undefine namer
done
mv "$dir" "$W/floppy"
dir=$W/floppy c=$W/floppy/clone.qcow2
given floppy -fda "fat:floppy:$dir"
has 'a directory as a medium' "$(ctl named 'try delete s1\n' >/dev/null; outcome named)" "named.vda.raw' stays \\(image '$c' needs it\\)"
mv "$dir" "$W/away"
sleep 0.7
has 'which hinders nobody when it is gone' "$(ctl named 'try delete s1\n' >/dev/null; outcome named)" '^ok: try delete s1'
mv "$W/away" "$dir"
Vq undefine namer
# The arguments of a snapshot that is not what the domain is now: it has them again after a revert.
given recorded -drive "if=none,id=x,file=${c//,/,,}"
qemu-img convert -O qcow2 "$W/other/small.raw" "$W/other/namer.qcow2"
sed "s|type='raw'|type='qcow2'|; s|small.raw|namer.qcow2|" "$W/namer.xml" >"$W/namer2.xml"
Vq define "$W/namer2.xml"
check 'recorded: a snapshot' V snapshot-create-as namer r1
sed 's|<qemu:commandline>.*</qemu:commandline>||' "$W/namer2.xml" >"$W/namer3.xml"
Vq define "$W/namer3.xml"
sleep 0.7
has 'recorded: what it stands on stays' "$(ctl named 'try delete s1\n' >/dev/null; outcome named)" "named.vda.raw' stays \\((domain 'namer' \\(a snapshot's definition names it, or what stands on it\\)|image '$c') needs it\\)"
Vq snapshot-delete namer r1 --metadata
Vq undefine namer
rm -r "$dir"
printf '[drive "x"]\n  file = "%s"\n' "$c" >"$W/other/x.cfg"
given readconfig -readconfig "$W/other/x.cfg"
stays 'readconfig' named "named.vda.raw' must stay as it is: domain 'namer' may need it: it gives QEMU arguments in '$W/other/x.cfg' \\(-readconfig\\), which is not read here"
Vq undefine namer
given medium -drive "file=$W/other/gone.iso,media=cdrom,if=none"
has 'a medium that is gone hinders nobody' "$(ctl named 'try delete s1\n' >/dev/null; outcome named)" '^ok: try delete s1'
Vq undefine namer
sleep 0.7
# In one of two definitions as what may be a path, in the other as what is one.
given twice -fw_cfg "name=opt/x,string=$W/nowhere/named.vda.raw"
sed "s|</os>|<kernel>$W/nowhere/named.vda.raw</kernel></os>|" "$W/namer.xml" >"$W/namer2.xml"
Vq start namer --paused
Vq define "$W/namer2.xml"
sleep 0.7
for c in 'try delete s1' 'delete s1'; do does_not "in one definition for certain: $c" named "$c" EPERM "named.vda.raw' must stay as it is: domain 'namer' may need it: it names '$W/nowhere/named.vda.raw', which is missing"; done
Vq destroy namer
Vq undefine namer
# A mount that cannot connect a second time: a domain that runs is asked that way, and has not gone.
given running -drive "file=$b,format=raw,if=none,id=x,readonly=on"
down
up "$URI"
ctl named 'try delete s1\n' >/dev/null
mv /run/libvirt/libvirt-sock /run/libvirt/sock-elsewhere
V2() { virsh -q -c 'qemu+unix:///system?socket=/run/libvirt/sock-elsewhere' "$@"; }
V2 start namer --paused >/dev/null || fail 'no second connection' 'the domain does not start'
sleep 1.5
check 'no second connection: who runs is there' test -d "$M/namer"
has 'no second connection: what it needs is not known' "$(cat "$M/named/chain")" "domain 'namer' may need it: libvirt does not tell all"
mv /run/libvirt/sock-elsewhere /run/libvirt/libvirt-sock
Vq destroy namer
Vq undefine namer
sleep 0.7
does 'where nobody names it it is merged into' named 'delete s1'

# ---------------------------------------------------------------- a guest that was saved to a file

domain_with saved vda:4M
qemu-io -c 'write -q -P 7 0 1M' "$W/images/saved.vda.qcow2" >/dev/null
wait_until 15 test -e "$M/saved/ctl" || die 'saved does not show'
does 'saved: create s1' saved 'create s1'
V start saved >/dev/null || die 'saved does not start'
check 'a guest is saved' V save saved "$W/images/guest.save"
wait_until 15 grep -q 'a saved guest that names' "$M/saved/chain"
has 'the chain shows it' "$(cat "$M/saved/chain")" "file '$W/images/guest.save' may need it: it is a saved guest that names '$W/images/saved.vda.s1.qcow2'"
stays 'a saved guest' saved "saved.vda(.s1)?.qcow2' must stay as it is: file '$W/images/guest.save' may need it: it is a saved guest that names '"
has 'a saved guest: a revert would leave its layer' "$(ctl saved 'try revert s1\n' >/dev/null; outcome saved)" "saved.vda.s1.qcow2' must stay as it is: file '$W/images/guest.save' may need it"
has 'other domains do not mind' "$(ctl named 'try delete s2\n' >/dev/null; outcome named)" '^ok: try delete s2'
# Somebody may name it besides. Only who has it as a disk writes there what he likes.
mkdir "$W/kept"
for f in images kept; do
	[ $f = images ] || mv "$W/images/guest.save" "$W/kept"
	given "$f: read by QEMU" -fw_cfg "name=opt/x,file=$W/$f/guest.save"
	has "$f: a saved guest that QEMU reads" "$(ctl saved 'try delete s1\n' >/dev/null; outcome saved)" "'$W/$f/guest.save' may need it"
	Vq undefine namer
	given "$f: a disk" -drive "file=$W/$f/guest.save,format=raw,if=virtio"
	has "$f: a guest's own disk may look like a saved guest" "$(ctl saved 'try delete s1\n' >/dev/null; outcome saved)" '^ok: '
	Vq undefine namer
done
mv "$W/kept/guest.save" "$W/images"
rmdir "$W/kept"
sleep 0.7
down
up "$URI"
wait_until 15 test -e "$M/saved/ctl"
does_not 'at the next mount, too' saved 'delete s1' EPERM "file '$W/images/guest.save' may need it"
# By a link of another name.
ln -s saved.vda.s1.qcow2 "$W/images/link.qcow2"
V save-image-dumpxml "$W/images/guest.save" | sed "s|saved.vda.s1.qcow2|link.qcow2|; s|saved.vda.qcow2|other.vda.qcow2|" >"$W/guest.xml"
check 'a definition in a save is changed' V save-image-define "$W/images/guest.save" "$W/guest.xml"
does_not 'by a link of another name' saved 'delete s1' EPERM "saved.vda.s1.qcow2' must stay as it is: file '$W/images/guest.save' may need it"
# An overlay where nobody looks: it may stand on whatever there is, until somebody does look there.
mkdir "$W/far"
qemu-img create -q -f qcow2 -b "$W/images/saved.vda.qcow2" -F qcow2 "$W/far/clone.qcow2"
V save-image-dumpxml "$W/images/guest.save" | sed "s|$W/images/link.qcow2|$W/far/clone.qcow2|" >"$W/guest.xml"
check 'its image lies elsewhere now' V save-image-define "$W/images/guest.save" "$W/guest.xml"
sleep 0.7
does_not 'where nobody looks' saved 'delete s1' EPERM "file '$W/images/guest.save' may need it: it is a saved guest that names '$W/far/clone.qcow2', and nobody looks into that directory"
mv "$W/far/clone.qcow2" "$W/far/named.vda.qcow2"
V save-image-dumpxml "$W/images/guest.save" | sed "s|$W/far/clone.qcow2|$W/far/named.vda.qcow2|" >"$W/guest.xml"
check 'where another one has that name' V save-image-define "$W/images/guest.save" "$W/guest.xml"
sleep 0.7
does_not 'where nobody looks, with the name of another image' saved 'delete s1' EPERM "names '$W/far/named.vda.qcow2', and nobody looks into that directory"
mv "$W/far/named.vda.qcow2" "$W/far/clone.qcow2"
V save-image-dumpxml "$W/images/guest.save" | sed "s|$W/far/named.vda.qcow2|$W/far/clone.qcow2|" >"$W/guest.xml"
check 'and back' V save-image-define "$W/images/guest.save" "$W/guest.xml"
V pool-create-as far dir --target "$W/far" >/dev/null
sleep 0.7
has 'in a pool it is followed' "$(ctl saved 'try delete s1\n' >/dev/null; outcome saved)" "^ok: .*saved.vda.qcow2' stays .volume 'clone.qcow2' of pool 'far' needs it"
has 'and others do not mind' "$(ctl named 'try delete s2\n' >/dev/null; outcome named)" '^ok: try delete s2'
V pool-destroy far >/dev/null
sleep 0.7
has 'and where a pool was' "$(ctl saved 'try delete s1\n' >/dev/null; outcome saved)" "^ok: .*saved.vda.qcow2' stays .image '$W/far/clone.qcow2' needs it"
mount -t tmpfs tmpfs "$W/far"
sleep 0.7
does_not 'where it is missing for now' saved 'delete s1' EPERM "names '$W/far/clone.qcow2', and that is missing"
umount "$W/far"
rm -r "$W/far"
sleep 0.7
does_not 'where its directory is gone' saved 'delete s1' EPERM "names '$W/far/clone.qcow2', and nobody looks into that directory"
rm "$W/images/link.qcow2" "$W/images/guest.save"
V start saved >/dev/null
check 'saved again' V save saved "$W/images/guest.save"
# Cut off: it may name whatever there is.
head -c 200 "$W/images/guest.save" >"$W/images/half.save"
sleep 0.7
has 'one that was cut off may name anything' "$(ctl named 'try delete s2\n' >/dev/null; outcome named)" "image '$W/images/half.save' may need it: it is a saved guest whose definition cannot be read"
rm "$W/images/half.save"
check 'the guest is restored' V restore "$W/images/guest.save"
sleep 0.7
does_not 'as long as the file is there it may be again' saved 'delete s1' EPERM "file '$W/images/guest.save' may need it"
rm "$W/images/guest.save"
does 'without it' saved 'delete s1'
# What tells where images have lain is damaged: an overlay may lie there.
down
noted=$(echo "$STATE_DIRECTORY"/*.dirs)
cp "$noted" "$W/noted"
for damage in 'truncate -s -1' 'truncate -s 0' 'truncate -s 100K'; do
	cp "$W/noted" "$noted"
	$damage "$noted"
	up "$URI"
	wait_until 15 test -e "$M/named/ctl"
	has "where images have lain, $damage" "$(ctl named 'try delete s2\n' >/dev/null; outcome named)" "may need it: where images have lain before is not known: '$noted' is (damaged|larger than)"
	same 'it is left as it is' "$(stat -c %s "$noted")" "$(cp "$W/noted" "$W/again"; $damage "$W/again"; stat -c %s "$W/again")"
	cp "$W/noted" "$noted"
	sleep 0.7
	has 'put right' "$(ctl named 'try delete s2\n' >/dev/null; outcome named)" '^ok: try delete s2'
	down
done
up "$URI"
wait_until 15 test -e "$M/saved/ctl"
Vq destroy saved
# The memory of a snapshot is such a file, too, and goes with it.
Vq start saved
check 'memory: a snapshot' V snapshot-create-as saved m1 --memspec "file=$W/images/m1.mem,snapshot=external" --diskspec vda,snapshot=external
wait_until 15 test -e "$M/saved/m1.vda.img"
does 'memory: another one' saved 'create m2'
does 'memory hinders nobody' saved 'delete m1'
check_not 'and is gone' test -e "$W/images/m1.mem"
Vq destroy saved

# ---------------------------------------------------------------- a name that changes

three renamed
does 'hold' renamed 'hold s1'
cat >"$W/edit" <<'SH'
#!/bin/sh
sed -i "s|<name>s1</name>|<name>t1</name>|" "$1"
SH
chmod 755 "$W/edit"
EDITOR=$W/edit V snapshot-edit renamed s1 --rename >/dev/null
wait_until 10 jq -e '[.snapshots[].name] | index("t1")' "$M/renamed/snapshots.json" >/dev/null
same 'a held snapshot that was renamed is held' true "$(json "$M/renamed/snapshots.json" '.snapshots[] | select(.name == "t1").held')"
(echo '1 match=*' >"$M/renamed/retain") 2>/dev/null
has 'and retention keeps it' "$(V snapshot-list renamed --name | xargs)" '(^| )t1( |$)'
(echo off >"$M/renamed/retain") 2>/dev/null
does 'it can be released' renamed 'release t1'
same 'and is' false "$(json "$M/renamed/snapshots.json" '.snapshots[] | select(.name == "t1").held')"
does 'and deleted' renamed 'delete t1'

# Others that were taken in the same second are others.
domain_with second vda:4M
wait_until 15 test -e "$M/second/ctl" || die 'second does not show'
ctl second 'create s1\ncreate s2\ncreate s3\ncreate s4\n' >/dev/null
does 'hold one of several of a second' second 'hold s2'
sed -i 's|<name>s1</name>|<name>s2</name>|; s|<name>t1</name>|<name>t2</name>|' "$W/edit"
EDITOR=$W/edit V snapshot-edit second s2 --rename >/dev/null
held() { json "$M/second/snapshots.json" '[.snapshots[] | select(.held).name] | join(" ")'; }
wait_until 10 jq -e '[.snapshots[].name] | index("t2")' "$M/second/snapshots.json" >/dev/null
same 'it is held, and no other' t2 "$(held)"
does 'a command' second 'hold s4'
same 'nor after a command' 's4 t2' "$(held | xargs -n 1 | sort | xargs)"
down
up "$URI"
wait_until 15 test -e "$M/second/ctl"
same 'nor at the next mount' 's4 t2' "$(held | xargs -n 1 | sort | xargs)"
does 'the others go' second 'delete s3'

# ---------------------------------------------------------------- a URI that is spelled otherwise

domain_with spelled vda:4M
wait_until 15 test -e "$M/spelled/ctl"
for s in s1 s2; do does "create $s" spelled "create $s internal"; done
does 'hold' spelled 'hold s1'
down
V snapshot-revert spelled s2 # which brings back a definition that knows of no hold
up 'qemu+unix:///system?socket=/var/run/libvirt/libvirt-sock'
wait_until 15 test -e "$M/spelled/ctl"
same 'the hold is found again however the URI is spelled' true "$(json "$M/spelled/snapshots.json" '.snapshots[] | select(.name == "s1").held')"

# ---------------------------------------------------------------- a bitmap that libvirt does not know

three mapped
qemu-img bitmap --add "$(active_path mapped vda)" backup0
sleep 0.7
for c in 'try revert s1' 'revert s1'; do does_not "a revert that would discard a bitmap: $c" mapped "$c" EPERM "bitmap 'backup0' of .* would be lost: a backup program that knows it may need it"; done
check 'its layer is there' test -e "$(active_path mapped vda)"
qemu-img bitmap --remove "$(active_path mapped vda)" backup0
does 'without it' mapped 'revert s1'

# ---------------------------------------------------------------- where nobody names it any more

# gone DOM DIRECTORY: an overlay of a domain that is undefined since lies there, beyond the images' own directory.
overlay_of() { # DOM DIRECTORY
	mkdir -p "$2"
	qemu-img create -q -f qcow2 -b "$W/images/$1.vda.qcow2" -F qcow2 "$2/$1.over"
	domain_define "$1-over" "$(disk_xml vda qcow2 "$2/$1.over")"
	wait_until 15 test -e "$M/$1-over/ctl"
	Vq undefine "$1-over"
	wait_until 15 not test -e "$M/$1-over"
	ctl "$1" 'try delete s1\n' >/dev/null
}
three lain
overlay_of lain "$W/away"
has 'an overlay of a domain that was undefined' "$(outcome lain)" "lain.vda.qcow2' stays \\(image '$W/away/lain.over' needs it\\)"
# Its directory cannot be listed for now: it is below a mount that is dead.
truncate -s 1M "$W/other/disk"
qemu-nbd -f raw -k "$W/nbd.sock" -t "$W/other/disk" &
nbd=$!
wait_until 15 test -S "$W/nbd.sock"
nbdfuse "$W/away" --unix "$W/nbd.sock" &
dead=$!
wait_until 15 test -e "$W/away/nbd"
kill -9 $dead $nbd
wait_until 15 not ls "$W/away"
sleep 0.7
does_not 'what lies where nothing can be listed is not known' lain 'delete s1' EPERM "lain.vda.qcow2' must stay as it is: something may need it: .*endpoint is not connected"
down
up "$URI"
wait_until 15 test -e "$M/lain/ctl"
does_not 'nor by who comes after us' lain 'delete s1' EPERM "an image in '$W/away' may need it: images have lain there, and the directory cannot be listed: .*take its line out of '/.*dirs'"
umount -l "$W/away"
sleep 0.7
has 'when it can be listed again' "$(ctl lain 'try delete s1\n' >/dev/null; outcome lain)" "image '$W/away/lain.over' needs it"
rm -r "$W/away"
sleep 0.7
does 'when it is gone for certain' lain 'delete s1'
# A place that is seen while it cannot be noted.
three unnoted
state=$STATE_DIRECTORY
mount --bind "$state" "$state"
mount -o remount,bind,ro "$state"
overlay_of unnoted "$W/new-place"
has 'a place that cannot be noted: try says so' "$(outcome unnoted)" "where images lie now cannot be noted: .*Read-only file system"
umount "$state"
sleep 0.7
ctl unnoted 'try delete s1\n' >/dev/null
has 'when it can be it is' "$(outcome unnoted)" "^ok: .*image '$W/new-place/unnoted.over' needs it"
down
up "$URI"
wait_until 15 test -e "$M/unnoted/ctl"
ctl unnoted 'try delete s1\n' >/dev/null
has 'and the next mount knows' "$(outcome unnoted)" "image '$W/new-place/unnoted.over' needs it"
rm -r "$W/new-place"
# Beyond what a gate lets be read: it stays needed when who named it is gone.
three beyond
mkdir "$W/beyond"
qemu-img create -q -f qcow2 -b "$W/images/beyond.vda.qcow2" -F qcow2 "$W/beyond/template.over"
mkdir "$W/clones"
qemu-img create -q -f qcow2 -b "$W/beyond/template.over" -F qcow2 "$W/clones/clone.qcow2"
domain_define clone "$(disk_xml vda qcow2 "$W/clones/clone.qcow2")"
wait_until 15 test -e "$M/clone"
sleep 0.7
Vq undefine clone
rm "$W/clones/clone.qcow2"
wait_until 15 not test -e "$M/clone"
ctl beyond 'try delete s1\n' >/dev/null
has 'a template that a clone named, which is gone' "$(outcome beyond)" "beyond.vda.qcow2' stays \\(image '$W/beyond/template.over' needs it\\)"
rm -r "$W/beyond" "$W/clones"

# A plain image without libvirt, on which a domain's disk elsewhere stands, or a saved guest.
qemu-img create -q -f qcow2 "$W/other/plain.qcow2" 4M
qemu-img snapshot -c s "$W/other/plain.qcow2"
mkdir "$W/plainmnt" "$W/far-off"
qemu-img create -q -f qcow2 -b "$W/other/plain.qcow2" -F qcow2 "$W/far-off/plain.over"
domain_define plain-over "$(disk_xml vda qcow2 "$W/far-off/plain.over")"
mount_snapfs "$W/plainmnt" -o refresh=0.3 "$W/other/plain.qcow2" || die 'no mount of the plain image'
plain() { (echo "$1" >"$W/plainmnt/plain/ctl") 2>/dev/null; head -n 1 "$W/plainmnt/plain/ctl"; }
has 'a plain image: a defined domain stands on it' "$(plain 'revert s')" "^failed: .*image '$W/far-off/plain.over' needs it"
Vq undefine plain-over
rm -r "$W/far-off"
domain_define plain-own "$(disk_xml vda qcow2 "$W/other/plain.qcow2")"
V start plain-own >/dev/null
check 'a guest on it is saved' V managedsave plain-own
has 'a plain image: a saved guest has it' "$(plain 'revert s')" "^failed: .*plain-own.save' may need it: it is a saved guest that names '$W/other/plain.qcow2'"
Vq managedsave-remove plain-own
has 'without' "$(plain 'revert s')" '^ok: '
unmount_snapfs "$W/plainmnt"
unset "SNAPFS_PIDS[$W/plainmnt]"
Vq undefine plain-own

# ---------------------------------------------------------------- an external data file

# data_domain NAME DIRECTORY: three snapshots; the base's data lies in DIRECTORY.
data_domain() {
	local i
	qemu-img create -q -f qcow2 -o "data_file=$2/$1.raw,data_file_raw=on" "$W/images/$1.vda.qcow2" 4M
	domain_define "$1" "$(disk_xml vda qcow2 "$W/images/$1.vda.qcow2")"
	model_new "$1" vda 4M
	[[ $1 == *off ]] || Vq start "$1" --paused
	for i in 1 2 3; do
		guest_write "$1" vda "$i" "$((i * 64 - 64))k" 96k
		Vq snapshot-create-as "$1" --name "s$i" --disk-only --diskspec "vda,file=$W/images/$1.vda.s$i"
		want "$1" "s$i" vda
	done
}
mkdir "$W/vault"
for d in dataon dataoff; do
	data_domain "$d" "$W/images"
	data_domain "far$d" "$W/vault" # from where nothing of it may be read
	qemu-img create -q -f qcow2 -b "$W/vault/far$d.raw" -F raw "$W/other/far$d.over"
	domain_define "far$d-over" "$(disk_xml vda qcow2 "$W/other/far$d.over")"
	wait_until 15 test -e "$M/far$d-over/ctl"
	sleep 0.7
	ctl "far$d" 'try delete s1\n' >/dev/null
	has "far$d: what its data file is needed for" "$(outcome "far$d")" "far$d.vda.qcow2' stays \\(domain 'far$d-over' \\(disk vda\\) needs it\\)"
	has_not "far$d: nothing would be merged" "$(outcome "far$d")" 'merge'
	does "far$d: but who only reads it writes to nothing" "far$d" 'try create s4'
	Vq undefine "far$d-over"
	rm "$W/other/far$d.over"
	sleep 0.7
	ln "$W/images/$d.raw" "$W/other/$d.hl"
	ctl "$d" 'try delete s1\n' >/dev/null
	has "$d: its data file has another name" "$(outcome "$d")" "$d.raw' must stay as it is: it has 2 names"
	has_not "$d: nothing would be merged into it" "$(outcome "$d")" 'would merge'
	rm "$W/other/$d.hl"
	chmod 444 "$W/images/$d.vda.s3"
	does_not "$d: a layer whose header would be changed, and cannot be" "$d" 'try delete s2' EACCES "$d.vda.s3' would be written to, and cannot be: its mode lets nobody do so"
	chmod 600 "$W/images/$d.vda.s3"
	mount --bind "$W/images/$d.vda.s3" "$W/images/$d.vda.s3"
	mount -o remount,bind,ro "$W/images/$d.vda.s3"
	does_not "$d: likewise on a read-only mount" "$d" 'try delete s2' EROFS "$d.vda.s3' would be written to, and cannot be: "
	umount "$W/images/$d.vda.s3"
	if chattr +i "$W/images/$d.vda.s3" 2>/dev/null; then
		does_not "$d: likewise an immutable one" "$d" 'delete s2' EPERM "$d.vda.s3' would be written to, and cannot be: it is immutable"
		chattr -i "$W/images/$d.vda.s3"
	else
		skip "$d: likewise an immutable one" 'this file system knows no such files'
	fi
	for c in 'delete s2' 'delete s1'; do
		does "$d: $c" "$d" "$c"
		want_gone "$d" "${c#* }" vda
		verify_bytes "$d: $c" "$M" "$d"
		same "$d: its state" ok "$(state "$M" "$d" s3)"
		does "far$d: $c" "far$d" "$c"
		[ -n "$(V dumpxml "far$d" | grep dataStore)" ] || # libvirt 11 tells where it is
			same "far$d: its state" unsupported "$(state "$M" "far$d" s3)"
	done
	same "far$d: what was merged is in the data file" "${WANT[far$d/s3.vda.img]}" "$(sha "$W/vault/far$d.raw")"
	check_not "far$d: and its file is gone" test -e "$W/images/far$d.vda.s1"
	[ $d = dataoff ] || for x in $d far$d; do Vq destroy "$x"; done
done

# A layer that has one: it goes when it is merged, and does not need itself.
qemu-img create -q -f qcow2 "$W/images/owndata.vda.qcow2" 4M
qemu-img create -q -f qcow2 -o "data_file=$W/images/owndata.raw" -b "$W/images/owndata.vda.qcow2" -F qcow2 "$W/images/owndata.vda.old"
domain_define owndata "$(disk_xml vda qcow2 "$W/images/owndata.vda.old")"
model_new owndata vda 4M
guest_write owndata vda 1 0 1M
wait_until 15 test -e "$M/owndata/ctl"
qemu-img create -q -f qcow2 -b "$W/images/owndata.raw" -F raw "$W/other/owndata.over"
domain_define owndata-over "$(disk_xml vda qcow2 "$W/other/owndata.over")"
wait_until 15 test -e "$M/owndata-over/ctl"
sleep 0.7
does_not 'owndata: a pull would write to what another one stands on' owndata 'try pull' EPERM "owndata.vda.old' must stay as it is, with its data file: domain 'owndata-over' \\(disk vda\\) needs it"
Vq undefine owndata-over
rm "$W/other/owndata.over"
sleep 0.7
for c in 'adopt before' 'create s1' 'create s2'; do does "owndata: $c" owndata "$c"; [ "$c" = 'adopt before' ] || want owndata "${c#* }" vda; guest_write owndata vda 2 "$((${#c} * 64))k" 64k; done
for c in before s1; do
	does "owndata: delete $c" owndata "delete $c"
	has "owndata: its layer is gone with $c" "$(outcome owndata)" "merged .*; unlinked 'owndata.vda"
	if [ $c = before ]; then
		has 'owndata: its data file is not' "$(outcome owndata)" "unlinked 'owndata.vda.old' \\(its data file '$W/images/owndata.raw' stays\\)"
	else
		want_gone owndata s1 vda
	fi
	verify_bytes "owndata: delete $c" "$M" owndata
done
check_not 'owndata: the layer' test -e "$W/images/owndata.vda.old"

# QEMU goes by the definition, where that names the data file (libvirt 10.10).
for f in stored moved; do qemu-img create -q -f qcow2 -o "data_file=$W/images/$f.raw,data_file_raw=on" "$W/images/$f.vda.qcow2" 4M; done
qemu-io -c 'write -q -P 8 0 1M' "$W/images/moved.vda.qcow2" >/dev/null
rm "$W/images/moved.vda.qcow2"
stored() {
	domain_define stored "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$W/images/stored.vda.qcow2'><dataStore type='file'><format type='raw'/><source file='$1'/></dataStore></source><target dev='vda' bus='virtio'/></disk>"
}
stored "$W/images/moved.raw"
wait_until 15 test -e "$M/stored/ctl" || die 'stored does not show'
if V dumpxml stored | grep -q dataStore; then
	does_not 'a definition that names another data file' stored 'create s1' EPERM 'or <dataStore> in the domain.s definition names another chain'
	stored "$W/images/stored.raw"
	sleep 0.7
	does 'one that names that of the header' stored 'create s1'
else
	skip 'a definition that names another data file' 'this libvirt knows no <dataStore>'
fi
Vq undefine stored --snapshots-metadata

# ---------------------------------------------------------------- a plain image that a domain's overlay stands on, elsewhere

mkdir "$W/plain" "$W/lodge" "$W/lodge.base"
qemu-img create -q -f qcow2 "$W/plain/a.qcow2" 4M
qemu-img snapshot -c s "$W/plain/a.qcow2"
qemu-io -c 'write -q -P 9 0 1M' "$W/plain/a.qcow2" >/dev/null
qemu-img create -q -f qcow2 -b "$W/plain/a.qcow2" -F qcow2 "$W/lodge/over.qcow2"
rm -f "$W/images/likesaved.vda.raw" # whose disk that is only the connection knows
mkdir "$W/mnt2"
mount_snapfs "$W/mnt2" -o refresh=0.3 "$W/plain/a.qcow2" || die 'no mount of an image'
has 'where nobody knows of that' "$(M=$W/mnt2 ctl a 'try revert s\n' >/dev/null; M=$W/mnt2 outcome a)" '^ok: try revert s'
domain_define lodger "$(disk_xml vda qcow2 "$W/lodge/over.qcow2")"
wait_until 15 test -e "$M/lodger/ctl"
sleep 0.7
M=$W/mnt2 does_not 'a domain came meanwhile' a 'revert s' EPERM "image '$W/lodge/over.qcow2' needs it"
unmount_snapfs "$W/mnt2"
# Of this one all is known: what it stands on lies where an image of a domain has lain.
for f in b c; do qemu-img create -q -f raw "$W/lodge.base/$f.raw" 4M; done
qemu-img create -q -f qcow2 -b "$W/lodge.base/b.raw" -F raw "$W/lodge/onraw.qcow2"
domain_define onraw "$(disk_xml vda qcow2 "$W/lodge/onraw.qcow2")$(disk_xml vdb raw "$W/lodge.base/c.raw")"
wait_until 15 test -e "$M/onraw/ctl"
sleep 0.7
down
mount_snapfs "$M" -o refresh=0.3 "$W/plain/a.qcow2" || die 'no mount of an image'
does_not 'a revert of what it stands on' a 'revert s' EPERM "image '$W/lodge/over.qcow2' needs it"
unmount_snapfs "$M"
unset "SNAPFS_PIDS[$M]"
Vq undefine lodger
rm "$W/lodge/over.qcow2"
mount_snapfs "$M" -o refresh=0.3 "$W/plain/a.qcow2" || die 'no mount of an image'
does 'without it' a 'revert s'
unmount_snapfs "$M"
Vq undefine onraw
suite_end
