#include "fetcher/sampled_fingerprint.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "image/sampled_checksum.h"

namespace faultline::fetcher {

std::uint64_t sampledFingerprint(
    std::uint64_t bytes, unsigned atOnce,
    const std::function<int(std::uint64_t offset, std::span<std::byte> to)>& read) {
  const std::vector<std::uint64_t> places = image::samplePlaces(bytes);
  std::vector<std::byte> blocks(places.size() * image::SAMPLE_BYTES);
  const auto block = [&](std::size_t i) {
    return std::span(blocks).subspan(i * image::SAMPLE_BYTES,
                                     std::min(image::SAMPLE_BYTES, bytes - places[i]));
  };
  std::atomic<std::size_t> next{0};
  std::atomic<int> failed{0};
  const auto readSome = [&] {
    for (std::size_t i; failed == 0 && (i = next++) < places.size();)
      if (const int error = read(places[i], block(i)); error != 0) failed = error;
  };
  {
    std::vector<std::jthread> others;
    while (others.size() + 1 < std::min<std::size_t>(atOnce, places.size())) others.emplace_back(readSome);
    readSome();
  }
  if (failed != 0) throw std::system_error(failed, std::generic_category(), "a sample of it cannot be read");
  image::SampledChecksum sum;
  for (std::size_t i = 0; i < places.size(); i++) sum.add(block(i));
  return sum.value();
}

}  // namespace faultline::fetcher
