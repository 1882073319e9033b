#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Writes to ctl and its kin as a program does, and says what write(2) said.

    door.py write FILE TEXT...           one open file, one write(2) for each TEXT; prints 0 or the errno's name for each
    door.py handled SIGNALS FILE TEXT    the same with one write, and a handler for each of the signals (comma-separated);
                                         prints how many of them it saw as well
    door.py doomed WHO FILE TEXT         one write, with every signal at its default. WHO writes: `alone`, the `main` thread beside
                                         another one, or one at the `side`. On a line from stdin a thread that does not write ends the
                                         process: `exit`, or the name of a signal, which it sends to itself alone
    door.py plan FILE POLICY...          writes each to one open file and prints what that file reads as afterwards
    door.py talk FILE STEP...            one open file, and what each step said on a line of its own (a text by its first line). Steps:
                                         write:TEXT, pwrite:OFFSET:TEXT, read:BYTES, pread:OFFSET:BYTES, pieces:BYTES (all, in
                                         reads of so many), seek:OFFSET, end (SEEK_END), dup (a copy of the descriptor from here on),
                                         append (O_APPEND from here on), and other:STEP, the same through another open file
    door.py crowd FILE WRITERS           so many at once, each with some commands of its own; prints how many answers were somebody else's
    door.py poll FILE SECONDS            reads FILE, waits in poll(2); prints `changed SECONDS` or `timeout`
    door.py hold FILE                    opens FILE, prints `open`; for each line on stdin reads it from the start, and prints
                                         the sha256 or the errno's name
    door.py watch FILE SHA256            prints `reading`, and reads FILE whole, again and again, until stdin ends; prints how many
                                         reads gave these bytes, how many others, and the errors' names

TEXT: backslash escapes as in printf(1), since a write is bytes: \\n \\t \\0 \\xHH \\\\.
"""
import errno
import fcntl
import hashlib
import os
import re
import resource
import select
import signal
import sys
import threading
import time


def name(error):
    if error.errno == errno.EOPNOTSUPP:  # one number, two names
        return "EOPNOTSUPP"
    return errno.errorcode.get(error.errno, str(error.errno))


def raw(text):
    escapes = {b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
    return re.sub(rb"\\(x[0-9a-fA-F]{2}|[nt0\\])",
                  lambda m: bytes([int(m[1][1:], 16)]) if m[1][:1] == b"x" else escapes[m[1]], os.fsencode(text))


def put(fd, text):
    data = raw(text)
    try:
        n = os.write(fd, data)
    except OSError as error:
        return name(error)
    return "0" if n == len(data) else "short write of %d" % n


def write(path, *texts):
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        print("open:", name(error))
        return
    print(*[put(fd, text) for text in texts])
    try:
        os.close(fd)
    except OSError as error:
        print("close:", name(error))


def handled(names, path, text):
    seen = []
    for number in names.split(","):
        signal.signal(getattr(signal, number), lambda number, frame: seen.append(number))
    fd = os.open(path, os.O_WRONLY)
    print(put(fd, text), len(set(seen)))


def end_on_request():
    word = sys.stdin.readline().strip()
    if word == "exit":
        os._exit(0)
    if word:
        signal.pthread_kill(threading.get_ident(), getattr(signal, word))
    time.sleep(600)


def doomed(who, path, text):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
        signal.signal(number, signal.SIG_DFL)
    fd = os.open(path, os.O_WRONLY)
    if who == "side":
        threading.Thread(target=lambda: print(put(fd, text), flush=True), daemon=True).start()
        end_on_request()
    elif who == "main":
        threading.Thread(target=end_on_request, daemon=True).start()
    print(put(fd, text))


def plan(path, *policies):
    fd = os.open(path, os.O_RDWR)
    for policy in policies:
        print("wrote", put(fd, policy))
        sys.stdout.flush()
        os.write(1, os.pread(fd, 1 << 20, 0))


def first_line(data):
    return os.fsdecode(data).split("\n")[0] or "(nothing)"


def pieces(fd, size):
    whole = b""
    while block := os.read(fd, size):
        whole += block
    return whole


def step(fd, words):
    verb, _, rest = words.partition(":")
    if verb == "write":
        return put(fd, rest)
    if verb == "pwrite":
        off, _, text = rest.partition(":")
        return str(os.pwrite(fd, raw(text), int(off)))
    if verb == "pread":
        off, size = rest.split(":")
        return first_line(os.pread(fd, int(size), int(off)))
    if verb == "seek":
        return str(os.lseek(fd, int(rest), os.SEEK_SET))
    if verb == "end":
        return str(os.lseek(fd, 0, os.SEEK_END))
    return first_line(os.read(fd, int(rest)) if verb == "read" else pieces(fd, int(rest)))


def talk(path, *steps):
    fd, other = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    for words in steps:
        if words == "dup":
            fd = os.dup(fd)
        elif words == "append":
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        elif words.startswith("other:"):
            print(step(other, words[6:]))
        else:
            print(step(fd, words))


def crowd(path, writers):
    wrong = []

    def one(number):
        for i in range(25):
            fd, who = os.open(path, os.O_RDWR), "none-%d-%d" % (number, i)
            put(fd, "try delete %s\\n" % who)
            answer = first_line(os.read(fd, 4096))
            if not answer.startswith("failed: try delete %s: " % who):
                wrong.append(answer)
            os.close(fd)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(int(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(wrong), *wrong[:2])


def poll(path, seconds):
    fd = os.open(path, os.O_RDONLY)
    os.pread(fd, 1 << 16, 0)
    waiting = select.poll()
    waiting.register(fd, select.POLLIN | select.POLLPRI)
    # What has changed before the read was read.
    waiting.poll(0)
    print("waiting", flush=True)
    begun = time.monotonic()
    events = waiting.poll(float(seconds) * 1000)
    print("changed %.1f" % (time.monotonic() - begun) if events else "timeout")


def hold(path):
    fd = os.open(path, os.O_RDONLY)
    print("open", flush=True)
    for _ in sys.stdin:
        total, off = hashlib.sha256(), 0
        try:
            while block := os.pread(fd, 1 << 20, off):
                total.update(block)
                off += len(block)
            print(total.hexdigest(), flush=True)
        except OSError as error:
            print(name(error), flush=True)


def read_all(path):
    total = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def watch(path, want):
    right, wrong, errors = 0, 0, {}
    print("reading", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            if read_all(path) == want:
                right += 1
            else:
                wrong += 1
        except OSError as error:
            errors[name(error)] = errors.get(name(error), 0) + 1
    print("right" if right else "none", wrong, *sorted(errors))


if __name__ == "__main__":
    {"write": write, "handled": handled, "doomed": doomed, "plan": plan, "talk": talk, "crowd": crowd, "poll": poll, "hold": hold, "watch": watch}[sys.argv[1]](*sys.argv[2:])
