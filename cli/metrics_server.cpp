#include "cli/metrics_server.h"

#include <arpa/inet.h>
#include <kj/debug.h>
#include <kj/encoding.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "cli/errors.h"
#include "cli/http_settings.h"
#include "cli/status_json.h"
#include "cli/status_screen.h"
#include "process/clock.h"
#include "process/message.h"
#include "process/plain_text.h"
#include "rpc/connection.h"

namespace faultline::cli {

using nlohmann::json;

namespace {

constexpr const char* METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";
constexpr const char* JSON_TYPE = "application/json";
constexpr const char* PAGE_TYPE = "text/html; charset=utf-8";
// The page loads from no other host, and sends to none.
constexpr const char* PAGE_POLICY =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri "
    "'none'; "
    "frame-ancestors 'none'";
constexpr kj::Duration ACCEPT_AGAIN = 100 * kj::MILLISECONDS;  // after fds ran out

constexpr std::uint64_t REST_OF_METRICS = 9, REST_OF_WATCH = 19,
                        LONGEST_REST = 5'000'000'000;  // times as long as an answer took; ns

// A look at a service: its answers live as long as it does.
struct Look {
  Look(kj::AsyncIoContext& io, const std::string& control)
      : connection(*io.lowLevelProvider, rpc::connectTo(control)),
        coordinator(connection.bootstrap().castAs<rpc::Coordinator>()) {}

  rpc::Connection connection;
  rpc::Coordinator::Client coordinator;
  kj::Maybe<capnp::Response<rpc::Coordinator::StatusResults>> status;
  struct Answer {
    rpc::RestoreInfo::Reader info;
    capnp::Response<rpc::Restore::StatsResults> stats;
  };
  kj::Vector<Answer> restores;
  kj::Maybe<capnp::Response<rpc::Coordinator::EndedResults>> ended;

  // A server of an earlier version has none.
  kj::Promise<void> askForEnded() {
    return coordinator.endedRequest().send().then(
        [this](capnp::Response<rpc::Coordinator::EndedResults>&& answer) { ended = kj::mv(answer); },
        [](kj::Exception&& e) {
          if (e.getType() != kj::Exception::Type::UNIMPLEMENTED) kj::throwFatalException(kj::mv(e));
        });
  }
  kj::Promise<void> askFor(rpc::RestoreInfo::Reader info) {
    auto request = coordinator.restoreRequest();
    request.setName(info.getName());
    return request.send().getRestore().statsRequest().send().then(
        [this, info](capnp::Response<rpc::Restore::StatsResults>&& stats) {
          restores.add(Answer{info, kj::mv(stats)});
        },
        [](kj::Exception&& e) {
          // Another kind: it ended between the two questions.
          if (e.getType() == kj::Exception::Type::DISCONNECTED) kj::throwFatalException(kj::mv(e));
        });
  }

  std::string text(const LookSource::Render& render) {
    ServiceFigures figures;
    figures.service = KJ_ASSERT_NONNULL(status).getService();
    figures.restores.reserve(restores.size());
    for (const Answer& answer : restores) figures.restores.push_back({answer.info, answer.stats.getStats()});
    KJ_IF_MAYBE (over, ended)
      for (auto restore : over->getRestores()) figures.ended.push_back(restore);
    return render(figures);
  }
};

// A name that no other machine can give to this one.
bool isOfThisMachine(kj::Maybe<kj::StringPtr> host) {
  KJ_IF_MAYBE (given, host) {
    std::string name = given->cStr();
    const std::size_t port = name.rfind(':');
    if (port != std::string::npos && name.find(']', port) == std::string::npos) name.resize(port);
    in_addr four{};
    return name == "localhost" || name == "[::1]" ||
           (inet_pton(AF_INET, name.c_str(), &four) == 1 && ntohl(four.s_addr) >> 24 == 127);
  }
  return false;
}

// "/map.json?restore=NAME", percent-encoded.
std::optional<std::string> restoreIn(const std::string& url) {
  constexpr const char* QUERY = "?restore=";
  const std::size_t begin = url.find(QUERY);
  if (begin == std::string::npos) return std::nullopt;
  auto decoded = kj::decodeUriComponent(kj::StringPtr(url.c_str() + begin + std::strlen(QUERY)));
  if (decoded.hadErrors || !process::isRestoreName(decoded.cStr())) return std::nullopt;
  return std::string(decoded.cStr());
}

[[noreturn]] void refuse(const std::string& where, const std::string& why) {
  throw CommandError(
      USAGE, "--listen " + where + ": " + why +
                 "; give unix:PATH, or a port of this machine as in 127.0.0.1:9464 or [::1]:9464. Figures "
                 "for other machines go through what authenticates them");
}

kj::AutoCloseFd listenOn(const std::string& where, const sockaddr* address, socklen_t size) {
  kj::AutoCloseFd fd(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int yes = 1;
  if (fd.get() < 0 || setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(fd.get(), address, size) != 0 || listen(fd.get(), MetricsServer::MAX_CONNECTIONS) != 0)
    throw CommandError(USAGE, "--listen " + where + ": " + std::strerror(errno) + "; choose another port");
  return fd;
}

kj::AutoCloseFd listenAtPort(const std::string& where) {
  const std::size_t colon = where.rfind(':');
  if (colon == std::string::npos) refuse(where, "no port is given");
  std::string host = where.substr(0, colon);
  std::uint16_t port = 0;
  const char* end = where.data() + where.size();
  const auto [rest, error] = std::from_chars(where.data() + colon + 1, end, port);
  if (error != std::errc() || rest != end) refuse(where, "the port is no number up to 65535");
  if (host == "localhost") host = "127.0.0.1";
  sockaddr_in four{};
  if (inet_pton(AF_INET, host.c_str(), &four.sin_addr) == 1) {
    if (ntohl(four.sin_addr.s_addr) >> 24 != 127) refuse(where, "other machines could reach it");
    four.sin_family = AF_INET;
    four.sin_port = htons(port);
    return listenOn(where, reinterpret_cast<const sockaddr*>(&four), sizeof four);
  }
  if (host != "[::1]") refuse(where, "this is no address of this machine alone");
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_loopback;
  six.sin6_port = htons(port);
  return listenOn(where, reinterpret_cast<const sockaddr*>(&six), sizeof six);
}

}  // namespace

kj::Promise<std::string> LookSource::text() {
  if (!asking_) {
    asking_ = true;
    const std::uint64_t now = process::nowNs();
    answer_ = io_.provider->getTimer()
                  .afterDelay((askAgain_ > now ? askAgain_ - now : 0) * kj::NANOSECONDS)
                  .then([this] { return answer(); })
                  .then([this](std::string text) {
                    asking_ = false;
                    return text;
                  })
                  .fork();
  }
  return answer_.addBranch();
}

kj::Promise<std::string> LookSource::answer() {
  const std::uint64_t began = process::nowNs();
  auto late =
      io_.provider->getTimer().afterDelay(PATIENCE).then([this]() -> std::string { return ofNobody_; });
  return kj::evalNow([this] { return ask(); })
      .then([this, began](std::string text) {
        const std::uint64_t now = process::nowNs();
        askAgain_ = now + std::min((now - began) * rest_, LONGEST_REST);
        return text;
      })
      .catch_([this](kj::Exception&&) { return ofNobody_; })
      .exclusiveJoin(kj::mv(late));
}

kj::Promise<std::string> LookSource::ask() {
  auto look = kj::heap<Look>(io_, control_);
  auto& l = *look;
  return l.coordinator.statusRequest()
      .send()
      .then([&l](capnp::Response<rpc::Coordinator::StatusResults>&& status) {
        auto restores = status.getService().getRestores();
        l.status = kj::mv(status);
        auto answers = kj::heapArrayBuilder<kj::Promise<void>>(restores.size() + 1);
        for (auto info : restores) answers.add(l.askFor(info));
        answers.add(l.askForEnded());
        return kj::joinPromises(answers.finish());
      })
      .then([this, &l] { return l.text(render_); })
      .attach(kj::mv(look));
}

MetricsSource::MetricsSource(kj::AsyncIoContext& io, std::string control, Detail detail)
    : LookSource(
          io, std::move(control), REST_OF_METRICS,
          [detail](const ServiceFigures& figures) { return metricsText(figures, detail); },
          metricsTextOfNobody()) {}

struct WatchSource::Memory {
  StatusHistory history;
  json before;
};

WatchSource::WatchSource(kj::AsyncIoContext& io, std::string control)
    : WatchSource(io, std::move(control), std::make_shared<Memory>()) {}

WatchSource::WatchSource(kj::AsyncIoContext& io, std::string control, std::shared_ptr<Memory> memory)
    : LookSource(
          io, std::move(control), REST_OF_WATCH,
          [memory = std::move(memory)](const ServiceFigures& figures) {
            json now = memory->history.look(figures.service, figures.restores);
            now["up"] = true;
            now["stalls"] = stallsOf(memory->before, now);
            memory->before = std::move(now);
            return memory->before.dump(-1, ' ', true, json::error_handler_t::replace);
          },
          R"({"up": false})") {}

// --- maps ---

kj::Promise<std::string> MapSource::map(std::string restore) {
  const auto found = maps_.find(restore);
  if (found != maps_.end() &&
      (found->second->looking || process::nowNs() - found->second->lookedAt < INTERVAL))
    return kj::evalLater([restore, map = found->second] { return textOf(restore, *map); });
  auto late =
      io_.provider->getTimer().afterDelay(LookSource::PATIENCE).then([]() -> std::string { return ""; });
  return kj::evalNow([&] { return look(restore); })
      .catch_([this, restore](kj::Exception&&) -> std::string {
        maps_.erase(restore);
        return "";
      })
      .exclusiveJoin(kj::mv(late));
}

kj::Promise<std::shared_ptr<MapSource::Map>> MapSource::open(rpc::Coordinator::Client coordinator,
                                                             const std::string& restore) {
  const auto found = maps_.find(restore);
  if (found != maps_.end()) return found->second;
  auto request = coordinator.restoreRequest();
  request.setName(restore.c_str());
  return request.send().getRestore().infoRequest().send().then(
      [this, restore](capnp::Response<rpc::Restore::InfoResults>&& response) {
        auto info = response.getInfo();
        std::uint64_t bytes = 0;
        for (auto region : info.getRegions()) bytes += region.getSize();
        if (maps_.size() >= MOST) {
          auto oldest = maps_.begin();
          for (auto each = maps_.begin(); each != maps_.end(); ++each)
            if (each->second->lookedAt < oldest->second->lookedAt) oldest = each;
          maps_.erase(oldest);
        }
        return maps_[restore] = std::make_shared<Map>(info.getPages(), bytes);
      });
}

kj::Promise<std::string> MapSource::look(const std::string& restore) {
  auto connection = kj::heap<rpc::Connection>(*io_.lowLevelProvider, rpc::connectTo(control_));
  auto coordinator = connection->bootstrap().castAs<rpc::Coordinator>();
  auto opened = open(coordinator, restore);
  return opened
      .then([coordinator, restore](const std::shared_ptr<Map>& map) mutable {
        map->looking = true;
        auto done = kj::defer([map] { map->looking = false; });
        auto request = coordinator.restoreRequest();
        request.setName(restore.c_str());
        auto states = request.send().getRestore().pageStatesRequest();
        states.initPages().setFirst(map->cells.from());
        states.getPages().setCount(map->cells.count());
        return states.send()
            .then([map, restore](capnp::Response<rpc::Restore::PageStatesResults>&& response) {
              map->cells.take(response.getRuns());
              map->lookedAt = process::nowNs();
              return textOf(restore, *map);
            })
            .attach(kj::mv(done));
      })
      .attach(kj::mv(coordinator), kj::mv(connection));
}

std::string MapSource::textOf(const std::string& restore, const Map& map) {
  const PageCells& cells = map.cells;
  const std::uint64_t pageBytes = cells.pages() == 0 ? 0 : map.bytes / cells.pages();
  return json{{"restore", restore},
              {"pages", cells.pages()},
              {"cell_pages", cells.pagesPerCell()},
              {"cell_bytes", cells.pagesPerCell() * pageBytes},
              {"side", cells.side()},
              {"cells", cells.text()}}
      .dump(-1, ' ', true, json::error_handler_t::replace);
}

// --- HTTP ---

MetricsServer::MetricsServer(kj::Timer& timer, MetricsSource& source, WatchSource& watch, MapSource& maps,
                             bool anyHost)
    : timer_(timer),
      source_(source),
      watch_(watch),
      maps_(maps),
      anyHost_(anyHost),
      policy_(names_.add("Content-Security-Policy")),
      sniffing_(names_.add("X-Content-Type-Options")),
      caching_(names_.add("Cache-Control")),
      table_(names_.build()),
      server_(timer, *table_, *this, httpSettings(*this, REQUEST_LIMIT)),
      tasks_(*this) {}

kj::Promise<void> MetricsServer::serve(kj::ConnectionReceiver& receiver) {
  return receiver.accept()
      .then(
          [this](kj::Own<kj::AsyncIoStream> stream) -> kj::Promise<void> {
            if (open_ == MAX_CONNECTIONS) return kj::READY_NOW;
            open_++;
            tasks_.add(server_.listenHttp(kj::mv(stream)).attach(kj::defer([this] { open_--; })));
            return kj::READY_NOW;
          },
          [this](kj::Exception&&) -> kj::Promise<void> { return timer_.afterDelay(ACCEPT_AGAIN); })
      .then([this, &receiver] { return serve(receiver); });
}

kj::Promise<void> MetricsServer::request(kj::HttpMethod method, kj::StringPtr url,
                                         const kj::HttpHeaders& headers, kj::AsyncInputStream&,
                                         Response& response) {
  kj::HttpHeaders plain(*table_);
  if (!anyHost_ && !isOfThisMachine(headers.get(kj::HttpHeaderId::HOST)))
    return response.sendError(403, "Forbidden", plain);
  const std::string whole = url.cStr();
  const std::string path = whole.substr(0, whole.find('?'));
  const bool known = path == "/metrics" || path == "/" || path == "/watch.json" || path == "/map.json";
  if (!known) return response.sendError(404, "Not Found", plain);
  if (method != kj::HttpMethod::GET && method != kj::HttpMethod::HEAD)
    return response.sendError(405, "Method Not Allowed", plain);
  if (path == "/") return answer(method, response, PAGE_TYPE, watchPage());
  if (path == "/map.json") {
    const auto restore = restoreIn(whole);
    if (!restore.has_value()) return response.sendError(400, "Bad Request", plain);
    return maps_.map(*restore).then([this, method, &response](std::string text) {
      if (!text.empty()) return answer(method, response, JSON_TYPE, std::move(text));
      return response.sendError(404, "Not Found", kj::HttpHeaders(*table_));
    });
  }
  const bool metrics = path == "/metrics";
  auto text = metrics ? source_.text() : watch_.text();
  return text.then([this, method, &response, metrics](std::string text) {
    return answer(method, response, metrics ? METRICS_TYPE : JSON_TYPE, std::move(text));
  });
}

kj::Promise<void> MetricsServer::answer(kj::HttpMethod method, Response& response, const char* type,
                                        std::string text) {
  kj::HttpHeaders headers(*table_);
  headers.set(kj::HttpHeaderId::CONTENT_TYPE, type);
  headers.set(policy_, PAGE_POLICY);
  headers.set(sniffing_, "nosniff");
  headers.set(caching_, "no-store");
  auto body = kj::heap<std::string>(std::move(text));
  auto stream = response.send(200, "OK", headers, body->size());
  if (method == kj::HttpMethod::HEAD) return kj::READY_NOW;
  auto written = stream->write(body->data(), body->size());
  auto late = timer_.afterDelay(REQUEST_LIMIT).then([] { KJ_FAIL_REQUIRE("the answer is not taken"); });
  return written.exclusiveJoin(kj::mv(late)).attach(kj::mv(stream), kj::mv(body));
}

kj::Promise<void> MetricsServer::handleApplicationError(kj::Exception, kj::Maybe<Response&> response) {
  KJ_IF_MAYBE (open, response) {
    return open->sendError(500, "Internal Server Error", *table_);
  }
  return kj::READY_NOW;
}

MetricsSocket listenForMetrics(kj::AsyncIoContext& io, const std::string& where) {
  constexpr auto OWNED =
      kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP | kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC;
  const bool local = where.rfind("unix:", 0) == 0;
  kj::AutoCloseFd fd;
  if (local) {
    try {
      fd = rpc::listenAt(where.substr(5));
    } catch (const kj::Exception& error) {
      throw CommandError(USAGE, "--listen " + where + ": " + process::messageOf(error));
    }
  } else {
    fd = listenAtPort(where);
  }
  auto receiver = io.lowLevelProvider->wrapListenSocketFd(fd.release(), OWNED);
  const std::string address = local ? where
                                    : "http://" + where.substr(0, where.rfind(':')) + ":" +
                                          std::to_string(receiver->getPort()) + "/metrics";
  return {kj::mv(receiver), address};
}

}  // namespace faultline::cli
