# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
# shellcheck shell=bash
#
# ctl-lib.sh: writing commands, for suites that have read lib.sh and lab.sh. $M is the mount.
# shellcheck disable=SC2034 # OUT is read by suites

# ctl DOM TEXT...: one write each through one open file; prints 0 or the errno's name for each.
ctl() { python3 "$TESTS/control/door.py" write "$M/$1/ctl" "${@:2}"; }
outcome() { head -n 1 "$M/$1/ctl"; }

# but_notes: without what a mount notes by itself (attest.c); marks, holds and policies remain.
but_notes() { sed -E '/<snapfs:f /d; /<snapfs:s /{/ (b="|is="[a-z]*h)/!d}; :a; s/(<snapfs:(facts|s) [^>]*) (serial|p|v|w)="[^"]*"/\1/; ta'; }
# picture_of_all: all that a command could change: the bytes of every image file, libvirt's files of definitions and snapshots
# (those of lab_libvirtd), and the running instances. One client asks for all of them, since each takes long on a busy machine.
all_that_changes() {
	find "$W/images" -type f -exec sha256sum {} + | LC_ALL=C sort
	find /etc/libvirt/qemu /var/lib/libvirt/qemu/snapshot -name '*.xml' | LC_ALL=C sort | while read -r f; do
		printf '%s\n' "$f"
		cat "$f"
	done
	virsh -q -c "$URI" "$(V list --all --name | sed -n "s/..*/domstate '&'; dumpxml '&';/p" | tr '\n' ' ')" 2>&1
}
picture_of_all() { all_that_changes | but_notes; }

# does NAME DOM COMMAND
does() {
	local got
	got=$(ctl "$2" "$3\n")
	if [ "$got" = 0 ]; then ok "$1"; else fail "$1" "$got: $(outcome "$2")"; return 1; fi
}
# does_not NAME DOM COMMAND ERRNO PATTERN: the errno (ERE), and a sentence that matches.
does_not() {
	local got said
	got=$(ctl "$2" "$3\n")
	said=$(outcome "$2")
	if ! grep -Eqx "$4" <<<"$got"; then
		fail "$1" "$got instead of $4: $said"
	elif ! grep -Eq -e "$5" <<<"$said"; then
		fail "$1" "'$said' does not match /$5/"
	elif ! tail -n 5 "$M/$2/log" | grep -qF -e "${said:0:200}"; then
		fail "$1" "the log has no '$said'"
	else
		ok "$1"
	fi
}
# refused NAME DOM COMMAND ERRNO PATTERN [changes|try-may-pass]: does_not, nothing has changed, and `try` says the same.
refused() {
	local name=$1 dom=$2 before got
	before=$(picture_of_all)
	if [ "${6:-}" != changes ] && [[ $3 != try* ]]; then
		got=$(ctl "$dom" "try $3\n")
		[ "${6:-}" = try-may-pass ] || grep -Eqx "$4" <<<"$got" || fail "$name (try)" "$got instead of $4: $(outcome "$dom")"
	fi
	does_not "$name" "$dom" "$3" "$4" "$5"
	[ "${6:-}" = changes ] || diff <(cat <<<"$before") <(picture_of_all) >"$W/.diff" || fail "$name: nothing changed" "$(head -c 400 "$W/.diff" | tr '\n' '|')"
}
# takes NAME DOM COMMAND SNAPSHOT TARGETS [SHOWN]: a create, and the books.
takes() {
	local t
	does "$1" "$2" "$3" || return
	for t in $5; do want "$2" "$4" "$t" "${6:-$4}.$t.img"; done
}

# swift NAME COMMAND...: within a second; the best of five counts, for others are at work on this machine. Its output is $OUT.
swift() {
	local name=$1 begun took best=999999
	shift
	for _ in 1 2 3 4 5; do
		begun=$(date +%s%N)
		OUT=$("$@" 2>&1)
		took=$((($(date +%s%N) - begun) / 1000000))
		[ "$took" -lt "$best" ] && best=$took
		[ "$best" -lt 1000 ] && break
	done
	if [ "$best" -lt 1000 ]; then ok "$name"; else fail "$name" "took $best ms"; fi
}
# job_row MNT DOM COMMAND: the row of that job, or nothing.
job_row() { grep -E "^([0-9]+|-) +$3 " "$1/$2/jobs"; }
job_id() { job_row "$1" "$2" "$3" | sed 's/ .*//'; }
# moving MNT DOM COMMAND: the job is at work, and some of it is done.
moving() { job_row "$1" "$2" "$3" | grep -Eq ' [1-9][0-9]*%'; }
no_jobs() { [ "$(wc -l <"$1/$2/jobs")" = 1 ]; }

# guest_agrees NAME DOM/TARGET...: books_agree, once QEMU has written what a job left in its caches.
guest_agrees() {
	local key n
	for key in "${@:2}"; do
		running "${key%/*}" || continue
		n=$(($(printf '%d' "'${key: -1}") - 97))
		V qemu-monitor-command "${key%/*}" --hmp "qemu-io -d /machine/peripheral/virtio-disk$n/virtio-backend \"flush\"" >/dev/null
	done
	books_agree "$@"
}

# hold_open ID FILE: a process that has it open. read_again ID: it reads all of it; prints the sum, or the errno. let_go ID.
hold_open() {
	eval "exec {$1_in}> >(exec python3 '$TESTS/control/door.py' hold '$2' >'$W/$1.out' 2>&1)"
	wait_until 15 grep -q open "$W/$1.out"
}
read_again() {
	local lines fd=$1_in
	lines=$(wc -l <"$W/$1.out")
	echo >&"${!fd}"
	wait_until 30 more_lines "$W/$1.out" "$lines"
	tail -n 1 "$W/$1.out"
}
more_lines() { [ "$(wc -l <"$1")" -gt "$2" ]; }
let_go() { local fd=$1_in; eval "exec {$1_in}>&-"; }
# watch_begin ID FILE SUM: a process that reads it again and again, and compares with the sum. watch_end ID fills $OUT: `right 0` and
# the errors that it met, `right N` if N reads gave other bytes.
watch_begin() {
	eval "exec {$1_in}> >(exec python3 '$TESTS/control/door.py' watch '$2' '$3' >'$W/$1.out' 2>&1)"
	wait_until 15 grep -q reading "$W/$1.out"
}
watch_end() {
	local fd=$1_in
	echo >&"${!fd}" # another one that began later may have inherited it, so closing would not do
	eval "exec {$1_in}>&-"
	wait_until 30 more_lines "$W/$1.out" 1
	OUT=$(tail -n 1 "$W/$1.out")
}
