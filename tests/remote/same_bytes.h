// Compares what an engine gives with the image that it should have.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include "fetcher/engine.h"
#include "image/sampled_checksum.h"
#include "tests/support/image.h"

namespace faultline::test {

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
