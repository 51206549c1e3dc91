// Figures as people read them.
#pragma once

#include "process/figures.h"

namespace faultline::cli {

using process::humanBytes;
using process::humanNs;
// Whether stdout is one: a person reads it, and lines may be rewritten.
bool isTerminal();

}  // namespace faultline::cli
