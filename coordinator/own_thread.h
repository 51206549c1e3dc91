// Work that may wait for a target or a file, done in a thread of its own: the loop serves others meanwhile.
#pragma once

#include <kj/async.h>

#include <functional>

namespace faultline::coordinator {

// Runs `work` in a thread of its own and resolves, in the loop that calls, when it is done. `work` owns all that it
// uses, its result included: it goes on where the promise is dropped. An exception of `work` is the promise's, as
// kj::Exception that begins with `failure`, a string literal. Throws kj::Exception where no thread can be made.
kj::Promise<void> inOwnThread(const char* failure, std::function<void()> work);

// At most this many looks at once: a target that holds its mmap_lock holds each look at it up.
inline constexpr unsigned MAX_LOOKS = 64;

// inOwnThread() for what others ask for as often as they like. Throws (limitReached) where MAX_LOOKS are under way.
kj::Promise<void> lookInOwnThread(std::function<void()> look);

}  // namespace faultline::coordinator
