#include "fetcher/packed_object.h"

#include <system_error>

#include "process/clock.h"

namespace faultline::fetcher {

void PackedObject::read(std::uint64_t offset, std::span<std::byte> to) const {
  const std::uint64_t before = process::nowNs();
  const int error = object_->read(offset, to);
  counters_.latency.record(process::nowNs() - before);
  shm::count(counters_.requests);
  shm::count(error == 0 ? counters_.bytes : counters_.errors, error == 0 ? to.size() : 1);
  if (error != 0)
    throw std::system_error(error, std::generic_category(),
                            name() + " cannot be read at offset " + std::to_string(offset));
}

}  // namespace faultline::fetcher
