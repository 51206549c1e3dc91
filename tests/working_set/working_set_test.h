// Fixture of the tests of whole recordings: a server, a recording in a file, and the pages it stands for.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cli/memory_file.h"
#include "cli/restore_options.h"
#include "cli/snapshot_identity.h"
#include "cli/working_set_file.h"
#include "tests/cli/command.h"
#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {

inline constexpr std::uint64_t SMALL = 4096;
inline constexpr std::uint64_t HUGE = 2u << 20;
inline constexpr std::uint64_t EXTENT = 512;  // small pages with one owner
inline constexpr std::uint64_t PAGES = 4 * EXTENT;

using Pages = std::vector<std::uint64_t>;

// The parts of the image behind `pages` of `target`, in this order.
inline std::vector<cli::SourceRange> rangesOf(const Target& target, const Pages& pages) {
  std::vector<cli::SourceRange> ranges;
  for (const std::uint64_t page : pages) {
    const std::uint64_t offset = target.offset(page);
    if (!ranges.empty() && ranges.back().end() == offset)
      ranges.back().size += target.pageSize();
    else
      ranges.push_back({offset, target.pageSize()});
  }
  return ranges;
}

inline std::string fileBeside(const Image& image) {
  return image.directory() + "/set";
}

// A working set for `image`, page by page of the image.
inline std::string writeSet(const Image& image, const Pages& pages, std::uint64_t pageSize = SMALL) {
  cli::WorkingSet set{pageSize, cli::identityOf(cli::openMemory(image.path()).get()), 0, {}};
  for (const std::uint64_t page : pages) set.ranges.push_back({page * pageSize, pageSize});
  cli::writeWorkingSet(fileBeside(image), set);
  return fileBeside(image);
}

// The recording of the server's restore up to now, through the tool and a file.
inline cli::WorkingSet saved(Server& server, const Image& image) {
  const auto result = run({"working-set", "save", Server::restoreName(), "--control", server.control(),
                           "--output", fileBeside(image)});
  EXPECT_EQ(result.code, 0) << result.err;
  return cli::readWorkingSetFor(fileBeside(image), cli::openMemory(image.path()).get(), image.path());
}

inline rpc::PageState stateOf(Server& server, rpc::Restore::Client& restore, std::uint64_t page) {
  auto request = restore.pageStatesRequest();
  request.initPages().setFirst(page);
  request.getPages().setCount(1);
  return server.wait(request.send()).getRuns()[0].getState();
}

inline bool populating(Server& server, rpc::Restore::Client& restore) {
  return server.wait(restore.infoRequest().send()).getInfo().getPrefaulting();
}

// Parks the first thread of shard `index` that is about to populate `page`, of a restore that need not have
// begun. Keep it: dropping it lets the thread go.
inline rpc::Barrier::Client parkShard(Server& server, unsigned index, std::uint64_t page) {
  auto hooks = server.hooks().shardRequest();
  hooks.setIndex(index);
  auto request = server.wait(hooks.send()).getHooks().armRequest();
  request.setPoint("beforeStage");
  request.setAction(rpc::Action::PARK);
  request.setPage(page);
  return server.wait(request.send()).getBarrier();
}

}  // namespace faultline::test
