// Fixtures of the race tests: a page's state, as the server says, and the begin of most tests.
#pragma once

#include <optional>

#include "tests/support/image.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {

class RaceTest : public BothPageSizes {
 protected:
  static rpc::PageState stateOf(Server& server, rpc::Restore::Client& restore, std::uint64_t page) {
    auto request = restore.pageStatesRequest();
    request.initPages().setFirst(page);
    request.getPages().setCount(1);
    return server.wait(request.send()).getRuns()[0].getState();
  }
  // A thread goes on as the kernel has put its page there, a moment before the worker stores the state.
  static void awaitState(Server& server, rpc::Restore::Client& restore, std::uint64_t page,
                         rpc::PageState state) {
    await([&] { return stateOf(server, restore, page) == state; });
  }
};

// A server with one target, whose memory is all the image.
class OneTarget : public RaceTest {
 protected:
  ~OneTarget() noexcept override {}  // KJ's may throw

  // First of all, once the image is as the test wants it. `regions`: of the target.
  void serve(ServerOptions options = {}, unsigned regions = 1) {
    server_.emplace(image_, std::move(options));
    target_.emplace(image_, server_->socket(), pageSize(), regions);
    restore_ = server_->restore();
  }

  using RaceTest::awaitState;
  using RaceTest::stateOf;
  rpc::PageState stateOf(std::uint64_t page) { return stateOf(*server_, restore_, page); }
  void awaitState(std::uint64_t page, rpc::PageState state) { awaitState(*server_, restore_, page, state); }

  Image image_{imageBytes()};
  std::optional<Server> server_;
  std::optional<Target> target_;
  rpc::Restore::Client restore_{nullptr};
};

}  // namespace faultline::test
