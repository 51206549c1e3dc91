// The way on which shards ask a fetcher for chunks of one source: places in shared memory, and the answers in them.
//
// The memory outlives both ends. A fetcher that takes over from one that was killed finds every question that is not
// answered (recover()), and those who wait need not know of it. Every shard has places of its own; the first to use them
// after a death takes them back. Whatever a place holds is a claim of the other end: a word says in one step whose turn it
// is, and with which result.
//
//   free -> asked (shard) -> taken (fetcher) -> kept | failed (fetcher) -> free (shard)
//                                            -> filling -> bytes (fetcher) -> free (shard)
//
// A shard may take a question back until it is being filled: from then on the fetcher writes into its place.
//
// A population asks for several chunks in one question, and is not waited for by a fault.
#pragma once

#include <kj/io.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace faultline::rpc {

// The memory of one source. Any thread, any process.
class FetchRing {
 public:
  static constexpr unsigned SHARDS = 64, PLACES = 64;  // places of each shard
  static constexpr std::uint64_t BYTES = 64u << 10;    // most that an answer can carry: a chunk
  static constexpr std::uint32_t MOST_CHUNKS = 32;     // most chunks of a question
  // Fetchers that may die at a question before it is answered with an error; those that were killed are not counted.
  static constexpr std::uint32_t MOST_TRIES = 5;

  enum class Purpose : std::uint32_t { fault = 0, population = 1 };

  static kj::AutoCloseFd create();
  // Throws kj::Exception where it is no ring of this build.
  static FetchRing attach(int memory);
  // Bytes that all restores of the source have used, less those fetched: they would have had to fetch them, each for itself.
  // Believes both ends' counts; 0 where memory is no ring.
  static std::uint64_t savedBytes(int memory);
  FetchRing(FetchRing&& other) noexcept;
  ~FetchRing();

  // --- the asker's; `place`: one of shard `shard`'s, which no other thread uses until it is free ---
  // Makes the place free for a process that begins with the shard's places. False: a fetcher writes into it still; ask
  // again later.
  bool reclaim(unsigned shard, unsigned place);
  // `count`: chunks from `chunk` on, 1 to MOST_CHUNKS.
  void ask(unsigned shard, unsigned place, std::uint64_t chunk, Purpose purpose, std::uint32_t count = 1);
  struct Answer {
    enum class Kind {
      kept,     // the cache has it now, or it is zero: the map says which
      bytes,    // the place has them until it is freed, and they need not be kept; of one chunk alone
      notKept,  // some of several chunks: there is no room for them
      failed,   // `error`: errno
      late,     // the deadline came first
    } kind;
    int error = 0;
  };
  // Waits until the question is answered, or `deadline` (ns, CLOCK_MONOTONIC) has come.
  Answer await(unsigned shard, unsigned place, std::uint64_t deadline);
  const char* bytes(unsigned shard, unsigned place) const;
  // When a fetcher has last said that a rate holds populations back (ns, CLOCK_MONOTONIC): what is asked waits meanwhile.
  std::uint64_t heldBackAt() const;
  // Counts bytes that a restore has had of the source, whether they were fetched for it or not: each byte once.
  void countUsed(std::uint64_t bytes);
  // After an answer, or in its stead. False as of reclaim().
  bool release(unsigned shard, unsigned place) { return reclaim(shard, place); }

  // --- the fetcher's ---
  struct Question {
    unsigned shard, place;
    std::uint64_t word;  // the place's, as it was taken
    std::uint64_t chunk;
    std::uint32_t count;  // whatever the shard has written: to be checked, as `chunk` is
    Purpose purpose;
  };
  // How the fetcher before this one has ended: `killed`, by SIGKILL, which no question is to blame for.
  enum class Former { died, killed };
  // Has all questions that it has left asked again. Before the first take().
  void recover(Former former);
  // The next question of that purpose. A question at which one fetcher after the other has died is answered with EIO instead.
  std::optional<Question> take(Purpose purpose);
  // Whether the question waits for an answer still.
  bool isOpen(const Question& question) const;
  // The answers; none where the shard has taken the question back, or has died.
  void answerKept(const Question& question);
  void answerFailed(const Question& question, int error);
  void answerNotKept(const Question& question);
  // `bytes`: at most BYTES.
  void answerBytes(const Question& question, std::span<const std::byte> bytes);
  // A number that changes with each question, and waiting for that, at most `most` ns.
  std::uint32_t doorbell() const;
  void awaitQuestion(std::uint32_t seen, std::uint64_t most);
  void countFetched(std::uint64_t bytes);
  // Tells the shards that a rate holds populations back just now.
  void holdBack(std::uint64_t now);
  // Ends the waits of awaitQuestion(): of all that wait, or of one of them.
  enum class Wake { one, all };
  void wakeFetcher(Wake whom);

 private:
  struct Memory;
  explicit FetchRing(Memory* memory) : memory_(memory) {}
  void answer(const Question& question, std::uint64_t from, unsigned state, int error);

  Memory* memory_;
};

}  // namespace faultline::rpc
