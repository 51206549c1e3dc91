// The chaos run: targets read, write and give back pages at random while shards and coordinators are killed
// at random moments. Every page is checked against a shadow copy, all the time and once more at the end. The
// run ends by counting kills, not by time, and the seed repeats what is random about it.

#include <signal.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "process/clock.h"
#include "tests/fetcher/packed_source.h"
#include "tests/nbd/nbd_server.h"
#include "tests/remote/servers.h"
#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/stack.h"
#include "tests/support/target.h"

namespace {

using namespace faultline;
using namespace faultline::test;

constexpr std::uint64_t PAGE = 4096;
constexpr std::uint64_t ROW = 16;  // pages

// Content that a target's page must have. A page belongs to one thread, so its truth needs no lock.
enum class Truth : std::uint8_t { snapshot, zeros, written };

class Driver {
 public:
  Driver(const Image& image, Target& target, unsigned number, std::uint64_t seed, unsigned shards)
      : image_(image),
        target_(target),
        number_(number),
        seed_(seed),
        shards_(shards),
        truth_(target.pages(), Truth::snapshot) {}

  void start(unsigned threads) {
    for (unsigned i = 0; i < threads; i++) threads_.emplace_back([this, i, threads] { drive(i, threads); });
  }
  void stop() {
    stop_ = true;
    for (auto& thread : threads_) thread.join();
    for (std::uint64_t page = 0; page < target_.pages(); page++) check(page);
  }
  std::uint64_t faults() const { return touches_; }
  std::uint64_t removals() const { return removals_; }
  std::uint64_t wrong() const { return wrong_; }

  // From `now` on: when was the first answer to a fault on a page of this shard (ANY: of any shard)?
  static constexpr unsigned ANY = ~0u;
  void watch(std::uint64_t now, unsigned shard) {
    answeredAt_ = 0;
    victim_ = shard;
    killedAt_ = now;
  }
  std::uint64_t answeredAt() const { return answeredAt_; }

 private:
  void drive(unsigned thread, unsigned threads) {
    std::mt19937_64 random(seed_ * 1000 + std::uint64_t{number_} * 10 + thread);
    while (!stop_) {
      const std::uint64_t first = random() % (target_.pages() / threads) * threads + thread;
      const unsigned what = random() % 100;
      // Rows of this thread's pages: faults next to each other bring their neighbourhoods, which other threads use too.
      const std::uint64_t end = what < 95 ? first + 1 : std::min(target_.pages(), first + ROW * threads);
      for (std::uint64_t page = first; page < end && !stop_; page += threads) use(page, what);
    }
  }

  // Gives the page up, writes to it, or neither; then looks at it.
  void use(std::uint64_t page, unsigned what) {
    const std::uint64_t before = process::nowNs();
    if (what < 40) {
      target_.giveBack(page);
      truth_[page] = Truth::zeros;
      removals_++;
    } else if (what < 50) {
      target_.write(page, 0xa5);
      auto* memory = const_cast<unsigned char*>(target_.address(page));
      std::fill(memory, memory + PAGE, static_cast<unsigned char>(0xa5));
      truth_[page] = Truth::written;
    }
    check(page);
    touches_++;
    const std::uint64_t after = process::nowNs();
    // Below that the page was there.
    if (after - before > 2'000 && killedAt_ != 0 && after > killedAt_ &&
        (victim_ == ANY || page / 512 % shards_ == victim_)) {
      std::uint64_t none = 0;
      answeredAt_.compare_exchange_strong(none, after);
    }
  }

  void check(std::uint64_t page) {
    const bool right = truth_[page] == Truth::snapshot  ? target_.holdsImage(page)
                       : truth_[page] == Truth::written ? target_.isAll(page, 0xa5)
                                                        : target_.isAll(page, 0);
    if (right) return;
    wrong_++;
    fprintf(stderr, "target %u: page %llu must be %s and is not (first byte 0x%02x, image 0x%02x)\n", number_,
            static_cast<unsigned long long>(page),
            truth_[page] == Truth::snapshot  ? "the snapshot's"
            : truth_[page] == Truth::written ? "as written"
                                             : "zeros",
            target_.read(page), image_.at(target_.offset(page)));
  }

  const Image& image_;
  Target& target_;
  const unsigned number_;
  const std::uint64_t seed_;
  const unsigned shards_;
  std::vector<Truth> truth_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> touches_{0}, removals_{0}, wrong_{0}, killedAt_{0}, answeredAt_{0};
  std::atomic<unsigned> victim_{ANY};
};

// A target that gives up its memory in large pieces, in random order, which are registered no more a moment later. A process of
// ours is killed at any time before, while and after.
class Giver {
 public:
  static constexpr std::uint64_t PIECE = 512;  // pages

  Giver(const Image& image, const std::string& socket, std::mt19937_64& random)
      : target_(image, socket, PAGE, 2), left_(target_.pages() / PIECE) {
    for (std::uint64_t i = 0; i < left_.size(); i++) left_[i] = i;
    std::shuffle(left_.begin(), left_.end(), random);
  }
  // Gives the next piece up, and writes to a page of it. False: it has none left.
  bool give() {
    if (left_.empty()) return false;
    const std::uint64_t first = left_.back() * PIECE;
    left_.pop_back();
    target_.giveBack(first, PIECE);
    target_.write(first + given_.size() % PIECE, 0x5a);
    given_.push_back(first);
    return true;
  }
  // The number of wrong pages among all that were given up, and some that were not.
  std::uint64_t wrong() const {
    std::uint64_t wrong = 0;
    for (std::size_t i = 0; i < given_.size(); i++)
      for (std::uint64_t page = 0; page < PIECE; page++) {
        const std::uint64_t at = given_[i] + page;
        if (page == i % PIECE ? target_.read(at) != 0x5a : !target_.isAll(at, 0)) {
          wrong++;
          fprintf(stderr, "a target that gives up pieces: page %llu is wrong\n",
                  static_cast<unsigned long long>(at));
        }
      }
    for (const std::uint64_t piece : left_)
      for (const unsigned long long page : {piece * PIECE, (piece + 1) * PIECE - 1})
        if (!target_.holdsImage(page)) {
          wrong++;
          fprintf(stderr, "a target that gives up pieces: page %llu is not the snapshot's\n", page);
        }
    return wrong;
  }

 private:
  Target target_;
  std::vector<std::uint64_t> left_;   // pieces
  std::vector<std::uint64_t> given_;  // first pages
};

std::uint64_t quantile(std::vector<std::uint64_t>& values, double fraction) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<std::size_t>(fraction * static_cast<double>(values.size())))];
}

struct Options {
  std::uint64_t seed = 1;
  unsigned kills = 50, targets = 3, shards = 3, threads = 2;
  bool layers = false, packed = false, nbd = false, rbd = false;
  std::string log{};
  std::uint64_t mib =
      0;  // 0: 16, or of what is fetched 64, of which more has to be fetched than is touched soon

  bool fetched() const { return packed || nbd || rbd; }
};

// What a fault brings: as shipped, or all of its neighbourhood.
std::string around(const Options& options) {
  return options.seed % 2 == 0 ? "auto" : "65536";
}

std::string sourceOf(const Options& options) {
  return options.rbd      ? " --rbd"
         : options.nbd    ? " --nbd"
         : options.packed ? " --packed"
         : options.layers ? " --layers"
                          : "";
}

// Asks for a background population that the kill may catch in the middle.
void populate(Server& server, unsigned target, std::mt19937_64& random) {
  const std::uint64_t first = random() % 3000;
  try {
    auto request = server.client().restore(Server::restoreName(target)).prefaultRequest();
    auto range = request.initRanges(1)[0];
    range.setFirst(first);
    range.setCount(1 + random() % 1000);
    server.wait(request.send());
  } catch (const kj::Exception&) {
    server.reconnect();  // the coordinator has just died; it is asked again the next time
  }
}

int run(const Options& options) {
  std::optional<Stack> stack;
  std::optional<Image> flat;
  std::optional<PackedSource> packed;
  std::optional<NbdServer> nbd;
  std::optional<RbdImage> rbd;
  ServerOptions served{.shards = options.shards, .workers = 2, .lockDeadlineMs = 250, .watchdogMs = 2000};
  served.logFile = options.log;
  served.around = around(options);
  if (options.packed) {
    stack = Stack::random(options.mib << 20, options.seed);
    packed.emplace(*stack, PackedSource::Lowest::packed);
    served.memory = packed->path();
    served.more = packed->over();
    // Less than there is: some chunks are found in the cache, others are fetched each time.
    served.more.insert(served.more.end(), {"--cache-size", "4M"});
  } else if (options.nbd || options.rbd) {
    stack = Stack::random(options.mib << 20, options.seed);
    std::vector<std::string> paths = stack->paths();
    if (options.nbd)
      paths.back() = nbd.emplace(NbdServer::ofFile(stack->lowest().path())).uri();
    else
      paths.back() = rbd.emplace(stack->lowest()).uri();
    // An OSD may take longer to come back than a page waits by default.
    if (options.rbd) served.more = {"--source-patience", "300s"};
    served.memory = paths.front();
    for (std::size_t i = 1; i < paths.size(); i++)
      served.more.insert(served.more.end(), {"--over", paths[i]});
    served.more.insert(served.more.end(), {"--cache-size", "4M"});
  } else if (options.layers) {
    stack = Stack::random(options.mib << 20, options.seed);
    served.memory = stack->top().path();
    served.more = stack->over();
  } else {
    flat.emplace(options.mib << 20);
    // Large ones, which are registered no more soon after a target has come.
    flat->hole(options.mib / 8 << 20, options.mib / 4 << 20);
    flat->hole(options.mib / 2 << 20, options.mib / 4 << 20);
  }
  const Image& image = stack.has_value() ? stack->shown() : *flat;
  Server server(image, std::move(served));
  std::vector<std::unique_ptr<Target>> targets;
  std::vector<std::unique_ptr<Driver>> drivers;
  for (unsigned i = 0; i < options.targets; i++) {
    targets.push_back(std::make_unique<Target>(image, server.socket(), PAGE, 2));
    server.restore(i);
    drivers.push_back(std::make_unique<Driver>(image, *targets.back(), i, options.seed, options.shards));
  }
  for (auto& driver : drivers) driver->start(options.threads);

  std::mt19937_64 random(options.seed);
  std::vector<std::uint64_t> afterShard, afterCoordinator;
  unsigned coordinators = 0, shards = 0, fetchers = 0, servers = 0;
  std::uint64_t visitorsWrong = 0, pieces = 0;
  std::unique_ptr<Giver> giver;
  // What is fetched is fetched anew for each page, since little of it is kept: some pages of each shard are looked at.
  const std::uint64_t visitorsStep = options.fetched() ? 61 : 1;
  for (unsigned kill = 0; kill < options.kills; kill++) {
    // A little progress of every target between two kills, of random length.
    const std::uint64_t progress = 1 + random() % 400;
    for (auto& driver : drivers) {
      const std::uint64_t from = driver->faults();
      await([&] { return driver->faults() - from >= progress; });
    }
    const unsigned what = random() % 10;
    const auto index = static_cast<unsigned>(random() % options.shards);
    populate(server, static_cast<unsigned>(random() % options.targets), random);
    const bool coordinator = what < 3 || what == 9;
    const bool shard = what >= 3;
    const bool fetcher = options.fetched() && random() % 2 == 0;
    const bool nbdServer = options.nbd && random() % 3 == 0;
    // It takes some seconds to come back.
    const bool osd = options.rbd && random() % 20 == 0;
    // Everything may be in motion, so pids are asked for each time; a shard that is down just now has none.
    std::vector<pid_t> victims;
    for (bool asked = false; !asked;) {
      try {
        victims.clear();
        if (shard) await([&] { return server.shardPid(index) != 0; });
        if (shard) victims.push_back(server.shardPid(index));
        if (fetcher)
          if (const pid_t pid = figuresOf(server).pid; pid != 0) victims.push_back(pid);
        if (coordinator) victims.push_back(server.coordinatorPid());
        asked = true;
      } catch (const kj::Exception&) {
        server.reconnect();
      }
    }
    // One that comes just before the kill: its handshake, or the release of its holes, is in the middle of it.
    std::optional<Target> visitor;
    if (kill % 4 == 0) visitor.emplace(image, server.socket(), PAGE, 2);
    if (giver == nullptr || !giver->give()) {
      if (giver != nullptr) visitorsWrong += giver->wrong();
      giver = nullptr;
      giver = std::make_unique<Giver>(image, server.socket(), random);
      giver->give();
    }
    pieces++;
    const std::uint64_t killed = process::nowNs();
    for (auto& driver : drivers) driver->watch(killed, shard ? index : Driver::ANY);
    for (const pid_t pid : victims) ::kill(pid, SIGKILL);
    if (osd) {
      CephCluster::killOsd();
      CephCluster::startOsd();
      servers++;
    }
    if (nbdServer) {
      nbd->kill();
      nbd->start();
      servers++;
    }
    coordinators += coordinator ? 1 : 0;
    shards += shard ? 1 : 0;
    fetchers += fetcher ? 1 : 0;
    std::uint64_t first = UINT64_MAX;
    for (auto& driver : drivers) {
      await([&] { return driver->answeredAt() != 0; });
      first = std::min(first, driver->answeredAt());
    }
    (coordinator ? afterCoordinator : afterShard).push_back(first - killed);
    if (coordinator) server.reconnect();
    if (visitor.has_value())
      for (std::uint64_t page = kill % visitorsStep; page < visitor->pages(); page += visitorsStep)
        if (!visitor->holdsImage(page)) {
          visitorsWrong++;
          fprintf(stderr, "a target that came with a kill: page %llu is not the snapshot's\n",
                  static_cast<unsigned long long>(page));
        }
    if ((kill + 1) % 100 == 0) printf("%u kills survived\n", kill + 1);
    fflush(stdout);
  }
  visitorsWrong += giver != nullptr ? giver->wrong() : 0;
  std::uint64_t faults = 0, removals = 0, wrong = visitorsWrong;
  for (auto& driver : drivers) {
    driver->stop();
    faults += driver->faults();
    removals += driver->removals();
    wrong += driver->wrong();
  }
  auto ms = [](std::uint64_t ns) { return static_cast<double>(ns) / 1e6; };
  auto row = [&](const char* name, std::vector<std::uint64_t>& v) {
    printf("  %-34s p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", name, ms(quantile(v, 0.5)),
           ms(quantile(v, 0.99)), ms(quantile(v, 1)));
  };
  printf("chaos, seed %llu: %u kills survived (%u coordinators, %u shards), %u targets of %llu MiB\n",
         static_cast<unsigned long long>(options.seed), options.kills, coordinators, shards, options.targets,
         static_cast<unsigned long long>(options.mib));
  printf("  --around %s\n", around(options).c_str());
  if (stack.has_value()) printf("  a stack of %u layers\n", stack->layers());
  if (options.packed) printf("  packed; %u fetchers killed as well\n", fetchers);
  if (options.nbd || options.rbd)
    printf("  over %s; %u fetchers and %u servers killed as well\n", options.nbd ? "nbdkit" : "Ceph RBD",
           fetchers, servers);
  printf("  touches %llu, removals %llu, %llu pieces of 2 MiB given up\n",
         static_cast<unsigned long long>(faults), static_cast<unsigned long long>(removals),
         static_cast<unsigned long long>(pieces));
  row("kill of a shard to an answer", afterShard);
  row("kill of a coordinator to an answer", afterCoordinator);
  printf("  wrong pages: %llu\n", static_cast<unsigned long long>(wrong));
  printf("repeat with: --seed %llu --kills %u%s\n", static_cast<unsigned long long>(options.seed),
         options.kills, sourceOf(options).c_str());
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Kills faultline's processes at random while targets use their memory, and checks every page."};
  Options options;
  app.add_option("--seed", options.seed, "Of everything random");
  app.add_option("--kills", options.kills, "End after so many");
  app.add_option("--targets", options.targets, "Targets at once");
  app.add_option("--shards", options.shards, "Shards");
  app.add_flag("--layers", options.layers, "Restore from a stack of layers, 2 to 32 by the seed");
  app.add_option("--log", options.log, "A file for what the service logs");
  app.add_flag("--packed", options.packed, "Of packed layers; kills the fetcher as well");
  app.add_flag("--nbd", options.nbd, "Of layers over a real nbdkit; kills that and the fetcher as well");
  app.add_flag("--rbd", options.rbd,
               "Of layers over RBD, of the cluster in FAULTLINE_CEPH; kills its OSD and the fetcher as well");
  app.add_option("--mib", options.mib, "Memory of each target");
  CLI11_PARSE(app, argc, argv);
  if (const std::string why = options.rbd ? CephCluster::whyNot() : ""; !why.empty()) {
    printf("skipped: %s\n", why.c_str());
    return 77;
  }
  if (options.mib == 0) options.mib = options.fetched() ? 64 : 16;
  return run(options);
}
