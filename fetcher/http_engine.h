// An object of a server, whole: a memory as it is, not packed.
#pragma once

#include <memory>
#include <utility>

#include "fetcher/engine.h"
#include "fetcher/http_object.h"

namespace faultline::fetcher {

// Bytes that one read brings at least: a server's answer costs much the same for less.
inline constexpr std::uint64_t HTTP_GRAIN = 256u << 10;
// Bytes that one read brings where more is wanted.
inline constexpr std::uint64_t HTTP_PORTION = 2u << 20;
inline constexpr unsigned HTTP_DEPTH = 32;

class HttpEngine final : public Engine {
 public:
  explicit HttpEngine(std::shared_ptr<const HttpObject> object) : object_(std::move(object)) {}

  const char* name() const override { return "http"; }
  Facts facts() const override { return {object_->bytes(), object_->version(), false}; }
  std::uint64_t fingerprint() const override;
  // A server of objects tells nothing of zeros.
  void forEachKnown(const std::function<void(Range, Known)>&) const override {}
  Range unitOf(Range chunk) const override;
  int read(Range unit, std::span<std::byte> to) const override;
  unsigned depth() const override { return HTTP_DEPTH; }
  std::uint64_t portion() const override { return HTTP_PORTION; }

 private:
  const std::shared_ptr<const HttpObject> object_;
};

}  // namespace faultline::fetcher
