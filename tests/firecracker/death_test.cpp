// How the page server learns that a VMM has died, by what it can have of it: its pidfd; from 1.12 on the
// connection; or nothing but the answers of its userfaultfd. The restore ends then, and not before.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "tests/recovery/recovery_test.h"
#include "tests/support/child_process.h"
#include "tests/support/raw_vmm.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StrEq;

constexpr std::uint64_t MIB = 1u << 20;
constexpr const char* V1_6 = "";
constexpr const char* V1_12 = ",\"page_size\":4096,\"page_size_kib\":4096";
constexpr int KILLED = 128 + SIGKILL;

enum class Denied { nothing, peerPidfd, anyPidfd };

// For the process that calls it and all that it starts. peerPidfd: SO_PEERPIDFD, as on a kernel before 6.5.
// anyPidfd: nor can `pid` be opened, as where it is of another pid namespace.
void deny(Denied denied, pid_t pid) {
  if (denied == Denied::nothing) return;
  const scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
  bool done = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOPROTOOPT), SCMP_SYS(getsockopt), 2,
                               SCMP_A1(SCMP_CMP_EQ, SOL_SOCKET), SCMP_A2(SCMP_CMP_EQ, 77)) == 0;
  if (denied == Denied::anyPidfd)
    done = done && seccomp_rule_add(filter, SCMP_ACT_ERRNO(ESRCH), SCMP_SYS(pidfd_open), 1,
                                    SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(pid))) == 0;
  if (!done || seccomp_load(filter) != 0) _exit(126);
}

class TheDeathOfTheVmm : public ::testing::Test {
 protected:
  // A VMM in a process of its own, which is there before the server, so that this can be kept from getting
  // its pidfd. Goes through its handshake in the words of `version`, does `then`, and does nothing more.
  ChildProcess vmm(const char* version, const std::function<void(RawVmm&)>& then) {
    return ChildProcess([this, version, &then] {
      RawVmm vmm({8 * MIB});
      serverIsThere_.wait();
      vmm.connect(image_.directory() + "/socket");
      vmm.send(vmm.body(version), {vmm.uffd()});
      then(vmm);
      pause();
    });
  }
  std::unique_ptr<Server> serve(const ChildProcess& vmm, Denied denied, std::string logFile = "") {
    const pid_t pid = vmm.pid();
    auto server = std::make_unique<Server>(
        image_, ServerOptions{.logFile = std::move(logFile), .before = [=] { deny(denied, pid); }});
    serverIsThere_.send();
    return server;
  }
  // In the VMM: compares every page, and says that it has.
  void compareAll(const RawVmm& vmm) {
    bool right = true;
    for (std::uint64_t at = 0; at < image_.bytes(); at += 512)
      right = right && *vmm.at(0, at) == image_.at(at);
    compared_.send();
    if (!right) _exit(1);
  }
  static void expectKilled(ChildProcess& vmm) {
    ::kill(vmm.pid(), SIGKILL);
    EXPECT_EQ(vmm.join(), KILLED);
  }
  // Whatever a coordinator has been told by now, it has looked at when it answers the second of two calls.
  static void expectServing(Server& server) {
    for (int call = 0; call < 2; call++) ASSERT_EQ(server.status().getRestores().size(), 1u);
  }
  static std::string reason(Server& server,
                            kj::Promise<capnp::Response<rpc::Restore::WaitEndedResults>> ended) {
    return server.wait(kj::mv(ended)).getText().cStr();
  }

  Image image_{8 * MIB};
  Signal serverIsThere_, go_, said_, compared_;
};

TEST_F(TheDeathOfTheVmm, IsNoticedByThePidfdOfItsConnection) {
  auto child = vmm(V1_6, [](RawVmm& vmm) { vmm.hangUp(); });
  const auto server = serve(child, Denied::nothing);
  auto ended = server->restore().waitEndedRequest().send();
  expectKilled(child);
  EXPECT_THAT(reason(*server, kj::mv(ended)), StrEq("the target has gone"));
}

TEST_F(TheDeathOfTheVmm, IsNoticedByAPidfdOfItsPidWhereTheConnectionGivesNone) {
  auto child = vmm(V1_6, [](RawVmm& vmm) { vmm.hangUp(); });
  const auto server = serve(child, Denied::peerPidfd);
  auto ended = server->restore().waitEndedRequest().send();
  expectKilled(child);
  EXPECT_THAT(reason(*server, kj::mv(ended)), StrEq("the target has gone"));
}

// From 1.12 on a closed socket means that it died; its memory is asked whether it did.
TEST_F(TheDeathOfTheVmm, IsNotWhatAClosedSocketMeansWhileItsMemoryLives) {
  auto child = vmm(V1_12, [this](RawVmm& vmm) {
    go_.wait();
    vmm.hangUp();
    said_.send();
    compareAll(vmm);
  });
  const auto server = serve(child, Denied::anyPidfd);
  auto ended = server->restore().waitEndedRequest().send();
  go_.send();
  said_.wait();
  expectServing(*server);
  compared_.wait();
  expectKilled(child);
  EXPECT_THAT(reason(*server, kj::mv(ended)), StrEq("the target's memory has gone"));
}

// A launcher makes the connection and hands over the userfaultfd of another process, here of this one.
TEST_F(TheDeathOfTheVmm, IsNotTheDeathOfWhoeverConnectedForIt) {
  RawVmm vmm({8 * MIB});
  ChildProcess launcher([&] {
    serverIsThere_.wait();
    vmm.connect(image_.directory() + "/socket");
    vmm.send(vmm.body(V1_12), {vmm.uffd()});
    go_.wait();
    _exit(0);
  });
  const auto server = serve(launcher, Denied::nothing);
  server->restore();
  go_.send();
  EXPECT_EQ(launcher.join(), 0);
  expectServing(*server);
  for (std::uint64_t at = 0; at < image_.bytes(); at += SMALL) ASSERT_EQ(*vmm.at(0, at), image_.at(at)) << at;
}

TEST_F(TheDeathOfTheVmm, IsNotWhatAClosedSocketMeansBefore1_12) {
  auto child = vmm(V1_6, [this](RawVmm& vmm) {
    vmm.hangUp();
    compareAll(vmm);
  });
  const auto server = serve(child, Denied::anyPidfd);
  server->restore();
  compared_.wait();
  expectServing(*server);
  expectKilled(child);
}

TEST_F(TheDeathOfTheVmm, IsNotWhatItMeansThatItSaysMore) {
  auto child = vmm(V1_12, [this](RawVmm& vmm) {
    go_.wait();
    vmm.send("and another thing");
    said_.send();
    compareAll(vmm);
  });
  const auto server = serve(child, Denied::anyPidfd);
  server->restore();
  go_.send();
  said_.wait();
  expectServing(*server);
  compared_.wait();
  expectKilled(child);
}

// Interleaving: the restore is durable, the handshake still lies in the connection as the coordinator dies.
// Its successor finds bytes to read there.
TEST_F(TheDeathOfTheVmm, IsNotWhatAnUnreadHandshakeMeansToASuccessor) {
  auto child = vmm(V1_12, [this](RawVmm& vmm) { compareAll(vmm); });
  auto server = std::make_unique<Server>(
      image_, ServerOptions{.before = [pid = child.pid()] { deny(Denied::anyPidfd, pid); }});
  const auto barrier = arm(*server, coordinatorHooks(*server), "restoreStored", rpc::Action::KILL);
  serverIsThere_.send();
  compared_.wait();
  server->reconnect();
  EXPECT_EQ(server->status().getIncarnation(), 2u);
  expectServing(*server);
  expectKilled(child);
}

// Interleaving: the VMM dies while there is no coordinator. Its successor learns it before it serves the
// restore: it waits meanwhile for a shard that stands still in its section.
TEST_F(TheDeathOfTheVmm, DuringATakeoverIsNoticedAfterIt) {
  auto child = vmm(V1_6, [this](RawVmm& vmm) {
    vmm.hangUp();
    go_.wait();
    (void)*vmm.at(0, 3 * SMALL);
  });
  Server server(image_, {.lockDeadlineMs = 300});
  serverIsThere_.send();
  server.restore();
  const unsigned owner = server.ownerOf(3);
  const pid_t shard = server.shardPid(owner), coordinator = server.coordinatorPid();
  const auto barrier = arm(server, shardHooks(server, owner), "beforeCopy", rpc::Action::STOP, 3);
  go_.send();
  awaitStopped(shard);
  ::kill(coordinator, SIGSTOP);
  expectKilled(child);
  ::kill(coordinator, SIGKILL);
  server.reconnect();
  await([&] { return server.status().getRestores().size() == 0; });
  // The shard that comes in the dead one's place meets a restore that is over.
  await([&] { return server.status().getShards()[owner].getAlive(); });
  EXPECT_EQ(server.status().getIncarnation(), 2u);
}

// No thread waits for a page any more, and no page is on its way.
TEST_F(TheDeathOfTheVmm, IsNoticedByItsMemoryWhereThereIsNothingElse) {
  auto child = vmm(V1_6, [](RawVmm& vmm) { vmm.hangUp(); });
  const auto server = serve(child, Denied::anyPidfd);
  auto ended = server->restore().waitEndedRequest().send();
  expectKilled(child);
  EXPECT_THAT(reason(*server, kj::mv(ended)), StrEq("the target's memory has gone"));
}

// Interleaving: the worker is in its section as the VMM dies, and its copy finds no memory (ESRCH).
TEST_F(TheDeathOfTheVmm, IsNoticedByTheCopyThatFindsNoMemory) {
  const std::string log = image_.directory() + "/log";
  auto child = vmm(V1_6, [this](RawVmm& vmm) {
    vmm.hangUp();
    go_.wait();
    (void)*vmm.at(0, 3 * SMALL);
  });
  const auto server = serve(child, Denied::anyPidfd, log);
  auto ended = server->restore().waitEndedRequest().send();
  auto barrier = server->barrier(3, rpc::FaultPoint::BEFORE_COPY);
  go_.send();
  server->wait(barrier.waitHeldRequest().send());
  expectKilled(child);
  server->wait(barrier.releaseRequest().send());
  await([&] { return textOf(log).find("the target's memory is gone") != std::string::npos; });  // its shard
  EXPECT_THAT(reason(*server, kj::mv(ended)), HasSubstr("the target's memory has gone"));
}

}  // namespace
}  // namespace faultline::test
