// Reads of one source, more than it has places for.

#include "shard/source/cold_reader.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/shard/faulty_source.h"
#include "tests/support/server.h"

namespace faultline::shard {
namespace {

// In two floods, so that the line is filled anew where it has been used up.
TEST(ColdReads, BeyondThePlacesWaitInLineAndEndOnceEach) {
  constexpr std::uint64_t COUNT = 5 * ColdReader::SMALL_READS;
  test::Image image(COUNT * shm::SMALL_PAGE);
  const auto source = std::make_shared<test::FaultySource>(image);
  failpoints::Failpoints failpoints;
  ColdReader reader(failpoints);
  for (unsigned flood = 1; flood <= 2; flood++) {
    std::vector<unsigned> ended(COUNT);
    std::uint64_t sum = 0, asked = 0;
    const auto done = [&](const Fault& fault, const Staged& staged) {
      EXPECT_EQ(staged.kind, Staged::Kind::bytes);
      ended[fault.page]++;
      sum++;
    };
    // Some end while others are still being asked for.
    while (asked < COUNT) {
      Fault fault{};
      fault.page = asked;
      reader.read(fault, *source, asked * shm::SMALL_PAGE, shm::SMALL_PAGE);
      if (++asked % 64 == 0) reader.reap(done);
    }
    test::await([&] { return reader.reap(done) == 0 && sum == COUNT; });
    for (std::uint64_t page = 0; page < COUNT; page++) EXPECT_EQ(ended[page], 1u) << page;
  }
}

}  // namespace
}  // namespace faultline::shard
