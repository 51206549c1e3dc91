#include "client/monitor.h"

#include <chrono>
#include <cstdio>
#include <utility>

#include "process/clock.h"

namespace faultline::target {

namespace {

constexpr std::chrono::milliseconds TICK{200};
constexpr std::uint64_t SECOND = 1'000'000'000;

}  // namespace

Monitor::Monitor(const Run& run, MonitorOptions options)
    : run_(run), options_(std::move(options)), start_(process::nowNs()), movedAt_(start_), thread_([this] {
        watch();
      }) {}

Monitor::~Monitor() {
  {
    const threads::Lock lock(mutex_);
    over_ = true;
  }
  ended_.notifyAll();
  thread_.join();
  if (drawn_) fputs("\r\033[K", stderr);
}

bool Monitor::endsWithin(std::chrono::milliseconds time) {
  const auto until = std::chrono::steady_clock::now() + time;
  const threads::Lock lock(mutex_);
  while (!over_ && ended_.waitUntil(mutex_, until)) {
  }
  return over_;
}

void Monitor::watch() {
  while (!endsWithin(TICK)) {
    const std::uint64_t now = process::nowNs();
    const Run::Progress progress = run_.progress();
    if (options_.showProgress) show(progress);
    warnIfLeft(progress, now);
    if (options_.timeoutSeconds > 0 && now >= start_ + options_.timeoutSeconds * SECOND) options_.onTimeout();
  }
}

void Monitor::show(const Run::Progress& progress) {
  const auto pages = static_cast<unsigned long long>(run_.pages());
  fprintf(stderr, "\r\033[K%llu of %llu pages %s (%llu %%)", static_cast<unsigned long long>(progress.pages),
          pages, progress.phase, static_cast<unsigned long long>(progress.pages) * 100 / pages);
  fflush(stderr);
  drawn_ = true;
}

// A closed connection alone says nothing: a successor may serve on.
void Monitor::warnIfLeft(const Run::Progress& progress, std::uint64_t now) {
  if (progress.pages != pagesSeen_) {
    pagesSeen_ = progress.pages;
    movedAt_ = now;
  }
  if (warned_ || now < movedAt_ + SECOND || !run_.memory().peerClosed()) return;
  warned_ = true;
  fprintf(stderr,
          "%sfaultline-target: the server has closed the connection, and nothing comes any more; %s\n",
          drawn_ ? "\n" : "",
          options_.timeoutSeconds > 0 ? "waiting on until --timeout" : "waiting on for ever (no --timeout)");
}

}  // namespace faultline::target
