// Answers of the kernel to a copy besides done, there already and not now: the range, the memory or the
// source has gone.

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <future>

#include "tests/race/race_test.h"
#include "tests/support/raw_vmm.h"
#include "uffd/uffd.h"

namespace faultline::test {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

class Answers : public RaceTest {};
BOTH_PAGE_SIZES(Answers);

// Interleaving (ENOENT): the worker is in its section as the target takes the page back from its userfaultfd.
// The kernel lets the thread go on with zeros; no thread waits for the copy, which finds no range.
TEST_P(Answers, APageThatIsTakenBackIsDropped) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  auto barrier = server.barrier(1, rpc::FaultPoint::BEFORE_COPY);
  auto read = target.readLater(1);
  server.wait(barrier.waitHeldRequest().send());
  ASSERT_EQ(uffd::unregister(target.uffd(), reinterpret_cast<std::uint64_t>(target.address(1)), pageSize()),
            0);
  EXPECT_EQ(read.get(), 0);
  server.wait(barrier.releaseRequest().send());
  await([&] { return server.sum(&rpc::ShardStats::Reader::getDropped) == 1; });
  awaitState(server, restore, 1, rpc::PageState::RELEASED);
  for (std::uint64_t page = 0; page < target.pages(); page++)
    ASSERT_TRUE(page == 1 || target.holdsImage(page)) << page;
}

// Interleaving (EFAULT): the source's bytes are at hand, the worker is in its section, as the file is cut
// before them. Small pages have been read into a buffer and come whole. Huge ones are copied out of the file
// itself: a thread that touches what is not there any more gets an error, and not zeros.
TEST_P(Answers, ASourceThatIsCutBeforeTheCopy) {
  constexpr std::uint64_t CUT = 9;
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  server.restore();
  const unsigned char first = image.at(CUT * pageSize());
  auto barrier = server.barrier(CUT, rpc::FaultPoint::BEFORE_COPY);
  auto touched = target.touchLater(CUT);
  server.wait(barrier.waitHeldRequest().send());
  image.truncate(CUT * pageSize());
  server.wait(barrier.releaseRequest().send());
  if (pageSize() == SMALL) {
    EXPECT_EQ(touched.get(), Touch::ok);
    EXPECT_EQ(target.read(CUT), first);
  } else {
    EXPECT_EQ(touched.get(), Touch::sigbus);
    EXPECT_EQ(server.sum(&rpc::ShardStats::Reader::getSourceErrors), 1u);
  }
  EXPECT_EQ(target.touch(CUT + 1), Touch::sigbus);
  EXPECT_TRUE(target.holdsImage(CUT - 1));
}

// Interleaving (EFAULT): the file is cut before a copy in the background, which copies small pages out of the
// file itself, too, and several at once (huge ones not). The pages before the cut are in place; the rest is
// missing still, and an error to a thread that touches it.
TEST_P(Answers, ASourceThatIsCutBeforeARunIsCopied) {
  const std::uint64_t begin = 8, count = pageSize() == SMALL ? 4 : 1, cut = begin + count / 2;
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  auto barrier = server.barrier(begin, rpc::FaultPoint::BEFORE_COPY);
  auto request = restore.prefaultRequest();
  auto range = request.initRanges(1)[0];
  range.setFirst(begin);
  range.setCount(count);
  auto prefault = server.wait(request.send()).getPrefault();
  server.wait(barrier.waitHeldRequest().send());
  image.truncate(cut * pageSize());
  server.wait(barrier.releaseRequest().send());
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = begin; page < begin + count; page++)
    EXPECT_EQ(stateOf(server, restore, page), page < cut ? rpc::PageState::FAULTED : rpc::PageState::MISSING)
        << page;
  for (std::uint64_t page = begin; page < cut; page++) EXPECT_TRUE(target.holdsImage(page)) << page;
  for (std::uint64_t page = cut; page < begin + count; page++)
    EXPECT_EQ(target.touch(page), Touch::sigbus) << page;
  EXPECT_TRUE(target.holdsImage(begin - 1));
}

// --- ENOMEM ---

// A file system for so many bytes of pages of one size and no more, mounted nowhere. -1 (errno): cannot be
// had.
kj::AutoCloseFd limitedFileSystem(std::uint64_t pageSize, std::uint64_t bytes) {
  const kj::AutoCloseFd context(fsopen(pageSize == SMALL ? "tmpfs" : "hugetlbfs", FSOPEN_CLOEXEC));
  const std::string size = std::to_string(bytes);
  const bool made = context.get() >= 0 &&
                    fsconfig(context.get(), FSCONFIG_SET_STRING, "size", size.c_str(), 0) == 0 &&
                    fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0;
  return kj::AutoCloseFd(made ? fsmount(context.get(), FSMOUNT_CLOEXEC, 0) : -1);
}

// A target whose memory is a file of such a file system, and another file that has taken all there is.
class OutOfMemory : public RaceTest {
 protected:
  static constexpr std::uint64_t PAGES = 8;
  // Refusals that are waited for, of two pages together.
  static constexpr std::uint64_t TRIES = 64;

  ~OutOfMemory() noexcept override {}  // KJ's may throw
  void SetUp() override {
    RaceTest::SetUp();
    if (IsSkipped()) return;
    fileSystem_ = limitedFileSystem(pageSize(), PAGES * pageSize());
    if (fileSystem_.get() < 0)
      GTEST_SKIP() << "needs root, for a file system of a limited size: " << strerror(errno);
    memory_ = file("memory");
    ASSERT_EQ(ftruncate(memory_.get(), static_cast<off_t>(PAGES * pageSize())), 0);
    others_ = file("others");
    ASSERT_EQ(fallocate(others_.get(), 0, 0, static_cast<off_t>(PAGES * pageSize())), 0) << strerror(errno);
  }
  kj::AutoCloseFd file(const char* name) const {
    return kj::AutoCloseFd(openat(fileSystem_.get(), name, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  }
  void giveMemoryBack() const { ASSERT_EQ(ftruncate(others_.get(), 0), 0); }

  static std::uint64_t refusals(Server& server) {
    return server.sum(&rpc::ShardStats::Reader::getOutOfMemory);
  }
  void connect(RawVmm& vmm, Server& server) const {
    vmm.connect(server.socket());
    vmm.send(vmm.body(",\"page_size\":" + std::to_string(pageSize())), {vmm.uffd()});
    server.restore();
  }
  void expectImage(const Image& image, const RawVmm& vmm) const {
    for (std::uint64_t page = 0; page < PAGES; page++)
      EXPECT_EQ(std::memcmp(const_cast<unsigned char*>(vmm.at(0, page * pageSize())),
                            image.data() + page * pageSize(), pageSize()),
                0)
          << page;
  }

  kj::AutoCloseFd fileSystem_, memory_, others_;
};
BOTH_PAGE_SIZES(OutOfMemory);

// A page of bytes and one of zeros: both are tried again, each after a pause of 1 us at first, twice as long
// each time, up to 1 ms. At least one page has been refused half of the times, 31 pauses and 22 ms after its
// first.
TEST_P(OutOfMemory, FaultsAreAnsweredOnceThereIsSome) {
  Image image(PAGES * pageSize());
  image.zero(2 * pageSize(), pageSize());
  Server server(image);
  RawVmm vmm({PAGES * pageSize()}, pageSize(), UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING,
             memory_.get(), {}, pageSize() != SMALL);  // shared huge pages are refused
  connect(vmm, server);
  const auto begun = Clock::now();
  auto bytes = std::async(std::launch::async, [&] { return *vmm.at(0, pageSize()); });
  auto zeros = std::async(std::launch::async, [&] { return *vmm.at(0, 2 * pageSize()); });
  await([&] { return refusals(server) >= TRIES; });
  EXPECT_GE(Clock::now() - begun, milliseconds(22));
  giveMemoryBack();
  EXPECT_EQ(bytes.get(), image.at(pageSize()));
  EXPECT_EQ(zeros.get(), 0);
  expectImage(image, vmm);
}

TEST_P(OutOfMemory, APopulationGoesOnOnceThereIsSome) {
  Image image(PAGES * pageSize());
  Server server(image);
  RawVmm vmm({PAGES * pageSize()}, pageSize(), UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING,
             memory_.get(), {}, pageSize() != SMALL);  // shared huge pages are refused
  connect(vmm, server);
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  await([&] { return refusals(server) >= TRIES; });
  giveMemoryBack();
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(server.wait(restore.infoRequest().send()).getInfo().getMissing(), 0u);
  expectImage(image, vmm);
}

// A target with memory of another kind is served meanwhile.
TEST_P(OutOfMemory, AnotherTargetDoesNotWait) {
  Image image(PAGES * pageSize());
  Server server(image);
  RawVmm vmm({PAGES * pageSize()}, pageSize(), UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING,
             memory_.get(), {}, pageSize() != SMALL);  // shared huge pages are refused
  connect(vmm, server);
  auto waiting = std::async(std::launch::async, [&] { return *vmm.at(0, pageSize()); });
  await([&] { return refusals(server) > 0; });
  {
    const Target other(image, server.socket(), pageSize());
    for (std::uint64_t page = 0; page < PAGES; page++) EXPECT_TRUE(other.holdsImage(page)) << page;
  }
  giveMemoryBack();
  EXPECT_EQ(waiting.get(), image.at(pageSize()));
}

}  // namespace
}  // namespace faultline::test
