#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
#
# .metrics: hidden, valid for a parser that is not ours, and right: after commands of ours and of others, of guests that run.
set -u
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lab.sh"
suite_in_namespace "$0" "$@"
suite_begin
M=$W/mnt
mkdir "$M"

# value NAME [LABEL=VALUE...]: of the one sample that has these labels, as the parser of prometheus_client (strict) reads it
cat >"$W/value.py" <<'PY'
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
with open(sys.argv[1], encoding="utf-8") as f:
    text = f.read()
wanted = dict(a.split("=", 1) for a in sys.argv[3:])
found = [s.value for family in parse(text) for s in family.samples if s.name == "virt_snapfs_" + sys.argv[2] and wanted.items() <= s.labels.items()]
print(*found)
PY
value() { /usr/bin/python3 "$W/value.py" "$M/.metrics" "$@" 2>&1 | tail -1; }

lab_libvirtd
domain_with web vda:16M vdb:4M
domain_with 'we"b\x' vda:4M
Vq start web
mount_snapfs "$M" -o refresh=0.3 "$URI" || die 'no mount'
wait_until 10 test -e "$M/web/ctl" || die 'the domain does not show'
has_not 'it is not listed' "$(ls -a "$M")" metrics
has_not 'nor found' "$(find "$M" -maxdepth 1)" metrics
same 'the mode of a text' '440 regular file' "$(stat -c '%a %F' "$M/.metrics" | sed 's/ empty//')"
same 'domains' 2 "$(value domains)"
same 'no snapshot yet: none has a time' '' "$(value snapshot_newest_timestamp_seconds domain=web)$(value last_create_age_seconds domain=web)"
before=$(date +%s)
for s in a b c; do (echo "create $s" >"$M/web/ctl") || fail "create $s" "$(head -1 "$M/web/ctl")"; sleep 1.1; done
(echo 'hold b' >"$M/web/ctl")
(echo 'delete b' >"$M/web/ctl") 2>/dev/null
(echo 'try delete a' >"$M/web/ctl")
(echo 'delete a' >"$M/web/ctl") || fail 'delete a' "$(head -1 "$M/web/ctl")"
same 'snapshots by kind and state' '2 0 0' "$(value snapshots domain=web kind=external state=ok) $(value snapshots domain=web kind=external state=stale) $(value snapshots domain=web kind=internal state=ok)"
same 'held ones' 1 "$(value snapshots_held domain=web)"
same 'layers of each disk' '3 3' "$(value chain_depth domain=web disk=vda) $(value chain_depth domain=web disk=vdb)"
for what in create:3:0 delete:1:1 hold:1:0 commit:0:0; do
	IFS=: read -r c ended failed <<<"$what"
	same "commands: $c" "$ended $failed" "$(value commands_total domain=web command="$c" outcome=ok) $(value commands_total domain=web command="$c" outcome=failed)"
done
check 'the oldest and the newest' python3 -c 'import sys; old, new, before = map(float, sys.argv[1:]); assert before - 1 <= old < new <= before + 60' \
	"$(value snapshot_oldest_timestamp_seconds domain=web)" "$(value snapshot_newest_timestamp_seconds domain=web)" "$before"
check 'the last create' python3 -c 'import sys; assert 1 <= float(sys.argv[1]) < 60' "$(value last_create_age_seconds domain=web)"
(echo 1 >"$M/web/retain") 2>/dev/null
same 'a name that has to be escaped' '1' "$(value chain_depth 'domain=we"b\x' disk=vda)"
read_before=$(value read_bytes_total)
cat "$M/web/c.vda.img" "$M/web/qcow2/c.vda.qcow2" >"$W/out"
same 'bytes read' "$(stat -c %s "$W/out")" "$(python3 -c 'import sys; print(int(float(sys.argv[1]) - float(sys.argv[2])))' "$(value read_bytes_total)" "$read_before")"
check 'as large as it was when it was read' test "$(stat -c %s "$M/.metrics")" -gt 1000
kill -STOP "$(cat /run/libvirtd.pid)"
s=$(date +%s%N)
check 'libvirt hangs: it is there' grep -q '^# EOF$' "$M/.metrics"
check 'and at once' test $((($(date +%s%N) - s) / 1000000)) -lt 1000
lab_libvirtd_goes_on
(echo x >"$M/.metrics") 2>"$W/err"
has "nobody writes there" "$(cat "$W/err")" "Read-only file system"
unmount_snapfs "$M"
suite_end
