# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""A guest agent that can be told how to fail, on the host's side of the channel (agent-port.c is the guest).

    agent = Agent(path)          listens; QEMU and libvirt both connect to it
    agent.freeze = "hangs"       never answers guest-fsfreeze-freeze, nor anything after it
                   "answers", "refuses", "dies", 6.5 (answers after so many seconds, and then what has come meanwhile)
    agent.thaw                   the same for guest-fsfreeze-thaw
    agent.frozen                 are the guest's file systems frozen?
    agent.seen                   [(time, command), ...] but guest-sync

As the real one it does one thing at a time, and knows guest-sync, guest-sync-delimited, guest-ping, guest-info, guest-get-time.
"""
import json
import os
import socket
import threading
import time


class Agent:
    def __init__(self, path):
        self.path = path
        self.freeze = self.thaw = "answers"
        self.frozen = False
        self.seen = []
        self.over = threading.Event()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        os.chmod(path, 0o777)
        self.socket.listen(5)
        threading.Thread(target=self.accept, daemon=True).start()

    def end(self):
        self.over.set()
        self.socket.close()
        os.unlink(self.path)

    def accept(self):
        while not self.over.is_set():
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        buffer = b""
        with peer:
            while not self.over.is_set():
                try:
                    data = peer.recv(4096)
                except OSError:
                    return
                if not data:
                    return
                buffer += data
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    try:
                        request = json.loads(line.lstrip(b"\xff"))
                    except ValueError:
                        continue
                    answer = self.answer(request)
                    if answer is None:
                        return
                    try:
                        peer.sendall(answer)
                    except OSError:
                        return

    def answer(self, request):
        """Bytes; None: the connection ends."""
        command, arguments = request.get("execute"), request.get("arguments", {})
        if command in ("guest-sync", "guest-sync-delimited"):
            return b"\xff" * (command != "guest-sync") + self.value(arguments.get("id"))
        self.seen.append((time.monotonic(), command))
        if command == "guest-fsfreeze-freeze":
            return self.freezing(self.freeze, True)
        if command == "guest-fsfreeze-thaw":
            return self.freezing(self.thaw, False)
        values = {"guest-ping": {}, "guest-get-time": time.time_ns(), "guest-fsfreeze-status": "frozen" if self.frozen else "thawed",
                  "guest-info": {"version": "7.2.0", "supported_commands": [{"name": n, "enabled": True, "success-response": True} for n in (
                      "guest-ping", "guest-info", "guest-get-time", "guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw")]}}
        if command in values:
            return self.value(values[command])
        return b'{"error": {"class": "CommandNotFound", "desc": "The command %s has not been found"}}\n' % command.encode()

    def freezing(self, how, frozen):
        if how == "hangs":
            self.over.wait()
            return None
        if how == "dies":
            return None
        if how == "refuses":
            return b'{"error": {"class": "GenericError", "desc": "a disk of the guest does not answer"}}\n'
        if how != "answers":
            self.over.wait(how)
        self.frozen = frozen
        return self.value(2)

    @staticmethod
    def value(value):
        return json.dumps({"return": value}).encode() + b"\n"

    def count(self, command):
        return sum(1 for _, c in self.seen if c == command)
