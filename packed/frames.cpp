#include "packed/frames.h"

#include <zstd.h>

#include <new>
#include <stdexcept>

#include "packed/checksum.h"

namespace faultline::packed {

namespace {

std::size_t checked(std::size_t result) {
  if (ZSTD_isError(result) != 0)
    throw std::runtime_error(std::string("packing fails: ") + ZSTD_getErrorName(result));
  return result;
}

}  // namespace

struct Packer::State {
  std::unique_ptr<ZSTD_CCtx, std::size_t (*)(ZSTD_CCtx*)> context{ZSTD_createCCtx(), ZSTD_freeCCtx};
};

Packer::Packer(int level) : state_(std::make_unique<State>()) {
  ZSTD_CCtx* context = state_->context.get();
  if (context == nullptr) throw std::bad_alloc();
  checked(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level));
  // The frame has its checksum, too, so that zstd itself notices damage.
  checked(ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1));
}
Packer::~Packer() = default;
Packer::Packer(Packer&&) noexcept = default;

PackedFrame Packer::pack(std::span<const std::byte> content) {
  PackedFrame frame;
  frame.packed.resize(ZSTD_compressBound(content.size()));
  frame.packed.resize(checked(ZSTD_compress2(state_->context.get(), frame.packed.data(), frame.packed.size(),
                                             content.data(), content.size())));
  frame.bytes = static_cast<std::uint32_t>(content.size());
  frame.checksum = checksumOf(content);
  return frame;
}

struct Unpacker::State {
  std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> context{ZSTD_createDCtx(), ZSTD_freeDCtx};
};

Unpacker::Unpacker() : state_(std::make_unique<State>()) {
  if (state_->context == nullptr) throw std::bad_alloc();
}
Unpacker::~Unpacker() = default;
Unpacker::Unpacker(Unpacker&&) noexcept = default;

std::optional<std::string> Unpacker::unpack(std::span<const std::byte> frame, std::span<std::byte> content,
                                            std::uint32_t checksum) {
  // Never writes behind `content`: a frame that would have more is an error.
  const std::size_t got =
      ZSTD_decompressDCtx(state_->context.get(), content.data(), content.size(), frame.data(), frame.size());
  if (ZSTD_isError(got) != 0) return std::string("cannot be unpacked: ") + ZSTD_getErrorName(got);
  if (got != content.size())
    return "has " + std::to_string(got) + " bytes, and the table says " + std::to_string(content.size());
  if (checksumOf(content) != checksum) return "has a wrong checksum";
  return std::nullopt;
}

}  // namespace faultline::packed
