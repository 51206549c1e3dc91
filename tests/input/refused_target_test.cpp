// A target that is refused ends its own connection and nothing else, and it is said why: a restore that runs
// meanwhile is served byte for byte.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rpc/connection.h"
#include "rpc/fd.h"
#include "tests/support/image.h"
#include "tests/support/send_with_fds.h"
#include "tests/support/server.h"
#include "tests/support/sources.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t PAGES = 64;
constexpr std::uint64_t BASE = 1ull << 40;

// One region, described by these fields.
std::string region(std::uint64_t base, std::uint64_t size, std::uint64_t offset, std::uint64_t pageSize) {
  return "{\"base_host_virt_addr\":" + std::to_string(base) + ",\"size\":" + std::to_string(size) +
         ",\"offset\":" + std::to_string(offset) + ",\"page_size\":" + std::to_string(pageSize) + "}";
}

const std::string GOOD = "[" + region(BASE, 4096, 0, 4096) + "]";

// A running restore, and a socket that tells why it refuses. Half of the running target's pages come after
// whatever the test has done.
class RefusedTarget : public testing::Test {
 protected:
  explicit RefusedTarget(ServerOptions options = {}) : server_(image_, std::move(options)) {}
  ~RefusedTarget() noexcept override {}  // KJ's may throw

  void SetUp() override {
    server_.restore();
    for (std::uint64_t page = 0; page < PAGES / 2; page++) ASSERT_TRUE(target_.holdsImage(page)) << page;
  }
  void TearDown() override {
    for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target_.holdsImage(page)) << page;
    EXPECT_EQ(server_.status().getRestores().size(), 1u);
  }

  rpc::Listener::Client listen() {
    auto request = server_.client().coordinator().listenRequest();
    auto spec = request.initSpec();
    spec.setName("strict");
    fill(request.initSource(), image_.path());
    request.setSocket(rpc::makeFd(rpc::listenAt(socket_)));
    return server_.wait(request.send()).getListener();
  }

  kj::AutoCloseFd connect() const { return rpc::connectTo(socket_); }

  // The server hangs up, and says what is expected.
  void expectRefused(const kj::AutoCloseFd& connection, const std::string& says) {
    char byte;
    EXPECT_LE(recv(connection.get(), &byte, 1, 0), 0);  // waits until the server closes it
    EXPECT_THAT(server_.wait(listener_.lastErrorRequest().send()).getMessage().cStr(), HasSubstr(says));
  }
  // A handshake of this body with these fds is refused with a message that says `says`.
  void expectRefused(const std::string& body, const std::vector<int>& fds, const std::string& says) {
    const kj::AutoCloseFd connection = connect();
    ASSERT_TRUE(sendWithFds(connection.get(), body, fds));
    expectRefused(connection, says);
  }
  // A handshake of this body with the running target's userfaultfd is refused.
  void expectRefused(const std::string& body, const std::string& says) {
    expectRefused(body, {target_.uffd()}, says);
  }

  Image image_{PAGES * 4096};
  Server server_;
  Target target_{image_, server_.socket(), 4096};
  const std::string socket_ = image_.directory() + "/strict";
  rpc::Listener::Client listener_ = listen();
};

struct Bad {
  std::string regions;
  const char* says;
};

TEST_F(RefusedTarget, RegionsThatCannotBeServed) {
  for (const Bad& bad :
       {Bad{region(BASE, 0, 0, 4096), "the size is 0: leave the region out"},
        Bad{region(BASE + 1, 4096, 0, 4096), "must be multiples of the page size"},
        Bad{region(BASE, 4096, 100, 4096), "must be multiples of the page size"},
        Bad{region(BASE, (PAGES + 1) * 4096, 0, 4096),
            "past the end of the source, which has 262144 bytes: give this snapshot's own memory file"},
        Bad{region(BASE, 4096, 0, 16384), "this page size is not served; 4096 and 2097152 are"},
        Bad{region(~0ull - 4095, 8192, 0, 4096), "wraps around the end of the address space: give"},
        Bad{region(BASE, 8192, 0, 4096) + "," + region(BASE + 4096, 8192, 0, 4096),
            "overlap: name each address once"}})
    expectRefused("[" + bad.regions + "]", bad.says);
}

TEST_F(RefusedTarget, MoreRegionsThanAreServed) {
  std::string body;
  for (std::uint64_t i = 0; i < 4097; i++)
    body += (i == 0 ? "[" : ",") + region(BASE + i * 4096, 4096, 0, 4096);
  expectRefused(body + "]", "4097 regions are given; at most 4096 are served");
}

// Each region has bytes of its own: what is tracked for a target stays within what its file is worth.
TEST_F(RefusedTarget, TheSameBytesAgainAndAgain) {
  std::string body;
  for (std::uint64_t i = 0; i < 3; i++)
    body += (i == 0 ? "[" : ",") + region(BASE + i * PAGES * 4096, PAGES * 4096, 0, 4096);
  expectRefused(body + "]", "at most 2 times its size is served");
}

TEST_F(RefusedTarget, BodiesThatAreNone) {
  for (const auto& [body, says] : {std::pair("[]", "names no region"),
                                   {"[1]", "is no JSON object"},
                                   {"{}", "no JSON array"},
                                   {"hello", "it begins with 'hello'"},
                                   {"[{\"size\":1}]", "base_host_virt_addr is missing"},
                                   {"[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]", "nested too deeply"}})
    expectRefused(body, says);
}

// Its sender is stopped in the middle of it.
TEST_F(RefusedTarget, ABodyWithoutEnd) {
  const kj::AutoCloseFd connection = connect();
  ASSERT_TRUE(sendWithFds(connection.get(), "[", {target_.uffd()}));
  const std::string blanks(64ul * 1024, ' ');
  while (sendWithFds(connection.get(), blanks, {})) continue;
  expectRefused(connection, "the handshake has more than 1048576 bytes");
}

TEST_F(RefusedTarget, OneWithoutAnFd) {
  expectRefused(GOOD, {}, "no file descriptor came with the handshake; send the userfaultfd by SCM_RIGHTS");
}

TEST_F(RefusedTarget, OneWithTwoFds) {
  expectRefused(
      GOOD, {target_.uffd(), target_.uffd()},
      "2 file descriptors came with the handshake; the userfaultfd alone is served (memory by memfd");
}

TEST_F(RefusedTarget, OneWithMoreFdsThanCanBeTaken) {
  expectRefused(GOOD, std::vector<int>(40, target_.uffd()), "send the userfaultfd alone");
}

TEST_F(RefusedTarget, ASocketForAUserfaultfd) {
  const kj::AutoCloseFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  expectRefused(GOOD, {socket.get()}, "the file descriptor is no userfaultfd, it is socket:");
}

TEST_F(RefusedTarget, AFileForAUserfaultfd) {
  const kj::AutoCloseFd file(open(image_.path().c_str(), O_RDONLY | O_CLOEXEC));
  expectRefused(GOOD, {file.get()}, "the file descriptor is no userfaultfd, it is " + image_.path());
}

// A userfaultfd with events that would have to be followed: whichever way it comes.
TEST_F(RefusedTarget, EventsThatAreNotServed) {
  for (const std::uint64_t feature :
       {UFFD_FEATURE_EVENT_FORK, UFFD_FEATURE_EVENT_REMAP, UFFD_FEATURE_EVENT_UNMAP}) {
    const kj::AutoCloseFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = feature | UFFD_FEATURE_EVENT_REMOVE;
    if (ioctl(uffd.get(), UFFDIO_API, &api) != 0)
      GTEST_SKIP() << "needs CAP_SYS_PTRACE, for userfaultfds with such events: " << strerror(errno);
    const std::string says = "fork, remap or unmap events, which are not served";
    expectRefused(GOOD, {uffd.get()}, says);

    auto request = server_.client().coordinator().attachRequest();
    auto attached = request.initSpec().initRegions(1)[0];
    attached.setBase(BASE);
    attached.setSize(4096);
    request.setUffd(rpc::makeFdFrom(uffd.get()));
    fill(request.initSource(), image_.path());
    try {
      server_.wait(request.send());
      ADD_FAILURE() << "attached, with features " << api.features;
    } catch (const kj::Exception& error) {
      EXPECT_THAT(error.getDescription().cStr(), HasSubstr(says));
    }
  }
}

// Names stand in log lines and labels.
TEST_F(RefusedTarget, ANameOfSeveralLines) {
  for (const char* name : {"two\nlines", "a.b", "a b", "\x01", "/"}) {
    auto request = server_.client().coordinator().attachRequest();
    request.initSpec().setName(name);
    request.setUffd(rpc::makeFdFrom(target_.uffd()));
    fill(request.initSource(), image_.path());
    try {
      server_.wait(request.send());
      ADD_FAILURE() << "attached as " << name;
    } catch (const kj::Exception& error) {
      EXPECT_THAT(error.getDescription().cStr(), HasSubstr("a name has 1 to 50 characters")) << name;
    }
  }
}

// --- those that are waited for in vain ---

class LateTarget : public RefusedTarget {
 protected:
  static constexpr const char* SAYS =
      "no complete handshake came within 500 ms: send it as soon as connected, or "
      "raise --handshake-timeout-ms";
  LateTarget() : RefusedTarget({.more = {"--handshake-timeout-ms", "500"}}) {}
};

TEST_F(LateTarget, OneThatSaysNothing) {
  expectRefused(connect(), SAYS);
}

TEST_F(LateTarget, OneThatStopsInTheMiddle) {
  expectRefused("[{\"base_host_virt", SAYS);
}

// The control interface refuses events that are not followed, as the handshake does.
TEST_F(RefusedTarget, OneWhoseEventsAreNotFollowed) {
  server_.restore();
  const kj::AutoCloseFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
  ASSERT_EQ(ioctl(uffd.get(), UFFDIO_API, &api), 0);
  auto request = server_.client().coordinator().attachRequest();
  auto listed = request.initSpec().initRegions(1)[0];
  listed.setBase(1ull << 40);
  listed.setSize(4096);
  listed.setPageSize(4096);
  request.setUffd(rpc::makeFdFrom(uffd.get()));
  fill(request.initSource(), image_.path());
  try {
    server_.wait(request.send());
    ADD_FAILURE() << "it is served";
  } catch (const kj::Exception& error) {
    EXPECT_THAT(error.getDescription().cStr(), ::testing::HasSubstr("unmap"));
  }
}

}  // namespace
}  // namespace faultline::test
