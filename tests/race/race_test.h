// What the race tests share: what a page's state is, as the server says.
#pragma once

#include "tests/support/image.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {

class RaceTest : public BothPageSizes {
 protected:
  static rpc::PageState stateOf(Server& server, rpc::Restore::Client& restore, std::uint64_t page) {
    auto request = restore.pageStatesRequest();
    request.initRange().setFirst(page);
    request.getRange().setCount(1);
    return server.wait(request.send()).getRuns()[0].getState();
  }
  // A thread goes on as the kernel has put its page there, a moment before the worker stores the state.
  static void awaitState(Server& server, rpc::Restore::Client& restore, std::uint64_t page,
                         rpc::PageState state) {
    await([&] { return stateOf(server, restore, page) == state; });
  }
};

}  // namespace faultline::test
