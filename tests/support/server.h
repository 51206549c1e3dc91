// The shipped executables, run for a test, and the control interface to them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rpc/client.h"
#include "rpc/hooks.capnp.h"
#include "shmtracker/segment.h"
#include "tests/support/image.h"

namespace faultline::test {

struct ServerOptions {
  unsigned shards = 2;
  unsigned owners = 64;  // owners of each restore: every shard, however few CPUs there are
  unsigned workers = 2;
  // Too long to pass within a test, unless the test is about the fence. Empty: as shipped.
  std::optional<unsigned> lockDeadlineMs = 60'000;
  unsigned watchdogMs = 60'000;
  bool prefault = false;
  bool keepServing = true;
  std::string around = "off";          // a page a fault, so that a test knows which come
  std::vector<std::string> more = {};  // further arguments of `faultline serve`
  std::string memory = {};             // the file that is served; empty: the image's
  std::string logFile = {};            // log file, at level info; empty: stderr, next to nothing
  // Called in the server's process before it becomes `faultline`: takes rights away.
  std::function<void()> before = {};
  std::string programs = {};  // the directory of faultline; empty: the test's own
};

// `faultline serve --test-hooks` with one handshake socket for `image`. Ended, with everything it started, by
// the destructor, wherever the test stopped: SIGTERM first, and SIGKILL of the whole process group if that is
// not answered, which is reported as a failure.
class Server {
 public:
  explicit Server(const Image& image, ServerOptions options = {});
  ~Server();
  Server(const Server&) = delete;

  const std::string& socket() const { return socket_; }
  const std::string& control() const { return control_; }
  rpc::ControlClient& client() { return *client_; }
  template <typename Promise>
  auto wait(Promise&& promise) {
    return client_->wait(std::forward<Promise>(promise));
  }
  // Connects anew, after a coordinator's death; waits until the successor answers.
  void reconnect();

  // The restore of the `n`th target (0-based) once it serves.
  rpc::Restore::Client restore(unsigned n = 0);
  rpc::Restore::Client restoreNamed(const std::string& name);
  static std::string restoreName(unsigned n = 0) { return n == 0 ? "vm" : "vm-" + std::to_string(n + 1); }
  // Its segment, for looking at the lock and the tracker.
  shm::Segment segment(unsigned n = 0);

  rpc::TestHooks::Client hooks();
  rpc::Barrier::Client barrier(std::uint64_t page, rpc::FaultPoint point, unsigned n = 0);

  rpc::ServiceInfo::Reader status();
  pid_t supervisor() const { return pid_; }
  pid_t coordinatorPid();
  pid_t shardPid(unsigned index);
  // Shard that owns the page.
  unsigned ownerOf(std::uint64_t page, unsigned n = 0);
  // A figure of ShardStats, of all shards together: sum(&rpc::ShardStats::Reader::getDropped).
  std::uint64_t sum(std::uint64_t (rpc::ShardStats::Reader::*figure)() const, unsigned n = 0);
  // Whether an event, as an operator sees them, has all of these words; the event.
  std::string eventWith(const std::vector<std::string>& words);

 private:
  std::string socket_, control_;
  pid_t pid_ = -1;
  std::unique_ptr<rpc::ControlClient> client_;
  std::unique_ptr<capnp::MallocMessageBuilder> lastStatus_;
};

// The file's content; empty where there is none.
std::string textOf(const std::string& path);

// Calls `done` until it says true, giving the CPU away in between; the test's own time limit ends it
// otherwise.
template <typename Done>
void await(Done&& done) {
  while (!done()) sched_yield();
}

}  // namespace faultline::test
