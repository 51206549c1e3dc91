#include "shmtracker/page_table.h"

#include <random>
#include <vector>

#include "tests/shmtracker/marked_pages.h"

namespace faultline::shm {
namespace {

using Pages = MarkedPages;

// The table "A page's states" of docs/protocol.md.
TEST_F(Pages, NoTransitionLeadsBackToMissing) {
  EXPECT_EQ(pages_.state(5), PageState::missing);
  remove({5, 1});
  EXPECT_EQ(pages_.state(5), PageState::removed);
  remove({5, 1});
  EXPECT_EQ(pages_.state(5), PageState::removed);
  fault({5, 1});
  EXPECT_EQ(pages_.state(5), PageState::faulted);
  remove({5, 1});
  EXPECT_EQ(pages_.state(5), PageState::removed);
  fault({6, 1});
  EXPECT_EQ(pages_.state(6), PageState::faulted);
  fault({6, 1});
  EXPECT_EQ(pages_.state(6), PageState::faulted);
  remove({6, 1});
  EXPECT_EQ(pages_.state(6), PageState::removed);
}

TEST_F(Pages, AgreesWithASimpleModelUnderRandomOperations) {
  std::mt19937_64 random(3);
  std::vector<PageState> model(COUNT, PageState::missing);
  for (unsigned i = 0; i < 300; i++) {
    const std::uint64_t first = random() % COUNT;
    const PageRange range{first, 1 + random() % std::min<std::uint64_t>(COUNT - first, 150)};
    const bool removal = random() % 2 == 0;
    removal ? remove(range) : fault(range);
    for (PageIndex page = range.first; page < range.end(); page++)
      model[page] = removal ? PageState::removed : PageState::faulted;
    PageCounts expected;
    for (PageIndex page = 0; page < COUNT; page++) {
      ASSERT_EQ(pages_.state(page), model[page]);
      (model[page] == PageState::missing   ? expected.missing
       : model[page] == PageState::faulted ? expected.faulted
                                           : expected.removed)++;
    }
    const PageCounts counts = pages_.counts();
    EXPECT_EQ(counts.missing, expected.missing);
    EXPECT_EQ(counts.faulted, expected.faulted);
    EXPECT_EQ(counts.removed, expected.removed);
    const PageIndex from = random() % COUNT;
    std::uint64_t length = 0;
    while (from + length < COUNT && model[from + length] == model[from]) length++;
    EXPECT_EQ(pages_.runLength(from, COUNT - from), length);
    PageIndex missing = from;
    while (missing < COUNT && model[missing] != PageState::missing) missing++;
    EXPECT_EQ(pages_.find({from, COUNT - from}, PageState::missing), missing);
  }
}

// Every bit of every page word, in either copy, is flipped: check() makes the right state of it, or calls it
// doubtful; a page that was given up is never silently missing again.
TEST_F(Pages, EveryBitThatRotsIsFound) {
  fault({10, 4});
  remove({12, 4});
  fault({14, 1});
  const PageState truth[] = {PageState::missing, PageState::faulted, PageState::faulted, PageState::removed,
                             PageState::removed, PageState::faulted, PageState::removed, PageState::missing};
  for (const std::size_t plane : {layout_.pages, layout_.mirror}) {
    for (const std::size_t word : {offsetof(PageWord, faulted), offsetof(PageWord, removed)}) {
      for (PageIndex bit = 9; bit < 17; bit++) {
        const std::uint64_t before = wordOf(bit, plane, word);
        flip(bit, plane, word);
        const PageCheck check = this->check();
        EXPECT_EQ(check.repaired + check.doubtful, 1u);
        const PageState expected = truth[bit - 9];
        const PageState now = pages_.state(bit);
        if (check.doubtful == 0) {
          // A faulted page may be taken for one that is asked for again; never the other way about.
          const bool same =
              now == expected || (expected == PageState::faulted && word == offsetof(PageWord, faulted));
          EXPECT_TRUE(same) << "bit " << bit << " of word " << word;
          EXPECT_FALSE(expected == PageState::removed && now == PageState::missing);
        } else {
          EXPECT_EQ(check.firstDoubtful, bit);
          // Also to a successor of the one that has found it, and died before it could say so.
          EXPECT_EQ(this->check().doubtful, 1u) << "bit " << bit << " of word " << word;
        }
        // Back to the truth for the next one.
        for (const std::size_t copy : {layout_.pages, layout_.mirror}) wordOf(bit, copy, word) = before;
      }
    }
  }
}

}  // namespace
}  // namespace faultline::shm
