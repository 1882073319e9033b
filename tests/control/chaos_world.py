# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""The world of chaos.py: image files on a file system that can be made full, virsh, two mounts that can be killed, and what is
asked of them. Nothing here knows what ought to be; that is chaos_model.py.

A file is known by its inode number, so that it stays the same one wherever it is moved to. World.scan() finds all of them
and reads from their headers what stands on what, also where a file is moved away or its header has been damaged by us.
"""
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
import xml.etree.ElementTree as ET

from lab import Broken, ERRNO, Lab, MIB, Mount, SANITIZER, run, sha_file, wait_until

PATIENCE = 180  # seconds until a command counts as hanging
ROOM = 512 * MIB  # of the images' file system


class File:
    """One inode below the images."""

    def __init__(self, path, status, backing):
        self.path, self.ino, self.backing = path, status.st_ino, backing
        self.stamp = (status.st_ino, status.st_size, status.st_mtime_ns)

    def __repr__(self):
        return self.path


class Record:
    """One snapshot by libvirt. frozen, overlay: disk -> path; modes: disk -> internal, external or no."""

    def __init__(self, text):
        root = ET.fromstring(text)
        self.text, self.name = text, root.findtext('name')
        self.parent, self.time = root.findtext('parent/name'), int(root.findtext('creationTime'))
        self.modes, self.overlay, self.frozen, self.format = {}, {}, {}, {}
        for d in root.findall('disks/disk'):
            self.modes[d.get('name')] = d.get('snapshot')
            source = d.find('source')
            if source is not None:
                self.overlay[d.get('name')] = source.get('file')
        for t, (path, fmt, _) in disks_of(root.find('domain')).items():
            if self.modes.get(t) in ('internal', 'external'):
                self.frozen[t], self.format[t] = path, fmt
        self.unfinished = root.find('.//snapshotDeleteInProgress') is not None


def disks_of(domain):
    """target -> (path, format, [paths below, by <backingStore>])."""
    found = {}
    for d in domain.findall('devices/disk'):
        source = d.find('source')
        if source is None or not source.get('file'):
            continue
        below, store = [], d.find('backingStore')
        while store is not None and store.find('source') is not None:
            below.append(store.find('source').get('file'))
            store = store.find('backingStore')
        found[d.find('target').get('dev')] = (source.get('file'), d.find('driver').get('type'), below)
    return found


class Seen:
    """What libvirt says about one domain."""

    def __init__(self, name):
        self.name, self.state, self.live, self.config, self.records, self.jobs = name, None, '', '', {}, {}
        self.current = None
        self.disks, self.config_disks = {}, {}

    @property
    def on(self):
        return self.state not in (None, 'shut off', 'crashed')


class Writer:
    """A process that writes one line into a door; it can be signalled and waited for."""

    def __init__(self, path, text):
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 0
            try:
                for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                    signal.signal(s, signal.SIG_DFL)
                fd = os.open(path, os.O_WRONLY)
                os.write(fd, text.encode())
                os.close(fd)
            except OSError as e:
                code = e.errno
            except BaseException:
                code = 255
            os._exit(code)
        self.status = None
        self.signalled = False

    def done(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
                self.seconds = time.monotonic() - self.began
        return self.status is not None

    def signal(self, number):
        if not self.done():
            self.signalled = True
            os.kill(self.pid, number)

    def wait(self, patience=PATIENCE):
        """None for success, an errno's name, 'SIGNAL', or 'HANGS'."""
        if not wait_until(self.done, patience):
            os.kill(self.pid, signal.SIGKILL)
            return 'HANGS'
        if not os.WIFEXITED(self.status):
            return 'SIGNAL'
        code = os.WEXITSTATUS(self.status)
        return ERRNO.get(code, str(code)) if code else None


class World:
    def __init__(self, uri, work, snapfs):
        self.uri, self.work, self.snapfs = uri, work, snapfs
        os.makedirs(work)
        self.images = os.path.join(work, 'img')
        os.makedirs(self.images)
        run('mount', '-t', 'tmpfs', '-o', 'mode=755,size=%d' % ROOM, 'tmpfs', self.images)
        self.lab = Lab(uri, work, snapfs)
        self.lab.images = self.images
        self.away = os.path.join(self.images, '.away')
        os.makedirs(self.away)
        os.makedirs(os.path.join(work, 'state'), exist_ok=True)
        self.mounts = {'A': None, 'B': None}
        self.deaths, self.reviving = [], 0  # of libvirtd, by itself
        self.ends = []  # what the ends of mounts left to say
        self.binds = []
        self.disturbed = {}  # ino -> {how, path, ...}: see disturb()
        self.rewritten = set()  # inodes whose header somebody has written anew
        self.odd = {}  # ino -> a name of its backing file that may be refused
        self._read = {}
        self.n = 0
        self.mounted_at = 0
        self.lost = set()  # mounts that went since the last check
        self.tools = 0

    # ------------------------------------------------ virsh

    def virsh_many(self, commands, patience=60):
        """(worked, output) of each. Waits for a libvirtd that is coming back."""
        end = time.monotonic() + patience
        while True:
            try:
                return self.lab.virsh_many(commands)
            except subprocess.TimeoutExpired:
                return [(False, 'error: no answer')] * len(commands)
            except Broken as e:
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)
                self.revive(str(e))

    def revive(self, why):
        """A libvirtd that has died by itself is started again: its own mistake, and one more thing to live with."""
        try:
            with open('/run/libvirtd.pid') as f:
                pid = int(f.read())
        except (OSError, ValueError):
            return
        if os.path.exists('/proc/%d' % pid) or time.monotonic() < self.reviving:
            return
        self.deaths.append(why)
        self.reviving = time.monotonic() + 20
        os.unlink('/run/libvirtd.pid')
        run('libvirtd', '-d', '-p', '/run/libvirtd.pid')

    def virsh(self, *words):
        worked, out = self.virsh_many([words])[0]
        self.notice_mark(out)
        return worked, out.strip()

    def notice_mark(self, out):
        """qemu-img has written into the header of what was put in an image's place that it is corrupt."""
        for d in self.disturbed.values() if 'arking image as corrupt' in out else ():
            if d.get('stamp') and os.path.exists(d['path']):
                d['stamp'] = File(d['path'], os.stat(d['path']), None).stamp

    def virsh_start(self, words):
        """A virsh of its own, for what runs beside something else."""
        return subprocess.Popen(['virsh', '-q', '-c', self.uri, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, env=dict(os.environ, LIBVIRT_LOG_OUTPUTS='4:file:/dev/null'))

    def virsh_end(self, process, patience=PATIENCE):
        try:
            out = process.communicate(timeout=patience)[0].decode(errors='replace').strip()
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False, 'it hangs'
        self.notice_mark(out)
        return process.returncode == 0, out

    def look(self, names):
        """name -> Seen, of those that are defined."""
        first = []
        for n in names:
            first += [('domstate', n), ('dumpxml', n), ('dumpxml', n, '--inactive', '--security-info'),
                      ('snapshot-list', n, '--name', '--topological')]
        out = self.virsh_many(first)
        seen, more = {}, []
        for i, n in enumerate(names):
            state, live, config, snaps = out[4 * i:4 * i + 4]
            if not all(o[0] for o in (state, live, config, snaps)):
                continue
            s = seen[n] = Seen(n)
            s.state, s.live, s.config = state[1].strip(), live[1], config[1]
            s.disks, s.config_disks = disks_of(ET.fromstring(live[1])), disks_of(ET.fromstring(config[1]))
            more += [(n, 'snap', x.strip(), ('snapshot-dumpxml', n, x.strip(), '--security-info')) for x in snaps[1].splitlines() if x.strip()]
            if s.records is not None and snaps[1].strip():
                more.append((n, 'current', None, ('snapshot-current', n, '--name')))
            if s.on:
                for t in s.disks:
                    more.append((n, 'flush', t, self.io(n, t, 'flush')))
                    more.append((n, 'job', t, ('blockjob', n, t, '--info')))
        if more:
            for (n, what, x, _), (worked, text) in zip(more, self.virsh_many([m[3] for m in more])):
                if what == 'snap' and worked:
                    seen[n].records[x] = Record(text)
                elif what == 'job' and worked and text.strip() and not text.startswith('No current'):
                    seen[n].jobs[x] = text.strip()
                elif what == 'current' and worked:
                    seen[n].current = text.strip()
        return seen

    @staticmethod
    def io(name, target, command):
        return ('qemu-monitor-command', name, '--hmp', 'qemu-io -d /machine/peripheral/virtio-disk%d/virtio-backend "%s"' %
                (ord(target[2]) - ord('a'), command))

    # ------------------------------------------------ files

    def scan(self):
        """ino -> File, of everything below the images."""
        found = {}
        for at, dirs, names in os.walk(self.images):
            dirs[:] = [d for d in dirs if d != 'bind']
            for f in names:
                path = os.path.join(at, f)
                try:
                    status = os.lstat(path)
                except FileNotFoundError:
                    continue
                if os.path.islink(path) or status.st_ino in found:
                    continue
                d = self.disturbed.get(status.st_ino)
                found[status.st_ino] = File(path, status, d['backing'] if d else self.header(path))
        return found

    @staticmethod
    def header(path):
        """The name of the backing file as it is written there, or None."""
        try:
            with open(path, 'rb') as f:
                head = f.read(20)
                if len(head) < 20 or head[:4] != b'QFI\xfb':
                    return None
                off, length = struct.unpack('>QI', head[8:20])
                if not off or length > 1023:
                    return None
                f.seek(off)
                return f.read(length).decode(errors='replace')
        except OSError:
            return None

    def nominal(self, file):
        d = self.disturbed.get(file.ino)
        return d['path'] if d else file.path

    def plain(self, name, near):
        """A backing file's name as an absolute path, without links and binds."""
        if name.startswith('json:'):
            tree = json.loads(name[5:])
            while isinstance(tree.get('file'), dict):
                tree = tree['file']
            name = tree.get('filename') or tree.get('file.filename')
        elif name.startswith('file:'):
            name = name[5:]
        return self.real(os.path.join(os.path.dirname(near), name))

    @staticmethod
    def real(path):
        path = os.path.realpath(path)
        return re.sub(r'/bind(?=/)', '', path)

    def ino_of(self, path, files=None):
        """Of the file that ought to be at this path, also where it is moved away."""
        path = self.real(path)
        for ino, d in self.disturbed.items():
            if d['path'] == path:
                return ino
        try:
            return os.stat(path).st_ino
        except OSError:
            return None

    def chain(self, ino, files):
        """The inodes from this one down. None at its end: something that is not known is beneath; ('img', domain, file): an
        image of the mount."""
        out = []
        while ino is not None and ino not in out:
            out.append(ino)
            f = files.get(ino)
            if f is None:
                return out + [None]
            if f.backing is None:
                return out
            path = self.plain(f.backing, self.nominal(f))
            if path.startswith(self.work + '/mnt'):
                return out + [('img',) + tuple(path.split('/')[-2:])]
            ino = self.ino_of(path, files)
        return out + [None] if ino is None else out

    def stamps(self, ino, files):
        return tuple(files[i].stamp if i in files else i for i in self.chain(ino, files))

    def qemu_sum(self, path, fmt, files, snapshot=None):
        """sha256 of what QEMU reads, or a sentence with a blank in it."""
        ino = self.ino_of(path)
        if ino is None:
            return 'not there'
        key = (path, snapshot)
        stamp = self.stamps(ino, files)
        cachable = all(isinstance(s, tuple) and s[0] != 'img' for s in stamp)
        if cachable and self._read.get(key, (None,))[0] == stamp:
            return self._read[key][1]
        out = os.path.join(self.work, '.read.raw')
        self.tools += 1
        how = ['-l', 'snapshot.name=' + snapshot] if snapshot else []
        p = run('qemu-img', 'convert', '-U', '-f', fmt, *how, '-O', 'raw', path, out, check=False)
        if p.returncode:
            return 'qemu-img: ' + p.stderr.decode(errors='replace').strip()[-300:]
        self._read[key] = (stamp, sha_file(out))
        os.unlink(out)
        return self._read[key][1]

    # ------------------------------------------------ disturbing files

    def disturb(self, file, how):
        """@how: away; stub, copy (the beginning of it in its place); magic, feature (its header damaged)."""
        self.n += 1
        d = dict(how=how, path=file.path, backing=file.backing, times=file.stamp[2])
        if how in ('away', 'copy', 'stub'):
            there = os.path.join(self.away, '%d.%s' % (self.n, os.path.basename(file.path)))
            os.rename(file.path, there)
            d['away'] = there
            if how != 'away':
                with open(there, 'rb') as f:
                    head = f.read(3000 if how == 'copy' else 60)
                with open(file.path, 'wb') as f:
                    f.write(head)
                d['stamp'] = File(file.path, os.stat(file.path), None).stamp
        else:
            with open(file.path, 'r+b') as f:
                d['head'] = f.read(104)
                f.seek(0 if how == 'magic' else 72)
                f.write(b'QFI\x00' if how == 'magic' else struct.pack('>Q', 1 << 40))
            d['stamp'] = File(file.path, os.stat(file.path), None).stamp
        self.disturbed[file.ino] = d

    def restore(self, ino):
        """Gives a sentence where something happened to it meanwhile."""
        d = self.disturbed.pop(ino)
        wrong = None
        try:
            now = File(d['path'], os.stat(d['path']), None).stamp
        except OSError:
            now = None
        if d['how'] == 'away' and now:
            wrong = "where '%s' was moved away from, a file has appeared" % d['path']
        elif d['how'] != 'away' and now != d['stamp']:
            wrong = "the unreadable '%s' (%s) was changed or removed" % (d['path'], d['how'])
        if d['how'] in ('away', 'copy', 'stub'):
            os.rename(d['away'], d['path'])
        elif now:
            with open(d['path'], 'r+b') as f:
                f.write(d['head'])
            os.utime(d['path'], ns=(d['times'], d['times']))
        return wrong

    def full(self, spare):
        """Leaves @spare bytes, or (None) as much as ever."""
        size = ROOM
        if spare is not None:
            s = os.statvfs(self.images)
            size = (s.f_blocks - s.f_bfree) * s.f_frsize + spare
        run('mount', '-o', 'remount,size=%d' % size, self.images)

    # ------------------------------------------------ mounts

    def up(self, which, *options):
        narrow = 'narrow' in options
        options = tuple(o for o in options if o != 'narrow') + (() if narrow else ('allow_path=' + self.images,))
        m = Mount(self.lab, os.path.join(self.work, 'mnt' + which), '-o', ','.join(('refresh=0.5',) + options))
        m.narrow = narrow
        m.fault = os.path.join(self.work, 'fault' + which)
        m.env = dict(VIRT_SNAPFS_FAULT=m.fault, STATE_DIRECTORY=os.path.join(self.work, 'state'))
        self.n += 1
        m.n = 100 * self.n
        m.start()
        self.mounted_at = time.monotonic()
        self.mounts[which] = m

    def down(self, which, kill=False):
        m, self.mounts[which] = self.mounts[which], None
        if m is None:
            return
        self.lost.add(which)
        if os.path.exists(m.fault):
            os.unlink(m.fault)
        if kill:
            m.kill()
        else:
            m.stop()
        self.ends += m.wrong
        with open(m.log, errors='replace') as f:
            text = f.read()
        found = SANITIZER.search(text)
        if found and not m.wrong:
            self.ends.append('sanitizer report: ' + text[found.start():found.start() + 1500])
        m.wrong = []

    def reap(self):
        """Mounts that have died: gives their letters."""
        dead = [w for w, m in self.mounts.items() if m and m.process.poll() is not None]
        for w in dead:
            m = self.mounts[w]
            status = m.process.returncode
            if status != -signal.SIGKILL:
                with open(m.log, errors='replace') as f:
                    text = f.read()
                found = SANITIZER.search(text)
                self.ends.append('virt-snapfs ended by itself with %s: %s' % (status, text[found.start():][:4000] if found else text[-1500:]))
                m.wrong = ['']
            self.down(w, kill=True)
            self.ends = [e for e in self.ends if e]
        return dead

    def door(self, which, name, file='ctl'):
        return os.path.join(self.mounts[which].where, name, file)

    def sentence(self, which, name):
        try:
            with open(self.door(which, name)) as f:
                return f.readline().strip()
        except (OSError, AttributeError) as e:
            return '(%s)' % e

    def said(self, which, name, line):
        """The last sentence about that line: another one may have ended since."""
        try:
            with open(self.door(which, name, 'log')) as f:
                lines = [x for x in f if ' failed: %s: ' % line in x or ' ok: %s' % line in x]
        except (OSError, AttributeError):
            lines = []
        return lines[-1].split(' ', 1)[1].strip() if lines else self.sentence(which, name)

    # ------------------------------------------------ processes

    @staticmethod
    def qemu_pid(name):
        try:
            with open('/run/libvirt/qemu/%s.pid' % name) as f:
                return int(f.read())
        except (OSError, ValueError):
            return None

    @staticmethod
    def kill_pid(pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass

    def libvirtd_kill(self):
        with open('/run/libvirtd.pid') as f:
            pid = int(f.read())
        self.kill_pid(pid)
        if not wait_until(lambda: not os.path.exists('/proc/%d' % pid), 20):
            raise Broken('libvirtd does not die')

    def libvirtd_start(self):
        if os.path.exists('/run/libvirtd.pid'):
            os.unlink('/run/libvirtd.pid')
        run('libvirtd', '-d', '-p', '/run/libvirtd.pid')
        self.virsh_many([('list',)])

    # ------------------------------------------------ the end

    def close(self, names):
        for w in self.mounts:
            self.down(w, kill=True)
        for d in self.binds:
            run('umount', '-l', d, check=False)
        commands = []
        for n in names:
            commands += [('destroy', n), ('undefine', n, '--snapshots-metadata', '--managed-save')]
        if commands:
            self.virsh_many(commands)
        run('umount', '-l', self.images, check=False)
        shutil.rmtree(self.work, ignore_errors=True)
