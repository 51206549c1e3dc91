// What may wait for a target, done in a thread of its own: the loop serves others meanwhile.
#pragma once

#include <kj/async.h>

#include <functional>

namespace faultline::coordinator {

// At most this many at once: a target that holds its mmap_lock holds each of its own up.
inline constexpr unsigned MAX_OWN_THREADS = 64;

// Runs `work` in a thread of its own and resolves, in the loop that calls, when it is done. `work` owns all that it
// uses, its result included: it goes on where the promise is dropped. Throws (limitReached) where MAX_OWN_THREADS are
// at work, kj::Exception where no thread can be made; what `work` throws is the promise's.
kj::Promise<void> inOwnThread(std::function<void()> work);

}  // namespace faultline::coordinator
