#include "fetcher/rbd_session.h"

#include <kj/common.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "process/clock.h"
#include "threads/mutex.h"

namespace faultline::fetcher {

namespace {

constexpr std::uint64_t SECOND = 1'000'000'000;  // ns
constexpr unsigned MOUNT_SECONDS = 10;

std::atomic<unsigned> sessions{0};

using Time = std::chrono::steady_clock::time_point;

Time timeOf(std::uint64_t ns) {
  return Time(std::chrono::nanoseconds(ns));  // steady_clock is CLOCK_MONOTONIC, as `ns` is
}

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::runtime_error(what + ": " +
                           (error == -ETIMEDOUT ? "the cluster does not answer" : std::strerror(-error)));
}

void require(int result, const std::string& what) {
  if (result < 0) fail(result, what);
}

// A read under way: owned by the thread that waits for it, and by the library, which may be the last owner.
struct Read {
  explicit Read(std::size_t size) : bytes(std::make_unique_for_overwrite<char[]>(size)) {}
  const std::unique_ptr<char[]> bytes;
  threads::Mutex mutex;
  threads::Condition came;
  std::optional<std::int64_t> result GUARDED_BY(mutex);
  const RbdLibrary* library = nullptr;
};

void readCame(rbd_completion_t completion, void* data) {
  const std::unique_ptr<std::shared_ptr<Read>> read(static_cast<std::shared_ptr<Read>*>(data));
  Read& it = **read;
  const std::int64_t result = it.library->aioGetReturnValue(completion);
  it.library->aioRelease(completion);
  const threads::Lock lock(it.mutex);
  it.result = result;
  it.came.notifyOne();
}

struct Zeros {
  const std::function<void(Range)>& use;
  std::uint64_t next = 0;
  bool ordered = true;
};

int extentCame(std::uint64_t offset, std::size_t size, int exists, void* data) {
  auto& zeros = *static_cast<Zeros*>(data);
  if (exists == 0) return 0;
  if (offset < zeros.next) zeros.ordered = false;
  if (offset > zeros.next && zeros.ordered) zeros.use({zeros.next, offset});
  zeros.next = std::max(zeros.next, offset + size);
  return 0;
}

}  // namespace

std::shared_ptr<const RbdSession> RbdSession::open(const rpc::RbdUri& uri, std::uint64_t patience,
                                                   std::uint64_t deadline) {
  struct Attempt {
    threads::Mutex mutex;
    threads::Condition over;
    bool ended GUARDED_BY(mutex) = false;
    std::shared_ptr<const RbdSession> session GUARDED_BY(mutex);
    std::string why GUARDED_BY(mutex);
  };
  RbdLibrary::loaded();
  auto attempt = std::make_shared<Attempt>();
  std::thread([attempt, uri, patience] {
    std::shared_ptr<RbdSession> session;
    std::string why;
    try {
      session.reset(new RbdSession(uri));
      session->begin(patience);
    } catch (const std::exception& error) {
      why = error.what();
      session = nullptr;
    }
    const threads::Lock lock(attempt->mutex);
    attempt->session = std::move(session);
    attempt->why = why;
    attempt->ended = true;
    attempt->over.notifyOne();
  }).detach();
  const threads::Lock lock(attempt->mutex);
  while (!attempt->ended)
    if (!attempt->over.waitUntil(attempt->mutex, timeOf(deadline)))
      throw std::runtime_error("the cluster does not answer");
  if (attempt->session == nullptr) throw std::runtime_error(attempt->why);
  return std::move(attempt->session);
}

RbdSession::RbdSession(const rpc::RbdUri& uri) : uri_(uri), library_(RbdLibrary::loaded()) {
  sessions++;
}

unsigned RbdSession::count() {
  return sessions;
}

void RbdSession::set(const char* option, const std::string& value) const {
  require(library_.confSet(cluster_, option, value.c_str()), std::string("Ceph's option ") + option);
}

void RbdSession::begin(std::uint64_t patience) {
  rados_t cluster = nullptr;
  require(library_.create(&cluster, "ceph", ("client." + uri_.id).c_str(), 0), "librados");
  cluster_ = cluster;
  require(library_.confReadFile(cluster_, uri_.conf.empty() ? nullptr : uri_.conf.c_str()),
          "Ceph's configuration " + (uri_.conf.empty() ? "(/etc/ceph/ceph.conf, CEPH_CONF)" : uri_.conf));
  if (!uri_.keyring.empty()) set("keyring", uri_.keyring);
  const std::string seconds = std::to_string(std::max<std::uint64_t>(1, (patience + SECOND - 1) / SECOND));
  set("rados_osd_op_timeout", seconds);
  set("rados_mon_op_timeout", std::to_string(MOUNT_SECONDS));
  set("client_mount_timeout", std::to_string(MOUNT_SECONDS));
  // Ceph's own patience with an OSD that is silent: after 2 s it asks the monitors where that is now, and it tries again each
  // second. Usually that is 10 s, which a read may not have, and then nothing asks.
  set("objecter_timeout", "2");
  set("objecter_tick_interval", "1");
  set("ms_max_backoff", "1");
  // Ceph keeps no bytes that it reads: we do.
  set("rbd_cache", "false");
  // Ceph's library writes to no file, and listens nowhere.
  for (const char* option : {"log_file", "admin_socket", "pid_file"}) set(option, "");
  for (const char* option : {"log_to_stderr", "err_to_stderr", "log_to_syslog"}) set(option, "false");
  if (const int error = library_.connect(cluster_); error < 0) fail(error, whyNotConnected(error));
  std::array<char, 64> fsid{};
  require(library_.clusterFsid(cluster_, fsid.data(), fsid.size()), "the cluster's identity");
  require(library_.ioctxCreate(cluster_, uri_.pool.c_str(), &pool_), "the pool " + uri_.pool);
  if (!uri_.nameSpace.empty()) library_.ioctxSetNamespace(pool_, uri_.nameSpace.c_str());
  fsid_ = fsid.data();
  require(library_.openReadOnly(pool_, uri_.image.c_str(), &image_, uri_.snapshot.c_str()), imageName());
  bool isProtected = false;
  identity_ = look(image_, isProtected);
  if (!isProtected)
    throw std::runtime_error(
        imageName() + ": it is not protected, and could be removed while it is read; rbd snap protect " +
        uri_.pool + "/" + uri_.image + "@" + uri_.snapshot);
  if (identity_.bytes == 0) throw std::runtime_error(imageName() + ": it is empty");
}

std::string RbdSession::whyNotConnected(int error) const {
  const std::string user = "client." + uri_.id;
  if (error == -ENOENT) return "there is no key of " + user + " (?keyring=, docs/remote.md)";
  if (error == -EACCES || error == -EPERM) return "the cluster does not take the key of " + user;
  return "the cluster cannot be connected to";
}

std::string RbdSession::imageName() const {
  return "image " + uri_.image + ", snapshot " + uri_.snapshot;
}

RbdSession::Identity RbdSession::look(rbd_image_t image, bool& isProtected) const {
  Identity identity;
  std::array<char, 128> id{};
  int answer = 0;
  require(library_.getId(image, id.data(), id.size()), imageName());
  require(library_.snapGetId(image, uri_.snapshot.c_str(), &identity.snapshot), imageName());
  require(library_.getSize(image, &identity.bytes), imageName());
  require(library_.snapIsProtected(image, uri_.snapshot.c_str(), &answer), imageName());
  isProtected = answer != 0;
  identity.fsid = fsid_;
  identity.image = id.data();
  identity.pool = library_.ioctxGetId(pool_);
  return identity;
}

RbdSession::~RbdSession() {
  if (image_ != nullptr) library_.close(image_);
  if (pool_ != nullptr) library_.ioctxDestroy(pool_);
  if (cluster_ != nullptr) library_.shutdown(cluster_);
  sessions--;
}

void RbdSession::discard(std::shared_ptr<const RbdSession> session) {
  if (session == nullptr) return;
  try {
    std::thread([session = std::move(session)] {}).detach();
  } catch (const std::system_error& error) {
    spdlog::warn("no thread can be made to close an image: {}", error.what());
  }
}

bool RbdSession::zeros(const std::function<void(Range)>& use) const {
  Zeros zeros{use};
  const int result = library_.diffIterate(image_, nullptr, 0, identity_.bytes, 1, 1, extentCame, &zeros);
  if (result < 0 || !zeros.ordered) return false;
  if (zeros.next < identity_.bytes) use({zeros.next, identity_.bytes});
  return true;
}

int RbdSession::read(std::uint64_t offset, std::span<std::byte> to, std::uint64_t deadline) const {
  const auto read = std::make_shared<Read>(to.size());
  read->library = &library_;
  auto theirs = std::make_unique<std::shared_ptr<Read>>(read);
  rbd_completion_t completion = nullptr;
  if (const int error = library_.aioCreateCompletion(theirs.get(), readCame, &completion); error < 0)
    return -error;
  const int error = library_.aioRead(image_, offset, to.size(), read->bytes.get(), completion);
  if (error < 0) {
    library_.aioRelease(completion);
    return -error;
  }
  // The completion and `*theirs` are readCame()'s from here on, however long that takes.
  [[maybe_unused]] const auto* given = theirs.release();
  std::int64_t result;
  {
    const threads::Lock lock(read->mutex);
    while (!read->result.has_value())
      if (!read->came.waitUntil(read->mutex, timeOf(deadline)) && !read->result.has_value()) return ETIMEDOUT;
    result = *read->result;
  }
  if (result < 0) return static_cast<int>(-result);
  if (static_cast<std::uint64_t>(result) != to.size()) return EIO;
  std::memcpy(to.data(), read->bytes.get(), to.size());
  return 0;
}

bool RbdSession::stillThere() const {
  rbd_image_t image = nullptr;
  const int error = library_.openReadOnly(pool_, uri_.image.c_str(), &image, uri_.snapshot.c_str());
  if (error == -ENOENT) return false;
  require(error, imageName());
  KJ_DEFER(library_.close(image));
  bool isProtected = false;
  return look(image, isProtected) == identity_ && isProtected;
}

}  // namespace faultline::fetcher
