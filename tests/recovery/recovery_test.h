// Helpers of the recovery tests: arming failpoints, and judging a target after everything.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <set>
#include <string>

#include "failpoints/failpoints.h"
#include "rpc/fd.h"
#include "tests/support/image.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {

inline constexpr std::uint64_t EXTENT = 512;  // pages with one owner
inline constexpr std::uint64_t PAGES = 4 * EXTENT;
inline constexpr unsigned SHARDS = 3;
inline constexpr unsigned WATCHDOG_MS = 300;  // short where a stopped process is to be noticed

// Arms one point of a process. Keep the barrier: dropping it disarms.
inline rpc::Barrier::Client arm(Server& server, rpc::ProcessHooks::Client hooks, const std::string& point,
                                rpc::Action action, std::uint64_t page = failpoints::ANY_PAGE,
                                unsigned skip = 0) {
  auto request = hooks.armRequest();
  request.setPoint(point.c_str());
  request.setAction(action);
  request.setPage(page);
  request.setSkip(skip);
  return server.wait(request.send()).getBarrier();
}

inline rpc::ProcessHooks::Client coordinatorHooks(Server& server) {
  return server.wait(server.hooks().coordinatorRequest().send()).getHooks();
}

inline rpc::ProcessHooks::Client shardHooks(Server& server, unsigned index) {
  auto request = server.hooks().shardRequest();
  request.setIndex(index);
  return server.wait(request.send()).getHooks();
}

// Two restores of one server: what befalls the first is to cost the bystander nothing.
struct TwoRestores {
  explicit TwoRestores(ServerOptions options = {.shards = SHARDS}) : server(image, std::move(options)) {
    server.restore(1);
  }
  Image image{PAGES * SMALL};
  Server server;
  Target target{image, server.socket(), SMALL};
  rpc::Restore::Client restore{server.restore(0)};  // before the bystander comes
  Target bystander{image, server.socket(), SMALL};
};

// An action on the thread or process that comes by a failpoint, as names of tests have it.
inline std::string actionName(rpc::Action action) {
  switch (action) {
    case rpc::Action::KILL:
      return "Killed";
    case rpc::Action::STOP:
      return "Stopped";
    case rpc::Action::PARK:
      return "Parked";
    case rpc::Action::PASS:
      return "Passed";
  }
  return "";
}

// Every page: zeros where it was given back, else the image.
inline void expectContent(const Target& target, const std::set<std::uint64_t>& givenBack) {
  for (std::uint64_t page = 0; page < target.pages(); page++) {
    if (givenBack.count(page) != 0)
      ASSERT_TRUE(target.isAll(page, 0)) << "page " << page << " was given back";
    else
      ASSERT_TRUE(target.holdsImage(page)) << "page " << page;
  }
}

inline std::set<std::uint64_t> pagesOf(std::uint64_t first, std::uint64_t count) {
  std::set<std::uint64_t> pages;
  for (std::uint64_t i = 0; i < count; i++) pages.insert(first + i);
  return pages;
}

// Userfaultfds that the process has open.
inline std::size_t uffdsOf(pid_t pid) {
  namespace fs = std::filesystem;
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code closed;
    count += fs::read_symlink(entry.path(), closed) == "anon_inode:[userfaultfd]";
  }
  return count;
}

inline void awaitRestarts(Server& server, unsigned shard, unsigned count) {
  await([&] { return server.status().getShards()[shard].getRestarts() == count; });
}

inline void awaitStopped(pid_t pid) {
  await([&] { return textOf("/proc/" + std::to_string(pid) + "/stat").find(") T ") != std::string::npos; });
}

}  // namespace faultline::test
