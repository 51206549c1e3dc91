// A target for the tests under a real systemd: it reads its pages in a random order at a pace, compares each
// byte with the image, holds its userfaultfd open as Firecracker does, and reports what it read and how long
// its longest touch took.
//
// reader SOCKET IMAGE TARGETS PACE_US: TARGETS restores in this process, a page each PACE_US microseconds.
// Says "ready" on stdout once each target has read a page. On "lap" (a line on stdin) it says, after the next page,
// how long the longest touch was since the last lap. On "hurry", or SIGTERM, it reads what is left at once; on
// "stop" it reads no more. At its end it prints a JSON object. Exit code 3: a
// handshake was refused; else 0, whatever was read.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/faultline_client.h"
#include "client/sigbus.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t PAGE = 4096;
constexpr std::chrono::seconds LONGEST{60};  // of one touch, before it counts as one that is never answered

// Readable from the moment on that it names; never drained.
struct Moment {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

  // Also for a signal handler.
  void come() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof one);
  }
};

const Moment hurry, stop, done;

// Waits until one of the moments has come, at most `limit`; whether it has.
bool hasCome(std::initializer_list<const Moment*> moments, std::chrono::nanoseconds limit = {}) {
  std::vector<pollfd> fds;
  for (const Moment* moment : moments) fds.push_back({moment->fd, POLLIN, 0});
  const timespec time{limit.count() / 1'000'000'000, limit.count() % 1'000'000'000};
  return ppoll(fds.data(), fds.size(), &time, nullptr) > 0;
}

struct Totals {
  std::uint64_t right = 0, zeros = 0, wrong = 0, poisoned = 0;
  Clock::duration longest{}, longestOfLap{};
};

struct Touch {
  const char* memory;
  const char* image;
};

[[noreturn]] void fail(const char* what, const char* why) {
  std::fprintf(stderr, "reader: %s: %s\n", what, why);
  std::exit(3);
}

const char* readImage(const char* path, std::uint64_t& bytes) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0) fail(path, std::strerror(errno));
  bytes = static_cast<std::uint64_t>(status.st_size);
  // A copy: what becomes of the file is part of the tests.
  auto* image = static_cast<char*>(std::malloc(bytes));
  for (std::uint64_t done = 0; done < bytes;) {
    const ssize_t got = pread(fd, image + done, bytes - done, static_cast<off_t>(done));
    if (got <= 0) fail(path, "it cannot be read");
    done += static_cast<std::uint64_t>(got);
  }
  close(fd);
  return image;
}

faultline_target* connect(const char* socket, std::uint64_t bytes) {
  const faultline_region region{bytes, 0, PAGE};
  faultline_target* target = nullptr;
  char why[256];
  if (faultline_target_open(&region, 1, 0, &target, why, sizeof why) != 0) fail("memory", why);
  if (faultline_target_connect(target, socket, 10'000, why, sizeof why) != 0) fail(socket, why);
  return target;
}

void read(const Touch& touch, Totals& totals, std::atomic<Clock::rep>& since) {
  const auto begin = Clock::now();
  since.store(begin.time_since_epoch().count());
  int answer = 0;
  auto compare = [&] { answer = std::memcmp(touch.memory, touch.image, PAGE); };
  const auto error = faultline::target::guarded(compare);
  since.store(0);
  const auto took = Clock::now() - begin;
  totals.longest = std::max(totals.longest, took);
  totals.longestOfLap = std::max(totals.longestOfLap, took);
  if (error.has_value())
    totals.poisoned++;
  else if (answer == 0)
    totals.right++;
  else
    (std::all_of(touch.memory, touch.memory + PAGE, [](char c) { return c == 0; }) ? totals.zeros
                                                                                   : totals.wrong)++;
}

long inMs(Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
}

void reportLap(Totals& totals) {
  std::printf(R"({"lap_ms": %ld})"
              "\n",
              inMs(std::exchange(totals.longestOfLap, Clock::duration::zero())));
  std::fflush(stdout);
}

void report(const Totals& totals, std::uint64_t pages, bool stuck) {
  std::printf(
      R"({"pages": %lu, "right": %lu, "zeros": %lu, "wrong": %lu, "poisoned": %lu, "stuck": %s, "longest_ms": %ld})"
      "\n",
      pages, totals.right, totals.zeros, totals.wrong, totals.poisoned, stuck ? "true" : "false",
      inMs(totals.longest));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) fail("usage", "reader SOCKET IMAGE TARGETS PACE_US");
  const unsigned long targets = std::strtoul(argv[3], nullptr, 10);
  std::uint64_t bytes = 0;
  const char* image = readImage(argv[2], bytes);
  faultline::target::installSigbusHandler();

  std::vector<Touch> first, rest;
  for (unsigned long i = 0; i < targets; i++) {
    const auto* memory = static_cast<const char*>(faultline_target_address(connect(argv[1], bytes), 0));
    for (std::uint64_t at = 0; at < bytes; at += PAGE)
      (at == 0 ? first : rest).push_back({memory + at, image + at});
  }
  std::shuffle(rest.begin(), rest.end(), std::mt19937_64(targets));

  const std::chrono::microseconds pace(std::strtol(argv[4], nullptr, 10));
  std::signal(SIGTERM, [](int) { hurry.come(); });
  std::atomic<Clock::rep> since{0};
  std::atomic<bool> lapEnds{false};
  Totals totals;
  std::thread reading([&] {
    for (const Touch& touch : first) read(touch, totals, since);
    std::printf("ready\n");
    std::fflush(stdout);
    for (const Touch& touch : rest) {
      hasCome({&hurry, &stop}, pace);
      if (hasCome({&stop})) break;
      // Of touches that had begun before it was asked for, too: they are over when the next one is.
      const bool last = lapEnds.exchange(false);
      read(touch, totals, since);
      if (last) reportLap(totals);
    }
    done.come();
  });
  std::thread([&] {
    for (std::string line; std::getline(std::cin, line);) {
      if (line == "lap") lapEnds = true;
      if (line == "hurry") hurry.come();
      if (line == "stop") stop.come();
    }
  }).detach();
  // A touch that is under way is looked at again when it will have taken too long.
  for (Clock::duration left = LONGEST; !hasCome({&done}, left);) {
    const Clock::rep touching = since.load();
    const Clock::time_point began =
        touching == 0 ? Clock::now() : Clock::time_point(Clock::duration(touching));
    left = LONGEST - (Clock::now() - began);
    if (left > Clock::duration::zero()) continue;
    totals.longest = std::max(totals.longest, Clock::now() - began);
    report(totals, first.size() + rest.size(), true);
    std::_Exit(0);
  }
  reading.join();
  report(totals, first.size() + rest.size(), false);
  std::_Exit(0);
}
