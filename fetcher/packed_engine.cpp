#include "fetcher/packed_engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "fetcher/sampled_fingerprint.h"
#include "packed/error.h"
#include "process/content_size.h"

namespace faultline::fetcher {

namespace {

// A file that goes with its reader.
class OwnFile final : public packed::Bytes {
 public:
  OwnFile(kj::AutoCloseFd file, const std::string& name)
      : file_(kj::mv(file)), bytes_(file_.get(), name, process::contentBytes(file_.get()).value_or(0)) {}

  const std::string& name() const override { return bytes_.name(); }
  std::uint64_t size() const override { return bytes_.size(); }
  void read(std::uint64_t offset, std::span<std::byte> to) const override { bytes_.read(offset, to); }

 private:
  const kj::AutoCloseFd file_;
  const packed::FileBytes bytes_;
};

packed::FrameReader& ownReader() {
  thread_local packed::FrameReader reader;
  return reader;
}

// 0, or errno of what `work` has thrown, which is told.
template <typename Work>
int reported(Work work) {
  try {
    work();
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

}  // namespace

// To unpack takes a CPU; some more read meanwhile.
PackedEngine::PackedEngine(kj::AutoCloseFd file, const std::string& name)
    : PackedEngine(std::make_shared<const OwnFile>(kj::mv(file), name), 0,
                   std::clamp(2 * std::thread::hardware_concurrency(), 4u, 16u)) {}

PackedEngine::PackedEngine(std::shared_ptr<const packed::Bytes> file, std::uint64_t grain, unsigned depth)
    : image_(std::move(file)), grain_(grain), depth_(depth) {}

Engine::Facts PackedEngine::facts() const {
  return {image_.bytes(), image_.table().hash(), image_.base().has_value(), image_.base().value_or(0)};
}

std::uint64_t PackedEngine::fingerprint() const {
  return sampledFingerprint(image_.bytes(), depth_, [this](std::uint64_t offset, std::span<std::byte> to) {
    return reported([&] { image_.readRange(offset, ownReader(), to); });
  });
}

void PackedEngine::forEachKnown(const std::function<void(Range, Known)>& use) const {
  image_.map().forEach(0, image_.bytes(), [&](const packed::Extent& extent) {
    if (extent.kind == packed::Kind::data) return;
    use({extent.offset, extent.end()}, extent.kind == packed::Kind::zero ? Known::zero : Known::below);
  });
}

// Whether one read should bring both: they lie in the same piece of the file, and of the image, so that frames of next to nothing
// do not make a unit of any size.
bool PackedEngine::together(std::size_t frame, std::size_t next) const {
  if (grain_ == 0) return false;
  const packed::Frame one = image_.table().frame(frame), other = image_.table().frame(next);
  return one.at / grain_ == other.at / grain_ &&
         one.offset / packed::LARGEST_FRAME == other.offset / packed::LARGEST_FRAME;
}

// Whole frames: each is unpacked whole, whatever is wanted of it.
Range PackedEngine::unitOf(Range chunk) const {
  const packed::SeekTable& table = image_.table();
  std::size_t first = table.indexAt(chunk.begin), last = table.indexAt(chunk.end - 1);
  while (first > 0 && together(first - 1, first)) first--;
  while (last + 1 < table.frames() && together(last, last + 1)) last++;
  return {table.frame(first).offset, table.frame(last).end()};
}

Range PackedEngine::leastOf(Range chunk) const {
  const packed::SeekTable& table = image_.table();
  return {table.frame(table.indexAt(chunk.begin)).offset, table.frame(table.indexAt(chunk.end - 1)).end()};
}

int PackedEngine::read(Range units, std::span<std::byte> to) const {
  return reported([&] {
    const packed::SeekTable& table = image_.table();
    image_.read(table.indexAt(units.begin), table.indexAt(units.end - 1) + 1, ownReader(), to);
  });
}

}  // namespace faultline::fetcher
