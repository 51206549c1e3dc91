// Reading a file mapping that may be truncated under us, without dying of SIGBUS.
#pragma once

#include <cstddef>

namespace faultline::shard {

// Installs the process's SIGBUS handler; once, before any guarded read. SIGBUS anywhere else ends the process
// as ever.
void installBusGuard();

enum class SourceContent { zero, data, lost };

// Whether the `bytes` at `start` are all zero. lost: they cannot be read (the file ended before them).
// `start` is 8-byte aligned and `bytes` a multiple of 64. Any thread.
SourceContent contentOf(const void* start, std::size_t bytes);

// Reads a byte at every `stride` bytes of the `bytes` at `start`, so that the pages there are mapped and in
// memory; waits for the disk. False where one cannot be read. Any thread.
bool touchPages(const void* start, std::size_t bytes, std::size_t stride = 4096);

// Copies `bytes` bytes from `start` to `to`. False where they cannot be read. Any thread.
bool copyOut(const void* start, std::size_t bytes, void* to);

}  // namespace faultline::shard
