// Targets that are refused, and what becomes of their memory: an error on each page, so that no thread of theirs waits for
// ever for a page that no server will give.
#pragma once

#include <kj/async-io.h>

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "coordinator/options.h"

namespace faultline::coordinator {

// Loop thread only.
class RefusedTargets final : private kj::TaskSet::ErrorHandler {
 public:
  // Targets that are told at once.
  static constexpr std::size_t MOST = 64;

  // `served`: whether a restore has this userfaultfd.
  RefusedTargets(kj::AsyncIoContext& io, const Options& options, std::function<bool(int uffd)> served);

  // Makes an error of every page that `uffd` is registered for and that is not in place, in the process behind the pidfd
  // `target`, then unregisters. Does nothing where that userfaultfd is served: a target may be refused since it is. The fds are
  // duplicated; `name` is for the log, which says why it could not be done. Resolves when it is done, or at the
  // latest after the time that a handshake may take: a target can hold its mmap_lock, which each of these steps takes.
  kj::Promise<void> tell(const std::string& name, int uffd, int target);

  // Whether this userfaultfd is that of a target that is being told.
  bool has(int uffd) const;

 private:
  struct Told;
  kj::Promise<void> depart(const std::shared_ptr<Told>& told);
  kj::Promise<void> leave(const std::shared_ptr<Told>& told);
  void taskFailed(kj::Exception&& exception) override;

  kj::AsyncIoContext& io_;
  const Options& options_;
  const std::function<bool(int uffd)> served_;
  std::list<std::shared_ptr<Told>> told_;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
