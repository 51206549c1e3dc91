// A source that is gone for good, where the operator wants the target killed rather than told.

#include <fcntl.h>
#include <gmock/gmock.h>

#include "tests/recovery/recovery_test.h"
#include "tests/support/child_process.h"
#include "tests/support/raw_vmm.h"
#include "tests/support/sources.h"

namespace faultline::test {
namespace {

using testing::HasSubstr;

constexpr int KILLED = 128 + SIGKILL;

// A target in a process of its own that touches page 0, waits for the word, and touches `last`. Its exit code
// says what it saw: 1 anything but the image at first, 2 an error at the last, 3 bytes there.
class VictimTest : public testing::Test {
 protected:
  std::unique_ptr<ChildProcess> victim(const Server& server, std::uint64_t last) {
    return std::make_unique<ChildProcess>([this, socket = server.socket(), last] {
      const Target target(image_, socket, SMALL);
      if (!target.holdsImage(0)) _exit(1);
      ready_.send();
      go_.wait();
      const Touch touch = target.touch(last);
      _exit(touch == Touch::sigbus ? 2 : 3);
    });
  }
  static std::string events(Server& server) {
    std::string text;
    for (auto event : server.status().getEvents()) text += std::string(event.getText().cStr()) + "\n";
    return text;
  }

  Image image_{PAGES * SMALL};
  Signal ready_, go_;
};

using OnLost = VictimTest;

TEST_F(OnLost, KillEndsTheTargetAndTheRestore) {
  Server server(image_, {.more = {"--on-lost", "kill"}});
  auto child = victim(server, PAGES - 1);
  ready_.wait();
  auto restore = server.restore();
  auto ended = restore.waitEndedRequest().send();
  image_.truncate(PAGES / 2 * SMALL);
  go_.send();
  EXPECT_EQ(child->join(), KILLED);
  EXPECT_THAT(
      server.wait(kj::mv(ended)).getText().cStr(),
      HasSubstr("killed, as --on-lost kill wants it: page " + std::to_string(PAGES - 1) + " is lost"));
  EXPECT_THAT(events(server), HasSubstr("truncated"));
}

TEST_F(OnLost, PoisonIsWhatIsDoneUnlessAsked) {
  Server server(image_);
  auto child = victim(server, PAGES - 1);
  ready_.wait();
  server.restore();
  image_.truncate(PAGES / 2 * SMALL);
  go_.send();
  EXPECT_EQ(child->join(), 2);
}

// Another target of the same server, from the same file, goes on.
TEST_F(OnLost, KillConcernsNobodyElse) {
  Server server(image_, {.more = {"--on-lost", "kill"}});
  auto child = victim(server, PAGES - 1);
  auto other = victim(server, 1);
  ready_.wait();
  ready_.wait();
  server.restore(1);
  image_.truncate(PAGES / 2 * SMALL);
  go_.send();
  go_.send();
  EXPECT_EQ(child->join(), KILLED);
  EXPECT_EQ(other->join(), 3);
}

// A page that was given up needs no source.
TEST_F(OnLost, KillSparesATargetThatGaveThePageUp) {
  Server server(image_, {.more = {"--on-lost", "kill"}});
  ChildProcess child([this, socket = server.socket()] {
    const Target target(image_, socket, SMALL);
    target.giveBack(PAGES - 1);
    ready_.send();
    go_.wait();
    _exit(target.isAll(PAGES - 1, 0) ? 0 : 1);
  });
  ready_.wait();
  server.restore();
  image_.truncate(PAGES / 2 * SMALL);
  go_.send();
  EXPECT_EQ(child.join(), 0);
}

// The coordinator is not there as the page is lost: its successor kills.
TEST_F(OnLost, KillOutlivesTheCoordinator) {
  Server server(image_, {.more = {"--on-lost", "kill"}});
  auto child = victim(server, PAGES - 1);
  ready_.wait();
  server.restore();
  auto barrier = arm(server, coordinatorHooks(server), "beforeHandout", rpc::Action::KILL);
  image_.truncate(PAGES / 2 * SMALL);
  go_.send();
  EXPECT_EQ(child->join(), KILLED);
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  EXPECT_THAT(events(server), HasSubstr("--on-lost kill"));
}

// A restore that cannot go on at all is lost as a whole: here its segment rots while no process serves it.
TEST_F(OnLost, KillWhenTheRestoreFails) {
  Server server(image_, {.more = {"--on-lost", "kill"}});
  auto child = victim(server, PAGES - 1);
  ready_.wait();
  auto restore = server.restore();
  shm::Segment segment = server.segment();
  segment.header().state.store(shm::SegmentState::failed);
  ASSERT_EQ(kill(server.coordinatorPid(), SIGKILL), 0);
  EXPECT_EQ(child->join(), KILLED);
  server.reconnect();
  EXPECT_THAT(events(server), HasSubstr("--on-lost kill"));
}

// By hand over the control interface, without a pidfd: refused before anything is served.
TEST_F(OnLost, KillNeedsAPidfd) {
  Server server(image_);
  const RawVmm vmm({PAGES * SMALL});
  auto request = server.client().coordinator().attachRequest();
  auto spec = request.initSpec();
  spec.setName("bare");
  spec.initPolicy().setOnLost(rpc::OnLost::KILL);
  auto region = spec.initRegions(1)[0];
  region.setBase(reinterpret_cast<std::uint64_t>(vmm.at(0)));
  region.setSize(PAGES * SMALL);
  request.setUffd(rpc::makeFdFrom(vmm.uffd()));
  fill(request.initSource(), image_.path());
  try {
    server.wait(request.send());
    FAIL() << "accepted";
  } catch (const kj::Exception& error) {
    EXPECT_THAT(error.getDescription().cStr(), HasSubstr("needs a pidfd"));
  }
}

}  // namespace
}  // namespace faultline::test
