// What the page handlers share that faultline is compared with: one process that takes targets by the
// handshake and answers their faults out of a resident mapping. They check nothing and survive nothing.
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

// The memory file, mapped and made resident.
class ResidentSource {
 public:
  explicit ResidentSource(const std::string& path);
  const char* at(std::uint64_t offset) const { return start_ + offset; }

 private:
  const char* start_;
};

// Copies the page of the fault at `address`, or wakes whoever waits for it where it is there.
void copyPlainly(const PlainTarget& target, const ResidentSource& source, std::uint64_t address);

}  // namespace faultline::bench
