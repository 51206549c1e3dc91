// Packed images for tests, made by the shipped `faultline pack`, and the figures of the fetcher that serves them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/cli/command.h"
#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/stack.h"

namespace faultline::test {

// A packed image in a folder of its own, which goes with it.
class PackedSource {
 public:
  explicit PackedSource(const Image& image);
  // A stack: all layers packed, or the lowest one plain.
  enum class Lowest { packed, plain };
  PackedSource(const Stack& stack, Lowest lowest);

  const std::string& path() const { return paths_.front(); }
  // Arguments that name the layers below the top one.
  std::vector<std::string> over() const;
  // Turns a byte of the file round.
  void damage(std::uint64_t offset) const;
  std::uint64_t fileBytes() const;

 private:
  const Directory place_;
  std::vector<std::string> paths_;  // the top one first
};

ServerOptions serving(const PackedSource& source, ServerOptions options = {});
// The packed file as an image, for FuseFile.
std::unique_ptr<Image> fileAsImage(const PackedSource& source);

struct FetcherFigures {
  pid_t pid = 0;
  std::uint64_t restarts = 0, notKept = 0, bytes = 0, cachedBytes = 0, evicted = 0, savedBytes = 0;
  std::uint64_t errors = 0, reconnects = 0, givenUp = 0;  // of all engines
};
FetcherFigures figuresOf(Server& server);

// Kills the fetcher, and waits until another is there.
void killFetcher(Server& server);

}  // namespace faultline::test
