#include "supervisor/supervisor.h"

#include <kj/debug.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "process/clock.h"
#include "process/kept_name.h"
#include "process/message.h"
#include "process/process.h"

namespace faultline::supervisor {

using process::KeptName;

namespace {

using std::chrono::milliseconds;

constexpr std::size_t EVENTS_KEPT = 64;
constexpr std::size_t MAX_TEXT = 900;  // room in a channel message
constexpr std::size_t MAX_NAME = 255;  // name of a kept fd; the limit of a service manager's store
constexpr unsigned HOPELESS = 8;       // quick deaths in a row before anything was ever served
constexpr milliseconds FIRST_PAUSE{10}, LONGEST_PAUSE{1000};
constexpr std::chrono::seconds PROGRESSING{20};  // asked for, of an end that gets on
constexpr milliseconds PATIENCE{5000};           // with a process that was told to end

kj::AutoCloseFd signalFd() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&set, signal);
  KJ_SYSCALL(sigprocmask(SIG_BLOCK, &set, nullptr));
  int fd;
  KJ_SYSCALL(fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  return kj::AutoCloseFd(fd);
}

// Everything that is kept counts: five fds a restore, two a shard, one a connection.
void allowManyFds() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Foreign names are kept as well: which ones there are is for coordinators to know.
bool usable(const std::string& name) {
  return !name.empty() && name.size() <= MAX_NAME && name.find_first_of(":\n") == std::string::npos;
}

std::string describe(const siginfo_t& info) {
  return info.si_code == CLD_EXITED ? "exited with code " + std::to_string(info.si_status)
                                    : "killed by signal " + std::to_string(info.si_status);
}

// Only to be called by a parent that reaps by itself: none of these pids can be another process's then.
void killChildren() {
  std::ifstream children("/proc/thread-self/children");
  for (pid_t pid; children >> pid;) kill(pid, SIGKILL);
}

}  // namespace

Supervisor::Supervisor(SupervisorOptions options, FdStore kept, ServiceManager manager)
    : options_(std::move(options)),
      programs_(options_.executable, options_.build),
      kept_(kj::mv(kept)),
      listening_(kept_),
      manager_(std::move(manager)),
      signals_(signalFd()) {
  // Shards whose coordinator dies become our children, and are reaped here.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  // A log that is not read any more is no reason to drop what is kept.
  signal(SIGPIPE, SIG_IGN);
  allowManyFds();
  manager_.keepAll(kept_);
}

int Supervisor::run() {
  startAt_ = Clock::now();
  while (!over()) {
    if (!coordinator_.has_value() && Clock::now() >= startAt_) startCoordinator();
    if (!over()) pollOnce();
  }
  endEverything();
  return exitCode_;
}

// --- the coordinator's life ---

void Supervisor::startCoordinator() {
  complaint_.clear();
  try {
    coordinator_.emplace(programs_.executable(), options_.arguments, programs_.coordinator());
  } catch (const kj::Exception& error) {
    return notStarted(process::messageOf(error));
  }
  incarnation_++;
  spdlog::debug("coordinator {} started, incarnation {}", coordinator_->pid(), incarnation_);
  introduce();
}

// Perhaps its file is just being replaced, or the machine is short of processes: it is tried again.
void Supervisor::notStarted(const std::string& why) {
  death_ = "could not be started: " + why;
  leftAsAsked_ = false;
  deathNoticed_ = process::nowNs();
  spdlog::error("the coordinator {}", death_);
  if (programs_.starting()) return goBack(death_);
  planNext(true);
}

void Supervisor::introduce() {
  auto say = [this](const std::string& verb, const std::string& name = "", SharedFd fd = nullptr) {
    coordinator_->say(verb, name, std::move(fd));
  };
  try {
    for (const auto& entry : kept_.entries()) say("fd", entry.name, entry.fd);
    if (programs_.shard() != nullptr) say("fd", process::KeptName::program().text(), programs_.shard());
    if (programs_.fetcher() != nullptr)
      say("fd", process::KeptName::fetcherProgram().text(), programs_.fetcher());
    if (manager_.there()) say("managed");
    if (ending_) say("end", terminations_ > 1 ? "now" : "");
    if (!programs_.givenUp().empty()) say("upgradegivenup", programs_.givenUp().substr(0, MAX_TEXT));
    for (const std::string& name : lost_) say("lost", name);
    for (const std::string& event : events_) say("event", event);
    say("incarnation", std::to_string(incarnation_));
    if (!death_.empty()) {
      say("died", death_);
      say("diedat", std::to_string(deathNoticed_));
      if (leftAsAsked_) say("asked");
    }
    say("start");
  } catch (const kj::Exception& error) {
    replace("it could not be told what is kept: " + process::messageOf(error));
  }
}

void Supervisor::coordinatorEnded() {
  // Messages from before its death count.
  hear();
  const CoordinatorProcess::Exit exit = coordinator_->reap();
  deathNoticed_ = process::nowNs();
  death_ = "(pid " + std::to_string(coordinator_->pid()) + ") " + exit.reason;
  if (!complaint_.empty()) death_ += ": " + complaint_;
  // A coordinator that served was fit to serve, however short: a guest waits for its successor.
  const bool quick = !coordinator_->ready();
  const bool asked = leaveBy_.has_value();
  leftAsAsked_ = asked && exit.code == 0;
  leaveBy_.reset();
  coordinator_.reset();
  // Orphans that were hidden behind it (see reap()).
  reap();
  if (done_ || leaving_) return;
  spdlog::log(asked ? spdlog::level::info : spdlog::level::warn, "coordinator {}", death_);
  if (programs_.leaving()) {
    programs_.left();
    startAt_ = Clock::now();
    return;
  }
  if (programs_.starting()) return goBack("its coordinator " + death_);
  if (!everReady_ && exit.code.has_value() && process::refusedItsStart(*exit.code))
    exitCode_ = *exit.code;
  else
    planNext(quick);
}

// The successor of one that served comes at once, that of one that never did after a pause that doubles.
void Supervisor::planNext(bool quick) {
  quickDeaths_ = quick ? quickDeaths_ + 1 : 0;
  if ((!everReady_ || ending_) && quickDeaths_ >= HOPELESS) {
    spdlog::critical("the coordinator cannot be started; its last death: {}", death_);
    exitCode_ = 1;
    if (ending_) killTargets();
  }
  const unsigned doublings = std::min(quickDeaths_, 9u);
  const auto pause =
      doublings < 2 ? milliseconds(0) : std::min(FIRST_PAUSE * (1 << (doublings - 2)), LONGEST_PAUSE);
  startAt_ = Clock::now() + pause;
}

// --- another build ---

void Supervisor::beginUpgrade(const std::string& directory) {
  if (ending_ || !programs_.begin(directory)) {
    spdlog::error("the upgrade to {} cannot be begun: its programs did not come, or another is under way",
                  directory);
    return;
  }
  dismiss("it left for build " + directory);
}

// The new build's coordinator never served: shards and restores are as the former one left them.
void Supervisor::goBack(const std::string& why) {
  programs_.goBack(why);
  spdlog::error("upgrade given up: {}", programs_.givenUp());
  startAt_ = Clock::now();
}

// Asks the coordinator to end between two batches, with nothing given back. A coordinator that does not end
// is killed, which costs a recovery.
void Supervisor::dismiss(const std::string& why) {
  complaint_ = why;
  leaveBy_ = Clock::now() + options_.watchdog;
  try {
    coordinator_->say("leave");
  } catch (const kj::Exception&) {
    coordinator_->signal(SIGKILL);
  }
}

// --- one look at everything ---

void Supervisor::pollOnce() {
  const bool running = coordinator_.has_value();
  const short channelEvents =
      static_cast<short>(running && coordinator_->unsent() ? POLLIN | POLLOUT : POLLIN);
  std::vector<pollfd> fds = {{signals_.get(), POLLIN, 0},
                             {running ? coordinator_->pidfd() : -1, POLLIN, 0},
                             {running ? coordinator_->channel() : -1, channelEvents, 0}};
  const std::vector<ListeningSockets::Ready> listeners = listening_.toPoll();
  for (const auto& listener : listeners) fds.push_back({listener.fd, POLLIN, 0});

  const auto due = nextDue();
  const auto wait = std::chrono::ceil<milliseconds>(due - Clock::now()).count();
  poll(fds.data(), fds.size(), static_cast<int>(std::clamp<long>(wait, 0, 60'000)));
  // A stop of the supervisor (SIGSTOP, a paused machine) may have stopped the coordinator as well: its
  // silence is no sign.
  if (running && Clock::now() - due > options_.watchdog / 2) coordinator_->excuseSilence();

  manager_.beat();
  if (fds[2].revents != 0) hear();
  if (fds[0].revents != 0) onSignals();
  // Before a death is looked at: `listeners` is of what was kept before.
  for (std::size_t i = 0; i < listeners.size(); i++)
    if (fds[3 + i].revents != 0) accept(listeners[i]);
  if (coordinator_.has_value() && coordinator_->ended()) coordinatorEnded();
  replaceSilent();
}

Supervisor::Clock::time_point Supervisor::nextDue() const {
  auto due = std::min(manager_.nextBeat(),
                      coordinator_.has_value() ? coordinator_->heardAt() + silenceLimit() : startAt_);
  if (const auto held = listening_.heldUntil()) due = std::min(due, *held);
  if (leaveBy_.has_value()) due = std::min(due, *leaveBy_);
  return due;
}

void Supervisor::hear() {
  try {
    coordinator_->flush();
  } catch (const kj::Exception& error) {
    replace("it cannot be talked to: " + process::messageOf(error));
  }
  for (;;) {
    auto heard = coordinator_->hear();
    KJ_IF_MAYBE (message, heard) {
      handle(kj::mv(*message));
    } else {
      return;
    }
  }
}

void Supervisor::handle(process::FdChannel::Message message) {
  if (message.verb == "store") {
    store(kj::mv(message));
  } else if (message.verb == "drop") {
    lost_.erase(message.name);
    manager_.drop(message.name);
    if (kept_.find(message.name) != nullptr) listening_.dropped(message.name);
    kept_.drop(message.name);
  } else if (message.verb == "event") {
    events_.push_back(message.name);
    if (events_.size() > EVENTS_KEPT) events_.pop_front();
  } else if (message.verb == "program") {
    if (message.fd.get() >= 0) programs_.offer(message.name, kj::mv(message.fd));
  } else if (message.verb == "upgrade") {
    beginUpgrade(message.name);
  } else if (message.verb == "ready") {
    coordinator_->setReady();
    programs_.served();
    if (everReady_) return;
    everReady_ = true;
    manager_.ready();
    if (options_.whenReady) options_.whenReady();
  } else if (message.verb == "status") {
    manager_.status(message.name);
  } else if (message.verb == "ending") {
    beginEnd();
  } else if (message.verb == "progress") {
    manager_.extend(PROGRESSING);
  } else if (message.verb == "shutdown") {
    beginEnd();
    done_ = true;
  }
  // "alive", like every word, has been noted by being heard.
}

void Supervisor::store(process::FdChannel::Message message) {
  const std::string& name = message.name;
  if (message.fdLost && usable(name)) {
    spdlog::critical("\"{}\" cannot be kept: too many fds are open; raise the limit on open files", name);
    lost_.insert(name);
    tell("lost", name);
    return;
  }
  if (message.fd.get() < 0 || !usable(name)) {
    spdlog::critical("\"{}\" cannot be kept: {}", name,
                     message.fd.get() < 0 ? "its fd did not come" : "a bad name");
    return;
  }
  lost_.erase(name);
  if (kept_.find(name) != nullptr) listening_.dropped(name);
  kept_.keep(name, kj::mv(message.fd));
  manager_.keep(name, kept_.find(name));
  listening_.added(name);
}

void Supervisor::accept(const ListeningSockets::Ready& listener) {
  // The socket may have been dropped, or replaced, by what has just been heard.
  const SharedFd socket = kept_.find(listener.name);
  if (socket == nullptr || socket->get() != listener.fd) return;
  const auto name = listening_.accept(listener);
  if (!name.has_value()) return;
  const SharedFd connection = kept_.find(*name);
  manager_.keep(*name, connection);
  tell("conn", *name, connection);
}

void Supervisor::tell(const std::string& verb, const std::string& name, SharedFd fd) {
  if (!coordinator_.has_value()) return;
  try {
    coordinator_->say(verb, name, std::move(fd));
  } catch (const kj::Exception& error) {
    replace("it cannot be talked to: " + process::messageOf(error));
  }
}

void Supervisor::onSignals() {
  signalfd_siginfo info{};
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCHLD) continue;
    if (info.ssi_signo == SIGUSR1) {
      leave();
      continue;
    }
    if (leaving_) continue;
    terminations_++;
    beginEnd();
    tell("end", terminations_ > 1 ? "now" : "");
  }
  reap();
}

// A coordinator that dies before it has said that every target is let go is replaced as ever.
void Supervisor::beginEnd() {
  if (std::exchange(ending_, true)) return;
  manager_.stopping();
  manager_.extend(PROGRESSING);
}

// The last resort, where no coordinator can be started: targets would read zeros for what they miss. The targets
// are waited for, since until then even a system call of theirs could still read such zeros.
void Supervisor::killTargets() {
  std::vector<SharedFd> dying;
  for (const auto& entry : kept_.entries()) {
    const auto name = KeptName::parse(entry.name);
    if (!name.has_value() || !name->is(KeptName::Kind::restore, KeptName::Part::target)) continue;
    spdlog::critical("the target of restore {} is killed: there is no coordinator to let it go", name->key);
    if (process::sendSignal(entry.fd->get(), SIGKILL)) dying.push_back(entry.fd);
  }
  const auto deadline = Clock::now() + PATIENCE;
  for (const SharedFd& target : dying)
    process::killAndWait(target->get(), std::chrono::ceil<milliseconds>(deadline - Clock::now()));
}

// The service manager starts the next supervisor with all that it keeps.
void Supervisor::leave() {
  if (!manager_.there()) {
    spdlog::error(
        "SIGUSR1 is ignored: no service manager would keep what targets need (Type=notify and "
        "FileDescriptorStoreMax= of a systemd unit)");
    return;
  }
  if (ending_) return;
  ending_ = leaving_ = true;
  exitCode_ = LEFT;
  manager_.stopping();
  if (coordinator_.has_value()) dismiss("the service is restarted");
}

// --- a coordinator that does not answer ---

milliseconds Supervisor::silenceLimit() const {
  return coordinator_->ready() ? options_.watchdog : options_.startLimit;
}

void Supervisor::replaceSilent() {
  if (coordinator_.has_value() && leaveBy_.has_value() && Clock::now() >= *leaveBy_) {
    spdlog::warn("coordinator {} was to leave and is killed: {}", coordinator_->pid(), complaint_);
    leaveBy_ = Clock::now() + options_.watchdog;
    coordinator_->signal(SIGKILL);
  }
  if (!coordinator_.has_value() || leaveBy_.has_value() ||
      Clock::now() - coordinator_->heardAt() < silenceLimit())
    return;
  replace("it had not been heard of for " + std::to_string(silenceLimit().count()) + " ms");
}

// Its death is noticed as any other. A process that even SIGKILL does not end (it hangs in the kernel) is
// killed again after another time of silence: a successor could not take over from it anyway.
void Supervisor::replace(const std::string& why) {
  spdlog::error("coordinator {} is replaced: {}", coordinator_->pid(), why);
  complaint_ = why;
  coordinator_->signal(SIGKILL);
  coordinator_->excuseSilence();
}

// --- the end of others, and our own ---

// Orphaned shards. The coordinator is waited for through its pidfd; a zombie behind it in the kernel's list
// is seen once it is gone.
void Supervisor::reap() {
  for (;;) {
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    if (coordinator_.has_value() && info.si_pid == coordinator_->pid()) return;
    waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED | WNOHANG);
    spdlog::info("orphaned process {} {}", info.si_pid, describe(info));
  }
}

// Shards end when no process holds their channels any more; a stopped shard has to be killed.
void Supervisor::endEverything() {
  // After a failure a service manager starts us anew: what it keeps is for that time.
  if (exitCode_ == 0) manager_.dropAll();
  kept_ = FdStore();
  const auto deadline = Clock::now() + PATIENCE;
  for (auto now = Clock::now(); now < deadline + PATIENCE; now = Clock::now()) {
    onSignals();
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0) return;  // all children have ended
    // Shards serve as long as a process holds their channels, which the service manager does.
    const bool impatient = terminations_ > 1 || leaving_ || now >= deadline;
    if (impatient) killChildren();
    const auto wait = std::chrono::ceil<milliseconds>((impatient ? deadline + PATIENCE : deadline) - now);
    pollfd childEnds{signals_.get(), POLLIN, 0};
    poll(&childEnds, 1, static_cast<int>(wait.count()));
  }
  spdlog::error("processes of ours are left that SIGKILL does not end");
}

}  // namespace faultline::supervisor
