#include "image/flatten.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <stdexcept>

#include "image/read_data.h"
#include "image/stack_walk.h"
#include "process/file_identity.h"

namespace faultline::image {

namespace {

constexpr std::size_t PAGE = 4096;

class Writer {
 public:
  explicit Writer(const NewFile& out) : out_(out) {}

  std::uint64_t written() const { return written_; }

  // Leaves out pages of zeros.
  void write(const StackFile& layer, std::uint64_t offset, std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t begin = at;
      const auto page = [&] { return bytes.subspan(at, std::min(PAGE, bytes.size() - at)); };
      while (at < bytes.size() && !isZero(page())) at += page().size();
      if (at > begin) put(layer, offset + begin, bytes.subspan(begin, at - begin));
      if (at < bytes.size()) at += page().size();
    }
  }

 private:
  // Shared pieces of less would cost more to keep than they save.
  static constexpr std::size_t SHARED_FROM = 64u << 10;

  void put(const StackFile& layer, std::uint64_t offset, std::span<const std::byte> bytes) {
    written_ += bytes.size();
    if (bytes.size() >= SHARED_FROM && !notShared_.contains(layer.file)) {
      file_clone_range range{layer.file, offset, bytes.size(), offset};
      if (ioctl(out_.fd(), FICLONERANGE, &range) == 0) return;
      notShared_.insert(layer.file);
    }
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t n =
          pwrite(out_.fd(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0)
        throw std::runtime_error(out_.path() + " is not written: at offset " + std::to_string(offset + done) +
                                 ": " + std::strerror(n < 0 ? errno : ENOSPC) + "; nothing is left of it");
      done += static_cast<std::size_t>(n);
    }
  }

  const NewFile& out_;
  std::set<int> notShared_;  // layers
  std::uint64_t written_ = 0;
};

}  // namespace

std::uint64_t flatten(const std::vector<StackFile>& layers, std::uint64_t bytes, NewFile& out,
                      const std::function<void(std::uint64_t)>& progress) {
  std::vector<process::FileIdentity> before;
  before.reserve(layers.size());
  for (const StackFile& layer : layers) before.push_back(process::identityByServer(layer.file));
  // Its size first: xfs would else allocate behind its end, and keep that as space that was never written.
  if (ftruncate(out.fd(), static_cast<off_t>(bytes)) != 0)
    throw std::runtime_error(out.path() + " is not written: it cannot have " + std::to_string(bytes) +
                             " bytes: " + std::strerror(errno));
  Writer writer(out);
  walkStack(layers, bytes, [&](const StackFile& layer, const Extent& extent) {
    readData(layer, extent, [&](std::uint64_t offset, std::span<const std::byte> piece) {
      progress(offset);
      writer.write(layer, offset, piece);
    });
  });
  progress(bytes);
  for (std::size_t i = 0; i < layers.size(); i++)
    if (process::identityByServer(layers[i].file) != before[i])
      throw std::runtime_error(layers[i].name +
                               " has changed while it was read; nothing is written. Try again when "
                               "nothing writes to it");
  out.publish();
  return writer.written();
}

}  // namespace faultline::image
