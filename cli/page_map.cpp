#include "cli/page_map.h"

#include <kj/debug.h>
#include <png.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "cli/errors.h"

namespace faultline::cli {

namespace {

constexpr std::uint32_t MAX_SIDE = 512;    // cells
constexpr std::uint32_t MIN_PIXELS = 512;  // a square's side, where there are few cells
constexpr Colour EMPTY{0, 0, 0};

PageKind kindOf(rpc::PageState state) {
  switch (state) {
    case rpc::PageState::FAULTED:
      return PageKind::faulted;
    case rpc::PageState::REMOVED:
      return PageKind::removed;
    case rpc::PageState::RELEASED:
      return PageKind::released;
    default:
      return PageKind::missing;
  }
}

// Joins runs as they come: the server cuts them where an answer ends.
template <typename Run, typename Value>
class Joining {
 public:
  Joining(const std::function<void(const Run&)>& take, Value Run::*value) : take_(take), value_(value) {}
  void add(const Run& run) {
    if (last_.count > 0 && last_.*value_ == run.*value_ && last_.first + last_.count == run.first) {
      last_.count += run.count;
      return;
    }
    flush();
    last_ = run;
  }
  void flush() {
    if (last_.count > 0) take_(last_);
    last_.count = 0;
  }

 private:
  const std::function<void(const Run&)>& take_;
  Value Run::*const value_;
  Run last_{};
};

// Asks for all pages, answer by answer. `ask`: an answer from a page on; `each`: adds a run of it, and returns the
// page behind that.
template <typename Ask, typename Each>
void takeAll(Session& session, std::uint64_t pages, Ask ask, Each each) {
  for (std::uint64_t next = 0; next < pages;) {
    auto response = session.wait(ask(next));
    KJ_REQUIRE(response.getRuns().size() > 0, "the server does not tell of all pages", next, pages);
    for (auto run : response.getRuns()) {
      KJ_REQUIRE(run.getPages().getFirst() == next && run.getPages().getCount() > 0 &&
                     run.getPages().getCount() <= pages - next,
                 "the server tells of pages out of order", next, run.getPages().getFirst());
      next = each(run);
    }
  }
}

}  // namespace

std::uint64_t pagesOf(Session& session, rpc::Restore::Client restore) {
  return session.wait(restore.infoRequest().send()).getInfo().getPages();
}

void takeStates(Session& session, rpc::Restore::Client restore,
                const std::function<void(const StateRun&)>& take) {
  Joining joined(take, &StateRun::state);
  takeAll(
      session, pagesOf(session, restore),
      [&restore](std::uint64_t from) {
        auto request = restore.pageStatesRequest();
        request.initPages().setFirst(from);
        return request.send();
      },
      [&joined](rpc::PageRun::Reader run) {
        const auto pages = run.getPages();
        joined.add({pages.getFirst(), pages.getCount(), kindOf(run.getState())});
        return pages.getFirst() + pages.getCount();
      });
  joined.flush();
}

void takeOwners(Session& session, rpc::Restore::Client restore,
                const std::function<void(const OwnerRange&)>& take) {
  Joining joined(take, &OwnerRange::shard);
  takeAll(
      session, pagesOf(session, restore),
      [&restore](std::uint64_t from) {
        auto request = restore.ownersRequest();
        request.initPages().setFirst(from);
        return request.send();
      },
      [&joined](rpc::OwnerRun::Reader run) {
        const auto pages = run.getPages();
        joined.add({pages.getFirst(), pages.getCount(), run.getShard()});
        return pages.getFirst() + pages.getCount();
      });
  joined.flush();
}

Colour colourOf(PageKind state) {
  switch (state) {
    case PageKind::faulted:
      return {66, 133, 244};
    case PageKind::removed:
      return {251, 140, 0};
    case PageKind::released:
      return {0, 150, 136};
    default:
      return {48, 48, 48};
  }
}

// Hues a golden angle apart: neighbours in number are far apart in colour.
Colour colourOfShard(std::uint32_t shard) {
  const double hue = std::fmod(shard * 137.508, 360.0) / 60.0;
  const double high = 230, low = 70;
  const double between = low + (high - low) * (1 - std::abs(std::fmod(hue, 2.0) - 1));
  const auto h = static_cast<std::uint8_t>(high), l = static_cast<std::uint8_t>(low),
             b = static_cast<std::uint8_t>(between);
  switch (static_cast<int>(hue)) {
    case 0:
      return {h, b, l};
    case 1:
      return {b, h, l};
    case 2:
      return {l, h, b};
    case 3:
      return {l, b, h};
    case 4:
      return {b, l, h};
    default:
      return {h, l, b};
  }
}

void PageDrawing::Cells::reset(std::size_t count, std::uint64_t pagesPerCell) {
  sums_.assign(count, {});
  pagesPerCell_ = pagesPerCell;
}

void PageDrawing::Cells::add(std::uint64_t first, std::uint64_t count, Colour colour) {
  while (count > 0) {
    const std::uint64_t cell = first / pagesPerCell_;
    const std::uint64_t part = std::min(count, (cell + 1) * pagesPerCell_ - first);
    if (cell >= sums_.size()) return;
    sums_[cell][0] += part * colour.red;
    sums_[cell][1] += part * colour.green;
    sums_[cell][2] += part * colour.blue;
    sums_[cell][3] += part;
    first += part;
    count -= part;
  }
}

std::vector<Colour> PageDrawing::Cells::colours() const {
  std::vector<Colour> result(sums_.size(), EMPTY);
  for (std::size_t i = 0; i < sums_.size(); i++)
    if (const std::uint64_t n = sums_[i][3]; n > 0)
      result[i] = {static_cast<std::uint8_t>(sums_[i][0] / n), static_cast<std::uint8_t>(sums_[i][1] / n),
                   static_cast<std::uint8_t>(sums_[i][2] / n)};
  return result;
}

PageDrawing::PageDrawing(std::uint64_t pages) {
  // A power of two, so that extents begin with a cell.
  constexpr std::uint64_t MOST = std::uint64_t{MAX_SIDE} * MAX_SIDE;
  pagesPerCell_ = std::bit_ceil(std::max<std::uint64_t>(1, (pages + MOST - 1) / MOST));
  const std::uint64_t cells = (pages + pagesPerCell_ - 1) / pagesPerCell_;
  while (std::uint64_t{side_} * side_ < cells) side_++;
  pixels_ = std::max(1u, MIN_PIXELS / side_);
  const std::size_t count = std::size_t{side_} * side_;
  states_.reset(count, pagesPerCell_);
  owners_.reset(count, pagesPerCell_);
}

void PageDrawing::add(const OwnerRange& run) {
  shards_ = std::max(shards_, run.shard + 1);
  owners_.add(run.first, run.count, colourOfShard(run.shard));
}

void PageDrawing::write(const std::string& path) const {
  const std::vector<Colour> left = states(), right = owners();
  std::vector<Colour> points(std::size_t{width()} * height(), EMPTY);
  for (std::uint32_t y = 0; y < height(); y++)
    for (std::uint32_t x = 0; x < side_ * pixels_; x++) {
      const std::size_t cell = std::size_t{y / pixels_} * side_ + x / pixels_;
      Colour* row = &points[std::size_t{y} * width()];
      row[x] = left[cell];
      row[x + (side_ + 1) * pixels_] = right[cell];
    }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = width();
  image.height = height();
  image.format = PNG_FORMAT_RGB;
  static_assert(sizeof(Colour) == 3);
  if (png_image_write_to_file(&image, path.c_str(), 0, points.data(), 0, nullptr) == 0)
    throw CommandError(USAGE, "--png " + path + " cannot be written: " + image.message +
                                  "; give a file in a folder that is there and that you may write to");
}

}  // namespace faultline::cli
