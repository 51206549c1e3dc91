// A population of what a server has: none of its reads is in the way of a fault, of whichever restore.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/nbd_server.h"
#include "tests/nbd/way_to_server.h"

namespace faultline::test {
namespace {

class NbdPopulation : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* program : {"nbdkit", "python3"})
      if (const std::string why = NbdServer::whyNot(program); !why.empty()) GTEST_SKIP() << why;
  }
  // Reads of the image's second half are held while this file is there.
  std::string file() const { return folder_ / "hold"; }
  std::size_t held(const NbdServer& way) const {
    const std::string log = way.log();
    return static_cast<std::size_t>(std::count(log.begin(), log.end(), '\n'));
  }
  // Populates that half of a restore. As many of its reads as there may be at once get no answer.
  rpc::Prefault::Client populateHeld(Server& server, unsigned restore, const NbdServer& way) const {
    folder_.file("hold", "");
    auto request = server.restore(restore).prefaultRequest();
    auto range = request.initRanges(1)[0];
    range.setFirst(BYTES / 2 / SMALL);
    range.setCount(BYTES / 2 / SMALL);
    auto prefault = server.wait(request.send()).getPrefault();
    await([&] { return held(way) == MOST; });
    return prefault;
  }
  void goOn(NbdServer& way, const NbdServer& source) const {
    unlink(file().c_str());
    way.kill();
    way.startAs(wayTo(source));
  }

  static constexpr std::uint64_t BYTES = 16u << 20;
  static constexpr std::size_t MOST = 32;  // docs/nbd.md
  Image image_{BYTES};
  const Directory folder_;
};

TEST_F(NbdPopulation, ThatHasNoAnswerDelaysNoFault) {
  const NbdServer source(NbdServer::ofFile(image_.path()));
  NbdServer way(wayTo(source, BYTES / 2, BYTES, Bad::hold, file()));
  Server server(image_, serving(way, {.more = {"--source-patience", "60s"}}));
  Target populated(image_, server.socket(), SMALL);
  server.restore();
  Target other(image_, server.socket(), SMALL);
  server.restore(1);
  auto prefault = populateHeld(server, 0, way);
  // Of its own restore, and of another.
  for (Target* target : {&populated, &other})
    for (std::uint64_t page = 0; page < target->pages() / 2; page++)
      ASSERT_TRUE(target->holdsImage(page)) << page;
  EXPECT_EQ(figuresOf(server).bytes, BYTES / 2) << "each was fetched meanwhile";
  EXPECT_EQ(held(way), MOST) << "no more is asked for in advance";
  goOn(way, source);
  server.wait(prefault.waitRequest().send());
  expectContent(populated, {});
  expectContent(other, {});
}

}  // namespace
}  // namespace faultline::test
