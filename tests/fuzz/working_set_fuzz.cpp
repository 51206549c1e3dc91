// A working-set file: refused with a message, or what it says is written as the very same bytes.

#include <algorithm>
#include <cstdint>

#include "cli/working_set.h"
#include "tests/fuzz/require.h"

using namespace faultline;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::span input(reinterpret_cast<const std::byte*>(bytes), size);
  cli::WorkingSet set;
  try {
    set = cli::parseWorkingSet(input);
  } catch (const cli::WorkingSetError& error) {
    fuzz::require(error.what()[0] != '\0', "a refusal says why");
    return 0;
  }
  for (const cli::SourceRange& range : set.ranges)
    fuzz::require(range.size > 0 && range.end() <= set.snapshot.bytes, "a range lies in the snapshot");
  const auto again = cli::formatWorkingSet(set);
  fuzz::require(std::equal(again.begin(), again.end(), input.begin(), input.end()),
                "what is read is written the same");
  return 0;
}
