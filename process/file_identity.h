// Which content a file has, as far as it can be told without reading it.
#pragma once

#include <cstdint>
#include <optional>

namespace faultline::process {

// Files that a snapshot's memory can be made of.
inline constexpr unsigned MOST_LAYERS = 32;

// The identity of a file: another file, or one that has been written to, differs in it. A device's times are 0: they tell
// nothing of its bytes.
struct FileIdentity {
  std::uint64_t device = 0, inode = 0;
  std::uint64_t bytes = 0;
  std::int64_t modified = 0, changed = 0;  // ns since 1970: mtime, ctime
  std::uint64_t links = 0;
  bool operator==(const FileIdentity&) const = default;
};

// Identity of an open file. All 0 where the kernel does not tell. Does not wait: a file system over a network, or FUSE,
// may tell what it knew a moment ago. Any thread.
FileIdentity identityOf(int file);
// Identity of an open file, asked of the server of a FUSE or network file system, for which it waits. Throws
// std::system_error where the file cannot be looked at. Any thread.
FileIdentity identityByServer(int file);
// Whether both fds are of one file, as far as the kernel tells. Does not wait. Any thread.
bool sameFile(int one, int other);

// The change, in words that go on after "FILE "; empty: nothing has, as far as the identities tell. A file that
// has only got or lost a name is the same.
std::optional<const char*> whatChanged(const FileIdentity& was, const FileIdentity& is);

}  // namespace faultline::process
