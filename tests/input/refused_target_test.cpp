// A target that is refused ends its own connection and nothing else: a restore that runs meanwhile runs on.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "rpc/fd.h"
#include "tests/support/image.h"
#include "tests/support/send_with_fds.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t PAGES = 64;

class RefusedTarget : public testing::Test {
 protected:
  // One region of our own uffd, described by these fields.
  std::string region(std::uint64_t base, std::uint64_t size, std::uint64_t offset, std::uint64_t pageSize) {
    return "{\"base_host_virt_addr\":" + std::to_string(base) + ",\"size\":" + std::to_string(size) +
           ",\"offset\":" + std::to_string(offset) + ",\"page_size\":" + std::to_string(pageSize) + "}";
  }

  // So many regions, each of the whole file.
  std::string sameBytes(std::uint64_t base, unsigned count) {
    std::string body = region(base, PAGES * 4096, 0, 4096);
    for (unsigned i = 1; i < count; i++) body += "," + region(base + i * PAGES * 4096, PAGES * 4096, 0, 4096);
    return body;
  }

  int connect() {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, server_.socket().c_str());
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }

  // Sends a body with the running target's uffd and waits for the server to hang up.
  void expectRefused(const std::string& body) {
    const int fd = connect();
    ASSERT_TRUE(sendWithFds(fd, body, {target_.uffd()}));
    expectHungUp(fd);
  }
  static void expectHungUp(int fd) {
    char byte;
    EXPECT_LE(recv(fd, &byte, 1, 0), 0);  // waits until the server closes it
    close(fd);
  }

  void TearDown() override {
    for (std::uint64_t page = 0; page < target_.pages(); page++)
      ASSERT_TRUE(target_.holdsImage(page)) << page;
    EXPECT_EQ(server_.status().getRestores().size(), 1u);
  }

  Image image_{PAGES * 4096};
  Server server_{image_, {.more = {"--handshake-timeout-ms", "200"}}};
  Target target_{image_, server_.socket(), 4096};
};

TEST_F(RefusedTarget, RegionsThatCannotBeServed) {
  server_.restore();
  const std::uint64_t base = 1ull << 40;
  for (const std::string& body :
       {region(base, 0, 0, 4096), region(base + 1, 4096, 0, 4096), region(base, 4096, 100, 4096),
        region(base, (PAGES + 1) * 4096, 0, 4096), region(base, 4096, 0, 16384),
        region(~0ull - 4095, 8192, 0, 4096),
        region(base, 8192, 0, 4096) + "," + region(base + 4096, 8192, 0, 4096), sameBytes(base, 3)})
    expectRefused("[" + body + "]");
}

TEST_F(RefusedTarget, BodiesThatAreNone) {
  server_.restore();
  for (const char* body :
       {"[]", "[1]", "{}", "hello", "[{\"size\":1}]", "[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]"})
    expectRefused(body);
}

TEST_F(RefusedTarget, OneThatSaysNothing) {
  server_.restore();
  expectHungUp(connect());
}

TEST_F(RefusedTarget, OneThatStopsInTheMiddle) {
  server_.restore();
  expectRefused("[{\"base_host_virt");
}

TEST_F(RefusedTarget, OneWithoutAnFd) {
  server_.restore();
  const int fd = connect();
  const std::string body = "[" + region(4096, 4096, 0, 4096) + "]";
  ASSERT_EQ(send(fd, body.data(), body.size(), MSG_NOSIGNAL), static_cast<ssize_t>(body.size()));
  expectHungUp(fd);
}

// What a handshake is refused for, the control interface refuses as well: events that nobody follows.
TEST_F(RefusedTarget, OneWhoseEventsAreNotFollowed) {
  server_.restore();
  const kj::AutoCloseFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
  ASSERT_EQ(ioctl(uffd.get(), UFFDIO_API, &api), 0);
  const int memory = open(image_.path().c_str(), O_RDONLY | O_CLOEXEC);
  auto request = server_.client().coordinator().attachRequest();
  auto listed = request.initSpec().initRegions(1)[0];
  listed.setBase(1ull << 40);
  listed.setSize(4096);
  listed.setPageSize(4096);
  request.setUffd(rpc::makeFdFrom(uffd.get()));
  request.setSource(rpc::makeFd(kj::AutoCloseFd(memory)));
  try {
    server_.wait(request.send());
    ADD_FAILURE() << "it is served";
  } catch (const kj::Exception& error) {
    EXPECT_THAT(error.getDescription().cStr(), ::testing::HasSubstr("unmap"));
  }
}

}  // namespace
}  // namespace faultline::test
