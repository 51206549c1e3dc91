#include "process/cpu_list.h"

#include <kj/debug.h>
#include <sched.h>

#include <charconv>
#include <optional>
#include <sstream>

namespace faultline::process {

namespace {

cpu_set_t allowed() {
  cpu_set_t cpus;
  KJ_SYSCALL(sched_getaffinity(0, sizeof cpus, &cpus));
  return cpus;
}

std::string write(const cpu_set_t& cpus) {
  std::string text;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &cpus)) continue;
    int last = cpu;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &cpus)) last++;
    text += (text.empty() ? "" : ",") + std::to_string(cpu) + (last > cpu ? "-" + std::to_string(last) : "");
    cpu = last;
  }
  return text;
}

// Adds a CPU, or a range of them, first-last.
bool add(const std::string& part, cpu_set_t& cpus) {
  int first = 0, last = 0;
  const char* end = part.data() + part.size();
  auto [rest, error] = std::from_chars(part.data(), end, first);
  if (error != std::errc()) return false;
  last = first;
  if (rest != end && *rest == '-') {
    const auto second = std::from_chars(rest + 1, end, last);
    if (second.ec != std::errc()) return false;
    rest = second.ptr;
  }
  if (rest != end || first < 0 || last < first || last >= CPU_SETSIZE) return false;
  for (int cpu = first; cpu <= last; cpu++) CPU_SET(cpu, &cpus);
  return true;
}

std::optional<cpu_set_t> parse(const std::string& list) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  std::istringstream parts(list + ',');
  for (std::string part; std::getline(parts, part, ',');)
    if (!add(part, cpus)) return std::nullopt;
  return cpus;
}

}  // namespace

std::string whyNotCpuList(const std::string& list) {
  const cpu_set_t may = allowed();
  const auto cpus = parse(list);
  if (!cpus.has_value()) return "'" + list + "' is no list of CPUs: write it as in 0-3,8";
  cpu_set_t both;
  CPU_AND(&both, &*cpus, &may);
  if (!CPU_EQUAL(&both, &*cpus))
    return "'" + list + "' names CPUs that this process may not run on: choose among " + write(may);
  return "";
}

void runOnCpus(const std::string& list) {
  const auto cpus = parse(list);
  KJ_REQUIRE(cpus != std::nullopt, "no list of CPUs", list.c_str());
  KJ_SYSCALL(sched_setaffinity(0, sizeof *cpus, &*cpus), list.c_str());
}

}  // namespace faultline::process
