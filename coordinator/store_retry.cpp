#include "coordinator/store_retry.h"

#include <spdlog/spdlog.h>

#include <utility>

namespace faultline::coordinator {

namespace {

constexpr kj::Duration STORE_RETRY = 1 * kj::SECONDS;

}  // namespace

void StoreRetry::lost(const process::KeptName& name) {
  spdlog::error("{} is not kept yet: too many fds are open in the supervisor", name.text());
  if (std::exchange(waiting_, true)) return;
  storing_ = timer_.afterDelay(STORE_RETRY)
                 .then([this] {
                   waiting_ = false;
                   storeAll();
                 })
                 .eagerlyEvaluate([](kj::Exception&& e) { spdlog::error("{}", e.getDescription().cStr()); });
}

void StoreRetry::storeAll() {
  for (const auto& [id, restore] : restores_)
    if (!restore->over()) restore->store();
  for (std::uint32_t i = 0; i < pool_.size(); i++)
    if (ShardHandle* shard = pool_.process(i)) shard->keep(link_);
}

}  // namespace faultline::coordinator
