#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# qcow2/ and diff/ of a mount: names, sizes, numbers, what is copied out of them as QEMU judges it, also while the guest runs and while
# what lies beneath is merged; what they cost.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
M=$W/mnt I=$W/im
mkdir "$M" "$I" "$W/out"

# whole FILE RAW: QEMU's check has nothing to say of it, and it reads as that
whole() {
	local said
	said=$(qemu-img check -f qcow2 "$1" 2>&1) && [[ $said == *'No errors were found'* ]] || { note "$said"; return 1; }
	said=$(qemu-img compare -f qcow2 -F raw "$1" "$2" 2>&1) || { note "$said"; return 1; }
}
names() { find "$1" -mindepth 1 -maxdepth 1 -printf '%f\n' | LC_ALL=C sort | xargs; }
# apply JSON FROM TO: with nothing but dd, what the list says of TO is put over FROM
apply() {
	local off len zero size
	while read -r off len zero; do
		if [ "$zero" = true ]; then
			dd if=/dev/zero of="$2" bs=64K iflag=count_bytes oflag=seek_bytes seek="$off" count="$len" conv=notrunc status=none || return
		else
			dd if="$3" of="$2" bs=64K iflag=skip_bytes,count_bytes oflag=seek_bytes skip="$off" seek="$off" count="$len" conv=notrunc status=none || return
		fi
	done < <(jq -r '.[] | "\(.start) \(.length) \(.zero)"' "$1")
	size=$(stat -c %s "$3")
	truncate -s "$size" "$2"
}

# ---------------------------------------------------------------- an image: names

g=$I/guest.qcow2
qemu-img create -q -f qcow2 "$g" 32M
for step in "one:1 0 3M" "a..b:2 2M 4M" "x..y.:3 20M 1M" "last:4 1M 64k"; do
	# shellcheck disable=SC2086
	qwrite "$g" ${step#*:}
	qemu-img snapshot -c "${step%%:*}" "$g"
done
qemu-io -f qcow2 -c 'write -q -z 0 1M' -c 'write -q -P 9 30M 1k' "$g" >/dev/null
mount_snapfs "$M" "$g" || die 'no mount'
D=$M/guest
shown=$(find "$M")
has_not 'find meets no hidden door' "$shown" '/(qcow2|diff)(/|$)'
has_not 'ls neither' "$(ls -a "$D")" '^(qcow2|diff)$'
same 'qcow2/ has each image' "a..b.disk.qcow2 current.disk.qcow2 disk.qcow2 last.disk.qcow2 one.disk.qcow2 x..y..disk.qcow2" "$(names "$D/qcow2")"
same 'diff/ has each with the one before' "a..b..x..y..disk.json a..b..x..y..disk.qcow2 last..current.disk.json last..current.disk.qcow2 one..a..b.disk.json one..a..b.disk.qcow2 x..y...last.disk.json x..y...last.disk.qcow2" \
	"$(names "$D/diff")"
for i in one a..b x..y. last current; do
	check "qcow2/$i: whole" whole "$D/qcow2/$i.disk.qcow2" "$D/$i.disk.img"
	cp "$D/qcow2/$i.disk.qcow2" "$W/out/$i"
	same "qcow2/$i: stat tells its size" "$(stat -c %s "$W/out/$i")" "$(stat -c %s "$D/qcow2/$i.disk.qcow2")"
	same "qcow2/$i: read from the end to the beginning" "$(sha "$W/out/$i")" "$(for ((o = $(stat -c %s "$W/out/$i") / 8192 * 8192; o >= 0; o -= 8192)); do dd if="$D/qcow2/$i.disk.qcow2" bs=8192 skip=$((o / 8192)) count=1 of="$W/out/back" seek=$((o / 8192)) conv=notrunc status=none; done; sha "$W/out/back")"
	rm -f "$W/out/back"
	check "qcow2/$i: no larger than convert's and some tables" test "$(stat -c %s "$W/out/$i")" -le $(($(qemu-img convert -U -f raw -O qcow2 "$D/$i.disk.img" "$W/out/q" && stat -c %s "$W/out/q") + 3 * 65536))
done
for a in one a..b x..y. last current; do
	for b in one a..b x..y. last current; do
		[ "$a" = "$b" ] && continue
		check "diff/$a..$b: whole" whole "$D/diff/$a..$b.disk.qcow2" "$D/$b.disk.img"
		cp "$D/$a.disk.img" "$W/out/apply"
		chmod u+w "$W/out/apply"
		apply "$D/diff/$a..$b.disk.json" "$W/out/apply" "$D/$b.disk.img"
		check "diff/$a..$b: the list and dd make it" cmp "$W/out/apply" "$D/$b.disk.img"
		rm -f "$W/out/apply"
	done
done
check 'a difference holds what changed, and no more' test "$(stat -c %s "$D/diff/x..y...last.disk.qcow2")" -le $((7 * 65536))
# An overlay goes with a copy of what it stands on, where it looks for that.
mkdir -p "$W/far/diff"
cp "$D/one.disk.img" "$W/far/"
cp "$D/diff/one..last.disk.qcow2" "$W/far/diff/"
check 'copied away, with the full one beside' whole "$W/far/diff/one..last.disk.qcow2" "$D/last.disk.img"

# ---------------------------------------------------------------- no such thing, and nothing to write

for name in now now/disk.img qcow2/none.disk.qcow2 qcow2/one.disk.img qcow2/one qcow2/snapshots.qcow2 qcow2/.qcow2 diff/one..one.disk.qcow2 diff/one..none.disk.qcow2 \
	diff/none..one.disk.qcow2 diff/one.disk.qcow2 diff/one..last.other.qcow2 diff/one..last.disk.img diff/..one.disk.qcow2 diff/...json; do
	same "$name" ENOENT "$(errno_of cat "$D/$name")"
done
(echo x >"$D/qcow2/one.disk.qcow2") 2>"$W/err"
has 'nobody writes there' "$(cat "$W/err")" 'Read-only file system'
(: >"$D/qcow2/new.qcow2") 2>"$W/err"
has 'nor makes a file' "$(cat "$W/err")" 'Operation not permitted'
same '.. of a hidden door is the domain' "$(stat -c %i "$D")" "$(stat -c %i "$D/qcow2/..")"
inos=$(stat -c '%i %s %Y' "$D"/qcow2/* "$D"/diff/*)
same 'every file has a number of its own' "$(wc -l <<<"$inos")" "$(cut -d' ' -f1 <<<"$inos" | sort -u | wc -l)"
unmount_snapfs "$M"
mount_snapfs "$M" -o list=qcow2,diff "$g" || die 'no mount'
same 'numbers, sizes and times are the same at every mount' "$inos" "$(stat -c '%i %s %Y' "$D"/qcow2/* "$D"/diff/*)"
has '-o list=: ls shows them' "$(names "$D")" 'diff.* qcow2'
check '-o list=: and a copy of all has them' cp -r "$M" "$W/all"
check '-o list=: as they are' whole "$W/all/guest/qcow2/last.disk.qcow2" "$W/all/guest/last.disk.img"
chmod -R u+w "$W/all"
rm -rf "$W/all"
unmount_snapfs "$M"
has '-o list=then' "$("$SNAPFS" -o list=then "$g" "$M" 2>&1)" "option 'list=then': 'then' must be qcow2, diff, now, several of them, or all"

# ---------------------------------------------------------------- what changes beneath

cp "$g" "$I/moving.qcow2"
mount_snapfs "$M" "$I/moving.qcow2" || die 'no mount'
K=$M/moving
cat "$K/diff/one..current.disk.qcow2" >"$W/before"
exec 5<"$K/diff/one..current.disk.qcow2" 6<"$K/diff/current..last.disk.qcow2" 7<"$K/diff/one..last.disk.qcow2" 8<"$K/diff/last..one.disk.qcow2"
for fd in 5 6 7 8; do head -c 4096 <&$fd >/dev/null; done
qemu-img snapshot -d last "$I/moving.qcow2" 2>/dev/null || qemu-img snapshot -U -d last "$I/moving.qcow2" 2>/dev/null || note 'locked, as it should be while current is open'
exec 5<&- 6<&-
wait_until 10 qemu-img snapshot -d last "$I/moving.qcow2" # once the locks are given back
qemu-io -f qcow2 -c 'write -q -P 0x77 8M 3M' "$I/moving.qcow2"
s=$(date +%s%N)
for fd in 7 8; do
	cat <&$fd >/dev/null 2>"$W/err"
	has "a difference of which one is gone (fd $fd)" "$(cat "$W/err")" 'Stale file handle'
done
check 'and that is known at once' test "$((($(date +%s%N) - s) / 1000000))" -lt 4000
exec 7<&- 8<&-
check 'what was written to is made anew' whole "$K/diff/one..current.disk.qcow2" "$K/current.disk.img"
check_not 'and is another one' cmp -s "$W/before" "$K/diff/one..current.disk.qcow2"
n=0
(while :; do ls -l "$K/qcow2" "$K/diff"; done) >/dev/null 2>&1 &
looking=$!
for _ in {1..40}; do qemu-io -f qcow2 -c 'write -q -P 1 0 4k' "$I/moving.qcow2" >/dev/null 2>&1 || n=$((n + 1)); done
kill "$looking"
wait "$looking" 2>/dev/null
same 'who only looks keeps nobody from writing' 0 "$n"
unmount_snapfs "$M"

# ---------------------------------------------------------------- a map that moves under its layout; one that has no end

python3 - "$I" <<'PY'
import struct, sys
def image(path, bits, size, l2s, snapshot=True):
    """A snapshot 's' whose L1 entries lead to l2s: index -> bytes of an L2 table."""
    c = 1 << bits
    l1n = -(-size // (c * c // 8))
    l1 = b"".join(struct.pack(">Q", (4 + i % len(l2s)) * c) for i in range(l1n))
    tab = struct.pack(">QLHHLLQLL", 3 * c, l1n, 1, 1, 0, 0, 0, 0, 16) + struct.pack(">QQ", 0, size) + b"1s"
    head = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, bits, size, 0, l1n, 2 * c, c, 1, 1, (6 + len(l2s)) * c, 0, 0, 0, 4, 104)
    with open(path, "wb") as f:
        f.write(head)
        f.seek(2 * c); f.write(l1)
        f.seek((6 + len(l2s)) * c); f.write(tab)
        f.seek(3 * c); f.write(l1)
        for i, l2 in enumerate(l2s):
            f.seek((4 + i) * c); f.write(l2)
        f.seek((8 + len(l2s)) * c); f.write(b"x")
c = 65536
stored = struct.pack(">Q", 8 * c) * 8191 + struct.pack(">Q", 1 << 62 | 8 * c)
packed = struct.pack(">Q", 1 << 62 | 8 * c) * 8192
image(sys.argv[1] + "/moves.qcow2", 16, 512 << 20, [stored])
open(sys.argv[1] + "/packed.l2", "wb").write(packed)
PY
mount_snapfs "$M" "$I/moves.qcow2" || die 'no mount'
check 'a hostile image: its size' test "$(stat -c %s "$M/moves/qcow2/s.disk.qcow2")" -gt $((500 << 20))
exec 5<"$M/moves/qcow2/s.disk.qcow2"
dd if="$I/packed.l2" of="$I/moves.qcow2" bs=65536 seek=4 conv=notrunc status=none
cat <&5 >/dev/null 2>"$W/err"
has 'a map that moved under its layout is an error' "$(cat "$W/err")" 'Stale file handle|Input/output error|Structure needs cleaning'
exec 5<&-
check 'and the mount is there' test -s "$M/moves/snapshots"
unmount_snapfs "$M"

# ---------------------------------------------------------------- names that could be two, or are too long

qemu-img create -q -f qcow2 "$I/names.qcow2" 1M
n=0
long=$(printf 'x%.0s' {1..251})
for s in a b..c a..b c "$long"; do qwrite "$I/names.qcow2" $((++n)) 0 64k; qemu-img snapshot -c "$s" "$I/names.qcow2"; done
mount_snapfs "$M" "$I/names.qcow2" || die 'no mount'
same 'a name that could be two pairs' ENOENT "$(errno_of cat "$M/names/diff/a..b..c.disk.qcow2")"
check 'one that could not' whole "$M/names/diff/b..c..c.disk.qcow2" "$M/names/c.disk.img"
same 'names longer than a directory takes are not listed' '' "$(find "$M/names/qcow2" "$M/names/diff" -printf '%f\n' | awk 'length > 255')"
unmount_snapfs "$M"

# ---------------------------------------------------------------- an image that contradicts itself

cp "$g" "$I/bad.qcow2"
qemu-img snapshot -c kept "$I/bad.qcow2"
number() { od -An -tx1 -j"$1" -N8 "$I/bad.qcow2" | tr -d ' \n'; }
l1=$((16#$(number 40)))
l2=$((16#$(number "$l1") & 0x00fffffffffffe00))
printf '\x80\x00\x00\x00\x00\x01\x02\x00' | dd of="$I/bad.qcow2" bs=1 seek=$((l2 + 16)) conv=notrunc status=none
mount_snapfs "$M" "$I/bad.qcow2" || die 'no mount'
same 'a map that contradicts itself: open' EUCLEAN "$(errno_of cat "$M/bad/qcow2/kept.disk.qcow2")"
has 'and the log says why' "$(cat "$M/bad/log")" 'cannot open what is made of kept.disk.img: .*L2'
same 'a snapshot that it does not touch is made' '' "$(qemu-img check -q -f qcow2 "$M/bad/qcow2/one.disk.qcow2" 2>&1)"
unmount_snapfs "$M"

# ---------------------------------------------------------------- two disks, running, external and internal; merged while it is read

lab_libvirtd
for t in vda vdb; do
	model_new web $t 16M
	qemu-img create -q -f qcow2 "$I/web.$t.qcow2" 16M
	qwrite "$I/web.$t.qcow2" 1 0 2M
done
domain_define web "$(disk_xml vda qcow2 "$I/web.vda.qcow2")$(disk_xml vdb qcow2 "$I/web.vdb.qcow2")"
mount_snapfs "$M" -o refresh=0.5 "$URI" || die 'no mount'
D=$M/web
wait_until 20 test -e "$D/ctl" || die 'the domain does not show'
ctl() { (echo "$1" >"$D/ctl") 2>/dev/null || { note "$1: $(head -1 "$D/ctl")"; return 1; }; }
Vq start web
# both_backups NAME: incremental.sh into two directories, as overlays and for dd
both_backups() {
	same "incremental.sh, $1" '' "$("$TOP/examples/incremental.sh" backup "$D" "$W/b" 2>&1)"
	same "incremental.sh --plain, $1" '' "$("$TOP/examples/incremental.sh" --plain backup "$D" "$W/p" 2>&1)"
}
n=2
for s in a b c d; do
	guest_write web vda "$n" "${n}M" 1536k
	guest_write web vdb "$n" 1M "$((n * 100))k"
	check "create $s" ctl "create $s"
	n=$((n + 1))
	[ "$s" != b ] || both_backups 'two snapshots'
done
for s in a b c d; do for t in vda vdb; do cp "$D/$s.$t.img" "$W/out/$s.$t"; done; done
same 'diff/ has each with its parent' "$(printf '%s ' a..b.vda.json a..b.vda.qcow2 a..b.vdb.json a..b.vdb.qcow2 b..c.vda.json b..c.vda.qcow2 b..c.vdb.json b..c.vdb.qcow2 c..d.vda.json c..d.vda.qcow2 c..d.vdb.json c..d.vdb.qcow2 | sed 's/ $//')" \
	"$(names "$D/diff")"
all_whole() {
	local a b t
	for t in vda vdb; do
		for a in "$@"; do
			whole "$D/qcow2/$a.$t.qcow2" "$W/out/$a.$t" || { note "qcow2/$a.$t"; return 1; }
			for b in "$@"; do
				[ "$a" = "$b" ] || whole "$D/diff/$a..$b.$t.qcow2" "$W/out/$b.$t" || { note "diff/$a..$b.$t"; return 1; }
			done
		done
	done
}
check 'running, external: all pairs' all_whole a b c d
same 'one disk of the one, another of the other' ENOENT "$(errno_of cat "$D/diff/a..b.vdc.qcow2")"
both_backups 'two more'
exec 5<"$D/qcow2/d.vda.qcow2" 6<"$D/diff/a..d.vdb.qcow2"
head -c 65536 <&5 >"$W/half5"
head -c 65536 <&6 >"$W/half6"
check 'delete b' ctl 'delete b'
# What is open goes on as the file that it was, or says that it is another one by now.
for fd in 5 6; do
	if cat <&$fd >>"$W/half$fd" 2>"$W/err"; then
		case $fd in 5) raw=$W/out/d.vda ;; 6) raw=$W/out/d.vdb ;; esac
		if [ $fd = 6 ]; then qemu-img rebase -q -u -f qcow2 -F raw -b "$W/out/a.vdb" "$W/half6"; fi
		check "an open file of fd $fd goes on over the merge" whole "$W/half$fd" "$raw"
	else
		has "an open file of fd $fd: another one by now" "$(cat "$W/err")" 'Stale file handle'
	fi
done
exec 5<&- 6<&-
check 'after the merge: all pairs of those that are left' all_whole a c d
same 'what is gone is gone' ENOENT "$(errno_of cat "$D/qcow2/b.vda.qcow2")"
Vq destroy web
check 'revert a force' ctl 'revert a force'
check 'create e' ctl 'create e'
for t in vda vdb; do cp "$D/e.$t.img" "$W/out/e.$t"; done
check 'branches: all pairs' all_whole a c d e
both_backups 'a branch'
same 'incremental.sh list' 'vda/a vda/b vda/c vda/d vda/e vdb/a vdb/b vdb/c vdb/d vdb/e' "$("$TOP/examples/incremental.sh" list "$W/b" | xargs)"
for t in vda vdb; do
	for s in a b c d e; do
		rm -f "$W/r"
		"$TOP/examples/incremental.sh" restore "$W/b/$t/$s" "$W/r"
		check "restored with qemu-img: $s.$t" cmp "$W/r" "$W/out/$s.$t"
		rm -f "$W/r"
		"$TOP/examples/incremental.sh" --plain restore "$W/p/$t/$s" "$W/r"
		check "restored with dd: $s.$t" cmp "$W/r" "$W/out/$s.$t"
	done
done
check 'what changed, and no more' test "$(du -sk --apparent-size "$W/p/vda" | cut -f1)" -lt $((16384 + 5 * 2048 + 200))
check 'delete e' ctl 'delete e'
guest_write web vda 9 9M 64k
check 'another e' ctl 'create e'
has 'incremental.sh: a name that was used again' "$("$TOP/examples/incremental.sh" backup "$D" "$W/b" 2>&1)" "another snapshot of the name 'e'"
rm -f "$W/r"
"$TOP/examples/incremental.sh" restore "$W/b/vda/e" "$W/r"
check 'and what was saved of the first one stays' cmp "$W/r" "$W/out/e.vda"
# A disk that grew, and one that shrank; then nothing stands on any of them any more.
take() { # NAME
	check "create $1" ctl "create $1"
	for t in vda vdb; do cp "$D/$1.$t.img" "$W/out/$1.$t"; done
}
for t in vda vdb; do cp "$D/e.$t.img" "$W/out/e.$t"; done
qemu-img resize -q -f qcow2 "$(active_path web vda)" 20M
truncate -s 20M "${MODEL[web/vda]}"
guest_write web vda 11 17M 2M
take f
qemu-img resize -q --shrink -f qcow2 "$(active_path web vda)" 9M
guest_write web vda 12 8M 1M
take g
same 'they have the sizes' "$((16 << 20)) $((20 << 20)) $((9 << 20))" "$(stat -c %s "$D"/{e,f,g}.vda.img | xargs)"
check 'larger and smaller: all pairs' all_whole a c d e f g
Vq start web --paused
check 'pull' ctl pull
same 'they stand beside the disk' '6 detached' "$(json "$D/snapshots.json" '.snapshots[].state' | sort | uniq -c | xargs)"
check 'detached: all pairs' all_whole a c d e f g
Vq destroy web
Vq undefine --snapshots-metadata web 2>/dev/null
unmount_snapfs "$M"

# ---------------------------------------------------------------- what it costs

# A disk of 1 TiB, all of it mapped; two snapshots that differ in two L2 tables, which is 1 GiB.
python3 "$TESTS/images/make-usage.py" "$I/large.qcow2" 3 1024 2 || die 'the large image cannot be made'
SNAPFS=$BUILD/fs/virt-snapfs
mount_snapfs "$M" "$I/large.qcow2" || die 'no mount'
names=("$M"/large/*.disk.img)
a=${names[1]##*/} b=${names[2]##*/}
pair=$M/large/diff/${a%.disk.img}..$b
pair=${pair%.img}
stat "$pair.json" >/dev/null
s=$(date +%s%N)
size=$(stat -c %s "$pair.qcow2")
ms=$((($(date +%s%N) - s) / 1000000))
note "1 TiB mapped: what differs between two snapshots, $size bytes, is known after $ms ms"
check 'a difference of 1 TiB: under a second once the tables are warm' test "$ms" -lt 1000
check 'and reads no data' test "$(awk '/^rchar/ { print $2 }' "/proc/${SNAPFS_PIDS[$M]}/io")" -lt $((1 << 30))
unmount_snapfs "$M"
rm -f "$I/large.qcow2"

timed() { local s; s=$(date +%s%N); "$@" >/dev/null 2>&1; echo $((($(date +%s%N) - s) / 1000000)); }
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }
p=$I/packed.qcow2
for ((k = 0; k < 96; k++)); do seq $((k * 150000)) $((k * 150000 + 130000)) | head -c 700k; head -c 300k /dev/urandom; done >"$W/raw"
qemu-img convert -q -c -f raw -O qcow2 "$W/raw" "$p"
qemu-img snapshot -c s "$p"
qemu-img convert -q -f raw -O qcow2 "$W/raw" "$I/plain.qcow2"
qemu-img snapshot -c s "$I/plain.qcow2"
mount_snapfs "$M" "$p" "$I/plain.qcow2" || die 'no mount'
for f in packed/s.disk.img packed/qcow2/s.disk.qcow2 plain/s.disk.img plain/qcow2/s.disk.qcow2; do cat "$M/$f" >/dev/null; done
ours=() theirs=() made=() image=()
for _ in 1 2 3 4 5; do
	ours+=("$(timed cp "$M/packed/qcow2/s.disk.qcow2" "$W/o1")")
	made+=("$(timed cp "$M/plain/qcow2/s.disk.qcow2" "$W/o2")")
	image+=("$(timed cp --sparse=never "$M/plain/s.disk.img" "$W/o3")")
done
for _ in 1 2 3; do theirs+=("$(timed qemu-img convert -c -l s -f qcow2 -O qcow2 "$p" "$W/o4")"); done
check 'the compressed copy is right' whole "$W/o1" "$W/raw"
check 'and its clusters are compressed as they were' test "$(stat -c %s "$W/o1")" -le $(($(stat -c %s "$p") * 11 / 10))
ratio=$((100 * $(median "${theirs[@]}") / $(median "${ours[@]}")))
note "compressed, $(($(stat -c %s "$W/o1") >> 20)) MiB: cp of qcow2/ $(median "${ours[@]}") ms, qemu-img convert -c $(median "${theirs[@]}") ms: $((ratio / 100)).$((ratio % 100 / 10)) times as fast"
check 'handing on compressed clusters: 8 times as fast as convert -c' test "$ratio" -ge 800
ratio=$((100 * $(median "${made[@]}") / $(median "${image[@]}")))
note "not compressed, $(($(stat -c %s "$W/o2") >> 20)) MiB: cp of qcow2/ $(median "${made[@]}") ms, of the .img $(median "${image[@]}") ms: $((ratio / 100)).$((ratio % 100 / 10)) times that"
check 'not compressed: it costs no more than two copies of the image' test "$ratio" -le 200
unmount_snapfs "$M"
suite_end
