// Options of a coordinator. Every successor is started with equal ones.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace faultline::coordinator {

struct Options {
  std::uint32_t shards = 2;
  std::uint32_t owners = 0;   // shards that a restore is dealt out to; 0: as many as there are CPUs
  std::uint32_t threads = 0;  // copy workers a shard besides its fault thread; 0: from the number of CPUs
  std::chrono::milliseconds lockDeadline{250};
  std::chrono::milliseconds watchdog{2000};
  std::chrono::milliseconds handshakeTimeout{10'000};
  std::chrono::milliseconds sourcePatience{30'000};  // time that reads of a page may go on failing
  std::uint32_t maxRestores = 1024;                  // at the same time
  std::chrono::seconds stopLimit{300};               // time that an end may take to fetch what is missing
  std::uint64_t populationRate = 0;                  // bytes a second of all background population; 0: any
  std::uint32_t populations = 0;                     // restores that are populated at once; 0: all
  std::optional<std::uint32_t> cpuLatencyUs;         // time that CPUs may take to wake while faults flow
  std::string cacheDirectory = "/var/tmp";           // folder of the caches of what is fetched
  std::uint64_t cacheLimit = 16ull << 30;            // bytes that they may take
  std::uint64_t fetchRate = 0;                       // bytes a second that are fetched in advance; 0: any
  bool testHooks = false;
  std::string logLevel = "info";
  int shardProgram = -1;    // open (O_PATH), borrowed; -1: the one installed beside us
  int fetcherProgram = -1;  // open (O_PATH), borrowed; -1: the one installed beside us
};

}  // namespace faultline::coordinator
