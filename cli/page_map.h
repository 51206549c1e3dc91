// The pages of a restore, drawn: their states and their owners at a glance.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/session.h"

namespace faultline::cli {

enum class PageKind : std::uint8_t { missing, faulted, removed, released };

struct StateRun {
  std::uint64_t first, count;
  PageKind state;
};
struct OwnerRange {
  std::uint64_t first, count;
  std::uint32_t shard;
};

// All pages of a restore, as runs in order. The states are of slightly different moments where they are many.
struct PageMap {
  std::uint64_t pages = 0;
  std::vector<StateRun> states;
  std::vector<OwnerRange> owners;

  static PageMap of(Session& session, rpc::Restore::Client restore);
};

struct Colour {
  std::uint8_t red, green, blue;
  bool operator==(const Colour&) const = default;
};
Colour colourOf(PageKind state);
Colour colourOfShard(std::uint32_t shard);

// Two squares side by side, states left and owners right, of `side` cells each way; pages go row by row, and
// cells behind the last page are black. A cell is `pixels` pixels each way and stands for `pagesPerCell`
// pages, in the mean of their colours.
struct PageDrawing {
  std::uint32_t side = 0, pixels = 0;
  std::uint64_t pagesPerCell = 0;
  std::vector<Colour> states, owners;  // side * side each

  static PageDrawing of(const PageMap& map);
  std::uint32_t width() const { return (2 * side + 1) * pixels; }
  std::uint32_t height() const { return side * pixels; }
  // Throws CommandError(USAGE) where it cannot be written.
  void write(const std::string& path) const;
};

}  // namespace faultline::cli
