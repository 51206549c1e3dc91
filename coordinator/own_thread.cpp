#include "coordinator/own_thread.h"

#include <kj/debug.h>

#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <system_error>
#include <thread>

#include "process/close_errors.h"
#include "rpc/refusal.h"
#include "threads/hand_over.h"

namespace faultline::coordinator {

namespace {

std::atomic<unsigned> looking{0};

// Counts one look, for as long as the last copy of its pointer lives.
struct Counted {
  Counted() {
    if (looking.fetch_add(1) < MAX_LOOKS) return;
    looking--;
    rpc::refuse(rpc::Reason::LIMIT_REACHED, std::to_string(MAX_LOOKS) +
                                                " targets that do not answer the kernel are being waited "
                                                "for already: try again");
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { looking--; }
};

}  // namespace

kj::Promise<void> inOwnThread(const char* failure, std::function<void()> work) {
  auto paf = kj::newPromiseAndCrossThreadFulfiller<void>();
  // By a pointer that a thread may drop whatever its destructor throws.
  auto fulfiller = std::make_shared<decltype(paf.fulfiller)>(kj::mv(paf.fulfiller));
  const auto way = std::make_shared<char>();  // back from that thread
  try {
    std::thread([failure, work = std::move(work), fulfiller, way]() mutable {
      const process::CloseErrorsLogged closing;
      try {
        work();
        threads::handOver(way.get());
        (*fulfiller)->fulfill();
      } catch (const std::exception& error) {
        (*fulfiller)
            ->reject(kj::Exception(kj::Exception::Type::FAILED, __FILE__, __LINE__,
                                   kj::str(failure, ": ", error.what())));
      }
      work = nullptr;
    }).detach();
  } catch (const std::system_error& error) {
    KJ_FAIL_REQUIRE("no thread can be made", failure, error.what());
  }
  return paf.promise.then([way] { threads::takeOver(way.get()); });
}

kj::Promise<void> lookInOwnThread(std::function<void()> look) {
  return inOwnThread("a target cannot be looked at",
                     [look = std::move(look), counted = std::make_shared<Counted>()] { look(); });
}

}  // namespace faultline::coordinator
