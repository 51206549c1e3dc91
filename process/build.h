// Builds of faultline: the facts of a build, whether one can take over from another, and its programs held
// open, so that a service stays with its build whatever becomes of the files.
#pragma once

#include <kj/io.h>

#include <cstdint>
#include <optional>
#include <string>

namespace faultline::process {

// The contract between processes of two builds beyond the layout of the segment: the meaning of shard.capnp
// and the fault ring, the words on the channels, the names of kept fds. +1 for each change that an older
// build would misread.
inline constexpr std::uint32_t PROTOCOL = 3;

// The version of this build, for people.
const char* version();

struct BuildFacts {
  std::string version;
  std::uint32_t protocol = 0;
  std::uint32_t layoutVersion = 0, layoutHash = 0;  // shmtracker/layout.h

  static BuildFacts own();
  // The facts as one line, the output of `faultline-coordinator --build`.
  std::string text() const;
  // Empty where `text` is no such line.
  static std::optional<BuildFacts> parse(const std::string& text);
};

// The command `--build`: sends the facts of this build to the parent process (process::CHANNEL_FD), or writes
// them to stdout. Returns an exit code.
int sayBuild();

// Why processes of `next` cannot go on with what those of `now` have, with both values; nothing: they can.
std::optional<std::string> whyNotSuccessor(const BuildFacts& now, const BuildFacts& next);

// The programs of a build, open (O_PATH): they can be started whatever their directory holds by then.
struct Build {
  std::string directory;
  kj::AutoCloseFd coordinator, shard;
  kj::AutoCloseFd fetcher;  // -1: it is not installed, and nothing can be fetched

  // Throws naming the file where one of the first two is missing or no program.
  static Build open(const std::string& directory);
  std::string coordinatorPath() const { return directory + "/faultline-coordinator"; }
  std::string shardPath() const { return directory + "/faultline-shard"; }
  std::string fetcherPath() const { return directory + "/faultline-fetcher"; }
};

// Tells files apart, whatever their names: equal for two fds, or for an fd and ownImage() in a process that
// was started from it.
std::string imageOf(int fd);
std::string ownImage();

}  // namespace faultline::process
