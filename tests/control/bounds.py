# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""What cannot be finished is not begun, and what hangs ends: see tests/suites/bounds.sh and witness.py.

bounds.py MOUNTPOINT. Transient domains and disks; a libvirtd that does not answer while the mount ends; how much room a merge takes.
"""
import os
import re
import signal
import subprocess
import time

from guests import MIB, PATIENCE, VIRSH, WORK, Wrong, until, virsh
from lab import SANITIZER, allocated
from witness import LOOK, ONE, RUNNING, TWO, case, main, revive_libvirtd

NO = "EPERM|EOPNOTSUPP"


# ---------------------------------------------------------------- 9: what libvirt will refuse

@case("row 9: a transient domain", RUNNING)
def transient_domain(lab, running, targets):
    """To stop it is to lose it, and all its records."""
    g = lab.guest(False, targets, None)
    virsh(["undefine", g.name])
    path = os.path.join(WORK, ".transient.xml")
    with open(path, "w") as f:
        f.write(g.xml())
    virsh(["create", path, "--paused"])
    os.unlink(path)
    g.running = True
    g.history("ab")
    lab.listed(g)
    g.remember()
    for command in "revert a force", "revert b force", "revert a force keep=k":
        lab.refused(g, command, NO, "transient")
    if g.state() != "paused":
        raise Wrong("the domain is %s" % g.state())
    lab.intact(g)
    # What can be done is done.
    lab.does(g, "create n")
    g.note("n", "external")
    lab.does(g, "delete a")
    g.forget("a")
    lab.intact(g, may_go=[g.file(t, "a") for t in targets])


def transient_disk(which):
    def do(lab, running, targets):
        g = lab.guest(False, targets, "ab")
        g.within = {targets[which]: "<transient/>"}
        g.define()
        if running:
            g.start()
        g.remember()
        time.sleep(LOOK)
        for command in "delete b", "delete a", "commit a", "commit a b", "pull", "pull a":
            lab.refused(g, command, NO, "transient")
        if running and g.state() == "shut off" or not running and g.state() != "shut off":
            raise Wrong("the domain is %s" % g.state())
        for name in "ab":
            until("the snapshots", lambda: lab.unharmed(g, name))
        if running:
            g.stop()
        gone = [p for p in g.vanished() if "TRANSIENT" not in p]
        if gone:
            raise Wrong("files have vanished: %s" % gone)
        g.remember()
        g.within = {}
        g.define()
        lab.intact(g)
        time.sleep(LOOK)
        lab.does(g, "delete a")
        g.forget("a")
        lab.intact(g, may_go=[g.file(t, "a") for t in targets])
        lab.starts(g)
    return do


case("row 9: a transient disk")(transient_disk(-1))
case("row 9: a transient disk, and another that is none", [(False, TWO), (True, TWO)], few=1)(transient_disk(0))


# ---------------------------------------------------------------- 13: the end of a mount

def libvirtd(sig):
    with open("/run/libvirtd.pid") as f:
        os.kill(int(f.read()), sig)


def up_again(lab):
    """libvirt 9.0 may die when it goes on after a SIGSTOP: then it is away for whoever asks now, and that is not what is looked at."""
    for last in False, True:
        revive_libvirtd()
        try:
            return lab.mount.up()
        except Wrong:
            if last:
                raise


def leave_while_stuck(lab, how, stays):
    """libvirtd does not answer, the mount is ended, libvirtd goes on @stays seconds later. The process has to end by itself, and well."""
    process, log = lab.mount.process, lab.mount.log
    size = os.path.getsize(log)
    begun = time.monotonic()
    try:
        if how == "umount":
            # It may be called while a request of its own is on the way.
            p = subprocess.run(["fusermount3", "-u", lab.mount.point], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=PATIENCE)
            if p.returncode:
                subprocess.run(["fusermount3", "-uz", lab.mount.point], stdin=subprocess.DEVNULL, timeout=PATIENCE)
        else:
            process.terminate()
        try:
            process.wait(stays)
        except subprocess.TimeoutExpired:
            pass
    finally:
        libvirtd(signal.SIGCONT)
        VIRSH.end()
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Wrong("it was still there %d s after libvirtd went on" % PATIENCE) from None
    finally:
        lab.mount.process = None
        subprocess.run(["umount", "-l", lab.mount.point], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        up_again(lab)
    took = time.monotonic() - begun
    with open(log, errors="replace") as f:
        f.seek(size)
        text = f.read()
    print("#   it ended %.1f s after it was told to%s" % (took, ", while libvirtd did not answer" if took < stays else ""), flush=True)
    if SANITIZER.search(text):
        raise Wrong("a sanitizer report: %s" % text[:1200])
    if status:
        raise Wrong("it ended with %d: %s" % (status, text[-300:]))
    return took


def stop_libvirtd():
    libvirtd(signal.SIGSTOP)


def stuck_in_retention(lab, running, targets, delays, stays):
    for i, delay in enumerate(delays):
        g = lab.guest(running, targets, "ab")
        lab.does(g, "2 match=*", "retain")
        g.snap("n")  # by virsh: it appears, and a is one too many
        g.flush()
        time.sleep(delay)
        stop_libvirtd()
        leave_while_stuck(lab, "umount" if i % 2 else "TERM", stays)
        if "a" not in g.names():
            g.forget("a")
        lab.intact(g, "a", [g.file(t, "a") for t in targets], leaks=True)
        got = lab.write(g, "delete a") if "a" in g.wanted else "0"
        if got not in ("0", "ENOENT"):
            raise Wrong("'delete a' gave %s: %s" % (got, lab.said(g)))
        if "a" in g.wanted:
            g.forget("a")
        lab.intact(g, may_go=[g.file(t, "a") for t in targets], leaks=True)
        lab.starts(g)
        lab.end()


@case("row 13: the mount ends while retention is in a libvirtd that hangs")
def stuck_retention(lab, running, targets):
    stuck_in_retention(lab, running, targets, (0.1, 0.35), 1.5)


@case("row 13: the mount ends while retention is in a libvirtd that stays so", few=1)
def stuck_for_long(lab, running, targets):
    """For longer than a keepalive lasts."""
    stuck_in_retention(lab, running, targets, (0.15,), 45)


@case("row 13: the mount ends while a repair is in a libvirtd that hangs", few=1)
def stuck_repair(lab, running, targets):
    for i, delay in enumerate((0.0, 0.05, 0.2)):
        g = lab.guest(running, targets, "abc")
        lab.mount.arm(5 + 3 * i)
        lab.write(g, "delete b")
        left, _ = lab.mount.disarm()
        if left:
            raise Wrong("it was over before it could be killed; is this a build with -Dfaults=true?")
        lab.mount.after_death()
        lab.mount.up()
        time.sleep(delay)
        stop_libvirtd()
        leave_while_stuck(lab, "TERM" if i % 2 else "umount", 1.5)
        if "b" not in g.names():
            g.forget("b")
        lab.listed(g)
        lab.intact(g, "b", [g.file(t, "b") for t in targets], leaks=True)
        got = lab.write(g, "delete b")
        if got not in ("0", "ENOENT"):
            raise Wrong("'delete b' gave %s: %s" % (got, lab.said(g)))
        if "b" in g.wanted:
            g.forget("b")
        lab.intact(g, may_go=[g.file(t, "b") for t in targets], leaks=True)
        lab.starts(g)
        lab.end()


@case("row 13: the mount ends while a command is in a libvirtd that hangs", [(True, TWO), (False, ONE)])
def stuck_command(lab, running, targets):
    """And stays so for longer than a keepalive lasts."""
    g = lab.guest(running, targets, "abc")
    job = lab.begin(g, "delete b", until_it_writes=False)
    time.sleep(0.15)
    stop_libvirtd()
    leave_while_stuck(lab, "TERM", 45)
    job.over()
    if "b" not in g.names():
        g.forget("b")
    lab.listed(g)
    lab.intact(g, "b", [g.file(t, "b") for t in targets], leaks=True)


# ---------------------------------------------------------------- 15: how much a merge takes

def zero(g, target, off, length):
    """By the guest: clusters of zeros, not data."""
    command = "write -z %d %d" % (off, length)
    if g.running:
        virsh(["qemu-monitor-command", g.name, "--hmp", '%s "%s"' % (g.drive(target), command)],
              ["qemu-monitor-command", g.name, "--hmp", '%s "flush"' % g.drive(target)])
    else:
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, g.active_now()[target]], check=True, stdout=subprocess.DEVNULL)
    g.present[target][off:off + length] = bytes(length)


def merge_zeros(command, doomed, into, newest):
    def do(lab, running, targets):
        """base (1 MiB of data) <- a: 40 MiB of zeros and a bit of data <- b, or active."""
        def build(g):
            g.snap("a")
            g.fill(7, 3 * MIB, MIB // 4)
            g.flush()
            for t in g.targets:
                zero(g, t, 8 * MIB, 40 * MIB)
            if not newest:
                g.snap("b")
                g.fill(9, 50 * MIB, MIB // 4)
        g = lab.guest(running, targets, build=build, size=64 * MIB)
        said = lab.does(g, "try " + command)
        figures = [float(x) for x in re.findall(r"(?:at most|up to) ([0-9.]+) MiB(?! more than it frees)", said)]
        if len(figures) != len(targets):
            raise Wrong("try names %d figures: %s" % (len(figures), said))
        into_file = {t: g.active_now()[t] if into == "active" else g.file(t) for t in targets}
        before = {t: allocated(into_file[t]) for t in targets}
        lab.does(g, command)
        for n in doomed:
            g.forget(n)
        grown = [(allocated(into_file[t]) - before[t]) / MIB for t in targets]
        print("# %s: said at most %s MiB, grew by %s MiB" % (command, figures, ["%.1f" % x for x in grown]), flush=True)
        for said_most, grew in zip(figures, grown):
            if grew > said_most + 1:
                raise Wrong("'try %s' said at most %.1f MiB, and it has grown by %.1f" % (command, said_most, grew))
        lab.intact(g, may_go=[g.file(t, n) for t in targets for n in "ab"])
        lab.starts(g)
    return do


case("row 15: delete an overlay of zeros")(merge_zeros("delete a", "a", "base", False))
case("row 15: delete the active overlay, of zeros", few=1)(merge_zeros("delete a", "a", "base", True))
case("row 15: commit an overlay of zeros", few=1)(merge_zeros("commit a", "a", "base", False))
case("row 15: pull zeros", few=1)(merge_zeros("pull", "", "active", False))


if __name__ == "__main__":
    main()
