#include "sandbox/fence.h"

#include <fcntl.h>
#include <kj/io.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

namespace faultline::sandbox {

namespace {

// The rights that the first version knows; those that later ones have added are of links and of sizes, which a filter refuses.
constexpr std::uint64_t HANDLED = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

void fenceFiles(const std::vector<std::string>& readable) {
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = HANDLED;
  const kj::AutoCloseFd rules(static_cast<int>(
      syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes.handled_access_fs, 0)));
  if (rules.get() < 0) fail("the kernel has no fence for files (landlock)");
  for (const std::string& path : readable) {
    const kj::AutoCloseFd file(open(path.c_str(), O_PATH | O_CLOEXEC));
    struct stat status {};
    if (file.get() < 0 || fstat(file.get(), &status) != 0) continue;
    landlock_path_beneath_attr rule{};
    rule.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE;
    if (S_ISDIR(status.st_mode)) rule.allowed_access |= LANDLOCK_ACCESS_FS_READ_DIR;
    rule.parent_fd = file.get();
    if (syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
      fail("a file cannot be let through the fence (landlock)");
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || syscall(SYS_landlock_restrict_self, rules.get(), 0) != 0)
    fail("the fence cannot be put up (landlock)");
}

}  // namespace faultline::sandbox
