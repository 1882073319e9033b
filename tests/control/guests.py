# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""Guests for tests that need many of them: made quickly, with a model of what every snapshot must read as.

Runs where lab.sh has started a private libvirt ($URI). The model is kept from what was written, never from what
virt-snapfs says; virsh and qemu-img are the witnesses. Every guest has a directory of its own, so that a file too many in
it shows.
"""
import errno
import hashlib
import os
import re
import select
import signal
import subprocess
import time
import uuid
import xml.etree.ElementTree as ET

URI = os.environ["URI"]
WORK = os.environ["W"]
SNAPFS = os.environ["SNAPFS"]
MIB = 1 << 20
PATIENCE = 60  # seconds for what should be there in one; the machine may be busy


class Wrong(Exception):
    """Something is not as it must be."""


def sh(*argv, check=True, text=True, env=None):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=text, env=env)
    if check and p.returncode:
        raise Wrong("%s: %s" % (" ".join(argv)[:300], (p.stderr if text else p.stderr.decode())[:400].strip()))
    return p


class Virsh:
    """One virsh for all questions: starting one for each would take longer than the answers. Its lines are echoed after
    the prompt, so an answer is what stands between the echo of the command and that of the next one."""

    END = b"__END__"

    def __init__(self):
        self.process = None

    def start(self):
        env = dict(os.environ, LIBVIRT_LOG_OUTPUTS="4:file:/dev/null", TERM="dumb", INPUTRC="/dev/null")
        self.process = subprocess.Popen(["virsh", "-q", "-c", URI], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, env=env)

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None

    def ask(self, line):
        if not self.process or self.process.poll() is not None:
            self.start()
        self.process.stdin.write(line.encode() + b"\necho " + self.END + b"\n")
        self.process.stdin.flush()
        out, end = b"", time.monotonic() + 2 * PATIENCE
        while not out.endswith((b"\n" + self.END, b"\n" + self.END + b"virsh # ")):
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                self.process.kill()
                raise Wrong("virsh %s: no answer" % line[:300])
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise Wrong("virsh %s: it ended: %s" % (line[:300], out[-300:].decode()))
            out += data
        text = out.decode().partition("\n")[2]
        return text[:text.rindex("virsh # echo " + self.END.decode())]


VIRSH = Virsh()


def virsh(*commands, check=True):
    """Each command is a list of words."""
    out = ""
    for c in commands:
        line = " ".join("'%s'" % w if re.search(r"[^\w./:=,@+-]", w) else w for w in c)
        answer = VIRSH.ask(line)
        if check and re.search(r"^error:", answer, re.M):
            raise Wrong("virsh %s: %s" % (line[:300], answer[:400].strip()))
        out += "\n".join(t for t in answer.split("\n") if not t.startswith("error:"))
    return out


def sha(data):
    return hashlib.sha256(data).hexdigest()


def bytes_of(path, fmt="qcow2", snapshot=None):
    """What QEMU reads from an image."""
    out = os.path.join(WORK, ".convert.%d" % os.getpid())
    argv = ["qemu-img", "convert", "-U", "-f", fmt, "-O", "raw"] + (["-l", "snapshot.name=" + snapshot] if snapshot else [])
    sh(*argv, path, out)
    with open(out, "rb") as f:
        data = f.read()
    os.unlink(out)
    return data


def until(what, ask, seconds=PATIENCE):
    """Asks until the answer is None; what it says instead at the end is what is wrong."""
    end = time.monotonic() + seconds
    while True:
        wrong = ask()
        if wrong is None:
            return
        if time.monotonic() > end:
            raise Wrong("%s: %s" % (what, wrong))
        time.sleep(0.05)


class Guest:
    """A domain, its images below WORK/g/NAME, and the model.

    present: target -> bytearray; wanted: snapshot -> {target: bytes}; kinds: snapshot -> external or internal;
    parents: snapshot -> name or None.
    """

    def __init__(self, name, targets=("vda",), running=False, size=2 * MIB):
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.dir = os.path.join(WORK, "g", name)
        self.running = running
        self.targets = list(targets)
        self.present = {t: bytearray(size) for t in targets}
        self.wanted = {}
        self.kinds = {}
        self.parents = {}
        self.current = None
        os.makedirs(self.dir)
        os.chmod(self.dir, 0o755)
        self.active = {t: "%s/%s.qcow2" % (self.dir, t) for t in targets}
        for t in targets:
            sh("qemu-img", "create", "-q", "-f", "qcow2", self.active[t], str(size))
            self._write(t, 1, 0, size // 2)
        path = os.path.join(self.dir, ".xml")
        with open(path, "w") as f:
            f.write(self.xml())
        virsh(["define", path])
        os.unlink(path)
        self.waiting = []  # virsh commands
        if running:
            self.waiting.append(["start", name, "--paused"])

    def xml(self):
        disks = "".join(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='%s' bus='virtio'/></disk>"
            % (self.active[t], t) for t in self.targets)
        return ("<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu><os>"
                "<type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>%s</devices></domain>"
                % (self.name, self.uuid, disks))

    def _write(self, target, byte, off, length):
        self.present[target][off:off + length] = bytes([byte]) * length
        sh("qemu-io", "-f", "qcow2", "-c", "write -q -P %d %d %d" % (byte, off, length), self.active[target])

    def flush(self):
        if self.waiting:
            virsh(*self.waiting)
            self.waiting = []

    def write(self, target, byte, off, length):
        """By the guest: through QEMU if it runs, into the active file if it does not; and into the model."""
        if not self.running:
            self.flush()
            self._write(target, byte, off, length)
            return
        self.present[target][off:off + length] = bytes([byte]) * length
        for what in "write -q -P %d %d %d" % (byte, off, length), "flush":
            self.waiting.append(["qemu-monitor-command", self.name, "--hmp", '%s "%s"' % (self.drive(target), what)])

    def snap(self, name, kind="external"):
        """By virsh."""
        command = ["snapshot-create-as", self.name, name]
        if kind == "external":
            command.append("--disk-only")
            for t in self.targets:
                self.active[t] = "%s/%s.%s" % (self.dir, t, name)
                command += ["--diskspec", "%s,snapshot=external,file=%s" % (t, self.active[t])]
        self.waiting.append(command)
        self.note(name, kind)

    def note(self, name, kind, parent=None):
        self.wanted[name] = {t: bytes(self.present[t]) for t in self.targets}
        self.kinds[name] = kind
        self.parents[name] = parent or self.current
        self.current = name

    def forget(self, name):
        del self.wanted[name], self.kinds[name]
        parent = self.parents.pop(name)
        for other in self.parents:
            if self.parents[other] == name:
                self.parents[other] = parent
        if self.current == name:
            self.current = parent

    def back_to(self, name):
        """A branch, made the way libvirt 9.0 asks for: new overlays, definition, record."""
        self.flush()
        record = virsh(["snapshot-dumpxml", self.name, name])
        frozen = self.frozen(record)
        old = dict(self.active)
        for t in self.targets:
            self.active[t] = "%s/%s.back.%s" % (self.dir, t, name)
            sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", frozen[t], "-F", "qcow2", self.active[t])
            self.present[t] = bytearray(self.wanted[name][t])
        for f in old.values():
            os.unlink(f)
        path = os.path.join(self.dir, ".xml")
        with open(path, "w") as f:
            f.write(self.xml())
        with open(path + "2", "w") as f:
            f.write(record)
        virsh(["define", path], ["snapshot-create", self.name, path + "2", "--redefine", "--current"])
        os.unlink(path)
        os.unlink(path + "2")
        self.current = name

    def end(self):
        names = virsh(["snapshot-list", self.name, "--name", "--topological"]).split()
        virsh(["destroy", self.name], check=False)
        virsh(["managedsave-remove", self.name], check=False)
        virsh(*[["snapshot-delete", self.name, n, "--metadata"] for n in reversed(names)], ["undefine", self.name, "--keep-nvram"])
        for f in os.listdir(self.dir):
            os.unlink(os.path.join(self.dir, f))
        os.rmdir(self.dir)

    # ------------------------------------------------------------ what libvirt and QEMU say

    def state(self):
        return virsh(["domstate", self.name]).strip()

    def active_now(self):
        rows = [line.split(None, 1) for line in virsh(["domblklist", self.name]).splitlines() if line.strip()]
        return {r[0]: r[1].strip() for r in rows}

    def jobs(self):
        return "".join(virsh(["blockjob", self.name, t, "--info"], check=False) for t in self.targets).strip()

    @staticmethod
    def frozen(record):
        """target -> the file that the snapshot froze, by libvirt's record."""
        root = ET.fromstring(record)
        return {d.find("target").get("dev"): d.find("source").get("file")
                for d in root.findall("./domain/devices/disk") if d.find("source") is not None}

    def check_present(self, *contents):
        """Is what the guest would read one of these (default: the model), on all disks the same one? What a running QEMU has
        not written out yet only it knows, so that one is told to."""
        contents = contents or (self.present,)

        def look():
            if self.running and self.state() != "shut off":
                virsh(*[["qemu-monitor-command", self.name, "--hmp", '%s "flush"' % self.drive(t)] for t in self.targets])
            now = {t: bytes_of(p) for t, p in self.active_now().items()}
            if any(all(now[t] == bytes(c[t]) for t in self.targets) for c in contents):
                return None
            return "they are not; jobs: %s" % self.jobs()
        until("the guest's disks are to be what they were", look, PATIENCE if self.running else 0)

    @staticmethod
    def drive(target):
        return "qemu-io -d /machine/peripheral/virtio-disk%d/virtio-backend" % (ord(target[2]) - ord("a"))

    def check_images(self, leaks=False, unmade=False):
        """Every image is sound. @leaks: clusters may be lost, as when QEMU is killed. @unmade: a file may still be empty that
        was about to become an image and is nobody's."""
        active = self.active_now().values()
        for f in sorted(os.listdir(self.dir)):
            if unmade and not os.path.getsize(os.path.join(self.dir, f)):
                continue
            p = sh("qemu-img", "check", "-U", "-f", "qcow2", os.path.join(self.dir, f), check=False)
            if p.returncode == 3 and self.running and os.path.join(self.dir, f) in active:  # not all is written out yet
                continue
            if p.returncode not in ((0, 3) if leaks else (0,)):
                raise Wrong("qemu-img check %s: %s" % (f, (p.stdout + p.stderr)[:300].replace("\n", " ")))

    def check_records(self):
        """libvirt's records are exactly those of the model, and what each names reads as it must. Returns the files."""
        names = virsh(["snapshot-list", self.name, "--name", "--topological"]).split()
        if sorted(names) != sorted(self.wanted):
            raise Wrong("libvirt has the snapshots %s instead of %s" % (names, sorted(self.wanted)))
        virsh(["snapshot-list", self.name, "--tree"])
        used = set()
        for name in names:
            record = virsh(["snapshot-dumpxml", self.name, name])
            parent = ET.fromstring(record).findtext("./parent/name")
            if parent != self.parents[name]:
                raise Wrong("libvirt says that '%s' comes after '%s' instead of '%s'" % (name, parent, self.parents[name]))
            for t, path in self.frozen(record).items():
                internal = self.kinds[name] == "internal"
                if bytes_of(path, snapshot=name if internal else None) != self.wanted[name][t]:
                    raise Wrong("by libvirt's record, '%s' of disk %s is in '%s', which has other bytes" % (name, t, path))
                used |= chain(path)
        for path in self.active_now().values():
            used |= chain(path)
        return used

    def check_files(self, used):
        strays = sorted(set(os.path.join(self.dir, f) for f in os.listdir(self.dir)) - used)
        if strays:
            raise Wrong("files are left: %s" % " ".join(os.path.basename(s) for s in strays))

    def check_usable(self):
        """libvirt itself can go on from here: it takes a snapshot and merges it away again, and then the newest of ours."""
        started = not self.running
        external = "internal" not in self.kinds.values()
        commands = [["start", self.name, "--paused"]] if started and external else []
        if external:
            commands += [["snapshot-create-as", self.name, "later", "--disk-only"] +
                         [w for t in self.targets for w in ("--diskspec", "%s,snapshot=external,file=%s/%s.later" % (t, self.dir, t))]]
        else:
            commands += [["snapshot-create-as", self.name, "later"]]
        gone = ["later"]
        if self.current and self.current not in self.parents.values():
            frozen = self.frozen(virsh(["snapshot-dumpxml", self.name, self.current]))
            if not external or all(frozen[t] in chain(p) for t, p in self.active_now().items()):
                gone.append(self.current)
        commands += [["snapshot-delete", self.name, n] for n in gone]
        commands += [["destroy", self.name]] if started and external else []
        virsh(*commands)
        for n in gone[1:]:
            self.forget(n)
        self.check_records()
        self.check_present()


def chain(path):
    files = set()
    while path and path not in files:
        files.add(path)
        out = sh("qemu-img", "info", "-U", "-f", "qcow2", path).stdout
        found = re.search(r"^backing file: (.*?)( \(actual path: .*\))?$", out, re.M)
        path = os.path.join(os.path.dirname(path), found.group(1)) if found else None
    return files


# ---------------------------------------------------------------- the mount

class Mount:
    """virt-snapfs in the foreground, with VIRT_SNAPFS_FAULT set to a file of ours."""

    def __init__(self, point, sources=None, options="refresh=0.5"):
        self.point = point
        self.sources = sources or [URI]
        self.options = options
        self.fault = os.path.join(WORK, "fault")
        self.log = os.path.join(WORK, "mount.log")
        self.process = None
        os.makedirs(point, exist_ok=True)

    def up(self):
        env = dict(os.environ, VIRT_SNAPFS_FAULT=self.fault, STATE_DIRECTORY=os.path.join(WORK, "state"))
        log = open(self.log, "ab")
        self.process = subprocess.Popen([SNAPFS, "-f", "-o", self.options] + self.sources + [self.point],
                                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        log.close()

        def mounted():
            if self.process.poll() is not None:
                return "it ended with %s: %s" % (self.process.returncode, open(self.log).read()[-500:])
            return None if os.path.ismount(self.point) else "it does not mount"
        until("virt-snapfs", mounted)
        os.listdir(self.point)

    def after_death(self):
        if self.process.wait(PATIENCE) != -signal.SIGKILL:
            raise Wrong("virt-snapfs ended with %s: %s" % (self.process.returncode, open(self.log).read()[-1500:]))
        sh("umount", "-l", self.point)

    def kill(self):
        self.process.kill()
        self.after_death()

    def down(self):
        def unmounted():  # a look of its own may just be passing through it
            p = sh("fusermount3", "-u", self.point, check=False)
            return None if p.returncode == 0 else p.stderr
        until("fusermount3 -u", unmounted)
        if self.process.wait(PATIENCE):
            raise Wrong("virt-snapfs ended with %s: %s" % (self.process.returncode, open(self.log).read()[-1500:]))

    def arm(self, n):
        with open(self.fault, "w") as f:
            f.write("%d\n" % n)

    def disarm(self):
        """How many points were not reached, and where the last one was."""
        with open(self.fault) as f:
            left, _, where = f.read().strip().partition(" ")
        os.unlink(self.fault)
        return int(left), where

    def write(self, guest, text, door="ctl"):
        """0 or an errno."""
        fd = None
        try:
            fd = os.open("%s/%s/%s" % (self.point, guest, door), os.O_WRONLY)
            os.write(fd, (text + "\n").encode())
            return 0
        except OSError as e:
            return e.errno
        finally:
            try:
                if fd is not None:
                    os.close(fd)
            except OSError:
                pass

    def text(self, guest, name):
        with open("%s/%s/%s" % (self.point, guest, name)) as f:
            return f.read()

    def outcome(self, guest):
        return self.text(guest, "ctl").splitlines()[0]


def name_of(number):
    return "0" if number == 0 else errno.errorcode.get(number, str(number))
