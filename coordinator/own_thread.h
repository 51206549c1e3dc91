// Work that may wait for a target or a file, done in a thread of its own: the loop serves others meanwhile.
#pragma once

#include <kj/async.h>

#include <chrono>
#include <cstddef>
#include <functional>

namespace faultline::coordinator {

// A thread that cannot be had, for want of memory or of pids, is waited for so long.
inline constexpr std::chrono::seconds THREAD_PATIENCE{10};

// Makes sure that threads can be waited for; throws std::system_error where that is not so. To be called before the first
// work, at a time when the process can do without any.
void prepareOwnThreads();

// Runs `work` in a thread of its own and resolves, in the loop that calls, when it is done. `work` owns all that it
// uses, its result included: it goes on where the promise is dropped. An exception of `work` is the promise's, as
// kj::Exception that begins with `failure`, a string literal; so is that there was no thread for THREAD_PATIENCE, and then
// `work` is not done.
kj::Promise<void> inOwnThread(const char* failure, std::function<void()> work);

// inOwnThread() for work that an operator asked for: its kj::Exception is the promise's as it is, with its reason.
kj::Promise<void> workInOwnThread(std::function<void()> work);

// At most this many looks at once: a target that holds its mmap_lock holds each look at it up. Others wait for one to be
// over, so many at most.
inline constexpr unsigned MAX_LOOKS = 64;
inline constexpr std::size_t MAX_WAITING_LOOKS = 4096;

// inOwnThread() for what others ask for as often as they like. Throws (limitReached) where MAX_WAITING_LOOKS wait.
kj::Promise<void> lookInOwnThread(std::function<void()> look);

}  // namespace faultline::coordinator
