#include "bench/cold.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace faultline::bench {

bool haveFio() {
  return std::system("command -v fio >/dev/null") == 0;
}

double fioReads(const BenchImage& image, unsigned depth, std::uint64_t bytes) {
  const std::string command = fmt::format(
      "fio --name=cold --filename='{}' --readonly --rw=randread --bs=4k --direct=1 --ioengine=io_uring "
      "--iodepth={} --size={} --io_size={} --output-format=json 2>/dev/null",
      image.path, depth, image.dataBytes, bytes);
  FILE* pipe = popen(command.c_str(), "re");
  if (pipe == nullptr) throw std::runtime_error("cannot start fio");
  std::string text;
  char buffer[4096];
  while (const std::size_t got = fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, got);
  if (pclose(pipe) != 0) throw std::runtime_error("fio failed: " + text.substr(0, 200));
  return nlohmann::json::parse(text).at("jobs").at(0).at("read").at("iops");
}

}  // namespace faultline::bench
