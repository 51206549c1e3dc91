// Packed differential images over what a server has: over their own base, and over no other; and recorded working sets of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/working_set_file.h"
#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

class OverNbd : public BothPageSizes {
 protected:
  void SetUp() override {
    BothPageSizes::SetUp();
    if (IsSkipped()) return;
    if (const std::string why = NbdServer::whyNot(); !why.empty()) GTEST_SKIP() << why;
  }
  // The upper layers packed, over that.
  static ServerOptions over(const PackedSource& packed, const std::string& lowest) {
    ServerOptions options = serving(packed);
    options.more.back() = lowest;
    return options;
  }
  std::uint64_t bytes() const { return pageSize() == SMALL ? 4u << 20 : 8u << 20; }
};
BOTH_PAGE_SIZES(OverNbd);

TEST_P(OverNbd, PackedLayersAreServedAsTheyAre) {
  for (const std::uint64_t seed : {3, 8}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Stack stack = Stack::random(bytes(), seed);
    const PackedSource packed(stack, PackedSource::Lowest::plain);
    const NbdServer source(NbdServer::ofFile(stack.lowest().path()));
    Server server(stack.shown(), over(packed, source.uri()));
    Target target(stack.shown(), server.socket(), pageSize());
    server.restore();
    if (seed % 2 == 0) populate(server, target);
    expectContent(target, {});
  }
}

TEST_P(OverNbd, AnotherBaseIsRefused) {
  Stack stack = Stack::random(bytes(), 3);
  Image other(bytes());
  other.fill(0, 4096, 9);
  const PackedSource packed(stack, PackedSource::Lowest::plain);
  const NbdServer source(NbdServer::ofFile(other.path()));
  const ServerOptions options = over(packed, source.uri());
  std::vector<std::string> command{"restore", "--memory", options.memory, "--socket",
                                   other.directory() + "/wrong"};
  command.insert(command.end(), options.more.begin(), options.more.end());
  const auto result = run(command);
  EXPECT_NE(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("name its own base"));
}

// Recorded over the server; replayed, nothing else is fetched.
TEST_P(OverNbd, AWorkingSetIsRecordedAndReplayed) {
  Image image(bytes());
  const NbdServer source(NbdServer::ofFile(image.path()));
  const std::string set = image.directory() + "/set";
  const std::uint64_t order[] = {image.bytes() / pageSize() - 1, 1, 2};
  {
    Server server(image, serving(source, {.more = {"--record-working-set"}}));
    Target target(image, server.socket(), pageSize());
    server.restore();
    for (const std::uint64_t page : order) EXPECT_TRUE(target.holdsImage(page));
    const auto saved =
        run({"working-set", "save", Server::restoreName(), "--control", server.control(), "--output", set});
    ASSERT_EQ(saved.code, 0) << saved.err;
  }
  const cli::WorkingSet recorded = cli::readWorkingSet(set);
  ASSERT_EQ(recorded.ranges.size(), 2u) << "the last page, and the two that follow each other";
  EXPECT_EQ(recorded.ranges[0].offset, order[0] * pageSize());
  EXPECT_EQ(recorded.ranges[1].offset, order[1] * pageSize());
  Server server(image, serving(source, {.more = {"--working-set", set}}));
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  await([&] { return !server.wait(restore.infoRequest().send()).getInfo().getPrefaulting(); });
  for (std::uint64_t page = 0; page < target.pages(); page++)
    EXPECT_EQ(target.inMemory(page), std::find(std::begin(order), std::end(order), page) != std::end(order))
        << page;
  const std::uint64_t chunk = CHUNK_PAGES * SMALL, pages = pageSize() == SMALL ? 2 : 3;
  EXPECT_EQ(figuresOf(server).bytes, pages * std::max(chunk, pageSize()));
  expectContent(target, {});
}

}  // namespace
}  // namespace faultline::test
