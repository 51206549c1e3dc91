#include "bench/placement.h"

#include <vector>

namespace faultline::bench {

namespace {

// The CPUs that the process was started with, whatever its threads were moved to since.
const std::vector<int>& allCpus() {
  static const std::vector<int> cpus = [] {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    std::vector<int> list;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
      if (CPU_ISSET(cpu, &set)) list.push_back(cpu);
    return list;
  }();
  return cpus;
}

cpu_set_t setOf(std::size_t first, std::size_t count) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (std::size_t i = first; i < first + count; i++) CPU_SET(allCpus()[i], &set);
  return set;
}

}  // namespace

std::string nameOf(Placement placement) {
  switch (placement) {
    case Placement::oneCpu:
      return "one CPU";
    case Placement::across:
      return "across CPUs";
    case Placement::free:
      break;
  }
  return "free";
}

cpu_set_t targetCpus(Placement placement) {
  return placement == Placement::free ? setOf(0, allCpus().size()) : setOf(0, 1);
}

cpu_set_t handlerCpus(Placement placement) {
  const std::size_t all = allCpus().size();
  if (placement == Placement::free) return setOf(0, all);
  return placement == Placement::oneCpu || all == 1 ? setOf(0, 1) : setOf(1, all - 1);
}

}  // namespace faultline::bench
