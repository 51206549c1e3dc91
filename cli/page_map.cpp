#include "cli/page_map.h"

#include <kj/debug.h>
#include <png.h>

#include <algorithm>
#include <array>
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

// Sums of colours over the pages of each cell.
class Cells {
 public:
  Cells(std::size_t count, std::uint64_t pagesPerCell) : sums_(count), pagesPerCell_(pagesPerCell) {}

  void add(std::uint64_t first, std::uint64_t count, Colour colour) {
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

  std::vector<Colour> colours() const {
    std::vector<Colour> result(sums_.size(), EMPTY);
    for (std::size_t i = 0; i < sums_.size(); i++)
      if (const std::uint64_t n = sums_[i][3]; n > 0)
        result[i] = {static_cast<std::uint8_t>(sums_[i][0] / n), static_cast<std::uint8_t>(sums_[i][1] / n),
                     static_cast<std::uint8_t>(sums_[i][2] / n)};
    return result;
  }

 private:
  std::vector<std::array<std::uint64_t, 4>> sums_;  // red, green, blue, pages
  const std::uint64_t pagesPerCell_;
};

void requireProgress(unsigned runs, std::uint64_t page, std::uint64_t pages) {
  KJ_REQUIRE(runs > 0, "the server does not tell of all pages", page, pages);
}

}  // namespace

PageMap PageMap::of(Session& session, rpc::Restore::Client restore) {
  PageMap map;
  map.pages = session.wait(restore.infoRequest().send()).getInfo().getPages();
  for (std::uint64_t next = 0; next < map.pages;) {
    auto request = restore.pageStatesRequest();
    request.initPages().setFirst(next);
    auto response = session.wait(request.send());
    for (auto run : response.getRuns())
      map.states.push_back({run.getPages().getFirst(), run.getPages().getCount(), kindOf(run.getState())});
    requireProgress(response.getRuns().size(), next, map.pages);
    next = map.states.back().first + map.states.back().count;
  }
  for (std::uint64_t next = 0; next < map.pages;) {
    auto request = restore.ownersRequest();
    request.initPages().setFirst(next);
    auto response = session.wait(request.send());
    for (auto run : response.getRuns())
      map.owners.push_back({run.getPages().getFirst(), run.getPages().getCount(), run.getShard()});
    requireProgress(response.getRuns().size(), next, map.pages);
    next = map.owners.back().first + map.owners.back().count;
  }
  return map;
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

PageDrawing PageDrawing::of(const PageMap& map) {
  PageDrawing drawing;
  // A power of two, so that extents begin with a cell.
  constexpr std::uint64_t MOST = std::uint64_t{MAX_SIDE} * MAX_SIDE;
  drawing.pagesPerCell = std::bit_ceil(std::max<std::uint64_t>(1, (map.pages + MOST - 1) / MOST));
  const std::uint64_t cells = (map.pages + drawing.pagesPerCell - 1) / drawing.pagesPerCell;
  drawing.side = 1;
  while (std::uint64_t{drawing.side} * drawing.side < cells) drawing.side++;
  drawing.pixels = std::max(1u, MIN_PIXELS / drawing.side);
  const std::size_t count = std::size_t{drawing.side} * drawing.side;
  Cells states(count, drawing.pagesPerCell), owners(count, drawing.pagesPerCell);
  for (const StateRun& run : map.states) states.add(run.first, run.count, colourOf(run.state));
  for (const OwnerRange& run : map.owners) owners.add(run.first, run.count, colourOfShard(run.shard));
  drawing.states = states.colours();
  drawing.owners = owners.colours();
  return drawing;
}

void PageDrawing::write(const std::string& path) const {
  std::vector<Colour> points(std::size_t{width()} * height(), EMPTY);
  for (std::uint32_t y = 0; y < height(); y++)
    for (std::uint32_t x = 0; x < side * pixels; x++) {
      const std::size_t cell = std::size_t{y / pixels} * side + x / pixels;
      Colour* row = &points[std::size_t{y} * width()];
      row[x] = states[cell];
      row[x + (side + 1) * pixels] = owners[cell];
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
