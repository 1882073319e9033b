#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""confine.py UNIT COMMAND...: runs COMMAND as systemd would confine it for that unit, without a systemd.

Applied are NoNewPrivileges=, CapabilityBoundingSet=, UMask= and SystemCallFilter= (what is filtered gives EPERM), as the unit
says them. systemd-analyze tells what the groups of system calls are made of. x86-64 only, as the numbers are.
"""
import ctypes
import os
import re
import struct
import subprocess
import sys

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 23, 24, 22, 38
NUMBERS = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
CAPABILITIES = "/usr/include/linux/capability.h"
libc = ctypes.CDLL(None, use_errno=True)


def prctl(*args):
    if libc.prctl(*[ctypes.c_ulong(a) for a in args], *[ctypes.c_ulong(0)] * (5 - len(args))) < 0:
        sys.exit(f"confine: prctl{args}: {os.strerror(ctypes.get_errno())}")


def settings(unit):
    found = {}
    for line in open(unit):
        m = re.match(r"([A-Z]\w+)=(.*)", line.strip())
        if m:
            found.setdefault(m[1], []).append(m[2])
    return found


def members(group):
    """The system calls of @group, those of the groups in it included."""
    out = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True).stdout
    calls = set()
    for word in out.split("\n")[1:]:
        word = word.strip()
        if word.startswith("@"):
            calls |= members(word)
        elif word and not word.startswith("#"):
            calls.add(word)
    return calls


def allowed(lines):
    calls = members("@default")
    for line in lines:
        deny = line.startswith("~")
        for word in line.lstrip("~").split():
            some = members(word) if word.startswith("@") else {word}
            calls = calls - some if deny else calls | some
    return calls


def filter_calls(calls):
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", open(NUMBERS).read()))
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
    for name in sorted(calls & numbers.keys()):
        program += [(0x15, 0, 1, int(numbers[name])), (0x06, 0, 0, 0x7FFF0000)]
    program.append((0x06, 0, 0, 0x00050001))
    code = b"".join(struct.pack("HBBI", *p) for p in program)
    held = ctypes.create_string_buffer(code)
    filled = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(held))
    header = ctypes.create_string_buffer(filled)
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(header))


def main():
    unit = settings(sys.argv[1])
    os.umask(int(unit["UMask"][0], 8))
    capabilities = {name: int(n) for name, n in re.findall(r"#define (CAP_\w+)\s+(\d+)\n", open(CAPABILITIES).read())}
    keep = {capabilities[c] for c in unit["CapabilityBoundingSet"][0].split()}
    calls = allowed(unit["SystemCallFilter"])
    for n in range(64):
        if n not in keep and libc.prctl(PR_CAPBSET_READ, ctypes.c_ulong(n), 0, 0, 0) == 1:
            prctl(PR_CAPBSET_DROP, n)
    if unit["NoNewPrivileges"][0] == "yes":
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    filter_calls(calls)
    os.execvp(sys.argv[2], sys.argv[2:])


main()
