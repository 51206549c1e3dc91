// The shipped `faultline` tool, run for a test.
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <string>
#include <vector>

namespace faultline::test {

// `executable`: a name beside the test's own program, or an absolute path. Killed, with everything it
// started, by the destructor if the test has not seen its end.
class Command {
 public:
  explicit Command(const std::vector<std::string>& arguments, const std::string& executable = "faultline");
  ~Command();
  Command(const Command&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  // Returns when it has stopped (SIGSTOP).
  void awaitStop() const;
  // Returns when it has printed `text`, to stdout or stderr.
  void await(const std::string& text);

  struct Result {
    int code = -1;  // 128 + the signal where it was killed
    std::string out, err;
  };
  // Its output to stdout, as far as await() has read.
  const std::string& soFar() const { return result_.out; }
  // Waits for its end.
  Result finish();

 private:
  // Reads a further piece of output. False: both ends are closed.
  bool readOn();

  pid_t pid_ = -1;
  kj::AutoCloseFd out_, err_;
  Result result_;
};

Command::Result run(const std::vector<std::string>& arguments);

// A private directory that goes with its content.
class Directory {
 public:
  Directory();
  ~Directory();
  Directory(const Directory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  // A file in it. Its path.
  std::string file(const std::string& name, const std::string& content) const;
  // A memory image of `mib` MiB, every page different. Its path.
  std::string image(unsigned mib) const;
  // The names in it.
  std::vector<std::string> content() const;

 private:
  std::string path_;
};

}  // namespace faultline::test
