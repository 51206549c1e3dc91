// Snapshots of a real Ceph cluster, read as a fetcher reads them.

#include "fetcher/rbd_engine.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <stdexcept>
#include <string>
#include <vector>

#include "fetcher/rbd_library.h"
#include "fetcher/rbd_session.h"
#include "tests/remote/same_bytes.h"
#include "tests/remote/servers.h"
#include "tests/support/image.h"
#include "tests/support/refusal.h"
#include "tests/support/server.h"

namespace faultline::test {

namespace {

using fetcher::RbdEngine;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint64_t SECOND = 1'000'000'000, PATIENCE = 30 * SECOND;
constexpr std::uint64_t MIB = 1u << 20, CHUNK = 64u << 10;

class Rbd : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = CephCluster::whyNot(); !why.empty()) GTEST_SKIP() << why;
    fetcher::RbdLibrary::load();
  }

  // Threads that close an image outlive its engine, and must not outlive the library.
  void TearDown() override {
    await([] { return fetcher::RbdSession::count() == 0; });
  }

  // A name of this test's own.
  std::string name(const std::string& what) const {
    return std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + "-" +
           std::to_string(getpid()) + "-" + what;
  }
  // The image with a protected snapshot s. Its URI.
  std::string import(const Image& image, const std::string& what = "vm") const {
    CephCluster::import(image, "p/" + name(what));
    return uri(what);
  }
  std::string uri(const std::string& what, const std::string& snapshot = "s") const {
    return "rbd:p/" + name(what) + "@" + snapshot + "?conf=" + CephCluster::conf();
  }
  RbdEngine open(const std::string& uri, std::uint64_t patience = PATIENCE) {
    return RbdEngine(rpc::RbdUri::parse(uri), patience, counters_);
  }
  std::string whyNot(const std::string& uri) {
    return refusalOf<std::runtime_error>([&] { open(uri); });
  }
  static int read(const RbdEngine& engine, std::uint64_t begin, std::vector<std::byte>& bytes) {
    bytes.assign(CHUNK, std::byte{'?'});
    return engine.read({begin, begin + CHUNK}, bytes);
  }

  fetcher::EngineCounters counters_;
};

}  // namespace

TEST_F(Rbd, EveryByteIsRightAndZerosAreKnown) {
  Image image(24 * MIB);
  image.hole(4 * MIB, 12 * MIB);
  const RbdEngine engine = open(import(image));
  expectSame(engine, image);
  EXPECT_EQ(engine.fingerprint(), fingerprintOf(image));
  std::uint64_t zeros = 0;
  engine.forEachKnown([&](fetcher::Range range, fetcher::Engine::Known known) {
    EXPECT_EQ(known, fetcher::Engine::Known::zero);
    EXPECT_GE(range.begin, 4 * MIB);
    EXPECT_LE(range.end, 16 * MIB);
    zeros += range.size();
  });
  EXPECT_EQ(zeros, 12 * MIB);
}

TEST_F(Rbd, AnImageThatIsWrittenToLaterIsReadAsItWas) {
  const Image image(8 * MIB);
  const std::string uri = import(image);
  CephCluster::run("rbd bench --io-type write --io-size 65536 --io-total 4M --io-pattern seq p/" +
                   name("vm") + " >/dev/null");
  expectSame(open(uri), image);
}

TEST_F(Rbd, ACloneOfACloneIsReadThroughItsParents) {
  Image image(16 * MIB);
  image.hole(8 * MIB, 4 * MIB);
  import(image, "base");
  std::string below = "p/" + name("base") + "@s";
  for (const char* what : {"d1", "d2"}) {
    const std::string clone = "p/" + name(what);
    CephCluster::run("rbd clone --object-size 64K --stripe-unit 64K --stripe-count 1 " + below + " " + clone);
    const unsigned char byte = static_cast<unsigned char>(what[1]);
    const std::uint64_t at = what[1] == '1' ? MIB : 9 * MIB;
    CephCluster::run("qemu-io -f raw -c 'write -P " + std::to_string(byte) + " " + std::to_string(at) +
                     " 64k' rbd:" + clone + ":conf=" + CephCluster::conf());
    CephCluster::run("rbd snap create --no-progress " + clone + "@s");
    CephCluster::run("rbd snap protect " + clone + "@s");
    image.fill(at, CHUNK, byte);
    below = clone + "@s";
  }
  const RbdEngine engine = open(uri("d2"));
  expectSame(engine, image);
  std::uint64_t zeros = 0;
  engine.forEachKnown([&](fetcher::Range range, fetcher::Engine::Known) { zeros += range.size(); });
  EXPECT_EQ(zeros, 4 * MIB - CHUNK);
}

TEST_F(Rbd, WhatCannotBeUsedIsRefusedWithTheReason) {
  const Image image(4 * MIB);
  import(image);
  EXPECT_THAT(whyNot(uri("nothing")), AllOf(HasSubstr("cannot be used"), HasSubstr("No such file")));
  EXPECT_THAT(whyNot(uri("vm", "t")), HasSubstr("No such file"));
  CephCluster::run("rbd snap create --no-progress p/" + name("vm") + "@loose");
  EXPECT_THAT(whyNot(uri("vm", "loose")),
              AllOf(HasSubstr("not protected"), HasSubstr("rbd snap protect p/")));
  EXPECT_THAT(whyNot("rbd:nopool/x@s?conf=" + CephCluster::conf()), HasSubstr("the pool nopool"));
  EXPECT_THAT(whyNot("rbd:p/x@s?conf=/nonexistent"), HasSubstr("Ceph's configuration"));
}

TEST_F(Rbd, AUserThatMayReadAndNoMoreIsEnough) {
  const Image image(4 * MIB);
  const std::string uri = import(image), user = "reader-" + std::to_string(getpid());
  CephCluster::addUser(user, "profile rbd-read-only pool=p");
  expectSame(open(uri + "&id=" + user), image);
  // A key that lies elsewhere.
  const std::string moved = image.directory() + "/moved.keyring";
  shell("mv " + CephCluster::keyring(user) + " " + moved);
  EXPECT_THAT(whyNot(uri + "&id=" + user), HasSubstr("there is no key of client." + user));
  expectSame(open(uri + "&id=" + user + "&keyring=" + moved), image);
}

TEST_F(Rbd, AUserThatMayNotReadIsRefusedAndItsKeyNotShown) {
  const Image image(4 * MIB);
  const std::string uri = import(image), user = "stranger-" + std::to_string(getpid());
  CephCluster::addUser(user, "profile rbd-read-only pool=another");
  EXPECT_THAT(whyNot(uri + "&id=" + user), HasSubstr("Operation not permitted"));
  const std::string wrong = image.directory() + "/wrong.keyring";
  shell("ceph-authtool --create-keyring " + wrong + " -n client." + user + " --gen-key");
  const std::string key = shell("ceph-authtool " + wrong + " -n client." + user + " --print-key");
  ASSERT_GT(key.size(), 20u);
  const std::string why = whyNot(uri + "&id=" + user + "&keyring=" + wrong);
  EXPECT_THAT(why, AllOf(HasSubstr("the cluster does not take the key of client." + user),
                         HasSubstr("Permission denied")));
  EXPECT_THAT(why, testing::Not(HasSubstr(key.substr(0, 20))));
}

TEST_F(Rbd, AnOsdThatIsKilledAndBackIsReadOn) {
  const Image image(8 * MIB);
  const RbdEngine engine = open(import(image));
  std::vector<std::byte> bytes;
  ASSERT_EQ(read(engine, 0, bytes), 0);
  CephCluster::killOsd();
  auto reading = std::async(std::launch::async, [&] { return read(engine, CHUNK, bytes); });
  EXPECT_EQ(reading.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout);
  CephCluster::startOsd();
  EXPECT_EQ(reading.get(), 0);
  EXPECT_EQ(std::memcmp(bytes.data(), image.data() + CHUNK, CHUNK), 0);
  expectSame(engine, image);
  EXPECT_EQ(counters_.givenUp, 0u);
}

TEST_F(Rbd, AnOsdThatStaysAwayIsGivenUpInTime) {
  const Image image(8 * MIB);
  const RbdEngine engine = open(import(image), SECOND);
  std::vector<std::byte> bytes;
  ASSERT_EQ(read(engine, 0, bytes), 0);
  CephCluster::killOsd();
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(read(engine, CHUNK, bytes), ENOTCONN);
  const auto took = std::chrono::steady_clock::now() - before;
  CephCluster::startOsd();
  EXPECT_GE(took, std::chrono::milliseconds(900));
  EXPECT_LE(took, std::chrono::seconds(4));
  EXPECT_EQ(counters_.givenUp, 1u);
  // The next one is a new question.
  const RbdEngine patient = open(uri("vm"));
  expectSame(patient, image);
}

TEST_F(Rbd, AClientThatIsShutOutBeginsAnew) {
  const Image image(8 * MIB);
  CephCluster::addUser("shutout", "profile rbd-read-only");
  const RbdEngine engine = open(import(image) + "&id=shutout");
  std::vector<std::byte> bytes;
  ASSERT_EQ(read(engine, 0, bytes), 0);
  CephCluster::run("ceph daemon " + CephCluster::directory() + "/mon.a.asok sessions | python3 -c '" +
                   "import json, sys\n" + "for one in json.load(sys.stdin):\n" +
                   "    if one[\"entity_name\"] == \"client.shutout\": "
                   "print(one[\"addrs\"][\"addrvec\"][0][\"addr\"] + \"/\" + " +
                   "str(one[\"addrs\"][\"addrvec\"][0][\"nonce\"]))' | xargs -n1 ceph osd blocklist add");
  expectSame(engine, image);
  EXPECT_EQ(counters_.reconnects, 1u);
}

TEST_F(Rbd, ASnapshotThatIsRemovedIsNoticed) {
  const Image image(8 * MIB);
  const RbdEngine engine = open(import(image));
  std::vector<std::byte> bytes;
  ASSERT_EQ(read(engine, 0, bytes), 0);
  CephCluster::run("rbd snap unprotect p/" + name("vm") + "@s");
  // It is looked at now and then, while it is read.
  int error = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (error == 0 && std::chrono::steady_clock::now() < end) error = read(engine, 0, bytes);
  EXPECT_EQ(error, ESTALE);
  CephCluster::run("rbd snap protect p/" + name("vm") + "@s");
  EXPECT_EQ(read(engine, 0, bytes), ESTALE);
}

}  // namespace faultline::test
