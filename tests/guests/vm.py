"""A Linux guest in QEMU (TCG: no KVM is needed), its snapshot, and its restore through libfaultline-preload.so."""
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time

MIB = 1 << 20
# What a layout has: base memory by NUMA node, and a DIMM. MiB each, one memory file each.
LAYOUTS = {"one": ([256], None), "regions": ([96, 96], 128)}
LINE_SECONDS = 240  # a limit against a hang, on a machine that is busy with other things
TROUBLE = re.compile(r"\bBAD\b|panic|[Oo]ops|BUG:|segfault|corrupt|bad page|blocked for more|stall")


class Failed(Exception):
    pass


def until(holds):
    """Looks again and again, and leaves the CPU to what it waits for."""
    while not holds():
        time.sleep(0.01)


def sizes_of(layout):
    nodes, dimm = LAYOUTS[layout]
    return nodes + ([dimm] if dimm else [])


class Serial:
    """The guest's serial port: every line that it has said, and what we say to it."""

    def __init__(self, process):
        self.process, self.lines, self.changed = process, [], threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip())
                self.changed.notify_all()
        with self.changed:
            self.lines.append(None)  # the end
            self.changed.notify_all()

    def trouble(self):
        return [line for line in self.lines if line and TROUBLE.search(line)]

    def count(self, word):
        return sum(1 for line in list(self.lines) if line and line.startswith(word))

    def await_count(self, word, count, expect_trouble=False):
        """Until so many lines begin with `word`; fails where the guest has said that something is wrong."""
        def over():
            return self.count(word) >= count or self.trouble() or None in self.lines
        with self.changed:
            done = self.changed.wait_for(over, LINE_SECONDS)
        if self.trouble() and not expect_trouble:
            raise Failed("the guest says: " + "; ".join(self.trouble()[:5]))
        if self.count(word) < count and not (expect_trouble and self.trouble()):
            raise Failed(f"the guest {'ended' if done else 'stands still'} before its line {count} of {word}")

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def tail(self):
        return "\n".join(line for line in self.lines[-30:] if line)


class Qemu:
    """`files`: one a memory, as sizes_of(layout); QEMU maps them. `preload`: the environment of the preloaded library."""

    def __init__(self, linux, layout, files, folder, incoming=False, preload=None):
        nodes, dimm = LAYOUTS[layout]
        line = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max", "-nodefaults", "-no-user-config",
                "-display", "none", "-no-reboot", "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
                "-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        for i, (size, file) in enumerate(zip(sizes_of(layout), files)):
            line += ["-object", f"memory-backend-file,id=ram{i},size={size}M,mem-path={file},share=on"]
        # q35: without PIT and HPET the calibration of the TSC hangs under TCG.
        if len(nodes) == 1:
            line += ["-m", str(nodes[0]), "-M", "q35,memory-backend=ram0"]
        else:
            line += ["-m", f"{sum(nodes)},slots=1,maxmem=1G", "-M", "q35"]
            for i in range(len(nodes)):
                line += ["-numa", f"node,nodeid={i},cpus={i},memdev=ram{i}"]
        if dimm:
            line += ["-device", f"pc-dimm,id=dimm0,memdev=ram{len(nodes)}"]
        line += ["-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on", "-kernel", f"{linux}/vmlinuz",
                 "-initrd", f"{linux}/initrd", "-append",
                 "console=ttyS0 quiet panic=-1 init_on_free=1 memhp_default_state=online"]
        if incoming:
            line += ["-incoming", "defer"]
        self.memory_mib = sum(sizes_of(layout))
        self.log = open(f"{folder}/qemu.log", "w+")
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        errors="replace", env={**os.environ, **(preload or {})})
        self.serial = Serial(self.process)
        self._connect(f"{folder}/qmp")
        self.command("qmp_capabilities")
        self.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def said(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def _connect(self, path):
        self.monitor = socket.socket(socket.AF_UNIX)
        self.monitor.settimeout(LINE_SECONDS)
        until(lambda: self.process.poll() is not None or os.path.exists(path))
        if self.process.poll() is not None:
            raise Failed(f"QEMU ended with {self.process.returncode}: {self.said()}")
        self.monitor.connect(path)
        self.answers = self.monitor.makefile()
        json.loads(self.answers.readline())  # its greeting

    def command(self, name, **arguments):
        self.monitor.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        for line in self.answers:
            answer = json.loads(line)
            if "error" in answer:
                raise Failed(f"QEMU refuses {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise Failed(f"QEMU ended at {name}: {self.said()}")

    def await_migration(self):
        def ended():
            return self.command("query-migrate").get("status") in ("completed", "failed", "cancelled")
        until(ended)
        if (status := self.command("query-migrate")["status"]) != "completed":
            raise Failed(f"QEMU's migration {status}: {self.said()}")

    def save(self, state):
        """Stops; the memory is then in its files, the rest in `state`."""
        self.command("stop")
        self.command("migrate", uri=f"exec:cat > {state}")
        self.await_migration()
        self.command("quit")
        self.process.wait(LINE_SECONDS)

    def load(self, state):
        self.command("migrate-incoming", uri=f"exec:cat {state}")
        self.await_migration()

    def balloon(self, mib):
        """Has the guest hand out memory until it has so much, and waits for it."""
        self.command("balloon", value=mib * MIB)
        until(lambda: self.serial.trouble() or self.command("query-balloon")["actual"] == mib * MIB)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def make_snapshot(linux, layout, folder):
    """A guest that has booted, worked, and holds memory full of what it knows: FOLDER/memory, FOLDER/state."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = [folder / f"mem{i}" for i in range(len(sizes_of(layout)))]
    for file, size in zip(files, sizes_of(layout)):
        with open(file, "wb") as made:
            made.truncate(size * MIB)
    qemu = Qemu(linux, layout, files, folder)
    try:
        qemu.serial.await_count("HELD", 1)
        qemu.serial.await_count("TICK", 2)
        qemu.save(folder / "state")
    except Failed:
        print(qemu.serial.tail())
        raise
    finally:
        qemu.end()
    with open(folder / "memory.new", "wb") as memory:
        for file in files:
            memory.write(file.read_bytes())
            file.unlink()
    (folder / "memory.new").rename(folder / "memory")


def start_restored(linux, layout, snapshot, folder, preload, server_socket, huge_folder=None):
    """A fresh QEMU whose memory comes from the page server at `server_socket`; stopped, its devices loaded."""
    files = [(huge_folder or folder) / f"stand-in{i}" for i in range(len(sizes_of(layout)))]
    for file, size in zip(files, sizes_of(layout)):
        with open(file, "wb") as made:
            made.truncate(size * MIB)
    environment = {"LD_PRELOAD": str(preload), "FAULTLINE_PRELOAD_SOCKET": str(server_socket),
                   "FAULTLINE_PRELOAD_MEMORY": ",".join(map(str, files))}
    qemu = Qemu(linux, layout, files, folder, incoming=True, preload=environment)
    try:
        qemu.load(snapshot / "state")
    except BaseException:
        qemu.end()
        raise
    return qemu
