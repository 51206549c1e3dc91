// What a page of a restored target may hold, as the target itself knows it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace faultline::target {

// How a page's content came about.
enum class Came { source, zeroInSource, removed, written };

struct Mismatch {
  std::uint64_t page;
  std::uint64_t byte;  // in the page
  unsigned expected, got;
};

// A truth kept beside the memory: each page is either the snapshot's, or being given back, or given back
// (zeros for ever until written), or written by us. Any thread; a page's transitions are made by who holds
// its claim.
class PageOracle {
 public:
  PageOracle(const char* image, std::uint64_t pages, std::uint64_t pageSize);

  // Claims a page: from then on nobody else gives it back or writes it. false: claimed by somebody else.
  bool claim(std::uint64_t page) { return !claims_[page].exchange(true, std::memory_order_acquire); }
  void unclaim(std::uint64_t page) { claims_[page].store(false, std::memory_order_release); }

  // By the claimant: the page was given back, its madvise has returned.
  void removed(std::uint64_t page) { states_[page].store(REMOVED, std::memory_order_release); }
  void written(std::uint64_t page) { states_[page].store(WRITTEN, std::memory_order_release); }

  // By the claimant: compares every byte at `memory` with what the page must hold. Nothing: it does.
  std::optional<Mismatch> check(std::uint64_t page, const char* memory, Came& came) const;
  // The byte that a written page is filled with.
  static unsigned char patternOf(std::uint64_t page) {
    return static_cast<unsigned char>(0x5a ^ (page * 131));
  }

 private:
  enum State : std::uint8_t { SNAPSHOT, REMOVED, WRITTEN };

  const char* image_;
  const std::uint64_t pageSize_;
  std::unique_ptr<std::atomic<bool>[]> claims_;
  std::unique_ptr<std::atomic<std::uint8_t>[]> states_;
};

}  // namespace faultline::target
