#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# restore-disk.sh: one disk of a snapshot back into a domain, as a file of its own.
#
#	restore-disk.sh [-c URI] [-f] [-O raw|qcow2] SNAPSHOT.img FILE DOMAIN [DISK]
#
# Copies the image to FILE, holes and all, and makes FILE the disk DISK (default: the one that the image is of) of DOMAIN.
# A DOMAIN that exists must be shut off; its disk is replaced, and the file which that had been stays as it is. One that does
# not exist is defined as the snapshot's .xml file says, with this disk alone and without identity (UUID, MAC addresses), so that
# it can run beside the original. Format: as -O says, else qcow2 if FILE ends in .qcow2, else raw. -f: replace FILE if it is there.
#
#	restore-disk.sh /srv/snapshots/web01/monday.vda.img /var/lib/libvirt/images/web01-monday.qcow2 web01
#	restore-disk.sh /srv/snapshots/web01/monday.vda.img /var/lib/libvirt/images/look.qcow2 web01-look
#
# -c: the libvirt that DOMAIN is in (default: virsh's own). The exit status is 0, 1 (one sentence on stderr) or 2 (wrong usage).
# FILE is there only when it is whole, and the domain is touched only then.
set -u -o pipefail
export LC_ALL=C.UTF-8

WORK=''
PART=''
# shellcheck disable=SC2329,SC2317
tidy() {
	local status=$?
	if [ -n "$PART" ]; then rm -f -- "$PART"; fi
	if [ -n "$WORK" ]; then rm -rf -- "$WORK"; fi
	exit $status
}
trap tidy EXIT
trap 'exit 130' INT TERM HUP

give_up() {
	printf 'restore-disk: %s\n' "$*" >&2
	exit 1
}
USAGE='usage: restore-disk.sh [-c URI] [-f] [-O raw|qcow2] SNAPSHOT.img FILE DOMAIN [DISK]'
usage() {
	echo "$USAGE" >&2
	exit 2
}
if [ $# = 1 ] && { [ "$1" = -h ] || [ "$1" = --help ]; }; then
	echo "$USAGE"
	exit 0
fi
virsh_() { virsh -q ${URI:+-c "$URI"} "$@" 2>"$WORK/err" </dev/null; }
virsh_said() { give_up "$1: $(sed 's/^error: //' "$WORK/err" | tr '\n' ' ')"; }

# edit disk|domain: a domain's definition on stdin; on stdout its disk $DISK, or a new domain with that disk alone. The disk is
# FILE; all else that is said about it (bus, boot order, ...) stays.
edit() {
	python3 -c '
import sys, xml.etree.ElementTree as ET
what, name, target, path, fmt = sys.argv[1:]
dom = ET.parse(sys.stdin).getroot()
devices = dom.find("devices")
found = None
for disk in devices.findall("disk"):
    if disk.find("target").get("dev") == target:
        found = disk
    elif what == "domain":
        devices.remove(disk)
if found is None:
    sys.exit("has no disk " + target)
for old in ("source", "backingStore", "mirror", "auth", "encryption", "alias"):
    for e in found.findall(old):
        found.remove(e)
found.set("type", "file")
found.attrib.pop("snapshot", None)
driver = found.find("driver")
if driver is None:
    driver = ET.SubElement(found, "driver", name="qemu")
driver.set("type", fmt)
ET.SubElement(found, "source", file=path)
if what == "disk":
    print(ET.tostring(found, encoding="unicode"))
    sys.exit()
dom.find("name").text = name
for e in dom.findall("uuid") + dom.findall("metadata"):
    dom.remove(e)
for nic in devices.findall("interface"):
    for mac in nic.findall("mac"):
        nic.remove(mac)
loader = dom.find("os/nvram")
if loader is not None:
    dom.find("os").remove(loader)
print(ET.tostring(dom, encoding="unicode"))
' "$1" "$DOMAIN" "$DISK" "$FILE" "$FORMAT" 2>"$WORK/err"
}

# ---------------------------------------------------------------- what is asked for

URI='' FORMAT='' REPLACE=''
while getopts c:fO: option; do
	case $option in
	c) URI=$OPTARG ;;
	f) REPLACE=1 ;;
	O) FORMAT=$OPTARG ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# = 3 ] || [ $# = 4 ] || usage
IMAGE=$1 FILE=$2 DOMAIN=$3
case $FORMAT in
'') if [[ $FILE == *.qcow2 ]]; then FORMAT=qcow2; else FORMAT=raw; fi ;;
raw | qcow2) ;;
*) usage ;;
esac
stem=${IMAGE%.img} # .../monday.vda
DISK=${4:-${stem##*.}}
DEFINITION=${stem%.*}.xml
for tool in virsh qemu-img python3; do command -v $tool >/dev/null || give_up "$tool is not installed"; done
if [ ! -f "$IMAGE" ] || [ ! -r "$IMAGE" ]; then give_up "$IMAGE cannot be read"; fi
[ -d "$(dirname -- "$FILE")" ] || give_up "there is no directory $(dirname -- "$FILE")"
FILE=$(realpath -- "$FILE")
WORK=$(mktemp -d) || exit 1

# ---------------------------------------------------------------- may it be done

if [ -e "$FILE" ]; then
	[ -n "$REPLACE" ] || give_up "$FILE is there already (-f replaces it)"
	[ -f "$FILE" ] || give_up "$FILE is not a file"
	# Not even with -f: the snapshots of some domain stand on it.
	chain=$(grep -m 1 -lF -- " $FILE " "$(dirname -- "$IMAGE")"/../*/chain | sed -n 1p)
	[ -z "$chain" ] || give_up "$FILE is an image of domain $(basename "$(dirname "$chain")"): give another name"
fi
domains=$(virsh_ list --all --name) || virsh_said 'libvirt'
if grep -qxF -- "$DOMAIN" <<<"$domains"; then
	state=$(virsh_ domstate "$DOMAIN") || virsh_said "the domain '$DOMAIN'"
	[ "$state" = 'shut off' ] || give_up "the domain '$DOMAIN' is $state: shut it down first"
	grep -qE '^Managed save: +yes' <<<"$(virsh_ dominfo "$DOMAIN")" &&
		give_up "the domain '$DOMAIN' has a managed save, which belongs to the disk that it has now: start it and shut it down first"
	virsh_ dumpxml --inactive --security-info "$DOMAIN" >"$WORK/domain.xml" || virsh_said "the domain '$DOMAIN'"
	edit disk <"$WORK/domain.xml" >"$WORK/new.xml" || give_up "the domain '$DOMAIN' $(tail -n 1 "$WORK/err")"
	how=(update-device "$DOMAIN" "$WORK/new.xml" --config)
else
	[ -r "$DEFINITION" ] || give_up "there is no domain '$DOMAIN', and no $DEFINITION to define it from"
	edit domain <"$DEFINITION" >"$WORK/new.xml" || give_up "$DEFINITION $(tail -n 1 "$WORK/err")"
	how=(define "$WORK/new.xml")
fi
need=$(qemu-img measure -f raw -O qcow2 -- "$IMAGE" | sed -n 's/^required size: //p')
free=$(df --output=avail -B1 -- "$(dirname -- "$FILE")" | tail -n 1)
[ -n "$need" ] || give_up "$IMAGE cannot be read (see above)"
[ "$need" -le "$free" ] ||
	give_up "there is not enough room in $(dirname -- "$FILE"): $((need >> 20)) MiB are needed, $((free >> 20)) MiB are free"

# ---------------------------------------------------------------- do it

PART=$(mktemp -- "$(dirname -- "$FILE")/.restore.XXXXXX") || { PART='' && give_up "nothing can be written in $(dirname -- "$FILE")"; }
if [ "$FORMAT" = raw ]; then
	cp --sparse=always -- "$IMAGE" "$PART"
else
	qemu-img convert -f raw -O qcow2 -- "$IMAGE" "$PART"
fi || give_up "the copy to $(dirname -- "$FILE") failed (see above)"
qemu-img compare -q -f raw -F "$FORMAT" -- "$IMAGE" "$PART" || give_up "the copy is not what $IMAGE is; it was removed"
sync -- "$PART"
mv -f -- "$PART" "$FILE" || give_up "$FILE cannot be written"
PART=''
# A domain that was started meanwhile is not touched: --config changes what the next start finds.
virsh_ "${how[@]}" >/dev/null || virsh_said "$FILE is there, but '$DOMAIN' could not be given it"
echo "$DOMAIN: disk $DISK is $FILE ($FORMAT)"
