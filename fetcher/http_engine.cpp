#include "fetcher/http_engine.h"

#include <algorithm>

#include "fetcher/sampled_fingerprint.h"

namespace faultline::fetcher {

std::uint64_t HttpEngine::fingerprint() const {
  return sampledFingerprint(
      object_->bytes(), HTTP_DEPTH / 2,
      [this](std::uint64_t offset, std::span<std::byte> to) { return object_->read(offset, to); });
}

Range HttpEngine::unitOf(Range chunk) const {
  return {chunk.begin / HTTP_GRAIN * HTTP_GRAIN,
          std::min((chunk.end + HTTP_GRAIN - 1) / HTTP_GRAIN * HTTP_GRAIN, object_->bytes())};
}

int HttpEngine::read(Range unit, std::span<std::byte> to) const {
  return object_->read(unit.begin, to);
}

}  // namespace faultline::fetcher
