"""The shipped programs as the page server of a guest, what kills them, and their figures."""
import os
import pathlib
import random
import re
import signal
import subprocess
import threading

from vm import Failed, end_with_us, until

SHARDS = 2


class PageServer:
    def __init__(self, programs, folder, source, options):
        """`source`: the options of `faultline serve` that say where the bytes come from."""
        self.programs, self.folder = programs, folder
        self.socket, self.control = folder / "vm.sock", folder / "control.sock"
        self.log = open(folder / "faultline.log", "w")
        self.process = subprocess.Popen(
            [programs / "faultline", "serve", "--control", self.control, "--socket", self.socket, "--name", "vm", "--shards",
             str(SHARDS), "--owners", str(SHARDS), *source, *options], stderr=self.log, start_new_session=True, preexec_fn=end_with_us)
        until(lambda: self.process.poll() is not None or self.socket.exists())
        if self.process.poll() is not None:
            raise Failed(f"faultline serve ended with {self.process.returncode}: {self.said()}")

    def said(self):
        return pathlib.Path(self.log.name).read_text()

    def run(self, *command):
        done = subprocess.run([self.programs / "faultline", *command, "--control", self.control], capture_output=True, text=True,
                              timeout=120)
        if done.returncode != 0:
            raise Failed(f"faultline {' '.join(map(str, command))} ends with {done.returncode}: {done.stderr}")
        return done.stdout

    def figures(self):
        """Every series of `faultline metrics`, summed up over its labels but `how` and `state`."""
        found = {}
        for line in self.run("metrics", "--once").splitlines():
            if match := re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line):
                name, labels, value = match.groups()
                kind = re.search(r'\b(?:how|state)="(\w+)"', labels or "")
                key = f"{name}:{kind[1]}" if kind else name
                found[key] = found.get(key, 0) + float(value)
        return found

    def source_pages(self):
        """Pages that were read of the source, by faults and populations."""
        return self.figures().get("faultline_source_bytes_total", 0) / 4096

    def children(self):
        """Coordinator and shards, whoever started them."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                name, rest = (entry / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            state, _, _, session = rest.split()[:4]
            if int(session) == self.process.pid and state != "Z" and name.startswith(("faultline-coord", "faultline-shard")):
                found.append(int(entry.name))
        return found

    def shut_down(self):
        self.run("shutdown")
        if self.process.wait(120) != 0:
            raise Failed(f"faultline serve ends with {self.process.returncode}: {self.said()[-2000:]}")

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Killer:
    """SIGKILLs one of the server's processes after the other, in an order that follows from the seed, until it is stopped."""

    PAUSE_SECONDS = (0.1, 0.35)

    def __init__(self, server, seed):
        self.server, self.random, self.kills = server, random.Random(seed), 0
        self.stopping, self.changed = False, threading.Condition()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def _run(self):
        while True:
            with self.changed:
                if self.changed.wait_for(lambda: self.stopping, self.random.uniform(*self.PAUSE_SECONDS)):
                    return
            for process in self.random.sample(found := sorted(self.server.children()), min(1, len(found))):
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                with self.changed:
                    self.kills += 1
                    self.changed.notify_all()

    def await_kills(self, count):
        with self.changed:
            if not self.changed.wait_for(lambda: self.kills >= count, 300):
                raise Failed(f"only {self.kills} kills in 300 s: {self.server.said()[-2000:]}")

    def stop(self):
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.thread.join()


def killed(server, kills, seed, work):
    """Does `work` while processes of the server are killed, `kills` at least; how many were."""
    if kills == 0:
        work()
        return 0
    killer = Killer(server, seed).start()
    try:
        work()
        killer.await_kills(kills)
    finally:
        killer.stop()
    return killer.kills


class Careless:
    """A page server that ignores removals (careless_handler.cpp)."""

    def __init__(self, program, folder, memory):
        self.socket = folder / "vm.sock"
        self.process = subprocess.Popen([program, self.socket, memory], preexec_fn=end_with_us)
        until(lambda: self.process.poll() is not None or self.socket.exists())

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
