#include "process/pid_of.h"

#include <fstream>
#include <string>

namespace faultline::process {

// fdinfo of a pidfd, proc_pid_fdinfo(5).
pid_t pidOf(int pidfd) {
  std::ifstream facts("/proc/self/fdinfo/" + std::to_string(pidfd));
  for (std::string key; facts >> key;) {
    pid_t pid = 0;
    if (key == "Pid:" && facts >> pid) return pid > 0 ? pid : 0;
  }
  return 0;
}

}  // namespace faultline::process
