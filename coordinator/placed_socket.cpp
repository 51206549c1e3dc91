#include "coordinator/placed_socket.h"

#include <fcntl.h>
#include <grp.h>
#include <kj/debug.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <optional>
#include <vector>

#include "process/plain_text.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

using rpc::Reason;

constexpr std::size_t MOST_PATH = sizeof(sockaddr_un::sun_path) - 1;
constexpr std::size_t MOST_USER = 256;  // bytes of a user's name
constexpr mode_t PERMISSIONS = 0777;

[[noreturn]] void refuse(Reason reason, const std::string& path, const std::string& why) {
  rpc::refuse(reason, "socket " + path + ": " + why);
}

[[noreturn]] void refuseFor(int error, const std::string& path, const std::string& what) {
  const bool notUs = error == EACCES || error == EPERM || error == EROFS;
  const bool notThere = error == ENOENT || error == ENOTDIR || error == ELOOP;
  refuse(notUs      ? Reason::FORBIDDEN
         : notThere ? Reason::BAD_INPUT
                    : Reason::FAILED,
         path, what + ": " + std::strerror(error));
}

sockaddr_un addressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

kj::AutoCloseFd unixSocket(const std::string& path, int flags = 0) {
  kj::AutoCloseFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (fd.get() < 0) refuseFor(errno, path, "no socket can be had");
  return fd;
}

// A server that does not accept is one all the same: its queue is full, and is not waited for.
bool isServed(const std::string& path, const sockaddr_un& address) {
  const kj::AutoCloseFd probe = unixSocket(path, SOCK_NONBLOCK);
  return connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
         errno != ECONNREFUSED;
}

void removeStale(const std::string& path, const sockaddr_un& address) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return;
  if (!S_ISSOCK(status.st_mode))
    refuse(Reason::NAME_TAKEN, path, "another file is there: choose another path, or remove it");
  if (isServed(path, address))
    refuse(Reason::NAME_TAKEN, path, "it is in use by another server: stop that, or choose another path");
  unlink(path.c_str());
}

template <typename Id>
std::optional<Id> numberFrom(const std::string& text) {
  Id id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id == static_cast<Id>(-1))
    return std::nullopt;
  return id;
}

// -1, which leaves it as it is, where the name is empty.
uid_t userFrom(const std::string& name, const std::string& path) {
  if (name.empty()) return static_cast<uid_t>(-1);
  if (const auto id = numberFrom<uid_t>(name)) return *id;
  std::vector<char> room(1u << 16);
  passwd entry{}, *found = nullptr;
  if (getpwnam_r(name.c_str(), &entry, room.data(), room.size(), &found) != 0 || found == nullptr)
    refuse(Reason::BAD_INPUT, path, "there is no user " + name);
  return entry.pw_uid;
}

gid_t groupFrom(const std::string& name, const std::string& path) {
  if (name.empty()) return static_cast<gid_t>(-1);
  if (const auto id = numberFrom<gid_t>(name)) return *id;
  std::vector<char> room(1u << 16);
  group entry{}, *found = nullptr;
  if (getgrnam_r(name.c_str(), &entry, room.data(), room.size(), &found) != 0 || found == nullptr)
    refuse(Reason::BAD_INPUT, path, "there is no group " + name);
  return entry.gr_gid;
}

// The file that was bound, by an fd: no other file that is put in its place meanwhile is changed.
kj::AutoCloseFd boundFile(const std::string& path, struct stat& status) {
  kj::AutoCloseFd file(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (file.get() < 0 || fstat(file.get(), &status) != 0) refuseFor(errno, path, "it cannot be looked at");
  if (!S_ISSOCK(status.st_mode) || status.st_uid != geteuid())
    refuse(Reason::NAME_TAKEN, path, "another file has been put there meanwhile");
  return file;
}

}  // namespace

SocketWish wishFrom(rpc::SocketFile::Reader file) {
  SocketWish wish{file.getPath().cStr(), file.getOwner().cStr(), file.getGroup().cStr(), file.getMode()};
  if (wish.path.empty() || wish.path.front() != '/' || wish.path.size() > MOST_PATH)
    rpc::refuse(Reason::BAD_INPUT,
                "a socket takes an absolute path of at most " + std::to_string(MOST_PATH) + " bytes");
  if (wish.path != process::plainText(wish.path))
    rpc::refuse(Reason::BAD_INPUT, "the path of a socket has no control characters");
  for (const std::string& name : {wish.owner, wish.group})
    if (name.size() > MOST_USER || name != process::plainText(name))
      rpc::refuse(Reason::BAD_INPUT,
                  "owner and group of a socket are names of a user and a group, or numbers");
  if ((wish.mode & ~PERMISSIONS) != 0)
    rpc::refuse(Reason::BAD_INPUT, "the mode of a socket has permission bits alone: at most 0777");
  if (wish.mode == 0) wish.mode = 0600;
  return wish;
}

void removeSocket(const SocketPlace& place) {
  struct stat status {};
  if (place.path.empty() || lstat(place.path.c_str(), &status) != 0) return;
  if (status.st_dev == place.device && status.st_ino == place.inode) unlink(place.path.c_str());
}

// A socket that does not listen yet takes no connection.
PlacedSocket::PlacedSocket(const SocketWish& wish) {
  const uid_t owner = userFrom(wish.owner, wish.path);
  const gid_t group = groupFrom(wish.group, wish.path);
  const sockaddr_un address = addressOf(wish.path);
  removeStale(wish.path, address);
  fd_ = unixSocket(wish.path);
  if (bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    refuseFor(errno, wish.path, "it cannot be made; is its directory there, and writable for the server?");
  struct stat status {};
  const kj::AutoCloseFd file = boundFile(wish.path, status);
  place_ = {wish.path, status.st_dev, status.st_ino};
  // From here on the destructor does not run for an exception.
  bool whole = false;
  KJ_DEFER(if (!whole) removeSocket(place_));
  if (chmod(("/proc/self/fd/" + std::to_string(file.get())).c_str(), wish.mode) != 0)
    refuseFor(errno, wish.path, "its mode cannot be changed");
  if (fchownat(file.get(), "", owner, group, AT_EMPTY_PATH) != 0)
    refuseFor(errno, wish.path, "its owner cannot be changed");
  if (listen(fd_.get(), SOMAXCONN) != 0) refuseFor(errno, wish.path, "it cannot be listened on");
  whole = true;
}

bool isThere(const SocketPlace& place) {
  struct stat status {};
  return lstat(place.path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode) &&
         status.st_dev == place.device && status.st_ino == place.inode;
}

namespace {

// The file as it is, by an fd; -1: it is not there, or another is.
kj::AutoCloseFd fileOf(const SocketPlace& place, struct stat& status) {
  kj::AutoCloseFd file(open(place.path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  const bool same = file.get() >= 0 && fstat(file.get(), &status) == 0 && S_ISSOCK(status.st_mode) &&
                    status.st_dev == place.device && status.st_ino == place.inode;
  return same ? kj::mv(file) : kj::AutoCloseFd();
}

// Less is allowed before its owner changes, and more after. Only its owner may set a mode: CAP_CHOWN is enough for all.
int setAccess(int file, const struct stat& status, uid_t owner, gid_t group, mode_t mode) {
  constexpr auto SAME = static_cast<uid_t>(-1);
  const std::string same = "/proc/self/fd/" + std::to_string(file);
  const auto give = [file](uid_t user, gid_t its) {
    return fchownat(file, "", user, its, AT_EMPTY_PATH) == 0;
  };
  const bool done = (status.st_uid == geteuid() || give(geteuid(), SAME)) &&
                    chmod(same.c_str(), status.st_mode & mode & PERMISSIONS) == 0 &&
                    (group == status.st_gid || give(SAME, group)) && chmod(same.c_str(), mode) == 0 &&
                    (owner == geteuid() || give(owner, SAME));
  return done ? 0 : errno;
}

}  // namespace

std::optional<SocketFormerAccess> giveAccess(const SocketPlace& place, const SocketWish& wish) {
  struct stat status {};
  const kj::AutoCloseFd file = fileOf(place, status);
  if (file.get() < 0) refuse(Reason::NAME_TAKEN, place.path, "another file has been put there meanwhile");
  const uid_t owner = wish.owner.empty() ? geteuid() : userFrom(wish.owner, place.path);
  const gid_t group = wish.group.empty() ? getegid() : groupFrom(wish.group, place.path);
  const mode_t mode = status.st_mode & PERMISSIONS;
  if (owner == status.st_uid && group == status.st_gid && mode == wish.mode) return std::nullopt;
  const SocketFormerAccess former{place, status.st_uid, status.st_gid, mode};
  if (const int error = setAccess(file.get(), status, owner, group, wish.mode); error != 0) {
    giveBack(former);
    refuseFor(error, place.path, "its access cannot be changed");
  }
  return former;
}

void giveBack(const SocketFormerAccess& former) {
  struct stat status {};
  const kj::AutoCloseFd file = fileOf(former.place, status);
  if (file.get() >= 0) setAccess(file.get(), status, former.owner, former.group, former.mode);
}

PlacedSocket::~PlacedSocket() {
  if (!kept_) removeSocket(place_);
}

std::string boundPath(int socket) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      address.sun_family != AF_UNIX || size <= offsetof(sockaddr_un, sun_path))
    return "";
  return {address.sun_path, strnlen(address.sun_path, size - offsetof(sockaddr_un, sun_path))};
}

}  // namespace faultline::coordinator
