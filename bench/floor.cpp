#include "bench/floor.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <list>
#include <span>
#include <vector>

#include "bench/plain_handler.h"
#include "rpc/connection.h"

namespace faultline::bench {

namespace {

constexpr std::size_t BATCH = 64;
constexpr std::uint64_t AROUND = 64 << 10;

using Answer = void (*)(const PlainTarget& target, const MappedSource& source,
                        std::span<const std::uint64_t> faults);

void answerSinglePages(const PlainTarget& target, const MappedSource& source,
                       std::span<const std::uint64_t> faults) {
  for (const std::uint64_t fault : faults) copyPlainly(target, source, fault);
}

// Copies each window once a batch: the copy wakes all threads that wait in it.
void answerAround(const PlainTarget& target, const MappedSource& source,
                  std::span<const std::uint64_t> faults) {
  for (std::size_t i = 0; i < faults.size(); i++) {
    const auto sameWindow = [&](std::uint64_t other) { return other / AROUND == faults[i] / AROUND; };
    if (std::none_of(faults.begin(), faults.begin() + static_cast<std::ptrdiff_t>(i), sameWindow))
      copyAround(target, source, faults[i], AROUND);
  }
}

// Does a read and answers its faults.
void serveOnce(const PlainTarget& target, const MappedSource& source, Answer answer) {
  uffd_msg messages[BATCH];
  std::array<std::uint64_t, BATCH> faults;
  std::size_t count = 0;
  const ssize_t got = read(target.uffd.get(), messages, sizeof messages);
  for (ssize_t i = 0; i < got / static_cast<ssize_t>(sizeof(uffd_msg)); i++)
    if (messages[i].event == UFFD_EVENT_PAGEFAULT) faults[count++] = messages[i].arg.pagefault.address;
  answer(target, source, std::span(faults).first(count));
}

[[noreturn]] void serve(const std::string& socket, const std::string& memory, Readiness readiness,
                        Answer answer) {
  const MappedSource source(memory, readiness);
  const kj::AutoCloseFd listening = rpc::listenAt(socket);
  std::list<PlainTarget> targets;
  std::vector<pollfd> fds;
  for (;;) {
    fds.assign(1, {listening.get(), POLLIN, 0});
    for (const PlainTarget& target : targets) {
      fds.push_back({target.uffd.get(), POLLIN, 0});
      fds.push_back({target.socket.get(), POLLRDHUP, 0});
    }
    poll(fds.data(), fds.size(), -1);
    std::size_t next = 1;
    for (auto target = targets.begin(); target != targets.end(); next += 2) {
      if (fds[next].revents & POLLIN) serveOnce(*target, source, answer);
      // The end of the connection is the end of the target (Firecracker 1.12 and later).
      target = fds[next + 1].revents != 0 ? targets.erase(target) : std::next(target);
    }
    if (fds[0].revents != 0) targets.push_back(acceptPlainly(listening.get()));
  }
}

}  // namespace

void serveFloor(const std::string& socket, const std::string& memory, Readiness readiness) {
  serve(socket, memory, readiness, answerSinglePages);
}

void serveAround(const std::string& socket, const std::string& memory, Readiness readiness) {
  serve(socket, memory, readiness, answerAround);
}

}  // namespace faultline::bench
