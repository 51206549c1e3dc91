#include "packed/seek_table.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <span>

#include "packed/checksum.h"
#include "packed/error.h"
#include "packed/layer_map.h"
#include "packed/little_endian.h"

namespace faultline::packed {

namespace {

constexpr std::uint32_t TABLE_FRAME = 0x184D2A5E, FOOTER_MAGIC = 0x8F92EAB1;
constexpr std::uint32_t PZSTD_FRAME = 0x184D2A50;
constexpr std::uint64_t HEADER = 8, FOOTER = 9;
// A byte of the footer: bit 7 says that entries have checksums, bits 6 to 2 must be 0, 1 and 0 are to be ignored.
constexpr std::uint8_t CHECKSUMS = 0x80, RESERVED = 0x7c;
constexpr std::uint64_t ENTRY = 12, ENTRY_WITHOUT_CHECKSUM = 8;
// Other writers end with an empty frame.
constexpr std::size_t MOST_EMPTY = 16;
// A block of 4 bytes (RFC 8878, 3.1.1.2: a header of 3, and a byte that is repeated) has at most 128 KiB of content.
constexpr std::uint64_t MOST_RATIO = (128u << 10) / 4;
constexpr const char* DAMAGED = "; it was cut off or changed: copy it anew, or pack the image again";
constexpr const char* PACK_ANEW = "; unpack it with zstd -d, and pack the result with faultline pack";

std::string text(std::uint64_t value) {
  return std::to_string(value);
}

struct Footer {
  std::uint32_t frames, magic;
  std::uint8_t descriptor;
};

Footer footerOf(const Bytes& file) {
  std::array<std::byte, FOOTER> bytes{};
  file.read(file.size() - FOOTER, bytes);
  return {numberAt<std::uint32_t>(bytes, 0), numberAt<std::uint32_t>(bytes, 5),
          std::to_integer<std::uint8_t>(bytes[4])};
}

// Tells what a file without a table is instead, as far as its first bytes tell.
std::string whatItIs(const Bytes& file) {
  std::array<std::byte, 4> first{};
  if (file.size() >= first.size()) file.read(0, first);
  const auto magic = numberAt<std::uint32_t>(first, 0);
  if (magic == PZSTD_FRAME)
    return std::string("it was written by pzstd, whose files have no table by which a page could be found") +
           PACK_ANEW;
  if (magic == ZSTD_MAGICNUMBER)
    return std::string("it was written by zstd, and has no table by which a page could be found") + PACK_ANEW;
  return "it does not end with the table of a packed image; give one that faultline pack has written, whole";
}

}  // namespace

bool hasSeekTable(const Bytes& file) {
  return file.size() >= HEADER + FOOTER && footerOf(file).magic == FOOTER_MAGIC;
}

// Reads one table.
class SeekTable::Reading {
 public:
  Reading(SeekTable& table, const Bytes& file) : table_(table), file_(file) {}

  void run() {
    if (!hasSeekTable(file_)) refuse(whatItIs(file_));
    const Footer footer = footerOf(file_);
    if ((footer.descriptor & RESERVED) != 0)
      refuse("its table has bits set that are reserved (" + text(footer.descriptor) + ")" + DAMAGED);
    const bool checksums = (footer.descriptor & CHECKSUMS) != 0;
    locate(footer.frames, checksums ? ENTRY : ENTRY_WITHOUT_CHECKSUM);
    if (!checksums)
      refuse(std::string("its table has no checksums, so that damage would go unnoticed") + PACK_ANEW);
    readEntries(footer.frames);
    if (at_ != tableAt_)
      refuse("its frames end at " + text(at_) + ", and its table begins at " + text(tableAt_) + DAMAGED);
    if (table_.entries_.empty()) refuse("it has no bytes" + std::string(PACK_ANEW));
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Refused(file_.name() + " can't be used as a packed image: " + why);
  }

  // Finds where the table begins, if the file has room for it.
  void locate(std::uint32_t frames, std::uint64_t entry) {
    if (frames > MOST_FRAMES)
      refuse("its table has " + text(frames) + " frames, and at most " + text(MOST_FRAMES) + " are taken" +
             DAMAGED);
    const std::uint64_t content = frames * entry + FOOTER;
    if (HEADER + content > file_.size())
      refuse("its table has " + text(frames) + " frames, for which the file's " + text(file_.size()) +
             " bytes have no room" + DAMAGED);
    tableAt_ = file_.size() - content - HEADER;
    std::array<std::byte, HEADER> header{};
    file_.read(tableAt_, header);
    if (numberAt<std::uint32_t>(header, 0) != TABLE_FRAME || numberAt<std::uint32_t>(header, 4) != content)
      refuse("no table begins at offset " + text(tableAt_) + ", where one of " + text(frames) +
             " frames would" + DAMAGED);
  }

  void readEntries(std::uint32_t frames) {
    constexpr std::uint32_t AT_ONCE = 64u << 10;
    std::vector<std::byte> piece(ENTRY * std::min(frames, AT_ONCE));
    RunningHash hash;
    for (std::uint32_t first = 0; first < frames; first += AT_ONCE) {
      const std::span<std::byte> some = std::span(piece).first(ENTRY * std::min(frames - first, AT_ONCE));
      file_.read(tableAt_ + HEADER + first * ENTRY, some);
      hash.add(some);
      for (std::size_t i = 0; i < some.size() / ENTRY; i++) {
        number_ = first + i;
        const std::span<const std::byte> entry = some.subspan(i * ENTRY, ENTRY);
        add(numberAt<std::uint32_t>(entry, 0), numberAt<std::uint32_t>(entry, 4),
            numberAt<std::uint32_t>(entry, 8));
      }
    }
    table_.hash_ = hash.value();
  }

  void add(std::uint32_t packedBytes, std::uint32_t bytes, std::uint32_t checksum) {
    if (packedBytes == 0) refuseFrame("has no bytes in the file");
    if (packedBytes > tableAt_ - at_)
      refuseFrame("ends at " + text(at_ + packedBytes) + ", in the table, which begins at " + text(tableAt_));
    if (bytes == 0) {
      if (table_.empty_.size() == MOST_EMPTY)
        refuse("more than " + text(MOST_EMPTY) + " of its frames have no content" + PACK_ANEW);
      table_.empty_.push_back({at_, packedBytes});
    } else {
      check(packedBytes, bytes);
      table_.entries_.push_back({table_.content_, at_, packedBytes, checksum});
      table_.largestPacked_ = std::max(table_.largestPacked_, packedBytes);
      table_.largest_ = std::max(table_.largest_, bytes);
      table_.content_ += bytes;
    }
    at_ += packedBytes;
  }

  void check(std::uint32_t packedBytes, std::uint32_t bytes) const {
    if (bytes > LARGEST_FRAME)
      refuse("its frame " + text(number_) + " has " + text(bytes) + " bytes when unpacked, and at most " +
             text(LARGEST_FRAME) + " are taken, since a page would wait for all of them" + PACK_ANEW);
    if (bytes > packedBytes * MOST_RATIO)
      refuseFrame("is said to have " + text(bytes) + " bytes, which its " + text(packedBytes) +
                  " packed ones cannot hold");
    if (packedBytes > ZSTD_compressBound(LARGEST_FRAME))
      refuseFrame("has " + text(packedBytes) + " packed bytes, more than a frame can need");
    if (table_.content_ % PAGE != 0)
      refuse("its frame " + text(number_) + " begins at byte " + text(table_.content_) +
             " of the image, inside a page of 4096 bytes" + PACK_ANEW);
  }

  [[noreturn]] void refuseFrame(const std::string& why) const {
    refuse("its frame " + text(number_) + " " + why + DAMAGED);
  }

  SeekTable& table_;
  const Bytes& file_;
  std::uint64_t tableAt_ = 0, at_ = 0;  // at: of the frame that is being looked at
  std::uint64_t number_ = 0;            // number of that frame
};

SeekTable::SeekTable(const Bytes& file) {
  Reading(*this, file).run();
}

Frame SeekTable::frame(std::size_t index) const {
  const Entry& entry = entries_[index];
  const std::uint64_t end = index + 1 < entries_.size() ? entries_[index + 1].offset : content_;
  return {entry.offset, static_cast<std::uint32_t>(end - entry.offset), entry.at, entry.packedBytes,
          entry.checksum};
}

std::size_t SeekTable::indexAt(std::uint64_t offset) const {
  const auto after =
      std::upper_bound(entries_.begin(), entries_.end(), offset,
                       [](std::uint64_t value, const Entry& entry) { return value < entry.offset; });
  return static_cast<std::size_t>(after - entries_.begin()) - 1;
}

void SeekTableWriter::add(std::uint32_t packedBytes, std::uint32_t bytes, std::uint32_t checksum) {
  append(bytes_, packedBytes);
  append(bytes_, bytes);
  append(bytes_, checksum);
  entries_++;
}

std::uint64_t SeekTableWriter::hash() const {
  return hashOf(bytes_);
}

std::vector<std::byte> SeekTableWriter::finish() {
  std::vector<std::byte> frame;
  frame.reserve(HEADER + bytes_.size() + FOOTER);
  append(frame, TABLE_FRAME);
  append(frame, static_cast<std::uint32_t>(bytes_.size() + FOOTER));
  frame.insert(frame.end(), bytes_.begin(), bytes_.end());
  append(frame, entries_);
  frame.push_back(std::byte{CHECKSUMS});
  append(frame, FOOTER_MAGIC);
  return frame;
}

}  // namespace faultline::packed
