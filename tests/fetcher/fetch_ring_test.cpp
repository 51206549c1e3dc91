// Questions and answers between shards and a fetcher, and what becomes of them where one of the two dies.

#include "rpc/fetch_ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "process/clock.h"

namespace faultline::rpc {
namespace {

using Purpose = FetchRing::Purpose;
using Kind = FetchRing::Answer::Kind;
constexpr unsigned SHARD = 3, PLACE = 5;
constexpr std::uint64_t CHUNK = 1234, LATER = ~0ull / 2, NOW = 0;

struct TwoEnds {
  kj::AutoCloseFd memory{FetchRing::create()};
  FetchRing shard = FetchRing::attach(memory.get());
  FetchRing fetcher = FetchRing::attach(memory.get());

  void ask(Purpose purpose = Purpose::fault) { shard.ask(SHARD, PLACE, CHUNK, purpose); }
  FetchRing::Answer answer(std::uint64_t deadline = LATER) { return shard.await(SHARD, PLACE, deadline); }
  // A fetcher takes the fault, ends, and is followed by another. False: there was none to take.
  bool takenByOneThatEnds(FetchRing::Former how) {
    if (!fetcher.take(Purpose::fault).has_value()) return false;
    fetcher.recover(how);
    return true;
  }
};

std::span<const std::byte> bytesOf(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST(FetchRing, AQuestionComesAsItWasAsked) {
  TwoEnds ends;
  EXPECT_FALSE(ends.fetcher.take(Purpose::fault).has_value());
  ends.ask();
  EXPECT_FALSE(ends.fetcher.take(Purpose::population).has_value());
  const auto question = ends.fetcher.take(Purpose::fault);
  ASSERT_TRUE(question.has_value());
  EXPECT_EQ(question->shard, SHARD);
  EXPECT_EQ(question->place, PLACE);
  EXPECT_EQ(question->chunk, CHUNK);
  EXPECT_FALSE(ends.fetcher.take(Purpose::fault).has_value()) << "it is taken once";
}

TEST(FetchRing, EachAnswerComesAsItWasGiven) {
  TwoEnds ends;
  ends.ask();
  ends.fetcher.answerKept(*ends.fetcher.take(Purpose::fault));
  EXPECT_EQ(ends.answer().kind, Kind::kept);
  ASSERT_TRUE(ends.shard.release(SHARD, PLACE));
  ends.ask();
  ends.fetcher.answerFailed(*ends.fetcher.take(Purpose::fault), EBADMSG);
  EXPECT_EQ(ends.answer().kind, Kind::failed);
  EXPECT_EQ(ends.answer().error, EBADMSG);
  ASSERT_TRUE(ends.shard.release(SHARD, PLACE));
  ends.ask();
  ends.fetcher.answerBytes(*ends.fetcher.take(Purpose::fault), bytesOf("what was fetched"));
  EXPECT_EQ(ends.answer().kind, Kind::bytes);
  EXPECT_STREQ(ends.shard.bytes(SHARD, PLACE), "what was fetched");
}

TEST(FetchRing, AQuestionForSeveralComesAsItWasAsked) {
  TwoEnds ends;
  ends.shard.ask(SHARD, PLACE, CHUNK, Purpose::population, FetchRing::MOST_CHUNKS);
  const auto question = ends.fetcher.take(Purpose::population);
  ASSERT_TRUE(question.has_value());
  EXPECT_EQ(question->count, FetchRing::MOST_CHUNKS);
  ends.fetcher.answerNotKept(*question);
  EXPECT_EQ(ends.answer().kind, Kind::notKept);
  ASSERT_TRUE(ends.shard.release(SHARD, PLACE));
  ends.ask();
  EXPECT_EQ(ends.fetcher.take(Purpose::fault)->count, 1u);
}

TEST(FetchRing, ThatARateHoldsPopulationsBackIsSeen) {
  TwoEnds ends;
  EXPECT_EQ(ends.shard.heldBackAt(), 0u);
  ends.fetcher.holdBack(77);
  EXPECT_EQ(ends.shard.heldBackAt(), 77u);
}

TEST(FetchRing, NoAnswerByTheDeadlineIsLate) {
  TwoEnds ends;
  ends.ask();
  EXPECT_EQ(ends.answer(process::nowNs() + 1'000'000).kind, Kind::late);
  ASSERT_TRUE(ends.fetcher.take(Purpose::fault).has_value());
  EXPECT_EQ(ends.answer(NOW).kind, Kind::late);
}

TEST(FetchRing, AnAnswerToAQuestionThatWasTakenBackIsNone) {
  TwoEnds ends;
  ends.ask();
  const auto old = ends.fetcher.take(Purpose::fault);
  EXPECT_TRUE(ends.fetcher.isOpen(*old));
  ASSERT_TRUE(ends.shard.release(SHARD, PLACE));
  EXPECT_FALSE(ends.fetcher.isOpen(*old));
  ends.ask();
  ends.fetcher.answerFailed(*old, EIO);
  ends.fetcher.answerBytes(*old, bytesOf("of another chunk"));
  EXPECT_EQ(ends.answer(NOW).kind, Kind::late);
  EXPECT_EQ(ends.shard.bytes(SHARD, PLACE)[0], 0) << "nothing was written into the place of another question";
}

TEST(FetchRing, TheNextFetcherIsAskedAgain) {
  TwoEnds ends;
  ends.ask(Purpose::population);
  const auto taken = ends.fetcher.take(Purpose::population);
  ASSERT_TRUE(taken.has_value());
  FetchRing next = FetchRing::attach(ends.memory.get());
  EXPECT_FALSE(next.take(Purpose::population).has_value());
  next.recover(FetchRing::Former::died);
  const auto again = next.take(Purpose::population);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->chunk, CHUNK);
  next.answerKept(*again);
  EXPECT_EQ(ends.answer().kind, Kind::kept);
}

TEST(FetchRing, AQuestionAtWhichFetchersDieIsGivenUpAlone) {
  TwoEnds ends;
  ends.ask();
  for (std::uint32_t i = 0; i < FetchRing::MOST_TRIES; i++) {
    ASSERT_TRUE(ends.takenByOneThatEnds(FetchRing::Former::died)) << i;
  }
  ends.shard.ask(SHARD, PLACE + 1, CHUNK + 1, Purpose::fault);
  const auto other = ends.fetcher.take(Purpose::fault);
  ASSERT_TRUE(other.has_value());
  EXPECT_EQ(other->chunk, CHUNK + 1);
  EXPECT_EQ(ends.answer().kind, Kind::failed);
  EXPECT_EQ(ends.answer().error, EIO);
}

// What an operator kills is not dead of a question. Deaths of before stay counted.
TEST(FetchRing, FetchersThatWereKilledDoNotCount) {
  TwoEnds ends;
  ends.ask();
  for (std::uint32_t i = 1; i < FetchRing::MOST_TRIES; i++) {
    ASSERT_TRUE(ends.takenByOneThatEnds(FetchRing::Former::died)) << i;
  }
  for (std::uint32_t i = 0; i < 2 * FetchRing::MOST_TRIES; i++) {
    ends.fetcher.recover(FetchRing::Former::killed);  // before it has taken the question
    ASSERT_TRUE(ends.takenByOneThatEnds(FetchRing::Former::killed)) << i;
  }
  ASSERT_TRUE(ends.takenByOneThatEnds(FetchRing::Former::died));
  EXPECT_FALSE(ends.fetcher.take(Purpose::fault).has_value()) << "the fifth that died";
  EXPECT_EQ(ends.answer().kind, Kind::failed);
}

TEST(FetchRing, SavedIsWhatWasUsedLessWhatWasFetched) {
  TwoEnds ends;
  EXPECT_EQ(FetchRing::savedBytes(ends.memory.get()), 0u);
  ends.fetcher.countFetched(100);
  ends.shard.countUsed(60);
  EXPECT_EQ(FetchRing::savedBytes(ends.memory.get()), 0u);
  ends.shard.countUsed(100);
  EXPECT_EQ(FetchRing::savedBytes(ends.memory.get()), 60u);
  const kj::AutoCloseFd other(memfd_create("other", MFD_CLOEXEC));
  EXPECT_EQ(FetchRing::savedBytes(other.get()), 0u);
}

TEST(FetchRing, AShardTakesBackWhatItsPredecessorAsked) {
  TwoEnds ends;
  ends.ask();
  FetchRing next = FetchRing::attach(ends.memory.get());
  EXPECT_TRUE(next.reclaim(SHARD, PLACE));
  EXPECT_FALSE(ends.fetcher.take(Purpose::fault).has_value());
  ends.ask();
  EXPECT_TRUE(ends.fetcher.take(Purpose::fault).has_value());
  EXPECT_TRUE(next.reclaim(SHARD, PLACE)) << "taken, and not answered";
}

// Many askers, several fetcher threads: every answer is that of its own question.
TEST(FetchRing, EveryAskerGetsItsOwnAnswer) {
  TwoEnds ends;
  constexpr unsigned ASKERS = 8, ROUNDS = 2000;
  std::atomic<bool> over{false};
  std::vector<std::thread> fetchers, askers;
  for (unsigned i = 0; i < 3; i++)
    fetchers.emplace_back([&] {
      while (!over) {
        const std::uint32_t seen = ends.fetcher.doorbell();
        const auto question = ends.fetcher.take(Purpose::fault);
        if (!question.has_value()) {
          ends.fetcher.awaitQuestion(seen, 10'000'000);
          continue;
        }
        if (question->chunk % 3 == 0)
          ends.fetcher.answerBytes(*question, std::as_bytes(std::span(&question->chunk, 1)));
        else
          ends.fetcher.answerFailed(*question, static_cast<int>(question->chunk % 1000 + 1));
      }
    });
  std::atomic<unsigned> wrong{0};
  for (unsigned place = 0; place < ASKERS; place++)
    askers.emplace_back([&, place] {
      for (unsigned round = 0; round < ROUNDS; round++) {
        const std::uint64_t chunk = place * ROUNDS + round;
        ends.shard.ask(SHARD, place, chunk, Purpose::fault);
        const auto answer = ends.shard.await(SHARD, place, LATER);
        std::uint64_t got = 0;
        std::memcpy(&got, ends.shard.bytes(SHARD, place), sizeof got);
        const bool right = chunk % 3 == 0 ? answer.kind == Kind::bytes && got == chunk
                                          : answer.kind == Kind::failed &&
                                                answer.error == static_cast<int>(chunk % 1000 + 1);
        wrong += right ? 0 : 1;
        ends.shard.release(SHARD, place);
      }
    });
  for (auto& thread : askers) thread.join();
  over = true;
  ends.fetcher.wakeFetcher(FetchRing::Wake::all);
  for (auto& thread : fetchers) thread.join();
  EXPECT_EQ(wrong, 0u);
}

TEST(FetchRing, RefusesMemoryThatIsNone) {
  const kj::AutoCloseFd other(memfd_create("other", MFD_CLOEXEC));
  EXPECT_THROW(FetchRing::attach(other.get()), kj::Exception);
}

}  // namespace
}  // namespace faultline::rpc
