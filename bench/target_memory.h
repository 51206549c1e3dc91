// The memory of a measured target, whatever brings it.
#pragma once

#include <memory>
#include <vector>

#include "bench/backing.h"
#include "bench/image.h"
#include "faultline_client.h"

namespace faultline::bench {

enum class Removals { told, untold };  // whether UFFD_FEATURE_EVENT_REMOVE is negotiated

// Mapped by the constructor, unmapped by the destructor; to be touched after connect(). Throws
// std::runtime_error where the machine does not allow it, or 2 MiB pages are asked for of a file.
class TargetMemory {
 public:
  TargetMemory(const Backing& backing, const BenchImage& image, const std::vector<faultline_region>& regions,
               Removals removals);
  ~TargetMemory();
  TargetMemory(const TargetMemory&) = delete;

  // Does the handshake, where there is one.
  void connect();
  char* address(unsigned region) const;

 private:
  struct CloseTarget {
    void operator()(faultline_target* target) const { faultline_target_close(target); }
  };
  void openForServer(Removals removals);
  void mapWithoutServer(const BenchImage& image);

  const Backing backing_;
  const std::vector<faultline_region> regions_;
  std::unique_ptr<faultline_target, CloseTarget> target_;  // memory of a server's target
  std::vector<void*> mapped_;                              // memory of the other kinds
};

}  // namespace faultline::bench
