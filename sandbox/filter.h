// The rights of a process that handles bytes of others: an attacker who took it over must find no way out of it.
#pragma once

#include <seccomp.h>

#include <vector>

namespace faultline::sandbox {

// Gives up every capability, for good. Before there is another thread: capabilities are each thread's own. Throws
// kj::Exception where that fails.
void dropCapabilities();

// A system call filter (seccomp(2)). The filter begins with what every such process of ours needs: calls on fds that it was
// handed, waiting, memory, threads and signals of its own, its end. For fcntl and ioctl it has only commands that change
// nothing for others; no file is opened, no socket made, no program started, no other process touched. A call that is not
// allowed is answered with EPERM rather than death: a call that some library makes and can do without must not cost the
// process, whose work its successor would do with the same call.
//
// One thread. Every function throws kj::Exception where libseccomp or the kernel refuses.
class Filter {
 public:
  Filter();
  ~Filter();
  Filter(const Filter&) = delete;

  void allow(int call);
  void allowIf(int call, scmp_arg_cmp argument) { allowIf(call, std::vector{argument}); }
  void allowIf(int call, const std::vector<scmp_arg_cmp>& arguments);  // all of them
  void allowIoctl(unsigned long request);
  // Puts it in force for every thread of the process, those to come included. Not undone by anything.
  void load();

 private:
  scmp_filter_ctx context_;
};

}  // namespace faultline::sandbox
