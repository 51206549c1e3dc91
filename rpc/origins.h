// By what the pages of a restore were populated.
#pragma once

#include <cstdint>

#include "rpc/control.capnp.h"

namespace faultline::rpc {

// Bytes; of pages of two sizes, by their mean size.
struct Origins {
  std::uint64_t faults = 0;      // asked for by a fault
  std::uint64_t around = 0;      // came with a fault on a neighbour
  std::uint64_t background = 0;  // populated in the background
};

Origins originsOf(RestoreInfo::Reader info, RestoreStats::Reader stats);

}  // namespace faultline::rpc
