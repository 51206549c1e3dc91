// The source that is a stack of files of one size: a differential snapshot over the one before it, and so on.
//
// What is data in a layer is that layer's, zeros included; a hole asks the layer below; a hole of the lowest is zero.
// Which layer has a page is found out where waiting is allowed, when the page's piece of 2 MiB is first needed, and kept
// in a byte for each page: those who must not wait read that byte. To attach costs the same, however many extents the
// files have.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "process/file_identity.h"
#include "shard/source/fetched_file.h"
#include "shard/source/page_source.h"
#include "shard/source/raw_file.h"
#include "shard/sparse_bytes.h"

namespace faultline::shard {

class LayeredFile final : public PageSource {
 public:
  struct File {
    kj::AutoCloseFd file;                          // open for reading
    std::string name;                              // for messages
    std::shared_ptr<const FetchedFile> fetched{};  // in place of `file`
  };

  // `files`: the top layer first, 2 to process::MOST_LAYERS, all of so many bytes. They must not change from here on.
  // Does not wait.
  LayeredFile(std::vector<File> files, std::uint64_t bytes);

  Staged tryRead(std::uint64_t offset, std::size_t length, void* buffer) const override;
  Staged tryView(std::uint64_t offset, std::size_t length) const override;
  const void* view(std::uint64_t offset) const override;
  void release(std::uint64_t offset, std::size_t length) const override;
  bool zeroForGood(std::uint64_t offset, std::size_t length) const override;
  const PageSource& readFrom(std::uint64_t offset, std::size_t length) const override;
  // Each layer has plain reads of its own.
  std::optional<FileRange> plainRead(std::uint64_t, std::size_t) const override { return std::nullopt; }
  std::optional<std::string> whatChanged(std::uint64_t offset, std::size_t length) const override;
  unsigned populatedAtOnce() const override;
  std::string fileOf(std::uint64_t offset) const override;
  Staged read(std::uint64_t offset, std::size_t length, void* buffer) const override;
  Staged readToPopulate(std::uint64_t offset, std::size_t length, void* buffer) const override;
  Staged readInPlace(std::uint64_t offset, std::size_t length) const override;

 private:
  // Who has a page.
  using Owner = std::uint8_t;
  static constexpr Owner UNKNOWN = 0;  // not looked up yet
  static constexpr Owner ZERO =
      process::MOST_LAYERS + 1;  // a hole in all of them; else the layer's position, plus 1
  // Who has the pages of a range. one: `layer`; zeros beside the lowest layer's data are counted as its own.
  struct Whose {
    enum class Kind { unknown, zero, one, several } kind;
    std::size_t layer = 0;
  };

  Owner ownerOf(std::uint64_t page) const { return owners_[page].load(std::memory_order_acquire); }
  std::size_t layerOf(Owner owner) const { return owner == ZERO ? layers_.size() - 1 : owner - 1u; }
  std::size_t layerOf(std::uint64_t offset) const;
  Whose whose(std::uint64_t offset, std::size_t length) const;
  // The positions of the layers in the range, by bits; bit 63: some are not known.
  std::uint64_t layersIn(std::uint64_t offset, std::size_t length) const;
  int lookUp(std::uint64_t offset, std::size_t length) const;
  int lookUp(std::uint64_t piece, std::uint64_t from, std::uint64_t to) const;
  bool known(std::uint64_t from, std::uint64_t to) const;
  template <typename Read>
  Staged readBy(std::uint64_t offset, std::size_t length, void* buffer, Read read) const;
  template <typename Read>
  Staged gather(std::uint64_t offset, std::size_t length, char* buffer, Read read) const;

  struct Layer {
    int fd;  // of `file`; -1: it is fetched
    std::shared_ptr<const PageSource> file;
    std::string name;
    std::shared_ptr<const FetchedFile> fetched;  // or null
    process::FileIdentity was;
  };
  std::vector<Layer> layers_;  // the top one first
  const SparseBytes owners_;   // for each page of 4 KiB; each is set once
  // For each piece, how many layers have been asked for all of it.
  const std::unique_ptr<std::atomic<std::uint8_t>[]> asked_;
};

}  // namespace faultline::shard
