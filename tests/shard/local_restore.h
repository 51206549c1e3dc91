// A restore as a shard sees it, with the test in the coordinator's place: memory of the test's own process,
// its userfaultfd and its segment.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "shard/attachment.h"
#include "shard/source/raw_file.h"
#include "tests/support/exclusive.h"
#include "tests/support/image.h"
#include "tests/support/raw_vmm.h"
#include "uffd/uffd.h"

namespace faultline::test {

// Unread faults on the userfaultfd.
inline unsigned pendingFaults(int uffd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(uffd));
  unsigned pending = 0;
  for (std::string key; info >> key;)
    if (key == "pending:") info >> pending;
  return pending;
}

class LocalRestore : private shard::AttachmentEvents {
 public:
  static constexpr unsigned WORKERS = 3;

  // All of the image, in one region; shard 0 owns every page. `source`: what its bytes come from; null: the
  // image's file. `around`: bytes that come with each fault; a page is left alone unless a test is about that.
  LocalRestore(const Image& image, std::uint64_t pageSize,
               std::shared_ptr<const shard::PageSource> source = nullptr, std::uint64_t id = 1,
               std::uint32_t around = shm::SMALL_PAGE)
      : pageSize_(pageSize),
        memory_({image.bytes()}, pageSize),
        segment_(shm::Segment::create({.restoreId = id,
                                       .name = "vm",
                                       .sourceName = image.path(),
                                       .regions = {{addressOf(0), image.bytes(), 0, pageSize}},
                                       .sourceBytes = image.bytes(),
                                       .uffdFeatures = UFFD_FEATURE_EVENT_REMOVE,
                                       .workersPerShard = WORKERS,
                                       .policy = policyOf(around)})),
        attachment_(std::make_shared<shard::Attachment>(
            0, WORKERS, kj::AutoCloseFd(fcntl(uffd(), F_DUPFD_CLOEXEC, 0)), segment_.fd(),
            [&](std::uint64_t bytes) { return source != nullptr ? source : openImage(image, bytes); },
            static_cast<shard::AttachmentEvents&>(*this))) {
    segment_.header().state.store(shm::SegmentState::ready);
    segment_.lock().open();
  }

  static std::shared_ptr<const shard::PageSource> openImage(const Image& image, std::uint64_t bytes) {
    return std::make_shared<shard::RawFile>(kj::AutoCloseFd(open(image.path().c_str(), O_RDONLY | O_CLOEXEC)),
                                            bytes);
  }

  int uffd() const { return memory_.uffd(); }
  volatile unsigned char* page(shm::PageIndex page) const { return memory_.at(0, page * pageSize_); }
  const shard::AttachmentRef& attachment() const { return attachment_; }
  shm::PageState state(shm::PageIndex page) const { return segment_.pages().state(page); }

  void giveBack(shm::PageIndex first, std::uint64_t count) const {
    madvise(const_cast<unsigned char*>(page(first)), count * pageSize_, MADV_DONTNEED);
  }
  // Reads the faults that are queued, once there are so many; no removal, since faults come first.
  std::vector<shm::PageIndex> takeFaults(std::size_t count) const {
    while (pendingFaults(uffd()) != count) sched_yield();
    std::vector<uffd_msg> messages(count);
    messages.resize(static_cast<std::size_t>(read(uffd(), messages.data(), count * sizeof(uffd_msg))) /
                    sizeof(uffd_msg));
    std::vector<shm::PageIndex> pages;
    pages.reserve(count);
    for (const uffd_msg& message : messages) pages.push_back(pageAt(message.arg.pagefault.address));
    return pages;
  }
  // Reads all that is queued, under the write side, and publishes the removals. The faults' pages.
  std::vector<shm::PageIndex> readAndPublish() {
    auto guard = exclusive(segment_);
    std::vector<shm::PageIndex> faults;
    const auto messages = segment_.journal().read(uffd());
    for (const uffd_msg& message : messages)
      if (message.event == UFFD_EVENT_PAGEFAULT)
        faults.push_back(pageAt(message.arg.pagefault.address));
      else {
        shm::count(segment_.counters().removes);
        for (const auto range : segment_.regions().pagesIn(message.arg.remove.start, message.arg.remove.end))
          segment_.pages().markRemoved(guard, range);
      }
    segment_.journal().clear(messages.size());
    return faults;
  }
  // Ends the restore: pages that are not in memory read as zeros from here on.
  void end() const { uffd::unregister(uffd(), addressOf(0), segment_.facts().sourceBytes); }

 private:
  static shm::Policy policyOf(std::uint32_t around) {
    shm::Policy policy{};
    policy.around = around;
    return policy;
  }
  void targetGone(const shard::Attachment&) override { ADD_FAILURE() << "the target is gone"; }
  void restoreFailed(const shard::Attachment&, rpc::EndReason, std::string text) override {
    ADD_FAILURE() << text;
  }

  std::uint64_t addressOf(shm::PageIndex index) const { return reinterpret_cast<std::uint64_t>(page(index)); }
  shm::PageIndex pageAt(std::uint64_t address) const { return (address - addressOf(0)) / pageSize_; }

  const std::uint64_t pageSize_;
  RawVmm memory_;
  shm::Segment segment_;
  shard::AttachmentRef attachment_;
};

}  // namespace faultline::test
