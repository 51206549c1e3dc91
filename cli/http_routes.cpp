#include "cli/http_routes.h"

#include <kj/encoding.h>

#include "process/plain_text.h"

namespace faultline::cli {

namespace {

using Subject = Route::Subject;
using Wait = Route::Wait;

constexpr auto GET = kj::HttpMethod::GET, POST = kj::HttpMethod::POST, PUT = kj::HttpMethod::PUT,
               DELETE_ = kj::HttpMethod::DELETE;

std::vector<std::string> partsOf(std::string_view path) {
  std::vector<std::string> parts;
  while (!path.empty()) {
    path.remove_prefix(1);  // the '/'
    const std::size_t end = path.find('/');
    parts.emplace_back(path.substr(0, end));
    path = end == std::string_view::npos ? std::string_view() : path.substr(end);
  }
  return parts;
}

std::optional<std::string> nameFrom(const std::string& part) {
  auto decoded = kj::decodeUriComponent(kj::StringPtr(part.c_str()));
  if (decoded.hadErrors || !process::isRestoreName(decoded.cStr())) return std::nullopt;
  return std::string(decoded.cStr());
}

// The name, where `parts` are those of the route; empty where the route has none.
std::optional<std::string> matches(const Route& route, const std::vector<std::string>& parts) {
  const std::vector<std::string> wanted = partsOf(route.path);
  if (wanted.size() != parts.size()) return std::nullopt;
  std::string name;
  for (std::size_t i = 0; i < parts.size(); i++) {
    if (wanted[i] == "*") {
      const auto given = nameFrom(parts[i]);
      if (!given.has_value()) return std::nullopt;
      name = *given;
    } else if (wanted[i] != parts[i]) {
      return std::nullopt;
    }
  }
  return name;
}

}  // namespace

const std::vector<Route>& routes() {
  static const std::vector<Route> ROUTES = {
      {GET, "/v1/status", Subject::coordinator, "status", "the service as it is now"},
      {GET, "/v1/restores", Subject::coordinator, "list", "every restore that is not over"},
      {GET, "/v1/restores/*", Subject::restore, "info", "what it is and how far"},
      {GET, "/v1/restores/*/stats", Subject::restore, "stats", "its counters and latencies"},
      {GET, "/v1/restores/*/pages", Subject::restore, "pageStates", "states of pages, as runs"},
      {GET, "/v1/restores/*/owners", Subject::restore, "owners", "shards that own pages, as runs"},
      {GET, "/v1/restores/*/ready", Subject::restore, "waitReady", "waits until it is there and served",
       Wait::there},
      {GET, "/v1/restores/*/complete", Subject::restore, "waitComplete", "waits until no page is missing",
       Wait::yes},
      {GET, "/v1/restores/*/end", Subject::restore, "waitEnded", "waits until it is over", Wait::yes},
      {GET, "/v1/restores/*/working-set", Subject::recordedWorkingSet, "pages",
       "pages that its target touched first"},
      {GET, "/v1/restores/*/working-set/snapshot", Subject::recordedWorkingSet, "snapshot",
       "what turns their numbers into places in the source"},
      {POST, "/v1/restores/*/pause", Subject::restore, "pause", "faults wait from now on"},
      {POST, "/v1/restores/*/resume", Subject::restore, "resume", "they are answered again"},
      {POST, "/v1/restores/*/prefault", Subject::restore, "prefault", "populates pages in the background"},
      {POST, "/v1/restores/*/detach", Subject::restore, "detach", "ends it", Wait::yes},
      {POST, "/v1/restores/*/reshard", Subject::coordinator, "reshard", "deals it out to shards anew",
       Wait::yes, "restore"},
      {GET, "/v1/ended", Subject::coordinator, "ended", "restores that are over, the latest first"},
      {GET, "/v1/ended/*", Subject::coordinator, "ended", "those of this name", Wait::no, "name"},
      {GET, "/v1/events", Subject::coordinator, "events", "waits for events behind the number `after`",
       Wait::orEmpty},
      {GET, "/v1/listeners", Subject::coordinator, "listeners", "handshake sockets that are served"},
      {POST, "/v1/listeners", Subject::coordinator, "listenAt", "makes one", Wait::no, "", "placed"},
      {PUT, "/v1/listeners", Subject::coordinator, "configure",
       "makes these the listeners of the configuration"},
      {DELETE_, "/v1/listeners/*", Subject::coordinator, "unlisten", "closes one", Wait::no, "name"},
      {POST, "/v1/upgrade", Subject::coordinator, "upgrade", "has another build take over"},
      {GET, "/v1/upgrade", Subject::coordinator, "waitUpgraded", "waits until every shard is of one build",
       Wait::yes},
      {POST, "/v1/drain", Subject::coordinator, "drain", "ends the service once every restore is complete",
       Wait::yes, "", "", true},
      {POST, "/v1/shutdown", Subject::coordinator, "shutdown", "ends the service", Wait::no, "", "", true},
  };
  return ROUTES;
}

const std::vector<LeftOut>& leftOut() {
  static const std::vector<LeftOut> LEFT_OUT = {
      {"Coordinator.attach", "it takes file descriptors"},
      {"Coordinator.listen", "it takes a file descriptor: POST /v1/listeners does the same by path"},
      {"Coordinator.restore", "the path of each call of a restore names it"},
      {"Restore.workingSet", "GET /v1/restores/NAME/working-set has what it gives"},
      {"Prefault.progress", "GET /v1/restores/NAME tells how far it is"},
      {"Prefault.wait", "GET /v1/restores/NAME/complete waits"},
      {"Prefault.cancel", "of a capability that ends with its request"},
      {"Listener.nextRestore", "GET /v1/restores/NAME/ready waits for it"},
      {"Listener.close", "DELETE /v1/listeners/NAME"},
      {"Listener.lastError", "GET /v1/listeners has it"},
  };
  return LEFT_OUT;
}

std::optional<Found> routeFor(kj::HttpMethod method, const std::string& path) {
  if (path.empty() || path.front() != '/') return std::nullopt;
  const std::vector<std::string> parts = partsOf(path);
  std::optional<Found> found;
  for (const Route& route : routes()) {
    const auto name = matches(route, parts);
    if (!name.has_value()) continue;
    if (route.http == method) return Found{&route, *name};
    found = Found{};
  }
  return found;
}

}  // namespace faultline::cli
