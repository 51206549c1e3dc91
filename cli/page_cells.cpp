#include "cli/page_cells.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace faultline::cli {

PageCells::PageCells(std::uint64_t pages) : pages_(pages) {
  constexpr std::uint64_t MOST = std::uint64_t{SIDE} * SIDE;
  // A power of two, so that extents begin with a cell.
  pagesPerCell_ = std::bit_ceil(std::max<std::uint64_t>(1, (pages + MOST - 1) / MOST));
  const std::uint64_t cells = (pages + pagesPerCell_ - 1) / pagesPerCell_;
  while (std::uint64_t{side_} * side_ < cells) side_++;
  cells_.resize(cells);
}

std::uint64_t PageCells::count() const {
  return std::min(LOOK, pages_ - next_);
}

// A cell that an answer reaches is counted anew; one that it has a part of is known by that part, until the next answer,
// which begins with it, has it whole.
void PageCells::take(capnp::List<rpc::PageRun>::Reader runs) {
  const std::uint64_t first = next_, end = next_ + count();
  std::uint64_t at = first, begun = ~std::uint64_t{0};
  for (auto run : runs) {
    std::uint64_t left = run.getPages().getCount();
    const auto state = static_cast<std::size_t>(run.getState());
    if (run.getPages().getFirst() != at || left == 0 || left > end - at || state >= std::tuple_size<Counts>())
      throw std::runtime_error("the server tells of pages out of order");
    while (left > 0) {
      const std::uint64_t cell = at / pagesPerCell_;
      const std::uint64_t part = std::min(left, (cell + 1) * pagesPerCell_ - at);
      if (cell != begun) cells_[cell] = {};
      begun = cell;
      cells_[cell][state] += static_cast<std::uint32_t>(std::min<std::uint64_t>(part, UINT32_MAX / 4));
      at += part;
      left -= part;
    }
  }
  if (at == first && pages_ > 0) throw std::runtime_error("the server tells of no pages");
  const std::uint64_t whole = at / pagesPerCell_ * pagesPerCell_;
  // A cell that no answer has whole is known by its first part.
  next_ = at >= pages_    ? 0
          : whole > first ? whole
                          : std::min((first / pagesPerCell_ + 1) * pagesPerCell_, pages_);
  if (next_ >= pages_) next_ = 0;
}

std::string PageCells::text() const {
  std::string digits;
  digits.reserve(cells_.size() * 3);
  for (const Counts& counts : cells_) {
    const std::uint64_t all = std::uint64_t{counts[0]} + counts[1] + counts[2] + counts[3];
    for (std::size_t state = 1; state < counts.size(); state++)
      digits += static_cast<char>('0' + (all == 0 ? 0 : counts[state] * std::uint64_t{9} / all));
  }
  return digits;
}

}  // namespace faultline::cli
