// Control of a faultline service over its JSON door: `faultline http`.
//
// Every method is a call of the control interface; docs/http.md lists them, docs/control-api.md says what they take and
// answer. Numbers of 64 bits are strings in answers. Each call has a connection of its own.
"use strict";

const http = require("node:http");

// Longer than the longest wait that the door allows.
const ANSWER_LIMIT = 660000; // ms

// A call that was refused. `reason` is for programs, `text` for people, `status` that of HTTP.
class Refused extends Error {
  constructor(status, reason, text) {
    super(`[${reason}] ${text}`);
    this.status = status;
    this.reason = reason;
    this.text = text;
  }
}

// A service, by the socket of its JSON door.
class Service {
  constructor(socketPath = "/run/faultline/http.sock") {
    this.socketPath = socketPath;
  }

  // The answer to one request, an object; `query`: parameters behind the path.
  call(method, path, body, query = {}) {
    const text = body === undefined ? "" : JSON.stringify(body);
    const search = new URLSearchParams(query).toString();
    const options = {
      socketPath: this.socketPath,
      path: search === "" ? path : `${path}?${search}`,
      method,
      agent: false,
      timeout: ANSWER_LIMIT,
      headers: text === "" ? {} : { "Content-Length": Buffer.byteLength(text) },
    };
    return new Promise((resolve, reject) => {
      const request = http.request(options, (response) => {
        const parts = [];
        response.on("data", (part) => parts.push(part));
        response.on("error", reject);
        response.on("end", () => {
          try {
            const answer = JSON.parse(Buffer.concat(parts).toString());
            if (response.statusCode < 400) resolve(answer);
            else reject(new Refused(response.statusCode, answer.reason, answer.text));
          } catch (error) {
            reject(error);
          }
        });
      });
      request.on("timeout", () => request.destroy(new Error("the JSON door does not answer")));
      request.on("error", reject);
      request.end(text);
    });
  }

  async status() {
    return (await this.call("GET", "/v1/status")).service;
  }
  // Every restore that is not over.
  async restores() {
    return (await this.call("GET", "/v1/restores")).restores;
  }
  // The restore of that name, which need not be there yet.
  restore(name) {
    return new Restore(this, name);
  }
  async listeners() {
    return (await this.call("GET", "/v1/listeners")).listeners;
  }
  // Has a handshake socket made at `path`; `layers`: memory files, top first. All paths are absolute.
  async listen(name, path, layers, { policy = {}, anyUser = false, owner = "", group = "", mode = 0 } = {}) {
    const spec = { name, anyUser, policy };
    await this.call("POST", "/v1/listeners", { spec, socket: { path, owner, group, mode }, layers });
  }
  // Makes these the listeners of the configuration: each as the body of `listen`.
  configure(listeners) {
    return this.call("PUT", "/v1/listeners", { listeners });
  }
  async unlisten(name) {
    await this.call("DELETE", `/v1/listeners/${encodeURIComponent(name)}`);
  }
  // Restores that are over, the latest first.
  async ended(name = "") {
    return (await this.call("GET", "/v1/ended", undefined, { name })).restores;
  }
  // The events behind number `after`, as soon as there is one; an empty list where none comes in time.
  async events({ after = 0, timeout_ms = 30000 } = {}) {
    return (await this.call("GET", "/v1/events", undefined, { after, timeout_ms })).events;
  }
  upgrade(directory, { checkOnly = false } = {}) {
    return this.call("POST", "/v1/upgrade", { directory, checkOnly });
  }
  waitUpgraded({ timeout_ms = 30000 } = {}) {
    return this.call("GET", "/v1/upgrade", undefined, { timeout_ms });
  }
  async drain({ timeout_ms = 600000 } = {}) {
    await this.call("POST", "/v1/drain", undefined, { timeout_ms });
  }
  async shutdown({ force = false } = {}) {
    await this.call("POST", "/v1/shutdown", { force });
  }
}

// A restore, by its name.
class Restore {
  constructor(service, name) {
    this.service = service;
    this.name = name;
    this.base = `/v1/restores/${encodeURIComponent(name)}`;
  }
  get(what, query) {
    return this.service.call("GET", this.base + what, undefined, query);
  }
  post(what, body, query) {
    return this.service.call("POST", this.base + what, body, query);
  }

  async info() {
    return (await this.get("")).info;
  }
  async stats() {
    return (await this.get("/stats")).stats;
  }
  // States of pages, as runs; count 0: to the last page.
  async pages({ first = 0, count = 0 } = {}) {
    return (await this.get("/pages", { first, count })).runs;
  }
  async owners({ first = 0, count = 0 } = {}) {
    return (await this.get("/owners", { first, count })).runs;
  }
  // Waits until it is there and served.
  async ready({ timeout_ms = 30000 } = {}) {
    await this.get("/ready", { timeout_ms });
  }
  // Waits until no page is missing; what it is then.
  async complete({ timeout_ms = 30000 } = {}) {
    return (await this.get("/complete", { timeout_ms })).info;
  }
  // Waits until it is over; why.
  end({ timeout_ms = 30000 } = {}) {
    return this.get("/end", { timeout_ms });
  }
  async pause() {
    await this.post("/pause");
  }
  async resume() {
    await this.post("/resume");
  }
  // Populates in the background: {first, count} in pages, or with no ranges every page.
  async prefault(ranges = []) {
    await this.post("/prefault", { ranges });
  }
  async detach({ force = false, timeout_ms = 30000 } = {}) {
    await this.post("/detach", { force }, { timeout_ms });
  }
  async reshard(shards, { timeout_ms = 30000 } = {}) {
    await this.post("/reshard", { shards }, { timeout_ms });
  }
  workingSet({ first = 0 } = {}) {
    return this.get("/working-set", { first });
  }
  workingSetSnapshot() {
    return this.get("/working-set/snapshot");
  }
}

module.exports = { Service, Restore, Refused };
