// A guest that goes on from a snapshot: its image, the server, its memory and its vCPUs, and what must come
// out of it.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <optional>
#include <set>
#include <vector>

#include "tests/kvm/balloon.h"
#include "tests/kvm/guest.h"
#include "tests/kvm/vm.h"
#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/stack.h"
#include "threads/mutex.h"

namespace faultline::kvm {

class RestoredGuest {
 public:
  // `beforePage`: see Balloon. `layers`: of the snapshot; more than one: it is served as a stack of so many.
  RestoredGuest(unsigned vcpus, std::uint64_t pageSize, test::ServerOptions options = {},
                std::function<void(std::uint64_t taken)> beforePage = nullptr, unsigned layers = 1);
  // Wherever the test stopped: no vCPU waits for a page for ever.
  ~RestoredGuest();

  test::Server& server() { return server_; }

  // Lets the vCPUs run, each in a thread of its own.
  void start();
  // Waits until all have halted. Throws what went wrong in one of them.
  void join();

  // The host takes a page, unasked. From here on the oracles expect zeros in it, where no vCPU has read it
  // yet.
  void takeAway(std::uint64_t page);

  // --- oracles, after join() ---
  const std::vector<std::uint32_t>& sums() const { return sums_; }
  std::uint32_t expectedSum(unsigned vcpu) const;
  // Pages that were given back and had old bytes when the guest took them into use again.
  std::vector<std::uint64_t> stalePages() const;
  // The first page of the guest's memory with a wrong byte; pages() where each is right.
  std::uint64_t firstWrongPage() const;

  std::uint64_t pages() const { return lowPages_ + highPages_; }
  std::uint64_t addressOf(std::uint64_t page) const;
  // The server's number for it: it counts by address in the VMM.
  std::uint64_t serverPage(std::uint64_t page) const;

 private:
  void load(unsigned vcpus);
  test::ServerOptions served(unsigned vcpus, test::ServerOptions options, unsigned layers);
  std::vector<unsigned char> expectedPage(std::uint64_t page) const;
  std::uint32_t answer(unsigned vcpu, bool out, std::uint16_t port, std::uint32_t value);

  const std::uint64_t pageSize_, lowPages_, highPages_;
  test::Image image_;
  std::optional<test::Stack> stack_;
  test::Server server_;
  GuestMemory memory_;
  Vm vm_;
  Balloon balloon_;
  std::vector<std::future<void>> running_;
  std::vector<std::uint32_t> sums_;
  mutable threads::Mutex mutex_;
  std::vector<std::uint64_t> stale_ GUARDED_BY(mutex_);
  std::set<std::uint64_t> takenAway_;
};

}  // namespace faultline::kvm
