#include "process/figures.h"

#include <cstdio>

namespace faultline::process {

std::string humanBytes(std::uint64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  unsigned unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    unit++;
  }
  char text[32];
  snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

std::string humanNs(std::uint64_t ns) {
  char text[32];
  const double value = static_cast<double>(ns);
  if (ns < 1'000'000)
    snprintf(text, sizeof text, "%.1f us", value / 1e3);
  else if (ns < 1'000'000'000)
    snprintf(text, sizeof text, "%.1f ms", value / 1e6);
  else
    snprintf(text, sizeof text, "%.1f s", value / 1e9);
  return text;
}

}  // namespace faultline::process
