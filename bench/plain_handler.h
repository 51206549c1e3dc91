// Base of the page handlers that faultline is compared with: a process takes targets by the handshake and
// answers their faults out of a mapping. Such a handler checks nothing and survives nothing.
#pragma once

#include <kj/io.h>

#include <cstdint>
#include <string>
#include <vector>

namespace faultline::bench {

struct PlainRegion {
  std::uint64_t base, size, offset, pageSize;
};

struct PlainTarget {
  kj::AutoCloseFd socket, uffd;
  std::vector<PlainRegion> regions;

  // The region of an address, nullptr where there is none.
  const PlainRegion* find(std::uint64_t address) const;
};

// Takes the handshake of the connection that waits. Throws where it makes no sense.
PlainTarget acceptPlainly(int listening);

enum class Readiness { resident, asNeeded };  // whether the memory file is read before the first target comes

// The memory file, mapped.
class MappedSource {
 public:
  MappedSource(const std::string& path, Readiness readiness);
  const char* at(std::uint64_t offset) const { return start_ + offset; }

 private:
  const char* start_;
};

// Copies the page of the fault at `address`, or, where the page is there, wakes the threads that wait for it.
void copyPlainly(const PlainTarget& target, const MappedSource& source, std::uint64_t address);

// Copies what is missing of the aligned `window` bytes around the fault at `address`, as far as its region
// goes.
void copyAround(const PlainTarget& target, const MappedSource& source, std::uint64_t address,
                std::uint64_t window);

}  // namespace faultline::bench
