#include "coordinator/population.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <utility>

#include "coordinator/own_thread.h"
#include "coordinator/page_counting.h"
#include "process/log_about.h"
#include "rpc/convert.h"

namespace faultline::coordinator {

Population::Population(kj::Timer& timer, Populations& shared, ShardPool& pool, FaultRouter& router,
                       shm::Segment& segment, const SourceFiles& source, int target)
    : timer_(timer),
      shared_(shared),
      pool_(pool),
      router_(router),
      segment_(segment),
      source_(source),
      target_(target),
      paused_(segment.header().paused.load() == shm::YES),
      // Unlike any of a predecessor, whose runs may be going on in the shards.
      lastRun_(std::uint64_t{segment.header().incarnation.load()} << 32),
      tasks_(*this) {}

Population::~Population() noexcept(false) {
  shared_.memory.leave(*this);
  shared_.rates.runsIn(this, 0);
  shared_.turns.leave(*this);
}

// --- when shards are asked ---

void Population::goOn() {
  if (jobs_.empty() || paused_) return rest();
  if (stage_ == Stage::running) return look();  // perhaps there is more to populate now
  if (stage_ != Stage::resting) return;
  stage_ = Stage::queued;
  if (shared_.turns.ask(*this)) look();
}

void Population::rest() {
  suspend();
  stage_ = Stage::resting;
  shared_.memory.leave(*this);
  shared_.turns.leave(*this);
}

// Memory of 2 MiB pages is no control group's.
void Population::look() {
  stage_ = Stage::looking;
  const auto regions = segment_.regions().entries();
  const bool counted = std::any_of(regions.begin(), regions.end(), [](const shm::RegionEntry& region) {
    return std::uint64_t{1} << region.pageShift == shm::SMALL_PAGE;
  });
  if (target_ >= 0 && counted) return shared_.memory.watch(*this);
  fits();
}

void Population::fits() {
  if (stage_ == Stage::held) {
    const process::LogAbout about({.restore = segment_.name()});
    spdlog::info("restore {}: there is room for what is missing, it is populated again", segment_.name());
    stage_ = Stage::queued;
    if (!shared_.turns.ask(*this)) return;
    stage_ = Stage::looking;
  }
  if (stage_ != Stage::looking) return;
  stage_ = Stage::running;
  askAll();
}

void Population::doesNotFit(const std::string& why) {
  noRoom_ = why;
  measureSource();
  if (stage_ == Stage::held) return;
  const process::LogAbout about({.restore = segment_.name()});
  spdlog::info("restore {}: nothing is populated in the background: {}", segment_.name(), why);
  suspend();
  stage_ = Stage::held;
  shared_.turns.leave(*this);
}

std::string Population::whyHeld() const {
  if (jobs_.empty()) return "";
  switch (stage_) {
    case Stage::resting:
      return "it is paused";
    case Stage::queued:
      return std::to_string(shared_.turns.atOnce()) +
             " restores are populated at once (--populations), and " +
             std::to_string(shared_.turns.before(*this)) + " come before it";
    case Stage::held:
      return noRoom_;
    case Stage::looking:
    case Stage::running:
      return "";
  }
  return "";
}

void Population::pause(bool paused) {
  paused_ = paused;
  goOn();
}

// --- what the target's memory would have to take ---

std::vector<shm::PageRange> Population::wanted() const {
  std::vector<shm::PageRange> ranges;
  for (const auto& job : jobs_) {
    if (job->ranges.empty()) return {};
    ranges.insert(ranges.end(), job->ranges.begin(), job->ranges.end());
  }
  return ranges;
}

std::uint64_t Population::mostBytes() const {
  std::uint64_t bytes = 0;
  const auto ranges = wanted();
  for (const shm::PageRange& range : ranges) bytes += range.count * shm::SMALL_PAGE;
  if (ranges.empty())
    for (const shm::RegionEntry& region : segment_.regions().entries())
      if (std::uint64_t{1} << region.pageShift == shm::SMALL_PAGE) bytes += region.size;
  return std::min(bytes, sourceBytes_);
}

kj::Promise<std::uint64_t> Population::missingBytes() {
  auto counted = countPages(timer_, segment_, wanted());
  return counting_.wrap(counted.then([this](const shm::PageCounts& counts) {
    return std::min(counts.missing * shm::SMALL_PAGE, mostBytes());
  }));
}

// Holes of the source become zero pages of the kernel, which take no memory. Asked once it matters, and in a thread of its
// own: the file system may take as long as it likes.
void Population::measureSource() {
  if (std::exchange(measuring_, true)) return;
  struct Measured {
    SourceFiles files;
    std::uint64_t bytes = 0;
  };
  const auto measure = [this] {
    auto measured = std::make_shared<Measured>(Measured{duplicates(source_), 0});
    return inOwnThread("the size of a source cannot be asked",
                       [measured] {
                         for (const SourceFile& file : measured->files) {
                           struct stat status {};
                           // A packed one has more bytes than its file.
                           const bool regular =
                               !file.packed && fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode);
                           // st_blocks: stat(2).
                           measured->bytes = regular && measured->bytes != ~std::uint64_t{0}
                                                 ? measured->bytes + std::uint64_t(status.st_blocks) * 512
                                                 : ~std::uint64_t{0};
                         }
                       })
        .then([measured] { return measured->bytes; });
  };
  tasks_.add(kj::evalNow(measure).then(
      [this](std::uint64_t bytes) {
        sourceBytes_ = bytes;
        if (stage_ == Stage::held) shared_.memory.watch(*this);
      },
      [this](kj::Exception&& e) {
        measuring_ = false;
        spdlog::debug("{}", e.getDescription().cStr());
      }));
}

// --- jobs and runs ---

std::shared_ptr<PrefaultJob> Population::begin(std::vector<shm::PageRange> ranges) {
  auto job = std::make_shared<PrefaultJob>(std::move(ranges));
  if (job->ranges.empty()) segment_.header().prefaultAll.store(shm::YES);
  jobs_.push_back(job);
  const auto shares = segment_.shares();
  for (std::uint32_t i = 0; i < segment_.activeShards(); i++)
    if (shares[i] > 0) job->pending[i] = PrefaultJob::NOT_ASKED;
  goOn();
  return job;
}

void Population::askAll() {
  for (auto& job : std::vector(jobs_))
    for (const auto& [i, run] : std::map(job->pending))
      if (run == PrefaultJob::NOT_ASKED && !job->cancelled && router_.attached(i))
        ask(job, *pool_.process(i));
}

void Population::ask(const std::shared_ptr<PrefaultJob>& job, ShardHandle& shard) {
  const std::uint64_t run = ++lastRun_;
  job->pending[shard.index()] = run;
  tellRuns();
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
  if (pending != job->pending.end() && pending->second == run)
    job->pending.erase(pending);
  else if (job->ending.erase(run) == 0)
    return;
  finishIfDone(job);
}

void Population::finishIfDone(const std::shared_ptr<PrefaultJob>& job) {
  tellRuns();
  if (!job->pending.empty() || !job->ending.empty() || job->finished()) return;
  job->finish();
  std::erase(jobs_, job);
  goOn();
  if (nextFinishes_.get() != nullptr) nextFinishes_->fulfill();
}

kj::Promise<void> Population::whenNextFinishes() {
  auto paf = kj::newPromiseAndFulfiller<void>();
  nextFinishes_ = kj::mv(paf.fulfiller);
  return kj::mv(paf.promise);
}

// The runs go on for a moment; their pages are to be populated by others, later.
void Population::suspend() {
  for (auto& job : jobs_)
    for (auto& [shard, run] : job->pending) {
      endRun(*job, shard, run);
      run = PrefaultJob::NOT_ASKED;
    }
  tellRuns();
}

void Population::shardUp() {
  if (stage_ == Stage::running) askAll();
}

void Population::shardGone(std::uint32_t index) {
  for (auto& job : std::vector(jobs_)) {
    if (const auto run = job->pending.find(index); run != job->pending.end())
      run->second = PrefaultJob::NOT_ASKED;
    std::erase_if(job->ending, [index](const auto& ending) { return ending.second == index; });
    finishIfDone(job);
  }
}

void Population::dealtOut() {
  const auto shares = segment_.shares();
  // Faults on their way to a former owner are answered there; background work is asked for anew.
  for (auto& job : std::vector(jobs_)) {
    if (job->cancelled) continue;
    for (const auto& [i, run] : job->pending) endRun(*job, i, run);
    job->pending.clear();
    for (std::uint32_t i = 0; i < segment_.activeShards(); i++)
      if (shares[i] > 0) job->pending[i] = PrefaultJob::NOT_ASKED;
  }
  if (stage_ == Stage::running) askAll();
}

void Population::cancel(PrefaultJob& job) {
  const auto known =
      std::find_if(jobs_.begin(), jobs_.end(), [&](const auto& each) { return each.get() == &job; });
  if (known == jobs_.end()) return;
  const auto cancelled = *known;
  cancelled->cancelled = true;
  if (job.ranges.empty()) segment_.header().prefaultAll.store(0);
  for (const auto& [shard, run] : std::exchange(cancelled->pending, {})) endRun(*cancelled, shard, run);
  finishIfDone(cancelled);
}

void Population::giveUp() {
  for (const auto& job : std::exchange(jobs_, {})) {
    job->pending.clear();
    job->ending.clear();
    job->finish();
  }
  rest();
}

// Its answer is waited for before the job counts as finished.
void Population::endRun(PrefaultJob& job, std::uint32_t shard, std::uint64_t run) {
  if (!router_.attached(shard) || run == PrefaultJob::NOT_ASKED) return;
  job.ending[run] = shard;
  auto request = pool_.process(shard)->rpc().cancelPrefaultRequest();
  request.setRestore(segment_.facts().restoreId);
  request.setJob(run);
  request.send().detach([](kj::Exception&&) {});
}

void Population::tellRuns() {
  std::uint64_t shards = 0;
  for (const auto& job : jobs_)
    for (const auto& [shard, run] : job->pending)
      if (run != PrefaultJob::NOT_ASKED) shards |= std::uint64_t{1} << shard;
  shared_.rates.runsIn(this, shards);
}

void Population::taskFailed(kj::Exception&& exception) {
  spdlog::warn("restore {}: background population: {}", segment_.name(), exception.getDescription().cStr());
}

}  // namespace faultline::coordinator
