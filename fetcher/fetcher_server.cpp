#include "fetcher/fetcher_server.h"

#include <kj/debug.h>
#include <spdlog/spdlog.h>

#include <functional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <variant>

#include "fetcher/door.h"
#include "fetcher/fingerprint.h"
#include "fetcher/http_engine.h"
#include "fetcher/http_object.h"
#include "fetcher/nbd_engine.h"
#include "fetcher/packed_engine.h"
#include "fetcher/packed_object.h"
#include "fetcher/rbd_engine.h"
#include "fetcher/s3_keys.h"
#include "packed/error.h"
#include "process/build.h"
#include "process/file_identity.h"
#include "rpc/answering.h"
#include "rpc/convert.h"
#include "rpc/fd.h"
#include "rpc/named_source.h"
#include "rpc/source_uri.h"

namespace faultline::fetcher {

namespace {

// Does `work` in a thread of its own, since a file may take as long as it likes; resolves in the loop.
kj::Promise<void> inOwnThread(std::function<void()> work) {
  auto paf = kj::newPromiseAndCrossThreadFulfiller<void>();
  auto fulfiller = std::make_shared<decltype(paf.fulfiller)>(kj::mv(paf.fulfiller));
  std::thread([work = std::move(work), fulfiller]() mutable {
    KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] { work(); }))
      (*fulfiller)->reject(kj::mv(*exception));
    else
      (*fulfiller)->fulfill();
  }).detach();
  return kj::mv(paf.promise);
}

// An object, packed or plain. Waits. Throws std::exception for people.
std::shared_ptr<const Engine> objectEngine(State& state, const rpc::ObjectUri& uri,
                                           const std::shared_ptr<const Door>& door) {
  EngineCounters& counters = state.counters.engines.at("http");
  const auto object = std::make_shared<const HttpObject>(
      uri,
      HttpWays{[door] { return door->connect(); }, [profile = uri.profile] { return s3Keys(profile); },
               state.authorities},
      state.patience, counters);
  EngineCounters unseen;
  if (!packed::hasSeekTable(PackedObject(object, unseen))) return std::make_shared<HttpEngine>(object);
  auto engine = std::make_shared<PackedEngine>(std::make_shared<const PackedObject>(object, counters),
                                               HTTP_GRAIN, HTTP_DEPTH);
  if (engine->facts().differential)
    throw std::runtime_error(
        "source " + uri.text +
        " is a differential image: a server has the lowest layer alone; copy it to a file");
  return engine;
}

// Waits. Throws std::exception for people.
std::shared_ptr<const Engine> engineFor(State& state, kj::AutoCloseFd file, const std::string& name,
                                        const std::shared_ptr<const Door>& door) {
  const auto text = rpc::uriOf(file.get());
  if (!text.has_value()) return std::make_shared<PackedEngine>(kj::mv(file), name);
  const rpc::SourceUri uri = rpc::SourceUri::parse(*text);
  const auto requireFiles = [&](bool wanted) {
    if (wanted && !state.whyNoFiles.empty())
      throw std::runtime_error("source " + *text + " cannot be used: " + state.whyNoFiles);
  };
  if (const auto* object = std::get_if<rpc::ObjectUri>(&uri.of)) {
    requireFiles(object->tls);
    return objectEngine(state, *object, door);
  }
  if (const auto* image = std::get_if<rpc::RbdUri>(&uri.of)) {
    requireFiles(true);
    return std::make_shared<RbdEngine>(*image, state.patience, state.counters.engines.at("rbd"));
  }
  requireFiles(std::get<rpc::NbdUri>(uri.of).tls);
  return std::make_shared<NbdEngine>(
      *text,
      NbdEngine::Way{[door] { return door->connect(); },
                     [door](const std::string& why) { door->tellLost(why); }, [door] { door->tellMade(); }},
      state.patience, state.counters.engines.at("nbd"));
}

class PrefetchServer final : public rpc::Answering<rpc::Prefetch> {
 public:
  PrefetchServer(std::shared_ptr<ServedSource> source, std::vector<Range> ranges)
      : source_(std::move(source)), wanted_(source_->prefetch(std::move(ranges))) {}
  ~PrefetchServer() noexcept(false) { source_->cancel(wanted_); }

 private:
  const std::shared_ptr<ServedSource> source_;
  const std::shared_ptr<ServedSource::Wanted> wanted_;
};

class FetchedSourceServer final : public rpc::Answering<rpc::FetchedSource> {
 public:
  FetchedSourceServer(State& state, std::shared_ptr<const Engine> engine, std::shared_ptr<Door> door)
      : state_(state), engine_(std::move(engine)), door_(std::move(door)) {}
  ~FetchedSourceServer() noexcept(false) {
    if (served_ != nullptr) served_->end();
    door_->close();
  }

  kj::Promise<void> serve(ServeContext context) override {
    KJ_REQUIRE(!begun_, "the source is being served already");
    begun_ = true;
    auto params = context.getParams();
    auto fds = kj::heapArrayBuilder<kj::Promise<kj::AutoCloseFd>>(3);
    fds.add(rpc::requireFd(params.getData(), "data"));
    fds.add(rpc::requireFd(params.getMap(), "map"));
    fds.add(rpc::requireFd(params.getRing(), "ring"));
    const auto former =
        params.getFormerKilled() ? rpc::FetchRing::Former::killed : rpc::FetchRing::Former::died;
    return kj::joinPromises(fds.finish()).then([this, former](kj::Array<kj::AutoCloseFd> got) {
      auto shared = std::make_shared<kj::Array<kj::AutoCloseFd>>(kj::mv(got));
      auto made = std::make_shared<std::shared_ptr<ServedSource>>();
      return inOwnThread([shared, made, engine = engine_, &state = state_] {
               auto cache =
                   std::make_unique<Cache>(kj::mv((*shared)[0]), (*shared)[1].get(), *engine, state.budget);
               *made = std::make_shared<ServedSource>(engine, std::move(cache),
                                                      rpc::FetchRing::attach((*shared)[2].get()),
                                                      state.counters, state.rate);
             })
          .then([this, made, former] {
            served_ = *made;
            served_->begin(former);
          });
    });
  }

  kj::Promise<void> prefetch(PrefetchContext context) override {
    KJ_REQUIRE(served_ != nullptr, "the source is not served yet");
    std::vector<Range> ranges;
    for (auto range : context.getParams().getRanges()) ranges.push_back({range.getBegin(), range.getEnd()});
    context.getResults().setPrefetch(kj::heap<PrefetchServer>(served_, std::move(ranges)));
    return kj::READY_NOW;
  }

  kj::Promise<void> fingerprint(FingerprintContext context) override {
    auto value = std::make_shared<std::uint64_t>(0);
    auto refused = std::make_shared<std::string>();
    return inOwnThread([engine = engine_, value, refused] {
             try {
               *value = engine->fingerprint();
             } catch (const std::exception& error) {
               *refused = error.what();
             }
           })
        .then([value, refused, context]() mutable {
          if (!refused->empty()) rpc::refuse(rpc::Reason::BAD_SOURCE, *refused);
          context.getResults().setFingerprint(*value);
        });
  }

 private:
  State& state_;
  const std::shared_ptr<const Engine> engine_;
  const std::shared_ptr<Door> door_;
  bool begun_ = false;
  std::shared_ptr<ServedSource> served_;
};

class FetcherServer final : public rpc::Answering<rpc::Fetcher> {
 public:
  explicit FetcherServer(State& state) : state_(state) {}

  kj::Promise<void> hello(HelloContext context) override {
    context.getResults().setProtocol(process::PROTOCOL);
    return kj::READY_NOW;
  }

  kj::Promise<void> open(OpenContext context) override {
    return rpc::requireFd(context.getParams().getFile(), "file")
        .then([this, context](kj::AutoCloseFd fd) mutable {
          auto file = std::make_shared<kj::AutoCloseFd>(kj::mv(fd));
          auto engine = std::make_shared<std::shared_ptr<const Engine>>();
          auto refused = std::make_shared<std::string>();
          auto door = std::make_shared<Door>(context.getParams().getConnector());
          auto opened = inOwnThread([&state = state_, file, engine, refused, door,
                                     name = std::string(context.getParams().getName().cStr())] {
            try {
              *engine = engineFor(state, kj::mv(*file), name, door);
            } catch (const std::exception& error) {
              *refused = error.what();
            }
          });
          return opened.then([this, context, engine, refused, door]() mutable {
            if (*engine == nullptr) {
              door->close();
              rpc::refuse(rpc::Reason::BAD_SOURCE, *refused);
            }
            const Engine::Facts facts = (*engine)->facts();
            auto results = context.getResults();
            auto to = results.initFacts();
            to.setBytes(facts.bytes);
            to.setIdentity(facts.identity);
            to.setDifferential(facts.differential);
            to.setBase(facts.base);
            results.setSource(kj::heap<FetchedSourceServer>(state_, *engine, door));
          });
        });
  }

  kj::Promise<void> fingerprint(FingerprintContext context) override {
    const auto layers = context.getParams().getLayers();
    KJ_REQUIRE(layers.size() <= process::MOST_LAYERS, "more layers than a source can have", layers.size());
    const std::uint64_t base = context.getParams().getBase();
    KJ_REQUIRE(layers.size() > 0 || base != 0, "a stack has layers");
    auto fds = kj::heapArrayBuilder<kj::Promise<kj::AutoCloseFd>>(layers.size());
    for (auto layer : layers) fds.add(rpc::requireFd(layer, "layer"));
    return kj::joinPromises(fds.finish()).then([context, base](kj::Array<kj::AutoCloseFd> got) mutable {
      struct Work {
        kj::Array<kj::AutoCloseFd> layers;
        std::uint64_t fingerprint = 0;
        std::string refused{};
      };
      auto work = std::make_shared<Work>(Work{kj::mv(got)});
      return inOwnThread([work, base] {
               try {
                 work->fingerprint = fingerprintOf(work->layers, base);
               } catch (const std::exception& error) {
                 work->refused = error.what();
               }
             })
          .then([context, work]() mutable {
            if (!work->refused.empty()) rpc::refuse(rpc::Reason::BAD_SOURCE, work->refused);
            context.getResults().setFingerprint(work->fingerprint);
          });
    });
  }

  kj::Promise<void> fetchAtMost(FetchAtMostContext context) override {
    state_.rate.limit(context.getParams().getBytesPerSecond());
    return kj::READY_NOW;
  }

  kj::Promise<void> stats(StatsContext context) override {
    auto stats = context.getResults().initStats();
    const Counters& counters = state_.counters;
    stats.setHits(counters.hits);
    stats.setMisses(counters.misses);
    stats.setNotKept(counters.notKept);
    stats.setCachedBytes(state_.budget.taken());
    auto engines = stats.initEngines(static_cast<unsigned>(counters.engines.size()));
    unsigned i = 0;
    for (const auto& [name, engine] : counters.engines) {
      auto to = engines[i++];
      to.setName(name.c_str());
      to.setRequests(engine.requests);
      to.setBytes(engine.bytes);
      to.setErrors(engine.errors);
      to.setReconnects(engine.reconnects);
      to.setGivenUp(engine.givenUp);
      rpc::fill(to.initLatency(), engine.latency);
    }
    return kj::READY_NOW;
  }

 private:
  State& state_;
};

}  // namespace

rpc::Fetcher::Client makeFetcherServer(State& state) {
  return kj::heap<FetcherServer>(state);
}

}  // namespace faultline::fetcher
