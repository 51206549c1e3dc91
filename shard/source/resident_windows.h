// The parts of the sources' mappings that the fault thread may use in place, without asking for each page.
//
// A first fault in a window of 64 KiB is answered by a read; at the second the window is mapped, if the page
// cache has all of it, and further faults cost neither a system call nor a second copy. Scattered faults pay
// nothing for it. A window is let go of when none of its pages can be asked for any more.
//
// Knowledge ages: pages that are mapped and in use are the last to be reclaimed, and a window is believed for
// a second at most, so a fault that waits for the disk after all is as rare as memory is short.
//
// The mappings of a shard are bounded, whatever the number and the size of its restores, and whatever the
// page cache is made of: the kernel may map all of a large page where a window of it is touched, so windows
// are counted and unmapped by the piece of 2 MiB. A piece has one place, which it shares with others. A
// mapped piece stays until it is let go of or has aged; pages of other pieces with its place are read. To
// change them sooner would cost more than it saves.
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
  // Releases the window of `offset`: its pages are not expected to be wanted again.
  void release(const PageSource& source, std::uint64_t offset);
  // Lets go of all that have aged. To be called now and then: their places may never be asked for again.
  void age(std::uint64_t now);
  // `source` goes away, and with it the mappings of it.
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
