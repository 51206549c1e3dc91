// Sources that are fetched: opened at a fetcher (coordinator/fetcher_process.h), and the caches of what it fetched.
//
// A fetcher has nothing that may not be lost. Restores hold their caches, and have them kept; the next fetcher is told of
// each, and answers what the last one has left unanswered (rpc/fetch_ring.h). A cache that no restore uses is held here, for
// those to come, as long as there is room for it.
#pragma once

#include <kj/async-io.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/event_log.h"
#include "coordinator/fetched_source.h"
#include "coordinator/fetcher_process.h"
#include "coordinator/options.h"
#include "coordinator/supervisor_link.h"
#include "coordinator/working_set.h"
#include "rpc/control.capnp.h"
#include "rpc/source_connector.h"

namespace faultline::coordinator {

// Loop thread only.
class Fetcher final : private FetcherProcess::Owner, private kj::TaskSet::ErrorHandler {
 public:
  Fetcher(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log, const Options& options);
  ~Fetcher() noexcept(false);

  // Ends a predecessor's fetcher: two would write at the same places. Before the first call of the others.
  void begin(Inheritance& inherited) { process_.begin(inherited); }

  // The cache of a source: the one there is, or a new one. `file`: a packed image, open for reading, or what names a source
  // (rpc/named_source.h). Refuses (badSource) where it cannot be used. Resolves when it can be served from.
  kj::Promise<FetchedRef> open(kj::AutoCloseFd file, std::string name);
  // Takes over a predecessor's. Throws where what is kept makes no sense. Does not wait for a fetcher: what is cached is
  // served meanwhile.
  FetchedRef adopt(kj::AutoCloseFd origin, const std::string& name, kj::AutoCloseFd data, kj::AutoCloseFd map,
                   kj::AutoCloseFd ring);

  // The fingerprint of what a differential image lies over; of one that was taken over it is asked for.
  kj::Promise<std::uint64_t> baseOf(const FetchedRef& source);
  // The fingerprint of what a server has. Waits for it.
  kj::Promise<std::uint64_t> fingerprintOf(const FetchedRef& source);
  // The fingerprint of a stack of files, the top one first; or of such over a memory of fingerprint `base`, where that is not
  // 0. Refuses (badSource) where one cannot be read. The fetcher reads them.
  kj::Promise<std::uint64_t> fingerprint(std::vector<kj::AutoCloseFd> files, std::uint64_t base);
  // Has parts of it fetched in this order, beside what is asked for, by whatever fetcher there is, until the last reference
  // to what is returned goes away. `source`: opened.
  using WantedRef = std::shared_ptr<WantedParts>;
  WantedRef prefetch(const FetchedRef& source, const std::vector<SourceRange>& ranges);
  // The service ends: what is missing is to come before its limit.
  void hurry() { process_.hurry(); }

  // How it does, for people and metrics. Resolves soon, whatever the fetcher does.
  kj::Promise<void> fill(rpc::FetcherInfo::Builder to);

 private:
  // Which source it is, before it is opened. A server has no identity to tell: what is there for its URI is compared.
  struct Key {
    process::FileIdentity file{};
    std::string uri{};
    bool operator==(const Key&) const = default;
  };
  static Key keyOf(const FetchedSource& source);
  using Opened = capnp::Response<rpc::Fetcher::OpenResults>;
  kj::Promise<Opened> askToOpen(const FetchedRef& source);
  rpc::ConnectionNews newsOf(const std::weak_ptr<FetchedSource>& source);
  void connectionLost(FetchedSource& source, const std::string& why);
  void connectionMade(FetchedSource& source);
  void engageAll();
  kj::Promise<void> engage(const FetchedRef& source);
  kj::Promise<FetchedRef> openAnew(const FetchedRef& source);
  template <typename Ask>
  auto askAgain(Ask ask, unsigned tries = 0) -> decltype(ask());
  FetchedRef alike(const FetchedSource& source) const;
  kj::Promise<FetchedRef> makeCache(const FetchedRef& source, rpc::FetchedSource::Client opened);
  kj::Promise<void> serve(const FetchedRef& source, rpc::FetchedSource::Client opened);
  void keep(const FetchedRef& source);
  void tell(const FetchedRef& source, const WantedRef& wanted);
  void makeRoom();
  kj::Promise<void> makeRoomOn();
  // Of FetcherProcess.
  bool wantsFetcher() const override { return !sources_.empty(); }
  void fetcherStarted() override { engageAll(); }
  void fetcherGone(bool killed) override;
  void taskFailed(kj::Exception&& exception) override { process_.failed(exception); }

  kj::AsyncIoContext& io_;
  EventLog& log_;
  const Options& options_;
  std::uint64_t evicted_ = 0;
  std::uint64_t savedByEvicted_ = 0;  // bytes
  std::vector<FetchedRef> sources_;
  std::vector<std::pair<Key, kj::ForkedPromise<FetchedRef>>> opening_;
  bool makingRoom_ = false;
  FetcherProcess process_;
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
