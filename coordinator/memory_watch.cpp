#include "coordinator/memory_watch.h"

#include <fmt/format.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "coordinator/own_thread.h"
#include "process/clock.h"
#include "process/duplicate.h"

namespace faultline::coordinator {

namespace {

// Looking takes at most one part in so many of the time.
constexpr std::uint64_t SPARED = 20;

std::string mib(std::uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1u << 20));
}

}  // namespace

struct MemoryWatch::Looked {
  Member* member;
  std::uint64_t number;
  kj::AutoCloseFd target;  // a duplicate
  std::vector<MemoryLimit> limits{};
};

struct MemoryWatch::Round {
  std::uint64_t began = process::nowNs();
  std::vector<Looked> members;
  std::size_t next = 0;
  std::map<std::string, std::uint64_t> promised{};  // bytes that fitting members will add, by group
  bool limited = false;
};

void MemoryWatch::watch(Member& member) {
  members_.emplace(&member, lastNumber_ + 1);
  lastNumber_++;
  pause_.hurry();
  if (!std::exchange(looks_, true))
    looking_ = kj::evalLater([this] { return look(); }).eagerlyEvaluate([this](kj::Exception&& e) {
      spdlog::error("memory limits of targets are looked at no more: {}", e.getDescription().cStr());
      looks_ = false;
    });
}

kj::Promise<void> MemoryWatch::look() {
  if (members_.empty()) {
    looks_ = false;
    return kj::READY_NOW;
  }
  pause_.lookBegins();
  auto round = std::make_shared<Round>();
  const auto take = [this, &round] {
    for (const auto& [member, number] : members_)
      round->members.push_back({member, number, process::duplicate(member->target())});
    // By the order of their coming; what is populated now goes before what is held.
    std::sort(round->members.begin(), round->members.end(), [](const Looked& a, const Looked& b) {
      return std::pair(a.member->held(), a.number) < std::pair(b.member->held(), b.number);
    });
    return inOwnThread("memory limits of targets cannot be looked at", [round] {
      const ControlGroups groups = ControlGroups::here();
      for (Looked& each : round->members) each.limits = groups.memoryLimitsOf(each.target.get());
    });
  };
  // All stay as they are until the next look where no thread or no fd can be had.
  return kj::evalNow(take)
      .then([this, round] { return judge(round); },
            [](kj::Exception&& e) { spdlog::debug("{}", e.getDescription().cStr()); })
      .then([this, round] { return pause(*round); })
      .then([this] { return look(); });
}

kj::Promise<void> MemoryWatch::judge(const std::shared_ptr<Round>& round) {
  while (round->next < round->members.size()) {
    const Looked& looked = round->members[round->next++];
    const auto known = members_.find(looked.member);
    if (known == members_.end() || known->second != looked.number) continue;
    if (looked.limits.empty()) {
      looked.member->fits();
      continue;
    }
    round->limited = true;
    std::uint64_t room = ~std::uint64_t{0};
    for (const MemoryLimit& limit : looked.limits)
      room = std::min(room, limit.limit - std::min(limit.limit, limit.used + marginOf(limit.limit) * 2 +
                                                                    round->promised[limit.group]));
    if (const std::uint64_t most = looked.member->mostBytes(); most <= room) {
      judge(*round, looked, most);
      continue;
    }
    // A member that leaves meanwhile fails its promise.
    return looked.member->missingBytes()
        .then(
            [this, round, &looked](std::uint64_t bytes) {
              const auto still = members_.find(looked.member);
              if (still != members_.end() && still->second == looked.number) judge(*round, looked, bytes);
            },
            [](kj::Exception&&) {})
        .then([this, round] { return judge(round); });
  }
  return kj::READY_NOW;
}

void MemoryWatch::judge(Round& round, const Looked& looked, std::uint64_t bytes) {
  const bool held = looked.member->held();
  for (const MemoryLimit& limit : looked.limits) {
    const std::uint64_t taken = limit.used + round.promised[limit.group];
    if (bytes == 0 || taken + bytes + marginOf(limit.limit) * (held ? 2 : 1) <= limit.limit) continue;
    return looked.member->doesNotFit(
        "what is missing, " + mib(bytes) + ", has no room in " + limit.group + ", of whose " +
        mib(limit.limit) + " (" + limit.file + ") " + mib(limit.used) + " are taken" +
        (round.promised[limit.group] == 0
             ? std::string()
             : " and " + mib(round.promised[limit.group]) + " will be by other restores") +
        ": pages come as they are touched");
  }
  // Counts a group once, though it may have two limits.
  std::string last;
  for (const MemoryLimit& limit : looked.limits)
    if (!held && limit.group != std::exchange(last, limit.group)) round.promised[limit.group] += bytes;
  looked.member->fits();
}

kj::Promise<void> MemoryWatch::pause(const Round& round) {
  const kj::Duration least = round.limited ? MEMORY_LOOK_LIMITED : MEMORY_LOOK;
  const kj::Duration spared = (process::nowNs() - round.began) * SPARED * kj::NANOSECONDS;
  return pause_.pause(std::max(least, spared));
}

}  // namespace faultline::coordinator
