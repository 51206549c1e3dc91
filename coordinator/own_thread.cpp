#include "coordinator/own_thread.h"

#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "process/close_errors.h"
#include "rpc/refusal.h"
#include "threads/detached.h"
#include "threads/hand_over.h"
#include "threads/mutex.h"

namespace faultline::coordinator {

namespace {

// Looks that are under way, and those that wait until one is over. Looks end in threads of their own.
struct Looks {
  using Fulfiller = decltype(kj::newPromiseAndCrossThreadFulfiller<void>().fulfiller);

  threads::Mutex mutex;
  unsigned underWay GUARDED_BY(mutex) = 0;
  std::deque<Fulfiller> waiting GUARDED_BY(mutex);

  // Whether one more has begun; else what to wait for, before it is asked again.
  kj::Maybe<kj::Promise<void>> begin() {
    const threads::Lock lock(mutex);
    if (underWay < MAX_LOOKS) {
      underWay++;
      return nullptr;
    }
    if (waiting.size() >= MAX_WAITING_LOOKS)
      rpc::refuse(rpc::Reason::LIMIT_REACHED, std::to_string(underWay + waiting.size()) +
                                                  " targets that do not answer the kernel are being waited "
                                                  "for already: try again");
    auto paf = kj::newPromiseAndCrossThreadFulfiller<void>();
    waiting.push_back(kj::mv(paf.fulfiller));
    return kj::mv(paf.promise);
  }
  void end() {
    const threads::Lock lock(mutex);
    underWay--;
    wakeNext();
  }
  // Has the next one that still waits ask again.
  void wake() {
    const threads::Lock lock(mutex);
    wakeNext();
  }

 private:
  void wakeNext() REQUIRES(mutex) {
    while (!waiting.empty()) {
      const Fulfiller next = kj::mv(waiting.front());
      waiting.pop_front();
      if (!next->isWaiting()) continue;
      next->fulfill();
      return;
    }
  }
};

Looks& looks() {
  static Looks* all = new Looks;  // threads that are still at it outlive main()
  return *all;
}

// A wait for a turn. A turn that was woken and is dropped before it asks again wakes the next instead.
struct Turn {
  Turn() = default;
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    if (!asked) looks().wake();
  }
  bool asked = false;
};

// A look that has begun, for as long as the last copy of its pointer lives.
struct Begun {
  Begun() = default;
  Begun(const Begun&) = delete;
  Begun& operator=(const Begun&) = delete;
  ~Begun() { looks().end(); }
};

// Makes threads for work that there was none for. Lives as long as the process: a thread of its own waits in it.
class Maker {
 public:
  // Of either kind one is called, in another thread.
  struct Work {
    std::function<void()> run;
    std::function<void(const std::string& why)> giveUp;
  };

  Maker() {
    threads::startWithoutSignals([this] { serve(); });
  }
  // At once where that is possible.
  void make(Work work) {
    if (!begin(work).has_value()) return;
    const threads::Lock lock(mutex_);
    waiting_.push_back({std::move(work), Clock::now() + THREAD_PATIENCE});
    changed_.notifyOne();
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    Work work;
    Clock::time_point until;
  };
  static constexpr std::chrono::milliseconds TRY_EVERY{10};

  // Why not; `work` is untouched then.
  static std::optional<std::string> begin(const Work& work) {
    try {
      std::thread(work.run).detach();
      return std::nullopt;
    } catch (const std::system_error& error) {
      return error.what();
    }
  }

  [[noreturn]] void serve() {
    const process::CloseErrorsLogged closing;
    threads::Lock lock(mutex_);
    for (;;) {
      while (waiting_.empty()) changed_.wait(mutex_);
      Waiting first = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      const auto why = begin(first.work);
      const bool over = Clock::now() >= first.until;
      if (why.has_value() && over) first.work.giveUp(*why);
      if (why.has_value() && !over) std::this_thread::sleep_for(TRY_EVERY);
      lock.lock();
      if (why.has_value() && !over) waiting_.push_front(std::move(first));
    }
  }

  threads::Mutex mutex_;
  threads::Condition changed_;
  std::deque<Waiting> waiting_ GUARDED_BY(mutex_);
};

Maker& maker() {
  static Maker* one = new Maker;
  return *one;
}

}  // namespace

void prepareOwnThreads() {
  maker();
}

kj::Promise<void> inOwnThread(const char* failure, std::function<void()> work) {
  auto paf = kj::newPromiseAndCrossThreadFulfiller<void>();
  // By a pointer that a thread may drop whatever its destructor throws.
  auto fulfiller = std::make_shared<decltype(paf.fulfiller)>(kj::mv(paf.fulfiller));
  const auto way = std::make_shared<char>();  // back from that thread
  const auto reject = [failure, fulfiller](const std::string& why) {
    (*fulfiller)
        ->reject(kj::Exception(kj::Exception::Type::FAILED, __FILE__, __LINE__, kj::str(failure, ": ", why)));
  };
  // What `work` owns goes in its thread.
  auto own = std::make_shared<std::function<void()>>(std::move(work));
  maker().make({[own, fulfiller, way, reject] {
                  const process::CloseErrorsLogged closing;
                  try {
                    (*own)();
                    threads::handOver(way.get());
                    (*fulfiller)->fulfill();
                  } catch (const std::exception& error) {
                    reject(error.what());
                  }
                  *own = nullptr;
                },
                [reject](const std::string& why) { reject("no thread can be made: " + why); }});
  return paf.promise.then([way] { threads::takeOver(way.get()); });
}

kj::Promise<void> workInOwnThread(std::function<void()> work) {
  auto failure = std::make_shared<kj::Maybe<kj::Exception>>();
  return inOwnThread(
             "what was asked for cannot be done",
             [work = std::move(work), failure] { *failure = kj::runCatchingExceptions([&] { work(); }); })
      .then([failure]() -> kj::Promise<void> {
        KJ_IF_MAYBE (exception, *failure) return kj::mv(*exception);
        return kj::READY_NOW;
      });
}

kj::Promise<void> lookInOwnThread(std::function<void()> look) {
  KJ_IF_MAYBE (whenWoken, looks().begin()) {
    auto turn = kj::heap<Turn>();
    Turn& mine = *turn;
    return whenWoken
        ->then([look = std::move(look), &mine]() mutable {
          mine.asked = true;
          return lookInOwnThread(std::move(look));
        })
        .attach(kj::mv(turn));
  }
  auto begun = std::make_shared<Begun>();
  return inOwnThread("a target cannot be looked at", [look = std::move(look), begun] { look(); });
}

}  // namespace faultline::coordinator
