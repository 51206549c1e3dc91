// Recorded working sets of packed images: recorded as of any other file, and fetched in their order before shards want them.

#include "cli/working_set.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "cli/memory_file.h"
#include "cli/snapshot_identity.h"
#include "cli/working_set_file.h"
#include "tests/fetcher/packed_source.h"
#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t CHUNK = 64 << 10, CHUNK_PAGES = CHUNK / SMALL;
using Pages = std::vector<std::uint64_t>;

std::string fileBeside(const Image& image) {
  return image.directory() + "/set";
}

cli::SnapshotIdentity identityOf(const std::vector<std::string>& paths) {
  return cli::identityOf(cli::openLayers(paths).files);
}

std::string writeSet(const Image& image, const cli::SnapshotIdentity& identity, const Pages& pages) {
  cli::WorkingSet set{SMALL, identity, 0, {}};
  for (const std::uint64_t page : pages) set.ranges.push_back({page * SMALL, SMALL});
  cli::writeWorkingSet(fileBeside(image), set);
  return fileBeside(image);
}

cli::WorkingSet save(Server& server, const Image& image) {
  const auto result = run({"working-set", "save", Server::restoreName(), "--control", server.control(),
                           "--output", fileBeside(image)});
  EXPECT_EQ(result.code, 0) << result.err;
  return cli::readWorkingSet(fileBeside(image));
}

// The first thread of a shard that is about to populate the page stays there.
rpc::Barrier::Client park(Server& server, unsigned index, std::uint64_t page) {
  return arm(server, shardHooks(server, index), "beforeStage", rpc::Action::PARK, page);
}

bool populating(Server& server, rpc::Restore::Client& restore) {
  return server.wait(restore.infoRequest().send()).getInfo().getPrefaulting();
}

ServerOptions replaying(const PackedSource& source, const std::string& set, ServerOptions options = {}) {
  options.more = {"--working-set", set};
  return serving(source, std::move(options));
}

// What was not fetched yet is no part of what a snapshot is known by: it is read as it lies in the file.
TEST(PackedWorkingSet, IsRecordedAsOfThePlainFile) {
  Image image(8 << 20);
  image.hole(2 << 20, 1 << 20);
  const PackedSource source(image);
  const Pages touched = {1500, 3, 4, 700, 2};
  Server server(image, serving(source, {.more = {"--record-working-set"}}));
  Target target(image, server.socket(), SMALL);
  server.restore();
  for (const std::uint64_t page : touched) EXPECT_TRUE(target.holdsImage(page));
  const cli::WorkingSet set = save(server, image);
  EXPECT_EQ(set.snapshot, identityOf({image.path()}));
  EXPECT_EQ(set.snapshot, identityOf({source.path()}));
  const std::vector<cli::SourceRange> expected = {
      {1500 * SMALL, SMALL}, {3 * SMALL, 2 * SMALL}, {700 * SMALL, SMALL}, {2 * SMALL, SMALL}};
  EXPECT_EQ(set.ranges, expected);
  EXPECT_LT(figuresOf(server).bytes, 5 * CHUNK) << "nothing more was fetched for it";
}

// Of the plain file or of the packed one: it is the same snapshot.
TEST(PackedWorkingSet, OfThePlainFileIsUsedAndNothingElseIsFetched) {
  Image image(8 << 20);
  const PackedSource source(image);
  const Pages order = {1500, 3, 700};
  Server server(image, replaying(source, writeSet(image, identityOf({image.path()}), order)));
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  await([&] { return !populating(server, restore); });
  for (std::uint64_t page = 0; page < target.pages(); page++)
    EXPECT_EQ(target.inMemory(page), std::find(order.begin(), order.end(), page) != order.end()) << page;
  EXPECT_EQ(figuresOf(server).bytes, order.size() * CHUNK);
  expectContent(target, {});
}

TEST(PackedWorkingSet, OfAnotherSnapshotIsRefused) {
  Image image(8 << 20), other(8 << 20);
  other.fill(0, SMALL, 'x');
  const PackedSource source(image);
  const auto result =
      run({"serve", "--control", image.directory() + "/control", "--socket", image.directory() + "/socket",
           "--memory", source.path(), "--working-set", writeSet(image, identityOf({other.path()}), {1})});
  EXPECT_EQ(result.code, 2);
  EXPECT_NE(result.err.find("was recorded with another snapshot"), std::string::npos) << result.err;
}

// All shards are held at their first page meanwhile.
TEST(PackedWorkingSet, IsFetchedAcrossShardsBeforeTheyCopy) {
  Image image(8 << 20);
  const PackedSource source(image);
  Pages order;
  for (std::uint64_t chunk = 0; chunk < 32; chunk++)  // of each extent in turn
    for (std::uint64_t extent = 0; extent < 4; extent++) {
      const std::uint64_t page = extent * EXTENT + (chunk * 7 % 32) * CHUNK_PAGES + 3;
      if (chunk % 2 == 0) order.push_back(page);
    }
  Server server(image, replaying(source, writeSet(image, identityOf({image.path()}), order),
                                 {.shards = 2, .workers = 1}));
  auto first = park(server, 0, order[0]), second = park(server, 1, order[1]);
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  ASSERT_EQ(server.ownerOf(order[0]), 0u);
  ASSERT_EQ(server.ownerOf(order[1]), 1u);
  server.wait(first.waitHeldRequest().send());
  server.wait(second.waitHeldRequest().send());
  await([&] { return figuresOf(server).cachedBytes == order.size() * CHUNK; });
  for (const std::uint64_t page : order) EXPECT_FALSE(target.inMemory(page)) << page;
  EXPECT_EQ(figuresOf(server).bytes, order.size() * CHUNK);
  server.wait(first.releaseRequest().send());
  server.wait(second.releaseRequest().send());
  await([&] { return !populating(server, restore); });
  for (const std::uint64_t page : order) EXPECT_TRUE(target.inMemory(page)) << page;
  EXPECT_EQ(figuresOf(server).bytes, order.size() * CHUNK) << "no chunk is fetched for both";
}

// Of each layer what it has, and of none what another hides.
TEST(PackedWorkingSet, OfAStackIsFetchedFromItsLayers) {
  for (const auto lowest : {PackedSource::Lowest::packed, PackedSource::Lowest::plain}) {
    Stack stack(4 * EXTENT * SMALL, 3);
    stack.data(1, 4 * CHUNK_PAGES, 4 * CHUNK_PAGES);
    stack.data(0, 6 * CHUNK_PAGES, 4 * CHUNK_PAGES);
    const PackedSource source(stack, lowest);
    std::vector<std::string> paths{source.path()};
    for (const std::string& word : source.over())
      if (word != "--over") paths.push_back(word);
    // A page of each chunk, from the last back: two of the middle layer, four of the top one, the others of the lowest.
    Pages order;
    for (std::uint64_t chunk = 12; chunk-- > 0;) order.push_back(chunk * CHUNK_PAGES);
    Server server(stack.shown(), replaying(source, writeSet(stack.shown(), identityOf(paths), order),
                                           {.shards = 1, .workers = 1}));
    auto held = park(server, 0, order[0]);
    Target target(stack.shown(), server.socket(), SMALL);
    auto restore = server.restore();
    server.wait(held.waitHeldRequest().send());
    const std::uint64_t packedOnes = lowest == PackedSource::Lowest::packed ? 12 : 6;
    await([&] { return figuresOf(server).cachedBytes == packedOnes * CHUNK; });
    server.wait(held.releaseRequest().send());
    await([&] { return !populating(server, restore); });
    for (const std::uint64_t page : order) EXPECT_TRUE(target.inMemory(page)) << page;
    EXPECT_EQ(figuresOf(server).bytes, packedOnes * CHUNK);
    expectContent(target, {});
  }
}

// The next fetcher is told of it as well.
TEST(PackedWorkingSet, GoesOnWithTheNextFetcher) {
  Image image(8 << 20);
  const PackedSource source(image);
  Pages order;
  for (std::uint64_t chunk = 0; chunk < 64; chunk++) order.push_back(chunk * CHUNK_PAGES);
  // At this rate two chunks a second are fetched in advance: the first fetcher never comes to the end.
  ServerOptions options{.shards = 1, .workers = 1};
  Server server(image, [&] {
    auto all = replaying(source, writeSet(image, identityOf({image.path()}), order), options);
    all.more.insert(all.more.end(), {"--fetch-rate", "128K"});
    return all;
  }());
  auto held = park(server, 0, order[0]);
  Target target(image, server.socket(), SMALL);
  server.restore();
  server.wait(held.waitHeldRequest().send());
  await([&] { return figuresOf(server).cachedBytes > 0; });
  killFetcher(server);
  await([&] { return figuresOf(server).bytes > 0; });
  EXPECT_LT(figuresOf(server).cachedBytes, image.bytes() / 2);
  server.wait(held.releaseRequest().send());
}

}  // namespace
}  // namespace faultline::test
