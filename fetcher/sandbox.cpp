#include "fetcher/sandbox.h"

#include <time.h>

#include <initializer_list>

#include "sandbox/filter.h"

namespace faultline::fetcher {

void dropCapabilities() {
#ifndef FAULTLINE_SANITIZED  // a leak is looked for by a thread that traces the others
  sandbox::dropCapabilities();
#endif
}

bool enterSandbox() {
#ifdef FAULTLINE_SANITIZED
  return false;
#else
  tzset();  // reads a file, which the log would do later
  sandbox::Filter filter;
  // Writing caches.
  for (const int call : {SCMP_SYS(pwrite64), SCMP_SYS(fallocate), SCMP_SYS(sync_file_range)})
    filter.allow(call);
  filter.load();
  return true;
#endif
}

}  // namespace faultline::fetcher
