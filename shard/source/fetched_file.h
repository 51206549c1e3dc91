// The source that is a cache's data: a local file of which a fetcher writes each chunk when it is asked for.
//
// What is there is read as any other file is, without a call. What is not there is asked for by the reader threads, which
// alone wait for the answer. A hole of the file says nothing: only the map does.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "rpc/fetch_map.h"
#include "shard/source/fetch_client.h"
#include "shard/source/page_source.h"
#include "shard/source/raw_file.h"
#include "threads/mutex.h"

namespace faultline::shard {

class FetchedFile final : public PageSource {
 public:
  // `data`: of so many bytes, as `map` says, which is ready. `patience`: ns that a read may take. `name`: for messages. Throws
  // kj::Exception where they do not fit. Does not wait.
  FetchedFile(kj::AutoCloseFd data, rpc::FetchMap map, std::shared_ptr<FetchClient> client,
              std::uint64_t bytes, std::uint64_t patience, std::string name);
  ~FetchedFile() noexcept(false) override;

  Staged tryRead(std::uint64_t offset, std::size_t length, void* buffer) const override;
  Staged tryView(std::uint64_t offset, std::size_t length) const override;
  const void* view(std::uint64_t offset) const override { return file_->view(offset); }
  void release(std::uint64_t offset, std::size_t length) const override { file_->release(offset, length); }
  bool zeroForGood(std::uint64_t offset, std::size_t length) const override {
    return map_.zero(offset, length);
  }
  std::optional<FileRange> plainRead(std::uint64_t offset, std::size_t length) const override;
  std::optional<std::string> whatChanged(std::uint64_t offset, std::size_t length) const override;
  void willRead(std::uint64_t offset, std::size_t length) const override;
  unsigned populatedAtOnce() const override { return 4; }
  Staged read(std::uint64_t offset, std::size_t length, void* buffer) const override;
  Staged readToPopulate(std::uint64_t offset, std::size_t length, void* buffer) const override;
  Staged readInPlace(std::uint64_t offset, std::size_t length) const override;

  // Whether the page is not the source's own, but that of a layer below.
  bool below(std::uint64_t page) const { return map_.below(page); }

 private:
  using Purpose = rpc::FetchRing::Purpose;

  // Bytes that are wanted, and where to: null where they are to be kept only.
  struct Wanted {
    std::uint64_t offset;
    std::size_t length;
    char* buffer;
  };
  struct Fetched {
    int error = 0;
    std::uint64_t given =
        0;  // by bits, from the range's first chunk on: came without being kept, and was put into the buffer
    bool notKept = false;  // a chunk is not, and there was no buffer
  };
  void used(std::uint64_t offset, std::size_t length) const;
  Staged readFor(Purpose purpose, std::uint64_t offset, std::size_t length, void* buffer) const;
  std::optional<FetchClient::Asked> takeAhead(std::uint64_t chunk) const;
  Fetched fetch(const Wanted& wanted, Purpose purpose, std::uint64_t deadline) const;

  const std::shared_ptr<RawFile> file_;
  const rpc::FetchMap map_;
  const std::shared_ptr<FetchClient> client_;
  // By bits: chunks that were used, whether they had been fetched for another or not.
  const std::unique_ptr<std::atomic<std::uint64_t>[]> used_;
  const std::uint64_t patience_;
  const std::string name_;
  // Questions that were asked before the reader thread had been woken that takes the answer. More have to wait for theirs.
  struct Ahead {
    std::uint64_t chunk = 0;
    std::optional<FetchClient::Asked> question{};
  };
  mutable threads::Mutex mutex_;
  mutable std::array<Ahead, 16> ahead_ GUARDED_BY(mutex_);
};

}  // namespace faultline::shard
