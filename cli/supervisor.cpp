#include "cli/supervisor.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "shmtracker/clock.h"

namespace faultline::cli {

namespace {

constexpr std::size_t EVENTS_KEPT = 64;
constexpr int CHANNEL_ROOM = 8 << 20;          // bytes; some 1 KiB a message
constexpr std::size_t CONNECTIONS_KEPT = 256;  // a listener, not yet served
constexpr unsigned HOPELESS = 8;               // quick deaths in a row before anything was ever served
constexpr std::chrono::milliseconds PATIENCE{5000};

bool endsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

kj::AutoCloseFd signalFd() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&set, signal);
  KJ_SYSCALL(sigprocmask(SIG_BLOCK, &set, nullptr));
  int fd;
  KJ_SYSCALL(fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  return kj::AutoCloseFd(fd);
}

void sendSignal(int pidfd, int signal) {
  syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0);
}

// Tells the service manager, where there is one (NOTIFY_SOCKET). Its store outlives us.
void notify(const std::string& state) {
  sd_notify(0, state.c_str());
}

void notifyStored(const std::string& name, int fd) {
  const std::string state = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name;
  sd_pid_notify_with_fds(0, 0, state.c_str(), &fd, 1);
}

}  // namespace

Supervisor::Supervisor(SupervisorOptions options, FdStore kept)
    : options_(std::move(options)), kept_(kj::mv(kept)), signals_(signalFd()) {
  // Shards whose coordinator dies become our children, and are reaped here.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
}

int Supervisor::run() {
  startAt_ = Clock::now();
  while (!(ending_ && !coordinator_.has_value())) {
    if (!coordinator_.has_value() && Clock::now() >= startAt_) {
      if (!everReady_ && quickDeaths_ >= HOPELESS) {
        spdlog::critical("the coordinator cannot be started; its last death: {}", death_);
        endEverything();
        return 1;
      }
      startCoordinator();
    }
    std::vector<pollfd> fds = {{signals_.get(), POLLIN, 0},
                               {coordinator_.has_value() ? coordinator_->pidfd.get() : -1, POLLIN, 0},
                               {channel_.has_value() ? channel_->fd() : -1, POLLIN, 0}};
    std::vector<std::pair<std::string, int>> listening;
    for (const auto& entry : kept_.entries()) {
      if (!endsWith(entry.name, ".listen")) continue;
      const std::string stem = entry.name.substr(0, entry.name.size() - 6) + "conn.";
      const auto waiting = std::count_if(kept_.entries().begin(), kept_.entries().end(),
                                         [&stem](const auto& e) { return e.name.rfind(stem, 0) == 0; });
      if (static_cast<std::size_t>(waiting) >= CONNECTIONS_KEPT) continue;
      listening.emplace_back(entry.name, entry.fd.get());
      fds.push_back({entry.fd.get(), POLLIN, 0});
    }
    poll(fds.data(), fds.size(), waitMs());
    // What it said before it died counts: first listen, then look at its death.
    if (fds[2].revents != 0) receive();
    if (fds[0].revents != 0) onSignals();
    if (fds[1].revents != 0) coordinatorEnded();
    replaceSilent();
    for (std::size_t i = 0; i < listening.size(); i++)
      if ((fds[3 + i].revents & POLLIN) != 0) acceptOn(listening[i].first, listening[i].second);
  }
  endEverything();
  return 0;
}

void Supervisor::startCoordinator() {
  auto [ours, theirs] = rpc::FdChannel::pair();
  // Room for all that may be said while a coordinator stands still: a sender that waits could not replace it.
  if (setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUFFORCE, &CHANNEL_ROOM, sizeof CHANNEL_ROOM) != 0)
    setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUF, &CHANNEL_ROOM, sizeof CHANNEL_ROOM);
  started_ = heard_ = Clock::now();
  ready_ = false;
  channel_.emplace(kj::mv(ours));
  coordinator_ = rpc::startProcess(options_.executable, options_.arguments, theirs.get());
  theirs = kj::AutoCloseFd();
  incarnation_++;
  spdlog::debug("coordinator {} started, incarnation {}", coordinator_->pid, incarnation_);
  for (const auto& entry : kept_.entries()) channel_->send("fd", entry.name, entry.fd.get());
  for (const std::string& event : events_) channel_->send("event", event);
  channel_->send("incarnation", std::to_string(incarnation_));
  if (incarnation_ > 1) {
    channel_->send("died", death_);
    channel_->send("diedat", std::to_string(deathNoticed_));
  }
  channel_->send("start");
}

void Supervisor::coordinatorEnded() {
  if (!coordinator_.has_value() || !rpc::hasEnded(coordinator_->pidfd.get())) return;
  receive();
  deathNoticed_ = shm::nowNs();
  death_ = "(pid " + std::to_string(coordinator_->pid) + ") " + rpc::describeExit(coordinator_->pidfd.get());
  // One that served was fit to serve: its successor begins at once.
  quickDeaths_ = ready_ ? 0 : quickDeaths_ + 1;
  coordinator_.reset();
  channel_.reset();
  if (ending_) return;
  spdlog::warn("coordinator {}", death_);
  // The first successor at once; one that dies quickly again and again waits, doubling from 10 ms to 1 s.
  const auto backOff = quickDeaths_ < 2 ? 0 : std::min(10 << std::min(quickDeaths_ - 2, 7u), 1000);
  startAt_ = Clock::now() + std::chrono::milliseconds(backOff);
}

void Supervisor::receive() {
  while (channel_.has_value()) {
    auto received = channel_->receive(rpc::FdChannel::Wait::no);
    KJ_IF_MAYBE (message, received) {
      handle(kj::mv(*message));
    } else {
      return;
    }
  }
}

void Supervisor::handle(rpc::FdChannel::Message message) {
  heard_ = Clock::now();
  if (message.verb == "store" && message.fd.get() >= 0) {
    notifyStored(message.name, message.fd.get());
    kept_.keep(message.name, kj::mv(message.fd));
  } else if (message.verb == "drop") {
    notify("FDSTOREREMOVE=1\nFDNAME=" + message.name);
    kept_.drop(message.name);
  } else if (message.verb == "event") {
    events_.push_back(message.name);
    if (events_.size() > EVENTS_KEPT) events_.pop_front();
  } else if (message.verb == "ready") {
    ready_ = true;
    if (!everReady_) {
      everReady_ = true;
      notify("READY=1");
      if (options_.whenReady) options_.whenReady();
    }
  } else if (message.verb == "alive") {
    notify("WATCHDOG=1");
  } else if (message.verb == "shutdown") {
    ending_ = true;
    notify("STOPPING=1");
  }
}

void Supervisor::acceptOn(const std::string& name, int listening) {
  kj::AutoCloseFd connection(accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (connection.get() < 0) return;
  const std::string key = name.substr(0, name.size() - 6) + "conn." + std::to_string(++accepted_[name]);
  notifyStored(key, connection.get());
  if (channel_.has_value()) channel_->send("conn", key, connection.get());
  kept_.keep(key, kj::mv(connection));
}

void Supervisor::onSignals() {
  signalfd_siginfo info{};
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCHLD) continue;
    ending_ = true;
    terminations_++;
    notify("STOPPING=1");
    if (coordinator_.has_value())
      sendSignal(coordinator_->pidfd.get(), terminations_ == 1 ? SIGTERM : SIGKILL);
  }
  reap();
}

// Orphaned shards. The coordinator is waited for through its pidfd.
void Supervisor::reap() {
  for (;;) {
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    if (coordinator_.has_value() && info.si_pid == coordinator_->pid) return;
    waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED | WNOHANG);
    spdlog::debug("process {} has ended", info.si_pid);
  }
}

void Supervisor::replaceSilent() {
  if (!coordinator_.has_value()) return;
  const auto limit = ready_ ? options_.watchdog : options_.startLimit;
  if (Clock::now() - heard_ < limit) return;
  spdlog::error("coordinator {} has not been heard of for {} ms: it is replaced", coordinator_->pid,
                limit.count());
  rpc::killAndWait(coordinator_->pidfd.get(), PATIENCE);
  coordinatorEnded();
}

int Supervisor::waitMs() const {
  const auto now = Clock::now();
  const auto next =
      coordinator_.has_value() ? heard_ + (ready_ ? options_.watchdog : options_.startLimit) : startAt_;
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(next - now).count();
  return static_cast<int>(std::clamp<long>(ms + 1, 0, 60'000));
}

// Shards end when nobody holds their channels any more; nothing of ours outlives us.
void Supervisor::endEverything() {
  kept_ = FdStore();
  channel_.reset();
  const auto deadline = Clock::now() + PATIENCE;
  for (;;) {
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) != 0) return;  // no child is left
    if (info.si_pid != 0) continue;
    if (Clock::now() >= deadline) return;
    pollfd signal{signals_.get(), POLLIN, 0};
    poll(&signal, 1, 100);
    signalfd_siginfo drained{};
    while (read(signals_.get(), &drained, sizeof drained) == sizeof drained) continue;
  }
}

}  // namespace faultline::cli
