// The frame of faultline's own in a packed image: what the image is, and the map of its pages. zstd skips it.
// docs/packed.md describes the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "packed/layer_map.h"

namespace faultline::packed {

// Magic number of a skippable frame (RFC 8878, 3.1.2). zstd's own tools use 0x184D2A50 (pzstd) and 0x184D2A5E (the seek table).
inline constexpr std::uint32_t DESCRIPTION_FRAME = 0x184D2A57;
// Header of any skippable frame: a magic number and the number of bytes that follow.
inline constexpr std::size_t SKIPPABLE_HEADER = 8;

struct Description {
  // Fingerprint of what a differential image lies over (`faultline info`). Empty: a full image.
  std::optional<std::uint64_t> base;
  std::uint64_t tableHash = 0;  // XXH64 of all entries of the seek table
  LayerMap map;
};

// Bytes of the frame, its header included.
std::uint64_t descriptionBytes(const LayerMap& map);
// The most that it can have, for an image of so many bytes: a run for each page.
std::uint64_t mostDescriptionBytes(std::uint64_t bytes);
// The frame, its header included.
std::vector<std::byte> formatDescription(const Description& description);

// Whether a skippable frame is, or was, one of these, by its first DESCRIPTION_PROBE bytes or what there is of them.
inline constexpr std::size_t DESCRIPTION_PROBE = 16;
bool isDescription(std::span<const std::byte> frame);

// Reads such a frame, its header included. Any bytes may come; allocates no more than four times as much as they are
// long. Throws Refused, in words that go on after the name of the file.
Description parseDescription(std::span<const std::byte> frame);

}  // namespace faultline::packed
