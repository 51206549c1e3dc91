"""A systemd as pid 1 of a container, with what `cmake --install` hands out in it, and targets that run there.

The root is made by tests/systemd/root, once; each container has its own layer over it, in memory, that goes with it.
"""
import atexit
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

SKIPPED = 77
PATIENCE = 60  # seconds: what does not come in that time does not come


class Failed(Exception):
    pass


def skip(why):
    print("skipped: " + why, file=sys.stderr)
    sys.exit(SKIPPED)


def require(condition, what):
    if not condition:
        raise Failed(what)


def until(done, what, patience=PATIENCE):
    """Looks until `done` says something that is true; that."""
    end = time.monotonic() + patience
    while True:
        answer = done()
        if answer:
            return answer
        require(time.monotonic() < end, "waited in vain: " + what)
        time.sleep(0.02)


def enter_mount_namespace():
    """Every mount goes with this process."""
    if os.environ.get("FAULTLINE_CONTAINER_NAMESPACE"):
        return
    if os.geteuid() != 0:
        skip("root is needed to make namespaces")
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        skip("this machine allows no mount namespace: run it in a virtual machine or a privileged container")
    os.environ["FAULTLINE_CONTAINER_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv])


class Container:
    def __init__(self, root, stage):
        self.work = tempfile.mkdtemp(prefix="faultline-systemd-", dir="/tmp")
        self.nspawn = self.leader = None
        self.readers = []
        atexit.register(self.end)
        self.mount("-t", "tmpfs", "tmpfs", self.work)
        for folder in ("upper", "layer", "root", "share"):
            os.mkdir(f"{self.work}/{folder}")
        self.mount("-t", "overlay", "overlay", "-o",
                   f"lowerdir={stage}:{root},upperdir={self.work}/upper,workdir={self.work}/layer", f"{self.work}/root")
        os.chmod(self.work, 0o755)
        os.chmod(f"{self.work}/share", 0o777)
        # The machine's disks are none of this container's business, and looking at them takes it most of a minute.
        for unit in ("e2scrub_reap.service", "e2scrub_all.timer", "fstrim.timer", "apt-daily.timer",
                     "apt-daily-upgrade.timer", "dpkg-db-backup.timer"):
            self.mask(unit)
        # Images: not on the overlay, whose files have no reads that never wait.
        self.share = f"{self.work}/share"

    def mount(self, *arguments):
        subprocess.run(["mount", *arguments], check=True)

    def write(self, path, text, mode=0o644):
        path = f"{self.work}/root{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)

    def mask(self, unit):
        place = f"{self.work}/root/etc/systemd/system/{unit}"
        if not os.path.lexists(place):
            os.symlink("/dev/null", place)

    def image(self, name, pages, seed=1):
        """A memory file whose pages all differ and hold no zero word. Its path in the container."""
        with open(f"{self.share}/{name}", "wb") as file:
            for page in range(pages):
                file.write(((seed << 40) | (page << 1) | 1).to_bytes(8, "little") * 512)
        os.chmod(f"{self.share}/{name}", 0o644)
        return f"/share/{name}"

    def boot(self):
        self.console = open(f"{self.work}/console", "wb")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "-q", "-D", f"{self.work}/root", "--boot", "--keep-unit", "--register=no", "-M",
             f"faultline-{os.getpid()}", "--private-network", "--console=pipe", "--capability=all",
             "--bind=/dev/userfaultfd", "--bind=/dev/cpu_dma_latency",
             # A host has them; here they are to be allowed.
             "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self", f"--bind={self.share}:/share"],
            stdin=subprocess.DEVNULL, stdout=self.console, stderr=self.console,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
        self.leader = until(self.find_leader, "systemd as pid 1 of the container")
        until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"),
              "the container to be running", 2 * PATIENCE)

    def find_leader(self):
        if self.nspawn.poll() is not None:
            with open(f"{self.work}/console", errors="replace") as console:
                text = console.read()
            if "Operation not permitted" in text or "Permission denied" in text:
                skip("this machine allows no such container: " + text.strip().splitlines()[-1])
            raise Failed("systemd-nspawn ended:\n" + text)
        for child in self.below(self.nspawn.pid):
            try:
                with open(f"/proc/{child}/status") as status:
                    text = status.read()
            except OSError:
                continue
            if re.search(r"^NSpid:.*\t1$", text, re.M) and re.search(r"^Name:\tsystemd$", text, re.M):
                return child
        return None

    @staticmethod
    def below(pid):
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as children:
                direct = [int(child) for child in children.read().split()]
        except OSError:
            return []
        return direct + [deeper for child in direct for deeper in Container.below(child)]

    def inside(self, *command, user=None):
        enter = ["nsenter", "-t", str(self.leader), "-a", "--wd=/", "env", "-i",
                 "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        become = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--inh-caps", "+sys_ptrace",
                  "--ambient-caps", "+sys_ptrace"] if user else []
        return [*enter, *become, *command]

    def run(self, *command, check=True, patience=PATIENCE, user=None):
        if os.environ.get("FAULTLINE_VERBOSE"):
            print(f"{time.monotonic():.3f}", *command, flush=True)
        try:
            result = subprocess.run(self.inside(*command, user=user), text=True, capture_output=True, timeout=patience,
                                    stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(command)}: no end within {patience} s")
        require(not check or result.returncode == 0,
                f"{' '.join(command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def systemctl(self, *arguments, **more):
        return self.run("systemctl", *arguments, **more)

    def faultline(self, *arguments, **more):
        return self.run("faultline", *arguments, **more)

    def status(self, **more):
        return json.loads(self.faultline("status", "--json", **more).stdout)

    def show(self, unit, value):
        return self.systemctl("show", "-P", value, unit).stdout.strip()

    def journal(self, unit="faultline.service"):
        return self.run("journalctl", "-o", "short-monotonic", "--no-pager", "-u", unit, check=False).stdout

    def main_pid(self, unit="faultline.service"):
        return until(lambda: int(self.show(unit, "MainPID")), f"a main process of {unit}")

    def reader(self, socket, image, targets=1, pace_us=2000, **more):
        reader = Reader(self, socket, image, targets, pace_us, **more)
        self.readers.append(reader)
        return reader

    def halt(self):
        """As `systemctl poweroff` does."""
        os.kill(self.leader, signal.SIGRTMIN + 4)

    def end(self):
        # With its first process all of the container's end.
        if self.leader and os.path.exists(f"/proc/{self.leader}"):
            try:
                os.kill(self.leader, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.nspawn is not None:
            try:
                self.nspawn.wait(20)
            except subprocess.TimeoutExpired:
                self.nspawn.kill()
        for reader in self.readers:
            reader.process.kill()
        subprocess.run(["umount", "-R", "-l", f"{self.work}/root"], stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", self.work], stderr=subprocess.DEVNULL)
        try:
            os.rmdir(self.work)
        except OSError:
            pass


class Reader:
    """A target in the container (reader.cpp)."""

    def __init__(self, container, socket, image, targets, pace_us, user=None, unit=None):
        command = ["/usr/libexec/faultline-test/reader", socket, image, str(targets), str(pace_us)]
        if unit:
            command = ["systemd-run", "--pipe", "--wait", "--collect", "-q", *unit, *command]
        self.process = subprocess.Popen(container.inside(*command, user=user), text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lines = []
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def ready(self):
        until(lambda: "ready" in self.lines or self.process.poll() is not None, "a target's first page")
        if "ready" not in self.lines:
            raise Failed(f"a target did not begin: {self.lines} {self.process.stderr.read()}")
        return self

    def say(self, word):
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def lap(self):
        """Its longest touch since the last lap, ms. It must have pages left: else nothing could have held it up."""
        before = self.laps()
        self.say("lap")
        until(lambda: len(self.laps()) > len(before) or self.process.poll() is not None, "a target's next page")
        require(len(self.laps()) > len(before), "a target had read everything before the end")
        return self.laps()[-1]

    def laps(self):
        return [json.loads(line)["lap_ms"] for line in list(self.lines) if line.startswith('{"lap_ms"')]

    def report(self, patience=90):
        """What it read, once it has read everything, or (after "stop") no more."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise Failed("a target does not end")
        self.thread.join(5)
        found = [line for line in self.lines if line.startswith('{"pages"')]
        return json.loads(found[-1]) if found else {"killed": self.process.returncode}

    def all_right(self, longest_ms=None):
        """Reads what is left: each byte must be right."""
        self.say("hurry")
        report = self.report()
        require(report.get("right") == report.get("pages") and report.get("pages"), f"a target read {report}")
        if longest_ms is not None:
            require(report["longest_ms"] <= longest_ms, f"its longest touch took {report['longest_ms']} ms: {report}")
        return report
