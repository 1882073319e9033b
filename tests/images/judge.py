#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""judge: does q2-tool do with the hostile images what make-hostile.py says?

usage: judge.py [--plain | --sanitized] [--jobs N] Q2-TOOL LIST.json

Every check of every case is run with a time limit. With --plain also under a limit of address space and with the peak of
resident memory measured; QEMU is asked whether it accepts what we accept. A copy of the image, where one is made, has to be clean. With --sanitized the holes are walked as well, and any report of a
sanitizer is a failure, whatever the outcome.

One line per case: `ok NAME` or `FAIL NAME: why`.
"""
import json
import os
import re
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

SECONDS = 5          # a hang; sanitizers and a busy machine get more
RESIDENT = 96 << 20  # bytes; the caches of q2-tool have 8 MiB each, and a snapshot table may have 64
SPACE = 512 << 20
COPIED = 64 << 20    # of a copy: what is larger is not looked at

sanitized, tool = False, None


class Wrong(Exception):
    pass


def limits():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sanitized:
        resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))


def run(argv):
    """(status, stdout, stderr); raises on a hang, a signal, a sanitizer's report, too much memory."""
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limits)
    killed = []
    timer = threading.Timer(SECONDS * (6 if sanitized else 1), lambda: (killed.append(1), p.kill()))
    timer.start()
    err = []
    reader = threading.Thread(target=lambda: err.append(p.stderr.read()))
    reader.start()
    out = p.stdout.read()
    reader.join()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    timer.cancel()
    p.stdout.close()
    p.stderr.close()
    text = err[0].decode(errors="replace").strip()
    if killed:
        raise Wrong("hangs: %s" % argv[1])
    if p.returncode not in (0, 1) or re.search("Sanitizer|runtime error|Assertion", text):
        raise Wrong("%s: status %d: %s" % (argv[1], p.returncode, text[:1500]))
    if not sanitized and usage.ru_maxrss * 1024 > RESIDENT:
        raise Wrong("%s: takes %d MiB of memory" % (argv[1], usage.ru_maxrss >> 10))
    return p.returncode, out, text


def q2(case, check, command, *more):
    argv = [tool, command, case["path"], *map(str, more)]
    for d in case["allow"]:
        argv += ["--allow", d]
    if check["state"] is not None and check["state"] >= 0:
        argv += ["--snapshot-index", str(check["state"])]
    if "cache" in check:
        argv += ["--cache", str(check["cache"])]
    return run(argv)


def qemu_bytes(case, state):
    """What QEMU reads, or None. `convert -l` is right here: no case changes the disk's size and asks QEMU."""
    argv = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw"]
    if state >= 0:
        shown = subprocess.run([tool, "info", case["path"]], stdout=subprocess.PIPE).stdout.decode(errors="replace")
        ident = re.search("^snapshot %d id=(\\S*)" % state, shown, re.M).group(1)
        argv += ["-l", "snapshot.id=" + ident]
    out = case["path"] + ".qemu%d" % state
    try:
        p = subprocess.run([*argv, os.path.basename(case["path"]), os.path.basename(out)], cwd=os.path.dirname(case["path"]),
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
        if p.returncode:
            return None
        with open(out, "rb") as f:
            return f.read()
    finally:
        if os.path.exists(out):
            os.unlink(out)


def expected(case, check):
    if check.get("qemu"):
        want = qemu_bytes(case, check["state"])
        if want is None:
            raise Wrong("QEMU does not read %s" % name_of(check))
        return want
    return b"".join(bytes([b]) * n for b, n in check["bytes"])


def name_of(check):
    s = check["state"]
    return "the listing" if s is None else "the present" if s < 0 else "snapshot %d" % s


def judge_error(case, check, status, text):
    if not status:
        raise Wrong("%s is accepted instead of %s" % (name_of(check), check["error"]))
    errno, _, message = text.partition(": ")
    if errno not in check["error"].split("|"):
        raise Wrong("%s: %s instead of %s" % (name_of(check), text[:400], check["error"]))
    if not re.search(check["text"], message):
        raise Wrong("%s: the message does not say /%s/: %s" % (name_of(check), check["text"], text[:400]))
    if not re.search("'[^']+'", message):
        raise Wrong("%s: the message names no file: %s" % (name_of(check), text[:400]))


def judge(case, check):
    command, more = ("info", []) if check["state"] is None else ("read", check["read"]) if check.get("read") else ("cat", [])
    status, out, text = q2(case, check, command, *more)
    if check.get("any"):
        pass
    elif "error" in check:
        judge_error(case, check, status, text)
    elif status:
        raise Wrong("%s fails: %s" % (name_of(check), text[:400]))
    elif check["state"] is None:
        if not re.search(check["lists"], out.decode(errors="replace"), re.M):
            raise Wrong("the listing does not say /%s/: %s" % (check["lists"], out[:800].decode(errors="replace")))
    else:
        want = expected(case, check)
        if out != want:
            at = next((i for i, (x, y) in enumerate(zip(out, want)) if x != y), min(len(out), len(want)))
            raise Wrong("%s: wrong bytes from %d on (%d bytes instead of %d)" % (name_of(check), at, len(out), len(want)))
    if sanitized and check["state"] is not None:
        for command in ("map", "allocated", "compressed", "layers"):
            q2(case, check, command)
        if "bytes" in check and not check.get("read"):
            q2(case, check, "torture", "--reads", 20, "--cache", 20000)


def agree(case):
    """QEMU and we refuse the same states, but for the differences that have a reason."""
    differing = []
    for check in case["checks"]:
        if check["state"] is None or check.get("read") or check.get("qemu") or check.get("any"):
            continue
        accepted = qemu_bytes(case, check["state"]) is not None
        if accepted != ("error" not in check):
            differing.append("%s is %s by QEMU" % (name_of(check), "read" if accepted else "refused"))
    if differing and not case["differs"]:
        raise Wrong("; ".join(differing) + ", and no reason for the difference is given")
    if case["differs"] and not differing:
        raise Wrong("QEMU agrees, though a reason for a difference is given: %s" % case["differs"])


def harmless_copy(case):
    """A copy of the image with all its snapshots, if one is made, is an image like any other, and has the states that this one has."""
    copy = case["path"] + ".copy"
    first = {"state": 0}
    if "snapshot 0 " not in q2(case, {"state": None}, "info")[1].decode(errors="replace"):
        return
    status, _, _ = q2(case, first, "copy-torture", "--reads", 5)
    if status:
        return
    with open(copy, "wb") as f:
        p = subprocess.run([tool, "copy", case["path"], "--snapshot-index", "0", *(x for d in case["allow"] for x in ("--allow", d))], stdout=f,
                           stderr=subprocess.DEVNULL, check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (COPIED, COPIED)))
    try:
        if p.returncode:
            return  # too large for a test; whatever else was wrong copy-torture would have seen
        check = subprocess.run(["qemu-img", "check", "-f", "qcow2", os.path.basename(copy)], cwd=os.path.dirname(copy), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
        if check.returncode or "No errors were found" not in check.stdout:
            raise Wrong("check of the copy: %s" % check.stdout[:400])
        for c in case["checks"]:
            if c["state"] is not None and c["state"] >= 0 and "bytes" in c and not c.get("read"):
                _, out, text = q2(dict(case, path=copy), c, "cat")
                if out != expected(case, c):
                    raise Wrong("%s reads otherwise in the copy: %s" % (name_of(c), text[:400]))
    finally:
        os.unlink(copy)


def judge_case(case):
    wrong = []
    try:
        harmless_copy(case)
    except Wrong as e:
        wrong.append(str(e))
    for check in case["checks"]:
        try:
            judge(case, check)
        except Wrong as e:
            wrong.append(str(e))
    try:
        if case["qemu"] and not sanitized:
            agree(case)
    except Wrong as e:
        wrong.append(str(e))
    if wrong:
        return "FAIL %s: %s" % (case["name"], " ;; ".join(wrong).replace("\n", " | "))
    return "ok %s" % case["name"]


def main():
    global sanitized, tool
    args = sys.argv[1:]
    jobs = int(args.pop(args.index("--jobs") + 1)) if "--jobs" in args else os.cpu_count()
    sanitized = "--sanitized" in args
    tool, listing = [a for a in args if not a.startswith("--")]
    with open(listing) as f:
        cases = json.load(f)
    with ThreadPoolExecutor(jobs) as pool:
        lines = list(pool.map(judge_case, cases))
    print("\n".join(line + (" (sanitized)" if sanitized and line.startswith("ok") else "") for line in lines))
    sys.exit(any(not line.startswith("ok ") for line in lines))


if __name__ == "__main__":
    main()
