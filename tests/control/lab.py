# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""What the tests share that drive domains through the mounted files.

A Domain keeps books: of every disk a model (its bytes as the guest has them), and of every snapshot what the model was when
it was taken, what stands where by libvirt's records, its kind, parent and memory. Nothing in the books comes from what
virt-snapfs says. After each step check() compares them with three witnesses: the mounted files, virsh, and QEMU's tools on
the image files.

Used by a suite that has entered its namespace and started a libvirt (tests/lab.sh):

	lab = Lab(uri, work, snapfs)        # work: a directory of the test's own
	lab.mount.start()
	d = Domain(lab, 'web', {'vda': 2, 'vdb': 2})
	d.write('vda')                      # somewhere, some bytes: guest and model
	d.create('monday')                  # asserts success, enters it in the books
	d.ctl('delete monday')              # -> Outcome(errno, line, seconds); the books are the caller's
	d.forget('monday')
	for why in d.check(): ...           # every sentence is something wrong

On embed nobody else can open libvirt while it is mounted: lab.virsh() unmounts for it and mounts again.
"""
import errno
import glob
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

MIB = 1 << 20
KIB = 1 << 10
ERRNO = dict(errno.errorcode)
ERRNO[errno.EOPNOTSUPP] = 'EOPNOTSUPP'  # the contract's name for it
PATIENCE = 120  # seconds until something counts as hanging
SANITIZER = re.compile(r'ERROR: (Address|Leak|Thread|Undefined)|runtime error:|SUMMARY: .*Sanitizer|'
                       r': Assertion .* failed|stack smashing')


class Broken(Exception):
    """The lab itself does not work: no case can be judged."""


def wait_until(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def sha(data):
    return hashlib.sha256(data).hexdigest()


def sha_file(path):
    h = hashlib.sha256()
    with open(path, 'rb', buffering=0) as f:
        while True:
            piece = f.read(MIB)
            if not piece:
                return h.hexdigest()
            h.update(piece)


def run(*argv, check=True):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
    if check and p.returncode:
        raise Broken('%s: %s' % (' '.join(argv), (p.stderr or p.stdout).decode(errors='replace').strip()))
    return p


# ---------------------------------------------------------------- counting

class Report:
    """One line a case, as lib.sh has them."""

    def __init__(self):
        self.counts = {'ok': 0, 'FAIL': 0, 'skip': 0}

    def _line(self, word, name, why=None):
        self.counts[word] += 1
        print('%s %s%s' % (word, name, ': ' + ' '.join(why.split()) if why else ''), flush=True)

    def ok(self, name):
        self._line('ok', name)

    def fail(self, name, why):
        self._line('FAIL', name, why or 'failed')

    def skip(self, name, why):
        self._line('skip', name, why)

    def judge(self, name, wrong):
        """@wrong: sentences; none of them: ok."""
        wrong = [w for w in wrong if w]
        if wrong:
            self.fail(name, '; '.join(wrong)[:1500])
        else:
            self.ok(name)
        return not wrong

    @staticmethod
    def note(text):
        for line in str(text).splitlines():
            print('# ' + line, flush=True)

    def end(self):
        """Prints the counting line; the exit status."""
        print('%d passed, %d failed, %d skipped' % (self.counts['ok'], self.counts['FAIL'], self.counts['skip']), flush=True)
        return 1 if self.counts['FAIL'] else 0


# ---------------------------------------------------------------- images

def backing(path):
    """The backing file that a qcow2 header names, as an absolute path; None: it stands alone (or is raw)."""
    with open(path, 'rb') as f:
        head = f.read(20)
        if len(head) < 20 or head[:4] != b'QFI\xfb':
            return None
        off, length = struct.unpack('>QI', head[8:20])
        if not off:
            return None
        f.seek(off)
        name = f.read(length).decode()
    return os.path.normpath(os.path.join(os.path.dirname(path), name))


def chain(path):
    """The file and all below it; ends at what is missing (which is named, too)."""
    files = []
    while path and path not in files:
        files.append(path)
        if not os.path.exists(path):
            break
        path = backing(path)
    return files


def stamp(files):
    return tuple((p, s.st_ino, s.st_size, s.st_mtime_ns) for p in files for s in [os.stat(p)])


def allocated(path):
    return os.stat(path).st_blocks * 512 if os.path.exists(path) else 0


# ---------------------------------------------------------------- the mount

class Mount:
    def __init__(self, lab, where, *options):
        self.lab, self.where, self.options = lab, where, options
        self.process = self.log = None
        self.n = 0
        self.env = {}
        self.wrong = []  # what its ends left to say: bad status, sanitizer reports
        os.makedirs(where, exist_ok=True)

    def mounted(self):
        with open('/proc/self/mounts') as f:
            return any(line.split(' ')[1] == self.where for line in f)

    def start(self):
        self.n += 1
        self.log = '%s.%d.log' % (self.where, self.n)
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen([self.lab.snapfs, '-f', *self.options, self.lab.uri, self.where],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.env})
        if not wait_until(lambda: self.mounted() or self.process.poll() is not None) or not self.mounted():
            self.kill()
            raise Broken('virt-snapfs did not mount: ' + self.tail())
        os.stat(self.where)

    def stop(self):
        """By fusermount3, and waits for the process."""
        if not self.process:
            return
        if self.process.poll() is None:
            for _ in range(20):
                if run('fusermount3', '-u', self.where, check=False).returncode == 0 or not self.mounted():
                    break
                time.sleep(0.1)
            else:
                run('fusermount3', '-uz', self.where, check=False)
            if not wait_until(lambda: self.process.poll() is not None, 60):
                self.wrong.append('virt-snapfs is still there 60 s after the unmount')
                self.process.kill()
        status = self.process.wait()
        self.process = None
        if self.mounted():
            run('umount', '-l', self.where, check=False)
        with open(self.log, errors='replace') as f:
            text = f.read()
        report = SANITIZER.search(text)
        if report:
            self.wrong.append('sanitizer report: ' + text[report.start():report.start() + 1500])
        elif status:
            self.wrong.append('virt-snapfs ended with status %d: %s' % (status, text[-400:]))

    def died(self):
        """After a death that was meant (a fault point): clears the dead mount away. Gives the status."""
        status = self.process.wait(PATIENCE)
        self.process = None
        run('fusermount3', '-uz', self.where, check=False)
        if self.mounted():
            run('umount', '-l', self.where, check=False)
        return status

    def kill(self):
        """Without a word to it."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self.mounted():
            run('umount', '-l', self.where, check=False)

    def waits_for(self):
        """What each thread of the process is in, a line each, and which processes it has begun."""
        pid = self.process.pid if self.process else None
        if not pid:
            return ['the mount has no process']
        lines = ['process %d hangs:' % pid]
        for task in sorted(glob.glob('/proc/%d/task/*' % pid)):
            words = []
            for name in ('comm', 'wchan', 'syscall', 'stack'):
                try:
                    with open(os.path.join(task, name)) as f:
                        words.append(' '.join(f.read().split()))
                except OSError:
                    words.append('?')
            lines.append('%s: %s' % (os.path.basename(task), ' | '.join(words)))
        lines += run('ps', '-eo', 'pid,ppid,stat,etime,args', check=False).stdout.decode(errors='replace').splitlines()
        if shutil.which('gdb'):
            lines += run('gdb', '-p', str(pid), '-batch', '-ex', 'thread apply all bt 12', check=False).stdout.decode(errors='replace').splitlines()
        return [line[:300] for line in lines]

    def tail(self, n=2000):
        with open(self.log, errors='replace') as f:
            return f.read()[-n:]


# ---------------------------------------------------------------- the lab

class Lab:
    def __init__(self, uri, work, snapfs, refresh=0.5, options=()):
        self.uri, self.work, self.snapfs = uri, work, snapfs
        self.embed = 'embed' in uri
        self.images = os.path.join(work, 'images')
        os.makedirs(self.images, exist_ok=True)
        self.mount = Mount(self, os.path.join(work, 'mnt'), '-o', 'refresh=%g' % refresh, *options)
        self.random = random.Random(1)
        self._checked, self._read = {}, {}

    # virsh, which on embed needs the mount out of its way

    def _virsh(self, script):
        env = dict(os.environ, LIBVIRT_LOG_OUTPUTS='4:file:/dev/null')
        return subprocess.run(['virsh', '-q', '-c', self.uri, script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=PATIENCE, env=env).stdout.decode()

    def virsh_many(self, commands):
        """Several commands through one connection. Gives (worked, output) of each."""
        words = [' '.join("'%s'" % w.replace('\\', '\\\\').replace("'", "'\\''") for w in c) for c in commands]
        # virsh goes on after a failure and tells it by a line of its own.
        script = "; ".join("%s; echo '@@%d@'" % (w, i) for i, w in enumerate(words))
        again = self.embed and self.mount.process is not None
        if again:
            self.mount.stop()
        try:
            text = self._virsh(script)
        finally:
            if again:
                self.mount.start()
        out = []
        for i in range(len(words)):
            piece, mark, text = text.partition('@@%d@' % i)
            if not mark:
                raise Broken('virsh %s: %s' % (words[i], piece))
            failed = re.search(r'^error: ', piece, re.M)
            out.append((not failed, piece.lstrip('\n')))
        return out

    def virsh(self, *words, check=True):
        worked, out = self.virsh_many([words])[0]
        if check and not worked:
            raise Broken('virsh %s: %s' % (' '.join(words), out.strip()))
        return out if worked else None

    # QEMU's tools, asked once for what has not changed since

    def qemu_check(self, path):
        """A sentence, or None."""
        key = stamp([path])
        if self._checked.get(path) != key:
            p = run('qemu-img', 'check', '-U', '-f', 'qcow2', path, check=False)
            if p.returncode:
                return 'qemu-img check %s: %s' % (os.path.basename(path),
                                                  (p.stdout + p.stderr).decode(errors='replace').strip()[-300:])
            self._checked[path] = key
        return None

    def qemu_sha(self, path, snapshot=None, fmt='qcow2', fresh=False):
        """Of what QEMU reads from the image (or from an internal snapshot in it); a sentence where it cannot."""
        files = chain(path)
        if not all(os.path.exists(f) for f in files):
            return '%s is not there' % files[-1]
        key = (snapshot, stamp(files))
        if fresh or self._read.get(path, (None, None))[0] != key:
            out = os.path.join(self.work, '.read.raw')
            how = ['-l', 'snapshot.name=' + snapshot] if snapshot else []
            p = run('qemu-img', 'convert', '-U', '-f', fmt, *how, '-O', 'raw', path, out, check=False)
            if p.returncode:
                return p.stderr.decode(errors='replace').strip()[-300:]
            self._read[path] = (key, sha_file(out))
            os.unlink(out)
        return self._read[path][1]


class Outcome:
    """Of a write to ctl. errno: its name, None for success. line: what ctl says first."""

    def __init__(self, err, line, seconds):
        self.errno, self.line, self.seconds = err, line, seconds

    def __repr__(self):
        return '%s after %.1f s: %s' % (self.errno or 'ok', self.seconds, self.line)


def write_file(path, text, patience=PATIENCE):
    """One write(2) by a process of its own, which can be given up. Gives the errno's name or None; 'HANGS'."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
            os.write(fd, text.encode())
            os.close(fd)
        except OSError as e:
            code = e.errno
        os._exit(code)
    end = time.monotonic() + patience
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            return 'HANGS'
        time.sleep(0.002)
    if not os.WIFEXITED(status):
        return 'signal %d' % os.WTERMSIG(status)
    code = os.WEXITSTATUS(status)
    return ERRNO.get(code, str(code)) if code else None


# ---------------------------------------------------------------- a domain and its books

class Snapshot:
    def __init__(self, name, kind, parent, disks, memory, ours):
        self.name, self.kind, self.parent = name, kind, parent
        self.disks = disks  # target -> bytes
        self.sums = {t: sha(b) for t, b in disks.items()}
        self.memory, self.ours, self.held = memory, ours, False
        self.stale = False  # meant to be: no file is expected
        self.recorded, self.stray = True, None  # does libvirt know it? else the path of the image that it is in


class Record:
    """One snapshot as virsh prints it."""

    def __init__(self, text):
        root = ET.fromstring(text)
        self.text = text
        self.name = root.findtext('name')
        self.parent = root.findtext('parent/name')
        self.overlay, self.frozen, self.below, self.modes = {}, {}, {}, {}
        for d in root.findall('disks/disk'):
            self.modes[d.get('name')] = d.get('snapshot')
            source = d.find('source')
            if source is not None and d.get('snapshot') == 'external':
                self.overlay[d.get('name')] = source.get('file')
        for d in root.findall('domain/devices/disk'):
            target, source = d.find('target').get('dev'), d.find('source')
            self.frozen[target] = source.get('file')
            self.below[target] = []
            store = d.find('backingStore')
            while store is not None and store.find('source') is not None:
                self.below[target].append(store.find('source').get('file'))
                store = store.find('backingStore')
        m = root.find('memory')
        self.memory_file = m.get('file') if m is not None else None

    def pit(self, target):
        """What this disk is frozen in, or None."""
        return self.frozen.get(target) if self.modes.get(target) in ('external', 'internal') else None


class Domain:
    """@disks: target -> MiB. @base: target -> an image that the disk stands on (its bytes in @content)."""

    def __init__(self, lab, name, disks, running=False, base=None, active=None, content=None, write=True):
        self.lab, self.name = lab, name
        self.dir = os.path.join(lab.mount.where, name)
        self.model, self.snaps, self.foreign = {}, {}, set()  # foreign: files of others in our directory
        self.home = os.path.join(lab.images, name)
        os.makedirs(self.home)
        self.state = 'shut off'
        self.current = None  # snapshot
        self.n = 0
        self.leftovers = set()  # files that are allowed to be there without a user
        xml = ''
        for t, mib in disks.items():
            path = (active or {}).get(t) or os.path.join(self.home, '%s.qcow2' % t)
            under = (base or {}).get(t)
            if not os.path.exists(path):
                run('qemu-img', 'create', '-q', '-f', 'qcow2', *(['-b', under, '-F', 'qcow2'] if under else []), path,
                    *([] if under else ['%dM' % mib]))
            self.model[t] = bytearray(content[t]) if content else bytearray(mib * MIB)
            xml += ("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/>"
                    "<target dev='%s' bus='virtio'/></disk>" % (path, t))
        self.define("<domain type='qemu'><name>%s</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
                    "<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>"
                    "<emulator>/usr/bin/qemu-system-x86_64</emulator>%s</devices></domain>" % (name, xml))
        if write:
            for t in disks:
                self.write(t)
        if running:
            self.start()

    def define(self, xml):
        path = os.path.join(self.lab.work, '.define.xml')
        with open(path, 'w') as f:
            f.write(xml)
        self.lab.virsh('define', path)

    def start(self):
        self.lab.virsh('start', self.name, '--paused')
        self.state = 'paused'

    def stop(self):
        self.lab.virsh('destroy', self.name)
        self.state = 'shut off'

    def remove(self):
        """The domain and its files."""
        words = [('destroy', self.name)] if self.state != 'shut off' else []
        self.lab.virsh_many(words + [('undefine', self.name, '--snapshots-metadata', '--managed-save')])
        run('rm', '-rf', '--one-file-system', self.home)

    # ------------------------------------------------ the guest

    def active(self):
        """target -> the file that is being written now, by virsh."""
        rows = [r.split(None, 1) for r in self.lab.virsh('domblklist', self.name).splitlines() if r.strip()]
        return {r[0]: r[1].strip() for r in rows}

    def _device(self, target):
        return '/machine/peripheral/virtio-disk%d/virtio-backend' % (ord(target[2]) - ord('a'))

    def _io(self, target, command):
        return ('qemu-monitor-command', self.name, '--hmp', 'qemu-io -d %s "%s"' % (self._device(target), command))

    def write(self, target=None, off=None, length=None, byte=None):
        """Guest and model. What is not given is chosen by the lab's generator."""
        rnd = self.lab.random
        target = target or rnd.choice(sorted(self.model))
        size = len(self.model[target])
        length = length or rnd.choice((512, 4 * KIB, 64 * KIB, 128 * KIB, 200 * KIB))
        off = rnd.randrange(0, size - length + 1, 512) if off is None else off
        byte = byte or rnd.randrange(1, 256)
        command = 'write -q -P %d %d %d' % (byte, off, length)
        if self.state == 'shut off':
            run('qemu-io', '-f', 'qcow2', '-c', command, self.active()[target])
        else:
            for worked, out in self.lab.virsh_many([self._io(target, command), self._io(target, 'flush')]):
                if not worked or out.strip():
                    raise Broken('guest write: ' + out)
        self.model[target][off:off + length] = bytes([byte]) * length

    # ------------------------------------------------ commands

    def appears(self):
        """The domain's directory, soon after it was defined."""
        if not wait_until(lambda: os.path.exists(self.dir + '/ctl')):
            raise Broken("the mount does not show domain '%s'" % self.name)

    def _door(self, file, text, patience=PATIENCE):
        self.appears()
        began = time.monotonic()
        err = write_file(os.path.join(self.dir, file), text, patience)
        seconds = time.monotonic() - began
        if err == 'HANGS':
            for line in [*self.lab.mount.waits_for(), 'its log:', *self.history().splitlines()]:
                Report.note(line)
        return Outcome(err, self.outcome(), seconds)

    def outcome(self):
        try:
            with open(self.dir + '/ctl') as f:
                return f.readline().rstrip('\n')
        except OSError as e:
            return '(ctl cannot be read: %s)' % e

    def ctl(self, command, patience=PATIENCE):
        return self._door('ctl', command + '\n', patience)

    def retain(self, policy, patience=PATIENCE):
        return self._door('retain', policy + '\n', patience)

    def text(self, file):
        with open(os.path.join(self.dir, file)) as f:
            return f.read()

    def json(self):
        return json.loads(self.text('snapshots.json'))

    def history(self, n=25):
        """The end of log, for a failure's notes."""
        try:
            return '\n'.join(self.text('log').splitlines()[-n:])
        except OSError as e:
            return str(e)

    # ------------------------------------------------ books

    def enter(self, name, kind, targets=None, memory=None, ours=True, parent=''):
        """A snapshot was taken just now."""
        if memory is None:
            memory = kind == 'internal' and self.state != 'shut off'
        self.snaps[name] = Snapshot(name, kind, self.current if parent == '' else parent,
                                    {t: bytes(self.model[t]) for t in (targets or self.model)}, memory, ours)
        self.current = name

    def enter_stray(self, name, target):
        """qemu-img made an internal snapshot in the active image, which libvirt does not know."""
        s = self.snaps[name] = Snapshot(name, 'internal', None, {target: bytes(self.model[target])}, False, False)
        s.recorded, s.stray = False, self.active()[target]

    def forget(self, *names):
        """They were deleted or committed: their children are their parents' now."""
        for name in names:
            gone = self.snaps.pop(name)
            for s in self.snaps.values():
                if s.parent == name:
                    s.parent = gone.parent
            if self.current == name:
                self.current = gone.parent

    def reverted(self, name):
        """What revert leaves: content and, without memory, a domain that is shut off."""
        s = self.snaps[name]
        for t, content in s.disks.items():
            self.model[t] = bytearray(content)
        self.current = name
        self.state = 'paused' if s.memory else 'shut off'

    def create(self, name, *words):
        """Through ctl, and into the books; gives the Outcome."""
        out = self.ctl(' '.join(['create', name, *words]))
        if out.errno is None:
            kind = 'internal' if 'internal' in words else 'external' if 'external' in words else \
                next((s.kind for s in self.snaps.values()), 'external')
            targets = next((w[6:].split(',') for w in words if w.startswith('disks=')), None)
            self.enter(name, kind, targets)
        return out

    def virsh_create(self, name, *words, kind='external', targets=None, memory=None):
        """By virsh, as somebody else does."""
        self.lab.virsh('snapshot-create-as', self.name, '--name', name, *words)
        self.enter(name, kind, targets, memory, ours=False)

    def descendants(self, name):
        below = [n for n, s in self.snaps.items() if s.parent == name]
        return below + [x for n in below for x in self.descendants(n)]

    # ------------------------------------------------ witnesses: the mounted files

    def files(self):
        return {'%s.%s.img' % (n, t): (n, t) for n, s in self.snaps.items() if not s.stale for t in s.disks}

    def listed(self):
        try:
            return {f for f in os.listdir(self.dir) if f.endswith('.img')}
        except OSError:
            return set()

    def settled(self):
        """Soon the mount shows what the books have: after somebody else's deeds."""
        self.appears()
        return wait_until(lambda: self.listed() == set(self.files()), 20)

    def check_bytes(self):
        wrong = []
        for f, (name, target) in sorted(self.files().items()):
            path = os.path.join(self.dir, f)
            try:
                size, got = os.stat(path).st_size, sha_file(path)
            except OSError as e:
                wrong.append('%s: %s' % (f, ERRNO.get(e.errno, e.errno)))
                continue
            s = self.snaps[name]
            if size != len(s.disks[target]):
                wrong.append('%s: st_size %d instead of %d' % (f, size, len(s.disks[target])))
            if got != s.sums[target]:
                wrong.append('%s: WRONG BYTES' % f)
        return wrong

    def check_listing(self):
        have, want = self.listed(), set(self.files())
        return ['files that should not be there: ' + ' '.join(sorted(have - want))] * bool(have - want) + \
            ['files that are missing: ' + ' '.join(sorted(want - have))] * bool(want - have)

    def check_json(self, records, active):
        """Each snapshot's line is as the books have it; its state as the chains on disk say."""
        wrong = []
        try:
            said = self.json()
        except (OSError, ValueError) as e:
            return ['snapshots.json: %s' % e]
        if said['domain']['state'] != self.state:
            wrong.append("json: the domain is '%s' instead of '%s'" % (said['domain']['state'], self.state))
        got = {s['name']: s for s in said['snapshots']}
        if sorted(got) != sorted(self.snaps):
            wrong.append('json lists %s instead of %s' % (sorted(got), sorted(self.snaps)))
        live = {f for path in active.values() for f in chain(path)}
        for name in sorted(set(got) & set(self.snaps)):
            s, j = self.snaps[name], got[name]
            state = 'stale' if s.stale else 'ok'
            record = records.get(name)
            if record and not s.stale and any(record.pit(t) not in live for t in s.disks):
                state = 'detached'
            if s.stray and s.stray not in live:
                state = 'detached'
            want = dict(kind=s.kind, state=state, memory=s.memory, held=s.held, ours=s.ours, recorded=s.recorded,
                        parent=s.parent, current=name == self.current)
            for key, value in want.items():
                if j.get(key) != value:
                    wrong.append('json: %s of %s is %r instead of %r%s' % (
                        key, name, j.get(key), value, ' (%s)' % j.get('reason') if key == 'state' else ''))
        return wrong

    # ------------------------------------------------ witnesses: virsh

    def ask(self):
        """All that virsh is asked in one step: (records, active, tree, state, sentences)."""
        names = sorted(n for n, s in self.snaps.items() if s.recorded)
        words = [('domstate', self.name), ('domblklist', self.name), ('snapshot-list', self.name, '--tree')]
        words += [('snapshot-dumpxml', self.name, n) for n in names]
        if self.state != 'shut off':
            words += [self._io(t, 'flush') for t in sorted(self.model)]
        out = self.lab.virsh_many(words)
        wrong = ['virsh %s: %s' % (' '.join(w[:3]), o[1].strip()) for w, o in zip(words, out) if not o[0]]
        active = {}
        for row in out[1][1].splitlines():
            if row.strip():
                t, path = row.split(None, 1)
                active[t] = path.strip()
        records = {n: Record(o[1]) for n, o in zip(names, out[3:]) if o[0]}
        return records, active, out[2][1], out[0][1].strip(), wrong

    def check_virsh(self, asked):
        records, active, tree, state, wrong = asked
        wrong = list(wrong)
        if state != self.state:
            wrong.append("virsh: the domain is '%s' instead of '%s'" % (state, self.state))
        have = sorted(line.lstrip(' |+-') if not line.lstrip(' |').startswith('+-') else line.lstrip(' |')[2:].strip()
                      for line in tree.splitlines() if line.strip(' |'))
        want = sorted(n for n, s in self.snaps.items() if s.recorded)
        if have != want:
            wrong.append('virsh lists %s instead of %s' % (have, want))
        for name, path in active.items():
            if not os.path.exists(path):
                wrong.append('domblklist names %s, which is not there' % path)
        for name, r in records.items():
            wrong += self.check_record(self.snaps[name], r)
        return wrong

    def check_record(self, s, record):
        """Does libvirt's record name a frozen image that, by QEMU, holds what the books have?"""
        wrong = []
        if record.parent != s.parent:
            wrong.append('the record of %s has the parent %s instead of %s' % (s.name, record.parent, s.parent))
        for t in s.disks:
            if s.stale:
                continue
            path = record.pit(t)
            if path is None:
                wrong.append('the record of %s has no disk %s' % (s.name, t))
                continue
            got = self.lab.qemu_sha(path, s.name if s.kind == 'internal' else None) if os.path.exists(path) else 'not there'
            if got != s.sums[t]:
                wrong.append('the record of %s names %s, which QEMU reads otherwise (%s)' %
                             (s.name, os.path.basename(path), got if ' ' in got else 'other bytes'))
            # libvirt itself may leave the lower end of a chain out.
            if os.path.exists(path) and record.below[t] != chain(path)[1:][:len(record.below[t])]:
                wrong.append('the record of %s has a false backingStore: %s' % (s.name, record.below[t]))
        return wrong

    # ------------------------------------------------ witnesses: image files

    def check_present(self, active):
        wrong = []
        for t, path in active.items():
            got = self.lab.qemu_sha(path, fresh=True) if os.path.exists(path) else 'not there'
            if got != sha(self.model[t]):
                wrong.append('the present content of %s (%s) is not what the guest wrote%s' %
                             (t, os.path.basename(path), ': ' + got if ' ' in got else ''))
        return wrong

    def own_files(self):
        return {os.path.join(at, f) for at, _, names in os.walk(self.home) for f in names}

    def check_images(self, records, active):
        """Every file is needed, and sound."""
        needed = set()
        for path in active.values():
            needed |= set(chain(path))
        for r in records.values():
            for t in r.modes:
                if r.pit(t) and not self.snaps[r.name].stale:
                    needed |= set(chain(r.pit(t)))
            if r.memory_file:
                needed.add(r.memory_file)
        have = self.own_files()
        extra = have - needed - self.foreign - self.leftovers
        wrong = ['files that nobody needs: ' + ' '.join(sorted(os.path.basename(p) for p in extra))] * bool(extra)
        memory = {r.memory_file for r in records.values()}
        for path in sorted((have | needed) - memory):
            if os.path.exists(path):
                wrong.append(self.lab.qemu_check(path))
            elif path not in self.leftovers:
                wrong.append('%s is not there' % path)
        return [w for w in wrong if w]

    def check(self, asked=None):
        """Everything. Gives sentences, each of something wrong. @asked: of ask(), where the caller has just asked."""
        if asked is None:
            asked = self.ask()
        wrong = self.check_listing() + self.check_bytes() + self.check_json(asked[0], asked[1]) + self.check_virsh(asked)
        return wrong + self.check_present(asked[1]) + self.check_images(asked[0], asked[1])


def main(cases, **options):
    """Runs cases(report, lab, more) with the arguments URI WORK SNAPFS [MORE...], mounted, and prints the counting line."""
    if len(sys.argv) < 4:
        raise SystemExit('usage: URI WORK-DIRECTORY VIRT-SNAPFS [MORE...]')
    report = Report()
    lab = Lab(*sys.argv[1:4], **options)
    try:
        lab.mount.start()
        cases(report, lab, sys.argv[4:])
    except (Broken, subprocess.TimeoutExpired) as e:
        report.fail('the lab works', str(e))
        if lab.mount.log:
            report.note(lab.mount.tail())
    finally:
        lab.mount.stop()
    report.judge('the mount ended well, without a sanitizer report', lab.mount.wrong)
    raise SystemExit(report.end())
