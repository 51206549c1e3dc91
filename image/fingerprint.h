// The fingerprint of a snapshot's memory: which one it is, as far as a few places of it tell.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "image/layer_content.h"

namespace faultline::image {

// The fingerprint of one memory: a CRC-64 over up to 256 blocks of 4 KiB at fixed places. Throws as LayerContent does.
std::uint64_t fingerprintOf(LayerContent& memory);

// The fingerprint of layers over a memory of fingerprint `base`, the top one first: also of where data begins behind the places
// that are looked at, and of what is there. `base` itself where there is none.
std::uint64_t fingerprintOver(std::uint64_t base, std::span<const std::unique_ptr<LayerContent>> upper);

// The fingerprint of a stack, the top layer first.
std::uint64_t fingerprintOf(std::span<const std::unique_ptr<LayerContent>> layers);

// The fingerprint as people see it: 16 hexadecimal digits.
std::string fingerprintText(std::uint64_t fingerprint);

}  // namespace faultline::image
