"""Virtual machines with guests that say on their serial port what they see of their memory; their snapshots, and their restore."""
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

libc = ctypes.CDLL(None)
MIB = 1 << 20
SECONDS = 240  # a limit against a hang, on a machine that is busy with other things
TROUBLE = re.compile(r"\bBAD\b|panic|[Oo]ops|BUG:|segfault|corrupt|bad page|blocked for more|stall")


class Failed(Exception):
    pass


def until(holds):
    """Looks again and again, and leaves the CPU to what it waits for."""
    end = time.monotonic() + SECONDS
    while not holds():
        if time.monotonic() > end:
            raise Failed(f"nothing came of it in {SECONDS} s")
        time.sleep(0.01)


def connect(path):
    """None where nothing listens there yet: a socket is there some time before it takes connections."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SECONDS)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def await_connection(path, process):
    """To what the process listens at; fails where it ends before."""
    connection = None

    def over():
        nonlocal connection
        connection = connect(path)
        return connection or process.poll() is not None
    until(over)
    return connection


class Serial:
    """The guest's serial port: every line that it has said, and what we say to it."""

    def __init__(self, process):
        self.process, self.lines, self.changed = process, [], threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip())
                self.changed.notify_all()
        with self.changed:
            self.lines.append(None)  # the end
            self.changed.notify_all()

    def trouble(self):
        return [line for line in list(self.lines) if line and TROUBLE.search(line)]

    def expect_no_trouble(self):
        if self.trouble():
            raise Failed("the guest says: " + "; ".join(self.trouble()[:5]))

    def count(self, word):
        return sum(1 for line in list(self.lines) if line and line.startswith(word))

    def await_count(self, word, count):
        """Until so many lines begin with `word`, and nothing is wrong."""
        with self.changed:
            done = self.changed.wait_for(lambda: self.count(word) >= count or self.trouble() or None in self.lines, SECONDS)
        self.expect_no_trouble()
        if self.count(word) < count:
            raise Failed(f"the guest {'ended' if done else 'stands still'} before its line {count} of {word}")

    def await_damage(self, said):
        """Until a line begins with `said`. None: until the guest ends, or says any of what expect_no_trouble() looks for."""
        def damage():
            return self.count(said) if said else self.trouble() or None in self.lines
        with self.changed:
            self.changed.wait_for(lambda: damage() or None in self.lines, SECONDS)
        if not damage():
            raise Failed("removals are ignored, and the guest has not noticed")

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def tail(self):
        return "\n".join(line for line in self.lines[-30:] if line)


def end_with_us():
    """Of a child, before it becomes its program: it is not left behind, however we end."""
    libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def start_program(line, folder, environment=None):
    """With its serial port at stdin and stdout; the rest of what it says is in FOLDER/vmm.log."""
    log = open(folder / "vmm.log", "w")
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, errors="replace",
                            env={**os.environ, **(environment or {})}, preexec_fn=end_with_us)


class Guest:
    """What is restored. `sizes`: MiB of each of its memories. `machine`: QEMU's options for it; a memory's backend is ram0, ram1, ...
    `walks`: the word of the lines that tell that it has been through its memory. `stale`: what it says of a page that was
    given back and has old bytes; None: that may be any trouble."""

    def __init__(self, sizes, machine, walks, stale, obeys):
        self.sizes, self.machine, self.walks, self.stale, self.obeys = sizes, machine, walks, stale, obeys
        self.mib = sum(sizes)


def linux(sizes, machine):
    """Debian's Linux; `state`/kernel has it (the script fetch-linux)."""
    # q35: without PIT and HPET the calibration of the TSC hangs under TCG. no_timer_check: on a machine with much else to do the
    # guest's timer may not tick while the kernel looks whether it does.
    return Guest(sizes, lambda state: ["-M", "q35" + machine[0], *machine[1:], "-smp", "2", "-cpu", "max", "-accel",
                                       "tcg,thread=multi", "-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on",
                                       "-kernel", f"{state}/kernel/vmlinuz", "-initrd", f"{state}/kernel/initrd", "-append",
                                       "console=ttyS0 quiet panic=-1 no_timer_check init_on_free=1 memhp_default_state=online"],
                 walks="FREED", stale=None, obeys=True)


GUESTS = {
    "linux": linux([256], [",memory-backend=ram0", "-m", "256"]),
    # Two NUMA nodes and a DIMM.
    "linux-regions": linux([96, 96, 128], [
        "", "-m", "192,slots=1,maxmem=1G", "-numa", "node,nodeid=0,cpus=0,memdev=ram0", "-numa", "node,nodeid=1,cpus=1,memdev=ram1",
        "-device", "pc-dimm,id=dimm0,memdev=ram2"]),
    # balloon_guest.c: every byte counts, and no operating system is in the way.
    "bare": Guest([128], lambda state: ["-M", "microvm,memory-backend=ram0", "-m", "128", "-accel", "tcg", "-global",
                                        "virtio-mmio.force-legacy=false", "-device", "virtio-balloon-device,id=balloon",
                                        "-kernel", f"{state}/balloon-guest"],
                  walks="TICK", stale="BAD stale", obeys=False),
}


class Qemu:
    """`files`: one for each of the guest's memories, which QEMU maps."""

    def __init__(self, guest, state, files, folder, more=(), environment=None):
        self.guest, self.folder = guest, folder
        line = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-chardev",
                "stdio,id=serial,signal=off", "-serial", "chardev:serial", "-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        for i, (size, file) in enumerate(zip(guest.sizes, files)):
            line += ["-object", f"memory-backend-file,id=ram{i},size={size}M,mem-path={file},share=on"]
        self.process = start_program([*line, *guest.machine(state), *more], folder, environment)
        self.serial = Serial(self.process)
        self.monitor = await_connection(folder / "qmp", self.process)
        if self.monitor is None:
            raise Failed(f"QEMU ended with {self.process.returncode}: {self.said()}")
        self.answers = self.monitor.makefile()
        json.loads(self.answers.readline())  # its greeting
        self.command("qmp_capabilities")
        self.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def said(self):
        return (self.folder / "vmm.log").read_text()

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
        until(lambda: self.command("query-migrate").get("status") in ("completed", "failed", "cancelled"))
        if (status := self.command("query-migrate")["status"]) != "completed":
            raise Failed(f"QEMU's migration {status}: {self.said()}")

    def save(self, devices):
        """Stops; the memory is then in its files, the rest in `devices`."""
        self.command("stop")
        self.command("migrate", uri=f"exec:cat > {devices}")
        self.await_migration()
        self.quit()

    def load(self, devices):
        self.command("migrate-incoming", uri=f"exec:cat {devices}")
        self.await_migration()

    def resume(self):
        self.command("cont")
        if self.guest.obeys:
            self.serial.say("go")

    def balloon(self, mib):
        """Has the guest hand out memory until it has so much, and waits for it."""
        self.command("balloon", value=mib * MIB)
        until(lambda: self.serial.trouble() or self.command("query-balloon")["actual"] == mib * MIB)
        self.serial.expect_no_trouble()

    def quit(self):
        self.command("quit")
        self.await_end()

    def await_end(self):
        if self.process.wait(SECONDS) != 0:
            raise Failed(f"QEMU ends with {self.process.returncode}: {self.said()}")

    def finish(self):
        """The guest's own end where it has one."""
        if not self.guest.obeys:
            self.quit()
        else:
            self.serial.say("end")
            self.serial.await_count("END", 1)
            self.await_end()
        self.serial.expect_no_trouble()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def make_files(folder, sizes, name):
    files = [folder / f"{name}{i}" for i in range(len(sizes))]
    for file, size in zip(files, sizes):
        with open(file, "wb") as made:
            made.truncate(size * MIB)
    return files


def make_snapshot(guest, state, folder):
    """Of a guest that has started and has its memory full of what it knows: FOLDER/memory, FOLDER/devices."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = make_files(folder, guest.sizes, "mem")
    qemu = Qemu(guest, state, files, folder)
    try:
        qemu.serial.await_count("HELD", 1)
        qemu.serial.await_count("TICK", 2)
        qemu.save(folder / "devices")
    except Failed:
        print(qemu.serial.tail())
        raise
    finally:
        qemu.kill()
    with open(folder / "memory.new", "wb") as memory:
        for file in files:
            append_sparsely(memory, file)
            file.unlink()
    (folder / "memory.new").rename(folder / "memory")


def append_sparsely(memory, file):
    """Pages of zeros become holes, as they are where QEMU has written the file itself."""
    content, page = memoryview(file.read_bytes()), 4096
    for at in range(0, len(content), page):
        if content[at:at + page] == bytes(page):
            memory.seek(page, os.SEEK_CUR)
        else:
            memory.write(content[at:at + page])
    memory.truncate(memory.tell())


def start_restored(guest, state, snapshot, folder, preload, server_socket, huge_folder=None):
    """A fresh QEMU whose memory comes from the page server at `server_socket`; stopped, its devices loaded."""
    files = make_files(huge_folder or folder, guest.sizes, "stand-in")
    environment = {"LD_PRELOAD": str(preload), "FAULTLINE_PRELOAD_SOCKET": str(server_socket),
                   "FAULTLINE_PRELOAD_MEMORY": ",".join(map(str, files))}
    qemu = Qemu(guest, state, files, folder, ["-incoming", "defer"], environment)
    try:
        qemu.load(snapshot / "devices")
    except BaseException:
        qemu.kill()
        raise
    return qemu
