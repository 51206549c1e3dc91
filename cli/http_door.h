// The control interface as JSON over HTTP/1.1 on a Unix socket: for programs in languages without Cap'n Proto, and for curl.
//
// A process of its own and a client of the control socket: the coordinator sees calls as those of any other client. Each
// request has a connection of its own to the coordinator, so what it waits for there goes with it.
#pragma once

#include <kj/async-io.h>
#include <kj/compat/http.h>

#include <cstdint>
#include <memory>
#include <string>

#include "cli/http_routes.h"
#include "rpc/connection.h"

namespace faultline::cli {

// Loop thread only.
class HttpDoor final : private kj::HttpService,
                       private kj::HttpServerErrorHandler,
                       private kj::TaskSet::ErrorHandler {
 public:
  static constexpr unsigned MAX_CONNECTIONS = 64;                 // further ones wait in the kernel
  static constexpr std::size_t MAX_BODY = 4u << 20;               // bytes
  static constexpr kj::Duration REQUEST_LIMIT = 5 * kj::SECONDS;  // to send one, and to take its answer
  static constexpr std::uint64_t DEFAULT_WAIT_MS = 30'000;  // of a call that waits; `timeout_ms` says another
  static constexpr std::uint64_t LONGEST_WAIT_MS = 600'000;

  // `control`: the path of the control socket.
  HttpDoor(kj::AsyncIoContext& io, std::string control);

  // Serves for ever.
  kj::Promise<void> serve(kj::ConnectionReceiver& receiver);

 private:
  // An answer, and what it is made of.
  struct Answer {
    unsigned status = 200;
    std::string text;  // JSON
  };
  struct Asked;

  kj::Promise<void> request(kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders& headers,
                            kj::AsyncInputStream& body, Response& response) override;
  kj::Promise<Answer> answerTo(std::shared_ptr<Asked> asked);
  kj::Promise<Answer> call(std::shared_ptr<Asked> asked);
  kj::Promise<Answer> callBy(kj::Own<rpc::Connection> connection, const std::shared_ptr<Asked>& asked);
  kj::Promise<void> send(Response& response, Answer answer);
  kj::Promise<void> whenFewer();
  kj::Promise<void> handleApplicationError(kj::Exception exception, kj::Maybe<Response&> response) override;
  kj::Promise<void> handleClientProtocolError(kj::HttpHeaders::ProtocolError error,
                                              Response& response) override;
  void taskFailed(kj::Exception&&) override {}  // the error of a connection, which has ended with it

  kj::AsyncIoContext& io_;
  kj::Timer& timer_;
  const std::string control_;
  kj::HttpHeaderTable::Builder names_;
  const kj::HttpHeaderId caching_;
  const kj::Own<kj::HttpHeaderTable> table_;
  kj::HttpServer server_;
  unsigned open_ = 0;
  kj::Own<kj::PromiseFulfiller<void>> fewer_;  // while MAX_CONNECTIONS are open
  kj::TaskSet tasks_;
};

}  // namespace faultline::cli
