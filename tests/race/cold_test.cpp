// Pages that are not in the page cache: they are read without holding up anything else.

#include <chrono>
#include <vector>

#include "tests/race/race_test.h"
#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t SLOW = 1;  // the page whose read is held

class Cold : public RaceTest {
 protected:
  // With one shard, one thread has all reads.
  static ServerOptions oneShard() { return {.shards = 1}; }

  static std::uint64_t coldReads(Server& server, unsigned n = 0) {
    return server.sum(&rpc::ShardStats::Reader::getColdReads, n);
  }
  // A fault on SLOW whose read of the source is under way, and does not end before the barrier is released.
  struct HeldRead {
    rpc::Barrier::Client barrier;
    std::future<unsigned char> value;
  };
  static HeldRead holdRead(Server& server, Target& target) {
    auto barrier = arm(server, shardHooks(server, 0), "coldRead", rpc::Action::PARK, SLOW);
    auto value = target.readLater(SLOW);
    server.wait(barrier.waitHeldRequest().send());
    return {barrier, std::move(value)};
  }

  // Far from each other: what the kernel reads ahead for one must not warm the next.
  std::uint64_t apart(std::uint64_t n) const { return SLOW + n * pages() / 8; }
  // The first byte that Image gives a page, without a look that would warm the page.
  unsigned char expected(std::uint64_t page) const {
    return static_cast<unsigned char>(1 + page * (pageSize() / SMALL) % 251);
  }
};
BOTH_PAGE_SIZES(Cold);

#define COLD_OR_SKIP(image) \
  if (!(image).makeCold()) GTEST_SKIP() << "the file system of " << (image).path() << " keeps files in memory"

TEST_P(Cold, PagesComeFromTheDiskAndAreRight) {
  Image image(imageBytes());
  Server server(image, oneShard());
  Target target(image, server.socket(), pageSize());
  server.restore();
  COLD_OR_SKIP(image);
  for (std::uint64_t n = 0; n < 8; n++) {
    EXPECT_EQ(target.read(apart(n)), expected(apart(n))) << apart(n);
    // A fast disk has what is read ahead, all of a small file, in place before the next page is looked for.
    image.makeCold();
  }
  EXPECT_GT(coldReads(server), 0u);
  expectContent(target, {});
}

// Many at once: more than are read at a time wait in line.
TEST_P(Cold, ManyAtOnceAreRight) {
  Image image(imageBytes());
  Server server(image, oneShard());
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  std::vector<std::future<unsigned char>> reads;
  const std::uint64_t count = pageSize() == SMALL ? 200 : 12;
  for (std::uint64_t n = 0; n < count; n++) reads.push_back(target.readLater(n * pages() / count));
  await([&] { return target.queued().pending == count; });
  COLD_OR_SKIP(image);
  server.wait(restore.resumeRequest().send());
  for (std::uint64_t n = 0; n < count; n++) EXPECT_EQ(reads[n].get(), expected(n * pages() / count)) << n;
  EXPECT_GT(coldReads(server), 0u);
  expectContent(target, {});
}

// A read that does not end delays no page of its target, and none of another, cold as they are.
TEST_P(Cold, OneSlowReadDelaysNoOtherFault) {
  Image image(imageBytes());
  Server server(image, oneShard());
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore(0);
  Target other(image, server.socket(), pageSize());
  server.restore(1);
  COLD_OR_SKIP(image);
  auto slow = holdRead(server, target);
  for (std::uint64_t n = 1; n < 8; n++) EXPECT_EQ(target.read(apart(n)), expected(apart(n))) << apart(n);
  EXPECT_GT(coldReads(server), 1u) << "nothing but the slow one was cold";
  for (std::uint64_t n = 0; n < 7; n++) {
    const std::uint64_t between = apart(n) + pages() / 16;
    EXPECT_EQ(other.read(between), expected(between)) << between;
  }
  EXPECT_GT(coldReads(server, 1), 0u);
  EXPECT_EQ(other.read(SLOW), expected(SLOW)) << "the same page, for another target";
  EXPECT_EQ(slow.value.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  EXPECT_EQ(stateOf(server, restore, SLOW), rpc::PageState::MISSING);
  server.wait(slow.barrier.releaseRequest().send());
  EXPECT_EQ(slow.value.get(), expected(SLOW));
  expectContent(target, {});
}

// A page that is given back while its read is under way is zeros: the bytes read are not put there.
TEST_P(Cold, APageGivenBackMeanwhileIsZeros) {
  Image image(imageBytes());
  Server server(image, oneShard());
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  auto slow = holdRead(server, target);
  target.giveBack(SLOW);
  EXPECT_EQ(stateOf(server, restore, SLOW), rpc::PageState::REMOVED);
  server.wait(slow.barrier.releaseRequest().send());
  EXPECT_EQ(slow.value.get(), 0);
  EXPECT_TRUE(target.isAll(SLOW, 0));
}

// A page may vanish from where it is mapped between the look at it and its copy: memory that was short, a
// disk that failed. The mapping does not say why, so the page is read, and only what the read says is
// believed.
TEST_P(Cold, APageThatVanishesBeforeItsCopyIsReadAnew) {
  Image image(imageBytes());
  Server server(image, oneShard());
  Target target(image, server.socket(), pageSize());
  server.restore();
  constexpr std::uint64_t VANISHING = 2;
  const std::vector<char> saved(image.data(), image.data() + image.bytes());
  auto copying = arm(server, shardHooks(server, 0), "beforeCopy", rpc::Action::PARK, VANISHING);
  // The third of 4 KiB pages next to each other is copied from the mapping, which is believed for a second.
  for (const std::uint64_t page : {0, 1}) ASSERT_EQ(target.read(page), expected(page));
  auto value = target.readLater(VANISHING);
  server.wait(copying.waitHeldRequest().send());
  image.truncate(0);
  auto reading = arm(server, shardHooks(server, 0), "coldRead", rpc::Action::PARK, VANISHING);
  server.wait(copying.releaseRequest().send());
  server.wait(reading.waitHeldRequest().send());
  image.truncate(saved.size());
  image.write(0, saved.data(), saved.size());
  server.wait(reading.releaseRequest().send());
  EXPECT_EQ(value.get(), expected(VANISHING));
  expectContent(target, {});
}

// A restore that ends while its read is under way is forgotten, and takes nothing of another's with it.
TEST_P(Cold, ARestoreThatEndsMeanwhileIsForgotten) {
  Image image(imageBytes());
  Server server(image, oneShard());
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore(0);
  Target other(image, server.socket(), pageSize());
  server.restore(1);
  auto barrier = arm(server, shardHooks(server, 0), "coldRead", rpc::Action::PARK, SLOW);
  auto touch = target.touchLater(SLOW);
  server.wait(barrier.waitHeldRequest().send());
  auto detach = restore.detachRequest();
  detach.setForce(true);
  server.wait(detach.send());
  // Not zeros: what it misses is an error from now on.
  EXPECT_EQ(touch.get(), Touch::sigbus);
  server.wait(barrier.releaseRequest().send());
  expectContent(other, {});
  EXPECT_EQ(target.touch(SLOW), Touch::sigbus);
}

}  // namespace
}  // namespace faultline::test
