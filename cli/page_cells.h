// The page states of a restore as a map of few cells, looked at part by part.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "rpc/control.capnp.h"

namespace faultline::cli {

// At most SIDE * SIDE cells, whatever the memory. Each look is at most LOOK pages from where the last one ended, round
// and round: its cost does not grow with the memory. One thread.
class PageCells {
 public:
  static constexpr std::uint32_t SIDE = 64;
  static constexpr std::uint64_t LOOK = 1 << 20;  // pages: 4 GiB of 4 KiB pages

  explicit PageCells(std::uint64_t pages);

  std::uint64_t pages() const { return pages_; }
  std::uint64_t pagesPerCell() const { return pagesPerCell_; }
  std::uint32_t side() const { return side_; }

  // The range to be asked for next (Restore.pageStates).
  std::uint64_t from() const { return next_; }
  std::uint64_t count() const;
  // The answer. Runs that are not of what was asked for, in order, are a mistake of the server: std::runtime_error.
  void take(capnp::List<rpc::PageRun>::Reader runs);

  // Three digits a cell, row by row: ninths of it that are faulted, removed, released.
  std::string text() const;

 private:
  using Counts = std::array<std::uint32_t, 4>;  // by rpc::PageState

  std::uint64_t pages_, pagesPerCell_ = 1;
  std::uint32_t side_ = 1;
  std::uint64_t next_ = 0;
  std::vector<Counts> cells_;
};

}  // namespace faultline::cli
