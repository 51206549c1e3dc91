// The picture for people who choose: how long until some memory has been touched, by the bringer of the
// memory, by the pattern of the touches, with the image in the page cache and not.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace faultline::bench {

struct RivalOptions {
  std::string directory;          // for image and sockets
  unsigned rounds = 3;            // interleaved; medians count
  std::uint64_t bytes = 1 << 30;  // size of each target's memory
};

// Rows of {pattern, source, rival, seconds, least_seconds, most_seconds, touches_per_second,
// server_us_a_touch, mib}; seconds from before the handshake to the last touch of four threads. Progress goes
// to stderr.
nlohmann::json measureRivals(const RivalOptions& options);

// The rivals as a table, in the order of the rows.
std::string toText(const nlohmann::json& rivals);

}  // namespace faultline::bench
