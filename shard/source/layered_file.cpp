#include "shard/source/layered_file.h"

#include <kj/debug.h>
#include <unistd.h>

#include <algorithm>
#include <bitset>
#include <cerrno>
#include <cstring>
#include <utility>

#include "shard/source/readers.h"

namespace faultline::shard {

namespace {

constexpr std::uint64_t PAGE = 4096;
constexpr std::uint64_t PAGES_A_PIECE = PageSource::PIECE / PAGE;
constexpr std::uint64_t SOME_UNKNOWN = 1ull << 63;
static_assert(process::MOST_LAYERS < 63);

using Pages = std::bitset<PAGES_A_PIECE>;

constexpr Staged COLD{Staged::Kind::cold, nullptr, 0}, NOTHING{Staged::Kind::zero, nullptr, 0};

// The pages of a piece that are data in `file`. Answers an error (errno) where that is not told, or not by whole pages:
// what a part of a page hides is not known.
int dataOf(int file, std::uint64_t start, std::uint64_t end, std::uint64_t bytes, Pages& data) {
  for (std::uint64_t at = start; at < end;) {
    const off_t from = lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (from < 0 && errno == ENXIO) return 0;  // a hole up to the file's end
    if (from < 0) return errno;
    const auto first = static_cast<std::uint64_t>(from);
    if (first >= end) return 0;
    const off_t to = lseek(file, from, SEEK_HOLE);
    if (to < 0) return errno;
    const auto last = static_cast<std::uint64_t>(to);
    if (first % PAGE != 0 || (last % PAGE != 0 && last < bytes) || last <= first) return EBADMSG;
    for (std::uint64_t page = first; page < std::min(last, end); page += PAGE)
      data.set((page - start) / PAGE);
    at = last;
  }
  return 0;
}

// The same of the lowest layer: a file that does not tell its holes is data, and zeros are data as well as a hole.
void dataOfLowest(int file, std::uint64_t start, std::uint64_t end, Pages& data) {
  for (std::uint64_t at = start; at < end;) {
    const off_t from = lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (from < 0 && errno == ENXIO) return;
    const auto first = from < 0 ? at : static_cast<std::uint64_t>(from);
    if (first >= end) return;
    const off_t to = from < 0 ? from : lseek(file, from, SEEK_HOLE);
    const auto last = to <= from ? end : static_cast<std::uint64_t>(to);
    for (std::uint64_t page = first / PAGE * PAGE; page < std::min(last, end); page += PAGE)
      data.set((page - start) / PAGE);
    at = last;
  }
}

}  // namespace

LayeredFile::LayeredFile(std::vector<File> files, std::uint64_t bytes)
    : PageSource(bytes),
      owners_((bytes + PAGE - 1) / PAGE),
      asked_(std::make_unique<std::atomic<std::uint8_t>[]>((bytes + PIECE - 1) / PIECE)) {
  KJ_REQUIRE(files.size() >= 2 && files.size() <= process::MOST_LAYERS, "not a stack of layers",
             files.size());
  for (File& file : files) {
    if (file.fetched != nullptr) {
      layers_.push_back({-1, file.fetched, std::move(file.name), file.fetched, {}});
      continue;
    }
    const int fd = file.file.get();
    layers_.push_back({fd, std::make_shared<RawFile>(kj::mv(file.file), bytes, RawFile::Role::layer),
                       std::move(file.name), nullptr, process::identityOf(fd)});
  }
}

// --- who has a page ---

std::uint64_t LayeredFile::layersIn(std::uint64_t offset, std::size_t length) const {
  std::uint64_t layers = 0;
  for (std::uint64_t page = offset / PAGE; page < (offset + length + PAGE - 1) / PAGE; page++) {
    const Owner owner = ownerOf(page);
    layers |= owner == UNKNOWN ? SOME_UNKNOWN : 1ull << layerOf(owner);
  }
  return layers;
}

LayeredFile::Whose LayeredFile::whose(std::uint64_t offset, std::size_t length) const {
  const std::uint64_t layers = layersIn(offset, length);
  if ((layers & SOME_UNKNOWN) != 0) return {Whose::Kind::unknown};
  if ((layers & (layers - 1)) != 0) return {Whose::Kind::several};
  if (zeroForGood(offset, length)) return {Whose::Kind::zero};
  return {Whose::Kind::one, layerOf(offset)};
}

bool LayeredFile::zeroForGood(std::uint64_t offset, std::size_t length) const {
  for (std::uint64_t page = offset / PAGE; page < (offset + length + PAGE - 1) / PAGE; page++)
    if (ownerOf(page) != ZERO) return false;
  return true;
}

std::size_t LayeredFile::layerOf(std::uint64_t offset) const {
  const Owner owner = ownerOf(offset / PAGE);
  return owner == UNKNOWN ? 0 : layerOf(owner);
}

unsigned LayeredFile::populatedAtOnce() const {
  unsigned most = 1;
  for (const Layer& layer : layers_) most = std::max(most, layer.file->populatedAtOnce());
  return most;
}

std::string LayeredFile::fileOf(std::uint64_t offset) const {
  return layers_[layerOf(offset)].name;
}

const PageSource& LayeredFile::readFrom(std::uint64_t offset, std::size_t length) const {
  const Whose who = whose(offset, length);
  return who.kind == Whose::Kind::one ? *layers_[who.layer].file : *this;
}

std::optional<std::string> LayeredFile::whatChanged(std::uint64_t offset, std::size_t length) const {
  const std::uint64_t layers = layersIn(offset, length);
  for (std::size_t i = 0; i < layers_.size(); i++) {
    if ((layers & (SOME_UNKNOWN | 1ull << i)) == 0) continue;
    if (layers_[i].fetched != nullptr) {
      if (auto what = layers_[i].fetched->whatChanged(offset, length)) return what;
      continue;
    }
    if (auto what = process::whatChanged(layers_[i].was, process::identityOf(layers_[i].fd)))
      return "layer " + layers_[i].name + " " + *what + " since the restore began";
  }
  return std::nullopt;
}

bool LayeredFile::known(std::uint64_t from, std::uint64_t to) const {
  return (layersIn(from, to - from) & SOME_UNKNOWN) == 0;
}

int LayeredFile::lookUp(std::uint64_t offset, std::size_t length) const {
  const std::uint64_t end = offset + length;
  for (std::uint64_t piece = offset / PIECE; piece * PIECE < end; piece++)
    if (const int error = lookUp(piece, std::max(offset, piece * PIECE), std::min(end, (piece + 1) * PIECE)))
      return error;
  return 0;
}

// Layer by layer, each for all of the piece, until `from` to `to` is known: a layer that does not answer holds up those
// alone that no layer over it has. Others may do the same at the same time, and find the same.
int LayeredFile::lookUp(std::uint64_t piece, std::uint64_t from, std::uint64_t to) const {
  const std::uint64_t start = piece * PIECE, end = std::min(start + PIECE, bytes());
  const std::uint64_t firstPage = start / PAGE, lastPage = (end + PAGE - 1) / PAGE;
  for (std::size_t i = asked_[piece].load(std::memory_order_acquire); i < layers_.size() && !known(from, to);
       i++) {
    Pages data;
    const bool lowest = i + 1 == layers_.size();
    if (layers_[i].fetched != nullptr) {
      for (std::uint64_t page = firstPage; page < lastPage; page++)
        if (!layers_[i].fetched->below(page)) data.set(page - firstPage);
    } else {
      const int error = lowest ? (dataOfLowest(layers_[i].fd, start, end, data), 0)
                               : dataOf(layers_[i].fd, start, end, bytes(), data);
      if (error != 0) return error;
      // What it says is of the restore's snapshot only if nothing has changed by now.
      if (process::whatChanged(layers_[i].was, process::identityOf(layers_[i].fd)).has_value()) return ESTALE;
    }
    for (std::uint64_t page = firstPage; page < lastPage; page++) {
      if (ownerOf(page) != UNKNOWN) continue;
      if (data.test(page - firstPage))
        owners_[page].store(static_cast<Owner>(i + 1), std::memory_order_release);
      else if (lowest)
        owners_[page].store(ZERO, std::memory_order_release);
    }
    asked_[piece].store(static_cast<std::uint8_t>(i + 1), std::memory_order_release);
  }
  return 0;
}

// --- its bytes ---

// From each layer the pages that it has. `read(file, offset, length, buffer)`.
template <typename Read>
Staged LayeredFile::gather(std::uint64_t offset, std::size_t length, char* buffer, Read read) const {
  for (std::size_t done = 0; done < length;) {
    const Owner owner = ownerOf((offset + done) / PAGE);
    std::size_t part = PAGE;
    while (done + part < length && ownerOf((offset + done + part) / PAGE) == owner) part += PAGE;
    part = std::min(part, length - done);
    Staged staged = NOTHING;
    if (owner != ZERO) staged = read(*layers_[layerOf(owner)].file, offset + done, part, buffer + done);
    if (staged.kind == Staged::Kind::cold || staged.kind == Staged::Kind::lost) return staged;
    if (staged.kind == Staged::Kind::zero)
      std::memset(buffer + done, 0, part);
    else if (staged.data != buffer + done)
      std::memcpy(buffer + done, staged.data, part);
    done += part;
  }
  return stagedAt(buffer, length);
}

Staged LayeredFile::tryRead(std::uint64_t offset, std::size_t length, void* buffer) const {
  const Whose who = whose(offset, length);
  switch (who.kind) {
    case Whose::Kind::zero:
      return NOTHING;
    case Whose::Kind::one:
      return layers_[who.layer].file->tryRead(offset, length, buffer);
    case Whose::Kind::several:
      return gather(offset, length, static_cast<char*>(buffer),
                    [](const PageSource& file, std::uint64_t at, std::size_t part, char* to) {
                      return file.tryRead(at, part, to);
                    });
    case Whose::Kind::unknown:
      break;
  }
  return COLD;
}

Staged LayeredFile::tryView(std::uint64_t offset, std::size_t length) const {
  const Whose who = whose(offset, length);
  if (who.kind == Whose::Kind::zero) return NOTHING;
  return who.kind == Whose::Kind::one ? layers_[who.layer].file->tryView(offset, length) : COLD;
}

const void* LayeredFile::view(std::uint64_t offset) const {
  return layers_[layerOf(offset)].file->view(offset);
}

void LayeredFile::release(std::uint64_t offset, std::size_t length) const {
  const std::uint64_t layers = layersIn(offset, length);
  for (std::size_t i = 0; i < layers_.size(); i++)
    if ((layers & 1ull << i) != 0) layers_[i].file->release(offset, length);
}

// Once it is known that one layer has all of it, that layer's threads read it: they wait for no other.
template <typename Read>
Staged LayeredFile::readBy(std::uint64_t offset, std::size_t length, void* buffer, Read read) const {
  if (const int error = lookUp(offset, length)) return {Staged::Kind::lost, nullptr, error};
  if (whose(offset, length).kind == Whose::Kind::one) return COLD;
  if (zeroForGood(offset, length)) return NOTHING;
  return gather(offset, length, static_cast<char*>(buffer), read);
}

Staged LayeredFile::read(std::uint64_t offset, std::size_t length, void* buffer) const {
  return readBy(offset, length, buffer,
                [](const PageSource& file, std::uint64_t at, std::size_t part, char* to) {
                  return file.read(at, part, to);
                });
}

Staged LayeredFile::readToPopulate(std::uint64_t offset, std::size_t length, void* buffer) const {
  return readBy(offset, length, buffer,
                [](const PageSource& file, std::uint64_t at, std::size_t part, char* to) {
                  return file.readToPopulate(at, part, to);
                });
}

Staged LayeredFile::readInPlace(std::uint64_t offset, std::size_t length) const {
  if (const int error = lookUp(offset, length)) return {Staged::Kind::lost, nullptr, error};
  const Whose who = whose(offset, length);
  if (who.kind == Whose::Kind::zero) return NOTHING;
  return who.kind == Whose::Kind::one ? layers_[who.layer].file->readInPlace(offset, length) : COLD;
}

}  // namespace faultline::shard
