// Addresses where nothing but a test's memory comes to lie.
#pragma once

#include <cstdint>

namespace faultline::test {

// The place where a test maps memory that it also unmaps: in a hole among other mappings a thread's stack could come to
// lie. At least 256 GiB are free from here on; within what the sanitizers leave to programs (compiler-rt,
// tsan_platform.h and asan_mapping.h).
#ifdef __SANITIZE_THREAD__
inline constexpr std::uint64_t OWN_ADDRESSES = 1ull << 38;
#else
inline constexpr std::uint64_t OWN_ADDRESSES = 1ull << 45;
#endif

}  // namespace faultline::test
