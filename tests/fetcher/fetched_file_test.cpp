// A shard's end of a fetched source: what it asks for, when, and that it gives each place of the ring back.

#include "shard/source/fetched_file.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <future>
#include <vector>

#include "rpc/fetch_ring.h"

namespace faultline::shard {
namespace {

using rpc::FetchMap;
using rpc::FetchRing;
using Purpose = FetchRing::Purpose;

constexpr std::uint64_t CHUNK = FetchMap::CHUNK, PAGE = FetchMap::PAGE, CHUNKS = 40;
constexpr unsigned SHARD = 3;

struct Fetched {
  Fetched() {
    kj::AutoCloseFd data(memfd_create("data", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(data.get(), CHUNKS * CHUNK), 0);
    map.setReady();
    file = std::make_shared<FetchedFile>(
        kj::mv(data), FetchMap::attach(mapMemory.get(), FetchMap::Access::read),
        std::make_shared<FetchClient>(FetchRing::attach(ringMemory.get()), SHARD), CHUNKS * CHUNK,
        10'000'000'000, "a source");
  }
  // Answers a question with bytes that are its chunk's number, plus 1.
  void answer(const FetchRing::Question& question) {
    fetcher.answerBytes(question, std::vector<std::byte>(CHUNK, static_cast<std::byte>(question.chunk + 1)));
  }

  kj::AutoCloseFd ringMemory{FetchRing::create()}, mapMemory{FetchMap::create({CHUNKS * CHUNK, 1, false})};
  FetchRing fetcher = FetchRing::attach(ringMemory.get());
  FetchMap map = FetchMap::attach(mapMemory.get(), FetchMap::Access::write);
  std::shared_ptr<FetchedFile> file;
};

TEST(FetchedFile, AsksBeforeItsReaderHasBeenWokenAndOnceAlone) {
  Fetched fetched;
  fetched.file->willRead(5 * CHUNK + 3 * PAGE, PAGE);
  const auto question = fetched.fetcher.take(Purpose::fault);
  ASSERT_TRUE(question.has_value());
  EXPECT_EQ(question->chunk, 5u);
  fetched.answer(*question);
  std::vector<unsigned char> page(PAGE);
  EXPECT_EQ(fetched.file->read(5 * CHUNK + 3 * PAGE, PAGE, page.data()).kind, Staged::Kind::bytes);
  EXPECT_EQ(page, std::vector<unsigned char>(PAGE, 6));
  EXPECT_FALSE(fetched.fetcher.take(Purpose::fault).has_value());
}

// Two pages of a chunk: one of their readers takes the answer, the other has to ask.
TEST(FetchedFile, EachReaderHasAnAnswerOfItsOwn) {
  Fetched fetched;
  fetched.file->willRead(0, PAGE);
  fetched.file->willRead(PAGE, PAGE);
  const auto ahead = fetched.fetcher.take(Purpose::fault);
  ASSERT_TRUE(ahead.has_value());
  EXPECT_FALSE(fetched.fetcher.take(Purpose::fault).has_value()) << "the chunk was asked for already";
  fetched.answer(*ahead);
  std::vector<unsigned char> one(PAGE), two(PAGE);
  EXPECT_EQ(fetched.file->read(0, PAGE, one.data()).kind, Staged::Kind::bytes);
  auto other =
      std::async(std::launch::async, [&] { return fetched.file->read(PAGE, PAGE, two.data()).kind; });
  std::optional<FetchRing::Question> question;
  while (!(question = fetched.fetcher.take(Purpose::fault)).has_value()) sched_yield();
  fetched.answer(*question);
  EXPECT_EQ(other.get(), Staged::Kind::bytes);
  EXPECT_EQ(one, two);
}

// Each chunk once, however often and in whichever way it is read, and zeros not at all.
TEST(FetchedFile, CountsWhatIsUsed) {
  Fetched fetched;
  std::vector<unsigned char> page(PAGE);
  fetched.map.set(0, FetchMap::State::present);
  fetched.map.set(1, FetchMap::State::zero);
  fetched.map.set(2, FetchMap::State::present);
  fetched.map.set(CHUNKS - 1, FetchMap::State::present);
  for (unsigned round = 0; round < 2; round++) {
    EXPECT_NE(fetched.file->read(PAGE, PAGE, page.data()).kind, Staged::Kind::lost);
    EXPECT_EQ(fetched.file->tryRead(CHUNK, PAGE, page.data()).kind, Staged::Kind::zero);
    EXPECT_EQ(FetchRing::savedBytes(fetched.ringMemory.get()), CHUNK);
  }
  EXPECT_EQ(fetched.file->tryRead(3 * CHUNK, PAGE, page.data()).kind, Staged::Kind::cold);
  fetched.file->tryRead(2 * CHUNK, PAGE, page.data());  // wanted, whether it is in memory or not
  EXPECT_EQ(FetchRing::savedBytes(fetched.ringMemory.get()), 2 * CHUNK);
  fetched.file->readInPlace(0, 3 * CHUNK);
  fetched.file->readInPlace((CHUNKS - 1) * CHUNK, CHUNK);
  EXPECT_EQ(FetchRing::savedBytes(fetched.ringMemory.get()), 3 * CHUNK);
}

// More than a ring has places: those of questions whose chunk came by other ways, or that no reader came for, are free again.
TEST(FetchedFile, KeepsNoPlaceOfTheRing) {
  Fetched fetched;
  std::vector<unsigned char> page(PAGE);
  for (unsigned round = 0; round < 3; round++)
    for (std::uint64_t chunk = 0; chunk < CHUNKS; chunk++) {
      fetched.file->willRead(chunk * CHUNK, PAGE);
      fetched.map.set(chunk, FetchMap::State::zero);
      EXPECT_EQ(fetched.file->read(chunk * CHUNK, PAGE, page.data()).kind, Staged::Kind::zero);
      fetched.map.set(chunk, FetchMap::State::absent);
    }
  for (std::uint64_t chunk = 0; chunk < CHUNKS; chunk++) fetched.file->willRead(chunk * CHUNK, PAGE);
  unsigned asked = 0;
  while (fetched.fetcher.take(Purpose::fault).has_value()) asked++;
  EXPECT_EQ(asked, 16u) << "as many as it remembers, and no place more";
  fetched.file = nullptr;
  FetchClient next(FetchRing::attach(fetched.ringMemory.get()), SHARD);
  std::deque<FetchClient::Asked> all;
  for (unsigned place = 0; place < FetchRing::PLACES; place++) {
    auto question = next.ask(place % CHUNKS, 1, Purpose::fault, 0);
    ASSERT_TRUE(question.has_value()) << place;
    all.push_back(std::move(*question));
  }
}

}  // namespace
}  // namespace faultline::shard
