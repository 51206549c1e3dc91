// Whether the file that is open is still the one at its path.
#pragma once

#include <kj/async.h>
#include <kj/io.h>

#include <memory>
#include <string>

namespace faultline::coordinator {

struct FileNow {
  enum class What {
    same,
    replaced,    // another file lies there: `fd`
    gone,        // none does
    unreadable,  // another does, and cannot be used: `why`
  } what = What::same;
  kj::AutoCloseFd fd{};
  std::string why{};
};

// Looks, in a thread of its own: a file system may take as long as it likes. Resolves in the loop that calls.
kj::Promise<std::shared_ptr<FileNow>> whatIsAt(std::string path, kj::AutoCloseFd open);

}  // namespace faultline::coordinator
