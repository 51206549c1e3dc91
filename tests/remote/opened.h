// Objects of servers, opened for a test.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "fetcher/curl_library.h"
#include "fetcher/engine.h"
#include "fetcher/http_object.h"
#include "tests/remote/same_bytes.h"
#include "tests/remote/servers.h"
#include "tests/support/refusal.h"

namespace faultline::test {

inline constexpr std::uint64_t SECOND = 1'000'000'000, PATIENCE = 20 * SECOND;  // ns
inline constexpr std::uint64_t MIB = 1u << 20;

// An object, and what its connections were.
struct Opened {
  // `port`: where it is, whatever its URI says.
  explicit Opened(const std::string& uri, unsigned port, fetcher::S3Keys keys = {},
                  std::uint64_t patience = PATIENCE, const std::string& authorities = "")
      : keys(std::move(keys)) {
    fetcher::CurlLibrary::load();
    object = std::make_shared<const fetcher::HttpObject>(rpc::ObjectUri::parse(uri),
                                                         fetcher::HttpWays{[this, port] {
                                                                             connections++;
                                                                             return dial(port);
                                                                           },
                                                                           [this] {
                                                                             keysAsked++;
                                                                             return this->keys;
                                                                           },
                                                                           authorities},
                                                         patience, counters);
  }

  int read(std::uint64_t offset, std::size_t bytes) {
    content.assign(bytes, '?');
    return object->read(offset, std::as_writable_bytes(std::span(content)));
  }

  fetcher::S3Keys keys;
  std::atomic<unsigned> connections{0}, keysAsked{0};
  fetcher::EngineCounters counters;
  std::shared_ptr<const fetcher::HttpObject> object;
  std::string content;
};

inline std::string whyNot(const std::function<void()>& open) {
  return refusalOf<std::runtime_error>(open);
}

}  // namespace faultline::test
