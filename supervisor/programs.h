// The build whose programs the supervisor starts, and the way to another build.
#pragma once

#include <optional>
#include <string>

#include "process/build.h"
#include "supervisor/fd_store.h"

namespace faultline::supervisor {

// A build takes over in three steps: its programs are offered, the coordinator of the present one leaves, its
// own is started. The build before it is kept until the new one serves, to go back to.
class Programs {
 public:
  // `build`: held open, whatever is installed over it; without one `executable` as it is found at each start.
  Programs(const std::string& executable, const std::optional<process::Build>& build);

  // The programs to be started now.
  const std::string& executable() const { return now_.executable; }
  int coordinator() const { return now_.coordinator == nullptr ? -1 : now_.coordinator->get(); }
  SharedFd shard() const { return now_.shard; }      // null: what is installed
  SharedFd fetcher() const { return now_.fetcher; }  // as shard(); a build may have none
  // Why the last upgrade was given up; empty: it was not.
  const std::string& givenUp() const { return givenUp_; }

  // `part`: "coordinator", "shard" or "fetcher" of the build that begin() is going to name.
  void offer(const std::string& part, kj::AutoCloseFd program);
  // False, and nothing has changed, where the programs were not offered or an upgrade is under way.
  bool begin(const std::string& directory);
  // The coordinator of the build before is to leave, and has not yet.
  bool leaving() const { return step_ == Step::leaving; }
  void left() { step_ = Step::starting; }
  // The new build's coordinator has not served yet.
  bool starting() const { return step_ == Step::starting; }
  void served();
  void goBack(const std::string& why);

 private:
  struct Set {
    std::string executable;
    SharedFd coordinator, shard, fetcher;
  };
  enum class Step { none, leaving, starting };

  Set now_, next_, former_;
  Step step_ = Step::none;
  std::string givenUp_;
};

}  // namespace faultline::supervisor
