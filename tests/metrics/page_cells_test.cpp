// The map of a restore's pages that the page to watch shows: bounded in size, and in the work of each look.

#include "cli/page_cells.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <functional>

namespace faultline::test {
namespace {

using cli::PageCells;
using rpc::PageState;

// Answers what the map asks for next: `state` of each page, as runs, at most `most` of them.
std::uint64_t answer(PageCells& cells, const std::function<PageState(std::uint64_t)>& state,
                     std::size_t most = 65536) {
  std::vector<std::tuple<std::uint64_t, std::uint64_t, PageState>> runs;
  const std::uint64_t first = cells.from(), end = first + cells.count();
  for (std::uint64_t page = first; page < end; page++) {
    if (!runs.empty() && std::get<2>(runs.back()) == state(page))
      std::get<1>(runs.back())++;
    else if (runs.size() == most)
      break;
    else
      runs.emplace_back(page, 1, state(page));
  }
  capnp::MallocMessageBuilder message;
  auto list =
      message.initRoot<rpc::Restore::PageStatesResults>().initRuns(static_cast<unsigned>(runs.size()));
  for (unsigned i = 0; i < runs.size(); i++) {
    list[i].initPages().setFirst(std::get<0>(runs[i]));
    list[i].getPages().setCount(std::get<1>(runs[i]));
    list[i].setState(std::get<2>(runs[i]));
  }
  cells.take(list.asReader());
  return end - first;
}

TEST(PageCells, OfASmallMemoryAreItsPages) {
  PageCells cells(10);
  EXPECT_EQ(cells.pagesPerCell(), 1u);
  EXPECT_EQ(cells.side(), 4u);
  answer(cells, [](std::uint64_t page) {
    return page < 3 ? PageState::FAULTED : page == 9 ? PageState::RELEASED : PageState::MISSING;
  });
  EXPECT_EQ(cells.text(), "900900900000000000000000000009");
  answer(cells, [](std::uint64_t) { return PageState::REMOVED; });
  EXPECT_EQ(cells.text(), "090090090090090090090090090090");
}

TEST(PageCells, AreAsManyWhateverTheMemoryAndEachLookIsBounded) {
  for (const std::uint64_t pages :
       {std::uint64_t{1} << 20, std::uint64_t{1} << 22, (std::uint64_t{1} << 21) + 12345}) {
    PageCells cells(pages);
    EXPECT_LE(cells.text().size(), std::size_t{3} * PageCells::SIDE * PageCells::SIDE);
    const std::uint64_t looks = (pages + PageCells::LOOK - 1) / PageCells::LOOK;
    for (std::uint64_t look = 0; look < looks; look++)
      EXPECT_LE(answer(cells, [](std::uint64_t) { return PageState::FAULTED; }), PageCells::LOOK);
    EXPECT_EQ(cells.from(), 0u) << "once round";
    for (const char digit : cells.text()) EXPECT_TRUE(digit == '9' || digit == '0');
    EXPECT_EQ(cells.text().find("000"), std::string::npos);
  }
}

TEST(PageCells, HaveTheShareOfEachStateAndAreCountedAnewEachTimeRound) {
  PageCells cells(64 * 4096);
  ASSERT_EQ(cells.pagesPerCell(), 64u);
  const auto half = [](std::uint64_t page) {
    return page % 64 < 32 ? PageState::FAULTED : PageState::MISSING;
  };
  for (int round = 0; round < 3; round++) answer(cells, half);
  EXPECT_EQ(cells.text().substr(0, 6), "400400");
}

TEST(PageCells, GoOnFromWhereAnAnswerEnds) {
  PageCells cells(64 * 4096);
  // Every page another state than the one before: an answer of 100 runs has one cell whole and part of the next.
  const auto odd = [](std::uint64_t page) { return page % 2 == 1 ? PageState::FAULTED : PageState::REMOVED; };
  answer(cells, odd, 100);
  EXPECT_EQ(cells.from(), 64u);
  // Not even one cell: then its first part stands for it, and the look goes on.
  answer(cells, odd, 10);
  EXPECT_EQ(cells.from(), 128u);
  EXPECT_EQ(cells.text().substr(0, 9), "440440000");
}

TEST(PageCells, RefuseWhatWasNotAskedFor) {
  const auto refused = [](std::uint64_t first, std::uint64_t count, bool any = true) {
    PageCells cells(100);
    capnp::MallocMessageBuilder message;
    auto list = message.initRoot<rpc::Restore::PageStatesResults>().initRuns(any ? 1 : 0);
    if (any) {
      list[0].initPages().setFirst(first);
      list[0].getPages().setCount(count);
    }
    EXPECT_ANY_THROW(cells.take(list.asReader()));
  };
  refused(1, 1);
  refused(0, 101);
  refused(0, 0);
  refused(0, ~std::uint64_t{0});
  refused(0, 0, false);
}

}  // namespace
}  // namespace faultline::test
