// Packed images whose frames are not chunks of a cache, as other writers of the format make them: what a target sees is the image,
// and a damaged frame costs the chunks that have a part of it.

#include <gtest/gtest.h>

#include <fstream>

#include "tests/fetcher/fetched_target.h"
#include "tests/packed/made_file.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t KIB = 1u << 10, MIB = 1u << 20;

// The image in frames of these sizes, bytes, again and again.
class FramesOf {
 public:
  FramesOf(const Image& image, const std::vector<std::uint64_t>& sizes) {
    const std::string content(image.data(), image.bytes());
    std::vector<MadeFrame> frames;
    std::uint64_t place = 0;  // in the file
    for (std::uint64_t at = 0; at < content.size(); at += frames.back().bytes) {
      frames.push_back(frameOf(content.substr(at, sizes[frames.size() % sizes.size()])));
      places_.push_back(place);
      place += frames.back().packedBytes;
    }
    std::ofstream(path(), std::ios::binary) << fileOf(frames);
  }
  std::string path() const { return folder_ / "packed"; }
  void damage(std::size_t frame) const {
    std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
    const auto at = static_cast<std::streamoff>(places_[frame] + 20);
    file.seekg(at);
    const int byte = file.get();
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 0xff));
  }

 private:
  const Directory folder_;
  std::vector<std::uint64_t> places_;
};

class FramesOfAnySize : public BothPageSizes {
 protected:
  // The last chunk is a part of one, where pages let it.
  Image image_{pageSize() == SMALL ? 4 * MIB + SMALL : 8 * MIB};
  const std::vector<std::vector<std::uint64_t>> sizes_ = {
      {4 * KIB}, {100 * KIB}, {2 * MIB}, {4 * KIB, 12 * KIB, 2 * MIB, 60 * KIB, 68 * KIB, MIB + 4 * KIB}};
};
BOTH_PAGE_SIZES(FramesOfAnySize);

TEST_P(FramesOfAnySize, EveryByteIsTheImages) {
  for (const auto& sizes : sizes_) {
    SCOPED_TRACE("frames of " + std::to_string(sizes.front()));
    const FramesOf packed(image_, sizes);
    Server server(image_, serving(packed.path()));
    Target target(image_, server.socket(), pageSize());
    server.restore();
    expectContent(target, {});
    EXPECT_GE(figuresOf(server).bytes, image_.bytes());
  }
}

TEST_P(FramesOfAnySize, APopulationBringsAllOfThem) {
  for (const auto& sizes : sizes_) {
    SCOPED_TRACE("frames of " + std::to_string(sizes.front()));
    const FramesOf packed(image_, sizes);
    Server server(image_, serving(packed.path()));
    Target target(image_, server.socket(), pageSize());
    populate(server, target);
    expectContent(target, {});
  }
}

// One of 100 KiB at 100 KiB: a part of it is in the chunks 1, 2 and 3; of the neighbours, which are read with it, in 0, 1, 3 and 4.
class DamagedFrame : public testing::Test {
 protected:
  static bool lost(std::uint64_t page) { return page / CHUNK_PAGES >= 1 && page / CHUNK_PAGES <= 3; }
  void expectAllBut(const Target& target) const {
    for (std::uint64_t page = 0; page < target.pages(); page++) {
      if (lost(page))
        ASSERT_EQ(target.touch(page), Touch::sigbus) << page;
      else
        ASSERT_TRUE(target.holdsImage(page)) << page;
    }
  }

  Image image_{4 * MIB};
  const FramesOf packed_{image_, {100 * KIB}};
};

// The chunks that are touched first.
class DamagedFrameAt : public DamagedFrame, public testing::WithParamInterface<std::vector<std::uint64_t>> {};
INSTANTIATE_TEST_SUITE_P(First, DamagedFrameAt,
                         testing::Values(std::vector<std::uint64_t>{0, 4}, std::vector<std::uint64_t>{1, 0},
                                         std::vector<std::uint64_t>{3, 4, 0}, std::vector<std::uint64_t>{2}),
                         [](const auto& info) { return "Chunk" + std::to_string(info.param.front()); });

TEST_P(DamagedFrameAt, CostsTheChunksThatHaveAPartOfIt) {
  packed_.damage(1);
  Server server(image_, serving(packed_.path()));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  std::vector<std::future<Touch>> touched;
  for (const std::uint64_t chunk : GetParam()) touched.push_back(target.touchLater(chunk * CHUNK_PAGES));
  for (std::size_t i = 0; i < touched.size(); i++)
    EXPECT_EQ(touched[i].get(), lost(GetParam()[i] * CHUNK_PAGES) ? Touch::sigbus : Touch::ok) << i;
  expectAllBut(target);
}

TEST_F(DamagedFrame, OfAPopulationCostsTheSame) {
  packed_.damage(1);
  Server server(image_, serving(packed_.path()));
  Target target(image_, server.socket(), SMALL);
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  expectAllBut(target);
}

}  // namespace
}  // namespace faultline::test
