// Where the bytes of a packed image come from: a file of this host, or whatever else is read at an offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace faultline::packed {

// Any thread.
class Bytes {
 public:
  virtual ~Bytes() noexcept(false) = default;  // KJ's fds may throw

  virtual const std::string& name() const = 0;  // for messages
  virtual std::uint64_t size() const = 0;
  // Fills `to` from `offset` on, whole. Throws std::system_error, naming the source, where that fails. Waits for it.
  virtual void read(std::uint64_t offset, std::span<std::byte> to) const = 0;
};

// An open file, borrowed, which must stay as it is.
class FileBytes final : public Bytes {
 public:
  FileBytes(int file, std::string name, std::uint64_t size)
      : file_(file), name_(std::move(name)), size_(size) {}

  const std::string& name() const override { return name_; }
  std::uint64_t size() const override { return size_; }
  void read(std::uint64_t offset, std::span<std::byte> to) const override;

 private:
  const int file_;
  const std::string name_;
  const std::uint64_t size_;
};

}  // namespace faultline::packed
