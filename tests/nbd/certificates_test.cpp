// NBD servers that show a certificate: one that our authority has signed is served, and no other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/authority.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

class NbdCertificates : public FetchedTarget {
 protected:
  void SetUp() override {
    for (const char* program : {"nbdkit", "openssl"})
      if (const std::string why = NbdServer::whyNot(program); !why.empty()) GTEST_SKIP() << why;
    authority_ = std::make_unique<Authority>();
    authority_->sign(theirs_, {});
    authority_->sign(ours_, {.who = "client"});
  }
  // A server that shows the certificate of that folder.
  std::vector<std::string> showing(const Directory& folder, std::vector<std::string> more = {}) const {
    std::vector<std::string> command{
        "nbdkit", "-f", "-U", "{}", "-t", "1", "--tls=require", "--tls-certificates=" + folder.path()};
    command.insert(command.end(), more.begin(), more.end());
    command.insert(command.end(), {"file", image_.path()});
    return command;
  }
  static std::string uri(const NbdServer& source, const Directory& certificates) {
    return "nbds+unix:///?socket=" + source.socket() + "&tls-certificates=" + certificates.path();
  }
  // A target is refused; returns why.
  std::string refusalOf(const std::string& source) const {
    const Directory folder;
    const std::string log = folder / "log";
    Server server(image_, {.memory = source, .logFile = log});
    Target target(image_, server.socket(), SMALL);
    awaitRefusal(log);
    EXPECT_EQ(server.status().getRestores().size(), 0u);
    return textOf(log);
  }

  const Directory theirs_, ours_;
  std::unique_ptr<Authority> authority_;
};

TEST_F(NbdCertificates, OneThatTheAuthorityHasSignedIsServed) {
  const NbdServer source(showing(theirs_));
  restore({.memory = uri(source, authority_->own())});
  expectAll();
}

TEST_F(NbdCertificates, AServerThatWantsTheClientsGetsThat) {
  const NbdServer source(showing(theirs_, {"--tls-verify-peer"}));
  restore({.memory = uri(source, ours_)});
  expectAll();
}

TEST_F(NbdCertificates, AServerThatWantsTheClientsRefusesOneWithout) {
  const NbdServer source(showing(theirs_, {"--tls-verify-peer"}));
  EXPECT_THAT(refusalOf(uri(source, authority_->own())), HasSubstr("client-cert.pem"));
}

TEST_F(NbdCertificates, AnotherAuthoritysIsRefused) {
  const NbdServer source(showing(theirs_));
  const Authority other("another"), ofTheSameName;
  EXPECT_THAT(refusalOf(uri(source, other.own())), HasSubstr("issuer is unknown"));
  EXPECT_THAT(refusalOf(uri(source, ofTheSameName.own())),
              HasSubstr("signature in the certificate is invalid"));
}

// The name is compared where there is one: that of the URI's host.
TEST_F(NbdCertificates, OneOfAnotherHostIsRefused) {
  const std::string address = ownAddress();
  const auto at = [&](const Directory& folder) {
    return std::vector<std::string>{
        "nbdkit", "-f",         "-i", address,         "-p",
        "10809",  "-t",         "1",  "--tls=require", "--tls-certificates=" + folder.path(),
        "file",   image_.path()};
  };
  const std::string named = "nbds://" + address + "/?tls-certificates=" + authority_->own().path();
  NbdServer source(at(theirs_), address);
  EXPECT_THAT(refusalOf(named), HasSubstr("The name in the certificate does not match"));
  const Directory its;
  authority_->sign(its, {.address = address});
  source.kill();
  source.startAs(at(its));
  restore({.memory = named});
  expectAll();
}

TEST_F(NbdCertificates, OneThatHasExpiredIsRefused) {
  const Directory expired;
  authority_->sign(expired, {.days = "-1"});
  const NbdServer source(showing(expired));
  EXPECT_THAT(refusalOf(uri(source, authority_->own())), HasSubstr("expired"));
}

// A server without TLS in the place of one with: no byte is asked of it.
TEST_F(NbdCertificates, OneWithoutTlsIsRefused) {
  const NbdServer source(NbdServer::ofFile(image_.path()));
  EXPECT_THAT(refusalOf(uri(source, authority_->own())), HasSubstr("TLS"));
}

// While it is served, as where another host has taken the server's place: pages wait for the one that it was.
TEST_F(NbdCertificates, AnotherAuthoritysIsRefusedAtAConnectionAnew) {
  const Authority other;
  const Directory others;
  other.sign(others, {});
  NbdServer source(showing(theirs_));
  const std::string log = image_.directory() + "/log";
  restore({.more = {"--source-patience", "60s"}, .memory = uri(source, authority_->own()), .logFile = log});
  source.kill();
  source.startAs(showing(others));
  touch(10, 30);
  await([&] { return textOf(log).find("cannot be reached: ") != std::string::npos; });
  EXPECT_THAT(textOf(log), HasSubstr("the server's certificate: The certificate is NOT trusted"));
  source.kill();
  source.startAs(showing(theirs_));
  expectAll();
}

}  // namespace
}  // namespace faultline::test
