// The picture of a restore's pages: a cell has the colour of its pages' states.

#include "cli/page_map.h"

#include <gtest/gtest.h>
#include <png.h>

#include <algorithm>

#include "cli/errors.h"
#include "tests/cli/command.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using cli::Colour;
using cli::colourOf;
using cli::colourOfShard;
using cli::OwnerRange;
using cli::PageDrawing;
using cli::PageKind;
using cli::StateRun;

constexpr Colour BLACK{0, 0, 0};

struct Png {
  std::uint32_t width = 0, height = 0;
  std::vector<Colour> points;
  Colour at(std::uint32_t x, std::uint32_t y) const { return points[std::size_t{y} * width + x]; }
};

Png readPng(const std::string& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  EXPECT_NE(png_image_begin_read_from_file(&image, path.c_str()), 0) << image.message;
  image.format = PNG_FORMAT_RGB;
  Png png{image.width, image.height, std::vector<Colour>(std::size_t{image.width} * image.height)};
  EXPECT_NE(png_image_finish_read(&image, nullptr, png.points.data(), 0, nullptr), 0) << image.message;
  return png;
}

PageDrawing drawingOf(std::uint64_t pages, const std::vector<StateRun>& states,
                      const std::vector<OwnerRange>& owners) {
  PageDrawing drawing(pages);
  for (const StateRun& run : states) drawing.add(run);
  for (const OwnerRange& run : owners) drawing.add(run);
  return drawing;
}

TEST(PageDrawing, ACellIsAPageWhereThereIsRoom) {
  const PageDrawing drawing = drawingOf(
      5, {{0, 2, PageKind::faulted}, {2, 1, PageKind::removed}, {3, 2, PageKind::missing}}, {{0, 5, 1}});
  EXPECT_EQ(drawing.pagesPerCell(), 1u);
  EXPECT_EQ(drawing.side(), 3u);
  const Colour f = colourOf(PageKind::faulted), r = colourOf(PageKind::removed),
               m = colourOf(PageKind::missing);
  EXPECT_EQ(drawing.states(), (std::vector<Colour>{f, f, r, m, m, BLACK, BLACK, BLACK, BLACK}));
  const Colour owner = colourOfShard(1);
  EXPECT_EQ(drawing.owners(),
            (std::vector<Colour>{owner, owner, owner, owner, owner, BLACK, BLACK, BLACK, BLACK}));
}

// 64 GiB.
TEST(PageDrawing, ACellIsTheMeanOfItsPagesWhereThereAreMany) {
  const std::uint64_t pages = 16u << 20;
  const PageDrawing drawing =
      drawingOf(pages, {{0, 32, PageKind::faulted}, {32, pages - 32, PageKind::missing}}, {{0, pages, 0}});
  EXPECT_EQ(drawing.pagesPerCell(), 64u);
  EXPECT_EQ(drawing.side(), 512u);
  const Colour f = colourOf(PageKind::faulted), m = colourOf(PageKind::missing);
  EXPECT_EQ(drawing.states()[0], (Colour{static_cast<std::uint8_t>((f.red + m.red) / 2),
                                         static_cast<std::uint8_t>((f.green + m.green) / 2),
                                         static_cast<std::uint8_t>((f.blue + m.blue) / 2)}));
  EXPECT_EQ(drawing.states()[1], m);
}

TEST(PageDrawing, ShardsDiffer) {
  for (std::uint32_t a = 0; a < 16; a++)
    for (std::uint32_t b = 0; b < a; b++) EXPECT_NE(colourOfShard(a), colourOfShard(b)) << a << " " << b;
}

TEST(PageDrawing, AnSvgHasATitleAxesAndALegendWithNumbers) {
  const PageDrawing drawing = drawingOf(
      1024, {{0, 256, PageKind::faulted}, {256, 128, PageKind::removed}, {384, 640, PageKind::missing}},
      {{0, 512, 0}, {512, 512, 3}});
  const std::string svg = drawing.svg("a<b>&c", 1024 * 4096);
  for (const char* words :
       {"a&lt;b>&amp;c: 1024 pages, 4.0 MiB", "missing: 640 pages, 62.5 %", "faulted: 256 pages, 25.0 %",
        "removed: 128 pages, 12.5 %", "released: 0 pages, 0.0 %", "shard 0: 512 pages, 50.0 %",
        "shard 3: 512 pages, 50.0 %", ">0 B<", ">1.0 MiB<", ">4.0 MiB<",
        "a row is 128.0 KiB; a square is 1 page,", "data:image/png;base64,iVBOR"})
    EXPECT_NE(svg.find(words), std::string::npos) << words;
}

TEST(PageDrawing, ATerminalGetsASignForEachSquare) {
  const PageDrawing drawing = drawingOf(16,
                                        {{0, 3, PageKind::faulted},
                                         {3, 1, PageKind::removed},
                                         {4, 4, PageKind::released},
                                         {8, 8, PageKind::missing}},
                                        {});
  EXPECT_EQ(drawing.text(64, false), "###o\n----\n....\n....\n");
  EXPECT_EQ(drawing.text(2, false), "#-\n..\n") << "what most of its pages are, the first of equals";
  const std::string coloured = drawing.text(64, true);
  EXPECT_NE(coloured.find("\033[38;2;66;133;244m"), std::string::npos);
  EXPECT_EQ(std::count(coloured.begin(), coloured.end(), '\n'), 2);
}

TEST(PageDrawing, AFileThatCannotBeWrittenIsNamed) {
  const PageDrawing drawing = drawingOf(1, {{0, 1, PageKind::missing}}, {{0, 1, 0}});
  try {
    drawing.write("/nonexistent/pages.png");
    FAIL() << "written";
  } catch (const cli::CommandError& error) {
    EXPECT_EQ(error.code, cli::USAGE);
    EXPECT_NE(std::string(error.what()).find("/nonexistent/pages.png"), std::string::npos);
  }
}

TEST(PagesCommand, DrawsARunningRestore) {
  constexpr std::uint64_t PAGES = 1024;  // two extents, of two shards
  Image image(PAGES * 4096);
  Server server(image);
  const Target target(image, server.socket(), 4096);
  auto restore = server.restore();
  ASSERT_TRUE(target.holdsImage(0));
  target.giveBack(1, 2);
  const Directory directory;
  const std::string path = directory / "pages.png";
  // The page's thread goes on a moment before its worker has stored the state.
  await([&] { return server.wait(restore.infoRequest().send()).getInfo().getFaulted() == 1; });
  const auto result = run({"pages", "vm", "--control", server.control(), "--png", path});
  ASSERT_EQ(result.code, 0) << result.err;
  const Png png = readPng(path);
  constexpr std::uint32_t SIDE = 32, PIXELS = 16;
  ASSERT_EQ(png.width, (2 * SIDE + 1) * PIXELS);
  ASSERT_EQ(png.height, SIDE * PIXELS);
  auto cell = [&png](std::uint32_t column, std::uint32_t row) {
    return png.at(column * PIXELS, row * PIXELS);
  };
  EXPECT_EQ(cell(0, 0), colourOf(PageKind::faulted));
  EXPECT_EQ(cell(1, 0), colourOf(PageKind::removed));
  EXPECT_EQ(cell(2, 0), colourOf(PageKind::removed));
  EXPECT_EQ(cell(3, 0), colourOf(PageKind::missing));
  for (const std::uint64_t page : {0u, 511u, 512u, 1023u})
    EXPECT_EQ(cell(SIDE + 1 + page % SIDE, static_cast<std::uint32_t>(page / SIDE)),
              colourOfShard(server.ownerOf(page)))
        << page;
}

}  // namespace
}  // namespace faultline::test
