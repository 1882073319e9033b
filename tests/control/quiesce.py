# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""A guest agent that does not do what it should: see tests/suites/agent.sh and witness.py.

quiesce.py MOUNTPOINT KERNEL. KERNEL is agent-port.c, built; agent.py is what answers. However the agent fails, `create NAME quiesce`
ends within its time, the guest is not left frozen, and the domain takes the next command.
"""
import os
import re
import signal
import subprocess
import sys
import time

from agent import Agent
from guests import WORK, Wrong, until, virsh
from witness import ONE, RUNNING, Running, case, main

NO = "EPERM|EOPNOTSUPP"


class Quiesced:
    """A guest with an agent."""

    def __init__(self, lab, targets, **how):
        lab.serial += 1
        self.agent = Agent(os.path.join(WORK, "agent.%d" % lab.serial))
        for k, v in how.items():
            setattr(self.agent, k, v)
        self.lab = lab
        self.g = g = lab.guest(False, targets, "a", os_xml="<kernel>%s</kernel>" % sys.argv[2], devices=(
            "<channel type='unix'><source mode='connect' path='%s'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
            % self.agent.path))
        virsh(["start", g.name])
        g.running = True
        until("the guest", lambda: None if "state='connected'" in virsh(["dumpxml", g.name]) else "has not opened the port")
        until("the mount", lambda: None if "running" in lab.text(g, "chain") else "does not see that it runs")

    def after(self, got, name="n"):
        """As it must be: with the snapshot, or without a trace of it; and the domain takes the next command."""
        lab, g = self.lab, self.g
        if got == "0":
            g.note(name, "external")
        elif name in g.names():
            raise Wrong("create gave %s, and there is a record of '%s'" % (got, name))
        lab.does(g, "hold a")
        lab.does(g, "release a")
        lab.intact(g)
        left = [f for f in g.files() if ".%s" % name in os.path.basename(f)]
        if got != "0" and left:
            raise Wrong("create gave %s, and left %s" % (got, left))
        if g.state() != "running":
            raise Wrong("the guest is %s" % g.state())

    def end(self):
        self.agent.end()


def timed(lab, g, command):
    begun = time.monotonic()
    got = lab.write(g, command)
    return got, time.monotonic() - begun, lab.said(g)


@case("row 14: an agent that answers", RUNNING)
def agent_answers(lab, running, targets):
    q = Quiesced(lab, targets)
    got, took, said = timed(lab, q.g, "create n quiesce")
    if got != "0":
        raise Wrong("%s: %s" % (got, said))
    if [c for _, c in q.agent.seen if "fsfreeze-" in c and "status" not in c] != ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]:
        raise Wrong("the agent was asked for %s" % [c for _, c in q.agent.seen])
    if q.agent.frozen:
        raise Wrong("the guest is still frozen")
    q.after(got)
    got, took, said = timed(lab, q.g, "create m quiesce=5")
    q.after(got, "m")
    q.end()


@case("row 14: an agent that hangs", RUNNING, few=1)
def agent_hangs(lab, running, targets):
    """At once: with a time of its own, with the default, cancelled by its number, and by signals to the writer."""
    short, default, cancelled, killed = [Quiesced(lab, targets if i == 0 else ONE, freeze="hangs") for i in range(4)]
    begun = time.monotonic()
    long_one = Running(lab, default.g, "create n quiesce", "ctl")
    got, took, said = timed(lab, short.g, "create n quiesce=3")
    if got == "0" or not 2 < took < 20:
        raise Wrong("quiesce=3 gave %s after %.0f s: %s" % (got, took, said))
    if not re.search("agent", said) or not re.search("3 s|3 seconds", said):
        raise Wrong("it does not say what took too long: %s" % said)
    if got not in ("ETIMEDOUT", "EOPNOTSUPP"):
        raise Wrong("quiesce=3 gave %s: %s" % (got, said))
    short.after(got)
    # by its number
    job = Running(lab, cancelled.g, "create n quiesce=50", "ctl")
    number = []

    def listed():
        found = re.search(r"^(\d+) +create n", lab.text(cancelled.g, "jobs"), re.M)
        number[:] = [found.group(1)] if found else []
        return None if found else "jobs lists no create: %s" % lab.text(cancelled.g, "jobs")
    until("jobs", listed, 10)
    until("the agent", lambda: None if cancelled.agent.count("guest-fsfreeze-freeze") else "was not asked", 10)
    ended = time.monotonic()
    lab.does(cancelled.g, "cancel %s" % number[0])
    if job.over() != "ECANCELED" or time.monotonic() - ended > 15:
        raise Wrong("cancelled, it gave %s after %.0f s" % (job.result, time.monotonic() - ended))
    cancelled.after("ECANCELED")
    # by a signal
    for sig in signal.SIGINT, signal.SIGKILL:
        writer = subprocess.Popen([sys.executable, "-c", "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), b'create n quiesce=50\\n')",
                                   lab.path(killed.g, "ctl")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # which a script's children ignore
        until("jobs", lambda: None if "create n" in lab.text(killed.g, "jobs") else "lists no create", 10)
        time.sleep(0.5)
        writer.send_signal(sig)
        try:
            writer.wait(15)
        except subprocess.TimeoutExpired:
            with open("/proc/%d/stat" % writer.pid) as f:
                state = f.read().rpartition(")")[2].split()[0]
            raise Wrong("15 s after %s the writer is still there, in state %s" % (signal.Signals(sig).name, state)) from None
        until("jobs", lambda: None if "create n" not in lab.text(killed.g, "jobs") else "lists it still", 20)
    killed.after("ECANCELED")
    got = long_one.over(120)
    took = time.monotonic() - begun
    if got == "0" or not 50 < took < 110:
        raise Wrong("quiesce gave %s after %.0f s: %s" % (got, took, lab.said(default.g)))
    default.after(got)
    for q in short, default, cancelled, killed:
        q.end()


@case("row 14: an agent that answers too late", RUNNING, few=1)
def agent_is_late(lab, running, targets):
    """It has frozen the guest when nobody waits any more. The guest does not stay so."""
    q = Quiesced(lab, targets, freeze=7)
    got, took, said = timed(lab, q.g, "create n quiesce=2")
    if not 1 < took < 20:
        raise Wrong("quiesce=2 gave %s after %.0f s: %s" % (got, took, said))
    time.sleep(max(0, 7.5 - took))
    until("the guest", lambda: "is frozen, %s" % q.agent.seen if q.agent.frozen else None, 60)
    if not q.agent.count("guest-fsfreeze-thaw"):
        raise Wrong("nobody has thawed it: %s" % q.agent.seen)
    q.after(got)
    q.agent.freeze = "answers"
    until("the next one", lambda: None if lab.write(q.g, "create m quiesce=20") == "0" else lab.said(q.g), 40)
    q.after("0", "m")
    q.end()


@case("row 14: an agent that dies, or refuses", RUNNING, few=1)
def agent_fails(lab, running, targets):
    for how, pattern in ("dies", "agent"), ("refuses", "a disk of the guest does not answer"):
        q = Quiesced(lab, targets, freeze=how)
        got, took, said = timed(lab, q.g, "create n quiesce=8")
        if got == "0" or took > 25 or not re.search(pattern, said):
            raise Wrong("an agent that %s: %s after %.0f s: %s" % (how, got, took, said))
        print("# an agent that %s: %s after %.1f s: %s" % (how, got, took, said), flush=True)
        q.after(got)
        lab.does(q.g, "create m")
        q.after("0", "m")
        q.end()


@case("row 14: an agent that does not thaw", RUNNING, few=1)
def agent_stays_frozen(lab, running, targets):
    """The snapshot is taken; that the guest is frozen is said."""
    q = Quiesced(lab, targets, thaw="hangs")
    got, took, said = timed(lab, q.g, "create n quiesce=3")
    if took > 30:
        raise Wrong("it took %.0f s: %s" % (took, said))
    if not re.search("thaw|frozen", said + lab.text(q.g, "log")):
        raise Wrong("%s, and nobody is told that the guest is frozen: %s" % (got, said))
    if got != "0" and "n" in q.g.names():
        q.g.note("n", "external")
        print("# it gave %s after %.1f s: %s" % (got, took, said), flush=True)
        lab.intact(q.g)
    else:
        q.after(got)
    q.end()


@case("row 14: no agent", RUNNING, few=1)
def no_agent(lab, running, targets):
    g = lab.guest(running, targets, "a")
    begun = time.monotonic()
    lab.refused(g, "create n quiesce", NO + "|ETIMEDOUT", "agent|paused|runs")
    if time.monotonic() - begun > 30:
        raise Wrong("it took %.0f s to see that there is none" % (time.monotonic() - begun))
    lab.does(g, "create n")
    g.note("n", "external")
    lab.intact(g)


if __name__ == "__main__":
    main()
