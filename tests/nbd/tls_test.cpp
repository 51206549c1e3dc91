// Whole memories by TLS, at both page sizes: what a target sees is what the server has, whichever credentials it wants, and
// however it is connected to.

#include <gtest/gtest.h>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/authority.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {
namespace {

class NbdTls : public BothPageSizes {
 protected:
  void SetUp() override {
    BothPageSizes::SetUp();
    if (IsSkipped()) return;
    for (const char* program : {"nbdkit", "openssl"})
      if (const std::string why = NbdServer::whyNot(program); !why.empty()) GTEST_SKIP() << why;
    image_.zero(64 << 10, 200 << 10);
    image_.hole(1 << 20, 1 << 20);
    folder_.file("keys", "vm:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
    authority_ = std::make_unique<Authority>();
    authority_->sign(theirs_, {.address = host_});
    authority_->sign(ours_, {.who = "client"});
  }
  // It takes clients of that key; or of our authority's certificates, and shows one.
  std::vector<std::string> withKey() const {
    return {"nbdkit", "-f", "-t", "1", "--tls=require", "--tls-psk=" + folder_ / "keys"};
  }
  std::vector<std::string> withCertificates() const {
    return {"nbdkit",
            "-f",
            "-t",
            "1",
            "--tls=require",
            "--tls-verify-peer",
            "--tls-certificates=" + theirs_.path()};
  }
  std::string keys() const { return "tls-psk-file=" + folder_ / "keys"; }
  std::string certificates() const { return "tls-certificates=" + ours_.path(); }
  NbdServer atSocket(std::vector<std::string> command) const {
    command.insert(command.end(), {"-U", "{}", "file", image_.path()});
    return NbdServer(command);
  }
  NbdServer atHost(std::vector<std::string> command) const {
    command.insert(command.end(), {"-i", host_, "-p", "10809", "file", image_.path()});
    return NbdServer(command, host_);
  }
  // By faults; and by a population, of a service that has nothing of it yet.
  void expectWhole(const std::string& uri) const {
    for (const bool populated : {false, true}) {
      SCOPED_TRACE(populated ? "populated" : "by faults");
      Server server(image_, serving(uri));
      Target target(image_, server.socket(), pageSize());
      server.restore();
      if (populated) populate(server, target);
      expectContent(target, {});
      EXPECT_GT(figuresOf(server).bytes, 0u);
    }
  }

  Image image_{GetParam() == SMALL ? 4u << 20 : 8u << 20};
  const Directory folder_, theirs_, ours_;
  const std::string host_ = ownAddress();
  std::unique_ptr<Authority> authority_;
};
BOTH_PAGE_SIZES(NbdTls);

TEST_P(NbdTls, ByAKeyOverASocket) {
  const NbdServer source = atSocket(withKey());
  expectWhole("nbds+unix://vm@/?socket=" + source.socket() + "&" + keys());
}

TEST_P(NbdTls, ByAKeyFromAnotherHost) {
  const NbdServer source = atHost(withKey());
  expectWhole("nbds://vm@" + host_ + "/?" + keys());
}

TEST_P(NbdTls, ByCertificatesOverASocket) {
  const NbdServer source = atSocket(withCertificates());
  expectWhole("nbds+unix:///?socket=" + source.socket() + "&" + certificates());
}

TEST_P(NbdTls, ByCertificatesFromAnotherHost) {
  const NbdServer source = atHost(withCertificates());
  expectWhole("nbds://" + host_ + "/?" + certificates());
}

}  // namespace
}  // namespace faultline::test
