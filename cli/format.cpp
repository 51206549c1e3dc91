#include "cli/format.h"

#include <unistd.h>

namespace faultline::cli {

bool isTerminal() {
  return isatty(STDOUT_FILENO) == 1;
}

}  // namespace faultline::cli
