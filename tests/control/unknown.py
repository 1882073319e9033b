# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is not known is needed: see tests/suites/unknown.sh and witness.py.

unknown.py MOUNTPOINT. Images that went, that cannot be read, that are reached by other paths; records that others removed;
metadata of ours that cannot be understood; images that two domains write, or that stand on a file of the mount itself.
"""
import contextlib
import os
import pwd
import re
import shutil
import struct
import subprocess
import threading
import time

from guests import MIB, PATIENCE, SNAPFS, URI, WORK, Mount, Wrong, bytes_of, sh, until, virsh
from lab import write_file
from witness import ALL, ONE, RUNNING, SHUT_OFF, TWO, Domain, Lab, case, differences, main, picture

FACTS = "https://virt-snapfs.org/xmlns/domain/1.0"
NO = "EPERM|EOPNOTSUPP"
ELSEWHERE = os.path.join(WORK, "elsewhere")  # no directory that libvirt names
BOUND = os.path.join(WORK, "bound")


# ---------------------------------------------------------------- images that cannot be read

@contextlib.contextmanager
def moved(path):
    """Where nobody looks."""
    os.makedirs(ELSEWHERE, exist_ok=True)
    away = os.path.join(ELSEWHERE, os.path.basename(path))
    os.rename(path, away)
    yield
    os.rename(away, path)


@contextlib.contextmanager
def renamed(path):
    """Beside where it was."""
    os.rename(path, path + ".away")
    yield
    os.rename(path + ".away", path)


@contextlib.contextmanager
def written(path, off, data):
    with open(path, "r+b") as f:
        f.seek(off)
        old = f.read(len(data))
        f.seek(off)
        f.write(data)
    yield
    with open(path, "r+b") as f:
        f.seek(off)
        f.write(old)


def feature(path):
    """An incompatible feature that nobody knows."""
    return written(path, 72, struct.pack(">Q", 1 << 40))


def magic(path):
    return written(path, 0, b"NOPE")


def wild_name(path):
    """The name of its backing file lies beyond the header."""
    return written(path, 8, struct.pack(">QI", 1 << 40, 30))


@contextlib.contextmanager
def cut(path):
    keep = path + ".keep"
    moved_to = os.path.join(ELSEWHERE, os.path.basename(keep))
    os.makedirs(ELSEWHERE, exist_ok=True)
    shutil.copyfile(path, moved_to)
    os.truncate(path, 60)
    yield
    with open(moved_to, "rb") as f, open(path, "r+b") as g:  # the same inode: it is the same file
        shutil.copyfileobj(f, g)
    os.unlink(moved_to)


@contextlib.contextmanager
def swapped(path):
    """Another file has its name: a directory, which is no image at all."""
    with moved(path):
        os.mkdir(path)
        yield
        os.rmdir(path)


WAYS = [("moved away", moved, "missing"), ("renamed", renamed, "missing"), ("with an unknown feature", feature, "feature"),
        ("cut short", cut, "."), ("without its magic", magic, "."), ("with a backing name that lies nowhere", wild_name, "."),
        ("with a directory in its place", swapped, ".")]


def nothing_but(lab, g, before, allowed, what):
    """Of what has changed since @before, all must match @allowed."""
    changed = [d for d in differences(before, picture(*lab.guests)) if not re.search(allowed, d)]
    if changed:
        raise Wrong("%s has changed %s" % (what, "; ".join(changed)[:700]))


def retention_keeps(lab, g, path):
    """A policy that would drop 'a' keeps it, says why, and says it once."""
    policy = r"^(XML of |/etc/libvirt/qemu/)[^:]*: .*policy="
    before = picture(*lab.guests)
    lab.write(g, "1 match=*", "retain")
    said = lab.said(g)
    if os.path.basename(path) not in said and "mounted" not in said:
        raise Wrong("retain says '%s', which does not name '%s'" % (said, path))
    nothing_but(lab, g, before, policy, "the policy")
    time.sleep(1.5)
    nothing_but(lab, g, before, policy, "retention")
    spoken = [l for l in lab.text(g, "log").splitlines() if os.path.basename(path) in l and "stays" in l and "retain" in l]
    if len(spoken) > 2:
        raise Wrong("retention has said %d times that it keeps something: %s" % (len(spoken), spoken[-1]))
    lab.write(g, "off", "retain")


def active_overlay(way, reason):
    def do(lab, running, targets):
        """base <- a <- b; what b started is the active layer."""
        g = lab.guest(running, targets, "ab")
        path = g.file(targets[-1], "b")
        name = re.escape(path)
        with way(path):
            g.remember()
            time.sleep(0.7)
            for command in "delete b", "delete a", "commit b", "commit a b", "pull", "create n":
                lab.refused(g, command, NO, name, reason)
            lab.chain_says(g, name, reason)
            retention_keeps(lab, g, path)
        g.remember()
        lab.listed(g)
        until("it can be read again", lambda: lab.unharmed(g, "b"))
        lab.intact(g)
        lab.starts(g)
        lab.does(g, "delete b")
        g.forget("b")
        lab.intact(g, may_go=[g.file(t, "b") for t in targets])
        lab.starts(g)
    return do


for what, way, reason in WAYS:
    case("row 5: the active overlay %s" % what, SHUT_OFF, few=1)(active_overlay(way, reason))


def neighbours_overlay(way, reason):
    """Another domain, shut off, stands on what b froze."""
    def do(lab, running, targets):
        g = lab.guest(running, targets, "abc")
        path = os.path.join(g.dir, "neighbour")
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", g.file("vda", "a"), "-F", "qcow2", path)
        h = lab.guest(False, ONE, None)
        h.active["vda"] = path
        h.present["vda"] = bytearray(g.wanted["b"]["vda"])
        h.define()
        g.remember()
        until("chain", lambda: None if h.name in lab.text(g, "chain") else "does not know %s" % h.name, 10)
        with way(path):
            g.remember()
            time.sleep(0.7)
            for command in "commit b", "commit a b", "delete b", "delete a":
                if way is renamed and command == "delete b":  # seen where it lies, so it is known: files may stay, records go
                    break
                lab.refused(g, command, NO, "neighbour|" + h.name, also=[h])
            if way is not renamed:
                retention_keeps(lab, g, path)
        g.remember()
        lab.intact(g)
        h.check_present()
        lab.starts(h)
        until("it can be seen again", lambda: None if lab.write(g, "try delete b") == "0" else lab.said(g))
        lab.does(g, "delete b")
        g.forget("b")
        lab.intact(g, may_go=[g.file("vdb", "b")])  # the neighbour needs all of the other disk's
        h.check_present()
        lab.starts(h)
        lab.starts(g)
    return do


for what, way, reason in WAYS:
    case("row 5: a neighbour's overlay %s" % what, few=1)(neighbours_overlay(way, reason))


# ---------------------------------------------------------------- other paths to the same file

@contextlib.contextmanager
def by_bind(path):
    os.makedirs(BOUND, exist_ok=True)
    sh("mount", "--bind", os.path.dirname(path), BOUND)
    yield os.path.join(BOUND, os.path.basename(path))
    sh("umount", "-l", BOUND)


@contextlib.contextmanager
def by_file(path):
    yield "file:" + path


@contextlib.contextmanager
def by_json(path):
    yield 'json:{"file":{"driver":"file","filename":"%s","locking":"off","aio":"threads"}}' % path


@contextlib.contextmanager
def by_dots(path):
    yield os.path.join(os.path.dirname(path), "..", os.path.basename(os.path.dirname(path)), ".", os.path.basename(path))


@contextlib.contextmanager
def by_symlink(path):
    link = os.path.join(WORK, "g", "link")
    os.symlink(os.path.dirname(path), link)
    yield os.path.join(link, os.path.basename(path))
    os.unlink(link)


@contextlib.contextmanager
def by_hard_link(path):
    other = os.path.join(os.path.dirname(path), "hard.link")
    os.link(path, other)
    yield other
    with contextlib.suppress(FileNotFoundError):
        os.unlink(other)


def rebase(path, name, fmt="qcow2"):
    sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", fmt, "-b", name, path)


def rightly_or_not_at_all(lab, g, command, forgotten, may_go):
    """Either is right: to see that it is the same file and do it well, or to refuse it and change nothing."""
    before = picture(*lab.guests)
    tried, got = lab.write(g, "try " + command), lab.write(g, command)
    said = lab.said(g)
    if tried != got:
        raise Wrong("'%s' gave %s, and 'try' had given %s: %s" % (command, got, tried, said))
    if got == "0":
        for name in forgotten:
            g.forget(name)
        lab.intact(g, may_go=may_go)
    else:
        if got not in NO.split("|"):
            raise Wrong("'%s' gave %s: %s" % (command, got, said))
        changed = differences(before, picture(*lab.guests))
        if changed:
            raise Wrong("'%s' was refused (%s) and has changed %s" % (command, said, "; ".join(changed)[:700]))
    lab.starts(g)
    return got


def own_chain(path_by):
    def do(lab, running, targets):
        """The active layer names what is beneath it in another way. QEMU takes all of them."""
        g = lab.guest(False, targets, "ab")
        with path_by(g.file("vda", "a")) as name:
            rebase(g.file("vda", "b"), name)
            if path_by is by_file:  # libvirt does not start such a one
                g.remember()
                lab.refused(g, "delete b", NO, re.escape(name))
                lab.refused(g, "delete a", NO, re.escape(name))
                rebase(g.file("vda", "b"), g.file("vda", "a"))
                lab.starts(g)
                return
            if running:
                g.start()
            g.remember()
            time.sleep(0.7)
            g.check_present()
            made = {t: [g.file(t, n) for n in "ab"] + [os.path.join(g.dir, "hard.link")] for t in targets}
            for command, gone in ("delete b", "b"), ("delete a", "a"):
                rightly_or_not_at_all(lab, g, command, gone, sum(made.values(), []))
            if os.path.exists(g.file("vda", "a")):
                g.running = g.state() != "shut off"
                if g.running:
                    g.stop()
                if os.path.exists(g.file("vda", "b")):
                    rebase(g.file("vda", "b"), g.file("vda", "a"))
        g.running = g.state() != "shut off"
        lab.starts(g)
    return do


def neighbours_path(path_by):
    def do(lab, running, targets):
        """A neighbour stands on what b froze and names it in another way."""
        g = lab.guest(running, targets, "abc")
        h = lab.guest(False, ONE, None)
        with path_by(g.file("vda", "a")) as name:
            rebase(h.file("vda"), name)
            h.present["vda"] = bytearray(bytes_of(h.file("vda")))
            g.remember()
            time.sleep(0.7)
            for command in "commit b", "commit a b":
                lab.refused(g, command, NO, h.name + "|" + re.escape(h.file("vda")), also=[h])
            # These may keep the file, and the record goes. Nothing may be written to.
            files = [g.file("vda"), g.file("vda", "a")]
            before = [bytes_of(f) for f in files]
            rightly_or_not_at_all(lab, g, "delete b", "b", [g.file(t, "b") for t in targets[1:]])
            if "vdb" in targets:
                g.remember()
            h.check_present()
            rightly_or_not_at_all(lab, g, "delete a", "a", [g.file(t, n) for t in targets[1:] for n in "ab"])
            h.check_present()
            if [bytes_of(f) for f in files] != before:
                raise Wrong("what the neighbour stands on has been written to")
            if path_by is not by_file:  # which libvirt does not start
                lab.starts(h)
            rebase(h.file("vda"), g.file("vda", "a"))
            lab.starts(h)
    return do


PATHS = [("through a bind mount", by_bind), ("as file:", by_file), ("as json: with options", by_json), ("with ..", by_dots),
         ("through a symbolic link", by_symlink), ("by a hard link", by_hard_link)]
for what, way in PATHS:
    case("row 5: the active overlay names its backing file %s" % what, few=1, cells=SHUT_OFF if way is by_file else ALL)(own_chain(way))
for what, way in PATHS:
    case("row 5: a neighbour names its backing file %s" % what, few=1)(neighbours_path(way))


# ---------------------------------------------------------------- a user who may not read them

NOBODY = pwd.getpwnam("nobody")


def become_nobody():
    os.setgroups([])
    os.setresgid(NOBODY.pw_gid, NOBODY.pw_gid, NOBODY.pw_gid)
    os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)


def as_nobody(function, *args):
    """What it returns, as text. A mount shows itself to its owner alone."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become_nobody()
            out = str(function(*args))
        except OSError as e:
            out = "OSError %s" % e
        os.write(w, out.encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return text


class NobodysLab(Lab):
    def text(self, g, name):
        def read(path):
            with open(path) as f:
                return f.read()
        return as_nobody(read, self.path(g, name))

    def write(self, g, command, door="ctl", patience=PATIENCE):
        return as_nobody(lambda: write_file(self.path(g, door), command + "\n", patience) or "0")


class NobodysMount(Mount):
    """Of a user of libvirt's group, as far as the socket goes."""

    def up(self):
        os.chmod("/run/libvirt/libvirt-sock", 0o777)
        os.makedirs(os.path.join(WORK, "nobody"), exist_ok=True)
        for p in self.point, os.path.join(WORK, "nobody"):
            os.chown(p, NOBODY.pw_uid, NOBODY.pw_gid)
        self.log = os.path.join(WORK, "nobody.log")
        env = dict(os.environ, STATE_DIRECTORY=os.path.join(WORK, "nobody"))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([SNAPFS, "-f", "-o", self.options, URI, self.point], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=env, preexec_fn=become_nobody)

        def mounted():
            if self.process.poll() is not None:
                return "it ended with %s: %s" % (self.process.returncode, open(self.log).read()[-500:])
            with open("/proc/self/mounts") as f:
                return None if " %s " % self.point in f.read() else "it does not mount"
        until("virt-snapfs as nobody", mounted)


@case("row 6: the overlays are root's, and the mount another user's")
def not_readable(lab, running, targets):
    g = lab.guest(running, targets, "ab")
    for t in targets:
        for n in "ab":
            os.chmod(g.file(t, n), 0o600)
    theirs = NobodysLab(NobodysMount(os.path.join(WORK, "nobodys")))
    os.makedirs(theirs.mount.point, exist_ok=True)
    theirs.mount.up()
    try:
        until("nobody's mount", lambda: None if '"b"' in theirs.text(g, "snapshots.json") else "does not list 'b'")
        for command in "delete b", "delete a", "commit b", "commit a b", "pull", "create n":
            theirs.refused(g, command, "EACCES|EPERM", "Permission denied|EACCES|may not")
        theirs.chain_says(g, re.escape(g.file("vda", "a")), "Permission denied|may not")
        states = {n: (s["state"], s["reason"]) for n, s in theirs.snapshots(g).items()}
        if states["b"][0] != "unsupported" or not re.search("Permission denied|may not", states["b"][1] or ""):
            raise Wrong("'b' is %s" % (states["b"],))
        if theirs.write(g, "1 match=*", "retain") == "HANGS" or g.names() != ["a", "b"]:
            raise Wrong("retention without a right to read: libvirt has %s" % g.names())
        lab.intact(g)
    finally:
        sh("umount", theirs.mount.point, check=False)
        theirs.mount.process.wait(PATIENCE)
        sh("umount", "-l", theirs.mount.point, check=False)
    with open(theirs.mount.log) as f:
        if re.search("Sanitizer|runtime error", f.read()):
            raise Wrong("a sanitizer report from nobody's mount")
    lab.starts(g)


# ---------------------------------------------------------------- the active overlay removed under a running guest

def removed(replaced):
    def do(lab, running, targets):
        g = lab.guest(True, targets, "ab")
        path = g.file("vda", "b")
        os.unlink(path)
        if replaced:
            sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", g.file("vda", "a"), "-F", "qcow2", path)
        g.remember()
        for again in False, True:  # before the next look of the mount, and after it
            for command in "delete a", "delete b", "commit a", "commit b", "commit a b", "pull", "pull a", "create n":
                said = lab.refused(g, command, NO, re.escape(path))
                if not re.search("removed|replaced|another file|gone", said) or not re.search("virsh|sav", said):
                    raise Wrong("it does not say what has happened and what can be saved: %s" % said)
            time.sleep(0.7)
        lab.chain_says(g, re.escape(path), "missing|removed|replaced|another file")
        retention_keeps(lab, g, path)
        found = re.search(r"'(virsh blockcopy [^']*)'", lab.fails(g, "delete a", NO))
        if not found:
            raise Wrong("there is no advice to follow: %s" % lab.said(g))
        words = [os.path.join(g.dir, "saved") if w == "NEWFILE" else w for w in found.group(1).split()[1:]]
        virsh(words)
        g.remember()
        g.check_present()  # what the guest had written is there again
        if bytes_of(os.path.join(g.dir, "saved")) != g.present["vda"]:
            raise Wrong("what was saved by '%s' is not what the guest had" % found.group(1))
        for name in "ab":
            until("the snapshots", lambda: lab.unharmed(g, name))
    return do


case("row 7: the active overlay removed under a running guest", RUNNING, few=1)(removed(False))
case("row 7: the active overlay replaced under a running guest", RUNNING, few=1)(removed(True))


# ---------------------------------------------------------------- guests that stand on the mount itself

@contextlib.contextmanager
def throw_away(lab, g, snapshot, running, source=None):
    """A domain that boots from what the mount shows, with an overlay of its own."""
    h = lab.guest(False, g.targets, None)
    for t in g.targets:
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", source or lab.path(g, "%s.%s.img" % (snapshot, t)), "-F", "raw", h.file(t))
        h.present[t] = bytearray(g.wanted[snapshot][t])
        h.write(t, 0x77, MIB, 65536)
    h.remember()
    if running:
        h.start()
    yield h
    if h.running:
        h.stop()
    h.end()
    lab.guests.remove(h)


@case("row 8: a guest stands on a file of this mount")
def on_the_mount(lab, running, targets):
    g = lab.guest(running, targets, "abc")
    for theirs_runs in False, True:
        with throw_away(lab, g, "b", theirs_runs) as h:
            g.remember()
            time.sleep(0.7)
            h.check_present()
            for command in ["delete b", "commit b"] + ["commit a"] * ("a" in g.wanted):
                lab.refused(g, command, NO, h.name, also=[h])
            lab.chain_says(g, h.name)
            lab.write(g, "2 match=*", "retain")  # drops a, whose image may stay as it is
            lab.does(g, "off", "retain")
            if "a" in g.wanted and "a" not in g.names():
                g.forget("a")
            h.check_present()
            lab.intact(g)
    until("it is free again", lambda: None if lab.write(g, "try delete b") == "0" else lab.said(g))
    lab.does(g, "delete b")
    g.forget("b")
    lab.intact(g, may_go=[g.file(t, n) for t in targets for n in "ab"])
    lab.starts(g)


@case("row 8: a guest stands on a loop device on a file of this mount")
def on_a_loop(lab, running, targets):
    g = lab.guest(running, ONE, "abc")
    p = sh("losetup", "-r", "-f", "--show", lab.path(g, "b.vda.img"), check=False)
    if p.returncode:
        print("# no loop device can be had here: %s" % p.stderr.strip(), flush=True)
        return
    device = p.stdout.strip()
    try:
        with throw_away(lab, g, "b", False, device) as h:
            g.remember()
            time.sleep(0.7)
            h.check_present()
            for command in "delete b", "commit b", "commit a":
                lab.refused(g, command, NO, h.name + "|" + device, also=[h])
            h.check_present()
            lab.intact(g)
    finally:
        sh("losetup", "-d", device)


# ---------------------------------------------------------------- a stranger's file at the planned path

@case("row 10: a stranger's file is there first")
def stranger_first(lab, running, targets):
    g = lab.guest(running, targets, "a")
    said = lab.does(g, "try create n")
    planned = re.findall(r"would create '([^']*)'", said)
    if len(planned) != len(targets):
        raise Wrong("try create names %s" % planned)
    with open(planned[-1], "wb") as f:
        f.write(b"a stranger's\n")
    g.remember()
    if lab.write(g, "create n") == "0":
        g.note("n", "external")
    lab.intact(g)
    with open(planned[-1], "rb") as f:
        if f.read() != b"a stranger's\n":
            raise Wrong("the stranger's file was written to")
    os.unlink(planned[-1])
    g.remember()
    lab.starts(g)


@case("row 10: a stranger makes a file while the overlay is made", few=1)
def stranger_meanwhile(lab, running, targets):
    """However the race ends: the file that a stranger has made is there, and either the snapshot is as it must be or nothing is left."""
    g = lab.guest(running, targets, "a")
    won = lost = 0
    for i in range(int(os.environ.get("RACES", "6"))):
        name = "n%d" % i
        path = re.findall(r"would create '([^']*)'", lab.does(g, "try create %s" % name))[-1]
        mine = []

        def stranger():
            end = time.monotonic() + 10
            while time.monotonic() < end and not mine and not job.result:
                try:
                    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                    os.write(fd, b"a stranger's\n")
                    mine.append(os.fstat(fd).st_ino)
                    os.close(fd)
                except FileExistsError:
                    return
                time.sleep(0.0005)
        job = lab.begin(g, "create %s" % name, until_it_writes=False)
        time.sleep(0.004 * i)
        thread = threading.Thread(target=stranger)
        thread.start()
        got = job.over()
        thread.join()
        if got == "0":
            g.note(name, "external")
        if mine:
            won += 1
            if not os.path.exists(path) or os.stat(path).st_ino != mine[0]:
                raise Wrong("the stranger's file '%s' is gone or another: create gave %s: %s" % (path, got, lab.said(g)))
            with open(path, "rb") as f:
                if f.read() != b"a stranger's\n":
                    raise Wrong("the stranger's file was written to")
            os.unlink(path)
            g.remember()
        else:
            lost += 1
        lab.intact(g)
        extra = set(g.names()) - set(g.wanted)
        if extra:
            raise Wrong("a failed create has left the record %s" % extra)
    print("# the stranger was first %d times, and too late %d times" % (won, lost), flush=True)
    lab.starts(g)


@case("row 10: a stranger's file after a create that was killed", few=1)
def stranger_after_a_crash(lab, running, targets):
    """At every point of create. The file that was being made is removed and a stranger's is put there: it stays."""
    point = 0
    while True:
        point += 1
        g = lab.guest(running, targets, "a")
        ours = re.findall(r"would create '([^']*)'", lab.does(g, "try create n"))
        path = ours[-1]
        lab.mount.arm(point)
        lab.write(g, "create n")
        left, _ = lab.mount.disarm()
        if left:
            if point == 1:
                raise Wrong("there are no fault points; is this a build with -Dfaults=true?")
            lab.starts(lab.guests[-2])
            return
        lab.mount.after_death()
        if "n" not in g.names():
            with open(path + ".tmp", "wb") as f:
                f.write(b"a stranger's\n")
            os.rename(path + ".tmp", path)
            g.remember()
            lab.mount.up()
            lab.listed(g)
            got = lab.write(g, "create n")
            with open(path, "rb") as f:
                if f.read() != b"a stranger's\n":
                    raise Wrong("point %d: the stranger's file was replaced; create again gave %s: %s" % (point, got, lab.said(g)))
            if got == "0":
                g.note("n", "external")
            lab.intact(g, may_go=ours[:-1])
        else:
            g.note("n", "external")
            lab.mount.up()
            lab.listed(g)
            until("after the crash", lambda: lab.unharmed(g, "n"))
            lab.intact(g)


# ---------------------------------------------------------------- metadata of ours that cannot be understood

def facts_of(g):
    return virsh(["metadata", g.name, FACTS])


def set_facts(g, text):
    """As an administrator would, or a program that goes wrong."""
    how = ["--live", "--config"] if g.running else ["--config"]
    virsh(["metadata", g.name, FACTS, "--key", "virt-snapfs", "--set", " ".join(text.split()), *how])


DAMAGES = [
    ("an entry without a name", lambda x: x.replace("<s n=", "<s m=", 1)),
    ("flags that nobody knows", lambda x: re.sub(r'is="[^"]*"', 'is="\u00a7?"', x, 1)),
    ("a newer version", lambda x: re.sub(r'version="\d+"', 'version="99"', x)),
    ("a serial number that is none", lambda x: re.sub(r'serial="\d+"', 'serial="many"', x)),
    ("a time that is none", lambda x: re.sub(r't="\d+"', 't="noon"', x, 1)),
    ("other elements in it", lambda x: re.sub(r"<s [^>]*/>", "<t/>", x)),
    ("too much of it", lambda x: x.replace("</facts>", "".join('<s n="%s%d" t="1" is="eh"/>' % ("x" * 60, i) for i in range(1200)) + "</facts>")),
]


def damaged(damage, remembered):
    def do(lab, running, targets):
        g = lab.guest(running, targets, "abc")
        lab.does(g, "hold a")
        lab.does(g, "7n", "retain")
        good = facts_of(g)
        if not remembered:  # nor is there a copy in the state directory
            lab.mount.down()
            shutil.rmtree(os.path.join(WORK, "state"))
            os.mkdir(os.path.join(WORK, "state"))
        bad = damage(good)
        if bad == good:
            raise Wrong("the damage does none: %s" % good)
        set_facts(g, bad)
        stored = facts_of(g)
        if stored == good:
            raise Wrong("libvirt did not take it: %s" % bad[:300])
        if not remembered:
            lab.mount.up()
        lab.listed(g)
        g.remember()
        time.sleep(0.7)
        for command, door in (("delete a", "ctl"), ("delete b", "ctl"), ("release b", "ctl"), ("hold b", "ctl"), ("commit a", "ctl"),
                              ("prune", "ctl"), ("create n", "ctl"), ("1 match=*", "retain")):
            lab.refused(g, command, NO, "metadata", door=door, attempt=door == "ctl")
        if facts_of(g) != stored:
            raise Wrong("the damaged metadata was not kept: %s" % facts_of(g))
        if not re.search("metadata", lab.text(g, "log")):
            raise Wrong("the log does not speak of it")
        lab.intact(g)
        set_facts(g, good)
        until("the metadata is right again", lambda: None if lab.write(g, "try prune") == "0" else lab.said(g), 20)
        lab.fails(g, "delete a", "EPERM", "held")
        if lab.text(g, "retain").strip() != "7":
            raise Wrong("the policy is '%s'" % lab.text(g, "retain"))
        lab.does(g, "release a")
        lab.does(g, "delete a")
        g.forget("a")
        lab.intact(g, may_go=[g.file(t, "a") for t in targets])
    return do


for i, (what, damage) in enumerate(DAMAGES):
    case("row 11: metadata with %s%s" % (what, "" if i % 2 else ", and no copy of it"), few=1)(damaged(damage, i % 2))


@case("row 11: a stored policy that is none", few=1)
def no_policy(lab, running, targets):
    """It is nobody's to guess what it meant: nothing is dropped, it stays as it is, and it is said. Holds have nothing to do with it."""
    g = lab.guest(running, targets, "abc")
    lab.does(g, "hold a")
    lab.does(g, "3 match=*", "retain")
    set_facts(g, re.sub(r'policy="[^"]*"', 'policy="1 match=* and more"', facts_of(g)))
    g.remember()
    time.sleep(0.7)
    lab.fails(g, "prune", "EPERM|EINVAL", "policy|term 'and'")
    lab.fails(g, "delete a", "EPERM", "held|policy|metadata")
    lab.write(g, "hold b")
    lab.write(g, "create n")
    if "n" in g.names():
        g.note("n", "external")
    lab.intact(g)
    if 'policy="1 match=* and more"' not in facts_of(g):
        raise Wrong("the policy was overwritten: %s" % facts_of(g))
    lab.does(g, "7", "retain")
    lab.does(g, "prune")
    lab.fails(g, "delete a", "EPERM", "held")
    lab.intact(g)


# ---------------------------------------------------------------- two domains that write one image

@contextlib.contextmanager
def by_path(path):
    yield path


def two_writers(path_by):
    def do(lab, running, targets):
        g = lab.guest(running, targets, "ab")
        h = lab.guest(False, ONE, None)
        with path_by(g.file(targets[-1], "b")) as name:
            h.active["vda"] = name
            h.define()
            g.remember()
            time.sleep(0.7)
            for command in "create n", "create n disks=%s" % targets[-1]:
                lab.refused(g, command, NO, h.name, also=[h])
            if not running:
                lab.refused(h, "create n", NO, g.name, also=[g])
            lab.chain_says(g, h.name)
            lab.intact(g)
            h.active["vda"] = h.file("vda")
            h.define()
        g.remember()
        until("it has one writer", lambda: None if lab.write(g, "try create n") == "0" else lab.said(g), 20)
        lab.does(g, "create n")
        g.note("n", "external")
        lab.intact(g)
        lab.starts(g)
    return do


for what, way in [("by the same path", by_path), ("by a symbolic link", by_symlink), ("by a bind mount", by_bind), ("by a hard link", by_hard_link)]:
    case("row 26: another domain writes the image %s" % what, few=1)(two_writers(way))


# ---------------------------------------------------------------- images that were moved

def relocated(records):
    def do(lab, running, targets):
        """All images are in another directory, and the domain is defined there; the names within the images dangle."""
        g = lab.guest(False, targets, "ab")
        old, new = g.dir, g.dir + ".new"
        os.rename(old, new)
        os.mkdir(old)
        g.dir = new
        g.dirs = [old, new]
        g.active = {t: p.replace(old, new) for t, p in g.active.items()}
        g.define()
        if records:
            for name in "ab":
                g.redefine(g.record(name).replace(old + "/", new + "/"), *(["--current"] if name == "b" else []))
        g.remember()
        time.sleep(0.7)
        for command in "delete a", "delete b", "commit a", "commit b", "pull", "create n":
            said = lab.refused(g, command, NO, re.escape(old + "/"))
            if command != "delete a" and new + "/vda.a" not in said and new + "/vda.qcow2" not in said:
                raise Wrong("it does not say where a file of that name lies now: %s" % said)
        lab.chain_says(g, re.escape(old + "/"), "missing")
        retention_keeps(lab, g, old + "/")
        for t in targets:
            rebase(g.file(t, "a"), g.file(t))
            rebase(g.file(t, "b"), g.file(t, "a"))
        if not records:
            for name in "ab":
                g.redefine(g.record(name).replace(old + "/", new + "/"), *(["--current"] if name == "b" else []))
        g.remember()
        for name in "ab":
            until("all is well again", lambda: lab.unharmed(g, name))
        lab.intact(g)
        if running:
            g.start()
        lab.does(g, "delete a")
        g.forget("a")
        lab.intact(g, may_go=[g.file(t, "a") for t in targets])
        lab.does(g, "create n")
        g.note("n", "external")
        lab.intact(g)
        lab.starts(g)
    return do


case("row 27: the images were moved, and the records say where to")(relocated(True))
case("row 27: the images were moved, and the records do not know")(relocated(False))


# ---------------------------------------------------------------- a record that somebody else removed

def held_elsewhere(mounted):
    def do(lab, running, targets):
        """What b froze is the layer that the held snapshot k is in. virsh removes b's record, and libvirt 9.0 changes k's with it."""
        g = lab.guest(running, targets, "ab")
        if lab.write(g, "revert a force keep=k") != "0":
            raise Wrong(lab.said(g))
        g.running = False
        g.note("k", "external")
        g.reverted("a")
        lab.does(g, "hold k")
        lab.intact(g, may_go=[g.file(t, n) for t in targets for n in ("k", "k.qcow2")])
        if not mounted:
            lab.mount.down()
        virsh(["snapshot-delete", g.name, "b", "--metadata"])
        g.forget("b")
        if not mounted:
            lab.mount.up()
        lab.listed(g)
        until("the held one", lambda: lab.unharmed(g, "k"))
        lab.does(g, "hold a")
        lab.does(g, "release a")
        lab.intact(g, records=False)
        for command in "delete a", "create n", "commit a":
            if lab.write(g, command) == "0":
                g.note("n", "external") if command == "create n" else g.forget("a") if "a" in g.wanted else None
            until("the held one after '%s'" % command, lambda: lab.unharmed(g, "k"))
        lab.fails(g, "delete k", "EPERM", "held")
        lab.starts(g)
        lab.does(g, "revert k")
        g.reverted("k")
        g.check_present()
        lab.starts(g)
    return do


case("row 4: the record before a held one removed by virsh", few=1)(held_elsewhere(True))
case("row 4: the record before a held one removed by virsh, while not mounted", few=1)(held_elsewhere(False))


if __name__ == "__main__":
    main()
