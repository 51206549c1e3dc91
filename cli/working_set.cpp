#include "cli/working_set.h"

#include <algorithm>
#include <boost/crc.hpp>

namespace faultline::cli {

namespace {

// Not text, and damaged by whatever takes it for text: as PNG has it.
constexpr unsigned char MAGIC[8] = {0x89, 'F', 'L', 'W', '\r', '\n', 0x1a, '\n'};
constexpr std::uint32_t VERSION = 1;
constexpr std::size_t HEADER = 48, RANGE = 16, CHECKSUM = 4;
constexpr std::uint64_t SMALL_PAGE = 4096, HUGE_PAGE = 2u << 20;
constexpr const char* WAY_OUT = "; record it anew";

std::string text(std::uint64_t value) {
  return std::to_string(value);
}

std::uint32_t crc32c(std::span<const std::byte> bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return static_cast<std::uint32_t>(crc.checksum());
}

// Little-endian numbers, one after the other. The caller has made sure that they are there.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::uint64_t u64() { return number(8); }
  std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }

 private:
  std::uint64_t number(std::size_t size) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; i++) value |= std::to_integer<std::uint64_t>(bytes_[i]) << (8 * i);
    bytes_ = bytes_.subspan(size);
    return value;
  }

  std::span<const std::byte> bytes_;
};

class Writer {
 public:
  explicit Writer(std::size_t size) { bytes_.reserve(size); }
  void u64(std::uint64_t value) { number(value, 8); }
  void u32(std::uint32_t value) { number(value, 4); }
  void number(std::uint64_t value, std::size_t size) {
    for (std::size_t i = 0; i < size; i++) bytes_.push_back(static_cast<std::byte>(value >> (8 * i)));
  }
  std::span<const std::byte> written() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

std::string describe(std::size_t index, const SourceRange& range) {
  return "range " + text(index) + " (offset " + text(range.offset) + ", " + text(range.size) + " bytes)";
}

// Checks the content, wherever it comes from.
void check(const WorkingSet& set) {
  if (set.pageSize != SMALL_PAGE && set.pageSize != HUGE_PAGE)
    throw WorkingSetError("its page size is " + text(set.pageSize) + " bytes, which nothing is served with" +
                          WAY_OUT + " (4096 and 2097152 are)");
  if (set.ranges.size() > MAX_WORKING_SET_RANGES)
    throw WorkingSetError("it has " + text(set.ranges.size()) + " ranges; at most " +
                          text(MAX_WORKING_SET_RANGES) + " are taken" + WAY_OUT);
  for (std::size_t i = 0; i < set.ranges.size(); i++) {
    const SourceRange& range = set.ranges[i];
    if (range.size == 0 || (range.offset | range.size) % set.pageSize != 0)
      throw WorkingSetError(describe(i, range) + " is not made of whole pages of " + text(set.pageSize) +
                            " bytes" + WAY_OUT);
    if (range.offset > set.snapshot.bytes || range.size > set.snapshot.bytes - range.offset)
      throw WorkingSetError(describe(i, range) + " reaches past the end of its snapshot, which has " +
                            text(set.snapshot.bytes) + " bytes" + WAY_OUT);
  }
  std::vector<SourceRange> sorted = set.ranges;
  std::sort(sorted.begin(), sorted.end(), [](auto& a, auto& b) { return a.offset < b.offset; });
  for (std::size_t i = 1; i < sorted.size(); i++)
    if (sorted[i - 1].end() > sorted[i].offset)
      throw WorkingSetError("it names the page at offset " + text(sorted[i].offset) + " twice" + WAY_OUT);
}

}  // namespace

std::uint64_t WorkingSet::bytes() const {
  std::uint64_t sum = 0;
  for (const SourceRange& range : ranges) sum += range.size;
  return sum;
}

WorkingSet parseWorkingSet(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof MAGIC ||
      !std::equal(std::begin(MAGIC), std::end(MAGIC), bytes.begin(),
                  [](unsigned char a, std::byte b) { return static_cast<std::byte>(a) == b; }))
    throw WorkingSetError("it is no recorded working set (it does not begin as one)");
  if (bytes.size() < HEADER + CHECKSUM)
    throw WorkingSetError("it is cut off: it has " + text(bytes.size()) + " bytes, the least is " +
                          text(HEADER + CHECKSUM) + WAY_OUT);
  Reader reader(bytes.subspan(sizeof MAGIC));
  const std::uint32_t version = reader.u32();
  if (version != VERSION)
    throw WorkingSetError("its format has version " + text(version) + ", this program reads version " +
                          text(VERSION) + WAY_OUT + " with this program");
  WorkingSet set;
  set.pageSize = reader.u32();
  set.snapshot.bytes = reader.u64();
  set.snapshot.fingerprint = reader.u64();
  set.lost = reader.u64();
  const std::uint64_t count = reader.u64();
  // Before the product, which could wrap around.
  if (count > MAX_WORKING_SET_RANGES)
    throw WorkingSetError("it says that it has " + text(count) + " ranges; at most " +
                          text(MAX_WORKING_SET_RANGES) + " are taken" + WAY_OUT);
  const std::uint64_t expected = HEADER + count * RANGE + CHECKSUM;
  if (bytes.size() != expected)
    throw WorkingSetError(std::string(bytes.size() < expected ? "it is cut off" : "something follows it") +
                          ": it has " + text(bytes.size()) + " bytes and says " + text(expected) + WAY_OUT);
  const auto body = bytes.first(bytes.size() - CHECKSUM);
  const std::uint32_t stored = Reader(bytes.last(CHECKSUM)).u32(), computed = crc32c(body);
  if (stored != computed)
    throw WorkingSetError("it is damaged: its checksum is " + text(stored) + ", its bytes make " +
                          text(computed) + WAY_OUT);
  set.ranges.reserve(count);
  for (std::uint64_t i = 0; i < count; i++) {
    const std::uint64_t offset = reader.u64();
    set.ranges.push_back({offset, reader.u64()});
  }
  check(set);
  return set;
}

std::vector<std::byte> formatWorkingSet(const WorkingSet& set) {
  check(set);
  Writer writer(HEADER + set.ranges.size() * RANGE + CHECKSUM);
  for (const unsigned char byte : MAGIC) writer.number(byte, 1);
  writer.u32(VERSION);
  writer.u32(static_cast<std::uint32_t>(set.pageSize));
  writer.u64(set.snapshot.bytes);
  writer.u64(set.snapshot.fingerprint);
  writer.u64(set.lost);
  writer.u64(set.ranges.size());
  for (const SourceRange& range : set.ranges) {
    writer.u64(range.offset);
    writer.u64(range.size);
  }
  writer.u32(crc32c(writer.written()));
  return writer.take();
}

}  // namespace faultline::cli
