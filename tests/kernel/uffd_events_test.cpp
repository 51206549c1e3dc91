// FORK, REMAP and UNMAP events of a userfaultfd, as the kernel deals with them: each test is a claim of
// docs/checkpointers.md.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "tests/support/child_process.h"
#include "tests/support/send_with_fds.h"
#include "uffd/uffd.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t PAGE = 4096;

// A userfaultfd with some pages that are registered with it and missing.
class Watched {
 public:
  explicit Watched(std::uint64_t features, std::uint64_t pages = 4) : bytes_(pages * PAGE) {
    uffd_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = features;
    if (uffd_ < 0 || ioctl(uffd_, UFFDIO_API, &api) != 0) return;
    void* start = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uffdio_register range{};
    range.range = {reinterpret_cast<std::uint64_t>(start), bytes_};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(uffd_, UFFDIO_REGISTER, &range) == 0) memory_ = static_cast<volatile unsigned char*>(start);
  }
  ~Watched() { close(uffd_); }
  Watched(const Watched&) = delete;

  bool ready() const { return memory_ != nullptr; }
  int uffd() const { return uffd_; }
  std::uint64_t bytes() const { return bytes_; }
  volatile unsigned char* at(std::uint64_t page) const { return memory_ + page * PAGE; }
  std::uint64_t address(std::uint64_t page = 0) const { return reinterpret_cast<std::uint64_t>(at(page)); }

 private:
  const std::uint64_t bytes_;
  int uffd_;
  volatile unsigned char* memory_ = nullptr;
};

// Waits for a message and reads it; event 0 where the kernel gives none (errno).
uffd_msg next(int uffd) {
  pollfd ready{uffd, POLLIN, 0};
  poll(&ready, 1, -1);
  uffd_msg message{};
  if (read(uffd, &message, sizeof message) != static_cast<ssize_t>(sizeof message)) message.event = 0;
  return message;
}

uffd::Outcome fill(int uffd, std::uint64_t address, unsigned char byte) {
  alignas(PAGE) unsigned char page[PAGE];
  std::memset(page, byte, sizeof page);
  return uffd::copy(uffd, address, page, PAGE, uffd::Protect::no, uffd::Waiters::wake).outcome;
}

// --- FORK ---

// A target process that forks when told, and whose child then says what it reads in page 1; and the target's
// uffd, here.
class ForkingTarget {
 public:
  ForkingTarget()
      : process_([this] {
          const Watched memory(UFFD_FEATURE_EVENT_FORK);
          if (!memory.ready() || !sendWithFds(ends_[1], std::string(8, 'x'), {memory.uffd()})) _exit(1);
          address_.send(memory.address());
          fork_.wait();
          const pid_t parent = getpid();
          const pid_t child = ::fork();
          if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) _exit(1);  // the parent has gone before
            touch_.wait();
            read_.send(*memory.at(1));
            _exit(0);
          }
          forked_.send(1);
          hold_.wait();
        }) {
    char text[8];
    iovec part{text, sizeof text};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = recvmsg(ends_[0], &message, MSG_CMSG_CLOEXEC);
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message); got > 0 && header != nullptr)
      std::memcpy(&uffd, CMSG_DATA(header), sizeof uffd);
    address = address_.wait();
  }
  ~ForkingTarget() {
    close(uffd);
    for (const int end : ends_) close(end);
  }

  void fork() { fork_.send(); }
  bool hasForked() const { return forked_.ready(); }
  void awaitForked() { forked_.wait(); }
  void letChildRead() { touch_.send(); }
  std::uint64_t childHasRead() { return read_.wait(); }

  int uffd = -1;  // the target's own
  std::uint64_t address = 0;

 private:
  class Value {
   public:
    Value() {
      if (pipe2(ends_, O_CLOEXEC) != 0) _exit(99);
    }
    ~Value() {
      for (const int end : ends_) close(end);
    }
    void send(std::uint64_t value) { [[maybe_unused]] const auto n = write(ends_[1], &value, sizeof value); }
    std::uint64_t wait() {
      std::uint64_t value = 0;
      [[maybe_unused]] const auto n = read(ends_[0], &value, sizeof value);
      return value;
    }
    bool ready() const {
      pollfd end{ends_[0], POLLIN, 0};
      return poll(&end, 1, 0) == 1;
    }

   private:
    int ends_[2];
  };

  struct Pair {
    Pair() {
      if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) _exit(99);
    }
    int operator[](int i) const { return ends[i]; }
    int* begin() { return ends; }
    int* end() { return ends + 2; }
    int ends[2];
  };

  Pair ends_;
  Value address_, forked_, read_;
  Signal fork_, touch_, hold_;
  ChildProcess process_;
};

class ForkEvent : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "UFFD_FEATURE_EVENT_FORK needs CAP_SYS_PTRACE";
  }
};

TEST_F(ForkEvent, ForkWaitsUntilItIsReadAndTheChildsUffdIsBornInTheReader) {
  ForkingTarget target;
  target.fork();
  pollfd event{target.uffd, POLLIN, 0};
  ASSERT_EQ(poll(&event, 1, -1), 1);
  EXPECT_FALSE(target.hasForked());
  const uffd_msg message = next(target.uffd);
  ASSERT_EQ(message.event, UFFD_EVENT_FORK);
  target.awaitForked();
  // A number of this process's table, though the target made the userfaultfd.
  EXPECT_NE(fcntl(static_cast<int>(message.arg.fork.ufd), F_GETFD), -1);
  close(static_cast<int>(message.arg.fork.ufd));
}

TEST_F(ForkEvent, TheChildsMissingPagesFaultAtItsOwnUffd) {
  ForkingTarget target;
  target.fork();
  const uffd_msg message = next(target.uffd);
  const int child = static_cast<int>(message.arg.fork.ufd);
  target.awaitForked();
  target.letChildRead();
  const uffd_msg fault = next(child);
  ASSERT_EQ(fault.event, UFFD_EVENT_PAGEFAULT);
  EXPECT_EQ(fault.arg.pagefault.address, target.address + PAGE);
  // The parent's page stays missing: a copy for it succeeds, then and there only.
  EXPECT_EQ(fill(target.uffd, target.address + PAGE, 1), uffd::Outcome::done);
  EXPECT_EQ(fill(child, target.address + PAGE, 2), uffd::Outcome::done);
  EXPECT_EQ(target.childHasRead(), 2u);
  close(child);
}

// The instant that a takeover cannot bridge: who has read the event holds the only fd, and it goes with it.
TEST_F(ForkEvent, AReaderThatDiesTakesTheChildsUffdAlongAndTheChildReadsZeros) {
  ForkingTarget target;
  target.fork();
  Signal hasRead, hold;
  ChildProcess reader([&] {
    next(target.uffd);
    hasRead.send();
    hold.wait();
  });
  hasRead.wait();
  reader.kill();
  target.awaitForked();
  target.letChildRead();
  EXPECT_EQ(target.childHasRead(), 0u);
  // The event is gone for a successor.
  pollfd event{target.uffd, POLLIN, 0};
  EXPECT_EQ(poll(&event, 1, 0), 0);
}

// The way around it: a reader that is a process of its own, and whose fd table is not.
TEST_F(ForkEvent, AReaderThatSharesItsFdTableLeavesTheChildsUffdBehind) {
  ForkingTarget target;
  target.fork();
  auto* const seen =
      static_cast<uffd_msg*>(mmap(nullptr, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Signal hasRead;
  const auto reader = static_cast<pid_t>(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0));
  if (reader == 0) {
    *seen = next(target.uffd);
    hasRead.send();
    for (;;) pause();
  }
  hasRead.wait();
  kill(reader, SIGKILL);
  waitpid(reader, nullptr, 0);
  ASSERT_EQ(seen->event, UFFD_EVENT_FORK);
  const int child = static_cast<int>(seen->arg.fork.ufd);
  target.awaitForked();
  target.letChildRead();
  EXPECT_EQ(next(child).event, UFFD_EVENT_PAGEFAULT);
  EXPECT_EQ(fill(child, target.address + PAGE, 3), uffd::Outcome::done);
  EXPECT_EQ(target.childHasRead(), 3u);
  close(child);
  munmap(seen, PAGE);
}

TEST_F(ForkEvent, AReaderWithoutRoomForAnFdLeavesTheEventUnread) {
  ForkingTarget target;
  target.fork();
  pollfd event{target.uffd, POLLIN, 0};
  ASSERT_EQ(poll(&event, 1, -1), 1);
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const int free = dup(target.uffd);  // the lowest that is free
  close(free);
  const rlimit none{static_cast<rlim_t>(free), before.rlim_max};
  setrlimit(RLIMIT_NOFILE, &none);
  uffd_msg message{};
  const ssize_t bytes = read(target.uffd, &message, sizeof message);
  const int error = errno;
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(bytes, -1);
  EXPECT_EQ(error, EMFILE);
  EXPECT_FALSE(target.hasForked());
  const uffd_msg again = next(target.uffd);
  EXPECT_EQ(again.event, UFFD_EVENT_FORK);
  close(static_cast<int>(again.arg.fork.ufd));
}

TEST_F(ForkEvent, TheFeatureNeedsAPrivilege) {
  ChildProcess plain([] {
    const int uffd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    if (uffd < 0 || setresuid(65534, 65534, 65534) != 0) _exit(2);
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_EVENT_FORK;
    _exit(ioctl(uffd, UFFDIO_API, &api) == -1 && errno == EPERM ? 0 : 1);
  });
  EXPECT_EQ(plain.join(), 0);
}

// Today's targets: no feature, no event.
TEST(NoForkEvent, TheChildReadsZerosInMissingPages) {
  const Watched memory(UFFD_FEATURE_EVENT_REMOVE);
  ASSERT_TRUE(memory.ready());
  ChildProcess child([&] { _exit(*memory.at(1)); });
  EXPECT_EQ(child.join(), 0);
  pollfd event{memory.uffd(), POLLIN, 0};
  EXPECT_EQ(poll(&event, 1, 0), 0);
}

// --- REMAP ---

void* placeFor(std::uint64_t bytes) {
  return mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

TEST(RemapEvent, MremapWaitsAndItsPagesAreServedAtTheirNewPlace) {
  const Watched memory(UFFD_FEATURE_EVENT_REMAP);
  ASSERT_TRUE(memory.ready());
  ASSERT_EQ(fill(memory.uffd(), memory.address(0), 7), uffd::Outcome::done);
  void* const place = placeFor(memory.bytes());
  const auto to = reinterpret_cast<std::uint64_t>(place);
  std::thread mover([&] {
    mremap(const_cast<unsigned char*>(memory.at(0)), memory.bytes(), memory.bytes(),
           MREMAP_MAYMOVE | MREMAP_FIXED, place);
  });
  const uffd_msg event = next(memory.uffd());
  ASSERT_EQ(event.event, UFFD_EVENT_REMAP);
  EXPECT_EQ(event.arg.remap.from, memory.address());
  EXPECT_EQ(event.arg.remap.to, to);
  EXPECT_EQ(event.arg.remap.len, memory.bytes());
  mover.join();
  auto* moved = static_cast<volatile unsigned char*>(place);
  EXPECT_EQ(moved[0], 7);  // the page's bytes came along
  unsigned char seen = 0;
  std::thread reader([&] { seen = moved[PAGE]; });
  const uffd_msg fault = next(memory.uffd());
  EXPECT_EQ(fault.event, UFFD_EVENT_PAGEFAULT);
  EXPECT_EQ(fault.arg.pagefault.address, to + PAGE);
  EXPECT_EQ(fill(memory.uffd(), to + PAGE, 8), uffd::Outcome::done);
  reader.join();
  EXPECT_EQ(seen, 8);
  EXPECT_EQ(fill(memory.uffd(), memory.address(2), 9), uffd::Outcome::rangeGone);
  munmap(place, memory.bytes());
}

TEST(RemapEvent, WhileItIsUnreadNoPageCanBeFilled) {
  const Watched memory(UFFD_FEATURE_EVENT_REMAP), other(UFFD_FEATURE_EVENT_REMAP);
  ASSERT_TRUE(memory.ready() && other.ready());
  void* const place = placeFor(2 * PAGE);
  std::thread mover([&] {
    mremap(const_cast<unsigned char*>(memory.at(2)), 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
           place);
  });
  pollfd event{memory.uffd(), POLLIN, 0};
  ASSERT_EQ(poll(&event, 1, -1), 1);
  EXPECT_EQ(fill(memory.uffd(), memory.address(0), 7), uffd::Outcome::refused);
  EXPECT_EQ(fill(other.uffd(), other.address(0), 7), uffd::Outcome::done);  // another userfaultfd's business
  next(memory.uffd());
  mover.join();
  EXPECT_EQ(fill(memory.uffd(), memory.address(0), 7), uffd::Outcome::done);
  munmap(place, 2 * PAGE);
}

TEST(NoRemapEvent, MovedPagesAreNoMoreRegisteredAndReadAsZeros) {
  const Watched memory(UFFD_FEATURE_EVENT_REMOVE);
  ASSERT_TRUE(memory.ready());
  void* const place = placeFor(memory.bytes());
  ASSERT_EQ(mremap(const_cast<unsigned char*>(memory.at(0)), memory.bytes(), memory.bytes(),
                   MREMAP_MAYMOVE | MREMAP_FIXED, place),
            place);
  EXPECT_EQ(static_cast<volatile unsigned char*>(place)[PAGE], 0);
  EXPECT_EQ(fill(memory.uffd(), reinterpret_cast<std::uint64_t>(place) + 2 * PAGE, 7),
            uffd::Outcome::rangeGone);
  munmap(place, memory.bytes());
}

// --- UNMAP ---

TEST(UnmapEvent, MunmapWaitsAndTheRangeHasGoneAlreadyWhenItIsRead) {
  const Watched memory(UFFD_FEATURE_EVENT_UNMAP);
  ASSERT_TRUE(memory.ready());
  std::thread unmapper([&] { munmap(const_cast<unsigned char*>(memory.at(1)), 2 * PAGE); });
  pollfd ready{memory.uffd(), POLLIN, 0};
  ASSERT_EQ(poll(&ready, 1, -1), 1);
  unsigned char there = 0;
  EXPECT_EQ(mincore(const_cast<unsigned char*>(memory.at(1)), PAGE, &there), -1);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(fill(memory.uffd(), memory.address(0), 7), uffd::Outcome::refused);
  const uffd_msg event = next(memory.uffd());
  ASSERT_EQ(event.event, UFFD_EVENT_UNMAP);
  EXPECT_EQ(event.arg.remove.start, memory.address(1));
  EXPECT_EQ(event.arg.remove.end, memory.address(3));
  unmapper.join();
  EXPECT_EQ(fill(memory.uffd(), memory.address(1), 7), uffd::Outcome::rangeGone);
  EXPECT_EQ(fill(memory.uffd(), memory.address(3), 7), uffd::Outcome::done);
}

TEST(NoUnmapEvent, TheRangeIsFoundGoneByItsPage) {
  const Watched memory(UFFD_FEATURE_EVENT_REMOVE);
  ASSERT_TRUE(memory.ready());
  ASSERT_EQ(munmap(const_cast<unsigned char*>(memory.at(1)), 2 * PAGE), 0);
  pollfd ready{memory.uffd(), POLLIN, 0};
  EXPECT_EQ(poll(&ready, 1, 0), 0);
  EXPECT_EQ(fill(memory.uffd(), memory.address(1), 7), uffd::Outcome::rangeGone);
}

}  // namespace
}  // namespace faultline::test
