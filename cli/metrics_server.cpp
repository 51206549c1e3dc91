#include "cli/metrics_server.h"

#include <arpa/inet.h>
#include <kj/debug.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <vector>

#include "cli/errors.h"
#include "process/clock.h"
#include "process/message.h"
#include "rpc/connection.h"

namespace faultline::cli {

namespace {

constexpr const char* CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";
constexpr kj::Duration ACCEPT_AGAIN = 100 * kj::MILLISECONDS;  // after fds ran out

constexpr std::uint64_t REST = 9, LONGEST_REST = 5'000'000'000;  // times as long as an answer took; ns

kj::HttpServerSettings settings(kj::HttpServerErrorHandler& errors) {
  kj::HttpServerSettings settings;
  settings.errorHandler = errors;
  settings.headerTimeout = MetricsServer::REQUEST_LIMIT;
  settings.pipelineTimeout = MetricsServer::REQUEST_LIMIT;
  return settings;
}

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

  std::string text(Detail detail) {
    std::vector<RestoreFigures> figures;
    figures.reserve(restores.size());
    for (const Answer& answer : restores) figures.push_back({answer.info, answer.stats.getStats()});
    return metricsText(KJ_ASSERT_NONNULL(status).getService(), figures, detail);
  }
};

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

kj::Promise<std::string> MetricsSource::text() {
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

kj::Promise<std::string> MetricsSource::answer() {
  const std::uint64_t began = process::nowNs();
  auto late = io_.provider->getTimer().afterDelay(PATIENCE).then(
      []() -> std::string { return metricsTextOfNobody(); });
  return kj::evalNow([this] { return ask(); })
      .then([this, began](std::string text) {
        const std::uint64_t now = process::nowNs();
        askAgain_ = now + std::min((now - began) * REST, LONGEST_REST);
        return text;
      })
      .catch_([](kj::Exception&&) { return metricsTextOfNobody(); })
      .exclusiveJoin(kj::mv(late));
}

kj::Promise<std::string> MetricsSource::ask() {
  auto look = kj::heap<Look>(io_, control_);
  auto& l = *look;
  return l.coordinator.statusRequest()
      .send()
      .then([&l](capnp::Response<rpc::Coordinator::StatusResults>&& status) {
        auto restores = status.getService().getRestores();
        l.status = kj::mv(status);
        auto answers = kj::heapArrayBuilder<kj::Promise<void>>(restores.size());
        for (auto info : restores) answers.add(l.askFor(info));
        return kj::joinPromises(answers.finish());
      })
      .then([this, &l] { return l.text(detail_); })
      .attach(kj::mv(look));
}

MetricsServer::MetricsServer(kj::Timer& timer, MetricsSource& source)
    : timer_(timer), source_(source), server_(timer, table_, *this, settings(*this)), tasks_(*this) {}

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

kj::Promise<void> MetricsServer::request(kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders&,
                                         kj::AsyncInputStream&, Response& response) {
  kj::HttpHeaders headers(table_);
  const kj::StringPtr path = url;
  if (path != "/metrics" && !path.startsWith("/metrics?"))
    return response.sendError(404, "Not Found", headers);
  if (method != kj::HttpMethod::GET && method != kj::HttpMethod::HEAD)
    return response.sendError(405, "Method Not Allowed", headers);
  return source_.text().then([this, method, &response](std::string text) -> kj::Promise<void> {
    kj::HttpHeaders headers(table_);
    headers.set(kj::HttpHeaderId::CONTENT_TYPE, CONTENT_TYPE);
    auto body = kj::heap<std::string>(std::move(text));
    auto stream = response.send(200, "OK", headers, body->size());
    if (method == kj::HttpMethod::HEAD) return kj::READY_NOW;
    auto written = stream->write(body->data(), body->size());
    auto late = timer_.afterDelay(REQUEST_LIMIT).then([] { KJ_FAIL_REQUIRE("the answer is not taken"); });
    return written.exclusiveJoin(kj::mv(late)).attach(kj::mv(stream), kj::mv(body));
  });
}

kj::Promise<void> MetricsServer::handleApplicationError(kj::Exception, kj::Maybe<Response&> response) {
  KJ_IF_MAYBE (open, response) {
    return open->sendError(500, "Internal Server Error", table_);
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
