// The target of a test: memory of the test's own process, restored by a server, and the oracles that need no
// sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/faultline_client.h"
#include "tests/support/image.h"

namespace faultline::test {

enum class Touch { ok, sigbus };

// A target, connected. Pages are numbered as the server does: over the regions, ordered by address.
class Target {
 public:
  // `regions` parts of the image, each mapped elsewhere. Connects at once.
  Target(const Image& image, const std::string& socket, std::uint64_t pageSize, unsigned regions = 1,
         unsigned flags = 0);
  // Takes its memory back from the server first, so that no thread of ours waits for a page for ever.
  ~Target();
  Target(const Target&) = delete;
  // faultline_target_close() while no page is waited for; only its result and addresses are left to be looked at.
  int close();

  std::uint64_t pages() const { return pages_; }
  std::uint64_t pageSize() const { return pageSize_; }
  volatile unsigned char* address(std::uint64_t page) const;
  // The page's offset in the image.
  std::uint64_t offset(std::uint64_t page) const;
  int uffd() const { return faultline_target_uffd(target_); }

  // Touch in this thread.
  unsigned char read(std::uint64_t page) const { return *address(page); }
  void write(std::uint64_t page, unsigned char byte) const { *address(page) = byte; }
  // True when the whole page holds the image's bytes / is all `byte`.
  bool holdsImage(std::uint64_t page) const;
  bool isAll(std::uint64_t page, unsigned char byte) const;
  void giveBack(std::uint64_t page, std::uint64_t count = 1) const;

  // Reads the page in a thread of its own.
  std::future<unsigned char> readLater(std::uint64_t page);
  std::future<void> writeLater(std::uint64_t page, unsigned char byte);
  // Reads a page that may be poisoned.
  Touch touch(std::uint64_t page) const;
  std::future<Touch> touchLater(std::uint64_t page);
  std::future<void> giveBackLater(std::uint64_t page, std::uint64_t count = 1);

  // --- oracles ---
  // A REMOVE is queued, or its caller has not run on yet (consumes nothing).
  bool eventInFlight() const;
  struct Queued {
    unsigned pending = 0;  // unread faults
    unsigned total = 0;    // threads that wait for a page
  };
  Queued queued() const;
  // Whether the page is in the page table; needs no registration of a special kind.
  bool inMemory(std::uint64_t page) const;
  // Whether it was written since it came, for a target that tracks writes (PAGEMAP_SCAN, PAGE_IS_WRITTEN).
  bool written(std::uint64_t page) const;

 private:
  template <typename Work>
  auto later(Work work) {
    std::packaged_task<decltype(work())()> task(std::move(work));
    auto future = task.get_future();
    threads_.emplace_back(std::move(task));
    return future;
  }

  const Image& image_;
  const std::uint64_t pageSize_;
  std::uint64_t pages_ = 0;
  faultline_target* target_ = nullptr;
  struct Part {
    std::uint64_t first;  // page
    std::uint64_t count;
    std::uint64_t offset;
    unsigned char* address;
  };
  std::vector<Part> parts_;  // by address
  std::vector<std::thread> threads_;
};

// Skips the test where no huge pages can be had.
bool hugePagesAvailable(std::uint64_t count);

}  // namespace faultline::test
