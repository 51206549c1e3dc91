// What caches spare: reads of the source, calls to the fetcher; and which of them make way for others.

#include <gtest/gtest.h>
#include <signal.h>

#include "tests/fetcher/fetched_target.h"

namespace faultline::test {
namespace {

class CacheHits : public BothPageSizes {
 protected:
  std::uint64_t bytes() const { return pageSize() == SMALL ? 4u << 20 : 8u << 20; }
};
BOTH_PAGE_SIZES(CacheHits);

// A fetcher that stands still answers nothing; what is there is served, by faults and by a population, of one image and of a stack.
TEST_P(CacheHits, NeedNoFetcher) {
  for (const bool stacked : {false, true}) {
    SCOPED_TRACE(stacked ? "a stack" : "an image");
    Stack stack = Stack::random(bytes(), 5);
    const Image& image = stacked ? stack.shown() : stack.lowest();
    const PackedSource source =
        stacked ? PackedSource(stack, PackedSource::Lowest::packed) : PackedSource(stack.lowest());
    Server server(image, serving(source));
    Target first(image, server.socket(), pageSize());
    populate(server, first);
    Target faulting(image, server.socket(), pageSize());
    server.restore(1);
    Target populated(image, server.socket(), pageSize());
    auto restore = server.restore(2);
    const pid_t fetcher = figuresOf(server).pid;
    kill(fetcher, SIGSTOP);
    awaitStopped(fetcher);
    auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
    server.wait(prefault.waitRequest().send());
    for (std::uint64_t page = 0; page < populated.pages(); page++)
      ASSERT_TRUE(populated.inMemory(page)) << page;
    expectContent(populated, {});
    expectContent(faulting, {});
    kill(fetcher, SIGCONT);
  }
}

// Two at once, by faults and populations, from all sides.
TEST_P(CacheHits, TwoRestoresAtOnceFetchEachByteOnce) {
  Image image(bytes());
  const PackedSource source(image);
  Server server(image, serving(source));
  Target one(image, server.socket(), pageSize()), other(image, server.socket(), pageSize());
  auto first = server.restore(), second = server.restore(1);
  auto populating = server.wait(first.prefaultRequest().send()).getPrefault(),
       too = server.wait(second.prefaultRequest().send()).getPrefault();
  Reads reads;
  for (Target* target : {&one, &other})
    for (std::uint64_t page = target->pages(); page-- > 0;)
      if (page % (target->pages() / 4) == 0) reads.push_back(target->readLater(page));
  server.wait(populating.waitRequest().send());
  server.wait(too.waitRequest().send());
  finish(reads);
  expectContent(one, {});
  expectContent(other, {});
  EXPECT_EQ(figuresOf(server).bytes, image.bytes());
}

// --- making room ---

// Sources of their own, each at a socket; listed by number.
class ManyCaches : public testing::Test {
 protected:
  static constexpr std::uint64_t BYTES = 4u << 20;

  void begin(const std::string& limit) {
    server_ = std::make_unique<Server>(images_[0], serving(*sources_[0], {.more = {"--cache-size", limit}}));
    for (unsigned i = 1; i < 3; i++) listenAt(*server_, nameOf(i), socketOf(i), {sources_[i]->path()});
  }
  void TearDown() override { server_ = nullptr; }

  static std::string nameOf(unsigned i) { return i == 0 ? "vm" : "source-" + std::to_string(i); }
  std::string socketOf(unsigned i) const { return i == 0 ? server_->socket() : folder_ / nameOf(i); }
  // A target of that source, that has all of it.
  std::unique_ptr<Target> served(unsigned i) {
    auto target = std::make_unique<Target>(images_[i], socketOf(i), SMALL);
    expectContent(*target, {});
    return target;
  }
  // Every page but those of the last chunk.
  static void expectBegin(const Target& target) {
    for (std::uint64_t page = 0; page < target.pages() - CHUNK_PAGES; page++)
      ASSERT_TRUE(target.holdsImage(page)) << page;
  }
  // One that comes and goes; the bytes that were fetched for it.
  std::uint64_t fetchedFor(unsigned i) {
    const std::uint64_t before = figuresOf(*server_).bytes;
    const std::size_t restores = restoresOf(i);
    served(i);
    await([&] { return restoresOf(i) == restores; });
    return figuresOf(*server_).bytes - before;
  }
  std::size_t restoresOf(unsigned i) {
    std::size_t count = 0;
    for (auto restore : server_->status().getRestores())
      count += std::string(restore.getName().cStr()).rfind(nameOf(i), 0) == 0 ? 1 : 0;
    return count;
  }

  std::array<Image, 3> images_{Image(BYTES), Image(BYTES), Image(BYTES)};
  std::array<std::unique_ptr<PackedSource>, 3> sources_;
  const Directory folder_;
  std::unique_ptr<Server> server_;

  void SetUp() override {
    for (unsigned i = 0; i < 3; i++) {
      images_[i].fill(0, 4096, static_cast<unsigned char>(i + 7));
      sources_[i] = std::make_unique<PackedSource>(images_[i]);
    }
  }
};

TEST_F(ManyCaches, TheOneThatWasUsedLongestAgoMakesWay) {
  begin("10M");
  EXPECT_EQ(fetchedFor(0), BYTES);
  EXPECT_EQ(fetchedFor(1), BYTES);
  EXPECT_EQ(fetchedFor(0), 0u) << "used again";
  EXPECT_EQ(figuresOf(*server_).evicted, 0u);
  const auto third = served(2);
  await([&] { return figuresOf(*server_).evicted == 1; });
  EXPECT_EQ(fetchedFor(0), 0u) << "it has stayed";
  EXPECT_GE(fetchedFor(1), BYTES) << "it has gone, whole";
}

// Whatever else there is no room for. A restore that has all of its pages uses its cache no more: here the last chunk is missing.
TEST_F(ManyCaches, OneInUseMakesNoWay) {
  begin("5M");
  // Each is in use before there is no room any more.
  std::array<std::unique_ptr<Target>, 3> targets;
  for (unsigned i = 0; i < 3; i++) {
    targets[i] = std::make_unique<Target>(images_[i], socketOf(i), SMALL);
    ASSERT_TRUE(targets[i]->holdsImage(0));
  }
  for (const auto& target : targets) expectBegin(*target);
  // The opening of another looks for room.
  const Target late(images_[0], socketOf(0), SMALL);
  ASSERT_TRUE(late.holdsImage(0));
  EXPECT_EQ(figuresOf(*server_).evicted, 0u);
  EXPECT_GT(figuresOf(*server_).notKept, 0u);
  const std::uint64_t before = figuresOf(*server_).bytes;
  expectBegin(late);
  EXPECT_EQ(figuresOf(*server_).bytes, before) << "all of it is there still";
}

}  // namespace
}  // namespace faultline::test
