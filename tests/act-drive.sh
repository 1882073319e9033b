#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The deeds of vm/act.h on libvirt itself: first on an embedded one, then on a libvirtd, with paused guests under TCG. What
# each disk must read as comes from models to which every guest write is applied as well (lab.sh); QEMU is the witness.
set -u
. "$(dirname "$0")/lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
DRIVE=${ACT_DRIVE:-$BUILD/tests/act-drive}
[ -x "$DRIVE" ] || die "$DRIVE is not built"
I=$W/images

# ---------------------------------------------------------------- tools

# D DOMAIN VERB...: its output in $OUT.
D() {
	OUT=$(timeout 120 "$DRIVE" "$URI" "$@" 2>"$W/.err" </dev/null)
	local st=$?
	grep -Eq 'Sanitizer|runtime error' "$W/.err" && fail "no sanitizer report from $*" "$(grep -Em1 'Sanitizer|runtime error' "$W/.err")"
	return $st
}
# good NAME D-ARGUMENTS...
good() {
	local name="$KIND: $1"
	shift
	if D "$@"; then ok "$name"; else fail "$name" "$(tr '\n' '|' <<<"$OUT")"; fi
}
# bad NAME ERRNO PATTERN D-ARGUMENTS...
bad() {
	local name="$KIND: $1" want="error $2 .*$3"
	shift 3
	if D "$@"; then fail "$name" "succeeded: $(tr '\n' '|' <<<"$OUT")"; else has "$name" "$OUT" "$want"; fi
}
same_() { same "$KIND: $1" "$2" "$3"; }
has_() { has "$KIND: $1" "$2" "$3"; }
has_not_() { has_not "$KIND: $1" "$2" "$3"; }

# pit DOM SNAP TARGET: path of the point-in-time image that libvirt has on record.
pit() {
	V snapshot-dumpxml "$1" "$2" | python3 -c '
import sys, xml.etree.ElementTree as E
for d in E.parse(sys.stdin).findall("./domain/devices/disk"):
    if d.find("target").get("dev") == sys.argv[1]: print(d.find("source").get("file"))' "$3"
}
format_of() { case $1 in *.raw) echo raw ;; *) echo qcow2 ;; esac; }
image_sum() {
	qemu_bytes "$1" "$W/.sum.img" "$(format_of "$1")" && sha "$W/.sum.img"
	rm -f "$W/.sum.img"
}

# Snapshots that must be readable: FROZEN["DOM SNAP TARGET"]=sum. take/lose keep the books.
declare -A FROZEN=()
take() { local t; for t in $3; do FROZEN["$1 $2 $t"]=$(sha "${MODEL[$1/$t]}"); done; }
lose() { local t; for t in vda vdb; do unset "FROZEN[$1 $2 $t]"; done; }
# all_right NAME DOM: every snapshot of the books by libvirt's own record, the present content, and the files themselves.
all_right() {
	local name="$KIND: $1" dom=$2 key d s t bad='' f
	for key in "${!FROZEN[@]}"; do
		read -r d s t <<<"$key"
		[ "$d" = "$dom" ] || continue
		[ "$(image_sum "$(pit "$d" "$s" "$t")")" = "${FROZEN[$key]}" ] || bad+=" $s.$t ($(pit "$d" "$s" "$t")) differs;"
	done
	for key in "${!MODEL[@]}"; do
		[ "${key%/*}" = "$dom" ] || continue
		guest_flush "$dom" "${key#*/}"
		f=$(active_path "$dom" "${key#*/}")
		[ "$(image_sum "$f")" = "$(sha "${MODEL[$key]}")" ] || bad+=" the present $key ($f) differs;"
		[ "$(format_of "$f")" = raw ] || qemu-img check -q -U "$f" >/dev/null 2>&1 || bad+=" qemu-img check $f;"
	done
	if [ -n "$bad" ]; then fail "$name" "$bad"; else ok "$name"; fi
}
# A pull leaves tables in QEMU's cache although the header is new already.
guest_flush() {
	local n
	running "$1" || return 0
	n=$(($(printf '%d' "'${2:2:1}") - 97))
	V qemu-monitor-command "$1" --hmp "qemu-io -d /machine/peripheral/virtio-disk$n/virtio-backend flush" >/dev/null
}
end_domain() { running "$1" && V destroy "$1" >/dev/null; return 0; }
tops() { V domblklist "$1" | awk '{ sub(".*/", "", $2); print $2 }' | paste -sd' '; }
files_like() { find "$I" -mindepth 1 -printf '%f\n' | grep -E "$1" | LC_ALL=C sort | paste -sd' '; }
tree() { V snapshot-list "$1" --tree | tr -d ' |\n+-'; }
qemu_pid() {
	local f
	for f in "/run/libvirt/qemu/$1.pid" "${ROOT:-/nowhere}/run/qemu/$1.pid"; do
		[ -s "$f" ] && cat "$f" && return
	done
}

# ---------------------------------------------------------------- create

test_create() {
	domain_with c vda:16M vdb:8M:raw
	# lab.sh writes qcow2 while a domain is shut off.
	guest_write_raw() { qemu-io -f raw -c "write -q -P $3 $4 $5" "$I/$1.$2.raw" >/dev/null && qemu-io -f raw -c "write -q -P $3 $4 $5" "${MODEL[$1/$2]}" >/dev/null; }
	guest_write c vda 0x11 0 2M
	guest_write_raw c vdb 0x12 1M 1M
	good 'plan of an external one' c plan mon external
	has_ 'the plan names the overlay' "$OUT" "^overlay vda $I/c.vda.mon.qcow2 on $I/c.vda.qcow2$"
	has_ 'the plan stands on raw too' "$OUT" "^overlay vdb $I/c.vdb.mon.qcow2 on $I/c.vdb.raw$"
	same_ 'a plan makes nothing' 'c.vda.qcow2 c.vdb.raw' "$(files_like '^c\.')"
	bad 'chains have an end' EOPNOTSUPP '200 layers.*commit, pull or delete' c create mon external depth=200
	bad 'no such disk' ENOENT "no disk 'vdz'" c create mon external disks=vda,vdz
	bad 'a name that libvirt refuses' 'E[A-Z]+' . c create a/b external
	same_ 'and its overlays are gone again' 'c.vda.qcow2 c.vdb.raw' "$(files_like '^c\.')"
	take c mon 'vda vdb'
	good 'external, shut off, two disks' c create mon external 'words <&> more'
	same_ 'overlays are private' '600 600' "$(stat -c %a "$I/c.vda.mon.qcow2" "$I/c.vdb.mon.qcow2" | paste -sd' ')"
	has_ 'backing path and format are explicit' "$(qemu-img info "$I/c.vdb.mon.qcow2")" 'backing file format: raw'
	has_ 'description' "$(V snapshot-dumpxml c mon)" '<description>words &lt;&amp;&gt; more</description>'
	bad 'a name that is taken' EEXIST "snapshot 'mon'" c create mon external
	guest_write c vda 0x21 1M 2M
	guest_write c vdb 0x22 2M 1M
	: >"$I/c.vda.tue.qcow2"
	take c tue vda
	good 'a file in the way: another name' c create tue external disks=vda
	has_ 'with a number' "$OUT" 'c.vda.tue-2.qcow2'
	same_ 'what was in the way is as it was' 0 "$(stat -c %s "$I/c.vda.tue.qcow2")"
	same_ 'the disk that takes no part stays' 'c.vda.tue-2.qcow2 c.vdb.mon.qcow2' "$(tops c)"
	V snapshot-delete --metadata c tue >/dev/null
	lose c tue
	: >"$I/c.vda.wed.qcow2"
	take c wed vda
	good 'a left-over in the way is replaced' c create wed external disks=vda left-over
	same_ 'under the name it had' "c.vda.wed.qcow2 c.vdb.mon.qcow2" "$(tops c | sed 's/tue-2\.//')"
	all_right 'after creates while shut off' c
	Vq start c --paused
	guest_write c vda 0x31 3M 1M
	take c thu 'vda vdb'
	good 'external, running, two disks' c create thu external
	guest_write c vdb 0x32 4M 1M
	same_ 'overlays are private' '600' "$(stat -c %a "$I"/c.vdb.thu.qcow2)"
	bad 'no agent: not quiesced' EOPNOTSUPP 'frozen' c create fri external quiesce
	same_ 'and nothing was taken' '' "$(V snapshot-list c --name | grep fri)"
	bad 'running: a name that libvirt refuses' 'E[A-Z]+' . c create a/b external
	same_ 'running: its overlays are gone again' '' "$(files_like 'a_b')"
	all_right 'after creates while running' c
	end_domain c

	domain_with n vda:16M vdb:8M
	guest_write n vda 0x11 0 2M
	good 'internal, shut off' n create i1 internal
	guest_write n vda 0x12 0 2M
	bad 'internal, one disk' EOPNOTSUPP "also 'vdb'" n create i2 internal disks=vda
	same_ 'entries in the tables' '1 1' "$(for f in vda vdb; do qemu-img snapshot -l "$I/n.$f.qcow2" | grep -c ' i1 '; done | paste -sd' ')"
	Vq start n --paused
	good 'internal, running' n create i3 internal
	has_ 'with memory' "$(V snapshot-dumpxml n i3)" "<memory snapshot='internal'/>"
	end_domain n
	domain_with r vda:8M vdb:8M:raw
	bad 'internal with a raw disk' EOPNOTSUPP "'vdb' is not qcow2.*external" r create i internal
}

# ---------------------------------------------------------------- commit and pull

# chain4 DOM [SIZE MIB]: running, base <- a <- b <- c, with MIB of data of its own in each.
chain4() {
	local dom=$1 size=${2:-16M} mib=${3:-2} n=0 s
	domain_with "$dom" "vda:$size"
	guest_write "$dom" vda 0x11 0 "${mib}M"
	for s in a b c; do
		n=$((n + 1))
		take "$dom" $s vda
		D "$dom" create $s external || die "create $s: $OUT"
		guest_write "$dom" vda "0x${n}5" "$((n * mib))M" "${mib}M"
	done
	Vq start "$dom" --paused
	guest_write "$dom" vda 0x55 512k 64k
}
layers() { V dumpxml "$1" | grep -o "file='[^']*'" | sed "s/.*\///; s/'//" | paste -sd' '; }

test_commit() {
	chain4 m
	bad 'commit: a base that is not beneath' ENOENT "does not stand on '/nowhere'" m commit vda /nowhere "$I/m.vda.b.qcow2"
	bad 'commit: the wrong way round' EINVAL 'does not stand on' m commit vda "$I/m.vda.b.qcow2" "$I/m.vda.a.qcow2"
	bad 'commit: no such disk' ENOENT "no disk 'vdz'" m commit vdz "$I/m.vda.qcow2" "$I/m.vda.a.qcow2"
	has_ 'and the base was not touched' "$OUT" 'touched=0 done=0'
	good 'commit: one layer in the middle' m commit vda "$I/m.vda.a.qcow2" "$I/m.vda.b.qcow2"
	has_ 'outcome' "$OUT" 'touched=1 done=1'
	same_ 'the chain without it' 'm.vda.c.qcow2 m.vda.a.qcow2 m.vda.qcow2' "$(layers m)"
	same_ 'its file stays unless asked for' m.vda.b.qcow2 "$(files_like 'm.vda.b')"
	# PIT(c) was overlay b; its content is in a now. PIT(b) = a is gone.
	lose m b
	good 'the record follows' m move c vda "$I/m.vda.b.qcow2" "$I/m.vda.a.qcow2"
	all_right 'after a commit in the middle' m
	bad 'active commit: the caller says no' EPERM 'refused by the check' m commit vda "$I/m.vda.a.qcow2" "$I/m.vda.c.qcow2" refuse
	same_ 'and the chain is what it was' 'm.vda.c.qcow2 m.vda.a.qcow2 m.vda.qcow2' "$(layers m)"
	has_ 'but the base was touched' "$OUT" 'touched=1 done=0'
	good 'no job is left' m jobs
	has_not_ 'no job is left' "$OUT" '^job'
	good 'active commit with pivot, files removed' m commit vda "$I/m.vda.qcow2" "$I/m.vda.c.qcow2" unlink
	same_ 'the base alone' 'm.vda.qcow2' "$(layers m)"
	same_ 'the configuration too' 'm.vda.qcow2' "$(V dumpxml --inactive m | grep -o "file='[^']*'" | sed "s/.*\///; s/'//" | paste -sd' ')"
	same_ 'merged files are gone' 'm.vda.b.qcow2 m.vda.qcow2' "$(files_like '^m\.')"
	for s in a b c; do lose m $s; done
	guest_write m vda 0x66 4M 64k
	all_right 'after an active commit' m
	end_domain m
}

test_pull() {
	chain4 p
	bad 'pull: a base that is not beneath' ENOENT 'does not stand on' p pull vda /nowhere
	bad 'pull: onto itself' EINVAL 'active layer itself' p pull vda "$I/p.vda.c.qcow2"
	good 'pull: down to a' p pull vda "$I/p.vda.a.qcow2"
	same_ 'the chain' 'p.vda.c.qcow2 p.vda.a.qcow2 p.vda.qcow2' "$(layers p)"
	all_right 'after a pull down to a' p
	good 'pull: once more, nothing to do' p pull vda "$I/p.vda.a.qcow2"
	has_not_ 'and nothing was done' "$OUT" '^step'
	good 'pull: all' p pull vda
	same_ 'it stands alone' 'p.vda.c.qcow2' "$(layers p)"
	good 'pull: all, nothing to do' p pull vda
	all_right 'after a pull of all' p
	same_ 'no file is removed' 'p.vda.a.qcow2 p.vda.b.qcow2 p.vda.c.qcow2 p.vda.qcow2' "$(files_like '^p\.')"
	end_domain p
}

# What goes wrong in the middle. 24 MiB in each layer at 4 MiB a second.
test_middle() {
	local slow=bandwidth=4194304 start took
	chain4 k 128M 24
	start=$(date +%s%N)
	bad 'pull: cancelled in the middle' ECANCELED 'cancelled' k pull vda "$I/k.vda.a.qcow2" $slow cancel-after=700 progress
	took=$((($(date +%s%N) - start) / 1000000))
	check "$KIND: the answer comes at once ($took ms)" test "$took" -lt 3000
	took=$(awk '$1 == "progress" && $4 { s = $4 } END { print s + 0 }' <<<"$OUT")
	check "$KIND: the bandwidth is kept to ($took bytes/s)" test "$took" -gt 1000000 -a "$took" -lt 12000000
	has_ 'outcome' "$OUT" 'done=0'
	all_right 'after a cancelled pull' k
	bad 'commit in the middle: cancelled' ECANCELED 'cancelled' k commit vda "$I/k.vda.a.qcow2" "$I/k.vda.b.qcow2" $slow cancel-after=700
	has_ 'the base was touched' "$OUT" 'touched=1 done=0'
	lose k b # frozen in a, which is half-way between two contents now
	all_right 'after a cancelled commit' k
	bad 'active commit: cancelled' ECANCELED 'cancelled' k commit vda "$I/k.vda.b.qcow2" "$I/k.vda.c.qcow2" $slow cancel-after=700
	lose k c
	has_ 'the base was touched' "$OUT" 'touched=1 done=0'
	same_ 'the chain is what it was' 'k.vda.c.qcow2 k.vda.b.qcow2 k.vda.a.qcow2 k.vda.qcow2' "$(layers k)"
	all_right 'after a cancelled active commit' k
	bad 'cancelled before it began' ECANCELED 'cancelled' k commit vda "$I/k.vda.b.qcow2" "$I/k.vda.c.qcow2" cancel-after=1 pause=200
	has_ 'nothing was touched' "$OUT" 'touched=0 done=0'

	# QEMU dies.
	local verb pid
	for verb in "pull vda $I/k.vda.a.qcow2" "commit vda $I/k.vda.a.qcow2 $I/k.vda.b.qcow2" "commit vda $I/k.vda.a.qcow2 $I/k.vda.c.qcow2"; do
		running k || Vq start k --paused
		pid=$(qemu_pid k)
		(sleep 1.5; kill -KILL "$pid") &
		# shellcheck disable=SC2086
		bad "QEMU is killed during ${verb##*/}" EIO 'QEMU ended' k $verb bandwidth=1048576
		wait $!
		has_ 'it is not called done' "$OUT" 'done=0'
		same_ 'the domain is shut off' 'shut off' "$(V domstate k)"
		all_right "after QEMU was killed during ${verb%% *}" k
	done
	Vq start k --paused
	good 'repeated, it is done' k commit vda "$I/k.vda.a.qcow2" "$I/k.vda.c.qcow2" unlink
	all_right 'after the repetition' k
	same_ 'and its files are gone' 'k.vda.a.qcow2 k.vda.qcow2' "$(files_like '^k\.')"
	end_domain k
}

# ---------------------------------------------------------------- paused starts

test_paused() {
	chain4 s
	end_domain s
	good 'start paused' s start
	local guest
	guest=$(awk '$1 == "guest" { print $2, $4 }' <<<"$OUT")
	same_ 'it is paused' paused "$(V domstate s)"
	has_ 'the word is in the instance' "$(V dumpxml s)" 'xmlns/paused/1.0'
	has_not_ 'and not in the configuration' "$(V dumpxml --inactive s)" 'xmlns/paused/1.0'
	bad 'a second start' EBUSY 'running' s start
	good 'found by the next mount' s find
	same_ 'as the same' "$guest" "$(awk '$1 == "guest" { print $2, $4 }' <<<"$OUT")"
	# shellcheck disable=SC2086
	good 'end' s end $guest
	has_ 'not left' "$OUT" '^left 0'
	same_ 'it is shut off' 'shut off' "$(V domstate s)"
	# shellcheck disable=SC2086
	good 'ended twice' s end $guest
	good 'nothing is found then' s find
	has_not_ 'nothing is found then' "$OUT" '^guest'

	D s start && guest=$(awk '$1 == "guest" { print $2, $4 }' <<<"$OUT")
	Vq resume s
	# shellcheck disable=SC2086
	good 'somebody has resumed it' s end $guest
	has_ 'it is left' "$OUT" '^left 1'
	same_ 'and runs on' running "$(V domstate s)"
	has_not_ 'without our word' "$(V dumpxml s)" 'xmlns/paused/1.0'
	end_domain s
	D s start && guest=$(awk '$1 == "guest" { print $2, $4 }' <<<"$OUT")
	Vq resume s
	sleep 2
	Vq suspend s
	# shellcheck disable=SC2086
	good 'somebody has resumed it and suspended it' s end $guest
	has_ 'it is left' "$OUT" '^left 1'
	same_ 'and stays paused' paused "$(V domstate s)"
	end_domain s
	D s start && guest=$(awk '$1 == "guest" { print $2, $4 }' <<<"$OUT")
	end_domain s
	Vq start s --paused
	# shellcheck disable=SC2086
	good "another's instance" s end $guest
	has_ 'is left' "$OUT" '^left 1'
	good "another's instance is not found" s find
	has_not_ "another's instance is not found" "$OUT" '^guest'
	Vq managedsave s
	bad 'a managed save is not used up' EPERM 'managed save' s start
	bad 'nor by work' EPERM 'managed save' s commit vda "$I/s.vda.a.qcow2" "$I/s.vda.c.qcow2" paused
	Vq managedsave-remove s

	good 'shut off: a commit of the active layer' s commit vda "$I/s.vda.b.qcow2" "$I/s.vda.c.qcow2" paused unlink
	has_ 'shut off again' "$OUT" '^left 0'
	same_ 'shut off again' 'shut off' "$(V domstate s)"
	same_ 'the configuration follows' 's.vda.b.qcow2' "$(tops s)"
	lose s c
	all_right 'shut off: after the commit' s
	good 'shut off: a pull' s pull vda "$I/s.vda.qcow2" paused
	all_right 'shut off: after the pull' s
	has_ 'shut off: it stands on the base' "$(qemu-img info "$I/s.vda.b.qcow2")" "backing file: $I/s.vda.qcow2"
	bad 'shut off: commit by itself' EINVAL 'not running' s commit vda "$I/s.vda.qcow2" "$I/s.vda.b.qcow2"
	bad 'shut off: cancelled, and shut off again' ECANCELED . s pull vda paused bandwidth=1024 cancel-after=900
	same_ 'shut off again' 'shut off' "$(V domstate s)"
	all_right 'shut off: after a cancelled pull' s
}

# ---------------------------------------------------------------- delete, records

test_delete() {
	chain4 x
	end_domain x
	bad 'forget: not while there are children' EBUSY '1 snapshots have' x forget a
	good 'delete: shut off, in the middle' x delete b
	lose x b
	same_ 'shut off again' 'shut off' "$(V domstate x)"
	same_ 'its overlay is gone' 'x.vda.a.qcow2 x.vda.c.qcow2 x.vda.qcow2' "$(files_like '^x\.')"
	all_right 'after a delete while shut off' x
	Vq start x --paused
	good 'delete: running, the oldest' x delete a
	lose x a
	all_right 'after a delete while running' x
	take x e vda
	# A paused guest's images stay inactive after its memory was saved (QEMU refuses block jobs on them).
	Vq resume x
	Vq snapshot-create-as x e --memspec "file=$I/x.mem,snapshot=external" --diskspec "vda,snapshot=external,file=$I/x.vda.e.qcow2"
	good 'delete: with external memory' x delete e
	lose x e
	same_ 'its file is gone' '' "$(files_like 'x.mem')"
	good 'delete: the last one' x delete c
	lose x c
	all_right 'after the last delete' x
	end_domain x
	good 'internal, shut off' x create i1 internal
	good 'delete: internal, shut off' x delete i1
	Vq start x --paused
	good 'internal, running' x create i2 internal
	good 'delete: internal, running' x delete i2
	same_ 'no entry is left' 0 "$(qemu-img snapshot -U -l "$(active_path x vda)" | grep -c ' i[12] ')"
	bad 'delete: no such snapshot' ENOENT . x delete nope
	end_domain x
}

# The whole reconciling after a commit, and libvirt's own commands on what is left.
test_reconcile() {
	chain4 y
	V snapshot-dumpxml --security-info y b >"$W/b.xml"
	good 'commit of the overlays of a and b into the base' y commit vda "$I/y.vda.qcow2" "$I/y.vda.b.qcow2"
	lose y a
	lose y b
	good 'the surviving child stands on the base' y move c vda "$I/y.vda.b.qcow2" "$I/y.vda.qcow2"
	has_ 'one definition or both were changed' "$OUT" '^changed [12]$'
	good 'and has no parent' y reparent c -
	same_ 'the current one is still current' c "$(V snapshot-current y --name)"
	good 'forget b' y forget b
	good 'forget a' y forget a
	same_ 'the tree' c "$(tree y)"
	all_right 'after reconciling' y
	OUT=$("$DRIVE" "$URI" y unlink "$I/y.vda.qcow2" <"$W/b.xml" 2>/dev/null)
	has_ 'unlink: not by this snapshot' "$OUT" "error EPERM .*not created by snapshot 'b'"
	OUT=$("$DRIVE" "$URI" y unlink "$I/y.vda.b.qcow2" <"$W/b.xml" 2>/dev/null)
	has_ 'unlink: proved' "$OUT" '^ok'
	OUT=$("$DRIVE" "$URI" y unlink "$I/y.vda.b.qcow2" <"$W/b.xml" 2>/dev/null)
	has_ 'unlink: gone already' "$OUT" '^ok'
	V snapshot-dumpxml --security-info y c >"$W/c.xml"
	OUT=$("$DRIVE" "$URI" y unlink "$I/y.vda.c.qcow2" <"$W/c.xml" 2>/dev/null)
	has_ 'unlink: open in QEMU' "$OUT" 'error EBUSY'
	check "$KIND: virsh deletes what is left" V snapshot-delete y c
	lose y c
	all_right 'after that' y
	OUT=$("$DRIVE" "$URI" y redefine <"$W/c.xml" 2>/dev/null)
	has_ 'a record can be put back' "$OUT" '^ok'
	good 'and forgotten' y forget c
	end_domain y
}

# ---------------------------------------------------------------- revert

test_revert() {
	domain_with v vda:16M vdb:8M
	guest_write v vda 0x11 0 2M
	cp "${MODEL[v/vda]}" "$W/v.a.model"
	cp "${MODEL[v/vdb]}" "$W/v.b.model"
	take v s1 'vda vdb'
	D v create s1 external
	guest_write v vda 0x21 1M 2M
	guest_write v vdb 0x22 1M 2M
	take v s2 vda
	D v create s2 external disks=vda
	guest_write v vda 0x31 2M 2M
	good 'revert: the plan' v revert-plan s1
	has_ 'by hand on this libvirt' "$OUT" '^way by hand'
	has_ 'on what s1 froze' "$OUT" "^overlay vda $I/v.vda.s1-2.qcow2 on $I/v.vda.qcow2"
	good 'revert: external, two disks' v revert s1
	cp "$W/v.a.model" "${MODEL[v/vda]}"
	cp "$W/v.b.model" "${MODEL[v/vdb]}"
	all_right 'after the revert' v
	same_ 'shut off' 'shut off' "$(V domstate v)"
	same_ 'the current snapshot' s1 "$(V snapshot-current v --name)"
	same_ 'the old overlays stay' 'v.vda.s1-2.qcow2 v.vda.s1.qcow2 v.vda.s2.qcow2' "$(files_like 'v.vda.s')"
	same_ 'the new ones are private' 600 "$(stat -c %a "$I/v.vda.s1-2.qcow2")"
	guest_write v vda 0x41 3M 1M
	take v br 'vda vdb'
	good 'the next one is a branch' v create br external
	same_ 'its parent' s1 "$(V snapshot-dumpxml v br | grep -A1 '<parent>' | sed -n 's/.*<name>\(.*\)<.*/\1/p')"
	all_right 'with a branch' v
	guest_write v vdb 0x42 3M 1M
	good 'revert: a disk that took no part keeps what it has' v revert s2
	cp "${MODEL[v/vda]}" "$W/v.c.model"
	qemu_bytes "$(pit v s2 vda)" "${MODEL[v/vda]}"
	all_right 'after that revert' v
	Vq start v --paused
	bad 'revert: not while it runs' EBUSY 'running' v revert s1
	V destroy v >/dev/null
	mv "$I/v.vdb.qcow2" "$I/v.vdb.away"
	bad 'revert: an image is gone' ENOENT "v.vdb.qcow2" v revert s1
	mv "$I/v.vdb.away" "$I/v.vdb.qcow2"
	local before
	before=$(V dumpxml --inactive v | sha256sum)
	# A definition that libvirt refuses: its emulator does not exist any more.
	V snapshot-dumpxml --security-info v s1 | sed 's,/usr/bin/qemu-system-x86_64,/nowhere/qemu,' >"$W/s1.xml"
	if OUT=$("$DRIVE" "$URI" v redefine <"$W/s1.xml" 2>/dev/null); then
		local files
		files=$(files_like '^v\.')
		bad 'revert: libvirt refuses the definition' 'E[A-Z]+' . v revert s1
		same_ 'the domain is as before' "$before" "$(V dumpxml --inactive v | sha256sum)"
		same_ 'and so are the files' "$files" "$(files_like '^v\.')"
		same_ 'and the current snapshot' s2 "$(V snapshot-current v --name)"
	fi

	domain_with w vda:16M
	guest_write w vda 0x11 0 2M
	cp "${MODEL[w/vda]}" "$W/w.model"
	good 'internal, shut off' w create i internal
	guest_write w vda 0x12 0 2M
	good 'revert: internal, shut off' w revert i
	cp "$W/w.model" "${MODEL[w/vda]}"
	all_right 'after an internal revert' w
	Vq start w --paused
	guest_write w vda 0x13 1M 2M
	cp "${MODEL[w/vda]}" "$W/w.model"
	good 'internal, running' w create im internal
	guest_write w vda 0x14 0 2M
	V destroy w >/dev/null
	good 'revert: internal with memory' w revert im
	same_ 'it has its memory back' paused "$(V domstate w)"
	cp "$W/w.model" "${MODEL[w/vda]}"
	all_right 'after an internal revert with memory' w
	end_domain w

	domain_with z vda:16M
	Vq start z --paused
	guest_write z vda 0x11 0 2M
	cp "${MODEL[z/vda]}" "$W/z.model"
	take z m vda
	Vq snapshot-create-as z m --memspec "file=$I/z.mem,snapshot=external" --diskspec "vda,snapshot=external,file=$I/z.vda.m.qcow2"
	guest_write z vda 0x12 0 2M
	V destroy z >/dev/null
	good 'revert: external with memory' z revert m
	same_ 'it has its memory back' paused "$(V domstate z)"
	cp "$W/z.model" "${MODEL[z/vda]}"
	guest_write z vda 0x13 4M 1M
	all_right 'after an external revert with memory' z
	end_domain z
	all_right 'and when shut off' z
	echo junk >"$I/z.mem"
	local top
	top=$(tops z)
	bad 'revert: the memory cannot be restored' 'E[A-Z]+' "saved memory '$I/z.mem'" z revert m
	same_ 'the domain is as before' "$top" "$(tops z)"
	all_right 'as before' z
}

# ---------------------------------------------------------------- metadata

test_metadata() {
	domain_with e vda:4M
	local uri=https://example.org/x/1
	bad 'metadata: none' ENOENT . e meta-get $uri
	good 'metadata: removing none' e meta-set k $uri
	good 'metadata: set, shut off' e meta-set k $uri "<a b='1'/>"
	Vq start e --paused
	good 'metadata: get' e meta-get $uri
	has_ 'as set' "$OUT" '<a b="1"/>'
	good 'metadata: set, running' e meta-set k $uri "<a b='2'/>"
	has_ 'in the instance' "$(V metadata e $uri --live)" 'b="2"'
	has_ 'in the configuration' "$(V metadata e $uri --config)" 'b="2"'
	bad 'metadata: not well-formed' 'E[A-Z]+' . e meta-set k $uri '<a'
	good 'metadata: removed' e meta-set k $uri
	bad 'metadata: gone' ENOENT . e meta-get $uri
	end_domain e
}

# ---------------------------------------------------------------- what only a daemon can show

# during DOM VERB...: runs it in the background, until its progress shows; then $DURING is its process.
during() {
	"$DRIVE" "$URI" "$@" progress >"$W/.during" 2>"$W/.err" </dev/null &
	DURING=$!
	wait_until 10 grep -q '^progress' "$W/.during" || die "no progress from $*: $(cat "$W/.during")"
}
# during_ends: its output in $OUT.
during_ends() {
	wait "$DURING"
	OUT=$(cat "$W/.during")
}

test_daemon() {
	local pid start
	chain4 q 128M 24
	Vq blockpull q vda --base "$I/q.vda.a.qcow2" --bandwidth 1
	good "another's job" q jobs
	has_ 'is listed' "$OUT" '^job vda type 1 cur [0-9]+ end 134217728 bandwidth 1048576$'
	bad 'commit: not beside it' EBUSY 'a job is running' q commit vda "$I/q.vda.a.qcow2" "$I/q.vda.b.qcow2"
	has_ 'and nothing was touched' "$OUT" 'touched=0'
	bad 'pull: not beside it' EBUSY 'a job is running' q pull vda
	bad 'create: not beside it' EBUSY 'a job is running' q create x external
	Vq blockjob q vda --abort

	# Somebody aborts our job.
	during q pull vda "$I/q.vda.a.qcow2" bandwidth=1048576
	Vq blockjob q vda --abort
	during_ends
	has_ 'our job is aborted by somebody: an error' "$OUT" 'error EIO .*without having done its work'
	has_ 'our job is aborted by somebody: not done' "$OUT" 'done=0'
	all_right 'after that' q

	# libvirtd dies and comes back. The job goes on without it.
	during q commit vda "$I/q.vda.a.qcow2" "$I/q.vda.b.qcow2" bandwidth=1048576
	start=$(date +%s%N)
	lab_libvirtd_kill KILL
	during_ends
	has_ 'libvirtd is killed during a commit' "$OUT" 'error EHOSTDOWN .*libvirt went away during the commit.*may be going on'
	has_ 'touched, not done' "$OUT" 'touched=1 done=0'
	check "$KIND: noticed at once" test $((($(date +%s%N) - start) / 1000000)) -lt 5000
	lab_libvirtd_start
	good 'afterwards the job is still there' q jobs
	has_ 'afterwards the job is still there' "$OUT" '^job vda type 3 '
	bad 'afterwards a repetition waits its turn' EBUSY . q commit vda "$I/q.vda.a.qcow2" "$I/q.vda.b.qcow2"
	Vq blockjob q vda --bandwidth 0
	sleep 2
	lose q b
	good 'afterwards the record follows' q move c vda "$I/q.vda.b.qcow2" "$I/q.vda.a.qcow2"
	all_right 'afterwards' q

	end_domain q

	# libvirtd is killed during its own delete. (QEMU is stopped meanwhile: it must not come to the pivot, for a libvirtd 9.0
	# that is killed there may lose the domain.)
	domain_with u vda:400M
	take u a vda
	D u create a external
	guest_write u vda 0x11 0 1M
	take u b vda
	D u create b external
	guest_write u vda 0x12 1M 300M
	Vq start u --paused
	during u delete b
	pid=$(qemu_pid u)
	kill -STOP "$pid"
	lab_libvirtd_kill KILL
	kill -CONT "$pid"
	during_ends
	has_ 'libvirtd is killed during a delete' "$OUT" 'error EHOSTDOWN .*deleted snapshot .b., which may be going on'
	lab_libvirtd_start
	wait_until 20 no_job u || die "a job stays: $OUT"
	good 'unfinished delete' u unfinished
	has_ 'is noted at the parent' "$OUT" '^unfinished a$'
	lose u b
	all_right 'the domain and the other snapshot' u
	good 'the note can be taken away' u finish a
	good 'and then there is none' u unfinished
	has_ 'and then there is none' "$OUT" '^unfinished -$'
	good 'the delete is repeated' u delete b
	good 'no note is left' u unfinished
	has_ 'no note is left' "$OUT" '^unfinished -$'
	all_right 'after the repeated delete' u
	end_domain u

	chain4 t
	end_domain t
	good 'a tied start' t start tie
	has_ 'is tied' "$OUT" 'tied=1'
	check "$KIND: it goes with its connection" wait_until 5 shut_off t
	lab_libvirtd_kill TERM
	bad 'no libvirtd' 'E[A-Z]+' . t jobs
	lab_libvirtd_start
	all_right 'nothing has happened' t
}
# shellcheck disable=SC2317
shut_off() { ! running "$1"; }
# shellcheck disable=SC2317
no_job() { D "$1" jobs && ! grep -q ^job <<<"$OUT"; }

everything() {
	KIND=$1
	FROZEN=() MODEL=()
	test_create
	test_commit
	test_pull
	test_middle
	test_paused
	test_delete
	test_reconcile
	test_revert
	test_metadata
}

# shellcheck disable=SC2119
lab_libvirtd
everything libvirtd
test_daemon
rm -rf "$I"
lab_embed
everything embed
suite_end
