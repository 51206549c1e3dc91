// The address ranges that the removals of one batch name, each address once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace faultline::coordinator {

struct AddressRange {
  std::uint64_t start, end;
  bool operator==(const AddressRange&) const = default;
};

// Merges ranges, so that marking costs O(memory) and not O(REMOVE events), whatever a hostile target sends: a
// batch can hold as many removals as the journal takes, each of all the target's memory.
class RemovedRanges {
 public:
  void add(std::uint64_t start, std::uint64_t end) { ranges_.push_back({start, end}); }
  // In order, none touching another. Valid until the next add() or clear().
  std::span<const AddressRange> merged();
  void clear() { ranges_.clear(); }  // keeps its memory

 private:
  std::vector<AddressRange> ranges_;
};

}  // namespace faultline::coordinator
