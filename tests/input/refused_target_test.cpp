// A target that is refused ends its own connection and nothing else, and it is said why: a restore that runs
// meanwhile is served byte for byte.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rpc/connection.h"
#include "rpc/fd.h"
#include "tests/support/image.h"
#include "tests/support/raw_vmm.h"
#include "tests/support/send_with_fds.h"
#include "tests/support/server.h"
#include "tests/support/sources.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t PAGES = 64;
constexpr std::uint64_t BASE = 1ull << 40;

// A handshake of one region, described by these fields.
std::string region(std::uint64_t base, std::uint64_t size, std::uint64_t offset, std::uint64_t pageSize) {
  return "{\"base_host_virt_addr\":" + std::to_string(base) + ",\"size\":" + std::to_string(size) +
         ",\"offset\":" + std::to_string(offset) + ",\"page_size\":" + std::to_string(pageSize) + "}";
}

const std::string GOOD = "[" + region(BASE, 4096, 0, 4096) + "]";

// A running restore, and a socket that tells why it refuses. Half of the running target's pages come after
// whatever the test has done.
class RefusedTarget : public testing::Test {
 protected:
  explicit RefusedTarget(ServerOptions options = {}, std::uint64_t bytes = PAGES * 4096)
      : image_(bytes), server_(image_, std::move(options)) {}
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

  Image image_;
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

// --- what was registered is not what was named ---

// Memory of this process with a userfaultfd of its own, of which the first `registered` bytes are registered.
class PartlyRegistered {
 public:
  PartlyRegistered(std::uint64_t bytes, std::uint64_t registered,
                   std::uint64_t features = UFFD_FEATURE_EVENT_REMOVE)
      : uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))), bytes_(bytes) {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = features;
    KJ_SYSCALL(ioctl(uffd.get(), UFFDIO_API, &api));
    memory_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uffdio_register range{};
    range.range = {address(), registered};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (registered > 0) {
      KJ_SYSCALL(ioctl(uffd.get(), UFFDIO_REGISTER, &range));
    }
  }
  ~PartlyRegistered() { munmap(memory_, bytes_); }
  std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(memory_); }
  std::string body() const { return "[" + region(address(), bytes_, 0, 4096) + "]"; }

  const kj::AutoCloseFd uffd;

 private:
  void* memory_;
  const std::uint64_t bytes_;
};

constexpr const char* NOT_REGISTERED =
    "this memory is not registered with the userfaultfd: do UFFDIO_REGISTER";

TEST_F(RefusedTarget, MemoryThatIsNotRegistered) {
  const PartlyRegistered vmm(PAGES * 4096, 0);
  expectRefused(vmm.body(), {vmm.uffd.get()}, NOT_REGISTERED);
}

TEST_F(RefusedTarget, ARegionWhoseLastPageIsNotRegistered) {
  const PartlyRegistered vmm(PAGES * 4096, (PAGES - 1) * 4096);
  expectRefused(vmm.body(), {vmm.uffd.get()}, NOT_REGISTERED);
}

TEST_F(RefusedTarget, UnregisteredMemoryByTheControlInterface) {
  const PartlyRegistered vmm(PAGES * 4096, 0);
  auto request = server_.client().coordinator().attachRequest();
  auto attached = request.initSpec().initRegions(1)[0];
  attached.setBase(vmm.address());
  attached.setSize(PAGES * 4096);
  request.setUffd(rpc::makeFdFrom(vmm.uffd.get()));
  fill(request.initSource(), image_.path());
  try {
    server_.wait(request.send());
    ADD_FAILURE() << "attached";
  } catch (const kj::Exception& error) {
    EXPECT_THAT(error.getDescription().cStr(), HasSubstr(NOT_REGISTERED));
  }
}

// 4 KiB named, pages of 2 MiB registered: no page of 4 KiB could be put in place.
class HugeRefusedTarget : public RefusedTarget {
 protected:
  HugeRefusedTarget() : RefusedTarget({}, 4ul << 20) {}
};

TEST_F(HugeRefusedTarget, WithAnotherPageSizeThanItNames) {
  if (!hugePagesAvailable(2)) GTEST_SKIP() << "no 2 free huge pages; echo 128 > /proc/sys/vm/nr_hugepages";
  const RawVmm huge({4ul << 20}, 2ul << 20);
  expectRefused(huge.body(",\"page_size\":4096"), {huge.uffd()},
                "the page size is 4096, and that is not the size of this memory's pages");
}

// A target can give up a part of such a page, and a page has one state.
TEST_F(HugeRefusedTarget, WithSharedHugePages) {
  if (!hugePagesAvailable(2)) GTEST_SKIP() << "no 2 free huge pages; echo 128 > /proc/sys/vm/nr_hugepages";
  const kj::AutoCloseFd file(memfd_create("guest", MFD_CLOEXEC | MFD_HUGETLB));
  ASSERT_EQ(ftruncate(file.get(), 4l << 20), 0);
  const RawVmm huge({4ul << 20}, 2ul << 20, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING,
                    file.get());
  const RawVmm other({4ul << 20}, 2ul << 20, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING,
                     file.get());
  const std::string says = "region 0: this is shared memory of 2 MiB pages";
  expectRefused(huge.body(",\"page_size\":2097152"), {huge.uffd()}, says);

  auto request = server_.client().coordinator().attachRequest();
  auto attached = request.initSpec().initRegions(1)[0];
  attached.setBase(reinterpret_cast<std::uint64_t>(other.at(0)));
  attached.setSize(4ul << 20);
  attached.setPageSize(2ul << 20);
  request.setUffd(rpc::makeFdFrom(other.uffd()));
  request.setTarget(rpc::makeFd(kj::AutoCloseFd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)))));
  fill(request.initSource(), image_.path());
  try {
    server_.wait(request.send());
    ADD_FAILURE() << "attached";
  } catch (const kj::Exception& error) {
    EXPECT_THAT(error.getDescription().cStr(), HasSubstr(says));
  }
}

// --- a userfaultfd that is served already ---

TEST_F(RefusedTarget, TheSameUserfaultfdAgain) {
  const auto base = reinterpret_cast<std::uint64_t>(target_.address(0));
  expectRefused("[" + region(base, PAGES * 4096, 0, 4096) + "]",
                "this userfaultfd is served already, as restore vm: hand each over once");
}

TEST_F(RefusedTarget, ASecondHandshakeOnOneConnection) {
  RawVmm first({PAGES * 4096}), second({PAGES * 4096});
  first.connect(server_.socket());
  first.send(first.body(",\"page_size\":4096"), {first.uffd()});
  server_.restore(1);
  first.send(second.body(",\"page_size\":4096"), {second.uffd()});
  first.awaitHangUp();
  EXPECT_NE(server_.eventWith({"restore vm-2", "another handshake came on its connection and is refused"}),
            "");
  for (std::uint64_t page = 0; page < PAGES; page++)
    EXPECT_EQ(*first.at(0, page * 4096), image_.at(page * 4096));
  auto ended = server_.restore(1).detachRequest();
  ended.setForce(true);
  server_.wait(ended.send());
}

// Who only looks whether the socket is served, as a health probe does, is no target. The next one is refused, and the
// only one.
TEST_F(RefusedTarget, IsNotOneThatSaysNothing) {
  for (unsigned i = 0; i < 3; i++) connect();
  expectRefused("hello", "it begins with 'hello'");
  EXPECT_EQ(server_.wait(listener_.lastErrorRequest().send()).getRefused(), 1u);
}

// --- features ---

// Faults would not be told of.
TEST_F(RefusedTarget, OneThatGetsASignalForEachFault) {
  const PartlyRegistered vmm(PAGES * 4096, PAGES * 4096, UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_SIGBUS);
  expectRefused(vmm.body(), {vmm.uffd.get()}, "was set up with UFFD_FEATURE_SIGBUS, which is not served");
}

// A userfaultfd with events that would have to be followed, or with faults on memory whose bytes are there and are not the
// snapshot's: whichever way it comes.
TEST_F(RefusedTarget, EventsAndFaultsThatAreNotServed) {
  for (const std::uint64_t feature :
       {UFFD_FEATURE_EVENT_FORK, UFFD_FEATURE_EVENT_REMAP, UFFD_FEATURE_EVENT_UNMAP, UFFD_FEATURE_MINOR_SHMEM,
        UFFD_FEATURE_MINOR_HUGETLBFS}) {
    const kj::AutoCloseFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = feature | UFFD_FEATURE_EVENT_REMOVE;
    if (ioctl(uffd.get(), UFFDIO_API, &api) != 0)
      GTEST_SKIP() << "needs CAP_SYS_PTRACE, for userfaultfds with such events: " << strerror(errno);
    const std::string says = "which is not served: of what changes events and faults";
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
    EXPECT_THAT(error.getDescription().cStr(), ::testing::HasSubstr("UFFD_FEATURE_EVENT_UNMAP"));
  }
}

}  // namespace
}  // namespace faultline::test
