#include "supervisor/service_manager.h"

#include <kj/debug.h>
#include <linux/kcmp.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "failpoints/mistakes.h"
#include "process/kept_name.h"

namespace faultline::supervisor {

using failpoints::made;
using failpoints::Mistake;
using process::KeptName;

namespace {

using Clock = std::chrono::steady_clock;

// `one` and `other` are of one file, and are compared as the service manager does (systemd's same_fd()). If the kernel
// does not say (kcmp(2) needs CONFIG_KCMP), two fds of one socket are the same: a socket cannot be opened twice.
bool sameOpenFile(int one, int other) {
  const long order = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, one, other);
  struct stat status {};
  return order < 0 ? fstat(one, &status) == 0 && S_ISSOCK(status.st_mode) : order == 0;
}

// The fds that a service manager gives, as it stores them; and the index, which is for this file alone.
struct Given {
  std::vector<std::pair<std::string, kj::AutoCloseFd>> fds;
  kj::AutoCloseFd index;
  std::uint64_t indexNumber = 0;
};

Given whatIsGiven() {
  Given given;
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(1, &names);
  for (int i = 0; i < count; i++) {
    kj::AutoCloseFd fd(SD_LISTEN_FDS_START + i);
    const auto name = KeptName::parse(names[i]);
    if (!name.has_value() || !name->is(KeptName::Kind::service, KeptName::Part::names)) {
      given.fds.emplace_back(names[i], kj::mv(fd));
    } else if (*name->number > given.indexNumber) {
      given.index = kj::mv(fd);
      given.indexNumber = *name->number;
    }
    free(names[i]);
  }
  free(names);
  return given;
}

std::string indexName(std::uint64_t number) {
  return KeptName::service(KeptName::Part::names, number).text();
}

}  // namespace

ServiceManager::ServiceManager() : there_(getenv("NOTIFY_SOCKET") != nullptr) {
  std::uint64_t limit = 0;
  if (!there_ || sd_watchdog_enabled(0, &limit) <= 0) return;
  interval_ = std::chrono::microseconds(limit / 2);
  nextBeat_ = Clock::now();
}

void ServiceManager::giveBack(FdStore& kept) {
  Given given = whatIsGiven();
  indexNumber_ = given.indexNumber;
  names_ = StoredNames(kj::mv(given.index));
  storeIndex();
  std::set<std::string> twice;
  for (auto& [stored, fd] : given.fds) {
    const std::vector<std::string> names = names_.namesOf(stored);
    const auto shared = std::make_shared<const kj::AutoCloseFd>(kj::mv(fd));
    bool first = false;
    for (const std::string& name : names) {
      if (fds_.count(name) != 0) continue;
      first = true;
      remember(name, shared);
      names_.found(name);
      kept.keep(name, shared);
    }
    if (!first) twice.insert(stored);
  }
  // Leftovers, and what a socket unit has made anew. The unit's own fds are not stored, and stay.
  for (const std::string& stored : twice) removeStored(stored);
}

bool ServiceManager::givesRestores() {
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(0, &names);
  bool any = false;
  for (int i = 0; i < count; i++) {
    const auto name = KeptName::parse(names[i]);
    any |= name.has_value() && name->kind == KeptName::Kind::restore;
    free(names[i]);
  }
  free(names);
  return any;
}

void ServiceManager::keepAll(const FdStore& kept) {
  if (!there_) return;
  for (const auto& entry : kept.entries()) keep(entry.name, entry.fd);
  for (const auto& [name, fd] : std::map(fds_))
    if (kept.find(name) == nullptr) drop(name);
}

void ServiceManager::keep(const std::string& name, const SharedFd& fd) {
  if (!there_) return;
  const auto known = fds_.find(name);
  if (known != fds_.end() && known->second == fd) return;
  std::string place = made(Mistake::storesEachName) ? "" : placeOf(fd->get());
  if (place.empty()) {
    place = names_.placeFor(name);
    if (place != name) names_.reserve(place);
    storeIndex();
    store(place, fd->get());
  }
  // In this order: a supervisor that dies in between leaves one of the two, and an index that knows of it.
  const auto left = names_.put(name, place);
  storeIndex();
  if (left.has_value()) removeStored(*left);
  remember(name, fd);
}

void ServiceManager::drop(const std::string& name) {
  if (!there_) return;
  forget(name);
  const auto left = names_.remove(name);
  storeIndex();
  if (left.has_value()) removeStored(*left);
}

void ServiceManager::dropAll() {
  for (const auto& [name, fd] : std::map(fds_)) drop(name);
  if (indexNumber_ != 0 && there_) removeStored(indexName(indexNumber_));
}

std::string ServiceManager::placeOf(int fd) const {
  const auto [begin, end] = namesByFile_.equal_range(fileOf(fd));
  for (auto entry = begin; entry != end; ++entry)
    if (sameOpenFile(fds_.at(entry->second)->get(), fd)) return names_.storedAs(entry->second).value_or("");
  return "";
}

ServiceManager::File ServiceManager::fileOf(int fd) {
  struct stat status {};
  fstat(fd, &status);
  return {status.st_dev, status.st_ino};
}

void ServiceManager::remember(const std::string& name, const SharedFd& fd) {
  forget(name);
  fds_[name] = fd;
  namesByFile_.emplace(fileOf(fd->get()), name);
}

void ServiceManager::forget(const std::string& name) {
  const auto found = fds_.find(name);
  if (found == fds_.end()) return;
  const auto [begin, end] = namesByFile_.equal_range(fileOf(found->second->get()));
  for (auto entry = begin; entry != end; ++entry) {
    if (entry->second != name) continue;
    namesByFile_.erase(entry);
    break;
  }
  fds_.erase(found);
}

void ServiceManager::storeIndex() {
  const int index = names_.takeFresh();
  if (index < 0 || !there_) return;
  const std::uint64_t former = indexNumber_++;
  store(indexName(indexNumber_), index);
  if (former != 0) removeStored(indexName(former));
}

void ServiceManager::store(const std::string& stored, int fd) const {
  const std::string state = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + stored;
  sd_pid_notify_with_fds(0, 0, state.c_str(), &fd, 1);
}

void ServiceManager::removeStored(const std::string& stored) const {
  notify("FDSTOREREMOVE=1\nFDNAME=" + stored);
}

void ServiceManager::notify(const std::string& state) const {
  if (there_) sd_notify(0, state.c_str());
}

void ServiceManager::ready() {
  notify("READY=1");
}

void ServiceManager::status(const std::string& line) {
  if (std::exchange(status_, line) != line) notify("STATUS=" + line);
}

void ServiceManager::stopping() {
  notify("STOPPING=1");
}

void ServiceManager::extend(std::chrono::microseconds time) {
  notify("EXTEND_TIMEOUT_USEC=" + std::to_string(time.count()));
}

void ServiceManager::beat() {
  if (Clock::now() < nextBeat_) return;
  notify("WATCHDOG=1");
  nextBeat_ = Clock::now() + interval_;
}

}  // namespace faultline::supervisor
