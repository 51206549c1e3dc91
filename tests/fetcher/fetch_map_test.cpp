// The states of a cache's chunks, in memory that processes share.

#include "rpc/fetch_map.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <unistd.h>

namespace faultline::rpc {
namespace {

using State = FetchMap::State;
constexpr std::uint64_t CHUNK = FetchMap::CHUNK, PAGE = FetchMap::PAGE;
constexpr FetchMap::Facts FACTS{10 * CHUNK + PAGE, 77, true};

struct TwoEnds {
  kj::AutoCloseFd memory{FetchMap::create(FACTS)};
  FetchMap writer = FetchMap::attach(memory.get(), FetchMap::Access::write);
  FetchMap reader = FetchMap::attach(memory.get(), FetchMap::Access::read);
};

TEST(FetchMap, KnowsNothingAtFirst) {
  TwoEnds ends;
  EXPECT_EQ(ends.reader.facts(), FACTS);
  EXPECT_EQ(ends.reader.chunks(), 11u);
  EXPECT_FALSE(ends.reader.ready());
  EXPECT_EQ(ends.reader.broken(), FetchMap::Broken::no);
  for (std::uint64_t chunk = 0; chunk < 11; chunk++) EXPECT_EQ(ends.reader.state(chunk), State::absent);
  EXPECT_FALSE(ends.reader.known(0, PAGE));
}

TEST(FetchMap, ARangeIsKnownIfEachChunkOfItIs) {
  TwoEnds ends;
  ends.writer.set(1, State::present);
  ends.writer.set(2, State::zero);
  EXPECT_TRUE(ends.reader.known(CHUNK, 2 * CHUNK));
  EXPECT_TRUE(ends.reader.known(2 * CHUNK - PAGE, 2 * PAGE));
  EXPECT_FALSE(ends.reader.known(CHUNK - PAGE, 2 * PAGE));
  EXPECT_FALSE(ends.reader.known(3 * CHUNK - PAGE, 2 * PAGE));
  EXPECT_FALSE(ends.reader.zero(2 * CHUNK - PAGE, 2 * PAGE));
  EXPECT_TRUE(ends.reader.zero(2 * CHUNK, CHUNK));
}

TEST(FetchMap, TellsThePagesOfLayersBelow) {
  TwoEnds ends;
  ends.writer.setBelow(3, 30);
  ends.writer.setBelow(160, 161);
  for (std::uint64_t page = 0; page < 161; page++)
    EXPECT_EQ(ends.reader.below(page), (page >= 3 && page < 30) || page == 160) << page;
}

TEST(FetchMap, OfAFullImageHasNoPagesOfOthers) {
  const auto memory = FetchMap::create({CHUNK, 1, false});
  EXPECT_FALSE(FetchMap::attach(memory.get(), FetchMap::Access::read).below(0));
}

TEST(FetchMap, AStateThatThereIsNotIsAbsent) {
  TwoEnds ends;
  ends.writer.set(3, static_cast<State>(3));
  ends.writer.set(4, static_cast<State>(0xff));
  EXPECT_EQ(ends.reader.state(3), State::absent);
  EXPECT_FALSE(ends.reader.known(4 * CHUNK, PAGE));
}

TEST(FetchMap, RefusesMemoryThatIsNone) {
  const kj::AutoCloseFd other(memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_THROW(FetchMap::attach(other.get(), FetchMap::Access::read), kj::Exception);
  ASSERT_EQ(ftruncate(other.get(), 1 << 20), 0);
  EXPECT_THROW(FetchMap::attach(other.get(), FetchMap::Access::read), kj::Exception);
  ASSERT_EQ(fcntl(other.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
  EXPECT_THROW(FetchMap::attach(other.get(), FetchMap::Access::read), kj::Exception);
}

// Whatever it says of itself, it is not larger than its memory.
TEST(FetchMap, RefusesASizeThatIsNotItsOwn) {
  const auto memory = FetchMap::create(FACTS);
  const std::uint64_t more = FACTS.bytes + 1000 * CHUNK;
  ASSERT_EQ(pwrite(memory.get(), &more, sizeof more, 8), static_cast<ssize_t>(sizeof more));
  EXPECT_THROW(FetchMap::attach(memory.get(), FetchMap::Access::read), kj::Exception);
}

}  // namespace
}  // namespace faultline::rpc
