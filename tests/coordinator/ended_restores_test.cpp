// Ended restores as a successor finds them: the latest ones, and none whose writer died in the middle.

#include "coordinator/ended_restores.h"

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "process/duplicate.h"

namespace faultline::coordinator {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

using Fds = EndedRestores::Fds;

void note(EndedRestores& ended, std::uint64_t id, const std::string& name, unsigned regions = 1,
          Fds fds = Fds::givenBack) {
  capnp::MallocMessageBuilder message;
  auto restore = message.initRoot<rpc::EndedRestore>();
  restore.initInfo().setId(id);
  restore.getInfo().setName(name.c_str());
  restore.getInfo().initRegions(regions);
  restore.setReason(rpc::EndReason::COMPLETED);
  ended.note(restore, fds);
}

// The figures as an answer to the call has them.
std::vector<std::uint64_t> idsOf(const EndedRestores& ended, const std::string& name = "") {
  capnp::MallocMessageBuilder message;
  auto results = message.initRoot<rpc::Coordinator::EndedResults>();
  ended.fill(results, name);
  std::vector<std::uint64_t> ids;
  for (auto restore : results.getRestores()) ids.push_back(restore.getInfo().getId());
  return ids;
}

TEST(EndedRestores, ASuccessorHasThemTheLatestFirst) {
  EndedRestores first{kj::AutoCloseFd()};
  ASSERT_GE(first.fresh(), 0);
  note(first, 1, "a");
  note(first, 2, "b");
  note(first, 3, "a");
  EndedRestores second(process::duplicate(first.fresh()));
  EXPECT_EQ(second.fresh(), -1);
  EXPECT_THAT(idsOf(second), ElementsAre(3, 2, 1));
  EXPECT_THAT(idsOf(second, "a"), ElementsAre(3, 1));
  EXPECT_THAT(idsOf(second, "c"), IsEmpty());
  note(second, 4, "d");
  EXPECT_THAT(idsOf(EndedRestores(process::duplicate(first.fresh()))), ElementsAre(4, 3, 2, 1));
}

TEST(EndedRestores, TheLatestAreKept) {
  EndedRestores first{kj::AutoCloseFd()};
  for (std::uint64_t id = 1; id <= EndedRestores::KEPT + 6; id++) note(first, id, "vm");
  const auto ids = idsOf(EndedRestores(process::duplicate(first.fresh())));
  EXPECT_THAT(ids, SizeIs(EndedRestores::KEPT));
  EXPECT_EQ(ids.front(), EndedRestores::KEPT + 6);
  EXPECT_EQ(ids.back(), 7u);
}

// A coordinator died behind the note, and its successor noted the same end once more.
TEST(EndedRestores, ARestoreIsToldOnce) {
  EndedRestores first{kj::AutoCloseFd()};
  note(first, 1, "a", 1, Fds::held);
  note(first, 2, "b");
  EXPECT_FALSE(first.givenBack(1));
  note(first, 1, "a");
  EndedRestores second(process::duplicate(first.fresh()));
  EXPECT_THAT(idsOf(second), ElementsAre(1, 2));
  EXPECT_TRUE(second.givenBack(1));
  EXPECT_FALSE(second.givenBack(3));
}

// The writer of the second died in the middle: every torn form of it leaves the others.
TEST(EndedRestores, ATornSlotIsNoEnd) {
  EndedRestores first{kj::AutoCloseFd()};
  for (std::uint64_t id = 1; id <= 3; id++) note(first, id, "vm", 100);
  const off_t slot = 2 * static_cast<off_t>(EndedRestores::SLOT_BYTES);  // of the one that was written second
  for (const off_t at : {0, 8, 20, 36, 40, 300, 2000}) {
    char was = 0, other = 0;
    ASSERT_EQ(pread(first.fresh(), &was, 1, slot + at), 1);
    other = static_cast<char>(~was);
    ASSERT_EQ(pwrite(first.fresh(), &other, 1, slot + at), 1);
    EXPECT_THAT(idsOf(EndedRestores(process::duplicate(first.fresh()))), ElementsAre(3, 1)) << "at " << at;
    ASSERT_EQ(pwrite(first.fresh(), &was, 1, slot + at), 1);
  }
  EXPECT_THAT(idsOf(EndedRestores(process::duplicate(first.fresh()))), ElementsAre(3, 2, 1));
}

TEST(EndedRestores, TheLargestFits) {
  EndedRestores first{kj::AutoCloseFd()};
  capnp::MallocMessageBuilder message;
  auto restore = message.initRoot<rpc::EndedRestore>();
  restore.initInfo().setId(1);
  restore.getInfo().setFailureText(std::string(4000, 'x').c_str());
  restore.getInfo().initRegions(4096);
  for (auto shard : restore.initStats().initShards(64)) {
    shard.initEventToDone().initBuckets(160);
    shard.initGateWait().initBuckets(160);
    shard.initStaging().initBuckets(160);
    shard.initCopying().initBuckets(160);
  }
  first.note(restore, Fds::givenBack);
  EXPECT_THAT(idsOf(EndedRestores(process::duplicate(first.fresh()))), ElementsAre(1));
}

TEST(EndedRestores, WhatIsNoneOfOursBeginsAnew) {
  int fd;
  ASSERT_GE(fd = memfd_create("other", MFD_CLOEXEC), 0);
  EndedRestores ended{kj::AutoCloseFd(fd)};
  EXPECT_GE(ended.fresh(), 0);
  note(ended, 1, "a");
  EXPECT_THAT(idsOf(ended), ElementsAre(1));
}

}  // namespace
}  // namespace faultline::coordinator
