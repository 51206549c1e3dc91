// Every version of Firecracker's handshake, word for word, up to a served page. docs/firecracker.md has the
// table.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/image.h"
#include "tests/support/raw_vmm.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t MIB = 1u << 20;

class Firecracker : public ::testing::Test {
 protected:
  Image image_{8 * MIB};
  Server server_{image_};

  void expectServed(RawVmm& vmm, std::size_t region, std::uint64_t offsetInFile) {
    for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{4096 + 17}})
      EXPECT_EQ(*vmm.at(region, at), image_.at(offsetInFile + at)) << region << " " << at;
  }
};

TEST_F(Firecracker, V1_1To1_6SaysThreeFieldsAndHangsUp) {
  RawVmm vmm({4 * MIB});
  vmm.connect(server_.socket());
  vmm.send(vmm.body(), {vmm.uffd()});
  vmm.hangUp();
  expectServed(vmm, 0, 0);
  EXPECT_EQ(server_.status().getRestores().size(), 1u);
}

TEST_F(Firecracker, V1_7To1_11SaysPageSizeKibInBytes) {
  RawVmm vmm({4 * MIB});
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size_kib\":4096"), {vmm.uffd()});
  vmm.hangUp();
  expectServed(vmm, 0, 0);
}

TEST_F(Firecracker, V1_7To1_11WithHugePages) {
  if (!hugePagesAvailable(2)) GTEST_SKIP() << "no 2 free huge pages; echo 128 > /proc/sys/vm/nr_hugepages";
  RawVmm vmm({4 * MIB}, 2 * MIB);
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size_kib\":2097152"), {vmm.uffd()});
  expectServed(vmm, 0, 0);
}

TEST_F(Firecracker, V1_12SaysPageSizeAndStaysConnected) {
  RawVmm vmm({4 * MIB});
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size\":4096,\"page_size_kib\":4096"), {vmm.uffd()});
  expectServed(vmm, 0, 0);
}

// The message that a real Firecracker (1.17 development, commit 81b38b9da) was seen to send for a guest of
// 128 MiB, to the last byte.
TEST(FirecrackerMessage, V1_17WordForWord) {
  const std::string message =
      "[{\"base_host_virt_addr\":140033247936512,\"size\":134217728,\"offset\":0,\"page_size\":4096,"
      "\"page_size_kib\":4096}]";
  Image image(128 * MIB);
  Server server(image);
  RawVmm vmm({128 * MIB}, 4096, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING, -1,
             {140033247936512});
  ASSERT_EQ(vmm.body(",\"page_size\":4096,\"page_size_kib\":4096"), message);
  vmm.connect(server.socket());
  vmm.send(message, {vmm.uffd()});
  for (const std::uint64_t at : {std::uint64_t{17}, 64 * MIB + 5, 128 * MIB - 1})
    EXPECT_EQ(*vmm.at(0, at), image.at(at)) << at;
}

// Memory behind the gap below 4 GiB is a second region; it was seen at the lower address. The order is the
// guest's.
TEST_F(Firecracker, V1_17TheSecondRegionLiesAtTheLowerAddress) {
  const std::uint64_t high = 140033247936512, low = high - 64 * MIB;
  RawVmm vmm({4 * MIB, 2 * MIB}, 4096, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING, -1,
             {high, low});
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size\":4096,\"page_size_kib\":4096"), {vmm.uffd()});
  expectServed(vmm, 0, 0);
  expectServed(vmm, 1, 4 * MIB);
}

TEST_F(Firecracker, FieldsThatAreNotKnownAreNoHindrance) {
  RawVmm vmm({4 * MIB});
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size\":4096,\"gpa_start\":0,\"is_guest_memfd\":false"), {vmm.uffd()});
  expectServed(vmm, 0, 0);
}

// A draft sends the memory as a memfd, too: what is meant by it is not served yet, so nothing is.
TEST_F(Firecracker, ADraftWithAMemoryFdIsRefused) {
  RawVmm vmm({4 * MIB});
  vmm.connect(server_.socket());
  const kj::AutoCloseFd memory(memfd_create("guest", MFD_CLOEXEC));
  vmm.send(vmm.body(",\"page_size\":4096"), {vmm.uffd(), memory.get()});
  vmm.awaitHangUp();
  EXPECT_EQ(server_.status().getRestores().size(), 0u);
}

// A stream socket may cut one sendmsg of Firecracker's into pieces.
TEST_F(Firecracker, ABodyThatComesInPiecesIsReadToItsEnd) {
  RawVmm vmm({4 * MIB});
  vmm.connect(server_.socket());
  const std::string body = vmm.body(",\"page_size\":4096");
  vmm.send(body.substr(0, 30), {vmm.uffd()});
  EXPECT_EQ(server_.status().getRestores().size(), 0u);
  vmm.send(body.substr(30));
  expectServed(vmm, 0, 0);
}

TEST_F(Firecracker, HundredsOfRegionsInOneMessage) {
  constexpr unsigned REGIONS = 400;
  RawVmm vmm(std::vector<std::uint64_t>(REGIONS, 8192));
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size\":4096,\"page_size_kib\":4096"), {vmm.uffd()});
  for (unsigned region = 0; region < REGIONS; region++) expectServed(vmm, region, region * 8192ul);
}

// The largest number of regions that is served: more than a socket's buffer holds, so the VMM cannot have
// sent all of it before the server has taken some.
TEST(FirecrackerMessage, ThousandsOfRegions) {
  constexpr std::uint64_t REGIONS = 4096;
  Image image(REGIONS * 4096);
  Server server(image);
  RawVmm vmm(std::vector<std::uint64_t>(REGIONS, 4096));
  vmm.connect(server.socket());
  vmm.send(vmm.body(",\"page_size\":4096,\"page_size_kib\":4096"), {vmm.uffd()});
  for (std::uint64_t region = 0; region < REGIONS; region++)
    for (const std::uint64_t at : {0u, 17u, 4095u})
      ASSERT_EQ(*vmm.at(region, at), image.at(region * 4096 + at)) << region << " " << at;
}

// virtio-mem: all that may be plugged in is in the handshake, and may never be touched.
TEST_F(Firecracker, ARegionThatIsNeverPluggedInHoldsUpNothing) {
  RawVmm vmm({2 * MIB, 2 * MIB});
  vmm.connect(server_.socket());
  vmm.send(vmm.body(",\"page_size\":4096"), {vmm.uffd()});
  expectServed(vmm, 0, 0);
  auto restore = server_.restore();
  const auto info = server_.wait(restore.infoRequest().send());
  EXPECT_EQ(info.getInfo().getPhase(), rpc::Phase::SERVING);
  EXPECT_EQ(info.getInfo().getPages(), 1024u);
}

}  // namespace
}  // namespace faultline::test
