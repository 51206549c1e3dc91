// The rights of a fetcher once it has started. It parses what others have written, so that an attacker who took it over
// must find no way out of it: no socket but those it was handed, no file to open, no program to start, no other process to
// look into. It has no userfaultfd and no segment.
#pragma once

namespace faultline::fetcher {

// Gives up every capability. First of all, before there is another thread. Throws kj::Exception where that fails.
void dropCapabilities();

// Sets a seccomp filter for every thread of the process, those to come included: what is not needed fails with EPERM. Throws
// kj::Exception where the kernel does not do it. False: a build with a sanitizer has none.
bool enterSandbox();

}  // namespace faultline::fetcher
