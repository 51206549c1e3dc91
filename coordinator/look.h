// Looks for what has left a target's regions without an event: memory that was unmapped, replaced, moved or unregistered, or
// all of it, as its process has begun another program.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "shmtracker/layout.h"
#include "shmtracker/pages.h"

namespace faultline::coordinator {

// The findings of a look.
struct Sight {
  bool targetGone = false;           // the address space is
  std::vector<shm::PageRange> gone;  // pages registered no more, each asked for alone, in order; told once
  bool nothingLeft = false;  // every page has been found gone, by this look or those before, or is left out
  bool more = false;         // the look has stopped before the last page, and goes on from there
};

// Loop thread only. The kernel is asked in a thread of its own, since it waits for the target's mmap_lock.
class Look {
 public:
  // Questions of one look, some 10 ms: to find where mappings end, each costs some; a region in one mapping costs one.
  // Pages that are found gone in one look, some 100 ms: each is asked for alone, once for good.
  static constexpr unsigned QUESTIONS = 4096;
  static constexpr std::uint64_t GONE = 1u << 18;

  explicit Look(std::span<const shm::RegionEntry> regions);

  // Duplicates the fd for as long as it takes. To be called again only when it has resolved; may be dropped. While a
  // removal is under way the kernel tells nothing, and the next look goes on from there. Fails where no thread, or no fd
  // for it, can be had.
  kj::Promise<Sight> look(int uffd);

  // Leaves out pages that we have unregistered: they are asked for no more, from the next look on, and told by none then.
  void leaveOut(const std::vector<shm::PageRange>& pages);

 private:
  class Memory;
  const std::shared_ptr<Memory> memory_;
  std::vector<shm::PageRange> leftOut_;  // since the last look
};

enum class Presence { there, gone, unknown };  // unknown: a removal is under way
// Whether the address space behind the fd, which is duplicated, is there. Asked as lookInOwnThread() does.
kj::Promise<Presence> lookWhetherThere(int uffd);

}  // namespace faultline::coordinator
