#include "fetcher/fingerprint.h"

#include <memory>
#include <vector>

#include "image/fingerprint.h"
#include "packed/packed_content.h"
#include "packed/seek_table.h"
#include "process/content_size.h"

namespace faultline::fetcher {

std::uint64_t fingerprintOf(kj::ArrayPtr<const kj::AutoCloseFd> layers, std::uint64_t base) {
  constexpr const char* NAME = "a layer";
  std::vector<std::unique_ptr<packed::Image>> images;
  std::vector<std::unique_ptr<image::LayerContent>> contents;
  for (const kj::AutoCloseFd& layer : layers) {
    const std::uint64_t bytes = process::contentBytes(layer.get()).value_or(0);
    if (packed::hasSeekTable(packed::FileBytes(layer.get(), NAME, bytes))) {
      images.push_back(std::make_unique<packed::Image>(layer.get(), NAME, bytes));
      contents.push_back(std::make_unique<packed::PackedContent>(*images.back()));
    } else {
      contents.push_back(std::make_unique<image::PlainContent>(layer.get()));
    }
  }
  return base != 0 ? image::fingerprintOver(base, contents) : image::fingerprintOf(contents);
}

}  // namespace faultline::fetcher
