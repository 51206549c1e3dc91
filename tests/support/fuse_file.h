// A memory file on a FUSE file system whose reads stall and fail as a test says.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "tests/support/fuse_control.h"
#include "tests/support/image.h"

namespace faultline::test {

// The file system is a process of its own, with a mount namespace of its own: nothing of it is left when it
// ends, and it ends with this object or with the test.
class FuseFile {
 public:
  enum class Cache {
    page,
    none
  };  // no cache: each read asks the file system, and the file cannot be mapped shared

  // Reason why this machine cannot run it (not built, as libfuse3 is missing; no /dev/fuse; mounts not
  // allowed). Empty where it can.
  static std::string whyNot();

  // The bytes are the image's; it must outlive this.
  explicit FuseFile(const Image& image, Cache cache = Cache::page);
  ~FuseFile();
  FuseFile(const FuseFile&) = delete;

  const std::string& path() const { return path_; }

  // Reads that touch `offset` (bytes), or all, wait until goOn().
  void stall(std::uint64_t offset = FuseControl::EVERYWHERE);
  void goOn() { stall(FuseControl::NOWHERE); }
  // Reads at `offset` fail with `error`, until mend().
  void fail(int error, std::uint64_t offset = FuseControl::EVERYWHERE);
  void mend() { fail(0, FuseControl::NOWHERE); }

  unsigned reads() const { return control_->reads; }
  unsigned waiting() const { return control_->waiting; }  // reads that are stalled now
  unsigned failed() const { return control_->failed; }

 private:
  std::string path_;
  FuseControl* control_;
  pid_t pid_;
};

}  // namespace faultline::test
