// Layers of a snapshot's memory, page by page as a test says.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace faultline::test {

inline constexpr std::uint64_t PAGE = 4096;

// A page of a layer: a hole, or data all of one byte, which may be 0.
inline constexpr int HOLE = -1;
using LayerPages = std::vector<int>;

// Writes the file as a VMM does: its size first, then the pages that are data.
void writeLayer(const std::string& path, const LayerPages& pages);

// The bytes of a file.
std::string contentOf(const std::string& path);
// Which pages are holes, as the file system tells it.
std::vector<bool> holesOf(const std::string& path);

// The bytes that `layers`, the upper ones first, show: the plainest way to find it out.
std::string shownBy(const std::vector<LayerPages>& layers);

}  // namespace faultline::test
