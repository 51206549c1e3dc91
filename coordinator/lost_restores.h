// Restores that could not be taken over from a predecessor. Their fds are held while their targets live, so that no
// target reads zeros; each fault gets an error, and what is missing at the end of the service becomes one.
#pragma once

#include <kj/async-io.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/departure.h"
#include "coordinator/restore_context.h"
#include "coordinator/restore_fds.h"
#include "coordinator/undertaker.h"
#include "rpc/control.capnp.h"
#include "shmtracker/layout.h"

namespace faultline::coordinator {

// Loop thread only.
class LostRestores final : private kj::TaskSet::ErrorHandler {
 public:
  explicit LostRestores(RestoreContext& context) : context_(context), tasks_(*this) {}
  ~LostRestores() noexcept(false);

  // Begins to answer the faults of restore `id` with errors; or kills its target, where that is what the operator
  // wants. `segment`: -1 where it is not there; it is asked for regions and policy only where its header can be
  // believed, and the policy is `killOnLost` where it cannot. Needs fds.uffd.
  void lose(std::uint64_t id, rpc::EndReason reason, const std::string& why, RestoreFds fds, int segment,
            bool killOnLost);
  // The restore lacks its uffd, which shards may hold: they keep it, and its target is killed.
  void abandon(std::uint64_t id, RestoreFds fds);

  bool has(std::uint64_t id) const { return lost_.count(id) != 0; }
  std::size_t size() const { return lost_.size(); }
  // The lost restore that has this userfaultfd.
  std::optional<std::uint64_t> withUserfaultfd(int uffd) const;

  // The service ends: makes an error of each page that is not in place, then unregisters; or kills the target where
  // the kernel cannot do that, or does not tell what is registered.
  void letGo();
  // Whether no target needs anything of ours any more: each is let go, or has gone.
  bool allLetGo() const;
  // Kills those that are not let go yet.
  void giveUp();

 private:
  struct Lost {
    std::uint64_t id = 0;
    std::string name;
    RestoreFds fds;
    // From a segment whose header can be believed; else they are asked for as they are needed.
    std::optional<std::vector<shm::RegionEntry>> regions;
    std::optional<kj::ForkedPromise<void>> shardsEnded;
    kj::Own<Undertaker> undertaker;
    kj::Promise<void> running = nullptr;
    bool letGo = false;
  };

  kj::Promise<void> watch(const std::shared_ptr<Lost>& lost);
  kj::Promise<void> letGo(const std::shared_ptr<Lost>& lost);
  void departed(Lost& lost, Departed how);
  void loseTarget(Lost& lost, const std::string& why);
  void noteEnd(const Lost& lost, rpc::EndReason reason, const std::string& text);
  void taskFailed(kj::Exception&& exception) override;

  RestoreContext& context_;
  std::map<std::uint64_t, std::shared_ptr<Lost>> lost_;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
