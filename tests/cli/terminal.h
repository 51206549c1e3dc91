// The shipped `faultline` tool on a terminal of 80 columns and 20 rows.
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <string>
#include <vector>

namespace faultline::test {

// Killed by the destructor if the test has not seen its end.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& arguments);
  ~Terminal();
  Terminal(const Terminal&) = delete;

  // Waits for more of what is shown, at most a minute. False: there is no more.
  bool readOn();
  // All bytes that the terminal has been sent as far as they are read.
  const std::string& text() const { return text_; }
  // Reads to the end, and waits for it. Its exit code; 128 + the signal where it was killed.
  int finish();

 private:
  pid_t pid_ = -1;
  kj::AutoCloseFd terminal_;
  std::string text_;
};

}  // namespace faultline::test
