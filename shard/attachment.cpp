#include "shard/attachment.h"

#include <kj/debug.h>
#include <linux/userfaultfd.h>

#include <utility>

namespace faultline::shard {

Attachment::Attachment(std::uint32_t index, std::uint32_t workers, kj::AutoCloseFd uffd, int segment,
                       const OpenSource& openSource, AttachmentEvents& events)
    : index_(index),
      uffd_(kj::mv(uffd)),
      segment_(shm::Segment::attach(segment)),
      source_(openSource(segment_.facts().sourceBytes)),
      removeNegotiated_((segment_.facts().uffdFeatures & UFFD_FEATURE_EVENT_REMOVE) != 0),
      events_(events),
      protect_((segment_.facts().uffdFeatures & uffd::FEATURE_WP_ASYNC) != 0),
      neighbourhood_(segment_.regions(), segment_.pages().pageCount(), segment_.facts().policy.around) {
  KJ_REQUIRE(index < shm::MAX_SHARDS, "no such shard", index);
  KJ_REQUIRE(workers <= segment_.facts().workersPerShard,
             "the segment has too few slots for this shard's workers", segment_.facts().workersPerShard,
             workers);
}

void Attachment::fail(rpc::EndReason why, std::string text) {
  if (!end()) return;
  {
    const threads::Lock lock(mutex_);
    failure_ = text;
  }
  events_.restoreFailed(*this, why, std::move(text));
}

std::optional<std::string> Attachment::failure() const {
  const threads::Lock lock(mutex_);
  return failure_;
}

Inflight::Inflight(Attachment& restore, unsigned worker, shm::PageRange range)
    : slot_(restore.segment().slot(restore.slot(worker))) {
  slot_.inflightPage.store(range.first, std::memory_order_relaxed);
  slot_.inflightCount.store(static_cast<std::uint32_t>(range.count), std::memory_order_relaxed);
}

}  // namespace faultline::shard
