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

// What is to be marked is bounded by the memory there is, and not by how often a target gives it back: its
// threads can have as many removals in one batch as the journal takes, each of all its memory.
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
