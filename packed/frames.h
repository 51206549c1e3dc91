// Packing bytes into a frame, and unpacking them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace faultline::packed {

// zstd's own, without its fast negative ones.
inline constexpr int LEAST_LEVEL = 1, MOST_LEVEL = 22, USUAL_LEVEL = 3;

struct PackedFrame {
  std::vector<std::byte> packed;
  std::uint32_t bytes = 0, checksum = 0;  // content's
};

// Makes frames. For one thread at a time.
class Packer {
 public:
  // `level`: LEAST_LEVEL to MOST_LEVEL.
  explicit Packer(int level);
  ~Packer();
  Packer(Packer&&) noexcept;

  // `content`: at most LARGEST_FRAME. Throws std::runtime_error with zstd's reason (no memory).
  PackedFrame pack(std::span<const std::byte> content);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Reads frames. For one thread at a time. Throws std::bad_alloc where there is no memory for it.
class Unpacker {
 public:
  Unpacker();
  ~Unpacker();
  Unpacker(Unpacker&&) noexcept;

  // Fills `content` from a frame and compares its checksum. Empty: every byte is right. Otherwise what is wrong, in words that
  // go on after "frame N "; `content` has arbitrary bytes then.
  std::optional<std::string> unpack(std::span<const std::byte> frame, std::span<std::byte> content,
                                    std::uint32_t checksum);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace faultline::packed
