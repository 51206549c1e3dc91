#include "client/page_oracle.h"

#include <cstring>

namespace faultline::target {

namespace {

constexpr std::uint64_t WORD = sizeof(std::uint64_t);

bool allZero(const char* memory, std::uint64_t bytes) {
  return memory[0] == 0 && std::memcmp(memory, memory + 1, bytes - 1) == 0;
}

// The word as it is now: the kernel changes it under us.
std::uint64_t wordAt(const char* memory, std::uint64_t word) {
  return reinterpret_cast<const volatile std::uint64_t*>(memory)[word];
}

// Odd in both factors: no two pages have the same words, and hardly a word is zero.
std::uint64_t patternWord(std::uint64_t page, std::uint64_t word) {
  return (page + 1) * 0x9e3779b97f4a7c15 + word * 0xbf58476d1ce4e5b9;
}

Mismatch mismatchIn(std::uint64_t page, std::uint64_t word, std::uint64_t expected, std::uint64_t got) {
  std::uint64_t byte = 0;
  while ((expected >> byte * 8 & 0xff) == (got >> byte * 8 & 0xff)) byte++;
  return {page,
          word * WORD + byte,
          static_cast<unsigned char>(expected >> byte * 8),
          static_cast<unsigned char>(got >> byte * 8),
          Content::zeros,
          false};
}

}  // namespace

PageOracle::PageOracle(const Image& image)
    : image_(image), states_(std::make_unique<std::atomic<std::uint8_t>[]>(image.pages())) {}

void PageOracle::begin(std::uint64_t page, Busy busy) {
  auto& state = states_[page];
  for (std::uint8_t seen = state.load(std::memory_order_acquire);;) {
    if ((seen & (REMOVING | WRITING)) != 0) {
      state.wait(seen, std::memory_order_acquire);
      seen = state.load(std::memory_order_acquire);
    } else if (state.compare_exchange_weak(seen, seen | busy, std::memory_order_seq_cst)) {
      return;
    }
  }
}

void PageOracle::end(std::uint64_t page, Content content) {
  states_[page].store(static_cast<std::uint8_t>(content), std::memory_order_seq_cst);
  states_[page].notify_all();
}

std::uint64_t PageOracle::expectedWord(Content content, std::uint64_t page, std::uint64_t word) const {
  switch (content) {
    case Content::snapshot:
      return wordAt(image_.page(page), word);
    case Content::pattern:
      return patternWord(page, word);
    case Content::zeros:
      break;
  }
  return 0;
}

std::optional<Mismatch> PageOracle::compareWith(Content content, std::uint64_t page,
                                                const char* memory) const {
  const std::uint64_t bytes = image_.pageSize();
  if (content == Content::snapshot && std::memcmp(memory, image_.page(page), bytes) == 0) return std::nullopt;
  if (content == Content::zeros && allZero(memory, bytes)) return std::nullopt;
  for (std::uint64_t word = 0; word < bytes / WORD; word++) {
    const std::uint64_t expected = expectedWord(content, page, word), got = wordAt(memory, word);
    if (got == expected) continue;
    Mismatch mismatch = mismatchIn(page, word, expected, got);
    mismatch.content = content;
    return mismatch;
  }
  return std::nullopt;
}

// A page whose madvise is in flight, read from its start, has its old bytes up to some byte, and zeros
// behind: it is taken away once, as a whole.
std::optional<Mismatch> PageOracle::compareFading(Content content, std::uint64_t page,
                                                  const char* memory) const {
  bool gone = false;
  for (std::uint64_t word = 0; word < image_.pageSize() / WORD; word++) {
    const std::uint64_t before = expectedWord(content, page, word), got = wordAt(memory, word);
    if (got == before && (!gone || before == 0)) continue;
    if (got == 0) {
      gone = true;
      continue;
    }
    Mismatch mismatch = mismatchIn(page, word, gone ? 0 : before, got);
    mismatch.content = gone ? Content::zeros : content;
    mismatch.orZeros = !gone;
    return mismatch;
  }
  return std::nullopt;
}

std::optional<Mismatch> PageOracle::Look::compare(const char* memory) const {
  const Content was = contentOf(before_);
  auto mismatch = oracle_.compareWith(was, page_, memory);
  if (!mismatch.has_value()) return std::nullopt;  // right, whatever has begun meanwhile
  // A read-modify-write: the comparison's reads stay before it.
  const std::uint8_t after = oracle_.states_[page_].fetch_or(0, std::memory_order_seq_cst);
  const bool givenBack = after != before_ || (before_ & REMOVING) != 0;
  if (!givenBack || was == Content::zeros) return mismatch;
  return oracle_.compareFading(was, page_, memory);
}

std::optional<Mismatch> PageOracle::compareWithZeros(std::uint64_t page, const char* memory) const {
  return compareWith(Content::zeros, page, memory);
}

bool PageOracle::zeroInSnapshot(std::uint64_t page) const {
  return allZero(image_.page(page), image_.pageSize());
}

void PageOracle::writePattern(std::uint64_t page, char* memory) const {
  for (std::uint64_t word = 0; word < image_.pageSize() / WORD; word++)
    reinterpret_cast<std::uint64_t*>(memory)[word] = patternWord(page, word);
}

}  // namespace faultline::target
