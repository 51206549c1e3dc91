#include "tests/operations/load.h"

#include <gtest/gtest.h>

#include "tests/support/server.h"

namespace faultline::test {

namespace {

// Prime to the number of pages, a power of two: each page comes once, and all shards are asked in turn.
constexpr std::uint64_t STRIDE = 97;

bool isGivenBack(std::uint64_t page) {
  return page % 8 < 2;
}

}  // namespace

Load::Load(const Target& target, unsigned threads)
    : target_(target), count_(threads), given_(target.pages()), done_(threads) {
  for (unsigned i = 0; i < threads; i++) threads_.emplace_back([this, i] { run(i); });
}

Load::~Load() {
  finishing_ = true;
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

void Load::awaitMore(std::uint64_t pages) const {
  for (const auto& done : done_) {
    const std::uint64_t until = done.load() + pages;
    await([&] { return done.load() >= until || finishing_.load(); });
  }
}

void Load::finish() {
  finishing_ = true;
  for (std::thread& thread : threads_) thread.join();
  EXPECT_EQ(wrong_.load(), 0u);
  for (std::uint64_t page = 0; page < target_.pages(); page++) {
    ASSERT_EQ(given_[page] != 0, isGivenBack(page)) << "page " << page << " was not visited";
    if (given_[page] != 0)
      ASSERT_TRUE(target_.isAll(page, 0)) << "page " << page << " was given back";
    else
      ASSERT_TRUE(target_.holdsImage(page)) << "page " << page;
  }
}

void Load::run(unsigned thread) {
  const std::uint64_t pages = target_.pages(), free = pages / 4 * 3;
  std::uint64_t again = pages;  // a page of ours that was given back; `pages`: none yet
  for (std::uint64_t i = thread; i < pages; done_[thread]++) {
    if (i < free || finishing_) {
      const std::uint64_t page = i * STRIDE % pages;
      visit(page);
      if (isGivenBack(page)) again = page;
      i += count_;
    }
    if (again != pages) giveBack(again);
  }
}

void Load::visit(std::uint64_t page) {
  // Every second of those that are given back is so before it is touched: its source bytes must never come.
  if (!isGivenBack(page) || page % 2 == 0) wrong_ += target_.holdsImage(page) ? 0 : 1;
  if (isGivenBack(page)) giveBack(page);
}

void Load::giveBack(std::uint64_t page) {
  target_.giveBack(page);
  given_[page] = 1;
  wrong_ += target_.isAll(page, 0) ? 0 : 1;
}

}  // namespace faultline::test
