#include "shard/shard_server.h"

#include <kj/debug.h>
#include <spdlog/spdlog.h>

#include "process/build.h"
#include "process/log_about.h"
#include "rpc/answering.h"
#include "rpc/convert.h"
#include "rpc/fd.h"
#include "rpc/fetch_map.h"
#include "rpc/process_hooks.h"
#include "shard/source/fetched_file.h"
#include "shard/source/layered_file.h"
#include "shard/source/raw_file.h"
#include "shmtracker/error.h"
#include "shmtracker/layout.h"

namespace faultline::shard {

ShardService::ShardService(kj::AsyncIoContext& io, ShardOptions options)
    : io_(io),
      options_(options),
      mailbox_(io.unixEventPort),
      committer_(failpoints_),
      workers_(options.threads),
      faults_(committer_, workers_, *this, options.loop),
      prefaulter_(committer_, workers_, options.threads) {}

ShardService::~ShardService() noexcept(false) = default;

template <typename Send>
void ShardService::tell(Send send) {
  mailbox_.post([this, send = std::move(send)]() mutable {
    KJ_IF_MAYBE (events, events_) {
      // A coordinator that dies just now learns it from its successor's own look at the tracker.
      send(*events).detach([](kj::Exception&&) {});
    }
  });
}

void ShardService::targetGone(const Attachment& restore) {
  const process::LogAbout about({.restore = restore.name()});
  spdlog::info("restore {}: the target's memory is gone", restore.name());
  tell([restore = restore.id()](rpc::ShardEvents::Client& events) {
    auto request = events.targetGoneRequest();
    request.setRestore(restore);
    return request.send().ignoreResult();
  });
}

void ShardService::pagePoisoned(const Attachment& restore, shm::PageIndex page, std::string reason) {
  const process::LogAbout about({.restore = restore.name(), .messageId = process::message::TARGET_LOST});
  spdlog::error("restore {}: page {} is poisoned, the target gets SIGBUS on it: {}", restore.name(), page,
                reason);
  tell([restore = restore.id(), page, reason = std::move(reason)](rpc::ShardEvents::Client& events) {
    auto request = events.pagePoisonedRequest();
    request.setRestore(restore);
    request.setPage(page);
    request.setReason(reason.c_str());
    return request.send().ignoreResult();
  });
}

void ShardService::restoreFailed(const Attachment& restore, rpc::EndReason why, std::string text) {
  const process::LogAbout about({.restore = restore.name(), .messageId = process::message::TARGET_LOST});
  spdlog::error("restore {}: cannot be served: {}", restore.name(), text);
  tell([restore = restore.id(), why, text = std::move(text)](rpc::ShardEvents::Client& events) {
    auto request = events.restoreFailedRequest();
    request.setRestore(restore);
    request.setWhy(why);
    request.setText(text.c_str());
    return request.send().ignoreResult();
  });
}

void ShardService::pageLost(const Attachment& restore, shm::PageIndex page, std::string reason) {
  const process::LogAbout about({.restore = restore.name(), .messageId = process::message::TARGET_LOST});
  spdlog::error("restore {}: page {} is lost and cannot be, or is not to be, poisoned: {}", restore.name(),
                page, reason);
  tell([restore = restore.id(), page, reason = std::move(reason)](rpc::ShardEvents::Client& events) {
    auto request = events.pageLostRequest();
    request.setRestore(restore);
    request.setPage(page);
    request.setReason(reason.c_str());
    return request.send().ignoreResult();
  });
}

namespace {

// What a source is opened from; taken.
struct SourceParts {
  struct Cache {
    kj::AutoCloseFd map, ring;  // -1: the layer is a file
  };
  kj::Array<kj::AutoCloseFd> files;  // the top layer first
  std::vector<std::string> names;
  std::vector<Cache> caches;  // of each
};

std::shared_ptr<const PageSource> sourceOf(SourceParts& parts, FetchClients& clients, std::uint32_t shard,
                                           std::uint64_t patience, std::uint64_t bytes) {
  std::vector<LayeredFile::File> stack;
  for (std::size_t i = 0; i < parts.files.size(); i++) {
    auto& cache = parts.caches[i];
    std::shared_ptr<const FetchedFile> fetched;
    if (cache.map.get() >= 0)
      fetched = std::make_shared<FetchedFile>(
          kj::mv(parts.files[i]), rpc::FetchMap::attach(cache.map.get(), rpc::FetchMap::Access::read),
          clients.of(cache.ring.get(), shard), bytes, patience, parts.names[i]);
    if (parts.files.size() == 1 && fetched != nullptr) return fetched;
    stack.push_back({kj::mv(parts.files[i]), parts.names[i], std::move(fetched)});
  }
  if (stack.size() == 1) return std::make_shared<RawFile>(kj::mv(stack[0].file), bytes);
  return std::make_shared<LayeredFile>(std::move(stack), bytes);
}

}  // namespace

// A coordinator's view of the service.
class ShardServer final : public rpc::Answering<rpc::Shard> {
 public:
  explicit ShardServer(ShardService& service) : service_(service) {}

  kj::Promise<void> hello(HelloContext context) override {
    service_.events_ = context.getParams().getEvents();
    auto results = context.getResults();
    results.setVersion(process::version());
    results.setImage(service_.image_.c_str());
    auto list = results.initRestores(static_cast<unsigned>(service_.restores_.size()));
    unsigned i = 0;
    for (auto& [id, restore] : service_.restores_) list.set(i++, id);
    return kj::READY_NOW;
  }

  kj::Promise<void> useRing(UseRingContext context) override {
    auto params = context.getParams();
    auto doorbell = rpc::requireFd(params.getDoorbell(), "doorbell");
    return rpc::requireFd(params.getRing(), "ring")
        .then([this, doorbell = kj::mv(doorbell)](kj::AutoCloseFd ring) mutable {
          return doorbell.then([this, ring = kj::mv(ring)](kj::AutoCloseFd bell) mutable {
            service_.faults_.useRing(rpc::FaultRing::attach(kj::mv(ring), kj::mv(bell)));
          });
        });
  }

  kj::Promise<void> attach(AttachContext context) override {
    auto params = context.getParams();
    if (const auto known = service_.restores_.find(params.getRestore()); known != service_.restores_.end()) {
      // The coordinator that was told may not have lived to hear it.
      if (const auto why = known->second->failure()) return KJ_EXCEPTION(FAILED, why->c_str());
      return kj::READY_NOW;
    }
    const auto layers = params.getLayers();
    if (layers.size() == 0 || layers.size() > process::MOST_LAYERS)
      rpc::refuse(rpc::Reason::UNSUPPORTED, "a source of " + std::to_string(layers.size()) + " layers");
    const auto fetched = params.getFetched();
    auto fds = kj::Vector<kj::Promise<kj::AutoCloseFd>>();
    fds.add(rpc::requireFd(params.getUffd(), "uffd"));
    fds.add(rpc::requireFd(params.getSegment(), "segment"));
    for (auto layer : layers) fds.add(rpc::requireFd(layer.getFile(), "source"));
    for (auto layer : fetched) {
      if (layer.getLayer() >= layers.size()) rpc::refuse(rpc::Reason::BAD_INPUT, "there is no such layer");
      fds.add(rpc::requireFd(layer.getMap(), "map"));
      fds.add(rpc::requireFd(layer.getRing(), "ring"));
    }
    return kj::joinPromises(fds.releaseAsArray())
        .then([this, context](kj::Array<kj::AutoCloseFd> got) mutable {
          auto params = context.getParams();
          const auto layers = params.getLayers();
          SourceParts parts;
          parts.files = kj::heapArray<kj::AutoCloseFd>(layers.size());
          parts.caches.resize(layers.size());
          for (unsigned i = 0; i < layers.size(); i++) {
            parts.files[i] = kj::mv(got[2 + i]);
            parts.names.emplace_back(layers[i].getName().cStr());
          }
          std::size_t next = 2 + layers.size();
          for (auto layer : params.getFetched()) {
            parts.caches[layer.getLayer()] = {kj::mv(got[next]), kj::mv(got[next + 1])};
            next += 2;
          }
          AttachmentEvents& events = service_;
          const OpenSource openSource = [&](std::uint64_t bytes) {
            return sourceOf(parts, service_.fetchClients_, params.getIndex(),
                            service_.options_.loop.sourcePatience, bytes);
          };
          auto restore =
              std::make_shared<Attachment>(params.getIndex(), shm::slotsFor(service_.options_.threads),
                                           kj::mv(got[0]), got[1].get(), openSource, events);
          KJ_REQUIRE(restore->id() == params.getRestore(), "the segment is another restore's", restore->id(),
                     params.getRestore());
          service_.restores_[restore->id()] = restore;
          service_.faults_.attach(restore);
          spdlog::debug("restore {}: attached as shard {}", restore->id(), restore->index());
        });
  }

  kj::Promise<void> detach(DetachContext context) override {
    const std::uint64_t id = context.getParams().getRestore();
    const auto found = service_.restores_.find(id);
    if (found == service_.restores_.end()) return kj::READY_NOW;
    found->second->end();
    service_.prefaulter_.cancelAll(id);
    service_.restores_.erase(found);
    return answered([&](std::function<void()> done) { service_.faults_.detach(id, std::move(done)); });
  }

  kj::Promise<void> faults(FaultsContext context) override {
    auto batch = context.getParams().getBatch();
    auto& restore = require(batch.getRestore());
    std::vector<shm::PageIndex> pages;
    for (const std::uint64_t page : batch.getPages())
      if (page < restore->segment().pages().pageCount()) pages.push_back(page);
    service_.faults_.serve(batch.getRestore(), batch.getReadAt(), std::move(pages));
    return kj::READY_NOW;
  }

  kj::Promise<void> prefault(PrefaultContext context) override {
    auto params = context.getParams();
    auto& restore = require(params.getRestore());
    auto ranges = rpc::rangesFrom(params.getRanges(), restore->segment().pages().pageCount());
    return answered([&](std::function<void()> done) {
      service_.prefaulter_.start(restore, params.getJob(), std::move(ranges), std::move(done));
    });
  }

  kj::Promise<void> cancelPrefault(CancelPrefaultContext context) override {
    auto params = context.getParams();
    service_.prefaulter_.cancel(params.getRestore(), params.getJob());
    return kj::READY_NOW;
  }

  kj::Promise<void> poison(PoisonContext context) override {
    auto params = context.getParams();
    std::vector<shm::PageIndex> pages;
    for (const std::uint64_t page : params.getPages()) pages.push_back(page);
    service_.faults_.poison(params.getRestore(), std::move(pages), params.getReason().cStr());
    return kj::READY_NOW;
  }

  kj::Promise<void> hooks(HooksContext context) override {
    if (!service_.options_.testHooks)
      rpc::refuse(rpc::Reason::FORBIDDEN, "this shard was not started with --test-hooks");
    context.getResults().setHooks(rpc::makeProcessHooks(service_.failpoints_, service_.io_.unixEventPort));
    return kj::READY_NOW;
  }

  kj::Promise<void> ping(PingContext) override {
    return answered([&](std::function<void()> done) { service_.faults_.ping(std::move(done)); });
  }

  kj::Promise<void> populateAtMost(PopulateAtMostContext context) override {
    service_.prefaulter_.rate().limit(context.getParams().getBytesPerSecond());
    return kj::READY_NOW;
  }

 private:
  // Begins something that says in some other thread when it is done; resolves then.
  template <typename Begin>
  kj::Promise<void> answered(Begin begin) {
    auto paf = kj::newPromiseAndFulfiller<void>();
    const std::uint64_t number = ++service_.lastWaiting_;
    // KJ's objects stay in the loop's thread; others get a number.
    service_.waiting_[number] = kj::mv(paf.fulfiller);
    begin([&service = service_, number] {
      service.mailbox_.post([&service, number] {
        service.waiting_[number]->fulfill();
        service.waiting_.erase(number);
      });
    });
    return kj::mv(paf.promise);
  }

  AttachmentRef& require(std::uint64_t id) {
    const auto found = service_.restores_.find(id);
    KJ_REQUIRE(found != service_.restores_.end(), "this shard serves no such restore", id);
    return found->second;
  }

  ShardService& service_;
};

rpc::Shard::Client ShardService::makeServer() {
  return kj::heap<ShardServer>(*this);
}

}  // namespace faultline::shard
