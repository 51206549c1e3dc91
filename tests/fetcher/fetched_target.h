// Targets whose pages a fetcher brings, wherever these lie: what tests of every kind of source have in common.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "tests/fetcher/packed_source.h"
#include "tests/recovery/recovery_test.h"
#include "tests/support/stack.h"

namespace faultline::test {

inline constexpr std::uint64_t CHUNK_PAGES = 16;  // of 4 KiB

// A source by its path or URI.
inline ServerOptions serving(const std::string& source, ServerOptions options = {}) {
  options.memory = source;
  return options;
}

// A stack over a source that has the bytes of its lowest layer.
inline ServerOptions servingOver(const Stack& stack, const std::string& lowest) {
  ServerOptions options{.more = stack.over(), .memory = stack.paths().front()};
  options.more.back() = lowest;
  return options;
}

// Has a running service listen for targets of these layers, which it serves on.
inline void listenAt(Server& server, const std::string& name, const std::string& socket,
                     const std::vector<std::string>& layers) {
  auto request = server.client().coordinator().listenAtRequest();
  auto placed = request.initPlaced();
  placed.initSpec().setName(name.c_str());
  placed.getSpec().initPolicy().setKeepServing(true);
  placed.initSocket().setPath(socket.c_str());
  auto list = placed.initLayers(static_cast<unsigned>(layers.size()));
  for (unsigned i = 0; i < list.size(); i++) list.set(i, layers[i].c_str());
  server.wait(request.send());
}

// Populates the first restore; each page of its target is in place without a fault then.
inline void populate(Server& server, const Target& target) {
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.inMemory(page)) << page;
}

// Every page but those of one chunk, which is lost.
inline void expectContentBut(const Target& target, std::uint64_t chunk) {
  for (std::uint64_t page = 0; page < target.pages(); page++) {
    if (page / CHUNK_PAGES == chunk) continue;
    ASSERT_TRUE(target.holdsImage(page)) << page;
  }
}

// Waits until the log says so.
inline void awaitRefusal(const std::string& log) {
  await([&] { return textOf(log).find("a target is refused") != std::string::npos; });
}

// Waits until the only restore has failed for it.
inline void awaitSourceChanged(Server& server) {
  await([&] { return server.status().getRestores()[0].getFailure() == rpc::EndReason::SOURCE_CHANGED; });
}

// Kills each process but the supervisor, of a service with two shards.
inline void killAll(Server& server) {
  const pid_t all[] = {figuresOf(server).pid, server.shardPid(0), server.shardPid(1),
                       server.coordinatorPid()};
  for (const pid_t pid : all) kill(pid, SIGKILL);
}

using Reads = std::vector<std::future<unsigned char>>;

// A thread for each of these chunks, which reads its first page.
inline Reads readChunks(Target& target, std::uint64_t first, std::uint64_t count) {
  Reads reads;
  for (std::uint64_t chunk = first; chunk < first + count; chunk++)
    reads.push_back(target.readLater(chunk * CHUNK_PAGES));
  return reads;
}

// Waits until each has its page.
inline void finish(Reads& reads) {
  for (auto& read : reads) read.get();
  reads.clear();
}

// A restore with threads that wait for pages. Its source is the test's.
class FetchedTarget : public testing::Test {
 protected:
  explicit FetchedTarget(std::uint64_t pageSize = SMALL, std::uint64_t bytes = 8 << 20)
      : pageSize_(pageSize), image_(bytes) {}
  // Before the source goes: a service that ends fetches what its targets miss.
  void TearDown() override {
    target_ = nullptr;
    server_ = nullptr;
  }

  // Returns when it serves its first page.
  void restore(ServerOptions options) {
    server_ = std::make_unique<Server>(image_, std::move(options));
    target_ = std::make_unique<Target>(image_, server_->socket(), pageSize_);
    server_->restore();
    EXPECT_TRUE(target_->holdsImage(0));
  }
  void restore(const std::string& source, const std::string& patience) {
    restore(serving(source, {.more = {"--source-patience", patience}}));
  }
  // A thread that waits for each of so many chunks.
  void touch(std::uint64_t first, std::uint64_t count) { waiting_ = readChunks(*target_, first, count); }
  // Returns when all of them wait.
  void awaitQueued() {
    await([&] { return target_->queued().total >= waiting_.size(); });
  }
  void expectAll() {
    finish(waiting_);
    expectContent(*target_, {});
  }

  const std::uint64_t pageSize_;
  Image image_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Target> target_;
  Reads waiting_;
};

}  // namespace faultline::test
