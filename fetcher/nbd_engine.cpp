#include "fetcher/nbd_engine.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "fetcher/nbd_connection.h"
#include "fetcher/nbd_identity.h"
#include "process/clock.h"
#include "threads/mutex.h"

namespace faultline::fetcher {

using process::nowNs;

namespace {

constexpr std::uint64_t MS = 1'000'000, SECOND = 1000 * MS;  // ns
constexpr std::size_t MOST_CONNECTIONS = 4;
// Reads at once over all connections, which may be one: in advance, and beside those. No connection has a limit of its own, at which
// a fault would wait for what is read in advance.
constexpr unsigned IN_ADVANCE = 32, FAULTS = 8;
// Silence of a server that is being connected to, at most; and where that is one more connection than there is need of.
constexpr std::uint64_t SILENCE = 5 * SECOND, ANOTHER_SILENCE = 2 * SECOND;
// A restore that is to begin waits so long for a server that cannot be connected to; and for one that is there and ends the
// connection, which servers do as well where keys or names are wrong.
constexpr std::uint64_t ABSENCE = 3 * SECOND, DISAGREEMENT = SECOND / 2;
constexpr std::uint64_t ZEROS_LIMIT = 10 * SECOND;    // for a server to tell its zeros
constexpr std::uint64_t ANOTHER_AGAIN = 30 * SECOND;  // after that was refused
constexpr std::uint64_t FIRST_BACK_OFF = 20 * MS, LAST_BACK_OFF = SECOND;
// A chunk at which so many connections died, while it alone was asked for on each, is left alone for a while.
constexpr unsigned MOST_DEATHS = 3;
constexpr std::uint64_t FIRST_REST = SECOND, LAST_REST = 10 * SECOND;
constexpr std::uint64_t LONGEST_POLL = SECOND;

}  // namespace

class NbdEngine::State : public std::enable_shared_from_this<State> {
 public:
  State(const std::string& uri, Way way, std::uint64_t patience, EngineCounters& counters)
      : uriText_(uri),
        uri_(rpc::NbdUri::parse(uri)),
        way_(std::move(way)),
        patience_(patience),
        counters_(counters),
        kick_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (kick_.get() < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  }

  void open() {
    Siblings::of(uriText_, [](State& sibling) { sibling.makeRoom(); });
    std::uint64_t checksum = 0;
    auto first = firstOf(checksum);
    const threads::Lock lock(mutex_);
    facts_ = {first->bytes(), checksum, false};
    multiple_ = first->multiple();
    slots_[0].connection = std::move(first);
    Siblings::add(shared_from_this());
  }

  Facts facts() {
    const threads::Lock lock(mutex_);
    return facts_;
  }

  void zeros(const std::function<void(Range)>& use) {
    const threads::Lock lock(mutex_);  // reads begin only after this
    Slot& slot = slots_[0];
    if (slot.connection == nullptr) return;
    try {
      if (!slot.connection->zeros(nowNs() + ZEROS_LIMIT, use))
        spdlog::warn("{} does not tell all of its zeros: they are fetched", uriText_);
    } catch (const NbdFailure& failure) {
      spdlog::warn("{} does not tell all of its zeros: {}; they are fetched", uriText_, failure.what());
      slot.connection = nullptr;
    }
  }

  int read(Range unit, std::span<std::byte> to) {
    Request request;
    request.read = {unit, to.data()};
    request.since = nowNs();
    const threads::Lock lock(mutex_);
    if (changed_) return ESTALE;
    if (rests(unit, request.since)) return EIO;
    queue_.push_back(&request);
    if (polling_) kick();
    while (!request.done) {
      if (moving_) {
        request.woken.wait(mutex_);
        continue;
      }
      moving_ = true;
      step();
      moving_ = false;
    }
    if (!moving_) handOn();
    return request.error;
  }

  // A server may take so many clients and no more: gives a connection back that there is no need of, and does without for a
  // while. Reads under way on it are asked again.
  void makeRoom() {
    const threads::Lock lock(mutex_);
    Slot* last = nullptr;
    std::size_t have = 0;
    for (Slot& slot : slots_)
      if (slot.connection != nullptr) {
        last = &slot;
        have++;
      }
    anotherAt_ = nowNs() + ANOTHER_AGAIN;
    if (have < 2) return;
    last->connection = nullptr;
    for (Request* request : std::exchange(last->asked, {})) queue_.push_front(request);
    if (polling_) kick();
  }

  void end() {
    const threads::Lock lock(mutex_);
    ended_ = true;
    turn_.notifyAll();
    for (Slot& slot : slots_) slot.connection = nullptr;
  }

  // All that there are, by what they are of. Any thread.
  class Siblings {
   public:
    static void add(const std::shared_ptr<State>& state) {
      const threads::Lock lock(all().mutex);
      std::erase_if(all().states, [](const auto& known) { return known.expired(); });
      all().states.push_back(state);
    }
    static void of(const std::string& uri, const std::function<void(State&)>& use) {
      std::vector<std::shared_ptr<State>> found;
      {
        const threads::Lock lock(all().mutex);
        for (const auto& known : all().states)
          if (auto state = known.lock(); state != nullptr && state->uriText_ == uri)
            found.push_back(std::move(state));
      }
      for (const auto& state : found) use(*state);
    }

   private:
    struct All {
      threads::Mutex mutex;
      std::vector<std::weak_ptr<State>> states GUARDED_BY(mutex);
    };
    static All& all() {
      static All* one = new All;  // threads outlive main()
      return *one;
    }
  };

 private:
  struct Request {
    NbdRead read{};
    std::uint64_t since = 0, asked = 0;  // when it was wanted, and sent
    bool alone = false;  // its connection has died: the next death tells whether it is the reason
    bool done = false;
    int error = 0;
    threads::Condition woken{};  // the request is done, or its thread is to move things on
  };
  struct Slot {
    std::unique_ptr<NbdConnection> connection{};
    std::vector<Request*> asked{};
    std::uint64_t heard = 0;  // when something last came, or was first asked for

    bool hasSuspect() const { return asked.size() == 1 && asked.front()->alone; }
  };
  struct Rest {
    unsigned deaths = 0;
    std::uint64_t until = 0;
  };

  // Tries again where the server is just being started anew: who is refused for that has lost its memory.
  std::unique_ptr<NbdConnection> firstOf(std::uint64_t& checksum) {
    const std::uint64_t begun = nowNs();
    for (std::uint64_t backOff = FIRST_BACK_OFF;; backOff = std::min(2 * backOff, LAST_BACK_OFF)) {
      try {
        auto first = connected(SILENCE);
        checksum = identity_.learn(*first, SILENCE);
        return first;
      } catch (const NbdFailure&) {
        if (nowNs() + backOff >= begun + DISAGREEMENT) throw;
      } catch (const std::exception&) {
        if (nowNs() + backOff >= begun + ABSENCE) throw;
      }
      std::this_thread::sleep_for(std::chrono::nanoseconds(backOff));
    }
  }

  // `limit`: ns that it may take beside making the socket, which has a limit of its own.
  std::unique_ptr<NbdConnection> connected(std::uint64_t limit) const {
    const NbdLibrary& library = NbdLibrary::loaded();
    kj::AutoCloseFd socket = way_.connect();
    return std::make_unique<NbdConnection>(library, uri_, kj::mv(socket), nowNs() + limit);
  }

  // --- by the thread that moves things on ---

  // Sends what can be sent, waits for what comes, and sees to it.
  void step() REQUIRES(mutex_) {
    issue();
    const std::uint64_t before = nowNs();
    if (settle(before)) return;
    std::array<pollfd, MOST_CONNECTIONS + 1> polled{};
    polled[0] = {kick_.get(), POLLIN, 0};
    for (std::size_t i = 0; i < MOST_CONNECTIONS; i++)
      polled[i + 1] = slots_[i].connection == nullptr ? pollfd{-1, 0, 0} : slots_[i].connection->wish();
    const auto timeout =
        static_cast<int>((std::min(nextLimit(before), before + LONGEST_POLL) - before) / MS + 1);
    polling_ = true;
    mutex_.unlock();
    poll(polled.data(), polled.size(), timeout);
    mutex_.lock();
    polling_ = false;
    std::uint64_t kicks;
    if (polled[0].revents != 0) [[maybe_unused]]
      const auto got = ::read(kick_.get(), &kicks, sizeof kicks);
    const std::uint64_t now = nowNs();
    for (std::size_t i = 0; i < MOST_CONNECTIONS; i++) {
      if (polled[i + 1].revents == 0 || slots_[i].connection == nullptr) continue;
      slots_[i].heard = now;
      slots_[i].connection->handle(polled[i + 1].revents);
    }
    settle(now);
  }

  // Suspects go first, by the first connection, each with that one for itself; what else there is goes by the one with the
  // least to do.
  void issue() REQUIRES(mutex_) {
    wantConnections();
    Slot* forSuspects = nullptr;
    if (!suspects_.empty())
      for (Slot& slot : slots_)
        if (forSuspects == nullptr && slot.connection != nullptr) forSuspects = &slot;
    if (forSuspects != nullptr && forSuspects->asked.empty()) ask(*forSuspects, suspects_);
    while (!queue_.empty()) {
      Slot* best = nullptr;
      for (Slot& slot : slots_) {
        if (slot.connection == nullptr || &slot == forSuspects || slot.hasSuspect()) continue;
        if (best == nullptr || slot.asked.size() < best->asked.size()) best = &slot;
      }
      if (best == nullptr) return;
      ask(*best, queue_);
    }
  }

  void ask(Slot& slot, std::deque<Request*>& from) REQUIRES(mutex_) {
    Request* const request = from.front();
    from.pop_front();
    request->asked = nowNs();
    if (slot.asked.empty()) slot.heard = request->asked;
    slot.asked.push_back(request);
    slot.connection->begin(request->read);  // a read that could not be begun shows in settle()
  }

  // Whether something has changed that there may be more to send for.
  bool settle(std::uint64_t now) REQUIRES(mutex_) {
    bool any = false;
    for (Slot& slot : slots_) {
      if (slot.connection == nullptr) continue;
      const bool dead = slot.connection->dead();
      const auto asked = std::exchange(slot.asked, {});
      for (Request* request : asked) {
        const NbdRead& read = request->read;
        // ESHUTDOWN: a server that is about to end says so to each.
        const bool answered = read.over && (read.error == 0 || (!dead && read.error != ESHUTDOWN));
        if (!answered) {
          slot.asked.push_back(request);
          continue;
        }
        any = true;
        if (read.error == 0) rests_.erase({read.range.begin, read.range.end});
        finish(*request, read.error);
      }
      const bool leaves = std::any_of(slot.asked.begin(), slot.asked.end(),
                                      [](const Request* request) { return request->read.over; });
      const bool silent = !slot.asked.empty() && now >= limitOf(slot);
      if (!dead && !leaves && !silent) continue;
      any = true;
      lose(slot, now,
           dead     ? slot.connection->error()
           : silent ? "it does not answer"
                    : "it is being shut down");
    }
    for (std::deque<Request*>* waiting : {&queue_, &suspects_})
      while (!waiting->empty() && now >= waiting->front()->since + patience_) {
        any = true;
        giveUp(*waiting->front(), ENOTCONN);
        waiting->pop_front();
      }
    return any;
  }

  // When it has been silent for too long, or one of its reads.
  std::uint64_t limitOf(const Slot& slot) const {
    std::uint64_t limit = slot.heard + patience_;
    for (const Request* request : slot.asked) limit = std::min(limit, request->asked + patience_);
    return limit;
  }

  std::uint64_t nextLimit(std::uint64_t now) const REQUIRES(mutex_) {
    std::uint64_t limit = now + LONGEST_POLL;
    for (const Slot& slot : slots_)
      if (slot.connection != nullptr && !slot.asked.empty()) limit = std::min(limit, limitOf(slot));
    for (const auto* waiting : {&queue_, &suspects_})
      if (!waiting->empty()) limit = std::min(limit, waiting->front()->since + patience_);
    return std::max(limit, now);
  }

  void lose(Slot& slot, std::uint64_t now, const std::string& why) REQUIRES(mutex_) {
    slot.connection = nullptr;  // from here on nothing is filled in
    const auto asked = std::exchange(slot.asked, {});
    lostAny_ = true;
    const bool last = std::none_of(slots_.begin(), slots_.end(),
                                   [](const Slot& other) { return other.connection != nullptr; });
    if (last && !std::exchange(lost_, true)) news_.emplace_back(why);
    for (Request* request : asked) {
      if (request->alone && restsFrom(*request, now)) {
        spdlog::error("{}: the server ends the connection whenever it is asked for offset {}", uriText_,
                      request->read.range.begin);
        finish(*request, EIO);
      } else if (now >= request->since + patience_) {
        giveUp(*request, ETIMEDOUT);
      } else {
        request->alone = true;
        suspects_.push_back(request);
      }
    }
    wantConnections();  // also where no thread waits any more: people are told
  }

  // Whether the chunk is to be left alone, since connections die at it.
  bool restsFrom(const Request& request, std::uint64_t now) REQUIRES(mutex_) {
    Rest& rest = rests_[{request.read.range.begin, request.read.range.end}];
    if (++rest.deaths < MOST_DEATHS) return false;
    rest.until = now + std::min(FIRST_REST << std::min(rest.deaths - MOST_DEATHS, 10u), LAST_REST);
    return true;
  }
  bool rests(Range unit, std::uint64_t now) const REQUIRES(mutex_) {
    const auto found = rests_.find({unit.begin, unit.end});
    return found != rests_.end() && now < found->second.until;
  }

  void giveUp(Request& request, int error) REQUIRES(mutex_) {
    shm::count(counters_.givenUp);
    finish(request, error);
  }

  static void finish(Request& request, int error) {
    request.done = true;
    request.error = error;
    request.woken.notifyOne();
  }

  // Another thread that waits moves things on.
  void handOn() REQUIRES(mutex_) {
    for (const auto* waiting : {&queue_, &suspects_})
      if (!waiting->empty()) return waiting->front()->woken.notifyOne();
    for (const Slot& slot : slots_)
      if (!slot.asked.empty()) return slot.asked.front()->woken.notifyOne();
  }

  void kick() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto put = write(kick_.get(), &one, sizeof one);
  }

  // --- connections ---

  Slot* emptySlot() REQUIRES(mutex_) {
    for (Slot& slot : slots_)
      if (slot.connection == nullptr) return &slot;
    return nullptr;
  }

  // Whether to connect: once while there is something to read; more as there is more of it, where connections show the same.
  bool wanted() const REQUIRES(mutex_) {
    std::size_t have = 0, reads = queue_.size() + suspects_.size();
    for (const Slot& slot : slots_) {
      have += slot.connection != nullptr ? 1 : 0;
      reads += slot.asked.size();
    }
    if (ended_ || changed_ || reads == 0) return false;
    return have == 0 || (multiple_ && have < MOST_CONNECTIONS && reads > 2 * have && nowNs() >= anotherAt_);
  }

  void wantConnections() REQUIRES(mutex_) {
    if (connecting_ || (!wanted() && news_.empty())) return;
    connecting_ = true;
    try {
      std::thread([self = shared_from_this()] { self->connect(); }).detach();
    } catch (const std::system_error& error) {
      connecting_ = false;  // the next step tries again
      spdlog::warn("{}: no thread can be made to connect: {}", uriText_, error.what());
    }
  }

  // In a thread of its own: nothing that is read by other connections waits for it.
  void connect() {
    const threads::Lock lock(mutex_);
    std::uint64_t backOff = FIRST_BACK_OFF;
    for (tellNews(); wanted() || !news_.empty(); tellNews()) {
      if (!wanted()) continue;
      const bool another = std::any_of(slots_.begin(), slots_.end(),
                                       [](const Slot& slot) { return slot.connection != nullptr; });
      const std::uint64_t silence = another ? ANOTHER_SILENCE : SILENCE;
      std::unique_ptr<NbdConnection> fresh;
      bool same = false;
      std::string why;
      mutex_.unlock();
      try {
        fresh = connected(silence);
        same = identity_.isShownBy(*fresh, silence);
      } catch (const std::exception& error) {
        fresh = nullptr;
        why = error.what();
      }
      mutex_.lock();
      if (fresh != nullptr) {
        backOff = FIRST_BACK_OFF;
        // A further connection may be in the way of others by now.
        if (!another || nowNs() >= anotherAt_) take(std::move(fresh), same);
      } else if (another) {
        anotherAt_ = nowNs() + ANOTHER_AGAIN;
        spdlog::debug("{}: no further connection: {}", uriText_, why);
      } else {
        if (std::exchange(whyNot_, why) != why) spdlog::warn("{} cannot be reached: {}", uriText_, why);
        turn_.waitUntil(mutex_, std::chrono::steady_clock::now() + std::chrono::nanoseconds(backOff));
        backOff = std::min(2 * backOff, LAST_BACK_OFF);
      }
    }
    connecting_ = false;
  }

  // Lets go of the mutex meanwhile: the loop may want it.
  void tellNews() REQUIRES(mutex_) {
    if (news_.empty()) return;
    const auto news = std::exchange(news_, {});
    mutex_.unlock();
    for (const std::optional<std::string>& why : news)
      why.has_value() ? way_.tellLost(*why) : way_.tellMade();
    mutex_.lock();
  }

  void take(std::unique_ptr<NbdConnection> fresh, bool same) REQUIRES(mutex_) {
    if (!same) {
      changed_ = true;
      spdlog::error("{} has another content than it had ({} bytes; it had {})", uriText_, fresh->bytes(),
                    facts_.bytes);
      for (Slot& slot : slots_) {
        slot.connection = nullptr;
        for (Request* request : std::exchange(slot.asked, {})) finish(*request, ESTALE);
      }
      for (std::deque<Request*>* waiting : {&queue_, &suspects_})
        for (Request* request : std::exchange(*waiting, {})) finish(*request, ESTALE);
    } else if (Slot* slot = emptySlot(); slot != nullptr && !ended_) {
      slot->connection = std::move(fresh);
      if (std::exchange(lostAny_, false)) shm::count(counters_.reconnects);
      if (std::exchange(lost_, false)) news_.emplace_back(std::nullopt);
      whyNot_.clear();
    }
    if (polling_) kick();
  }

  const std::string uriText_;
  const rpc::NbdUri uri_;
  const Way way_;
  const std::uint64_t patience_;
  EngineCounters& counters_;
  const kj::AutoCloseFd kick_;  // ends the poll of the thread that moves things on

  threads::Mutex mutex_;
  threads::Condition turn_;  // the thread that connects is to look
  Facts facts_ GUARDED_BY(mutex_){};
  bool multiple_ GUARDED_BY(mutex_) = false;
  bool ended_ GUARDED_BY(mutex_) = false;
  bool changed_ GUARDED_BY(mutex_) = false;  // the export has another content now
  bool moving_ GUARDED_BY(mutex_) = false;   // a thread moves things on
  bool polling_ GUARDED_BY(mutex_) = false;  // and waits
  std::array<Slot, MOST_CONNECTIONS> slots_ GUARDED_BY(mutex_);
  std::deque<Request*> queue_ GUARDED_BY(mutex_);     // not asked yet
  std::deque<Request*> suspects_ GUARDED_BY(mutex_);  // their connection has died
  std::map<std::pair<std::uint64_t, std::uint64_t>, Rest> rests_ GUARDED_BY(mutex_);  // by what was read
  bool connecting_ GUARDED_BY(mutex_) = false;
  NbdIdentity identity_;  // used by the thread that connects: there is at most one at a time
  bool lost_ GUARDED_BY(mutex_) = false, lostAny_ GUARDED_BY(mutex_) = false;
  std::uint64_t anotherAt_ GUARDED_BY(mutex_) = 0;
  // News that people are to be told: why the last connection is lost; nothing: there is one again.
  std::vector<std::optional<std::string>> news_ GUARDED_BY(mutex_);
  std::string whyNot_ GUARDED_BY(mutex_);  // why no connection can be made, as was logged
};

NbdEngine::NbdEngine(const std::string& uri, Way way, std::uint64_t patience, EngineCounters& counters)
    : state_(std::make_shared<State>(uri, std::move(way), patience, counters)) {
  try {
    state_->open();
  } catch (const std::exception& error) {
    throw std::runtime_error("source " + uri + " cannot be used: " + error.what());
  }
}

NbdEngine::~NbdEngine() noexcept(false) {
  state_->end();
}

Engine::Facts NbdEngine::facts() const {
  return state_->facts();
}

void NbdEngine::forEachKnown(const std::function<void(Range, Known)>& use) const {
  state_->zeros([&](Range zero) { use(zero, Known::zero); });
}

int NbdEngine::read(Range unit, std::span<std::byte> to) const {
  return state_->read(unit, to);
}

unsigned NbdEngine::depth() const {
  return IN_ADVANCE + FAULTS;
}

unsigned NbdEngine::background() const {
  return IN_ADVANCE;
}

}  // namespace faultline::fetcher
