// Packed images: the bytes come out of frames, each of which is checked before a byte of it is used.
#pragma once

#include <kj/io.h>

#include <memory>
#include <string>

#include "fetcher/engine.h"
#include "packed/image.h"

namespace faultline::fetcher {

class PackedEngine final : public Engine {
 public:
  // `file`: open for reading. Throws packed::Refused and std::system_error, naming the file. Waits for the file.
  PackedEngine(kj::AutoCloseFd file, const std::string& name);

  const char* name() const override { return "packed"; }
  Facts facts() const override;
  void forEachKnown(const std::function<void(Range, Known)>& use) const override;
  Range unitOf(Range chunk) const override;
  int read(Range units, std::span<std::byte> to) const override;
  unsigned depth() const override;
  // As many as there are CPUs: to unpack takes one.
  unsigned background() const override { return std::max(1u, depth() / 2); }
  // What is written at once is in the page cache in large pieces.
  std::uint64_t piece() const override { return 2u << 20; }

 private:
  const kj::AutoCloseFd file_;
  const packed::Image image_;
};

}  // namespace faultline::fetcher
