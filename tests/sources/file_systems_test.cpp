// All file systems, and block devices: warm and cold, with and without io_uring, by demand and by population.

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "tests/race/race_test.h"
#include "tests/recovery/recovery_test.h"
#include "tests/sources/mounted_file.h"
#include "tests/sources/refuse_io_uring.h"

namespace faultline::test {
namespace {

class FileSystem : public testing::TestWithParam<std::tuple<std::string, std::uint64_t>> {
 protected:
  void SetUp() override {
    if (pageSize() == HUGE && !hugePagesAvailable(64)) GTEST_SKIP() << "no 64 free huge pages";
    if (geteuid() != 0) GTEST_SKIP() << "only root may mount";
  }
  std::string kind() const { return std::get<0>(GetParam()); }
  std::uint64_t pageSize() const { return std::get<1>(GetParam()); }
};

TEST_P(FileSystem, IsServedWarmAndCold) {
  constexpr std::uint64_t BYTES = 16 * HUGE;
  Image image(BYTES);
  // Large holes are not populated. Zeros that were written are a hole, too, where the file system makes it so (squashfs).
  const auto isReleased = [&](std::uint64_t page) {
    const std::uint64_t at = page * SMALL;
    return pageSize() == SMALL &&
           ((at >= 2 * HUGE && at < 5 * HUGE) || (at >= 8 * HUGE && at < 9 * HUGE + 5 * SMALL));
  };
  image.hole(2 * HUGE, 3 * HUGE);
  image.hole(6 * HUGE + 20 * SMALL, 40 * SMALL);
  image.zero(8 * HUGE, HUGE + 5 * SMALL);
  const MountedFile file(image, kind());
  if (!file.whyNot().empty()) GTEST_SKIP() << file.whyNot();
  for (const bool ring : {true, false}) {
    Server server(image, {.memory = file.path(), .before = ring ? std::function<void()>() : refuseIoUring});
    Target warm(image, server.socket(), pageSize());
    expectContent(warm, {});
    Target cold(image, server.socket(), pageSize());
    server.restore(1);
    file.makeCold();
    expectContent(cold, {});
    Target populated(image, server.socket(), pageSize());
    auto restore = server.restore(2);
    file.makeCold();
    auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
    server.wait(prefault.waitRequest().send());
    for (std::uint64_t page = 0; page < populated.pages(); page++)
      ASSERT_TRUE(populated.inMemory(page) || isReleased(page)) << page;
    expectContent(populated, {});
    EXPECT_EQ(server.sum(&rpc::ShardStats::Reader::getPoisoned), 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, FileSystem,
                         testing::Combine(testing::Values("ext4", "xfs", "btrfs", "squashfs", "erofs",
                                                          "overlay", "tmpfs", "loop"),
                                          testing::Values(SMALL, HUGE)),
                         [](const auto& info) {
                           return std::get<0>(info.param) +
                                  (std::get<1>(info.param) == SMALL ? "Small" : "Huge");
                         });

}  // namespace
}  // namespace faultline::test
