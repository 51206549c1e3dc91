// Packed images: the bytes come out of frames, each of which is checked before a byte of it is used. The file may be of this
// host, or an object of a server.
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
  // `grain`: bytes of `file` that a read should bring at least, where its neighbours have as many. `depth`: threads that may
  // read at once. Throws packed::Refused and std::system_error, naming the file.
  PackedEngine(std::shared_ptr<const packed::Bytes> file, std::uint64_t grain, unsigned depth);

  const char* name() const override { return "packed"; }
  Facts facts() const override;
  std::uint64_t fingerprint() const override;
  void forEachKnown(const std::function<void(Range, Known)>& use) const override;
  Range unitOf(Range chunk) const override;
  Range leastOf(Range chunk) const override;
  int read(Range units, std::span<std::byte> to) const override;
  unsigned depth() const override { return depth_; }
  // Threads: as many as there are CPUs, since to unpack takes one. Most of them wait where the file is far.
  unsigned background() const override { return std::max(1u, grain_ == 0 ? depth_ / 2 : depth_ * 3 / 4); }
  // Bytes that are written at once are in the page cache in large pieces.
  std::uint64_t piece() const override { return 2u << 20; }

 private:
  bool together(std::size_t frame, std::size_t next) const;

  const packed::Image image_;
  const std::uint64_t grain_;
  const unsigned depth_;
};

}  // namespace faultline::fetcher
