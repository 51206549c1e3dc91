#include "fetcher/packed_engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <thread>

#include "packed/error.h"
#include "process/content_size.h"

namespace faultline::fetcher {

PackedEngine::PackedEngine(kj::AutoCloseFd file, const std::string& name)
    : file_(kj::mv(file)), image_(file_.get(), name, process::contentBytes(file_.get()).value_or(0)) {}

Engine::Facts PackedEngine::facts() const {
  return {image_.bytes(), image_.table().hash(), image_.base().has_value(), image_.base().value_or(0)};
}

void PackedEngine::forEachKnown(const std::function<void(Range, Known)>& use) const {
  image_.map().forEach(0, image_.bytes(), [&](const packed::Extent& extent) {
    if (extent.kind == packed::Kind::data) return;
    use({extent.offset, extent.end()}, extent.kind == packed::Kind::zero ? Known::zero : Known::below);
  });
}

// Whole frames: each is unpacked whole, whatever is wanted of it.
Range PackedEngine::unitOf(Range chunk) const {
  const packed::SeekTable& table = image_.table();
  return {table.frame(table.indexAt(chunk.begin)).offset, table.frame(table.indexAt(chunk.end - 1)).end()};
}

int PackedEngine::read(Range units, std::span<std::byte> to) const {
  try {
    thread_local packed::FrameReader reader;
    const packed::SeekTable& table = image_.table();
    for (std::size_t index = table.indexAt(units.begin); !to.empty(); index++) {
      const packed::Frame frame = table.frame(index);
      image_.read(index, reader, to.first(frame.bytes));
      to = to.subspan(frame.bytes);
    }
    return 0;
  } catch (const packed::Damaged& error) {
    spdlog::error("{}", error.what());
    return EBADMSG;
  } catch (const std::system_error& error) {
    spdlog::warn("{}", error.what());
    return error.code().value() > 0 ? error.code().value() : EIO;
  } catch (const std::bad_alloc&) {
    return ENOMEM;
  }
}

// To unpack takes a CPU; some more read meanwhile.
unsigned PackedEngine::depth() const {
  return std::clamp(2 * std::thread::hardware_concurrency(), 4u, 16u);
}

}  // namespace faultline::fetcher
