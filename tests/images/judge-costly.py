#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""judge-costly: does a mount answer for the images of make-costly.py in time, rightly, and as long as somebody waits?

usage: judge-costly.py answers MOUNTPOINT PID NAME DATA SIZE      one image (a line of the list)
       judge-costly.py waiters MOUNTPOINT PID NAME NAME...        at least four whose lseek takes a second or more

PID is the mount's process. Every question is asked by a process of its own, so that one that gets no answer can be told from one
that does. One line per case: `ok NAME` or `FAIL NAME: why`. `waiters` ends with the mount's end.
"""
import os
import signal
import subprocess
import sys
import time

SECONDS = 10   # for an answer that takes one or two on an idle machine
PATIENCE = 60  # until it is clear that there is none
PROMPT = 1.5   # for a process to be gone once it was killed; what it asks for takes several seconds with sanitizers
RESIDENT = 256 << 20

# Arguments: the file, an offset, and one or more of DATA and HOLE, each asked for from where the last one was found.
ASK = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *a: None)
fd, at = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2])
print("opened", flush=True)
try:
    for whence in sys.argv[3:]:
        at = os.lseek(fd, at, getattr(os, "SEEK_" + whence))
        print(at)
except OSError as e:
    print(os.strerror(e.errno))
"""


def result(name, good, why):
    print("ok " + name if good else "FAIL %s: %s" % (name, why), flush=True)


class Question:
    def __init__(self, path, off, *whence):
        self.p = subprocess.Popen([sys.executable, "-c", ASK, path, str(off), *whence], stdout=subprocess.PIPE, bufsize=0)
        self.p.stdout.readline()
        self.began = time.monotonic()

    def answer(self):
        """The text, and how long it took."""
        try:
            out, _ = self.p.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.p.kill()
            return "no answer", PATIENCE
        return out.decode().strip(), time.monotonic() - self.began

    def waits(self):
        return self.p.poll() is None

    def gone_within(self, seconds):
        try:
            self.p.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False


def ask(path, off, *whence):
    return Question(path, off, *whence).answer()


def number(text):
    return int(text) if text.isdigit() else -1


def answers(mount, pid, name, data, size):
    path = os.path.join(mount, name, "s.disk.img")
    cluster = (size - data) // 2
    text, took = ask(path, 0, "DATA")
    at = number(text)
    result(name + ": lseek is answered in time", took < SECONDS, "%d s, %s" % (took, text))
    result(name + ": no data is passed over", 0 < at <= data, "%s, and there is data at %d" % (text, data))
    text, took = ask(path, 0, "DATA", "HOLE", "DATA")
    a, b, c = ([number(t) for t in text.split("\n")] + [-1, -1])[:3]
    result(name + ": what is called data is not empty", 0 < a < b, text)
    result(name + ": and the next call gets on", (b <= c <= data or a == data) and took < 3 * SECONDS, text)
    text, _ = ask(path, 0, "HOLE")
    result(name + ": a hole is a hole", text == "0", text)
    text, _ = ask(path, data - cluster, "DATA", "HOLE")
    result(name + ": the data is found, and its end", text == "%d\n%d" % (data, data + cluster), text)
    fd = os.open(path, os.O_RDONLY)
    began = time.monotonic()
    bytes_read = os.pread(fd, 2 * cluster, data - cluster // 2)
    os.pread(fd, 1 << 19, size // 2)
    result(name + ": reads in time", time.monotonic() - began < SECONDS, "%d s" % (time.monotonic() - began))
    want = bytes(cluster // 2) + b"\x5a" * cluster
    result(name + ": reads the right bytes", bytes_read[:len(want)] == want[:len(bytes_read)], "other ones")
    with open("/proc/%d/status" % pid) as f:
        peak = next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM"))
    result(name + ": memory", peak < RESIDENT, "%d MiB" % (peak >> 20))


def is_there(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def waiters(mount, pid, names):
    asked = [Question(os.path.join(mount, n, "s.disk.img"), 0, "DATA") for n in names[:4]]
    time.sleep(0.2)
    result("waiters: all of them wait", all(q.waits() for q in asked), "some have their answer already: nothing is tested")
    with open(os.path.join(mount, "honest", "s.disk.img"), "rb") as f:
        began = time.monotonic()
        f.read(1 << 20)
    result("waiters: others are served", time.monotonic() - began < PROMPT, "a read took %.1f s" % (time.monotonic() - began))
    asked[0].p.send_signal(signal.SIGUSR1)  # it has a handler: no reason to fail
    asked[1].p.kill()
    result("waiters: who is killed goes", asked[1].gone_within(PROMPT), "still there after %.1f s" % PROMPT)
    asked[2].p.terminate()
    result("waiters: who is ended goes", asked[2].gone_within(PROMPT), "still there after %.1f s" % PROMPT)
    result("waiters: and the others wait on", asked[0].waits() and asked[3].waits(), "some have their answer: it was just done")
    text, _ = asked[0].answer()
    result("waiters: a signal that does not kill changes nothing", number(text) > 0, text)
    asked[3].answer()

    asked = [Question(os.path.join(mount, n, "s.disk.img"), 1, "DATA") for n in names[:4]]
    time.sleep(0.1)
    result("end: all of them wait", all(q.waits() for q in asked), "some have their answer already: nothing is tested")
    os.kill(pid, signal.SIGTERM)
    began = time.monotonic()
    while is_there(pid) and time.monotonic() - began < PATIENCE:
        time.sleep(0.02)
    took = time.monotonic() - began
    result("end: SIGTERM ends the mount while they wait", took < 2 * PROMPT, "it took %.1f s" % took)
    texts = {q.answer()[0] for q in asked}
    result("end: they are told", texts == {"Transport endpoint is not connected"}, ", ".join(sorted(texts)))


def main():
    what, mount, pid, *rest = sys.argv[1:]
    if what == "answers":
        answers(mount, int(pid), rest[0], int(rest[1]), int(rest[2]))
    else:
        waiters(mount, int(pid), rest)


if __name__ == "__main__":
    main()
