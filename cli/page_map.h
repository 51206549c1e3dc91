// The pages of a restore, drawn: their states and their owners at a glance.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
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

std::uint64_t pagesOf(Session& session, rpc::Restore::Client restore);
// Calls `take` for each run of the restore's pages, in order, while the server tells them: one answer is in memory
// at a time, however many runs there are. States are of slightly different moments where they are many. Throws
// what Session::wait() throws, and kj::Exception where the server does not tell of all pages.
void takeStates(Session& session, rpc::Restore::Client restore,
                const std::function<void(const StateRun&)>& take);
void takeOwners(Session& session, rpc::Restore::Client restore,
                const std::function<void(const OwnerRange&)>& take);

struct Colour {
  std::uint8_t red, green, blue;
  bool operator==(const Colour&) const = default;
};
Colour colourOf(PageKind state);
Colour colourOfShard(std::uint32_t shard);

// Two squares side by side, states left and owners right, of `side` cells each way; pages go row by row, and
// cells behind the last page are black. A cell is `pixels` pixels each way and stands for `pagesPerCell`
// pages, in the mean of their colours. Its memory does not grow with the number of runs.
class PageDrawing {
 public:
  explicit PageDrawing(std::uint64_t pages);

  void add(const StateRun& run);
  void add(const OwnerRange& run);

  std::uint32_t side() const { return side_; }
  std::uint64_t pagesPerCell() const { return pagesPerCell_; }
  std::uint32_t width() const { return (2 * side_ + 1) * pixels_; }
  std::uint32_t height() const { return side_ * pixels_; }
  std::uint32_t shards() const { return shards_; }                  // the highest owner's number, and one
  std::vector<Colour> states() const { return states_.colours(); }  // side * side each
  std::vector<Colour> owners() const { return owners_.colours(); }
  // A PNG: the two squares alone. Throws CommandError(USAGE) where it cannot be written.
  void write(const std::string& path) const;
  // A picture of these squares with a title, axes, and a legend that says how many pages each colour is. `bytes`: of
  // the memory.
  std::string svg(const std::string& restore, std::uint64_t bytes) const;
  // The states for a terminal, at most `columns` wide: two rows of cells a line. Without colours a sign for each cell:
  // '.' missing, '#' faulted, 'o' removed, '-' released, by what most of its pages are.
  std::string text(std::uint32_t columns, bool colours) const;

 private:
  // Sums of colours over the pages of each cell.
  class Cells {
   public:
    void reset(std::size_t count, std::uint64_t pagesPerCell);
    void add(std::uint64_t first, std::uint64_t count, Colour colour);
    std::vector<Colour> colours() const;

   private:
    std::vector<std::array<std::uint64_t, 4>> sums_;  // red, green, blue, pages
    std::uint64_t pagesPerCell_ = 1;
  };

  // Row by row, with a gap of one cell between the squares.
  std::vector<Colour> points() const;

  std::uint64_t pages_ = 0, pagesPerCell_ = 1;
  std::uint32_t side_ = 1, pixels_ = 1, shards_ = 0;
  std::array<std::uint64_t, 4> byState_{};  // pages, by PageKind
  std::map<std::uint32_t, std::uint64_t> byOwner_;
  std::vector<std::array<std::uint32_t, 4>> kinds_;  // of each cell, pages by PageKind
  Cells states_, owners_;
};

}  // namespace faultline::cli
