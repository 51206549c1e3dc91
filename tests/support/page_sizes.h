// The page sizes, for tests of what holds for each.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tests/support/target.h"

namespace faultline::test {

inline constexpr std::uint64_t SMALL = 4096;
inline constexpr std::uint64_t HUGE = 2u << 20;

// Runs each test with 4 KiB and with 2 MiB pages; huge ones only where the machine has some.
class BothPageSizes : public testing::TestWithParam<std::uint64_t> {
 protected:
  void SetUp() override {
    if (GetParam() == HUGE && !hugePagesAvailable(64))
      GTEST_SKIP() << "no 64 free huge pages; echo 256 > /proc/sys/vm/nr_hugepages";
  }

  std::uint64_t pageSize() const { return GetParam(); }
  // Pages so that every shard owns some: an extent has 512 small or 4 huge pages.
  std::uint64_t pages() const { return GetParam() == SMALL ? 2048 : 16; }
  std::uint64_t imageBytes() const { return pages() * pageSize(); }
};

inline std::string pageSizeName(const testing::TestParamInfo<std::uint64_t>& info) {
  return info.param == SMALL ? "Small" : "Huge";
}

// gtest's INSTANTIATE for every suite of this kind.
#define BOTH_PAGE_SIZES(suite) \
  INSTANTIATE_TEST_SUITE_P(Pages, suite, testing::Values(SMALL, HUGE), pageSizeName)

}  // namespace faultline::test
