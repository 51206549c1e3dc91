// The objects that the restores of a service share.
#pragma once

#include <kj/async-io.h>

#include "coordinator/options.h"
#include "failpoints/failpoints.h"

namespace faultline::coordinator {

class CpuLatency;
class EndedRestores;
class EventLog;
class Fetcher;
class ReadingTurns;
class RefusedTargets;
class ShardPool;
class SupervisorLink;
struct Populations;
struct ServiceTotals;

struct RestoreContext {
  kj::AsyncIoContext& io;
  SupervisorLink& link;
  EventLog& log;
  EndedRestores& ended;
  failpoints::Failpoints& failpoints;
  const Options& options;
  ShardPool& pool;
  ServiceTotals& totals;
  CpuLatency* latency;  // null: none is asked for
  ReadingTurns& turns;
  RefusedTargets& refused;
  Populations& populations;
  Fetcher& fetcher;
};

}  // namespace faultline::coordinator
