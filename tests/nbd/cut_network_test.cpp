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
  // nbdkit there, with further options.
  std::vector<std::string> server(const std::string& path, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> command{"ip", "netns",   "exec", name_,   "nbdkit", "-f",
                                     "-i", address(), "-p",   "10809", "-t",     "1"};
    command.insert(command.end(), more.begin(), more.end());
    command.insert(command.end(), {"file", path});
    return command;
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

// The handshake of the new connection as well, which has no end while the cable is out.
TEST_F(CutNetwork, ByTlsPagesWaitAndComeRight) {
  const Directory folder;
  folder.file("keys", "vm:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
  source_->kill();
  source_->startAs(host_->server(image_.path(), {"--tls=require", "--tls-psk=" + folder / "keys"}));
  restore("nbds://vm@" + host_->address() + "/?tls-psk-file=" + folder / "keys", "60s");
  for (unsigned round = 0; round < 2; round++) {
    host_->pull();
    touch(10 + 30 * round, 30);
    awaitQueued();
    if (round == 1) source_->kill();
    host_->plug();
    if (round == 1) source_->start();
    finish(waiting_);
  }
  expectAll();
}

TEST_F(CutNetwork, PagesOf2MiBWaitAndComeRight) {
  if (!hugePagesAvailable(64)) GTEST_SKIP() << "no 64 free huge pages; echo 256 > /proc/sys/vm/nr_hugepages";
  Server server(image_, serving(*source_, {.more = {"--source-patience", "60s"}}));
  Target target(image_, server.socket(), HUGE);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  host_->pull();
  Reads waiting;
  for (std::uint64_t page = 1; page < target.pages(); page++) waiting.push_back(target.readLater(page));
  await([&] { return target.queued().total >= waiting.size(); });
  host_->plug();
  finish(waiting);
  expectContent(target, {});
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
