// The fingerprint of layers that others have opened: plain files and packed images.
#pragma once

#include <kj/array.h>
#include <kj/io.h>

#include <cstdint>

namespace faultline::fetcher {

// `layers`: the top one first; they lie over a memory of the fingerprint `base` where that is not 0. Throws std::exception where
// one cannot be read. Waits for the files.
std::uint64_t fingerprintOf(kj::ArrayPtr<const kj::AutoCloseFd> layers, std::uint64_t base);

}  // namespace faultline::fetcher
