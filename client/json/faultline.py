"""Control of a faultline service over its JSON door: `faultline http`.

Every method is a call of the control interface; docs/http.md lists them, docs/control-api.md says what they take and answer.
Numbers of 64 bits are strings in answers. Any thread: each call has a connection of its own.
"""
import http.client
import json
import socket
import urllib.parse

# Longer than the longest wait that the door allows.
ANSWER_LIMIT = 660  # seconds


class Refused(Exception):
    """A call that was refused. `reason` is for programs, `text` for people, `status` that of HTTP."""

    def __init__(self, status, reason, text):
        super().__init__(f"[{reason}] {text}")
        self.status, self.reason, self.text = status, reason, text


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=ANSWER_LIMIT)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Service:
    """A service, by the socket of its JSON door. OSError where nothing answers there."""

    def __init__(self, socket_path="/run/faultline/http.sock"):
        self._path = socket_path

    def call(self, method, path, body=None, **query):
        """The answer to one request, an object; `query`: parameters behind the path."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        connection = _Connection(self._path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 400:
            raise Refused(response.status, answer["reason"], answer["text"])
        return answer

    def status(self):
        return self.call("GET", "/v1/status")["service"]

    def restores(self):
        """Every restore that is not over."""
        return self.call("GET", "/v1/restores")["restores"]

    def restore(self, name):
        """The restore of that name, which need not be there yet."""
        return Restore(self, name)

    def listeners(self):
        return self.call("GET", "/v1/listeners")["listeners"]

    def listen(self, name, path, layers, policy=None, any_user=False, owner="", group="", mode=0):
        """Has a handshake socket made at `path`; `layers`: memory files, top first. All paths are absolute."""
        spec = {"name": name, "anyUser": any_user, "policy": policy or {}}
        place = {"path": path, "owner": owner, "group": group, "mode": mode}
        self.call("POST", "/v1/listeners", {"spec": spec, "socket": place, "layers": list(layers)})

    def configure(self, listeners):
        """Makes these the listeners of the configuration: each as the body of `listen`."""
        return self.call("PUT", "/v1/listeners", {"listeners": list(listeners)})

    def unlisten(self, name):
        self.call("DELETE", f"/v1/listeners/{urllib.parse.quote(name)}")

    def ended(self, name=""):
        """Restores that are over, the latest first."""
        return self.call("GET", "/v1/ended", name=name)["restores"]

    def events(self, after=0, timeout_ms=30_000):
        """The events behind number `after`, as soon as there is one; an empty list where none comes in time."""
        return self.call("GET", "/v1/events", after=after, timeout_ms=timeout_ms)["events"]

    def upgrade(self, directory, check_only=False):
        return self.call("POST", "/v1/upgrade", {"directory": directory, "checkOnly": check_only})

    def wait_upgraded(self, timeout_ms=30_000):
        return self.call("GET", "/v1/upgrade", timeout_ms=timeout_ms)

    def drain(self, timeout_ms=600_000):
        self.call("POST", "/v1/drain", timeout_ms=timeout_ms)

    def shutdown(self, force=False):
        self.call("POST", "/v1/shutdown", {"force": force})


class Restore:
    """A restore, by its name."""

    def __init__(self, service, name):
        self._service, self._base = service, f"/v1/restores/{urllib.parse.quote(name)}"
        self.name = name

    def _get(self, what, **query):
        return self._service.call("GET", self._base + what, **query)

    def _post(self, what, body=None, **query):
        return self._service.call("POST", self._base + what, body, **query)

    def info(self):
        return self._get("")["info"]

    def stats(self):
        return self._get("/stats")["stats"]

    def pages(self, first=0, count=0):
        """States of pages, as runs; count 0: to the last page."""
        return self._get("/pages", first=first, count=count)["runs"]

    def owners(self, first=0, count=0):
        return self._get("/owners", first=first, count=count)["runs"]

    def ready(self, timeout_ms=30_000):
        """Waits until it is there and served."""
        self._get("/ready", timeout_ms=timeout_ms)

    def complete(self, timeout_ms=30_000):
        """Waits until no page is missing; what it is then."""
        return self._get("/complete", timeout_ms=timeout_ms)["info"]

    def end(self, timeout_ms=30_000):
        """Waits until it is over; why."""
        return self._get("/end", timeout_ms=timeout_ms)

    def pause(self):
        self._post("/pause")

    def resume(self):
        self._post("/resume")

    def prefault(self, ranges=()):
        """Populates in the background: (first, count) in pages, or with no ranges every page."""
        self._post("/prefault", {"ranges": [{"first": first, "count": count} for first, count in ranges]})

    def detach(self, force=False, timeout_ms=30_000):
        self._post("/detach", {"force": force}, timeout_ms=timeout_ms)

    def reshard(self, shards, timeout_ms=30_000):
        self._post("/reshard", {"shards": shards}, timeout_ms=timeout_ms)

    def working_set(self, first=0):
        return self._get("/working-set", first=first)

    def working_set_snapshot(self):
        return self._get("/working-set/snapshot")
