// How far one read of the source has come. A read may end before its length: at the file's end, or before
// bytes that cannot be read, which only a further read tells.
#pragma once

#include <cstdint>

namespace faultline::shard {

struct ReadProgress {
  enum class Next {
    ended,   // all of it is there
    readOn,  // from `done` on
    failed,  // `error`: errno; 0: the file ended before it
  };

  // `result`: the kernel's answer, bytes or -errno.
  Next after(int result) {
    if (result <= 0) {
      error = -result;
      return Next::failed;
    }
    done += static_cast<std::uint64_t>(result);
    return done < length ? Next::readOn : Next::ended;
  }

  std::uint64_t length = 0;  // bytes
  std::uint64_t done = 0;
  int error = 0;
};

}  // namespace faultline::shard
