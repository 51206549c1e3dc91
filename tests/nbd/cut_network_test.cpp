// A server on another host, which is a network namespace here: the cable between the two is pulled and put back.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {
namespace {

// A namespace with a cable to us. Goes with the object.
class OtherHost {
 public:
  // Throws where there can be none.
  OtherHost() {
    runTool({"ip", "netns", "add", name_});
    runTool({"ip", "link", "add", cable_, "type", "veth", "peer", "name", "there", "netns", name_});
    runTool({"ip", "address", "add", ours_ + "/30", "dev", cable_});
    runTool({"ip", "-n", name_, "address", "add", address() + "/30", "dev", "there"});
    runTool({"ip", "-n", name_, "link", "set", "there", "up"});
    // Without the cable it is not to be found by way of others.
    runTool({"ip", "route", "add", "blackhole", "10.213." + number_ + ".0/30", "metric", "4000"});
    plug();
  }
  ~OtherHost() {
    try {
      runTool({"ip", "route", "delete", "blackhole", "10.213." + number_ + ".0/30", "metric", "4000"});
      runTool({"ip", "netns", "delete", name_});
      runTool({"ip", "link", "delete", cable_});
    } catch (const std::exception&) {  // the kernel takes the cable with the namespace, sooner or later
    }
  }
  OtherHost(const OtherHost&) = delete;

  std::string address() const { return "10.213." + number_ + ".2"; }
  void pull() const { runTool({"ip", "link", "set", cable_, "down"}); }
  void plug() const { runTool({"ip", "link", "set", cable_, "up"}); }
  // nbdkit there.
  std::vector<std::string> server(const std::string& path) const {
    return {"ip",      "netns", "exec",  name_, "nbdkit", "-f",   "-i",
            address(), "-p",    "10809", "-t",  "1",      "file", path};
  }

 private:
  const std::string number_ = std::to_string(getpid() % 250);
  const std::string name_ = "faultline-test-" + number_, cable_ = "fltest" + number_;
  const std::string ours_ = "10.213." + number_ + ".1";
};

class CutNetwork : public FetchedTarget {
 protected:
  void SetUp() override {
    for (const char* program : {"nbdkit", "ip"})
      if (const std::string why = NbdServer::whyNot(program); !why.empty()) GTEST_SKIP() << why;
    try {
      host_ = std::make_unique<OtherHost>();
    } catch (const std::exception& error) {
      GTEST_SKIP() << "no network namespace can be made: " << error.what();
    }
    source_ = std::make_unique<NbdServer>(host_->server(image_.path()), host_->address());
  }
  void begin(const std::string& patience) { restore(source_->uri(), patience); }

  std::unique_ptr<OtherHost> host_;
  std::unique_ptr<NbdServer> source_;
};

TEST_F(CutNetwork, PagesWaitAndComeRight) {
  begin("60s");
  host_->pull();
  touch(10, 30);
  awaitQueued();
  host_->plug();
  expectAll();
}

// The end of the connection is not told to us: the other side has forgotten it when the cable is back.
TEST_F(CutNetwork, AServerThatWasStartedAnewMeanwhileIsConnectedToAgain) {
  begin("60s");
  host_->pull();
  touch(50, 1);
  awaitQueued();
  source_->kill();
  host_->plug();
  source_->start();
  expectAll();
  EXPECT_GE(figuresOf(*server_).reconnects, 1u);
}

TEST_F(CutNetwork, PastThePatienceItsPagesAreLostAlone) {
  begin("3s");
  host_->pull();
  EXPECT_EQ(target_->touch(50 * CHUNK_PAGES), Touch::sigbus);
  EXPECT_TRUE(target_->holdsImage(1));
  host_->plug();
  source_->awaitAnswer();
  expectContentBut(*target_, 50);
}

}  // namespace
}  // namespace faultline::test
