#include "tests/packed/zstd.h"

#include <unistd.h>

#include <stdexcept>

#include "tests/cli/command.h"
#include "tests/image/layer_file.h"

namespace faultline::test {

std::string whyNoZstd() {
  return access("/usr/bin/zstd", X_OK) == 0 ? "" : "zstd is missing (./scripts/deps)";
}

int runZstd(const std::string& program, const std::vector<std::string>& arguments, std::string* out) {
  std::vector<std::string> all = {"60", "/usr/bin/" + program};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const auto result = Command(all, "/usr/bin/timeout").finish();
  if (out != nullptr) *out = result.out + result.err;
  return result.code;
}

std::string zstdUnpacked(const std::string& path) {
  const Directory folder;
  std::string said;
  if (runZstd("zstd", {"-d", "-q", path, "-o", folder / "out"}, &said) != 0) throw std::runtime_error(said);
  return contentOf(folder / "out");
}

}  // namespace faultline::test
