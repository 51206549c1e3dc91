// An object of a server that speaks HTTP, read by ranges, with libcurl; one that has changed is noticed at its next read.
#pragma once

#include <kj/io.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "fetcher/engine_counters.h"
#include "fetcher/s3_keys.h"
#include "rpc/object_uri.h"

namespace faultline::fetcher {

// Ways out of the process that are others' to go.
struct HttpWays {
  // A new connection to the server. Waits. Throws std::exception for people.
  std::function<kj::AutoCloseFd()> connect;
  // The keys as they are now. Waits. Throws std::exception for people.
  std::function<S3Keys()> keys;
  // A file of certificates that servers' are to be signed by.
  std::string authorities;
};

// Const methods: any thread.
class HttpObject {
 public:
  // Asks the server what there is. `patience`: ns that a read waits for the server. `counters` must outlive it. Throws
  // std::runtime_error, naming the object, where it cannot be used. Waits, some seconds at most.
  HttpObject(const rpc::ObjectUri& uri, HttpWays ways, std::uint64_t patience, EngineCounters& counters);
  ~HttpObject();
  HttpObject(const HttpObject&) = delete;

  const std::string& name() const { return uri_.text; }
  std::uint64_t bytes() const { return bytes_; }
  // A hash that stands for this object as it is: of its URL, size and ETag.
  std::uint64_t version() const { return version_; }

  // Fills `to` from `offset` on. Asks again, for as long as `patience`, where the server does not answer, or has too much to
  // do. Returns 0 or errno, after the reason was logged: EACCES and ENOENT as the server says; ESTALE: it is another
  // object now; EPROTO: what came is not what was asked for; else ENOTCONN: patience has run out.
  int read(std::uint64_t offset, std::span<std::byte> to) const;

 private:
  struct Answer;
  struct Outcome;
  class Handle;
  class Handles;

  Outcome ask(std::uint64_t offset, std::span<std::byte> to, std::uint64_t deadline, Answer& answer) const;
  Outcome judge(const Answer& answer, std::uint64_t offset, std::size_t wanted) const;
  S3Keys keys() const;
  bool newKeys() const;

  const rpc::ObjectUri uri_;
  const HttpWays ways_;
  const std::uint64_t patience_;
  EngineCounters& counters_;
  const std::unique_ptr<Handles> handles_;
  std::uint64_t bytes_ = 0, version_ = 0;
  std::string tag_;  // empty: not known yet
};

}  // namespace faultline::fetcher
