#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# What is written is true: --help, man page and README agree on the options, the README's sessions give the output that is
# printed there, the borders between the folders hold, and the scripts are clean.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
SNAPFS=${SNAPFS:-$BUILD/fs/virt-snapfs}
snapfs_pick
cd "$TOP" || die "no $TOP"

# ---------------------------------------------------------------- borders

# Which includes may be is said in borders.py. It is tried out first, on a copy to which something is added that may not be.
borders() { "$TESTS/borders.py" "$@" 2>&1; }
plant() { # TITLE FILE INCLUDE WHAT-IT-IS-TO-SAY
	rm -rf "$W/planted" && mkdir "$W/planted" && cp -r fs qcow2 vm "$W/planted/"
	mkdir -p "$(dirname "$W/planted/$2")"
	printf '#include %s\n' "$3" >>"$W/planted/$2"
	same "borders: it is seen that $1" "$4" "$(borders "$W/planted")"
}
plant 'a room looks up' vm/util/clock.c '"vm/model/names.h"' 'vm/util/clock.c: includes vm/model/names.h: a folder that it may not include'
plant 'a room looks where it may not' vm/graph/walk.c '"vm/xml/xml.h"' 'vm/graph/walk.c: includes vm/xml/xml.h: a folder that it may not include'
plant 'the public header is used inside' vm/libvirt/planted.c '"vm/vm.h"' 'vm/libvirt/planted.c: includes vm/vm.h: a folder that it may not include'
plant 'a private header is used outside' vm/inventory/build.c '"vm/graph/graph-priv.h"' 'vm/inventory/build.c: includes vm/graph/graph-priv.h: private to its folder'
plant 'fs/ looks deeper than the public header' fs/tree.c '"vm/model/names.h"' 'fs/tree.c: includes vm/model/names.h: a folder that it may not include'
plant 'fs/ knows libvirt' fs/tree.c '<libvirt/libvirt.h>' 'fs/tree.c: includes <libvirt/libvirt.h>: not in this folder'
plant 'a pure room knows libvirt' vm/language/retain.c '<libvirt/libvirt.h>' 'vm/language/retain.c: includes <libvirt/libvirt.h>: not in this folder'
plant 'qcow2/ knows vm/' qcow2/map.c '"vm/vm.h"' 'qcow2/map.c: includes vm/vm.h: a folder that it may not include'
plant 'a room is new' vm/attic/chest.c '"vm/vm.h"' 'vm/attic/chest.c: includes vm/vm.h: no such room'
plant 'nothing is wrong where a module includes another of its folder' vm/util/utf8.c '"vm/util/clock.h"' ''
echo '#include "vm/util/utf8.h"' >>"$W/planted/vm/util/clock.h"
same 'borders: it is seen that two modules include one another' 'circle: vm/util/clock vm/util/utf8' "$(borders "$W/planted")"
sed 's|^EXCEPTIONS = """|&\nvm/util/utf8.c vm/util/mem.h|' "$TESTS/borders.py" >"$W/borders.py"
same 'borders: it is seen that an exception is not needed' 'vm/util/utf8.c: the exception for vm/util/mem.h is not needed any more' "$(python3 "$W/borders.py" . 2>&1)"
same 'borders: every include goes where it may' '' "$(borders)"
# symbols FOLDER REGEX [NAME]: what the libraries of that folder (or the one of that name) call.
symbols() { find "$BUILD/$1" -name "${3:-*.a}" -exec nm -u {} + 2>/dev/null | awk '{print $2}' | grep -E "$2" | sort -u | xargs; }
same 'borders: qcow2/ calls no FUSE, libvirt or libxml2' '' "$(symbols qcow2 '^(fuse_|vir[A-Z]|xml[A-Z]|vm_|sf_|syslog|json_object_to)')"
same 'borders: vm/ calls no FUSE' '' "$(symbols vm '^(fuse_|sf_)')"
same 'borders: what knows no libvirt calls none' '' "$(symbols vm '^vir[A-Z]' libvm-pure.a)"
check 'borders: this test sees symbols at all' test -n "$(symbols vm '^vir[A-Z]' libvm.a)"

# ---------------------------------------------------------------- options

"$SNAPFS" --help >"$W/help"
# Options as words: "-f", "--help", "allow_other", "refresh=".
options_in_help() {
	sed -nE 's/^    (-[a-zA-Z](, --[a-z-]+)?).*/\1/p' "$W/help" | tr -d ' ' | tr ',' '\n' | grep -v '^-o$'
	sed -nE 's/^    -o ([a-z_]+=?).*/\1/p' "$W/help"
}
# README: the first column of its options table.
options_in_readme() {
	sed -nE '/^## Mounting/,/^## [^M]/s/^\| `([^|]*)` \|.*/\1/p' README.md | sed 's/`, `/\n/g; s/` `/\n/g' | sed -E 's/^-o //; s/=.*/=/'
}
# Man page: the tags of its OPTIONS section, as a terminal shows them.
options_in_man() {
	mandoc -T ascii -O width=200 fs/virt-snapfs.8 | sed 's/.\x08//g' | sed -nE '/^OPTIONS/,/^[A-Z][A-Z ]+$/p' >"$W/man.options"
	sed -nE 's/^ {4,8}(-[a-zA-Z].*)$/\1/p' "$W/man.options" |
		sed -E 's/^-o +//; s/, /\n/g' | sed -E 's/^(-[a-zA-Z]|--[a-z-]+) .*/\1/; s/=.*/=/' | grep -E '^(-[a-zA-Z]|--[a-z-]+|[a-z_]+=?)$'
}
options_in_help | sort -u >"$W/o.help"
options_in_readme | sort -u >"$W/o.readme"
check '--help lists options' test "$(wc -l <"$W/o.help")" -ge 12
same 'options: README as --help' "$(cat "$W/o.help")" "$(cat "$W/o.readme")"
if [ -f fs/virt-snapfs.8 ]; then
	options_in_man | sort -u >"$W/o.man"
	same 'options: man page as --help' "$(grep -v '^-o$' "$W/o.help")" "$(grep -v '^-o$' "$W/o.man")"
	same 'man page: mandoc finds nothing' '' "$(mandoc -T lint -W warning fs/virt-snapfs.8 2>&1 | grep -v 'mandoc: see above')"
	same 'man page: man finds nothing' '' "$(MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z fs/virt-snapfs.8 2>&1 >/dev/null)"
	# What mdoc makes of one macro inside another is seen only in what is printed.
	for tool in 'mandoc -T ascii -O width=200' 'man -E ascii -l'; do
		printed=$(MANWIDTH=200 $tool fs/virt-snapfs.8 | sed 's/.\x08//g' | sed -n '/^DIAGNOSTICS/,/^SECURITY/p')
		has "man page: ${tool%% *} prints the errors" "$printed" '^ +\[EHOSTDOWN\], \[ETIMEDOUT\]$'
		has_not "man page: ${tool%% *} prints no bracket in a bracket" "$printed" '\[[^]]*\['
	done
	for w in FILES COMMANDS RETENTION 'EXIT STATUS' EXAMPLES 'SEE ALSO'; do has "man page: has $w" "$(cat fs/virt-snapfs.8)" "$w"; done
else
	fail 'man page' 'there is no fs/virt-snapfs.8'
fi
# What is accepted and not listed, or listed and not accepted.
while read -r o; do
	case $o in
	-*) continue ;;
	refresh=) v=1 ;;
	uid= | gid= | umask= | bandwidth=) v=0 ;;
	cache=) v=auto ;;
	lease=) v=on ;;
	list=) v=qcow2,diff,now ;;
	allow_path=) v=/ ;;
	*) v='' ;;
	esac
	"$SNAPFS" -f -o "$o$v" "$W/nothere.qcow2" "$W" >/dev/null 2>"$W/.err"
	same "options: '$o$v' is accepted" 1 $?
done <"$W/o.help"

# ---------------------------------------------------------------- what is installed

check 'meson install' env DESTDIR="$W/inst" meson install -C "$BUILD" --no-rebuild --quiet
same 'installed: the program and its man page' 'virt-snapfs virt-snapfs.8' "$(find "$W/inst" -type f -printf '%f\n' | sed 's/\.gz$//' | sort | xargs)"
check 'installed: it runs' "$(find "$W/inst" -name virt-snapfs -type f)" --version

same 'installed: the man page says which version' "$("$SNAPFS" --version | cut -d' ' -f1,2)" "$(sed -n 's/^\.Os //p' fs/virt-snapfs.8)"
# Where it was built is nobody's business. A build with sanitizers has it from libraries of its own.
same 'binaries: no path of the build' '' "$(grep -laF -e "$TOP/" "$BUILD/fs/virt-snapfs" "$BUILD"/{fs,fs/nbd,vm,qcow2}/lib*.a)"

# ---------------------------------------------------------------- whose it is, and under which terms

sources() { git ls-files --cached --others --exclude-standard 2>/dev/null || find . -type f -not -path './build*' -not -path './.git/*' | sed 's|^\./||'; }
# README.md has a section for it.
sources | grep -vxE 'LICENSE|README\.md' >"$W/sources"
check 'sources: found' test "$(wc -l <"$W/sources")" -gt 100
without() { while IFS= read -r f; do head -n 4 "$f" | grep -qE "$1" || echo "$f"; done | xargs; }
same 'sources: each says its licence' '' "$(without ' SPDX-License-Identifier: LGPL-2\.1-or-later( \*/)?$' <"$W/sources")"
same 'sources: and whose it is' '' "$(without ' Copyright \(C\) 2026 The virt-snapfs authors( \*/)?$' <"$W/sources")"

# ---------------------------------------------------------------- tests

same 'README: lists each suite once' "$(find tests/suites -name '*.sh' -printf '%f\n' | sed 's/\.sh$//' | LC_ALL=C sort)" \
	"$(sed -nE '/^## Tests/,/^## Sec/s/^\| `([a-z-]+)` \|.*/\1/p' README.md | LC_ALL=C sort)"
# GCC's silence is seen by who builds; clang's is seen here. The commands are those of the build, without their outputs.
if command -v clang >/dev/null && [ -f "$BUILD/compile_commands.json" ]; then
	jq -r '.[] | select(.file | test("tests/unit") | not) | .command' "$BUILD/compile_commands.json" |
		sed -E 's/^[^ ]+ /clang -fsyntax-only -fno-color-diagnostics /; s/ -Wimplicit-fallthrough//; s/ -MD -MQ [^ ]+ -MF [^ ]+//; s/ -o [^ ]+//' >"$W/clang.sh"
	check 'clang: there is something to look at' grep -q 'write\.c' "$W/clang.sh"
	same 'clang: no warnings' '' "$(cd "$BUILD" && bash "$W/clang.sh" 2>&1 | grep -E 'warning:|error:' | head -n 5)"
else
	skip 'clang: no warnings' 'no clang'
fi

# ---------------------------------------------------------------- the README's sessions

# Every ```console block is typed into one shell, in order, in a place such as the README presumes, and must print what is
# printed there. Dates are compared as dates, and bytes "of about" are written out in full, so there is nothing else to mask.
lab_libvirtd
mount -t tmpfs -o mode=755 tmpfs /srv
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p "$W/bin" "$W/home" /srv/images
ln -s "$SNAPFS" "$W/bin/virt-snapfs"
mkdir -p "$W/root/etc"
echo 'Monday was fine.' >"$W/root/etc/motd"
mke2fs -q -t ext4 -d "$W/root" "$W/fs.raw" 64M >/dev/null 2>&1
i=/srv/images
qemu-img convert -f raw -O qcow2 "$W/fs.raw" "$i/web01.qcow2"
qemu-img create -q -f qcow2 "$i/web01-data.qcow2" 16M
domain_define web01 "$(disk_xml vda qcow2 "$i/web01.qcow2")$(disk_xml vdb qcow2 "$i/web01-data.qcow2")"
cp "$i/web01.qcow2" "$W/home/old.qcow2"
qemu-img snapshot -c monday "$W/home/old.qcow2"
Vq snapshot-create-as web01 monday --disk-only
qemu-io -f qcow2 -c 'write -q -P 0 0 8M' "$i/web01.monday" >/dev/null
Vq start web01 --paused
Vq snapshot-create-as web01 tuesday --disk-only
qemu-img create -q -f qcow2 "$i/db01.qcow2" 16M
domain_define db01 "$(disk_xml vda qcow2 "$i/db01.qcow2")"
Vq start db01 --paused
awk '/^```console$/ { on = 1; next } /^```$/ { on = 0 } on' README.md >"$W/session"
check 'README: has sessions' test -s "$W/session"
mask() {
	sed -E 's/20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9:]{8}\+00:00/DATE/g; s/(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +[0-9]+ [0-9:]{5}/WHEN/g; s/^total [0-9]+/total N/
		s/[0-9]+(\.[0-9]+)? (KiB|MiB)  ( *)/SIZE  /g; s/(at most|would free) [0-9.]+ MiB/\1 SIZE/g; s/^.*: line [0-9]+: echo: /bash: echo: /; s/ +/ /g'
}
# shellcheck disable=SC2016
sed -nE 's/^[$#] //p' "$W/session" >"$W/commands"
{
	echo "cd '$W/home'; PATH=$W/bin:\$PATH; umask 022; exec 2>&1"
	while IFS= read -r line; do
		printf 'printf "%%s\\n" %q\n' "\$ $line"
		printf '%s\n' "$line"
	done <"$W/commands"
} >"$W/typed"
timeout 120 bash "$W/typed" </dev/null >"$W/got"
sed -E 's/^# /$ /' "$W/session" | mask >"$W/session.m"
mask <"$W/got" >"$W/got.m"
if ! have_loop && grep -q 'mount -o loop' "$W/commands"; then
	skip 'README: its sessions print what it says' 'no loop device to be had, and they mount one'
elif diff -u "$W/session.m" "$W/got.m" >"$W/diff"; then
	ok 'README: its sessions print what it says'
else
	fail 'README: its sessions print what it says' 'see below'
	sed 's/^/#   /' "$W/diff"
fi
for m in /srv/snapshots "$W"/home/*; do is_mounted "$m" && fusermount3 -u "$m"; done

# ---------------------------------------------------------------- commands and policies

mkdir "$W/m"
mount_snapfs "$W/m" qemu:///system || die 'no mount'
# The usage, one command a line, as a program would compare it: no quotes, blanks only between words, small letters.
plainly() { sed -E 's/\\\|/|/g; s/[`"]//g; s/ *\| */|/g; s/ *= */=/g; s/ *, */,/g; s/ *\.\.\./.../g' | tr '[:upper:]' '[:lower:]' | sort; }
sed -nE '/^create /,$s/^([a-z]+.*)/\1/p' "$W/m/db01/ctl" | plainly >"$W/c.ctl"
check 'commands: ctl lists them' test "$(wc -l <"$W/c.ctl")" = 12
sed -nE '/^### ctl/,/^### /s/^\| `([a-z]+.*)` \|.*/\1/p' README.md | sed 's/`, `/\n/g' | plainly >"$W/c.readme"
same 'commands: README as ctl' "$(cat "$W/c.ctl")" "$(cat "$W/c.readme")"
mandoc -T ascii -O width=400 fs/virt-snapfs.8 | sed 's/.\x08//g' >"$W/man.txt"
sed -n '/^COMMANDS/,/^RETENTION/p' "$W/man.txt" | sed -nE 's/^     (create|delete|commit|pull|revert|adopt|hold|release|prune|try|cancel)( .*)?$/\1\2/p' | sed 's/, release/\nrelease/' | plainly >"$W/c.man"
same 'commands: man page as ctl' "$(cat "$W/c.ctl")" "$(cat "$W/c.man")"
grammar() { sed -nE '/^ *policy = /,/^ *unit   = /s/ +/ /gp' "$1"; }
same 'retain: the grammar in README and man page' "$(grammar README.md)" "$(grammar "$W/man.txt")"
sed -nE '/^### retain/,/^###? [^r]/s/^\| `([^`]+)` \| .*/\1/p' README.md >"$W/policies"
check 'retain: README has examples' test "$(wc -l <"$W/policies")" -ge 5
while read -r policy; do
	check "retain: '$policy' is a policy" sh -c 'echo "$1" >"$2"' - "$policy" "$W/m/db01/retain.plan"
	echo "$policy" >"$W/m/db01/retain"
	same "retain: '$policy' is read back" "$policy" "$(tr ' ' '\n' <"$W/m/db01/retain" | xargs | sed -E 's/([0-9]+d) ([0-9]+w) ([0-9]+m)$/\1\2\3/')"
done <"$W/policies"
uri=$(sed -nE 's/.*`virsh metadata DOMAIN *$/next/p; /^https:\/\/[^ ]*`/s/^([^`]*)`.*/\1/p' README.md | grep '^https' | head -n 1)
check 'README: where the policy is kept' sh -c 'virsh -q -c "$1" metadata db01 "$2" | grep -q policy' - "$URI" "$uri"
cat "$W/m/db01/jobs" >"$W/m.jobs"
unmount_snapfs "$W/m"
for e in $(sed -nE '/^### ctl/,/^### Commit/s/^\| (E[A-Z, ]+)(, \.\.\.)? \|.*/\1/p' README.md | tr ', ' '\n\n' | sort -u); do
	has "errors: $e is in the man page" "$(sed -n '/^DIAGNOSTICS/,$p' "$W/man.txt")" "$e"
done
same 'jobs: the table in README and man page' "$(grep -A 1 '^    ID  COMMAND' README.md | sed 's/^    //')" "$(sed -n '/^JOBS\|^   jobs/,$p' "$W/man.txt" | grep -A 1 '^ *ID  COMMAND' | sed 's/^ *//' | head -n 2)"
has 'jobs: with the heading that it has' "$(grep -h -A 1 '^    ID  COMMAND' README.md | sed 's/^    //')" "^$(head -n 1 "$W/m.jobs")\$"
same 'suites: README lists every one' '' "$(for s in tests/suites/*.sh; do grep -q "^| \`$(basename "$s" .sh)\` |" README.md || echo "$s"; done)"

# A suite that cannot have its namespaces does not look like one that had nothing to do.
mkdir -p "$W/no" "$W/theirs/suites"
printf '#!/bin/sh\necho "unshare: no such luck" >&2\nexit 1\n' >"$W/no/unshare"
chmod 755 "$W/no/unshare"
cp tests/lib.sh tests/lab.sh "$W/theirs/" && cp tests/suites/embed.sh "$W/theirs/suites/"
alone=(env -u VS_NAMESPACE -u CI)
run "${alone[@]}" PATH="$W/no:$PATH" bash "$W/theirs/suites/embed.sh"
same 'suites: without namespaces root has a failure' '0 passed, 1 failed, 0 skipped' "$(tail -n 1 <<<"$OUT")"
has 'suites: and the reason' "$OUT" '^FAIL embed: .*: unshare: no such luck$'
run as_user nobody "${alone[@]}" bash "$W/theirs/suites/embed.sh"
same 'suites: without root an ordinary user has a skip' 'skip embed: it needs root, for namespaces of its own|0 passed, 0 failed, 1 skipped' "$(paste -sd '|' <<<"$OUT")"
run as_user nobody "${alone[@]}" CI=true bash "$W/theirs/suites/embed.sh"
same 'suites: and a CI a failure' '0 passed, 1 failed, 0 skipped' "$(tail -n 1 <<<"$OUT")"

# ---------------------------------------------------------------- scripts

mapfile -t scripts < <(find tests examples .ci -type f \( -name '*.sh' -o -path '.ci/run' \) | sort)
for s in "${scripts[@]}"; do
	same "shellcheck: $s" '' "$(shellcheck -S warning -x -P "$TESTS" -P "$(dirname "$s")" "$s" 2>&1)"
done
same 'scripts: bash, set -u' '' "$(for s in tests/run.sh tests/suites/*.sh examples/*.sh .ci/run; do head -1 "$s" | grep -qx '#!/bin/bash' && grep -q '^set .*-[a-z]*u' "$s" || echo "$s"; done)"
same 'scripts: nothing of one machine in them' '' "$(grep -rnE "(^|[ \"'=(])/(work|root|home)/" tests examples .ci README.md fs/virt-snapfs.8 2>/dev/null | grep -v 'docs.sh:')"
check 'the licence is there' grep -q 'GNU LESSER GENERAL PUBLIC LICENSE' LICENSE
suite_end
