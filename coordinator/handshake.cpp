#include "coordinator/handshake.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "process/duplicate.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

using nlohmann::json;

#ifndef SO_PEERPIDFD
constexpr int SO_PEERPIDFD = 77;  // Linux 6.5 and later
#endif
constexpr std::uint64_t INITIALIZED = 1ull << 31;
constexpr std::size_t PIECE = 64ul * 1024;
constexpr std::size_t MAX_FDS = 16;
constexpr int MAX_DEPTH = 16;

// include/uapi/linux/userfaultfd.h, up to Linux 6.18; Debian 12's headers end at bit 12.
struct Feature {
  unsigned bit;
  const char* name;
  bool served;
};
constexpr Feature FEATURES[] = {
    {0, "PAGEFAULT_FLAG_WP", true},
    {1, "EVENT_FORK", false},
    {2, "EVENT_REMAP", false},
    {3, "EVENT_REMOVE", true},
    {4, "MISSING_HUGETLBFS", true},
    {5, "MISSING_SHMEM", true},
    {6, "EVENT_UNMAP", false},
    {7, "SIGBUS", false},  // faults would not be heard of
    {8, "THREAD_ID", true},
    {9, "MINOR_HUGETLBFS", false},  // memory whose bytes are there and are not the snapshot's
    {10, "MINOR_SHMEM", false},
    {11, "EXACT_ADDRESS", true},
    {12, "WP_HUGETLBFS_SHMEM", true},
    {13, "WP_UNPOPULATED", true},
    {14, "POISON", true},
    {15, "WP_ASYNC", true},
    {16, "MOVE", true},
};

// The names of those of `features` that are not served, a bit without a name as its number; empty: none.
std::string notServed(std::uint64_t features) {
  std::string names;
  const auto add = [&](const std::string& name) { names += (names.empty() ? "" : ", ") + name; };
  for (const Feature& feature : FEATURES) {
    const std::uint64_t bit = 1ull << feature.bit;
    if ((features & bit) != 0 && !feature.served) add(std::string("UFFD_FEATURE_") + feature.name);
    features &= ~bit;
  }
  for (unsigned bit = 0; bit < 64; bit++)
    if ((features >> bit & 1) != 0) add("bit " + std::to_string(bit));
  return names;
}

std::string regionName(std::size_t index) {
  return "region " + std::to_string(index) + ": ";
}

std::uint64_t number(const json& region, std::size_t index, const char* field) {
  const auto found = region.find(field);
  if (found == region.end()) throw HandshakeError(regionName(index) + "the field " + field + " is missing");
  if (!found->is_number_unsigned())
    throw HandshakeError(regionName(index) + field + " is " + found->dump().substr(0, 64) +
                         "; it must be an unsigned integer of at most 64 bits");
  return found->get<std::uint64_t>();
}

std::uint64_t pageSize(const json& region, std::size_t index) {
  if (region.contains("page_size")) return number(region, index, "page_size");
  if (!region.contains("page_size_kib")) return shm::SMALL_PAGE;  // Firecracker before 1.7
  const std::uint64_t value = number(region, index, "page_size_kib");
  // Firecracker fills it with bytes, whatever its name says. A page size of 4 or 2048 is therefore in KiB: no
  // page has so few bytes.
  return value == 4 || value == 2048 ? value * 1024 : value;
}

std::string describeFd(int fd) {
  char target[256];
  const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, sizeof target);
  return length > 0 ? std::string(target, static_cast<std::size_t>(length)) : "unknown";
}

void setPeekOffset(int socket, int offset) {
  if (setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) != 0)
    throw HandshakeError(std::string("cannot look at the connection: ") + std::strerror(errno));
}

std::vector<kj::AutoCloseFd> fdsOf(msghdr& message) {
  std::vector<kj::AutoCloseFd> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      fds.push_back(kj::AutoCloseFd(fd));
    }
  }
  return fds;
}

}  // namespace

ParsedRegions parseRegions(std::string_view text) {
  // Nesting beyond the protocol's two levels costs a parser its stack.
  JsonBrackets brackets;
  brackets.look(text);
  if (brackets.deepest() > MAX_DEPTH) throw HandshakeError("the handshake's JSON is nested too deeply");
  const json body = json::parse(text, nullptr, false);
  if (body.is_discarded())
    throw HandshakeError("the handshake is not valid JSON: it begins with '" +
                         std::string(text.substr(0, 32)) + "'");
  if (!body.is_array()) throw HandshakeError("the handshake is no JSON array of regions");
  if (body.empty()) throw HandshakeError("the handshake names no region");
  ParsedRegions parsed;
  for (std::size_t i = 0; i < body.size(); i++) {
    const json& region = body[i];
    if (!region.is_object()) throw HandshakeError(regionName(i) + "is no JSON object");
    parsed.regions.push_back({number(region, i, "base_host_virt_addr"), number(region, i, "size"),
                              number(region, i, "offset"), pageSize(region, i)});
    if (region.contains("page_size")) parsed.socketOutlivesHandshake = true;
  }
  return parsed;
}

HandshakeReader::HandshakeReader(int socket)
    : socket_(socket), piece_(std::make_unique_for_overwrite<char[]>(PIECE)) {
  setPeekOffset(socket_, 0);
}

// Looks at one more piece; false where nothing more has come.
bool HandshakeReader::peek() {
  iovec body{piece_.get(), PIECE};
  alignas(cmsghdr) char control[CMSG_SPACE(MAX_FDS * sizeof(int))];
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = recvmsg(socket_, &message, MSG_PEEK | MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return false;
    if (errno != ECONNRESET)
      throw HandshakeError(std::string("cannot receive the handshake: ") + std::strerror(errno));
  }
  for (kj::AutoCloseFd& fd : fdsOf(message)) fds_.push_back(kj::mv(fd));
  if ((message.msg_flags & MSG_CTRUNC) != 0)
    throw HandshakeError(
        fds_.empty()
            ? "no file descriptor can be taken any more: too many are open; raise the limit on open files"
            : "more file descriptors came than can be taken; send the userfaultfd alone");
  requireOneFd();
  if (got <= 0) {
    ended_ = true;
    return false;
  }
  body_.append(piece_.get(), static_cast<std::size_t>(got));
  return true;
}

// Checked as fds come: each takes one of this process's own.
void HandshakeReader::requireOneFd() const {
  if (fds_.size() <= 1) return;
  throw HandshakeError(
      std::to_string(fds_.size()) +
      " file descriptors came with the handshake; the userfaultfd alone is served (memory by "
      "memfd, as newer drafts send it, is not)");
}

bool HandshakeReader::arrayIsWhole() {
  brackets_.look(body_);
  const std::size_t begin = brackets_.begin();
  if (begin != JsonBrackets::NOT_YET && body_[begin] != '[')
    throw HandshakeError("the handshake is no JSON array of regions; it begins with '" +
                         body_.substr(begin, 16) + "'");
  return brackets_.end() != JsonBrackets::NOT_YET;
}

HandshakeReader::Progress HandshakeReader::advance() {
  for (;;) {
    if (body_.size() > MAX_BODY)
      throw HandshakeError("the handshake has more than " + std::to_string(MAX_BODY) + " bytes");
    if (arrayIsWhole()) return Progress::complete;
    if (peek()) continue;
    if (!ended_) {
      if (body_.size() - received_ > KEPT) receive();
      return Progress::needMore;
    }
    if (body_.empty() && fds_.empty()) return Progress::nothingCame;
    throw HandshakeError("the connection was closed after " + std::to_string(body_.size()) +
                         " bytes, before the handshake was complete");
  }
}

Handshake HandshakeReader::take() {
  const std::size_t end = brackets_.end();
  if (body_.find_first_not_of(" \t\r\n", end) != std::string::npos)
    throw HandshakeError("bytes follow the handshake's JSON array");
  ParsedRegions parsed = parseRegions(std::string_view(body_).substr(0, end));
  if (fds_.empty())
    throw HandshakeError(
        "no file descriptor came with the handshake; send the userfaultfd by SCM_RIGHTS in the same message");
  const int uffd = fds_[0].get();
  if (!uffd::isUserfaultfd(uffd))
    throw HandshakeError("the file descriptor is no userfaultfd, it is " + describeFd(uffd));
  const std::uint64_t features = uffdFeatures(uffd);
  return {std::move(parsed.regions), parsed.socketOutlivesHandshake, process::duplicate(uffd), features};
}

int HandshakeReader::userfaultfd() const {
  for (const kj::AutoCloseFd& fd : fds_)
    if (uffd::isUserfaultfd(fd.get())) return fd.get();
  return -1;
}

void HandshakeReader::consume() {
  setPeekOffset(socket_, -1);
  receive();
}

// The kernel moves the peek offset back by as much.
void HandshakeReader::receive() {
  std::string sink(body_.size() - received_, '\0');
  while (received_ < body_.size()) {
    // Without a place for them, the kernel drops the fds that come along.
    const ssize_t got = recv(socket_, sink.data(), body_.size() - received_, MSG_DONTWAIT);
    if (got <= 0) return;
    received_ += static_cast<std::size_t>(got);
  }
}

Received receiveMore(int socket, int uffd) {
  char words[4096];
  iovec body{words, sizeof words};
  alignas(cmsghdr) char control[CMSG_SPACE(MAX_FDS * sizeof(int))];
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  using What = Received::What;
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0) return {What::nothing};
  Received received{(message.msg_flags & MSG_CTRUNC) != 0 ? What::anotherHandshake : What::more};
  for (kj::AutoCloseFd& fd : fdsOf(message)) {
    if (uffd::sameUserfaultfd(fd.get(), uffd)) continue;
    received.what = What::anotherHandshake;
    if (uffd::isUserfaultfd(fd.get())) received.userfaultfd = kj::mv(fd);
  }
  return received;
}

std::uint64_t uffdFeatures(int uffd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(uffd));
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("API:", 0) != 0) continue;
    // "API:\t<api>:<features>:<all features>", in hexadecimal.
    const std::size_t colon = line.find(':', 4);
    if (colon == std::string::npos) break;
    const std::uint64_t features = std::stoull(line.substr(colon + 1), nullptr, 16);
    // UFFD_FEATURE_INITIALIZED, the kernel's own mark, is set once UFFDIO_API was done.
    if (features == 0)
      throw HandshakeError("the userfaultfd is not set up: do UFFDIO_API and register before the handshake");
    if (const std::string names = notServed(features & ~INITIALIZED); !names.empty())
      throw HandshakeError("the userfaultfd was set up with " + names +
                           ", which is not served: of what changes events and faults, ask UFFDIO_API for "
                           "UFFD_FEATURE_EVENT_REMOVE alone");
    return features & ~INITIALIZED;
  }
  throw HandshakeError("the userfaultfd's features cannot be told from /proc/self/fdinfo");
}

Peer peerOf(int socket) {
  Peer peer;
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    throw HandshakeError(std::string("cannot tell who connected: ") + std::strerror(errno));
  peer.pid = credentials.pid;
  peer.uid = credentials.uid;
  int pidfd = -1;
  length = sizeof pidfd;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) != 0)
    pidfd = credentials.pid > 0 ? static_cast<int>(syscall(SYS_pidfd_open, credentials.pid, 0)) : -1;
  if (pidfd >= 0) {
    fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    peer.pidfd = kj::AutoCloseFd(pidfd);
  }
  return peer;
}

void requireOwnUser(const Peer& peer) {
  if (peer.uid == 0 || peer.uid == geteuid()) return;
  throw HandshakeError("the peer is of user " + std::to_string(peer.uid) + ", only root and user " +
                       std::to_string(geteuid()) + " are served; start with --any-user to serve others");
}

}  // namespace faultline::coordinator
