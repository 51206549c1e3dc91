#include "packed/description.h"

#include <algorithm>
#include <array>

#include "packed/checksum.h"
#include "packed/error.h"
#include "packed/little_endian.h"

namespace faultline::packed {

namespace {

// Not text, and damaged by whatever takes it for text: as PNG has it.
constexpr std::array<unsigned char, 8> MAGIC = {0x89, 'F', 'L', 'P', '\r', '\n', 0x1a, '\n'};
constexpr std::uint32_t VERSION = 1;
constexpr std::uint32_t DIFFERENTIAL = 1;  // flag
// Offsets in the frame: magic, version, flags, bytes of the image, base, hash of the table; then the runs; then the hash.
constexpr std::size_t VERSION_AT = 16, FLAGS_AT = 20, BYTES_AT = 24, BASE_AT = 32, TABLE_AT = 40,
                      RUNS_AT = 48;
constexpr std::size_t RUN = 4, HASH = 8;
// A run: its kind in the upper two bits, how many pages in the others.
constexpr unsigned KIND_SHIFT = 30;
constexpr std::uint32_t MOST_PAGES = (1u << KIND_SHIFT) - 1;
constexpr const char* DAMAGED = "; it was damaged: copy it anew, or pack the image again";

std::string text(std::uint64_t value) {
  return std::to_string(value);
}

std::uint64_t pagesOf(std::uint64_t bytes) {
  return bytes / PAGE + (bytes % PAGE != 0 ? 1 : 0);
}

bool hasMagic(std::span<const std::byte> frame) {
  return frame.size() >= SKIPPABLE_HEADER + MAGIC.size() &&
         std::equal(MAGIC.begin(), MAGIC.end(), frame.begin() + SKIPPABLE_HEADER,
                    [](unsigned char one, std::byte other) { return std::byte{one} == other; });
}

std::uint64_t runsOf(const LayerMap& map) {
  std::uint64_t runs = 0;
  map.forEach(0, map.bytes(),
              [&](const Extent& extent) { runs += (pagesOf(extent.size) + MOST_PAGES - 1) / MOST_PAGES; });
  return runs;
}

LayerMap mapFrom(std::span<const std::byte> runs, std::uint64_t bytes, bool differential) {
  LayerMap map;
  for (std::size_t at = 0; at < runs.size(); at += RUN) {
    const auto run = numberAt<std::uint32_t>(runs, at);
    const std::uint32_t kind = run >> KIND_SHIFT, pages = run & MOST_PAGES;
    const std::string which = "has a map of holes whose run " + text(at / RUN);
    if (kind > static_cast<std::uint32_t>(Kind::below) || pages == 0)
      throw Refused(which + " is no run (" + text(run) + ")" + DAMAGED);
    if (static_cast<Kind>(kind) == Kind::below && !differential)
      throw Refused(which + " lies over another image, and is the map of a full one" + DAMAGED);
    const std::uint64_t left = bytes - map.bytes();
    if (pages > pagesOf(left))
      throw Refused(which + " ends behind the image, which has " + text(bytes) + " bytes" + DAMAGED);
    map.append(std::min(pages * PAGE, left), static_cast<Kind>(kind));
  }
  if (map.bytes() != bytes)
    throw Refused("has a map of holes for " + text(map.bytes()) + " bytes, and an image of " + text(bytes) +
                  DAMAGED);
  return map;
}

}  // namespace

std::uint64_t descriptionBytes(const LayerMap& map) {
  return RUNS_AT + RUN * runsOf(map) + HASH;
}

std::uint64_t mostDescriptionBytes(std::uint64_t bytes) {
  return RUNS_AT + RUN * pagesOf(bytes) + HASH;
}

std::vector<std::byte> formatDescription(const Description& description) {
  const LayerMap& map = description.map;
  std::vector<std::byte> frame;
  frame.reserve(descriptionBytes(map));
  append(frame, DESCRIPTION_FRAME);
  append(frame, static_cast<std::uint32_t>(descriptionBytes(map) - SKIPPABLE_HEADER));
  for (const unsigned char byte : MAGIC) frame.push_back(std::byte{byte});
  append(frame, VERSION);
  append(frame, description.base.has_value() ? DIFFERENTIAL : 0u);
  append(frame, map.bytes());
  append(frame, description.base.value_or(0));
  append(frame, description.tableHash);
  map.forEach(0, map.bytes(), [&](const Extent& extent) {
    for (std::uint64_t pages = pagesOf(extent.size); pages > 0;) {
      const auto some = static_cast<std::uint32_t>(std::min<std::uint64_t>(pages, MOST_PAGES));
      append(frame, static_cast<std::uint32_t>(extent.kind) << KIND_SHIFT | some);
      pages -= some;
    }
  });
  append(frame, hashOf(frame));
  return frame;
}

bool isDescription(std::span<const std::byte> frame) {
  return (frame.size() >= 4 && numberAt<std::uint32_t>(frame, 0) == DESCRIPTION_FRAME) || hasMagic(frame);
}

Description parseDescription(std::span<const std::byte> frame) {
  const std::string what = "has a description (its skippable frame of " + text(frame.size()) + " bytes) ";
  if (frame.size() < RUNS_AT + HASH || (frame.size() - RUNS_AT - HASH) % RUN != 0)
    throw Refused(what + "of a length that none has" + DAMAGED);
  if (numberAt<std::uint64_t>(frame, frame.size() - HASH) != hashOf(frame.first(frame.size() - HASH)))
    throw Refused(what + "with a wrong checksum" + DAMAGED);
  if (numberAt<std::uint32_t>(frame, 0) != DESCRIPTION_FRAME || !hasMagic(frame) ||
      numberAt<std::uint32_t>(frame, 4) != frame.size() - SKIPPABLE_HEADER)
    throw Refused(what + "with a wrong header" + DAMAGED);
  const auto version = numberAt<std::uint32_t>(frame, VERSION_AT);
  if (version != VERSION)
    throw Refused(what + "of version " + text(version) + ", and this build knows " + text(VERSION) +
                  "; use the build that packed it, or unpack it there (faultline unpack)");
  const auto flags = numberAt<std::uint32_t>(frame, FLAGS_AT);
  if ((flags & ~DIFFERENTIAL) != 0)
    throw Refused(what + "with flags that this build does not know (" + text(flags) +
                  "); use the build that packed it, or unpack it there (faultline unpack)");
  Description description;
  const bool differential = (flags & DIFFERENTIAL) != 0;
  if (differential) description.base = numberAt<std::uint64_t>(frame, BASE_AT);
  description.tableHash = numberAt<std::uint64_t>(frame, TABLE_AT);
  description.map = mapFrom(frame.subspan(RUNS_AT, frame.size() - RUNS_AT - HASH),
                            numberAt<std::uint64_t>(frame, BYTES_AT), differential);
  return description;
}

}  // namespace faultline::packed
