"""Firecracker by its API (src/firecracker/swagger/firecracker.yaml of its sources), as far as a snapshot and its restore need it."""
import http.client
import json

from vm import Failed, SECONDS, Serial, await_connection, connect, start_program

NO_CONTENT = 204


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=SECONDS)
        self.path = str(path)

    def connect(self):
        self.sock = connect(self.path)
        if self.sock is None:
            raise ConnectionRefusedError(f"nothing listens at {self.path}")


class Firecracker:
    def __init__(self, program, folder):
        self.folder, self.api = folder, folder / "api.sock"
        self.process = start_program([program, "--api-sock", self.api, "--no-seccomp"], folder)
        self.serial = Serial(self.process)
        tried = await_connection(self.api, self.process)
        if tried is None:
            raise Failed(f"Firecracker ended with {self.process.returncode}: {self.said()}")
        tried.close()

    def said(self):
        return (self.folder / "vmm.log").read_text()[-2000:] + self.serial.tail()

    def call(self, method, path, **body):
        connection = Connection(self.api)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json", "Accept": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except OSError as error:
            raise Failed(f"{method} {path}: {error}; Firecracker says: {self.said()}") from None
        finally:
            connection.close()
        if answer.status != NO_CONTENT:
            raise Failed(f"{method} {path}: {answer.status} {text}")

    def boot(self, kernel, mib, huge, differential=False):
        machine = {"vcpu_count": 1, "mem_size_mib": mib, "track_dirty_pages": differential}
        if huge:
            machine["huge_pages"] = "2M"
        self.call("PUT", "/machine-config", **machine)
        self.call("PUT", "/boot-source", kernel_image_path=str(kernel), boot_args="")
        # Not with huge pages: Firecracker gives back single pages of 4 KiB, which the kernel refuses there, and the guest would
        # wait for zeros in vain. Nor where a differential snapshot is made: whether what a balloon took counts as dirty is
        # Firecracker's own affair.
        if not huge and not differential:
            self.call("PUT", "/balloon", amount_mib=0, deflate_on_oom=False)
        self.call("PUT", "/actions", action_type="InstanceStart")

    def save(self, devices, memory, kind="Full"):
        self.call("PATCH", "/vm", state="Paused")
        self.call("PUT", "/snapshot/create", snapshot_type=kind, snapshot_path=str(devices), mem_file_path=str(memory))

    def resume(self):
        self.call("PATCH", "/vm", state="Resumed")

    def load(self, devices, server_socket):
        """By a page server; the guest goes on at once."""
        self.call("PUT", "/snapshot/load", snapshot_path=str(devices), resume_vm=True,
                  mem_backend={"backend_type": "Uffd", "backend_path": str(server_socket)})

    def resize_balloon(self, mib):
        self.call("PATCH", "/balloon", amount_mib=mib)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
