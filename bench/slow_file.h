// Memory files whose every read takes long, as those of stores behind a network do; and what plain readers get from them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "bench/image.h"
#include "bench/workload.h"

namespace faultline::bench {

// On a FUSE file system that answers each read after a while, any number up to 64 at the same time. The file system is a
// process with a mount namespace of its own (tests/support/fuse_program.cpp): nothing of it is left when it ends, and it ends
// with this object or with this process.
class SlowFile {
 public:
  enum class Cache { pages, none };  // none: each read asks the file system (direct_io)

  // Reason why this machine cannot run it. Empty where it can.
  static std::string whyNot();

  // The bytes are those of the file `backing`. Throws std::runtime_error.
  SlowFile(const std::string& directory, const std::string& backing, Cache cache, unsigned readMs);
  ~SlowFile();
  SlowFile(const SlowFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  pid_t pid_ = -1;
  std::string path_;
};

// An image on an ext4, which is on a loop device over such a file. Mounted in a mount namespace of its own, by a process that
// ends with this object or with this process; the loop device goes with the mount.
class SlowDisk {
 public:
  static std::string whyNot();

  SlowDisk(const std::string& directory, std::uint64_t bytes, unsigned readMs);
  ~SlowDisk();
  SlowDisk(const SlowDisk&) = delete;

  const std::string& path() const { return path_; }

 private:
  class Ext4;  // the file with the file system
  const std::unique_ptr<Ext4> ext4_;
  const SlowFile file_;
  pid_t pid_ = -1;
  std::string path_;
};

// What as many threads as the workload has get by plain reads of the pages that run() would touch for it, in the same order.
// Throws std::runtime_error where a page has other bytes than it must have.
double readsPerSecond(const Workload& workload, const BenchImage& image);

}  // namespace faultline::bench
