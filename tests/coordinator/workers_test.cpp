// How many copy workers a shard has: as many for each shard that a coordinator starts, whatever becomes of
// the machine's CPUs meanwhile.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "coordinator/shard_handle.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {
namespace {

// The state that a predecessor's restore leaves, with so many copy workers a shard.
Inheritance restoreWith(std::uint32_t threads) {
  shm::Immutable facts{};
  facts.workersPerShard = shm::slotsFor(threads);
  kj::AutoCloseFd segment(memfd_create("segment", MFD_CLOEXEC));
  EXPECT_EQ(pwrite(segment.get(), &facts, sizeof facts, 0), static_cast<ssize_t>(sizeof facts));
  Inheritance inherited;
  inherited.fds[process::KeptName::restore(1, process::KeptName::Part::segment)] = kj::mv(segment);
  return inherited;
}

TEST(Workers, AreCountedOnceWhereTheOperatorSaysNothing) {
  Options options;
  options.shards = 1;
  EXPECT_EQ(fitting(options, Inheritance()).threads, threadsOf(options));
  EXPECT_GT(threadsOf(options), 0u);
}

TEST(Workers, AreNoMoreThanWhatIsKeptHasRoomFor) {
  Options options;
  options.threads = 3;
  EXPECT_EQ(fitting(options, restoreWith(2)).threads, 2u);
  EXPECT_EQ(fitting(options, restoreWith(4)).threads, 3u);
}

}  // namespace
}  // namespace faultline::coordinator
