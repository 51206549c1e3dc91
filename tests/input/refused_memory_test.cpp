// The memory of a target that is refused becomes an error: no thread of it waits for ever, and it reads no byte. Where the
// operator lets it (--keep-refused), it can try again instead.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/mman.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "client/sigbus.h"
#include "tests/support/image.h"
#include "tests/support/raw_vmm.h"
#include "tests/support/server.h"
#include "tests/support/target.h"
#include "uffd/uffd.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t PAGES = 64, SMALL = 4096, HUGE = 2ul << 20;
const std::string BAD = "[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":100,\"page_size\":4096}]";

enum class Got { error, image, other };

class RefusedMemory : public testing::Test {
 protected:
  explicit RefusedMemory(const std::vector<std::string>& more = {}, std::uint64_t bytes = PAGES * SMALL)
      : image_(bytes), server_(image_, {.more = more}) {
    target::installSigbusHandler();
  }

  Got touch(const RawVmm& vmm, std::uint64_t offset) const {
    unsigned char byte = 0;
    auto work = [&] { byte = *vmm.at(0, offset); };
    if (target::guarded(work).has_value()) return Got::error;
    return byte == image_.at(offset) ? Got::image : Got::other;
  }
  void refuse(RawVmm& vmm, const std::string& body) {
    vmm.connect(server_.socket());
    vmm.send(body, {vmm.uffd()});
    vmm.awaitHangUp();
  }
  void expectErrors(const RawVmm& vmm, std::uint64_t bytes, std::uint64_t pageSize = SMALL) const {
    for (std::uint64_t offset = 0; offset < bytes; offset += pageSize)
      EXPECT_EQ(touch(vmm, offset), Got::error) << offset;
  }
  static void awaitWaiting(const RawVmm& vmm, std::uint64_t threads) {
    while (uffd::waitingThreads(vmm.uffd()) != threads) sched_yield();
  }

  Image image_;
  Server server_;
};

TEST_F(RefusedMemory, IsAnErrorOnEveryPage) {
  RawVmm vmm({PAGES * SMALL});
  refuse(vmm, BAD);
  expectErrors(vmm, PAGES * SMALL);
  EXPECT_EQ(server_.status().getTotals().getTargetsRefused(), 1u);
}

TEST_F(RefusedMemory, IsFoundWhateverTheHandshakeSaid) {
  for (const char* body : {"hello", "[]", "{}"}) {
    RawVmm vmm({PAGES * SMALL});
    refuse(vmm, body);
    expectErrors(vmm, PAGES * SMALL);
  }
}

TEST_F(RefusedMemory, LetsGoOfWhoWaitsAlready) {
  RawVmm vmm({PAGES * SMALL});
  Got first{}, last{};
  std::thread one([&] { first = touch(vmm, 0); }), other([&] { last = touch(vmm, (PAGES - 1) * SMALL); });
  awaitWaiting(vmm, 2);
  refuse(vmm, BAD);
  one.join();
  other.join();
  EXPECT_EQ(first, Got::error);
  EXPECT_EQ(last, Got::error);
}

// The kernel poisons no page while an event is in flight.
TEST_F(RefusedMemory, LetsGoOfWhoGivesMemoryBack) {
  RawVmm vmm({PAGES * SMALL});
  std::thread giving([&] { madvise(const_cast<unsigned char*>(vmm.at(0)), SMALL, MADV_DONTNEED); });
  while (!uffd::eventInFlight(vmm.uffd())) sched_yield();
  refuse(vmm, BAD);
  giving.join();
  expectErrors(vmm, PAGES * SMALL);
}

// Pages that are given back after that are the kernel's alone.
TEST_F(RefusedMemory, ReadsAsZerosOnceItIsGivenBack) {
  RawVmm vmm({PAGES * SMALL});
  refuse(vmm, BAD);
  expectErrors(vmm, SMALL);
  ASSERT_EQ(madvise(const_cast<unsigned char*>(vmm.at(0)), SMALL, MADV_DONTNEED), 0);
  EXPECT_EQ(*vmm.at(0), 0);
  EXPECT_EQ(touch(vmm, SMALL), Got::error);
}

// Bytes that the target has written itself are its own.
TEST_F(RefusedMemory, KeepsWhatIsInPlace) {
  RawVmm vmm({PAGES * SMALL});
  const std::vector<unsigned char> bytes(SMALL, 0x5a);
  ASSERT_EQ(uffd::copy(vmm.uffd(), reinterpret_cast<std::uint64_t>(vmm.at(0)), bytes.data(), SMALL,
                       uffd::Protect::no, uffd::Waiters::wake)
                .outcome,
            uffd::Outcome::done);
  refuse(vmm, BAD);
  EXPECT_EQ(*vmm.at(0), 0x5a);
  EXPECT_EQ(touch(vmm, SMALL), Got::error);
}

// A restore that is served is not touched by a further handshake that hands its userfaultfd over again.
TEST_F(RefusedMemory, IsNotThatOfARestore) {
  RawVmm vmm({PAGES * SMALL});
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size\":4096"), {vmm.uffd()});
  server_.restore();
  RawVmm again({SMALL});
  again.connect(server_.socket());
  again.send(BAD, {vmm.uffd()});
  again.awaitHangUp();
  for (std::uint64_t page = 0; page < PAGES; page++) EXPECT_EQ(touch(vmm, page * SMALL), Got::image) << page;
}

TEST_F(RefusedMemory, OfASecondHandshakeOnOneConnection) {
  RawVmm first({PAGES * SMALL}), second({PAGES * SMALL});
  first.connect(server_.socket());
  first.send(first.body(",\"page_size\":4096"), {first.uffd()});
  server_.restore();
  first.send(second.body(",\"page_size\":4096"), {second.uffd()});
  first.awaitHangUp();
  expectErrors(second, PAGES * SMALL);
  for (std::uint64_t page = 0; page < PAGES; page++) EXPECT_EQ(touch(first, page * SMALL), Got::image);
}

// Memory whose bytes may be in the page cache, registered for such faults as well.
TEST_F(RefusedMemory, OfMinorFaults) {
  const kj::AutoCloseFd file(memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), PAGES * SMALL), 0);
  const std::vector<unsigned char> bytes(PAGES / 2 * SMALL, 0x5a);
  ASSERT_EQ(pwrite(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  RawVmm vmm({PAGES * SMALL}, SMALL, UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MINOR_SHMEM,
             UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR, file.get());
  refuse(vmm, vmm.body(",\"page_size\":4096"));
  expectErrors(vmm, PAGES * SMALL);
}

class HugeRefusedMemory : public RefusedMemory {
 protected:
  HugeRefusedMemory() : RefusedMemory({}, 2 * HUGE) {}
};

TEST_F(HugeRefusedMemory, IsAnErrorOnEveryPage) {
  if (!hugePagesAvailable(2)) GTEST_SKIP() << "no 2 free huge pages; echo 128 > /proc/sys/vm/nr_hugepages";
  RawVmm vmm({2 * HUGE}, HUGE);
  refuse(vmm, vmm.body(",\"page_size\":4096"));
  expectErrors(vmm, 2 * HUGE, HUGE);
}

TEST_F(HugeRefusedMemory, OfSharedHugePages) {
  if (!hugePagesAvailable(2)) GTEST_SKIP() << "no 2 free huge pages; echo 128 > /proc/sys/vm/nr_hugepages";
  const kj::AutoCloseFd file(memfd_create("guest", MFD_CLOEXEC | MFD_HUGETLB));
  ASSERT_EQ(ftruncate(file.get(), 2 * HUGE), 0);
  RawVmm vmm({2 * HUGE}, HUGE, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING, file.get());
  refuse(vmm, vmm.body(",\"page_size\":2097152"));
  expectErrors(vmm, 2 * HUGE, HUGE);
}

class KeptRefused : public RefusedMemory {
 protected:
  KeptRefused() : RefusedMemory({"--keep-refused"}) {}
};

TEST_F(KeptRefused, CanTryAgainWithTheSameUserfaultfd) {
  RawVmm vmm({PAGES * SMALL});
  Got first{};
  std::thread waiting([&] { first = touch(vmm, 0); });
  awaitWaiting(vmm, 1);
  refuse(vmm, BAD);
  EXPECT_EQ(uffd::waitingThreads(vmm.uffd()), 1u);
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size\":4096"), {vmm.uffd()});
  waiting.join();
  EXPECT_EQ(first, Got::image);
  for (std::uint64_t page = 1; page < PAGES; page++) EXPECT_EQ(touch(vmm, page * SMALL), Got::image) << page;
}

}  // namespace
}  // namespace faultline::test
