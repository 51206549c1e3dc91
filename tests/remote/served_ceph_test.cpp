// Targets that are restored from a real Ceph cluster, by the shipped programs: from RBD, and from S3 as radosgw has it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/fetcher/fetched_target.h"
#include "tests/remote/servers.h"

namespace faultline::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ServedRbd : public BothPageSizes {
 protected:
  void SetUp() override {
    BothPageSizes::SetUp();
    if (const std::string why = CephCluster::whyNot(); !IsSkipped() && !why.empty()) GTEST_SKIP() << why;
  }
  std::uint64_t bytes() const { return 8u << 20; }
};
BOTH_PAGE_SIZES(ServedRbd);

TEST_P(ServedRbd, EveryByteIsTheClusters) {
  Image image(bytes());
  image.hole(4 << 20, 4 << 20);
  const RbdImage source(image);
  Server server(image, serving(source.uri()));
  Target target(image, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
  EXPECT_EQ(figuresOf(server).bytes, 4u << 20) << "what was never written is not fetched";
}

TEST_P(ServedRbd, APopulationBringsAllOfIt) {
  const Image image(bytes());
  const RbdImage source(image);
  Server server(image, serving(source.uri()));
  Target target(image, server.socket(), pageSize());
  populate(server, target);
  expectContent(target, {});
}

class ServedSnapshot : public FetchedTarget {
 protected:
  void SetUp() override {
    if (const std::string why = CephCluster::whyNot(); !why.empty()) GTEST_SKIP() << why;
  }
  void begin(const std::string& patience) {
    source_ = std::make_unique<RbdImage>(image_);
    restore(source_->uri(), patience);
  }

  std::unique_ptr<RbdImage> source_;
};

TEST_F(ServedSnapshot, IsFetchedOnceForAllRestores) {
  begin("60s");
  expectContent(*target_, {});
  Target second(image_, server_->socket(), SMALL);
  server_->restore(1);
  expectContent(second, {});
  EXPECT_EQ(figuresOf(*server_).bytes, image_.bytes());
}

TEST_F(ServedSnapshot, PagesWaitForAnOsdThatWasKilledWhoeverElseDies) {
  begin("60s");
  CephCluster::killOsd();
  touch(40, 40);
  awaitQueued();
  kill(figuresOf(*server_).pid, SIGKILL);
  kill(server_->shardPid(0), SIGKILL);
  kill(server_->coordinatorPid(), SIGKILL);
  CephCluster::startOsd();
  expectAll();
}

TEST_F(ServedSnapshot, PastThePatienceItsPagesAreLostAlone) {
  begin("5s");
  CephCluster::killOsd();
  const Touch lost = target_->touch(50 * CHUNK_PAGES);
  EXPECT_TRUE(target_->holdsImage(1)) << "what was fetched is served meanwhile";
  CephCluster::startOsd();
  EXPECT_EQ(lost, Touch::sigbus);
  EXPECT_TRUE(target_->holdsImage(60 * CHUNK_PAGES));
}

// Nothing can be written to one: what is there is read.
TEST_F(ServedSnapshot, OfAFullClusterIsServed) {
  source_ = std::make_unique<RbdImage>(image_);
  const FullCluster full;
  shell("! CEPH_CONF=" + CephCluster::conf() + " timeout 2 rados -p p put more /etc/passwd");
  restore(source_->uri(), "60s");
  expectContent(*target_, {});
}

// A key that no configuration names, which a fetcher may open as well.
TEST_F(ServedSnapshot, IsReadWithTheKeyThatItsUriNames) {
  const std::string user = "served-" + std::to_string(getpid()), key = image_.directory() + "/key";
  source_ = std::make_unique<RbdImage>(image_);
  CephCluster::addUser(user, "profile rbd-read-only pool=p");
  shell("mv " + CephCluster::keyring(user) + " " + key);
  restore(source_->uri() + "&id=" + user + "&keyring=" + key, "60s");
  expectContent(*target_, {});
}

TEST_F(ServedSnapshot, IsTheLowestOfAStack) {
  Stack stack = Stack::random(8 << 20, 5);
  const RbdImage base(stack.lowest());
  Server server(stack.shown(), servingOver(stack, base.uri()));
  Target target(stack.shown(), server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
}

TEST_F(ServedSnapshot, IsTheBaseOfAPackedDiff) {
  Stack stack(8 << 20, 2);
  stack.data(0, 100, 40);
  stack.zeros(0, 300, 20);
  const PackedSource packed(stack, PackedSource::Lowest::plain);
  const RbdImage base(stack.lowest());
  Server server(stack.shown(), serving(packed.path(), {.more = {"--over", base.uri()}}));
  Target target(stack.shown(), server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
}

TEST_F(ServedSnapshot, OneThatIsNotThereIsRefusedWithTheReason) {
  const auto none = run({"restore", "--memory", "rbd:p/none@s?conf=" + CephCluster::conf(), "--socket",
                         image_.directory() + "/s"});
  EXPECT_NE(none.code, 0);
  EXPECT_THAT(none.err, AllOf(HasSubstr("rbd:p/none@s"), HasSubstr("No such file")));
  const auto live = run({"restore", "--memory", "rbd:p/none?conf=" + CephCluster::conf(), "--socket",
                         image_.directory() + "/s"});
  EXPECT_EQ(live.code, 2);
  EXPECT_THAT(live.err, HasSubstr("it names no snapshot"));
}

// S3 as radosgw has it, with a bucket of this test's own.
class ServedGateway : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = CephCluster::whyNot(); !why.empty()) GTEST_SKIP() << why;
    CephCluster::curl("-X PUT " + bucket());
  }
  static std::string bucket() { return CephCluster::s3() + "/served"; }
  static std::function<void()> keys(const std::string& secret) {
    return [secret] {
      setenv("AWS_ENDPOINT_URL", CephCluster::s3().c_str(), 1);
      setenv("AWS_ACCESS_KEY_ID", CephCluster::KEY, 1);
      setenv("AWS_SECRET_ACCESS_KEY", secret.c_str(), 1);
    };
  }
  Image image_{8 << 20};
};

TEST_F(ServedGateway, EveryByteIsTheObjects) {
  CephCluster::curl("-T " + image_.path() + " " + bucket() + "/vm.mem");
  Server server(image_, serving("s3://served/vm.mem", {.before = keys(CephCluster::SECRET)}));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
  Target second(image_, server.socket(), SMALL);
  server.restore(1);
  expectContent(second, {});
  EXPECT_EQ(figuresOf(server).bytes, image_.bytes());
}

TEST_F(ServedGateway, PackedObjectsAreUnpackedAsTheyAreWanted) {
  const PackedSource packed(image_);
  CephCluster::curl("-T " + packed.path() + " " + bucket() + "/vm.zst");
  Server server(image_, serving("s3://served/vm.zst", {.before = keys(CephCluster::SECRET)}));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
}

TEST_F(ServedGateway, AWrongSecretIsRefusedAndIsInNoLog) {
  CephCluster::curl("-T " + image_.path() + " " + bucket() + "/vm.mem");
  const std::string log = image_.directory() + "/log";
  Server server(image_, serving("s3://served/vm.mem", {.logFile = log, .before = keys("WRONGSECRET")}));
  Target target(image_, server.socket(), SMALL);
  awaitRefusal(log);
  EXPECT_THAT(textOf(log), AllOf(HasSubstr("SignatureDoesNotMatch"), Not(HasSubstr("WRONGSECRET"))));
  EXPECT_EQ(server.status().getRestores().size(), 0u);
}

TEST_F(ServedGateway, TemporaryKeysAreOfTheEnvironmentAndAreInNoLog) {
  CephCluster::curl("-T " + image_.path() + " " + bucket() + "/vm.mem");
  const CephCluster::TemporaryKeys keys = CephCluster::temporaryKeys("served");
  const std::string log = image_.directory() + "/log";
  Server server(image_,
                serving("s3://served/vm.mem", {.logFile = log, .before = [&] {
                                                 setenv("AWS_ENDPOINT_URL", CephCluster::sts().c_str(), 1);
                                                 setenv("AWS_ACCESS_KEY_ID", keys.id.c_str(), 1);
                                                 setenv("AWS_SECRET_ACCESS_KEY", keys.secret.c_str(), 1);
                                                 setenv("AWS_SESSION_TOKEN", keys.token.c_str(), 1);
                                               }}));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
  EXPECT_THAT(textOf(log),
              AllOf(Not(HasSubstr(keys.id)), Not(HasSubstr(keys.secret)), Not(HasSubstr(keys.token))));
}

TEST_F(ServedGateway, AnObjectThatIsReplacedFailsTheRestore) {
  CephCluster::curl("-T " + image_.path() + " " + bucket() + "/vm.mem");
  const std::string log = image_.directory() + "/log";
  Server server(image_, serving("s3://served/vm.mem", {.logFile = log, .before = keys(CephCluster::SECRET)}));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  Image other(image_.bytes());
  other.fill(4 << 20, 4096, 7);
  CephCluster::curl("-T " + other.path() + " " + bucket() + "/vm.mem");
  EXPECT_EQ(target.touch((4 << 20) / SMALL), Touch::sigbus);
  awaitSourceChanged(server);
  EXPECT_THAT(textOf(log), HasSubstr("412 (PreconditionFailed)"));
}

}  // namespace
}  // namespace faultline::test
