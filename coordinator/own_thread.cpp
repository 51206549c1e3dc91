#include "coordinator/own_thread.h"

#include <kj/debug.h>

#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <system_error>
#include <thread>

#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

std::atomic<unsigned> running{0};

}  // namespace

kj::Promise<void> inOwnThread(std::function<void()> work) {
  if (running.fetch_add(1) >= MAX_OWN_THREADS) {
    running--;
    rpc::refuse(rpc::Reason::LIMIT_REACHED, std::to_string(MAX_OWN_THREADS) +
                                                " targets that do not answer the kernel are being waited "
                                                "for already: try again");
  }
  auto paf = kj::newPromiseAndCrossThreadFulfiller<void>();
  // By a pointer that a thread may drop whatever its destructor throws.
  auto fulfiller = std::make_shared<decltype(paf.fulfiller)>(kj::mv(paf.fulfiller));
  try {
    std::thread([work = std::move(work), fulfiller]() mutable {
      try {
        work();
        (*fulfiller)->fulfill();
      } catch (const std::exception& error) {
        (*fulfiller)->reject(KJ_EXCEPTION(FAILED, "a target cannot be looked at", error.what()));
      }
      work = nullptr;
      running--;
    }).detach();
  } catch (const std::system_error& error) {
    running--;
    KJ_FAIL_REQUIRE("no thread can be made to look at a target", error.what());
  }
  return kj::mv(paf.promise);
}

}  // namespace faultline::coordinator
