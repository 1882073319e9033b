# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
# shellcheck shell=bash
#
# lab.sh: private libvirts with guests that need neither KVM nor an operating system. Read after lib.sh, used within
# suite_in_namespace: the daemons see private /etc/libvirt, /var/lib/libvirt, /var/log/libvirt, /var/cache/libvirt and
# /run, no control groups and no D-Bus, so nothing of the host is touched, and all of it is gone with the namespace.
#
# Besides, this file keeps the books that the suites check against. Every guest disk has a *model*, a plain file to which
# each guest write is applied as well. When a snapshot is made, the model is what that snapshot must read as for ever:
# its sha256 goes to WANT["DOMAIN/SNAPSHOT.TARGET.img"]. What must be readable thus comes from what the test did and
# never from what virt-snapfs lists.

URI=
declare -A WANT=() MODEL=() SIZE=()

V() { LIBVIRT_LOG_OUTPUTS=4:file:/dev/null virsh -q -c "$URI" "$@" 2>"$W/.virsh.err" </dev/null; }
# Vq COMMAND...: no output; on failure the suite ends, for the lab itself is broken then.
Vq() {
	V "$@" >/dev/null || die "virsh $*: $(tr '\n' ' ' <"$W/.virsh.err")"
}

# ---------------------------------------------------------------- libvirt

lab_private_dirs() {
	local d
	mount -t tmpfs -o mode=755 tmpfs /run || die "cannot mount over /run"
	umount -l /sys/fs/cgroup 2>/dev/null
	for d in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
		mkdir -p "$d"
		mount -t tmpfs -o mode=755 tmpfs "$d" || die "cannot mount over $d"
	done
	mkdir -p /run/libvirt /run/lock /run/mount /etc/libvirt/qemu /var/lib/libvirt/images
	chmod 711 /var/lib/libvirt/images
}

# lab_libvirtd [own]: a libvirtd for qemu:///system. Its QEMU runs as root and leaves the owners of images alone; with
# `own` it has libvirt's defaults instead: another user, and images that change hands at start and stop.
lab_libvirtd() {
	lab_private_dirs
	# namespaces: QEMU's own /dev cannot be made where /dev/kvm is covered. max_core: under sudo there is no more to be had.
	printf '%s\n' 'security_driver = "none"' 'stdio_handler = "file"' 'namespaces = []' 'max_core = 0' >/etc/libvirt/qemu.conf
	[ "${1:-}" = own ] ||
		printf '%s\n' 'user = "root"' 'group = "root"' 'swtpm_user = "root"' 'swtpm_group = "root"' 'dynamic_ownership = 0' >>/etc/libvirt/qemu.conf
	printf '%s\n' 'auth_unix_rw = "none"' 'auth_unix_ro = "none"' 'log_outputs = "3:file:/var/log/libvirt/libvirtd.log"' \
		>/etc/libvirt/libvirtd.conf
	: >/etc/libvirt/virtlogd.conf
	URI=qemu:///system
	virtlogd -d -p /run/virtlogd.pid || die "virtlogd does not start"
	at_exit 'end_pid "$(cat /run/virtlogd.pid)"'
	at_exit lab_guests_end
	at_exit 'end_pid "$(cat /run/libvirtd.pid)"'
	lab_libvirtd_start
}
lab_libvirtd_start() {
	libvirtd -d -p /run/libvirtd.pid || die "libvirtd does not start"
	wait_until 20 V list || die "libvirtd does not answer: $(tail -5 /var/log/libvirt/libvirtd.log)"
}
# lab_libvirtd_kill SIGNAL
lab_libvirtd_kill() {
	local pid
	pid=$(cat /run/libvirtd.pid)
	kill "-$1" "$pid"
	wait_until 10 gone "$pid" || die "libvirtd does not end"
	rm -f /run/libvirtd.pid
}
# lab_libvirtd_goes_on: it was stopped by SIGSTOP and runs again. The event loop of libvirt 9.0 was seen to crash at that, with
# many connections that broke off meanwhile (a segmentation fault in its own watches, once in some hundred runs): it is started
# again, as systemd does it on a host, and the suite says so.
lab_libvirtd_goes_on() {
	local pid
	pid=$(cat /run/libvirtd.pid)
	kill -CONT "$pid"
	wait_until 60 eval 'gone "$pid" || V list' || die "libvirtd does not go on"
	gone "$pid" || return 0
	echo '# libvirtd crashed when it went on after SIGSTOP; it is started again'
	rm -f /run/libvirtd.pid
	lab_libvirtd_start
}
# shellcheck disable=SC2329,SC2317
lab_guests_end() {
	local f
	for f in /run/libvirt/qemu/*.pid "$W"/e*/run/qemu/*.pid; do
		[ -s "$f" ] && [ "$(basename "$f")" != driver.pid ] && end_pid "$(cat "$f")"
	done
}

# lab_embed: a libvirt without a daemon below $ROOT. Only one process may have it open: virsh works only while nothing is
# mounted. The guests outlive virsh. What is mounted is the plain build: libvirt forks and goes on to allocate in the child, whose
# AddressSanitizer then waits for ever, one time in a hundred, for a lock that a thread of the parent had.
lab_embed() {
	[ -n "$URI" ] || lab_private_dirs
	SNAPFS=$BUILD/fs/virt-snapfs
	ROOT=$(mktemp -d "$W/eXXX")
	chmod 755 "$ROOT"
	mkdir "$ROOT/etc"
	printf '%s\n' 'user = "root"' 'group = "root"' 'dynamic_ownership = 0' 'security_driver = "none"' \
		'stdio_handler = "file"' 'namespaces = []' 'max_core = 0' >"$ROOT/etc/qemu.conf"
	URI="qemu:///embed?root=$ROOT"
	at_exit lab_guests_end
}

# ---------------------------------------------------------------- domains

# disk_xml TARGET FORMAT PATH [file|block] [EXTRA-XML]: one <disk>.
disk_xml() {
	local type=${4:-file} attr=file
	[ "$type" = block ] && attr=dev
	printf "<disk type='%s' device='disk'><driver name='qemu' type='%s'/><source %s='%s'/><target dev='%s' bus='virtio'/>%s</disk>\n" \
		"$type" "$2" "$attr" "$3" "$1" "${5:-}"
}

# domain_xml NAME [DEVICES-XML] [UUID]
domain_xml() {
	local name
	name=$(sed 's/&/\&amp;/g; s/</\&lt;/g' <<<"$1")
	cat <<-X
		<domain type='qemu'>
		  <name>$name</name>${3:+<uuid>$3</uuid>}
		  <memory unit='MiB'>64</memory>
		  <vcpu>1</vcpu>
		  <os><type arch='x86_64' machine='pc'>hvm</type></os>
		  <devices>
		    <emulator>/usr/bin/qemu-system-x86_64</emulator>
		    ${2:-}
		  </devices>
		</domain>
	X
}

# domain_define NAME [DEVICES-XML]
domain_define() {
	domain_xml "$1" "${2:-}" >"$W/.dom.xml"
	Vq define "$W/.dom.xml"
}

# domain_with DOM TARGET:SIZE[:FORMAT]...: images, models and the domain; its images are $W/images/DOM.TARGET.qcow2 (or .raw).
domain_with() {
	local dom=$1 spec target size format path xml=''
	shift
	mkdir -p "$W/images"
	chmod 711 "$W/images"
	for spec; do
		IFS=: read -r target size format <<<"$spec"
		format=${format:-qcow2}
		path=$W/images/$dom.$target.$format
		qemu-img create -q -f "$format" "$path" "$size" || die "qemu-img create $path"
		model_new "$dom" "$target" "$size"
		xml+=$(disk_xml "$target" "$format" "$path")
	done
	domain_define "$dom" "$xml"
}

# model_new DOM TARGET SIZE
model_new() {
	mkdir -p "$W/model"
	MODEL[$1/$2]=$W/model/$1.$2
	rm -f "${MODEL[$1/$2]}"
	truncate -s "$3" "${MODEL[$1/$2]}"
}

running() { [ "$(V domstate "$1")" != 'shut off' ]; }
# active_path DOM TARGET: the file that is being written now.
active_path() { V domblklist "$1" | awk -v t="$2" '$1 == t { sub(/^ *[^ ]+ +/, ""); print }'; }

# guest_write DOM TARGET BYTE OFFSET LENGTH: by QEMU if the domain runs, into the active file if it does not, and always
# into the model.
guest_write() {
	local dom=$1 target=$2 out n
	qemu-io -f raw -c "write -q -P $3 $4 $5" "${MODEL[$dom/$target]}" >/dev/null || die "cannot write the model of $dom/$target"
	if running "$dom"; then
		n=$(printf '%d' "'${target:2:1}")
		n=$((n - 97))
		out=$(V qemu-monitor-command "$dom" --hmp "qemu-io -d /machine/peripheral/virtio-disk$n/virtio-backend \"write -q -P $3 $4 $5\"") &&
			out+=$(V qemu-monitor-command "$dom" --hmp "qemu-io -d /machine/peripheral/virtio-disk$n/virtio-backend \"flush\"")
		out=$(tr -d '[:space:]' <<<"$out")
		[ -z "$out" ] || die "guest write to $dom/$target: $out"
	else
		qemu-io -f qcow2 -c "write -q -P $3 $4 $5" "$(active_path "$dom" "$target")" >/dev/null || die "write to $dom/$target"
	fi
}

# want DOM SNAPSHOT TARGET [SHOWN-NAME]: from now on, what the model holds is what that file must read as.
want() {
	local key="$1/${4:-$2.$3.img}"
	WANT[$key]=$(sha "${MODEL[$1/$3]}")
	SIZE[$key]=$(stat -c %s "${MODEL[$1/$3]}")
}
# want_gone DOM SNAPSHOT TARGET...
want_gone() {
	local dom=$1 snap=$2 t
	shift 2
	for t; do unset "WANT[$dom/$snap.$t.img]" "SIZE[$dom/$snap.$t.img]"; done
}

# snap DOM NAME TARGETS [VIRSH-ARGUMENT...]: virsh snapshot-create-as, and the books. TARGETS is space-separated: the disks
# that take part.
snap() {
	local dom=$1 name=$2 targets=$3 t
	shift 3
	Vq snapshot-create-as "$dom" --name "$name" "$@"
	for t in $targets; do want "$dom" "$name" "$t"; done
}

# books_agree NAME DOM/TARGET...: QEMU's reading of the present content equals the model, so the books are right.
books_agree() {
	local name=$1 key bad=''
	shift
	for key; do
		qemu_bytes "$(active_path "${key%/*}" "${key#*/}")" "$W/.now.img" || bad+=" $key: qemu-img failed;"
		[ "$(sha "$W/.now.img")" = "$(sha "${MODEL[$key]}")" ] || bad+=" $key differs;"
	done
	rm -f "$W/.now.img"
	if [ -n "$bad" ]; then fail "$name" "$bad"; else ok "$name"; fi
}

# ---------------------------------------------------------------- checking a mount against the books

# sum_of FILE: its sha256, or nothing if it gives an error.
sum_of() { sha256sum 2>"$W/.sum.err" "$1" | sed 's/^\\//' | cut -c1-64; }

# verify_bytes NAME MNT DOM...: every image that must be there reads as it must, size included.
verify_bytes() {
	local name=$1 mnt=$2 dom key bad='' got n=0
	shift 2
	for dom; do
		for key in "${!WANT[@]}"; do
			[ "${key%%/*}" = "$dom" ] || continue
			n=$((n + 1))
			got=$(sum_of "$mnt/$key")
			if [ -z "$got" ]; then
				bad+=" $key: $(head -1 "$W/.sum.err");"
			elif [ "$got" != "${WANT[$key]}" ]; then
				bad+=" $key: WRONG BYTES;"
			elif [ "$(stat -c %s "$mnt/$key")" != "${SIZE[$key]}" ]; then
				bad+=" $key: st_size $(stat -c %s "$mnt/$key") instead of ${SIZE[$key]};"
			fi
		done
	done
	if [ "$n" = 0 ]; then
		fail "$name" "nothing to compare"
	elif [ -n "$bad" ]; then
		fail "$name" "$(head -c 700 <<<"$bad")"
	else
		ok "$name"
	fi
}

# listed MNT DOM: its image files, sorted.
listed() { find "$1/$2" -mindepth 1 -maxdepth 1 -name '*.img' -printf '%f\n' | LC_ALL=C sort; }
wanted() {
	local key
	for key in "${!WANT[@]}"; do [ "${key%%/*}" = "$1" ] && printf '%s\n' "${key#*/}"; done | LC_ALL=C sort
}
listed_as_wanted() { [ "$(listed "$1" "$2")" = "$(wanted "$2")" ]; }

# verify_listing NAME MNT DOM...: exactly the images of the books are there, soon (the machine may be busy).
verify_listing() {
	local name=$1 mnt=$2 dom bad=''
	shift 2
	for dom; do
		wait_until 15 listed_as_wanted "$mnt" "$dom" ||
			bad+=" $dom: $(diff <(wanted "$dom") <(listed "$mnt" "$dom") | grep '^[<>]' | sed 's/^</missing/; s/^>/unexpected/' | tr '\n' ' ')"
	done
	if [ -n "$bad" ]; then fail "$name" "$bad"; else ok "$name"; fi
}

# never_wrong NAME MNT DOM FILE SHA...: the file is not there, or gives an error, or reads as one of the given sums.
never_wrong() {
	local name=$1 mnt=$2 file=$3/$4 got s
	shift 4
	if [ -e "$mnt/$file" ] && got=$(sum_of "$mnt/$file") && [ -n "$got" ]; then
		for s; do
			[ "$got" = "$s" ] && ok "$name" && return
		done
		fail "$name" "$file gives other bytes than at the snapshot"
	else
		ok "$name"
	fi
}

# state MNT DOM SNAPSHOT: as snapshots.json has it ("" where it is not listed).
state() { jq -r --arg n "$3" '.snapshots[] | select(.name == $n) | .state' "$1/$2/snapshots.json"; }
state_is() { [ "$(state "$1" "$2" "$3")" = "$4" ]; }
# field MNT DOM SNAPSHOT FILTER
field() { jq -r --arg n "$3" ".snapshots[] | select(.name == \$n) | $4" "$1/$2/snapshots.json"; }
# becomes NAME MNT DOM SNAPSHOT STATE: soon.
becomes() {
	if wait_until 15 state_is "$2" "$3" "$4" "$5"; then
		ok "$1"
	else
		fail "$1" "state of $4 is '$(state "$2" "$3" "$4")' ($(field "$2" "$3" "$4" .reason)), expected $5"
	fi
}

# faults_pick: after snapfs_pick: SNAPFS has fault points. They are there only in a build that was asked for them, as run.sh's second one is.
faults_pick() {
	grep -q VIRT_SNAPFS_FAULT "$SNAPFS" && return
	note 'building one with fault points'
	{ meson setup "$W/build" "$TOP" -Dfaults=true -Dtests=false && ninja -C "$W/build" fs/virt-snapfs; } >"$W/build.log" 2>&1 ||
		die "it does not build: $(tail -3 "$W/build.log")"
	SNAPFS=$W/build/fs/virt-snapfs
}
