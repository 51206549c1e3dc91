#include "cli/page_map.h"

#include <kj/debug.h>
#include <kj/encoding.h>
#include <png.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "cli/errors.h"
#include "cli/format.h"
#include "process/plain_text.h"

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

PageDrawing::PageDrawing(std::uint64_t pages) : pages_(pages) {
  // A power of two, so that extents begin with a cell.
  constexpr std::uint64_t MOST = std::uint64_t{MAX_SIDE} * MAX_SIDE;
  pagesPerCell_ = std::bit_ceil(std::max<std::uint64_t>(1, (pages + MOST - 1) / MOST));
  const std::uint64_t cells = (pages + pagesPerCell_ - 1) / pagesPerCell_;
  while (std::uint64_t{side_} * side_ < cells) side_++;
  pixels_ = std::max(1u, MIN_PIXELS / side_);
  const std::size_t count = std::size_t{side_} * side_;
  states_.reset(count, pagesPerCell_);
  owners_.reset(count, pagesPerCell_);
  kinds_.resize(count);
}

void PageDrawing::add(const StateRun& run) {
  const auto kind = static_cast<std::size_t>(run.state);
  states_.add(run.first, run.count, colourOf(run.state));
  byState_[kind] += run.count;
  for (std::uint64_t page = run.first, left = run.count; left > 0;) {
    const std::uint64_t cell = page / pagesPerCell_;
    if (cell >= kinds_.size()) return;
    const std::uint64_t part = std::min(left, (cell + 1) * pagesPerCell_ - page);
    kinds_[cell][kind] += static_cast<std::uint32_t>(part);
    page += part;
    left -= part;
  }
}

void PageDrawing::add(const OwnerRange& run) {
  shards_ = std::max(shards_, run.shard + 1);
  byOwner_[run.shard] += run.count;
  owners_.add(run.first, run.count, colourOfShard(run.shard));
}

std::vector<Colour> PageDrawing::points() const {
  const std::vector<Colour> left = states(), right = owners();
  std::vector<Colour> points(std::size_t{width()} * height(), EMPTY);
  for (std::uint32_t y = 0; y < height(); y++)
    for (std::uint32_t x = 0; x < side_ * pixels_; x++) {
      const std::size_t cell = std::size_t{y / pixels_} * side_ + x / pixels_;
      Colour* row = &points[std::size_t{y} * width()];
      row[x] = left[cell];
      row[x + (side_ + 1) * pixels_] = right[cell];
    }
  return points;
}

namespace {

png_image imageOf(std::uint32_t width, std::uint32_t height) {
  static_assert(sizeof(Colour) == 3);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = width;
  image.height = height;
  image.format = PNG_FORMAT_RGB;
  return image;
}

}  // namespace

void PageDrawing::write(const std::string& path) const {
  png_image image = imageOf(width(), height());
  if (png_image_write_to_file(&image, path.c_str(), 0, points().data(), 0, nullptr) == 0)
    throw CommandError(USAGE, "--png " + path + " cannot be written: " + image.message +
                                  "; give a file in a folder that is there and that you may write to");
}

namespace {

std::string escaped(const std::string& text) {
  std::string result;
  for (const char each : process::plainText(text)) {
    if (each == '<')
      result += "&lt;";
    else if (each == '&')
      result += "&amp;";
    else
      result += each;
  }
  return result;
}

std::string hex(Colour colour) {
  char text[8];
  snprintf(text, sizeof text, "#%02x%02x%02x", colour.red, colour.green, colour.blue);
  return text;
}

std::string share(std::uint64_t pages, std::uint64_t all) {
  char text[64];
  snprintf(text, sizeof text, "%llu pages, %.1f %%", static_cast<unsigned long long>(pages),
           all == 0 ? 0 : 100 * static_cast<double>(pages) / static_cast<double>(all));
  return text;
}

}  // namespace

std::string PageDrawing::svg(const std::string& restore, std::uint64_t bytes) const {
  // A square's side, and its place, in points.
  constexpr unsigned SQUARE = 480, LEFT = 90, TOP = 60, GAP = 40, LINE = 20, TICKS = 4;
  png_image image = imageOf(width(), height());
  const auto cells = points();
  png_alloc_size_t size = 0;
  if (png_image_write_to_memory(&image, nullptr, &size, 0, cells.data(), 0, nullptr) == 0)
    throw std::runtime_error(std::string("a picture cannot be made: ") + image.message);
  std::vector<kj::byte> png(size);
  if (png_image_write_to_memory(&image, png.data(), &size, 0, cells.data(), 0, nullptr) == 0)
    throw std::runtime_error(std::string("a picture cannot be made: ") + image.message);

  const double cell = static_cast<double>(SQUARE) / side_;
  const double wide = (2 * side_ + 1) * cell;
  const std::uint64_t pageBytes = pages_ == 0 ? 0 : bytes / pages_,
                      rowBytes = side_ * pagesPerCell_ * pageBytes;
  const unsigned rows = static_cast<unsigned>(std::max<std::size_t>(4, byOwner_.size()));
  std::ostringstream out;
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << LEFT + wide + GAP << "\" height=\""
      << TOP + SQUARE + 70 + rows * LINE << "\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n"
      << "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
      << "<text x=\"" << LEFT << "\" y=\"24\" font-size=\"16\">" << escaped(restore) << ": " << pages_
      << " pages, " << humanBytes(bytes) << "</text>\n";
  const double right = LEFT + (side_ + 1) * cell;
  out << "<text x=\"" << LEFT << "\" y=\"" << TOP - 10 << "\">states</text>\n<text x=\"" << right << "\" y=\""
      << TOP - 10 << "\">owners</text>\n";
  out << "<image x=\"" << LEFT << "\" y=\"" << TOP << "\" width=\"" << wide << "\" height=\"" << SQUARE
      << "\" style=\"image-rendering:pixelated\" preserveAspectRatio=\"none\" href=\"data:image/png;base64,"
      << kj::encodeBase64(kj::arrayPtr(png.data(), size)).cStr() << "\"/>\n";
  for (unsigned tick = 0; tick <= TICKS; tick++) {
    const std::uint64_t row = std::uint64_t{side_} * tick / TICKS;
    const double y = TOP + static_cast<double>(row) * cell;
    out << "<line x1=\"" << LEFT - 5 << "\" y1=\"" << y << "\" x2=\"" << LEFT << "\" y2=\"" << y
        << "\" stroke=\"#222\"/><text x=\"" << LEFT - 8 << "\" y=\"" << y + 4 << "\" text-anchor=\"end\">"
        << humanBytes(row * rowBytes) << "</text>\n";
  }
  const double below = TOP + SQUARE + LINE;
  out << "<text x=\"" << LEFT << "\" y=\"" << below << "\">row by row, a row is " << humanBytes(rowBytes)
      << "; a square is " << pagesPerCell_ << (pagesPerCell_ == 1 ? " page" : " pages")
      << ", in the mean of its colours</text>\n";
  const auto key = [&](double x, double y, Colour colour, const std::string& text) {
    out << "<rect x=\"" << x << "\" y=\"" << y - 11 << "\" width=\"13\" height=\"13\" fill=\"" << hex(colour)
        << "\"/><text x=\"" << x + 20 << "\" y=\"" << y << "\">" << text << "</text>\n";
  };
  constexpr const char* NAMES[] = {"missing", "faulted", "removed", "released"};
  for (unsigned state = 0; state < byState_.size(); state++)
    key(LEFT, below + 30 + state * LINE, colourOf(static_cast<PageKind>(state)),
        std::string(NAMES[state]) + ": " + share(byState_[state], pages_));
  unsigned line = 0;
  for (const auto& [shard, count] : byOwner_)
    key(right, below + 30 + line++ * LINE, colourOfShard(shard),
        "shard " + std::to_string(shard) + ": " + share(count, pages_));
  out << "</svg>\n";
  return out.str();
}

std::string PageDrawing::text(std::uint32_t columns, bool colours) const {
  constexpr char SIGNS[] = {'.', '#', 'o', '-'};
  // A place is a square of cells.
  const std::uint32_t step = std::max(1u, (side_ + columns - 1) / std::max(1u, columns));
  const std::uint32_t across = (side_ + step - 1) / step;
  const auto counts = [&](std::uint32_t column, std::uint32_t row) {
    std::array<std::uint64_t, 4> sum{};
    for (std::uint32_t y = row * step; y < std::min(side_, (row + 1) * step); y++)
      for (std::uint32_t x = column * step; x < std::min(side_, (column + 1) * step); x++)
        for (unsigned kind = 0; kind < 4; kind++) sum[kind] += kinds_[std::size_t{y} * side_ + x][kind];
    return sum;
  };
  const auto colour = [&](std::uint32_t column, std::uint32_t row) {
    const auto sum = counts(column, row);
    const std::uint64_t all = sum[0] + sum[1] + sum[2] + sum[3];
    std::array<std::uint64_t, 3> mean{};
    for (unsigned kind = 0; kind < 4; kind++) {
      const Colour of = colourOf(static_cast<PageKind>(kind));
      mean[0] += sum[kind] * of.red;
      mean[1] += sum[kind] * of.green;
      mean[2] += sum[kind] * of.blue;
    }
    std::string text;
    for (const std::uint64_t channel : mean) text += ";" + std::to_string(all == 0 ? 0 : channel / all);
    return text;
  };
  std::string out;
  if (!colours) {
    for (std::uint32_t row = 0; row < across; row++) {
      for (std::uint32_t column = 0; column < across; column++) {
        const auto sum = counts(column, row);
        const auto most = std::max_element(sum.begin(), sum.end());
        out += *most == 0 ? ' ' : SIGNS[most - sum.begin()];
      }
      out += '\n';
    }
    return out;
  }
  for (std::uint32_t row = 0; row < across; row += 2) {
    for (std::uint32_t column = 0; column < across; column++)
      // An upper half block: its own colour above, the background below.
      out += "\033[38;2" + colour(column, row) + "m\033[48;2" +
             (row + 1 < across ? colour(column, row + 1) : ";0;0;0") + "m\u2580";
    out += "\033[0m\n";
  }
  return out;
}

}  // namespace faultline::cli
