#include "bench/cpu_time.h"

#include <cctype>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace faultline::bench {

namespace {

struct Process {
  pid_t parent = 0;
  std::string name;
};

// From /proc/PID/stat: "PID (NAME) STATE PARENT ...". The name may have spaces and brackets of its own.
Process processOf(const std::filesystem::path& directory) {
  std::ifstream file(directory / "stat");
  std::string text;
  // A process that has ended since fails the read (ESRCH), which getline tells by the stream alone: an iterator throws.
  std::getline(file, text, '\0');
  const std::size_t from = text.find('('), to = text.rfind(')');
  if (from == std::string::npos || to == std::string::npos) return {};  // the process has just ended
  Process process{0, text.substr(from + 1, to - from - 1)};
  char state;
  std::istringstream(text.substr(to + 1)) >> state >> process.parent;
  return process;
}

std::map<pid_t, Process> allProcesses() {
  std::map<pid_t, Process> all;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (std::isdigit(static_cast<unsigned char>(name[0])) != 0)
      all[static_cast<pid_t>(std::stol(name))] = processOf(entry.path());
  }
  return all;
}

double secondsOf(pid_t process) {
  clockid_t clock;
  timespec time{};
  if (clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

std::map<std::string, double> cpuSecondsByName(pid_t root) {
  std::map<std::string, double> seconds;
  if (root == 0) return seconds;
  const std::map<pid_t, Process> all = allProcesses();
  std::set<pid_t> family{root};
  for (std::size_t before = 0; before != family.size();) {
    before = family.size();
    for (const auto& [pid, process] : all)
      if (family.contains(process.parent)) family.insert(pid);
  }
  for (const pid_t pid : family)
    if (const auto found = all.find(pid); found != all.end()) seconds[found->second.name] += secondsOf(pid);
  return seconds;
}

double cpuSeconds(pid_t root) {
  double sum = 0;
  for (const auto& [name, seconds] : cpuSecondsByName(root)) sum += seconds;
  return sum;
}

}  // namespace faultline::bench
