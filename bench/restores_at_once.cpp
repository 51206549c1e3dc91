// Several targets at once, each in a process of its own as VMMs are: threads of one process would share its
// lock on the mappings, and nothing else does.
#include <fcntl.h>
#include <kj/io.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

#include "bench/pipe.h"
#include "bench/workload.h"
#include "process/clock.h"

namespace faultline::bench {

namespace {

// Pipes that the parent and all its children share.
struct Pipes {
  Pipe done = makePipe();  // written by the children: a byte when prepared, then the time of the last touch
  Pipe go = makePipe();    // ended by the parent: the handshakes begin
  Pipe leave =
      makePipe();  // ended by the parent: the targets go, so that no unmapping takes CPU from the others
};

void waitForEnd(const Pipe& pipe) {
  char byte;
  if (read(pipe.read.get(), &byte, 1) != 0) _exit(1);
}

template <typename T>
void tell(const Pipe& pipe, const T& value) {
  if (write(pipe.write.get(), &value, sizeof value) != sizeof value) _exit(1);
}

template <typename T>
T told(const Pipe& pipe) {
  T value;
  if (read(pipe.read.get(), &value, sizeof value) != sizeof value)
    throw std::runtime_error("one of several restores has failed");
  return value;
}

[[noreturn]] void restoreInChild(const Workload& workload, const BenchImage& image, Backing backing,
                                 Pipes& pipes) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pipes.go.write = nullptr;
  pipes.leave.write = nullptr;
  pipes.done.read = nullptr;
  backing.process = 0;  // looking for its CPU time would take some
  try {
    run(workload, image, backing,
        {.beforeConnecting =
             [&] {
               tell(pipes.done, char{});
               waitForEnd(pipes.go);
             },
         .whileThere =
             [&] {
               tell(pipes.done, process::nowNs());
               waitForEnd(pipes.leave);
             }});
    _exit(0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "one of several restores: %s\n", error.what());
    _exit(1);
  }
}

double secondsUntilTheLast(unsigned restores, Pipes& pipes) {
  pipes.done.write = nullptr;
  for (unsigned i = 0; i < restores; i++) told<char>(pipes.done);
  const std::uint64_t from = process::nowNs();
  pipes.go.write = nullptr;
  std::uint64_t last = from;
  for (unsigned i = 0; i < restores; i++) last = std::max(last, told<std::uint64_t>(pipes.done));
  pipes.leave.write = nullptr;
  return static_cast<double>(last - from) * 1e-9;
}

}  // namespace

double secondsOfRestoresAtOnce(unsigned restores, const Workload& workload, const BenchImage& image,
                               const Backing& backing) {
  Pipes pipes;
  std::vector<pid_t> children;
  for (unsigned i = 0; i < restores; i++) {
    const pid_t child = fork();
    if (child == 0) restoreInChild(workload, image, backing, pipes);
    if (child > 0) children.push_back(child);
  }
  const auto endAll = [&] {
    pipes = {};  // ended, so that no child waits
    bool right = children.size() == restores;
    for (const pid_t child : children) {
      int status;
      right &= waitpid(child, &status, 0) == child && status == 0;
    }
    return right;
  };
  double seconds;
  try {
    seconds = secondsUntilTheLast(restores, pipes);
  } catch (...) {
    endAll();
    throw;
  }
  if (!endAll()) throw std::runtime_error("one of several restores has failed");
  return seconds;
}

}  // namespace faultline::bench
