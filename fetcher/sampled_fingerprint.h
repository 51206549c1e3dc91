// The checksum over samples of a source, which a file of the same bytes has as well (image/sampled_checksum.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace faultline::fetcher {

// `read`: fills a span from an offset on, and returns 0 or errno; called by `atOnce` threads. Throws std::system_error where it
// fails.
std::uint64_t sampledFingerprint(
    std::uint64_t bytes, unsigned atOnce,
    const std::function<int(std::uint64_t offset, std::span<std::byte> to)>& read);

}  // namespace faultline::fetcher
