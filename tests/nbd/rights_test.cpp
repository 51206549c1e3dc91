// The rights of a fetcher that asks NBD servers: what it may and, above all, what it may not.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>

#include "fetcher/sandbox.h"
#include "tests/cli/command.h"
#include "tests/support/child_process.h"

namespace faultline::test {
namespace {

// Whether all of it holds in a process with these rights.
bool holds(const fetcher::Rights& rights, const std::function<bool()>& all) {
  return ChildProcess([&] {
           fetcher::fence(rights);
           fetcher::enterSandbox(rights, !rights.readable.empty());
           _exit(all() ? 0 : 1);
         }).join() == 0;
}

bool opens(const std::string& path, int flags = O_RDONLY) {
  return open(path.c_str(), flags | O_CLOEXEC, 0600) >= 0;
}

class FetcherRights : public testing::Test {
 protected:
  void SetUp() override {
#ifdef FAULTLINE_SANITIZED
    GTEST_SKIP() << "a sanitizer needs more rights than are left to a fetcher";
#endif
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair_), 0);
  }
  void TearDown() override {
    for (const int end : pair_) close(end);
  }
  const Directory folder_;
  const std::string key_ = folder_.file("key", "k"), other_ = folder_.file("other", "o");
  int pair_[2] = {-1, -1};
};

TEST_F(FetcherRights, WithoutServersItSendsNothingAndOpensNothing) {
  EXPECT_TRUE(holds({}, [&] {
    return send(pair_[0], "x", 1, 0) < 0 && errno == EPERM && !opens(key_) && errno == EPERM &&
           socket(AF_UNIX, SOCK_STREAM, 0) < 0 && errno == EPERM;
  }));
}

TEST_F(FetcherRights, ItUsesConnectionsAndMakesNone) {
  EXPECT_TRUE(holds({.connections = true}, [&] {
    char byte;
    if (send(pair_[0], "x", 1, MSG_NOSIGNAL) != 1 || recv(pair_[1], &byte, 1, 0) != 1) return false;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const auto* to = reinterpret_cast<const sockaddr*>(&address);
    for (const int family : {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK})
      if (socket(family, SOCK_STREAM, 0) >= 0 || errno != EPERM) return false;
    // The call itself: a fetcher's connect() makes none where there is a connection (fetcher/connected_sockets.h).
    if (syscall(SYS_connect, pair_[0], to, sizeof address) == 0 || errno != EPERM) return false;
    if (sendto(pair_[0], "x", 1, 0, to, sizeof address) >= 0 || errno != EPERM) return false;
    return !opens(key_) && errno == EPERM;
  }));
}

// What Ceph's library needs, and no more.
TEST_F(FetcherRights, ForCephItConnectsToHostsAndToNoSocketOfThisOne) {
  EXPECT_TRUE(holds({.network = true}, [&] {
    for (const int family : {AF_INET, AF_INET6})
      if (socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0) return false;
    for (const int family : {AF_UNIX, AF_NETLINK, AF_PACKET})
      if (socket(family, SOCK_STREAM, 0) >= 0 || errno != EPERM) return false;
    return !opens(key_) && errno == EPERM;
  }));
}

TEST_F(FetcherRights, ItOpensTheKeysThatItWasNamedAndNoOtherFile) {
  EXPECT_TRUE(holds({.connections = true, .readable = {key_}}, [&] {
    if (!opens(key_)) return false;
    return !opens(other_) && !opens("/etc/passwd") && !opens(folder_.path()) && !opens(key_, O_RDWR) &&
           !opens(folder_ / "new", O_WRONLY | O_CREAT) && socket(AF_INET, SOCK_STREAM, 0) < 0;
  }));
}

TEST_F(FetcherRights, AFolderOfCertificatesIsOpenWithWhatIsInIt) {
  EXPECT_TRUE(holds({.connections = true, .readable = {folder_.path()}},
                    [&] { return opens(key_) && opens(other_) && !opens("/etc/passwd"); }));
}

TEST_F(FetcherRights, WhatIsNotThereIsLeftOut) {
  EXPECT_TRUE(holds({.connections = true, .readable = {folder_ / "none", key_}},
                    [&] { return opens(key_) && !opens(other_); }));
}

}  // namespace
}  // namespace faultline::test
