#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# README's answer to "commit, pull or delete?", line by line. Each line is read from the page, its situation is made (a running and a
# shut-off domain with monday, tuesday and wednesday, of the kind that the line names), what it tells to write is written, and
# what it claims is looked at with virsh and qemu-img.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
lab_libvirtd
M=$W/mnt
mkdir "$M"
mount_snapfs "$M" qemu:///system || die 'no mount'
DAYS=(monday tuesday wednesday)
DISKS=(vda vdb)

# ---------------------------------------------------------------- the page

sed -n '/^### Commit, pull or delete?/,/^### retain/p' "$TOP/README.md" | sed -nE 's/^\| ([0-9]+) \| (.*) \|$/\1 | \2/p' >"$W/lines"
same 'README: the answer has ten lines' 10 "$(wc -l <"$W/lines")"
cell() { awk -F ' *[|] *' -v n="$1" -v c="$2" '$1 == n { print $c }' "$W/lines"; } # LINE COLUMN
quoted_in() { sed -nE 's/^[^`]*`([^`]*)`.*/\1/p' <<<"$1"; }                       # the first `...` of a text

# ---------------------------------------------------------------- a domain with three snapshots

# send DOMAIN LINE: into ctl; its outcome is in $SAID, its errno in $ERRNO ("": none).
send() {
	ERRNO=$(errno_of bash -c 'echo "$1" >"$2"' - "$2" "$M/$1/ctl")
	SAID=$(head -n 1 "$M/$1/ctl")
}
must() { # DOMAIN LINE
	send "$1" "$2"
	[ -z "$ERRNO" ] || die "$1: $SAID"
}
# paths DOMAIN: the files that its disks write to now, in P[vda], P[vdb].
declare -A P=()
paths() {
	local target path
	while read -r target path; do [ -n "$target" ] && P[$target]=$path; done < <(V domblklist "$1" | grep '^ *vd')
}
# monitor DOMAIN QEMU-IO...: "N COMMAND", on its disk N, all in one call; QEMU answers nothing where all goes well.
monitor() {
	local dom=$1 io line='' out
	shift
	for io; do line+="qemu-monitor-command $dom --hmp 'qemu-io -d /machine/peripheral/virtio-disk${io%% *}/virtio-backend \"${io#* }\"'; "; done
	out=$(V "$line" | tr -d '[:space:]')
	[ -z "$out" ] || die "$dom: $* : $out"
}
# work DOMAIN N: what the guest does on day N: one place is written again each day, another one moves on.
work() {
	local a b
	a="write -q -P $((16 + $2)) 0 2M" b="write -q -P $((48 + $2)) $(($2 * 64))k 1M"
	qemu-io -f raw -c "$a" "${MODEL[$1/vda]}" >/dev/null
	qemu-io -f raw -c "$b" "${MODEL[$1/vdb]}" >/dev/null
	if running "$1"; then
		monitor "$1" "0 $a" '0 flush' "1 $b" '1 flush'
	else
		paths "$1"
		qemu-io -f qcow2 -c "$a" "${P[vda]}" >/dev/null && qemu-io -f qcow2 -c "$b" "${P[vdb]}" >/dev/null || die "$1: work"
	fi
}
make() { # DOMAIN KIND STATE
	local n=0 day t
	domain_with "$1" vda:8M vdb:4M
	if [ "$3" = running ]; then Vq start "$1" --paused; fi
	wait_until 15 test -e "$M/$1/ctl"
	for day in "${DAYS[@]}"; do
		work "$1" $n
		must "$1" "create $day $2"
		for t in "${DISKS[@]}"; do want "$1" "$day" "$t"; done
		n=$((n + 1))
	done
	work "$1" $n
}
unmake() { # DOMAIN
	running "$1" && V destroy "$1"
	V undefine "$1" --snapshots-metadata >/dev/null
	rm -f "$W"/images/"$1".*
}

layers() { qemu-img info -U --backing-chain --output=json "${P[$1]}" | jq length; } # TARGET; after paths
# shorter NAME DOMAIN BY: each disk's chain, compared with $LAYERS
shorter() {
	local t got=''
	paths "$2"
	for t in "${DISKS[@]}"; do got+=" $t:$(($(layers "$t") + $3))"; done
	same "$1" "$LAYERS" "$got"
}
recorded() { V snapshot-list "$1" --name | sort | xargs; }
# unharmed NAME DOMAIN SNAPSHOT...: exactly these are there, in the tree and in libvirt's records, with the bytes that they had; and
# the guest's disks are what it has written.
unharmed() {
	local name=$1 dom=$2 day key t
	shift 2
	for day in "${DAYS[@]}"; do
		if [[ " $* " != *" $day "* ]]; then want_gone "$dom" "$day" "${DISKS[@]}"; fi
	done
	verify_listing "$name: the files" "$M" "$dom"
	verify_bytes "$name: their bytes" "$M" "$dom"
	same "$name: libvirt's records" "$(printf '%s\n' "$@" | sort | xargs)" "$(recorded "$dom")"
	if running "$dom"; then monitor "$dom" '0 flush' '1 flush'; fi # what its QEMU has in memory only, for qemu-img to see
	paths "$dom"
	for t in "${DISKS[@]}"; do
		same "$name: the guest's $t" "$(sha "${MODEL[$dom/$t]}")" "$(qemu_bytes "${P[$t]}" "$W/.now.img" && sha "$W/.now.img")"
		check "$name: $t is sound" qemu-img check -q -U "${P[$t]}"
	done
}
states_are() { # NAME DOMAIN STATE
	same "$1" "$3 $3 $3" "$(jq -r '.snapshots[].state' "$M/$2/snapshots.json" | xargs)"
}

# ---------------------------------------------------------------- what each line claims. LABEL DOMAIN KIND STATE COMMAND

claim_1() {
	must "$2" "$5"
	unharmed "$1" "$2" monday wednesday
	shorter "$1: one layer shorter" "$2" 1
}
claim_2() {
	must "$2" "$5"
	unharmed "$1" "$2" wednesday
	shorter "$1: two layers shorter" "$2" 2
}
claim_3() {
	local old
	old=${P[vda]}
	must "$2" "$5"
	unharmed "$1" "$2" "${DAYS[@]}"
	same "$1: the disks stand alone" '1 1' "$(layers vda) $(layers vdb)"
	same "$1: they are the files that they were" "$old" "${P[vda]}"
	states_are "$1: the snapshots are detached" "$2" detached
}
claim_4() {
	local frozen
	frozen=$(jq -r '.snapshots[1].disks[].chain[0]' "$M/$2/snapshots.json" | xargs)
	must "$2" "$5"
	unharmed "$1" "$2" "${DAYS[@]}"
	same "$1: the disks stand on what tuesday froze" "$frozen" \
		"$(for t in "${DISKS[@]}"; do qemu-img info -U --output=json "${P[$t]}" | jq -r '."full-backing-filename"'; done | xargs)"
}
sums() { find "$W/images" -name "$1.*" -exec sha256sum {} + | sort; }
claim_5() {
	local before
	before=$(sums "$2")
	must "$2" "$5"
	has "$1: says so" "$SAID" "^ok: $5: .*would merge .*; would unlink "
	same "$1: no file has changed" "$before" "$(sums "$2")"
	unharmed "$1" "$2" "${DAYS[@]}"
}
claim_6() {
	local file size
	file=${P[vda]}
	size=$(stat -c %s "$file")
	must "$2" "$5"
	unharmed "$1" "$2" monday wednesday
	check "$1: the file is not smaller" test "$(stat -c %s "$file")" -ge "$size"
	size=$(stat -c %s "$file")
	guest_write "$2" vda 0x77 5M 2M # as much as tuesday alone had
	check "$1: what the guest writes next finds room in it ($size, then $(stat -c %s "$file") bytes)" test "$(stat -c %s "$file")" -le $((size + 262144))
	unharmed "$1, then" "$2" monday wednesday
}
claim_7() {
	send "$2" 'commit tuesday'
	same "$1: commit cannot" ENOTSUP "$ERRNO"
	has "$1: and names the way out" "$SAID" 'delete frees it'
	send "$2" pull
	has "$1: pull has nothing to do" "$SAID" '^ok: pull: nothing to do$'
	same "$1: one layer, as ever" '1 1' "$(layers vda) $(layers vdb)"
	unharmed "$1" "$2" "${DAYS[@]}"
}
claim_8() {
	local policy=${5#echo } day t n=9
	check "$1: the policy" sh -c 'echo "$1" >"$2"' - "${policy% > retain}" "$M/$2/retain"
	unharmed "$1" "$2" tuesday wednesday
	paths "$2"
	LAYERS=" vda:$(layers vda) vdb:$(layers vdb)"
	for day in thursday friday; do
		must "$2" "create $day $3"
		for t in "${DISKS[@]}"; do want "$2" $day "$t"; done
		work "$2" $((n++ % 4))
	done
	unharmed "$1, two days later" "$2" thursday friday
	shorter "$1: no longer than it was" "$2" 0
}
claim_9() {
	must "$2" "$5"
	send "$2" 'delete tuesday'
	same "$1: delete" EPERM "$ERRNO"
	send "$2" 'commit tuesday'
	check "$1: commit ($ERRNO)" test -n "$ERRNO"
	check "$1: a policy" sh -c 'echo 1 >"$1"' - "$M/$2/retain"
	unharmed "$1: and retention keeps it" "$2" tuesday wednesday
}
claim_10() {
	local t
	if [ "$4" = running ]; then
		send "$2" "$5"
		same "$1: not while it runs" EBUSY "$ERRNO"
		unharmed "$1: and nothing happens" "$2" "${DAYS[@]}"
		must "$2" "$5 $(quoted_in "$(cell 10 3)")"
	else
		must "$2" "$5"
	fi
	# from now on the guest's disks are what they were then
	for t in "${DISKS[@]}"; do cp --sparse=always "$M/$2/tuesday.$t.img" "$W/then" && cat "$W/then" >"${MODEL[$2/$t]}" && rm -f "$W/then"; done
	same "$1: by the books" "${WANT[$2/tuesday.vda.img]}" "$(sha "${MODEL[$2/vda]}")"
	unharmed "$1" "$2" "${DAYS[@]}"
}

# ---------------------------------------------------------------- every line, in each state and of each kind

for n in {1..10}; do
	kinds=$(cell "$n" 2) command=$(quoted_in "$(cell "$n" 4)")
	[ "$kinds" = any ] && kinds='external internal'
	for kind in $kinds; do
		for state in running 'shut off'; do
			dom=line$n-$kind-${state% off}
			make "$dom" "$kind" "$state"
			paths "$dom"
			LAYERS=" vda:$(layers vda) vdb:$(layers vdb)"
			"claim_$n" "$n: $kind, $state, ${command:-nothing}" "$dom" "$kind" "$state" "$command"
			if [ "$n" != 10 ]; then
				same "$n: $kind, $state: it is $state still" "$state" "$(V domstate "$dom" | sed 's/paused/running/')"
			fi
			unmake "$dom"
		done
	done
done
suite_end
