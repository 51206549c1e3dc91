// The process of a fetcher: started when it is wanted, watched, and replaced when it dies, stops answering, or has not the
// rights that a source wants. At most one runs at a time: two would write at the same places.
#pragma once

#include <kj/async-io.h>

#include <cstdint>
#include <memory>
#include <string>

#include "coordinator/event_log.h"
#include "coordinator/options.h"
#include "coordinator/supervisor_link.h"
#include "rpc/fetcher.capnp.h"
#include "rpc/source_uri.h"

namespace faultline::coordinator {

// Loop thread only.
class FetcherProcess final : private kj::TaskSet::ErrorHandler {
 public:
  class Owner {
   public:
    // Whether one is needed now.
    virtual bool wantsFetcher() const = 0;
    // A fetcher answers, and knows of nothing yet.
    virtual void fetcherStarted() = 0;
    // The last one answers no more. Another is started if it is wanted. `killed`: by SIGKILL, ours or another's.
    virtual void fetcherGone(bool killed) = 0;

   protected:
    ~Owner() = default;
  };

  // Borrows all.
  FetcherProcess(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log, const Options& options,
                 Owner& owner);
  ~FetcherProcess() noexcept(false);

  // Ends a predecessor's. Before the first call of the others.
  void begin(Inheritance& inherited);

  // The fetcher is to have the rights that the source `uri` wants, beside all that were wanted before; empty: it is a file.
  void want(const std::string& uri);
  // Wants the rights of a source that is taken over; the next fetcher has them.
  void wantLater(const std::string& uri) { rights_.add(uri); }
  // Resolves when one answers, which may have gone again by then.
  kj::Promise<void> running();
  bool answers() const { return process_ != nullptr; }
  bool hasRights() const;
  // The client of the fetcher that answers.
  rpc::Fetcher::Client client() const;
  // Another number once that one has gone.
  std::uint64_t generation() const { return generation_; }
  // Work for one has failed for this reason, which is logged unless it was its death: has the one that is needed started, after a
  // moment.
  void failed(const kj::Exception& exception);
  // From here on nothing that it fetches keeps to the rate.
  void hurry();

  std::uint32_t pid() const;  // 0: none answers
  std::uint32_t restarts() const { return restarts_; }

 private:
  struct Process;

  kj::Promise<void> start();
  kj::Promise<void> formerEnded(std::uint64_t deadline);
  void watch();
  kj::Promise<void> pingOn();
  void kill();
  void died(const std::string& how, bool killed);
  void gone(bool killed);
  void taskFailed(kj::Exception&& exception) override { failed(exception); }

  kj::AsyncIoContext& io_;
  SupervisorLink& link_;
  EventLog& log_;
  const Options& options_;
  Owner& owner_;
  kj::AutoCloseFd former_;            // pidfd of one that was killed, until it has ended
  std::shared_ptr<Process> process_;  // null: there is none that answers
  kj::Maybe<kj::ForkedPromise<void>> starting_;
  std::uint64_t generation_ = 0;
  std::uint32_t restarts_ = 0;
  unsigned quickDeaths_ = 0;   // in a row, or starts that failed
  rpc::FetcherRights rights_;  // wanted by all sources that there were
  bool hurries_ = false;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
