#include "tests/support/stack.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <stdexcept>

namespace faultline::test {

UpperLayer::UpperLayer(std::string path, std::uint64_t bytes) : path_(std::move(path)) {
  fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes)) != 0)
    throw std::runtime_error("cannot make " + path_);
}

UpperLayer::~UpperLayer() {
  close(fd_);
}

void UpperLayer::write(std::uint64_t offset, const void* bytes, std::uint64_t length) {
  if (pwrite(fd_, bytes, length, static_cast<off_t>(offset)) != static_cast<ssize_t>(length))
    throw std::runtime_error("cannot write " + path_);
}

void UpperLayer::fill(std::uint64_t offset, std::uint64_t length, unsigned char byte) {
  const std::vector<unsigned char> bytes(length, byte);
  write(offset, bytes.data(), length);
}

Stack::Stack(std::uint64_t bytes, unsigned layers)
    : lowest_(std::make_unique<Image>(bytes)), shown_(std::make_unique<Image>(bytes)) {
  for (unsigned i = 0; i + 1 < layers; i++)
    upper_.push_back(
        std::make_unique<UpperLayer>(shown_->directory() + "/layer-" + std::to_string(i), bytes));
}

Stack Stack::random(std::uint64_t bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const unsigned layers = seed % 5 == 4 ? 32 : 2 + static_cast<unsigned>(random() % 5);
  Stack stack(bytes, layers);
  const std::uint64_t pages = bytes / PAGE;
  const auto extent = [&](auto use) {
    const std::uint64_t page = random() % pages;
    const std::uint64_t longest = random() % 8 == 0 ? 700 : 24;
    use(page, std::min(1 + random() % longest, pages - page));
  };
  for (unsigned i = 0; i < 8; i++) extent([&](auto page, auto count) { stack.hole(page, count); });
  for (unsigned layer = layers; layer-- > 0;)
    for (unsigned i = 0; i < 12; i++)
      extent([&](auto page, auto count) {
        if (random() % 3 == 0)
          stack.zeros(layer, page, count);
        else if (layer + 1 < layers)
          stack.data(layer, page, count);
      });
  return stack;
}

Stack Stack::split(const Image& image, unsigned layers) {
  constexpr std::uint64_t CLUSTER = 16 * PAGE;
  Stack stack(image.bytes(), layers);
  std::mt19937_64 random(layers);
  std::vector<char> hidden(CLUSTER);
  for (std::uint64_t offset = 0; offset < image.bytes(); offset += CLUSTER) {
    const std::uint64_t size = std::min(CLUSTER, image.bytes() - offset);
    const char* shown = image.data() + offset;
    std::transform(shown, shown + size, hidden.begin(), [](char byte) { return static_cast<char>(~byte); });
    const auto owner = static_cast<unsigned>(random() % layers);
    for (unsigned layer = owner; layer + 1 < layers; layer++)
      stack.layer(layer).write(offset, layer == owner ? shown : hidden.data(), size);
    stack.lowest().write(offset, owner + 1 == layers ? shown : hidden.data(), size);
    stack.shown().write(offset, shown, size);
  }
  return stack;
}

void Stack::data(unsigned layer, std::uint64_t page, std::uint64_t count) {
  std::vector<unsigned char> bytes(PAGE);
  for (std::uint64_t i = page; i < page + count; i++) {
    std::fill(bytes.begin(), bytes.end(), static_cast<unsigned char>(1 + (i * 7 + layer * 31) % 255));
    bytes[0] = static_cast<unsigned char>(layer + 1);
    upper_[layer]->write(i * PAGE, bytes.data(), PAGE);
    shown_->write(i * PAGE, bytes.data(), PAGE);
  }
}

void Stack::zeros(unsigned layer, std::uint64_t page, std::uint64_t count) {
  if (layer < upper_.size())
    upper_[layer]->fill(page * PAGE, count * PAGE, 0);
  else
    lowest_->zero(page * PAGE, count * PAGE);
  shown_->zero(page * PAGE, count * PAGE);
}

void Stack::hole(std::uint64_t page, std::uint64_t count) {
  lowest_->hole(page * PAGE, count * PAGE);
  shown_->zero(page * PAGE, count * PAGE);
}

std::vector<std::string> Stack::paths() const {
  std::vector<std::string> paths;
  for (const auto& layer : upper_) paths.push_back(layer->path());
  paths.push_back(lowest_->path());
  return paths;
}

std::vector<std::string> Stack::over() const {
  std::vector<std::string> arguments;
  const std::vector<std::string> all = paths();
  for (auto path = all.begin() + 1; path != all.end(); ++path)
    arguments.insert(arguments.end(), {"--over", *path});
  return arguments;
}

}  // namespace faultline::test
