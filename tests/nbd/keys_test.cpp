// NBD servers that want a key: who has it is served, also at a connection anew, and nobody else.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/authority.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

class NbdKeys : public FetchedTarget {
 protected:
  void SetUp() override {
    if (const std::string why = NbdServer::whyNot(); !why.empty()) GTEST_SKIP() << why;
    folder_.file("keys", "vm:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
    folder_.file("others", "vm:ffffffffffffffffffffffffffffffff00112233445566778899aabbccddeeff\n");
    source_ = std::make_unique<NbdServer>(wanting("keys"));
  }
  // The command of a server that wants these.
  std::vector<std::string> wanting(const std::string& keys) const {
    return {"nbdkit", "-f",         "-U", "{}", "-t", "1", "--tls=require", "--tls-psk=" + folder_ / keys,
            "file",   image_.path()};
  }
  std::string uri(const std::string& keys) const {
    return "nbds+unix://vm@/?socket=" + source_->socket() + "&tls-psk-file=" + folder_ / keys;
  }
  // A target is refused; returns why.
  std::string refusalOf(const std::string& source) const {
    const std::string log = folder_ / "log";
    Server server(image_, {.memory = source, .logFile = log});
    Target target(image_, server.socket(), SMALL);
    awaitRefusal(log);
    EXPECT_EQ(server.status().getRestores().size(), 0u);
    return textOf(log);
  }

  const Directory folder_;
  std::unique_ptr<NbdServer> source_;
};

TEST_F(NbdKeys, AnotherKeyIsRefused) {
  const std::string why = refusalOf(uri("others"));
  EXPECT_THAT(why, HasSubstr("cannot be used"));
  EXPECT_EQ(why.find("ffffffff"), std::string::npos) << "keys are not told";
}

TEST_F(NbdKeys, NoKeyIsRefused) {
  refusalOf(source_->uri());
}

TEST_F(NbdKeys, WhatWasUnderWayAtItsDeathIsAskedAgain) {
  restore(uri("keys"), "60s");
  source_->stall();
  touch(10, 30);
  awaitQueued();
  source_->kill();
  source_->start();
  expectAll();
  EXPECT_GE(figuresOf(*server_).reconnects, 1u);
}

// While it is served, as where another server has taken its place: pages wait for the one that it was.
TEST_F(NbdKeys, AnotherKeyIsRefusedAtAConnectionAnew) {
  const std::string log = folder_ / "log";
  restore({.more = {"--source-patience", "60s"}, .memory = uri("keys"), .logFile = log});
  source_->kill();
  source_->startAs(wanting("others"));
  touch(10, 30);
  await([&] { return textOf(log).find("cannot be reached: ") != std::string::npos; });
  source_->kill();
  source_->startAs(wanting("keys"));
  expectAll();
}

TEST_F(NbdKeys, AServerWithoutKeysInItsPlaceIsAskedForNothing) {
  const std::string log = folder_ / "log";
  restore({.more = {"--source-patience", "60s"}, .memory = uri("keys"), .logFile = log});
  Image other(image_.bytes());
  other.fill(0, other.bytes(), 7);
  source_->kill();
  source_->startAs(NbdServer::ofFile(other.path()));
  touch(10, 30);
  await([&] { return textOf(log).find("cannot be reached: ") != std::string::npos; });
  source_->kill();
  source_->startAs(wanting("keys"));
  expectAll();
}

TEST_F(NbdKeys, OneThatStallsCostsItsPagesAloneAndGoesOn) {
  restore(uri("keys"), "300ms");
  source_->stall();
  EXPECT_EQ(target_->touch(50 * CHUNK_PAGES), Touch::sigbus);
  EXPECT_TRUE(target_->holdsImage(1)) << "what was fetched is served meanwhile";
  source_->goOn();
  expectContentBut(*target_, 50);
}

// --- handshakes that do not end ---

// The command of a server that agrees to TLS, and says nothing more: GnuTLS would ask for more until it does, and libnbd would wait.
std::vector<std::string> agreeing() {
  return {"python3", "-c",
          "import socket, struct, sys\n"
          "listening = socket.socket(socket.AF_UNIX)\n"
          "listening.bind(sys.argv[1])\n"
          "listening.listen()\n"
          "kept = []\n"
          "while True:\n"
          "    client = listening.accept()[0]\n"
          "    kept.append(client)\n"
          "    try:\n"
          "        client.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))\n"
          "        asked = client.recv(20, socket.MSG_WAITALL)\n"
          "        if asked[4:16] == b'IHAVEOPT' + struct.pack('>I', 5):\n"
          "            client.sendall(struct.pack('>QIII', 0x3e889045565a9, 5, 1, 0))\n"
          "            print('agreed', flush=True)\n"
          "    except OSError:\n"
          "        pass\n",
          "{}"};
}

class UnendingHandshake : public NbdKeys {
 protected:
  void SetUp() override {
    NbdKeys::SetUp();
    if (const std::string why = NbdServer::whyNot("python3"); !IsSkipped() && !why.empty())
      GTEST_SKIP() << why;
  }
  void awaitAgreed() const {
    await([&] { return source_->log().find("agreed") != std::string::npos; });
  }
};

TEST_F(UnendingHandshake, IsRefusedWithTheReason) {
  source_ = std::make_unique<NbdServer>(agreeing());
  EXPECT_THAT(refusalOf(uri("keys")), HasSubstr("it does not answer"));
  EXPECT_THAT(source_->log(), HasSubstr("agreed"));
}

TEST_F(UnendingHandshake, WithCertificatesIsRefusedAsWell) {
  source_ = std::make_unique<NbdServer>(agreeing());
  if (const std::string why = NbdServer::whyNot("openssl"); !why.empty()) GTEST_SKIP() << why;
  const Authority authority;
  EXPECT_THAT(
      refusalOf("nbds+unix:///?socket=" + source_->socket() + "&tls-certificates=" + authority.own().path()),
      HasSubstr("it does not answer"));
}

// Of a connection anew, whose thread waits: what is cached is served, pages wait for the server, and it is connected to when it is
// itself again.
TEST_F(UnendingHandshake, OfAConnectionAnewIsWaitedForInVainAndTriedAgain) {
  restore(uri("keys"), "60s");
  source_->kill();
  source_->startAs(agreeing());
  touch(10, 30);
  awaitAgreed();
  EXPECT_TRUE(target_->holdsImage(1));
  source_->kill();
  source_->startAs(wanting("keys"));
  expectAll();
}

// The server lives on, and its clients' connections with it: nothing but a limit of ours ends the handshake.
TEST_F(UnendingHandshake, EndsByItself) {
  const std::string log = folder_ / "log";
  restore({.more = {"--source-patience", "60s"}, .memory = uri("keys"), .logFile = log});
  source_->kill();
  source_->startAs(agreeing());
  touch(10, 1);
  await([&] { return textOf(log).find("cannot be reached: it does not answer") != std::string::npos; });
  source_->kill();
  source_->startAs(wanting("keys"));
  expectAll();
}

}  // namespace
}  // namespace faultline::test
