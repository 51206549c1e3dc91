// Snapshots as qemu has them, in qcow2, which a real qemu-nbd serves: plain, compressed and in chains; damaged; and while every
// process dies.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/io.h>
#include <unistd.h>

#include <array>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t MIB = 1u << 20, CLUSTER = 64u << 10;

enum class Kind { plain, compressed, chain };
constexpr Kind KINDS[] = {Kind::plain, Kind::compressed, Kind::chain};

std::string nameOf(Kind kind) {
  return kind == Kind::plain ? "Plain" : kind == Kind::compressed ? "Compressed" : "Chain";
}

std::string whyNot() {
  for (const char* program : {"qemu-nbd", "qemu-img", "qemu-io"})
    if (std::string why = NbdServer::whyNot(program); !why.empty()) return why;
  return "";
}

// Makes a file in `folder` of the image; a chain is three deep, and its upper layers change the image. Its path.
std::string made(Kind kind, Image& image, const Directory& folder) {
  const std::string bottom = folder / "0";
  std::vector<std::string> convert{"qemu-img", "convert", "-f", "raw", "-O", "qcow2"};
  if (kind == Kind::compressed) convert.insert(convert.end(), {"-c", "-o", "compression_type=zstd"});
  convert.insert(convert.end(), {image.path(), bottom});
  runTool(convert);
  if (kind != Kind::chain) return bottom;
  std::string top = bottom;
  for (unsigned layer = 1; layer < 3; layer++) {
    const std::string below = std::exchange(top, folder / std::to_string(layer));
    runTool({"qemu-img", "create", "-f", "qcow2", "-b", below, "-F", "qcow2", top});
    const std::uint64_t at = layer * MIB, zeros = at + (256 << 10), length = 192 << 10;
    const auto write = [&](const std::string& what, std::uint64_t offset) {
      runTool({"qemu-io", "-f", "qcow2", "-c",
               "write " + what + " " + std::to_string(offset) + " " + std::to_string(length), top});
    };
    write("-P 0x7" + std::to_string(layer), at);
    image.fill(at, length, static_cast<unsigned char>(0x70 + layer));
    write("-z", zeros);
    image.zero(zeros, length);
  }
  return top;
}

std::vector<std::string> serverOf(const std::string& file) {
  return {"qemu-nbd", "-r", "-t", "-e", "4", "-f", "qcow2", "-k", "{}", file};
}

// --- whole memories ---

class Qcow2 : public testing::TestWithParam<std::tuple<Kind, std::uint64_t>> {
 protected:
  void SetUp() override {
    if (const std::string why = whyNot(); !why.empty()) GTEST_SKIP() << why;
    if (pageSize() == HUGE && !hugePagesAvailable(64)) GTEST_SKIP() << "no 64 free huge pages";
    image_.hole(3 * MIB, MIB / 2);
    source_ = std::make_unique<NbdServer>(serverOf(made(std::get<Kind>(GetParam()), image_, folder_)));
  }
  static std::uint64_t pageSize() { return std::get<std::uint64_t>(GetParam()); }

  Image image_{pageSize() == SMALL ? 4 * MIB : 8 * MIB};
  const Directory folder_;
  std::unique_ptr<NbdServer> source_;
};
INSTANTIATE_TEST_SUITE_P(Of, Qcow2, testing::Combine(testing::ValuesIn(KINDS), testing::Values(SMALL, HUGE)),
                         [](const auto& info) {
                           return nameOf(std::get<Kind>(info.param)) +
                                  (std::get<std::uint64_t>(info.param) == SMALL ? "Small" : "Huge");
                         });

TEST_P(Qcow2, EveryByteIsTheImages) {
  Server server(image_, serving(*source_));
  Target target(image_, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
  EXPECT_LE(figuresOf(server).bytes, image_.bytes() - MIB / 2) << "what it says is zero is not fetched";
}

TEST_P(Qcow2, APopulationBringsAllOfIt) {
  Server server(image_, serving(*source_));
  Target target(image_, server.socket(), pageSize());
  populate(server, target);
  expectContent(target, {});
}

// --- deaths ---

class Qcow2Deaths : public FetchedTarget, public testing::WithParamInterface<Kind> {
 protected:
  void SetUp() override {
    if (const std::string why = whyNot(); !why.empty()) GTEST_SKIP() << why;
    source_ = std::make_unique<NbdServer>(serverOf(made(GetParam(), image_, folder_)));
    restore(source_->uri(), "60s");
  }
  // The questions are on their way then. None is of zeros that the server has told.
  void touchAndStall() {
    source_->stall();
    touch(64, 30);
    awaitQueued();
  }

  const Directory folder_;
  std::unique_ptr<NbdServer> source_;
};
INSTANTIATE_TEST_SUITE_P(Of, Qcow2Deaths, testing::ValuesIn(KINDS),
                         [](const auto& info) { return nameOf(info.param); });

TEST_P(Qcow2Deaths, OfTheServer) {
  touchAndStall();
  source_->kill();
  source_->start();
  expectAll();
  EXPECT_GE(figuresOf(*server_).reconnects, 1u);
}

TEST_P(Qcow2Deaths, OfEveryProcessOfOurs) {
  touchAndStall();
  killAll(*server_);
  source_->goOn();
  expectAll();
}

TEST_P(Qcow2Deaths, OfAllOfThem) {
  touchAndStall();
  killAll(*server_);
  source_->kill();
  source_->start();
  expectAll();
}

TEST_P(Qcow2Deaths, AnotherContentAfterwardsFailsTheRestore) {
  Image other(image_.bytes());
  other.fill(0, other.bytes(), 7);
  const Directory folder;
  source_->kill();
  source_->startAs(serverOf(made(Kind::compressed, other, folder)));
  EXPECT_EQ(target_->touch(50 * CHUNK_PAGES), Touch::sigbus) << "no byte of the other";
  awaitSourceChanged(*server_);
}

// --- damage ---

std::uint64_t numberAt(int file, std::uint64_t offset, std::size_t bytes) {
  std::array<unsigned char, 8> raw{};
  if (pread(file, raw.data(), bytes, static_cast<off_t>(offset)) != static_cast<ssize_t>(bytes))
    throw std::runtime_error("a qcow2 file is too short");
  std::uint64_t number = 0;
  for (std::size_t i = 0; i < bytes; i++) number = number << 8 | raw[i];
  return number;
}

// Turns the first bytes of a compressed cluster round, by which no zstd takes it for its own. Layout: docs/interop/qcow2.txt of qemu.
void damage(const std::string& path, std::uint64_t cluster) {
  const kj::AutoCloseFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  constexpr std::uint64_t OFFSET = 0x00fffffffffffe00, COMPRESSED = 1ull << 62;
  const std::uint64_t bits = numberAt(file.get(), 20, 4), first = numberAt(file.get(), 40, 8),
                      second = numberAt(file.get(), first, 8) & OFFSET,
                      entry = numberAt(file.get(), second + 8 * cluster, 8);
  ASSERT_EQ(1ull << bits, CLUSTER);
  ASSERT_NE(entry & COMPRESSED, 0u);
  const std::uint64_t at = entry & ((1ull << (62 - (bits - 8))) - 1);
  std::array<unsigned char, 4> magic{};
  ASSERT_EQ(pread(file.get(), magic.data(), magic.size(), static_cast<off_t>(at)), 4);
  ASSERT_EQ(magic, (std::array<unsigned char, 4>{0x28, 0xb5, 0x2f, 0xfd})) << "RFC 8878";
  for (unsigned char& byte : magic) byte ^= 0xff;
  ASSERT_EQ(pwrite(file.get(), magic.data(), magic.size(), static_cast<off_t>(at)), 4);
}

// The real qemu-nbd ends the connection at a cluster that it cannot unpack, with all that was asked for on it.
class DamagedQcow2 : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = whyNot(); !why.empty()) GTEST_SKIP() << why;
    file_ = made(Kind::compressed, image_, folder_);
  }

  // None of the places by which the export is known is in a cluster of an odd number.
  static constexpr std::uint64_t SAMPLED = 50, NOT_SAMPLED = 51;
  Image image_{32 * MIB};
  const Directory folder_;
  std::string file_;
};

TEST_F(DamagedQcow2, CostsThePagesOfItsClusterAlone) {
  damage(file_, NOT_SAMPLED);
  const NbdServer source(serverOf(file_));
  Server server(image_, serving(source, {.more = {"--source-patience", "4s"}}));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  auto lost = target.touchLater(NOT_SAMPLED * CHUNK_PAGES);
  expectContentBut(target, NOT_SAMPLED);
  EXPECT_EQ(lost.get(), Touch::sigbus);
  await([&] { return !server.eventWith({"is poisoned", source.uri()}).empty(); });
}

TEST_F(DamagedQcow2, APopulationBringsAllButThat) {
  damage(file_, NOT_SAMPLED);
  const NbdServer source(serverOf(file_));
  Server server(image_, serving(source, {.more = {"--source-patience", "4s"}}));
  Target target(image_, server.socket(), SMALL);
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(target.touch(NOT_SAMPLED * CHUNK_PAGES), Touch::sigbus);
  expectContentBut(target, NOT_SAMPLED);
}

// What it is known by cannot be read: a later connection could not be compared with it.
TEST_F(DamagedQcow2, OneThatCannotBeKnownIsRefused) {
  damage(file_, SAMPLED);
  const NbdServer source(serverOf(file_));
  const std::string log = folder_ / "log";
  Server server(image_, serving(source, {.logFile = log}));
  Target target(image_, server.socket(), SMALL);
  awaitRefusal(log);
  EXPECT_THAT(textOf(log), HasSubstr("source " + source.uri() + " cannot be used: "));
  EXPECT_EQ(server.status().getRestores().size(), 0u);
}

}  // namespace
}  // namespace faultline::test
