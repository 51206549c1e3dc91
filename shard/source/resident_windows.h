// The parts of the sources' mappings that the fault thread may use in place, without asking for each page.
//
// A first fault in a window of 64 KiB is answered by a read; at the second it is mapped, if the page cache
// has all of it, and those that follow cost neither a system call nor a second copy. So scattered faults pay
// nothing for it. It is let go of when none of its pages can be asked for any more.
//
// What it knows ages: pages that are mapped and in use are the last to be reclaimed, and nothing is believed
// for longer than a second, so a fault that waits for the disk after all is as rare as memory is short.
//
// What a shard maps is bounded, whatever the number and the size of its restores, and whatever the page cache
// is made of: the kernel may map all of a large page where a window of it is touched, so windows are counted
// and unmapped by the piece of 2 MiB. Each piece has one place, which it shares with others. One that is
// there stays until it is let go of or has aged, and those that meet it are read: to change them sooner would
// cost more than it saves.
#pragma once

#include <cstdint>
#include <vector>

#include "shard/source/page_source.h"

namespace faultline::shard {

// For one thread. Allocates nothing after construction.
class ResidentWindows {
 public:
  static constexpr std::uint64_t WINDOW = PageSource::WINDOW, PIECE = PageSource::PIECE;  // bytes
  static constexpr std::size_t MOST = 64;                                                 // pieces: 128 MiB
  static constexpr std::uint64_t BELIEVED = 1'000'000'000;                                // ns

  explicit ResidentWindows(std::size_t most = MOST);

  // A fault wants the page at `offset` (bytes) of `source`, at the time `now` (ns): true if its
  // view() may be used without waiting. `source` must outlive this, or be forgotten.
  bool resident(const PageSource& source, std::uint64_t offset, std::uint64_t now);
  // Whether the window of `offset` is mapped, and still wanted.
  bool maps(const PageSource& source, std::uint64_t offset);
  // None of the pages of the window of `offset` is expected to be wanted again.
  void release(const PageSource& source, std::uint64_t offset);
  // Lets go of all that have aged. To be called now and then: nobody may come by their places again.
  void age(std::uint64_t now);
  // `source` goes away, and with it what is mapped of it.
  void forget(const PageSource& source);

 private:
  // A piece, or nothing; its windows by bits.
  struct Place {
    const PageSource* source = nullptr;  // null: nothing
    std::uint64_t piece = 0;
    std::uint32_t asked = 0;     // for the first time
    std::uint32_t mapped = 0;    // and still wanted
    std::uint64_t mappedAt = 0;  // ns; the first of them

    bool holds(const PageSource& other, std::uint64_t offset) const {
      return source == &other && piece == offset / PIECE;
    }
    bool aged(std::uint64_t now) const { return mapped != 0 && now - mappedAt > BELIEVED; }
  };
  static_assert(PIECE / WINDOW == 32);
  static std::uint32_t bitOf(std::uint64_t offset) { return 1u << (offset / WINDOW % 32); }
  Place& placeOf(const PageSource& source, std::uint64_t offset);
  static void unmap(Place& place);

  std::vector<Place> places_;
};

}  // namespace faultline::shard
