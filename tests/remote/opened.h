// Objects of servers, opened for a test, and compared with what they should have.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "fetcher/curl_library.h"
#include "fetcher/engine.h"
#include "fetcher/http_object.h"
#include "image/sampled_checksum.h"
#include "tests/remote/servers.h"
#include "tests/support/image.h"

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
  try {
    open();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "it is taken";
}

// Every byte of it, by an engine, with several threads.
inline void expectSame(const fetcher::Engine& engine, const Image& image) {
  ASSERT_EQ(engine.facts().bytes, image.bytes());
  constexpr std::uint64_t CHUNK = 64u << 10;
  std::atomic<std::uint64_t> next{0};
  std::atomic<unsigned> wrong{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; i++)
      threads.emplace_back([&] {
        for (std::uint64_t begin; (begin = next.fetch_add(CHUNK)) < image.bytes();) {
          const fetcher::Range unit = engine.unitOf({begin, std::min(begin + CHUNK, image.bytes())});
          std::vector<std::byte> bytes(unit.size());
          if (engine.read(unit, bytes) != 0 ||
              std::memcmp(bytes.data(), image.data() + unit.begin, unit.size()) != 0)
            wrong++;
        }
      });
  }
  EXPECT_EQ(wrong, 0u);
}

inline std::uint64_t fingerprintOf(const Image& image) {
  image::SampledChecksum sum;
  for (const std::uint64_t place : image::samplePlaces(image.bytes()))
    sum.add(
        std::as_bytes(std::span(image.data() + place, std::min(image::SAMPLE_BYTES, image.bytes() - place))));
  return sum.value();
}

}  // namespace faultline::test
