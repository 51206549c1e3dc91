// Answers Prometheus: GET /metrics asks the coordinator, and hands its answer on.
//
// A process of its own, so that neither a network nor a scraper is ever near a fault: the coordinator sees a
// client of its control socket, the shards nothing at all.
#pragma once

#include <kj/async-io.h>
#include <kj/compat/http.h>

#include <cstdint>
#include <string>

#include "cli/metrics_text.h"

namespace faultline::cli {

// The current text of `/metrics`. Asks the coordinator anew each time, so it outlives every coordinator; says
// faultline_up 0 where none answers within PATIENCE.
//
// To answer, the coordinator looks at every page of every restore, and faults wait meanwhile: it is never
// asked twice at once, and after each answer it is left alone for nine times as long as that took, however
// many clients ask. A client that asks while an answer is on its way, or held back, gets that answer.
class MetricsSource {
 public:
  static constexpr kj::Duration PATIENCE = 5 * kj::SECONDS;

  MetricsSource(kj::AsyncIoContext& io, std::string control, Detail detail)
      : io_(io), control_(std::move(control)), detail_(detail), answer_(nullptr) {}
  kj::Promise<std::string> text();

 private:
  kj::Promise<std::string> answer();
  kj::Promise<std::string> ask();

  kj::AsyncIoContext& io_;
  const std::string control_;
  const Detail detail_;
  std::uint64_t askAgain_ = 0;  // not before; ns, CLOCK_MONOTONIC
  bool asking_ = false;
  kj::ForkedPromise<std::string> answer_;  // the last; on its way while asking_
};

// Loop thread only. The objects that it refers to must outlive it.
class MetricsServer final : private kj::HttpService,
                            private kj::HttpServerErrorHandler,
                            private kj::TaskSet::ErrorHandler {
 public:
  static constexpr unsigned MAX_CONNECTIONS = 16;                 // further ones are closed at once
  static constexpr kj::Duration REQUEST_LIMIT = 5 * kj::SECONDS;  // to send one, and to take its answer

  MetricsServer(kj::Timer& timer, MetricsSource& source);

  // Serves for ever.
  kj::Promise<void> serve(kj::ConnectionReceiver& receiver);

 private:
  kj::Promise<void> request(kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders& headers,
                            kj::AsyncInputStream& body, Response& response) override;
  // A client that cannot be answered is not logged: KJ would log it, with a stack.
  kj::Promise<void> handleApplicationError(kj::Exception exception, kj::Maybe<Response&> response) override;
  void taskFailed(kj::Exception&&) override {}  // the error of a connection, which has ended with it

  kj::Timer& timer_;
  MetricsSource& source_;
  kj::HttpHeaderTable table_;
  kj::HttpServer server_;
  unsigned open_ = 0;
  kj::TaskSet tasks_;
};

// A listening socket: "unix:PATH" (mode 0600), or a port of this machine alone, as 127.0.0.1:9464, [::1]:9464
// or localhost:9464; port 0: any. Throws CommandError(USAGE) for everything else. The text says where it is
// then.
struct MetricsSocket {
  kj::Own<kj::ConnectionReceiver> receiver;
  std::string address;  // for people
};
MetricsSocket listenForMetrics(kj::AsyncIoContext& io, const std::string& where);

}  // namespace faultline::cli
