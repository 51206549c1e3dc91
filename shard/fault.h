// A page that the target waits for, on its way through a shard.
#pragma once

#include <cstdint>

#include "shmtracker/pages.h"

namespace faultline::shard {

class Attachment;

struct Fault {
  Attachment* restore = nullptr;
  shm::PageIndex page = 0;
  std::uint64_t readAt = 0;          // ns, CLOCK_MONOTONIC
  std::uint32_t tries = 0;           // sections that were refused
  std::uint32_t sourceFailures = 0;  // reads of the source that failed, one after the other
  std::uint64_t failingSince = 0;    // ns; the first of them
  shm::PageRange around = {};        // the pages that come with it, itself included; empty: not yet decided
};

}  // namespace faultline::shard
