// How the service ends: one way for every reason (a signal, a command, a supervisor that has gone).
//
// New targets are refused. Missing pages are fetched, for as long as that progresses and the operator's limit allows
// (--stop-limit-s). Pages that are missing then are poisoned, or their target is killed (restore_ending.cpp). Then
// everything is over. To be asked again is to be asked to fetch no more.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <optional>
#include <string>

#include "coordinator/listeners.h"
#include "coordinator/lost_restores.h"
#include "coordinator/restores.h"

namespace faultline::coordinator {

// Loop thread only.
class ServiceEnd {
 public:
  ServiceEnd(RestoreContext& context, const Restores& restores, LostRestores& lost, Listeners& listeners);

  // Begins the end. Begun already, or `now`: fetches no more.
  void begin(const std::string& why, bool now);
  // Begins it once everything that was inherited is adopted.
  void ask(bool now);
  // Everything is adopted.
  void adopted();
  // As begin(). Refuses (pagesMissing) while pages are missing, unless forced.
  kj::Promise<void> shutdown(bool force);

  bool begun() const { return began_ != 0; }
  // A line for people: how far the end is.
  std::string statusLine() const;
  // Every target is let go of, or has gone.
  kj::Promise<void> whenOver() { return over_.addBranch(); }

 private:
  void fetchNoMore(const std::string& why);
  kj::Promise<void> watch();
  kj::Promise<void> look(std::uint64_t missing);
  void giveUpRestores();

  RestoreContext& context_;
  const Restores& restores_;
  LostRestores& lost_;
  Listeners& listeners_;
  bool adopted_ = false;
  std::optional<bool> asked_;  // before everything was adopted; whether at once
  std::string why_;
  std::uint64_t began_ = 0;               // ns; 0: the service goes on
  std::uint64_t progressed_ = 0;          // ns, when pages came last
  std::uint64_t told_ = 0;                // ns, when the supervisor was told so last
  std::uint64_t lettingGo_ = 0;           // ns, since when nothing is fetched any more; 0: it is
  std::optional<std::uint64_t> missing_;  // pages, the fewest so far
  kj::Own<kj::PromiseFulfiller<void>> overFulfiller_;
  kj::ForkedPromise<void> over_;
  kj::Promise<void> watching_ = nullptr;
};

}  // namespace faultline::coordinator
