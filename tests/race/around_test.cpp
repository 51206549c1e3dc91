// A fault that brings its neighbourhood, held at a named place while a neighbour is given back: the neighbour never gets
// the source's bytes, the other pages do.

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

// Small pages only: a huge page comes alone.
class ParkedAround : public testing::Test {
 protected:
  static constexpr std::uint64_t WINDOW = 16;

  ~ParkedAround() noexcept override {}  // KJ's may throw

  // The worker that is about to begin, or is in, the section whose first page is `first`.
  rpc::Barrier::Client heldAt(std::uint64_t first, rpc::FaultPoint point) {
    auto barrier = server_.barrier(first, point);
    read_ = target_.readLater(FAULT);
    server_.wait(barrier.waitHeldRequest().send());
    return barrier;
  }
  // Lets the worker go on, until the faulting thread has its page.
  void release(rpc::Barrier::Client& barrier) {
    server_.wait(barrier.releaseRequest().send());
    EXPECT_EQ(read_.get(), image_.at(FAULT * SMALL));
  }
  // Until the removal is published: the kernel lets the target go on as soon as it has been read.
  void giveBack(std::uint64_t page) {
    target_.giveBack(page);
    await([&] { return segment_.pages().state(page) == shm::PageState::removed; });
  }
  void expectOut(std::uint64_t removed) {
    EXPECT_FALSE(target_.inMemory(removed)) << "it came with its neighbour";
    EXPECT_TRUE(target_.isAll(removed, 0));
  }
  void expectTheOthers(std::uint64_t removed) {
    for (std::uint64_t page = 0; page < WINDOW; page++)
      EXPECT_TRUE(page == removed || (target_.inMemory(page) && target_.holdsImage(page))) << page;
  }

  static constexpr std::uint64_t FAULT = 5;
  Image image_{4 * WINDOW * SMALL};
  Server server_{image_, {.around = std::to_string(WINDOW * SMALL)}};
  Target target_{image_, server_.socket(), SMALL};
  rpc::Restore::Client restore_ = server_.restore();
  shm::Segment segment_ = server_.segment();
  std::future<unsigned char> read_;
};

// Interleaving: the worker has found its page and those behind it missing, no lock held; the next one is given back, the
// removal published. The worker must look at each of them again, under the lock.
TEST_F(ParkedAround, ANeighbourThatIsGivenBackMeanwhileStaysOut) {
  auto barrier = heldAt(FAULT, rpc::FaultPoint::BEFORE_READ_LOCK);
  giveBack(FAULT + 1);
  release(barrier);
  expectOut(FAULT + 1);
  expectTheOthers(FAULT + 1);
}

// Interleaving: the same with a page before the faulting one, where the worker has put that in place already.
TEST_F(ParkedAround, SoDoesOneBeforeIt) {
  auto barrier = heldAt(0, rpc::FaultPoint::BEFORE_READ_LOCK);
  giveBack(1);
  release(barrier);
  expectOut(1);
  expectTheOthers(1);
}

// Interleaving: the worker is inside its section, the states checked, as the next page is given back. The event must
// stay unread until the section is over, so that the kernel refuses all of the copy. Which pages come with the retry is left open.
TEST_F(ParkedAround, SoDoesOneThatIsGivenBackDuringTheSection) {
  auto barrier = heldAt(FAULT, rpc::FaultPoint::BEFORE_COPY);
  auto given = target_.giveBackLater(FAULT + 1);
  await([&] { return segment_.lock().closed(); });
  EXPECT_TRUE(target_.eventInFlight());
  EXPECT_EQ(segment_.pages().state(FAULT + 1), shm::PageState::missing);
  release(barrier);
  given.get();
  expectOut(FAULT + 1);
}

}  // namespace
}  // namespace faultline::test
