// Content that a page of a restored target may hold, as the target itself knows it: the server is not asked.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "client/image.h"

namespace faultline::target {

// Content that a page must hold.
enum class Content : std::uint8_t { snapshot, zeros, pattern };

struct Mismatch {
  std::uint64_t page;
  std::uint64_t byte;  // in the page
  unsigned char expected, got;
  Content content;  // the kind of `expected`
  bool orZeros;     // zeros would have been right, too: the page was just being given back
};

// A truth kept beside the memory, one byte a page. A page starts with the snapshot's bytes; a madvise makes
// it zeros, once it has returned; a write makes it its pattern.
//
// Readers take no lock, so a page may be given back while it is being faulted in or compared. Such a page may
// hold its old bytes, and zeros of the madvise from some byte on; an old byte behind a zero is a mismatch.
// Outside of this window the check is strict: a page whose madvise has returned before a look begins must be
// zeros, one whose madvise begins after the look has ended must be untouched.
//
// Safe for any thread. Giving back and writing exclude each other, page by page, by waiting.
class PageOracle {
 public:
  explicit PageOracle(const Image& image);

  // Around a madvise, for each of its pages.
  void beginRemoval(std::uint64_t page) { begin(page, REMOVING); }
  void endRemoval(std::uint64_t page) { end(page, Content::zeros); }
  bool beingRemoved(std::uint64_t page) const {
    return (states_[page].load(std::memory_order_acquire) & REMOVING) != 0;
  }
  // Around writing writePattern's bytes.
  void beginWriting(std::uint64_t page) { begin(page, WRITING); }
  void endWriting(std::uint64_t page) { end(page, Content::pattern); }

  // A look at a page: begun before its first byte is touched, then compared. Not while a thread writes the
  // page.
  class Look {
   public:
    Look(const PageOracle& oracle, std::uint64_t page)
        : oracle_(oracle), page_(page), before_(oracle.states_[page].load(std::memory_order_seq_cst)) {}
    // Compares every byte at `memory`, where the page is. Empty: the page is right.
    std::optional<Mismatch> compare(const char* memory) const;

   private:
    const PageOracle& oracle_;
    const std::uint64_t page_;
    const std::uint8_t before_;
  };

  // Compares with zeros, even while another thread gives the page back: for a thread whose own madvise has
  // returned.
  std::optional<Mismatch> compareWithZeros(std::uint64_t page, const char* memory) const;
  // Content of the page while no thread changes it.
  Content content(std::uint64_t page) const {
    return contentOf(states_[page].load(std::memory_order_acquire));
  }
  bool zeroInSnapshot(std::uint64_t page) const;

  // Fills `memory` with bytes that no other page gets.
  void writePattern(std::uint64_t page, char* memory) const;

 private:
  // A state is a Content, and the kind of change under way.
  enum Busy : std::uint8_t { REMOVING = 4, WRITING = 8 };
  static constexpr Content contentOf(std::uint8_t state) { return static_cast<Content>(state & 3); }

  void begin(std::uint64_t page, Busy busy);
  void end(std::uint64_t page, Content content);
  std::uint64_t expectedWord(Content content, std::uint64_t page, std::uint64_t word) const;
  std::optional<Mismatch> compareWith(Content content, std::uint64_t page, const char* memory) const;
  std::optional<Mismatch> compareFading(Content content, std::uint64_t page, const char* memory) const;

  const Image& image_;
  const std::unique_ptr<std::atomic<std::uint8_t>[]> states_;
};

}  // namespace faultline::target
