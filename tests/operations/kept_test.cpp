// A target whose memory the kernel does not unregister: its restore does not end, and serves it on.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <fstream>
#include <optional>

#include "tests/support/page_sizes.h"
#include "tests/support/raw_vmm.h"
#include "tests/support/server.h"
#include "tests/support/sources.h"

namespace faultline::test {
namespace {

// Makes as many mappings as a process may have, until it is destroyed: to unregister a part of a mapping would make two
// of it.
class AllMappings {
 public:
  AllMappings() {
    std::ifstream("/proc/sys/vm/max_map_count") >> most_;
    room_ = static_cast<char*>(
        mmap(nullptr, most_ * SMALL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (std::uint64_t page = 1; page < most_; page += 2)
      if (mprotect(room_ + page * SMALL, SMALL, PROT_READ) != 0) return;
  }
  ~AllMappings() { munmap(room_, most_ * SMALL); }
  AllMappings(const AllMappings&) = delete;

 private:
  std::uint64_t most_ = 0;
  char* room_;
};

TEST(Kept, WhatCannotBeUnregisteredIsServedUntilItCan) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer needs mappings of its own";
#endif
  constexpr std::uint64_t PAGES = 64;
  Image image(PAGES * SMALL);
  Server server(image, {.keepServing = false});
  // The named pages lie inside of one registered mapping.
  RawVmm vmm({3 * PAGES * SMALL});
  volatile unsigned char* const named = vmm.at(0, PAGES * SMALL);
  auto request = server.client().coordinator().attachRequest();
  auto spec = request.initSpec();
  spec.setName("kept");
  spec.initPolicy().setAround(SMALL);
  auto region = spec.initRegions(1)[0];
  region.setBase(reinterpret_cast<std::uint64_t>(named));
  region.setSize(PAGES * SMALL);
  region.setPageSize(SMALL);
  request.setUffd(rpc::makeFdFrom(vmm.uffd()));
  fill(request.initSource(), image.path());
  auto restore = server.wait(request.send()).getRestore();
  for (std::uint64_t page = 0; page + 1 < PAGES; page++)
    ASSERT_EQ(named[page * SMALL], image.at(page * SMALL)) << page;
  {
    std::optional<AllMappings> full(std::in_place);
    ASSERT_EQ(named[(PAGES - 1) * SMALL], image.at((PAGES - 1) * SMALL));
    await([&] { return !server.eventWith({"kept", "cannot be unregistered"}).empty(); });
    // Removals are followed, and faults answered, as before.
    ASSERT_EQ(madvise(const_cast<unsigned char*>(named), SMALL, MADV_DONTNEED), 0);
    EXPECT_EQ(named[0], 0);
    EXPECT_EQ(server.status().getRestores().size(), 1u);
  }
  auto end = server.wait(restore.waitEndedRequest().send());
  EXPECT_EQ(end.getReason(), rpc::EndReason::COMPLETED);
  EXPECT_EQ(end.getMissing(), 0u);
}

}  // namespace
}  // namespace faultline::test
