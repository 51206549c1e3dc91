#include "coordinator/population.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "rpc/convert.h"

namespace faultline::coordinator {

Population::Population(ShardPool& pool, FaultRouter& router, shm::Segment& segment)
    : pool_(pool),
      router_(router),
      segment_(segment),
      // Unlike any of a predecessor, whose runs may be going on in the shards.
      lastRun_(std::uint64_t{segment.header().incarnation.load()} << 32),
      tasks_(*this) {}

std::shared_ptr<PrefaultJob> Population::begin(std::vector<shm::PageRange> ranges) {
  auto job = std::make_shared<PrefaultJob>(std::move(ranges));
  if (job->ranges.empty()) segment_.header().prefaultAll.store(shm::YES);
  jobs_.push_back(job);
  const auto shares = segment_.shares();
  for (std::uint32_t i = 0; i < segment_.activeShards(); i++)
    if (shares[i] > 0) job->pending[i] = PrefaultJob::NOT_ASKED;
  for (const auto& [i, run] : job->pending)
    if (router_.attached(i)) ask(job, *pool_.process(i));
  return job;
}

void Population::ask(const std::shared_ptr<PrefaultJob>& job, ShardHandle& shard) {
  const std::uint64_t run = ++lastRun_;
  job->pending[shard.index()] = run;
  auto request = shard.rpc().prefaultRequest();
  request.setRestore(segment_.facts().restoreId);
  request.setJob(run);
  auto list = request.initRanges(static_cast<unsigned>(job->ranges.size()));
  for (unsigned i = 0; i < job->ranges.size(); i++) rpc::fill(list[i], job->ranges[i]);
  tasks_.add(request.send().ignoreResult().then(
      [this, job, index = shard.index(), run] { answered(job, index, run); },
      [](kj::Exception&& e) {
        // A shard that has died is asked again as it comes up.
        if (e.getType() != kj::Exception::Type::DISCONNECTED) kj::throwRecoverableException(kj::mv(e));
      }));
}

void Population::answered(const std::shared_ptr<PrefaultJob>& job, std::uint32_t shard, std::uint64_t run) {
  const auto pending = job->pending.find(shard);
  if (pending == job->pending.end() || pending->second != run) return;
  job->pending.erase(pending);
  if (!job->pending.empty()) return;
  job->finish();
  std::erase(jobs_, job);
  if (nextFinishes_.get() != nullptr) nextFinishes_->fulfill();
}

kj::Promise<void> Population::whenNextFinishes() {
  auto paf = kj::newPromiseAndFulfiller<void>();
  nextFinishes_ = kj::mv(paf.fulfiller);
  return kj::mv(paf.promise);
}

void Population::shardUp(ShardHandle& shard, bool held) {
  hold(shard, held);  // the shard has seen the state of when it began to attach
  for (auto& job : std::vector(jobs_))
    if (const auto run = job->pending.find(shard.index());
        run != job->pending.end() && run->second == PrefaultJob::NOT_ASKED)
      job->cancelled ? answered(job, shard.index(), run->second) : ask(job, shard);
}

void Population::shardGone(std::uint32_t index) {
  for (auto& job : jobs_)
    if (const auto run = job->pending.find(index); run != job->pending.end())
      run->second = PrefaultJob::NOT_ASKED;
}

void Population::dealtOut() {
  const auto shares = segment_.shares();
  // Faults on their way to a former owner are answered there; background work is asked for anew.
  for (auto& job : std::vector(jobs_)) {
    if (job->cancelled) continue;
    for (std::uint32_t i = 0; i < segment_.activeShards(); i++) {
      if (const auto run = job->pending.find(i); run != job->pending.end()) cancelRun(i, run->second);
      job->pending.erase(i);
      if (shares[i] == 0) continue;
      job->pending[i] = PrefaultJob::NOT_ASKED;
      if (router_.attached(i)) ask(job, *pool_.process(i));
    }
  }
}

void Population::cancel(PrefaultJob& job) {
  job.cancelled = true;
  if (job.ranges.empty()) segment_.header().prefaultAll.store(0);
  for (const auto& [shard, run] : job.pending) cancelRun(shard, run);
}

void Population::giveUp() {
  for (const auto& job : std::exchange(jobs_, {})) {
    job->pending.clear();
    job->finish();
  }
}

void Population::cancelRun(std::uint32_t shard, std::uint64_t run) {
  if (!router_.attached(shard) || run == PrefaultJob::NOT_ASKED) return;
  auto request = pool_.process(shard)->rpc().cancelPrefaultRequest();
  request.setRestore(segment_.facts().restoreId);
  request.setJob(run);
  request.send().detach([](kj::Exception&&) {});
}

void Population::hold(bool held) {
  for (std::uint32_t i = 0; i < segment_.activeShards(); i++)
    if (router_.attached(i)) hold(*pool_.process(i), held);
}

void Population::hold(ShardHandle& shard, bool held) {
  auto request = shard.rpc().setPausedRequest();
  request.setRestore(segment_.facts().restoreId);
  request.setPaused(held);
  request.send().detach([](kj::Exception&&) {});
}

void Population::taskFailed(kj::Exception&& exception) {
  spdlog::warn("restore {}: background population: {}", segment_.name(), exception.getDescription().cStr());
}

}  // namespace faultline::coordinator
