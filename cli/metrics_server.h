// Answers Prometheus and a browser: GET /metrics asks the coordinator, and hands its answer on; / is a page that shows a
// restore as it comes.
//
// A process of its own, so that neither a network nor a scraper is ever near a fault: the coordinator sees a
// client of its control socket, the shards nothing at all.
#pragma once

#include <kj/async-io.h>
#include <kj/compat/http.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "cli/metrics_text.h"
#include "cli/page_cells.h"

namespace faultline::cli {

// A text about a service as it is now. Asks the coordinator anew each time, so it outlives every coordinator.
//
// To answer, the coordinator looks at every page of every restore, and faults wait meanwhile: it is never
// asked twice at once, and after each answer it is left alone for `rest` times as long as that took, however
// many clients ask. A client that asks while an answer is on its way, or held back, gets that answer.
class LookSource {
 public:
  static constexpr kj::Duration PATIENCE = 5 * kj::SECONDS;

  using Render = std::function<std::string(const ServiceFigures&)>;
  // `ofNobody`: the text where no coordinator answers within PATIENCE.
  LookSource(kj::AsyncIoContext& io, std::string control, std::uint64_t rest, Render render,
             std::string ofNobody)
      : io_(io),
        control_(std::move(control)),
        rest_(rest),
        render_(std::move(render)),
        ofNobody_(std::move(ofNobody)),
        answer_(nullptr) {}
  kj::Promise<std::string> text();

 private:
  kj::Promise<std::string> answer();
  kj::Promise<std::string> ask();

  kj::AsyncIoContext& io_;
  const std::string control_;
  const std::uint64_t rest_;
  const Render render_;
  const std::string ofNobody_;
  std::uint64_t askAgain_ = 0;  // not before; ns, CLOCK_MONOTONIC
  bool asking_ = false;
  kj::ForkedPromise<std::string> answer_;  // the last; on its way while asking_
};

// The current text of `/metrics`; says faultline_up 0 where no coordinator answers. At most a tenth of the coordinator's
// time goes into it.
class MetricsSource final : public LookSource {
 public:
  MetricsSource(kj::AsyncIoContext& io, std::string control, Detail detail);
};

// The page's figures as JSON: the status of the service and its stalls by cause, or "up": false. At most a twentieth of
// the coordinator's time goes into it, while the page is open.
class WatchSource final : public LookSource {
 public:
  WatchSource(kj::AsyncIoContext& io, std::string control);

 private:
  struct Memory;
  WatchSource(kj::AsyncIoContext& io, std::string control, std::shared_ptr<Memory> memory);
};

// Maps of restores for the page, of those that were looked at last.
class MapSource {
 public:
  MapSource(kj::AsyncIoContext& io, std::string control) : io_(io), control_(std::move(control)) {}

  // A restore's pages as JSON; empty where there is no restore of that name, or no coordinator answers in time. Each
  // call looks at a further part of it, unless another has done so within INTERVAL.
  kj::Promise<std::string> map(std::string restore);

 private:
  static constexpr std::uint64_t INTERVAL = 200'000'000;  // ns
  static constexpr std::size_t MOST = 8;
  struct Map {
    Map(std::uint64_t pages, std::uint64_t bytes) : bytes(bytes), cells(pages) {}
    const std::uint64_t bytes;
    PageCells cells;
    std::uint64_t lookedAt = 0;  // ns, CLOCK_MONOTONIC
    bool looking = false;
  };

  kj::Promise<std::string> look(const std::string& restore);
  kj::Promise<std::shared_ptr<Map>> open(rpc::Coordinator::Client coordinator, const std::string& restore);
  static std::string textOf(const std::string& restore, const Map& map);

  kj::AsyncIoContext& io_;
  const std::string control_;
  std::map<std::string, std::shared_ptr<Map>> maps_;
};

// Loop thread only. The objects that it refers to must outlive it.
class MetricsServer final : private kj::HttpService,
                            private kj::HttpServerErrorHandler,
                            private kj::TaskSet::ErrorHandler {
 public:
  static constexpr unsigned MAX_CONNECTIONS = 16;                 // further ones are closed at once
  static constexpr kj::Duration REQUEST_LIMIT = 5 * kj::SECONDS;  // to send one, and to take its answer

  // `anyHost`: the Host header is not looked at, as behind a Unix socket, which no browser reaches. Else it must be a name
  // of this machine alone: a page of another host could have its own name lead here.
  MetricsServer(kj::Timer& timer, MetricsSource& source, WatchSource& watch, MapSource& maps, bool anyHost);

  // Serves for ever.
  kj::Promise<void> serve(kj::ConnectionReceiver& receiver);

 private:
  kj::Promise<void> request(kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders& headers,
                            kj::AsyncInputStream& body, Response& response) override;
  kj::Promise<void> answer(kj::HttpMethod method, Response& response, const char* type, std::string text);
  // A client that cannot be answered is not logged: KJ would log it, with a stack.
  kj::Promise<void> handleApplicationError(kj::Exception exception, kj::Maybe<Response&> response) override;
  void taskFailed(kj::Exception&&) override {}  // the error of a connection, which has ended with it

  kj::Timer& timer_;
  MetricsSource& source_;
  WatchSource& watch_;
  MapSource& maps_;
  const bool anyHost_;
  kj::HttpHeaderTable::Builder names_;
  const kj::HttpHeaderId policy_, sniffing_, caching_;
  const kj::Own<kj::HttpHeaderTable> table_;
  kj::HttpServer server_;
  unsigned open_ = 0;
  kj::TaskSet tasks_;
};

// The page, whole: nothing of it comes from elsewhere.
const char* watchPage();

// A listening socket: "unix:PATH" (mode 0600), or a port of this machine alone, as 127.0.0.1:9464, [::1]:9464
// or localhost:9464; port 0: any. Throws CommandError(USAGE) for everything else. The text says where it is
// then.
struct MetricsSocket {
  kj::Own<kj::ConnectionReceiver> receiver;
  std::string address;  // for people
};
MetricsSocket listenForMetrics(kj::AsyncIoContext& io, const std::string& where);

}  // namespace faultline::cli
