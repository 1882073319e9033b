#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# libvirt's default dynamic_ownership=1, with QEMU as its own user: images change owner, mode and attributes at every start
# and stop of a domain, which readers must not notice. Readers read all the time; every pass must give the right bytes.
# And commands that create and merge files must leave what QEMU's user can open.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
snapfs_pick
id libvirt-qemu >/dev/null 2>&1 || skip_suite "there is no user libvirt-qemu (package libvirt-daemon-system)"
lab_libvirtd own
M=$W/mnt
mkdir "$M"

domain_with web vda:16M vdb:8M
guest_write web vda 0x11 0 4M
guest_write web vdb 0x12 0 1M
snap web in 'vda vdb'
guest_write web vda 0x21 2M 4M
snap web e1 'vda vdb' --disk-only
guest_write web vda 0x31 4M 4M
snap web e2 'vda vdb' --disk-only
guest_write web vda 0x41 6M 4M
Vq start web
guest_write web vdb 0x42 2M 1M
snap web live 'vda vdb' --disk-only
guest_write web vda 0x51 8M 4M
books_agree 'the books agree with QEMU' web/vda web/vdb
has 'the lab: a running domain owns its images' "$(stat -c %U "$(active_path web vda)")" '^libvirt-qemu$'
owners() { stat -c '%U' "$W"/images/* | sort | uniq -c | xargs; }
up_owners=$(owners)
Vq destroy web
check_not 'the lab: owners change when it stops' test "$up_owners" = "$(owners)"

mount_snapfs "$M" -o refresh=0.3 qemu:///system || die 'no mount'
verify_listing 'the images' "$M" web
verify_bytes 'their bytes' "$M" web

# reader FILE SUM: passes over it until told to stop. Alternates between one open for many passes and one open a pass.
reader() {
	local n=0 got fd
	while [ ! -e "$W/stop" ]; do
		n=$((n + 1))
		if [ $((n % 2)) = 0 ]; then
			got=$(sha256sum "$M/web/$1" 2>&1)
		else
			exec {fd}<"$M/web/$1" || got=open
			got=$(dd bs=64K <&"$fd" 2>"$W/dd.$1" | sha256sum 2>&1)
			grep -q 'rror' "$W/dd.$1" && got=$(cat "$W/dd.$1")
			exec {fd}<&-
		fi
		[ "${got:0:64}" = "$2" ] || echo "pass $n of $1: $got"
	done
	echo "$n" >"$W/passes.$1"
}
readers=()
for f in in.vda.img e1.vda.img e2.vda.img live.vda.img; do
	reader "$f" "${WANT[web/$f]}" >>"$W/complaints" 2>&1 &
	readers+=($!)
done
# One descriptor that stays open through everything.
exec {through}<"$M/web/e1.vda.img"
head -c 1M <&"$through" >/dev/null
starts=0
for _ in 1 2 3 4 5; do
	sleep 0.3
	if V start web; then starts=$((starts + 1)); else note "start: $(cat "$W/.virsh.err")"; fi
	sleep 0.3
	V destroy web || note "destroy: $(cat "$W/.virsh.err")"
done
same 'readers keep no domain from starting' 5 "$starts"
Vq start web
guest_write web vda 0x61 10M 1M
snap web more 'vda vdb' --disk-only
guest_write web vda 0x71 11M 1M
verify_listing 'a snapshot made under the readers shows' "$M" web
sleep 0.5
Vq destroy web
sleep 0.5
touch "$W/stop"
for p in "${readers[@]}"; do wait "$p"; done
if [ -s "$W/complaints" ]; then
	fail 'no reader saw an error or other bytes' "$(wc -l <"$W/complaints") times: $(head -3 "$W/complaints" | tr '\n' '|')"
else
	ok 'no reader saw an error or other bytes'
	note "passes: $(cat "$W"/passes.* | xargs)"
fi
check 'every reader read' test "$(cat "$W"/passes.* 2>/dev/null | sort -n | head -1)" -ge 3
same 'a descriptor held open all the time reads on' "$(tail -c +1048577 "$M/web/e1.vda.img" | sha256sum)" "$(cat <&"$through" | sha256sum)"
exec {through}<&-
verify_bytes 'all of it at the end' "$M" web
same 'no state changed' ok "$(jq -r '.snapshots[].state' "$M/web/snapshots.json" | sort -u)"

# ---------------------------------------------------------------- commands

# ctl DOM COMMAND: as a case of its own.
ctl() {
	local st
	(echo "$2" >"$M/$1/ctl") 2>/dev/null
	st=$?
	if [ "$st" = 0 ]; then ok "$1: $2"; else fail "$1: $2" "$(head -1 "$M/$1/ctl")"; fi
}
# startable DOM NAME: QEMU, as its own user, can open all that the command left behind.
startable() {
	if V start "$1" --paused; then
		ok "$1 starts after $2"
		Vq destroy "$1"
	else
		fail "$1 starts after $2" "$(cat "$W/.virsh.err")"
	fi
}
for dom in off on; do
	domain_with "$dom" vda:8M vdb:4M
	wait_until 15 test -e "$M/$dom/ctl" || die "no ctl for $dom"
	[ "$dom" = on ] && Vq start "$dom" --paused
	i=0
	for s in c1 c2 c3 c4; do
		i=$((i + 1))
		guest_write "$dom" vda "$i" "${i}M" 1M
		ctl "$dom" "create $s"
		want "$dom" "$s" vda
		want "$dom" "$s" vdb
	done
	guest_write "$dom" vdb 9 0 1M
	ctl "$dom" 'delete c1'
	want_gone "$dom" c1 vda vdb
	ctl "$dom" 'commit c2'
	want_gone "$dom" c2 vda vdb
	books_agree "$dom: the guest's disks" "$dom/vda" "$dom/vdb"
	ctl "$dom" 'pull'
	guest_write "$dom" vda 10 7M 1M # which flushes: QEMU keeps what the pull has mapped until then
	guest_write "$dom" vdb 10 3M 64K
	books_agree "$dom: the guest's disks after pull" "$dom/vda" "$dom/vdb"
	ctl "$dom" 'revert c3 force keep=c5'
	want "$dom" c5 vda
	want "$dom" c5 vdb
	verify_listing "$dom: what must be there" "$M" "$dom"
	verify_bytes "$dom: what must be there" "$M" "$dom"
	same "$dom: shut off" 'shut off' "$(V domstate "$dom")"
	startable "$dom" 'all commands'
	verify_bytes "$dom: after that" "$M" "$dom"
done
suite_end
