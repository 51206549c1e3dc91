// Work that a test holds at a failpoint while the loop goes on (failpoints::Failpoints::hold()).
#pragma once

#include <kj/async-unix.h>
#include <kj/io.h>

namespace faultline::coordinator {

// Resolves when the test lets go of it. `resume`: what hold() has returned; -1: at once. Loop thread only.
kj::Promise<void> whenReleased(kj::UnixEventPort& port, kj::AutoCloseFd resume);

}  // namespace faultline::coordinator
