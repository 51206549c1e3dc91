#include "cli/working_set_file.h"

#include <fcntl.h>
#include <kj/common.h>
#include <kj/io.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "cli/errors.h"
#include "cli/snapshot_identity.h"

namespace faultline::cli {

namespace {

std::string folderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder;
}

std::vector<std::byte> contentOf(const std::string& path) {
  auto refuse = [&](const std::string& why) {
    return CommandError(USAGE, "working set " + path + ": " + why);
  };
  // Not waiting for a writer, should it be a pipe.
  kj::AutoCloseFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0)
    throw refuse(std::string(std::strerror(errno)) +
                 "; record one with --record-working-set, or leave it out");
  struct stat status {};
  fstat(fd.get(), &status);
  if (!S_ISREG(status.st_mode)) throw refuse("it is no regular file; give the file that was recorded");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > MAX_WORKING_SET_BYTES)
    throw refuse("it has " + std::to_string(size) + " bytes; a recorded working set has at most " +
                 std::to_string(MAX_WORKING_SET_BYTES) + "; give the file that was recorded");
  std::vector<std::byte> bytes(size);
  std::size_t have = 0;
  while (have < size) {
    const ssize_t got = read(fd.get(), bytes.data() + have, size - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw refuse(std::strerror(errno));
    if (got == 0) break;
    have += static_cast<std::size_t>(got);
  }
  bytes.resize(have);
  return bytes;
}

std::string describe(const SnapshotIdentity& identity) {
  return std::to_string(identity.bytes) + " bytes, fingerprint " + fingerprintText(identity);
}

WorkingSet readFor(const std::string& path, const SnapshotIdentity& here, const std::string& memory) {
  WorkingSet set = readWorkingSet(path);
  if (set.snapshot != here)
    throw CommandError(USAGE, "working set " + path + " was recorded with another snapshot (" +
                                  describe(set.snapshot) + ") than " + memory + " (" + describe(here) +
                                  "): record one with this snapshot, or leave it out");
  return set;
}

}  // namespace

WorkingSet readWorkingSet(const std::string& path) {
  const auto bytes = contentOf(path);
  try {
    return parseWorkingSet(bytes);
  } catch (const WorkingSetError& error) {
    throw CommandError(USAGE, "working set " + path + ": " + error.what());
  }
}

WorkingSet readWorkingSetFor(const std::string& path, int memory, const std::string& memoryPath) {
  return readFor(path, identityOf(memory), memoryPath);
}

WorkingSet readWorkingSetFor(const std::string& path, const Memory& memory) {
  return readFor(path, identityOf(memory.files), memory.name());
}

void writeWorkingSet(const std::string& path, const WorkingSet& set) {
  const std::vector<std::byte> bytes = formatWorkingSet(set);
  std::string temporary = path + ".XXXXXX";
  auto fail = [&](const char* step) {
    return CommandError(FAILED, "working set " + path + " is not written: " + step + ": " +
                                    std::strerror(errno) + "; is its folder there, writable and not full?");
  };
  kj::AutoCloseFd fd(mkostemp(temporary.data(), O_CLOEXEC));
  if (fd.get() < 0) throw fail("a file beside it");
  bool renamed = false;
  KJ_DEFER({
    if (!renamed) unlink(temporary.c_str());
  });
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = write(fd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw fail("writing");
    done += static_cast<std::size_t>(n);
  }
  // The mode of other new files of this user: mkostemp() gives 0600.
  const mode_t mask = umask(0);
  umask(mask);
  if (fchmod(fd.get(), 0666 & ~mask) != 0) throw fail("its mode");
  // The bytes before the name, else a crash could leave an empty file under it.
  if (fsync(fd.get()) != 0) throw fail("fsync");
  if (rename(temporary.c_str(), path.c_str()) != 0) throw fail("its name");
  renamed = true;
  kj::AutoCloseFd folder(open(folderOf(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0 || fsync(folder.get()) != 0) throw fail("fsync of its folder");
}

void requireWritable(const std::string& path) {
  std::error_code none;  // a missing path is no directory
  if (std::filesystem::is_directory(path, none))
    throw CommandError(USAGE, "working set " + path + " is a directory; give the name of a file");
  if (access(folderOf(path).c_str(), W_OK | X_OK) != 0)
    throw CommandError(USAGE, "working set " + path +
                                  " could not be written: its folder: " + std::strerror(errno) +
                                  "; give a file in a folder that is there and that you may write to");
}

}  // namespace faultline::cli
