// How a coordinator takes over what a predecessor left: its failpoints and its restores, each served again or lost.
#pragma once

#include <kj/async.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "coordinator/listeners.h"
#include "coordinator/lost_restores.h"
#include "coordinator/restore.h"
#include "coordinator/restore_context.h"
#include "coordinator/supervisor_link.h"

namespace faultline::coordinator {

// Loop thread only.
class Takeover {
 public:
  // `keep`: takes each restore that is served again. Borrows the rest.
  Takeover(RestoreContext& context, Inheritance& inherited, LostRestores& lost, const Listeners& listeners,
           std::function<void(const std::shared_ptr<Restore>&)> keep);

  // Notes that it begins, where there was a predecessor.
  void begin();
  void adoptFailpoints();
  // Once the shards that live and the listeners are known. Resolves when each restore is served, or lost. Throws where this
  // process has no room for what a sound restore needs.
  kj::Promise<void> adoptRestores();
  // Notes that so many restores are served again.
  void finish(std::size_t restores);

  // From the predecessor's death to finish(), ns; 0: there was none, or it is not over.
  std::uint64_t ns() const { return ns_; }

 private:
  kj::Promise<void> adopt(std::uint64_t id, bool anyShardAlive);
  void note(const std::string& text);

  RestoreContext& context_;
  Inheritance& inherited_;
  LostRestores& lost_;
  const Listeners& listeners_;
  const std::function<void(const std::shared_ptr<Restore>&)> keep_;
  std::uint64_t ns_ = 0;
};

}  // namespace faultline::coordinator
