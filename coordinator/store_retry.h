// What the supervisor had no room for, stored again after a while, when it may have some.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include "coordinator/restores.h"
#include "coordinator/shard_pool.h"
#include "coordinator/supervisor_link.h"
#include "process/kept_name.h"

namespace faultline::coordinator {

// Loop thread only.
class StoreRetry {
 public:
  // Borrows all.
  StoreRetry(kj::Timer& timer, SupervisorLink& link, const Restores& restores, ShardPool& pool)
      : timer_(timer), link_(link), restores_(restores), pool_(pool) {}

  // The fd of this name is not kept: every restore and shard is stored again, once for all names that are lost meanwhile.
  void lost(const process::KeptName& name);

 private:
  void storeAll();

  kj::Timer& timer_;
  SupervisorLink& link_;
  const Restores& restores_;
  ShardPool& pool_;
  bool waiting_ = false;
  kj::Promise<void> storing_ = nullptr;
};

}  // namespace faultline::coordinator
