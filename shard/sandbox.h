// The rights of a shard once it has started: to copy pages with the fds that it was given, and nothing else.
//
// A shard handles bytes of several restores; an attacker who took it over through a source or a target must
// find no way out of it: no socket but those it was handed, no file to open, no program to start, no other
// process to look into.
#pragma once

namespace faultline::shard {

// Gives up every capability, for good. To be called first of all, before there is another thread:
// capabilities are each thread's own. Throws kj::Exception where that fails.
void dropCapabilities();

// Sets no-new-privileges, and a seccomp filter for every thread of the process, those to come included: calls
// that a shard needs are allowed (of ioctl and fcntl only the commands that it uses), all others fail with
// EPERM. Not undone by anything (seccomp(2)). Throws kj::Exception where the kernel does not do it. False:
// this build has none, since a sanitizer's runtime needs more than can be named.
bool enterSandbox();

}  // namespace faultline::shard
