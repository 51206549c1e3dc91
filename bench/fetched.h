// What sources that are fetched are measured with: bytes that compress as memory does, programs that are run, the parts of a
// fetch by themselves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/handler.h"

namespace faultline::bench {

// Bytes as memory has them: of this machine's libraries. Goes with the object, and what was made of it.
class ProgramBytes {
 public:
  ProgramBytes(const std::string& directory, std::uint64_t bytes);
  ~ProgramBytes();
  ProgramBytes(const ProgramBytes&) = delete;

  const std::string& path() const { return path_; }
  std::string packed() const { return path_ + ".packed"; }
  std::string byZstd() const { return path_ + ".zst"; }

 private:
  const std::string path_;
};

// Runs a program to its end, its output thrown away. Throws std::runtime_error where it fails.
void finish(const std::vector<std::string>& command);
// Packs a memory file by the shipped command.
void pack(const std::string& memory, const std::string& packed);

// As many as this process may use.
int cpus();

// Seconds that so many bytes take into a new file, by as many threads as there are CPUs, up to the page cache.
double secondsOfWriting(const std::string& path, std::uint64_t bytes);

// us that an answer takes through the memory of a fetch ring, from a process that waits for questions: p50.
double handOver();

// Bytes that the engines of a server's fetcher have brought so far.
std::uint64_t fetchedBytes(const Faultline& server);

}  // namespace faultline::bench
