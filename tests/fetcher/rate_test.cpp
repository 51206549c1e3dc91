// What is fetched in the background keeps to a rate; faults do not wait for it, nor for another restore's population.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>

#include "tests/fetcher/packed_source.h"
#include "tests/recovery/recovery_test.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t MIB = 1u << 20, CHUNK = 64u << 10, CHUNK_PAGES = CHUNK / SMALL;

// The kind of the layers: pages of one come from the cache's mapping, those of several are gathered.
class FetchRates : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Of, FetchRates, testing::Bool(),
                         [](const auto& info) { return info.param ? "AStack" : "OneImage"; });

TEST_P(FetchRates, HoldsAPopulationBackAndNoFault) {
  Stack stack(8 * MIB, 2);
  if (GetParam())
    for (std::uint64_t page = 0; page < 8 * MIB / SMALL; page += 2 * CHUNK_PAGES)
      stack.data(0, page, CHUNK_PAGES);
  const PackedSource source =
      GetParam() ? PackedSource(stack, PackedSource::Lowest::packed) : PackedSource(stack.lowest());
  Server server(stack.shown(), serving(source, {.more = {"--fetch-rate", "64K"}}));
  EXPECT_EQ(server.status().getFetcher().getFetchRate(), 64u << 10);
  Target target(stack.shown(), server.socket(), SMALL);
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  // The first reads pay for what they brought by half a minute at least.
  await([&] { return figuresOf(server).cachedBytes > 0; });
  for (std::uint64_t page = 0; page < target.pages(); page += CHUNK_PAGES)
    ASSERT_TRUE(target.holdsImage(page)) << page;
  // A fault is answered a moment before its chunk is kept.
  await([&] { return figuresOf(server).cachedBytes == stack.shown().bytes(); });
  // What is in the cache is fetched no more, and so is not held back.
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(figuresOf(server).bytes, stack.shown().bytes());
  expectContent(target, {});
}

// Also past the patience with a source, which does not run while a rate is all that is waited for.
TEST(FetchRate, IsKeptAndNothingIsGivenUpForIt) {
  Image image(8 * MIB);
  const PackedSource source(image);
  Server server(image, serving(source, {.more = {"--fetch-rate", "4MiB", "--source-patience", "100ms"}}));
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  const auto begin = std::chrono::steady_clock::now();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_GT(took.count(), 1.0) << "all but the first read of each thread waits for its time";
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.inMemory(page)) << page;
  expectContent(target, {});
}

TEST(FetchRate, TheEndOfTheServiceDoesNotKeepIt) {
  Image image(64 * MIB);
  const PackedSource source(image);
  Server server(image, serving(source, {.prefault = true, .more = {"--fetch-rate", "64K"}}));
  Target target(image, server.socket(), SMALL);
  server.restore();
  kill(server.supervisor(), SIGTERM);
  siginfo_t how{};
  waitid(P_PID, static_cast<id_t>(server.supervisor()), &how, WEXITED | WNOWAIT);
  for (std::uint64_t page = 0; page < target.pages(); page += 97)
    ASSERT_EQ(target.touch(page), Touch::ok) << page;
}

// One restore's population waits for its file, with all the threads that it may have; another restore of the same file, and
// one of another, have their faults answered from what is not cached, too.
TEST(PopulationOfAPackedImage, DelaysNoFaultOfAnotherRestore) {
  if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  Image image(8 * MIB), other(4 * MIB);
  other.fill(0, SMALL, 7);
  const PackedSource source(image), whole(other);
  const auto file = fileAsImage(source);
  FuseFile fuse(*file, FuseFile::Cache::none);
  const std::string otherSocket = image.directory() + "/other";
  Server server(image, {.more = {"--source-patience", "60s", "--socket", otherSocket, "--memory",
                                 whole.path(), "--name", "other"},
                        .memory = fuse.path()});
  Target populated(image, server.socket(), SMALL);
  auto restore = server.restore();
  fuse.stall();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  await([&] { return fuse.waiting() > 0; });
  Target target(other, otherSocket, SMALL);
  server.restoreNamed("other");
  expectContent(target, {});
  fuse.goOn();
  server.wait(prefault.waitRequest().send());
  expectContent(populated, {});
}

}  // namespace
}  // namespace faultline::test
