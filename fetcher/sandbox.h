// The rights of a fetcher once it has started. A fetcher parses what others wrote, so that an attacker who took it over
// must find no way out of it: no socket but those it was handed, no file to open but those it was named, no program to start, no
// other process to look into. A fetcher has no userfaultfd and no segment.
#pragma once

#include <string>
#include <vector>

namespace faultline::fetcher {

// Rights that sources want beside files that are handed over. A fetcher without such sources has none of them.
struct Rights {
  bool connections = false;             // to send and receive on sockets that it is handed
  bool network = false;                 // to make sockets of its own: Ceph's library knows no other way
  std::vector<std::string> readable{};  // keys and certificates: files, and directories of them
};

// Gives up every capability. First of all, before there is another thread. Throws kj::Exception where that fails.
void dropCapabilities();

// Has it open no file but the readable ones. Before there is another thread. Without readable files it does nothing: the
// filter opens no file. Throws std::system_error where the kernel cannot do it.
void fence(const Rights& rights);

// Sets a seccomp filter for every thread of the process, those to come included: what is not needed fails with EPERM. Throws
// kj::Exception where the kernel does not do it. False: a build with a sanitizer has none. `fenced`: fence() has
// been put up, so that files may be opened.
bool enterSandbox(const Rights& rights, bool fenced);

}  // namespace faultline::fetcher
