#include "rpc/named_source.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace faultline::rpc {

namespace {

constexpr char MAGIC[] = "faultline-source\n";
constexpr std::size_t MAGIC_BYTES = sizeof MAGIC - 1, MOST_BYTES = MAGIC_BYTES + 4096;
constexpr int SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

}  // namespace

kj::AutoCloseFd makeNamedSource(const std::string& uri) {
  SourceUri::parse(uri);
  int memory;
  KJ_SYSCALL(memory = memfd_create("faultline-source", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  kj::AutoCloseFd fd(memory);
  const std::string text = MAGIC + uri;
  KJ_REQUIRE(pwrite(memory, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()),
             "no memory for the name of a source");
  KJ_SYSCALL(fcntl(memory, F_ADD_SEALS, SEALS));
  return fd;
}

std::optional<std::string> uriOf(int file) {
  // Only memory has seals: a file on a disk is not read here.
  const int seals = fcntl(file, F_GET_SEALS);
  struct stat status {};
  if (seals < 0 || (seals & SEALS) != SEALS || fstat(file, &status) != 0) return std::nullopt;
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size <= MAGIC_BYTES || size > MOST_BYTES) return std::nullopt;
  std::string text(size, '\0');
  if (pread(file, text.data(), size, 0) != static_cast<ssize_t>(size) || text.rfind(MAGIC, 0) != 0)
    return std::nullopt;
  std::string uri = text.substr(MAGIC_BYTES);
  SourceUri::parse(uri);
  return uri;
}

}  // namespace faultline::rpc
