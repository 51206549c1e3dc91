// What one thread has done comes before what another does with it: told to ThreadSanitizer, where a library that is not
// built with it (oneTBB, KJ) hands the work over. Without that sanitizer both functions are nothing, since the library
// itself orders the two.
#pragma once

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace faultline::threads {

#ifdef __SANITIZE_THREAD__
// By the thread that hands over, before it does. `by` names the way: the same address for both.
inline void handOver(void* by) {
  __tsan_release(by);
}
// By the thread that is handed it, first.
inline void takeOver(void* by) {
  __tsan_acquire(by);
}
#else
inline void handOver(void*) {}
inline void takeOver(void*) {}
#endif

}  // namespace faultline::threads
