// The line that a restore leaves in the log.

#include "coordinator/summary.h"

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shmtracker/counters.h"

namespace faultline::coordinator {
namespace {

using ::testing::HasSubstr;

struct Ended {
  capnp::MallocMessageBuilder message;
  rpc::EndedRestore::Builder ended = message.initRoot<rpc::EndedRestore>();

  Ended() {
    auto info = ended.initInfo();
    info.setPages(1000);
    info.initRegions(1)[0].setSize(1000ul * 4096);
    info.setAgeNs(12'300'000'000);
    info.setFaulted(900);
    info.setMissing(60);
    info.setRemoved(30);
    info.setReleased(10);
  }
  std::string text() const { return summaryOf(ended.asReader()); }
};

TEST(Summary, HasWhatAnOperatorAsksFor) {
  Ended restore;
  auto stats = restore.ended.initStats();
  stats.setFaults(321);
  stats.setFirstPageNs(3'100'000);
  auto shards = stats.initShards(2);
  for (auto shard : shards) {
    shard.setCopied(400);
    shard.setZeroed(50);
    shard.setPrefaulted(200);
    shard.setAround(122);
    shard.setColdReads(7);
  }
  // Half of the faults were answered by the fast shard, the others by the slow one.
  const std::size_t fast = shm::Histogram::bucketOf(100'000), slow = shm::Histogram::bucketOf(9'000'000);
  shards[0].initEventToDone().initBuckets(fast + 1).set(fast, 100);
  shards[1].initEventToDone().initBuckets(slow + 1).set(slow, 100);
  const std::string text = restore.text();
  EXPECT_THAT(text, HasSubstr("12.3 s, first page after 3.1 ms"));
  EXPECT_THAT(text, HasSubstr("900 of 1000 pages in place, 60 missing, 30 given back, 10 released"));
  EXPECT_THAT(text, HasSubstr("321 faults, p50 1")) << "of all shards together, some 100 us";
  EXPECT_THAT(text, HasSubstr(" us p99 10.")) << "some 9 ms";
  EXPECT_THAT(text,
              HasSubstr("1.0 MiB by faults, 976.0 KiB around them, 1.6 MiB in the background, 14 pages"));
}

TEST(Summary, OfARestoreThatNothingTouchedSaysSo) {
  const Ended restore;
  EXPECT_THAT(restore.text(), HasSubstr("12.3 s, no fault; "));
  EXPECT_THAT(restore.text(), HasSubstr("0 faults"));
}

}  // namespace
}  // namespace faultline::coordinator
