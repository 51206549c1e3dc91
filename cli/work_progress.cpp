#include "cli/work_progress.h"

#include <unistd.h>

#include <cstdio>

#include "cli/format.h"
#include "process/plain_text.h"

namespace faultline::cli {

WorkProgress::WorkProgress(const std::string& what, std::uint64_t bytes)
    : what_(process::plainText(what)), bytes_(bytes), terminal_(isatty(STDERR_FILENO) == 1) {}

WorkProgress::~WorkProgress() {
  if (terminal_) fprintf(stderr, "\r\033[K");
}

void WorkProgress::reached(std::uint64_t offset) {
  interruption_.check();
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || now - shown_ < std::chrono::milliseconds(200)) return;
  shown_ = now;
  const double seconds = std::chrono::duration<double>(now - began_).count();
  fprintf(stderr, "\r\033[K%s: %.1f %% of %s, %s/s", what_.c_str(),
          100.0 * static_cast<double>(offset) / static_cast<double>(bytes_), humanBytes(bytes_).c_str(),
          humanBytes(seconds > 0 ? static_cast<std::uint64_t>(static_cast<double>(offset) / seconds) : 0)
              .c_str());
}

}  // namespace faultline::cli
