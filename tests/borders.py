#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""borders.py [TREE]: does every #include in fs/, qcow2/ and vm/ go where it may?

    1. A folder includes only what the table below allows it. A folder that the table does not know may include nothing.
    2. No circles: a.c and a.h are one module (a-priv.h belongs to it), and modules include one another in one direction only.
    3. NAME-priv.h is for its own folder.

What is violated is printed, a line each; nothing else is. EXCEPTIONS are includes that should not be there and still are. The list only
shrinks: one that is not needed any more is printed as well.
"""
import os
import re
import sys

# Top to bottom: folder, which folders it may include besides itself, which single headers, which headers of the system it may not.
TABLE = {
    'fs': ('', 'fs/nbd/nbd.h qcow2/qcow2.h vm/vm.h vm/util/mem.h', 'libnbd libvirt/ libxml/ zlib zstd libdeflate'),
    'fs/nbd': ('', 'qcow2/base.h vm/util/mem.h', 'fuse libvirt/ libxml/'),
    'vm': ('engine command inventory observe libvirt graph xml meta language model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd'),
    'vm/engine': ('command inventory observe libvirt graph xml meta language model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd'),
    'vm/command': ('inventory observe libvirt graph xml meta language model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd'),
    'vm/inventory': ('observe libvirt graph xml meta model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd'),
    'vm/observe': ('libvirt xml meta model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd'),
    'vm/libvirt': ('xml model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd'),
    # From here on nobody knows libvirt: what is decided here can be tested without it.
    'vm/graph': ('model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd libvirt/ libxml/'),
    'vm/xml': ('model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd libvirt/'),
    'vm/meta': ('model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd libvirt/'),
    'vm/language': ('model util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd libvirt/ libxml/'),
    'vm/model': ('util', 'qcow2/base.h qcow2/qcow2.h', 'fuse libnbd libvirt/ libxml/'),
    'vm/util': ('', 'qcow2/base.h', 'fuse libnbd libvirt/ libxml/'),
    'qcow2': ('', '', 'fuse libnbd libvirt/ libxml/'),
}

# "who what", one a line.
EXCEPTIONS = """
"""

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.M)


def files(top):
    for folder in ('fs', 'qcow2', 'vm'):
        for where, _, names in os.walk(os.path.join(top, folder)):
            for name in sorted(names):
                if name.endswith(('.c', '.h')):
                    yield os.path.relpath(os.path.join(where, name), top)


def includes(top):
    """(file, what it includes, with <> if it is the system's)"""
    for file in sorted(files(top)):
        with open(os.path.join(top, file), encoding='utf-8') as f:
            for mark, what in INCLUDE.findall(f.read()):
                if mark == '<':
                    yield file, '<' + what + '>'
                    continue
                beside = os.path.join(os.path.dirname(file), what)
                yield file, os.path.normpath(beside if os.path.exists(os.path.join(top, beside)) else what)


def refused(file, what):
    """Why @file may not include @what; None: it may."""
    here, there = os.path.dirname(file), os.path.dirname(what)
    if here not in TABLE:
        return 'no such room'
    rooms, headers, system = TABLE[here]
    if what.startswith('<'):
        return 'not in this folder' if any(what[1:].startswith(s) for s in system.split()) else None
    if there == here:
        return None
    if what in headers.split():
        return None
    if there not in ['vm/' + r for r in rooms.split()]:
        return 'a folder that it may not include'
    if what.endswith('-priv.h'):
        return 'private to its folder'
    return None


def module(file):
    return re.sub(r'(-priv)?\.[ch]$', '', file)


def circles(edges):
    """The groups of modules that reach one another (Tarjan's strongly connected components)."""
    graph = {}
    for a, b in edges:
        if a != b:
            graph.setdefault(a, set()).add(b)
            graph.setdefault(b, set())
    number, low, stack, out = {}, {}, [], []

    def visit(a):
        number[a] = low[a] = len(number)
        stack.append(a)
        for b in sorted(graph[a]):
            if b not in number:
                visit(b)
            if b in stack:
                low[a] = min(low[a], low[b])
        if low[a] == number[a]:
            group = stack[stack.index(a):]
            del stack[stack.index(a):]
            if len(group) > 1:
                out.append(sorted(group))

    for a in sorted(graph):
        if a not in number:
            visit(a)
    return out


def main():
    top = sys.argv[1] if len(sys.argv) > 1 else '.'
    sys.setrecursionlimit(10000)
    excepted = [tuple(line.split()) for line in EXCEPTIONS.split('\n') if line.split()]
    found = list(includes(top))
    bad = []
    for file, what in found:
        why = refused(file, what)
        if why and (file, what) not in excepted:
            bad.append(f'{file}: includes {what}: {why}')
    inner = [(file, what) for file, what in found if not what.startswith('<')]
    kept = [(module(a), module(b)) for a, b in inner if (a, b) not in excepted]
    for group in circles(kept):
        bad.append('circle: ' + ' '.join(group))
    for a, b in excepted:
        around = any(module(a) in g and module(b) in g for g in circles(kept + [(module(a), module(b))]))
        if (a, b) not in found or not (refused(a, b) or around):
            bad.append(f'{a}: the exception for {b} is not needed any more')
    print('\n'.join(bad), end='\n' if bad else '')


if __name__ == '__main__':
    main()
