// The page handlers that are measured, each a process (or a family of them) with a handshake socket.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/backing.h"
#include "bench/image.h"
#include "bench/placement.h"
#include "bench/plain_handler.h"
#include "bench/workload.h"
#include "rpc/client.h"

namespace faultline::bench {

// Started by the constructor, ended with all its processes by the destructor.
class Handler {
 public:
  virtual ~Handler();
  Handler(const Handler&) = delete;
  const std::string& socket() const { return socket_; }
  Backing backing() const { return {Backing::Kind::server, socket_, pid_}; }

 protected:
  explicit Handler(std::string socket) : socket_(std::move(socket)) {}
  // Runs `arguments` (argv[0] is a path) on the placement's CPUs; its log goes to /dev/null unless
  // FAULTLINE_BENCH_LOG is set.
  // `ioUring`: false refuses it to the processes.
  void start(std::vector<std::string> arguments, Placement placement, bool ioUring = true);
  bool ended() const;

  pid_t pid_ = -1;

 private:
  const std::string socket_;
};

// A handler of this program's own: `kind` is a subcommand of faultline-bench. Listens when the constructor
// returns. While one is there, the file is mapped and cannot be dropped from the page cache.
class PlainHandler final : public Handler {
 public:
  PlainHandler(const std::string& kind, const std::string& directory, const std::string& memory,
               Placement placement, Readiness readiness = Readiness::resident);
};

struct FaultlineOptions {
  unsigned shards = 2;
  unsigned owners = 0;  // shards that a restore is dealt out to; 0: the server's default, as many as CPUs
  unsigned workers = 0;
  bool prefault = false;
  Placement placement = Placement::free;
  bool pollIdle = false;  // --cpu-latency-us 0
  std::string around =
      {};  // --around; left out where the build has no such option: it brings single pages then
  std::string workingSet = {};  // --working-set: a file
  bool recordWorkingSet = false;
  bool keepRegistered = false;         // --keep-registered, where the build has it
  std::vector<std::string> over = {};  // --over: the layers below the memory file, the newest first
  bool ioUring = true;                 // false: refused, as container runtimes do it
  std::string build = {};              // the directory of another build's programs; empty: our own
};

// How many shards of such a server own memory of each restore, where it may use every CPU.
unsigned ownersOf(const FaultlineOptions& options);

// The shipped executables.
class Faultline final : public Handler {
 public:
  Faultline(const std::string& directory, const std::string& memory, const FaultlineOptions& options);

  // A client owns an event loop: one client at a time in a thread, of whichever server.
  std::unique_ptr<rpc::ControlClient> connect() const;
  std::vector<pid_t> shardPids() const;
  // Saves the working set of the restore that began last, whose target is there; the server must record.
  void saveWorkingSet(const std::string& file) const;

 private:
  const std::string program_, control_;
};

// Number of the restore that began last; 0: there is none.
std::uint64_t newestRestore(rpc::ControlClient& client);
// Waits for one that began after that of this number.
rpc::Restore::Client restoreAfter(rpc::ControlClient& client, std::uint64_t number);

struct Prefault {
  double seconds;          // from before the target's handshake to its last page
  std::uint64_t removals;  // pages that were given back meanwhile
};
// Restores to a target that touches nothing. The server must populate. `whileThere` is called when all is
// populated and the target is still there.
Prefault prefault(const Faultline& server, const IdleMemory& memory, unsigned removesPerSecond = 0,
                  const std::function<void()>& whileThere = nullptr);

}  // namespace faultline::bench
