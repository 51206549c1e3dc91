#include "coordinator/source_files.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "coordinator/fetcher.h"
#include "coordinator/own_thread.h"
#include "image/fingerprint.h"
#include "image/stack.h"
#include "process/duplicate.h"
#include "rpc/fd.h"
#include "rpc/kept.capnp.h"
#include "rpc/named_source.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

using Part = process::KeptName::Part;

SourceFile namedSource(const std::string& uri) {
  try {
    return {rpc::makeNamedSource(uri), true};
  } catch (const rpc::BadUri& error) {
    rpc::refuse(rpc::Reason::BAD_INPUT, error.what());
  }
}

SourceFiles duplicates(const SourceFiles& files) {
  SourceFiles result;
  for (const SourceFile& file : files) {
    result.emplace_back(process::duplicate(file.get()), file.packed);
    result.back().fetched = file.fetched;
  }
  return result;
}

std::vector<std::string> namesOf(rpc::SourceSpec::Reader source) {
  std::vector<std::string> names;
  if (source.isUri()) names.emplace_back(source.getUri().cStr());
  if (source.isLayers())
    for (auto layer : source.getLayers()) names.emplace_back(layer.getName().cStr());
  return names;
}

kj::Promise<SourceFiles> filesOf(rpc::SourceSpec::Reader source) {
  if (source.isUri()) {
    SourceFiles files;
    files.push_back(namedSource(source.getUri().cStr()));
    return kj::mv(files);
  }
  const auto layers = source.getLayers();
  if (layers.size() == 0) rpc::refuse(rpc::Reason::BAD_INPUT, "no source was given: give the memory file");
  if (layers.size() > process::MOST_LAYERS)
    rpc::refuse(rpc::Reason::BAD_INPUT, std::to_string(layers.size()) + " layers are more than the " +
                                            std::to_string(process::MOST_LAYERS) +
                                            " that a source can have: flatten some of them");
  auto files = kj::heapArrayBuilder<kj::Promise<kj::AutoCloseFd>>(layers.size());
  for (auto layer : layers) {
    if (!layer.hasFile()) rpc::refuse(rpc::Reason::BAD_INPUT, "the source's layer comes without a file");
    files.add(rpc::requireFd(layer.getFile(), "source"));
  }
  std::vector<bool> packed;
  for (auto layer : layers) packed.push_back(layer.getPacked());
  return kj::joinPromises(files.finish()).then([packed = std::move(packed)](kj::Array<kj::AutoCloseFd> got) {
    SourceFiles result;
    for (std::size_t i = 0; i < got.size(); i++) result.emplace_back(kj::mv(got[i]), packed[i]);
    return result;
  });
}

std::string nameOf(const std::vector<std::string>& layers) {
  std::string text;
  for (const std::string& layer : layers) text += (text.empty() ? "" : " over ") + layer;
  return text;
}

namespace {

// The packed ones opened, one after the other.
kj::Promise<SourceFiles> opened(Fetcher& fetcher, SourceFiles files, std::vector<std::string> names) {
  const auto next = std::find_if(files.begin(), files.end(), [](const SourceFile& file) {
    return file.packed && file.fetched == nullptr;
  });
  if (next == files.end()) return kj::mv(files);
  const auto index = static_cast<std::size_t>(next - files.begin());
  const std::string name = index < names.size() ? names[index] : "the source";
  return fetcher.open(process::duplicate(next->get()), name)
      .then([&fetcher, files = kj::mv(files), names = std::move(names), index,
             name](FetchedRef fetched) mutable {
        const bool lowest = index + 1 == files.size();
        if (lowest && fetched->facts.layered)
          rpc::refuse(rpc::Reason::BAD_SOURCE,
                      name + " is a differential image: name what it lies over as well (--over)");
        if (!lowest && !fetched->facts.layered)
          rpc::refuse(rpc::Reason::BAD_SOURCE,
                      name +
                          " can't be an upper layer: it is a full image, and hides what "
                          "is below it; a differential one is packed with --over");
        files[index].fetched = std::move(fetched);
        return opened(fetcher, kj::mv(files), std::move(names));
      });
}

std::vector<process::FileIdentity> identitiesBelow(const SourceFiles& files, std::size_t index) {
  std::vector<process::FileIdentity> identities;
  for (std::size_t i = index + 1; i < files.size(); i++)
    identities.push_back(process::identityOf(files[i].get()));
  return identities;
}

// Compares what lies below each differential image with what it was packed over, from the layer `index` on. Whatever names the
// layers may not have done so.
kj::Promise<SourceFiles> overTheirBases(Fetcher& fetcher, SourceFiles files, std::vector<std::string> names,
                                        std::size_t index) {
  while (index + 1 < files.size() &&
         (files[index].fetched == nullptr || !files[index].fetched->facts.layered ||
          files[index].fetched->knownBelow == identitiesBelow(files, index)))
    index++;
  if (index + 1 >= files.size()) return kj::mv(files);
  const FetchedRef lowest = files.back().fetched;
  const bool served = lowest != nullptr && !lowest->uri.empty();
  std::vector<kj::AutoCloseFd> below;
  for (std::size_t i = index + 1; i + (served ? 1 : 0) < files.size(); i++)
    below.push_back(process::duplicate(files[i].get()));
  return fetcher.baseOf(files[index].fetched)
      .then([&fetcher, served, lowest](std::uint64_t) -> kj::Promise<std::uint64_t> {
        if (!served) return std::uint64_t{0};
        return fetcher.fingerprintOf(lowest);
      })
      .then([&fetcher, below = std::move(below)](std::uint64_t base) mutable {
        return fetcher.fingerprint(std::move(below), base);
      })
      .then([&fetcher, files = kj::mv(files), names = std::move(names), index](std::uint64_t is) mutable {
        FetchedSource& layer = *files[index].fetched;
        if (is != layer.base)
          rpc::refuse(rpc::Reason::BAD_SOURCE,
                      (index < names.size() ? names[index] : "a layer") +
                          " lies over a memory of fingerprint " + image::fingerprintText(layer.base) +
                          ", and what is named below it has " + image::fingerprintText(is) +
                          ": name its own base (faultline info)");
        layer.knownBelow = identitiesBelow(files, index);
        return overTheirBases(fetcher, kj::mv(files), std::move(names), index + 1);
      });
}

kj::Promise<SourceFiles> checked(SourceFiles files, const std::vector<std::string>& names) {
  if (files.size() < 2) return kj::mv(files);
  auto own = std::make_shared<SourceFiles>(kj::mv(files));
  auto why = std::make_shared<std::optional<std::string>>();
  auto looked = inOwnThread("the layers of a source cannot be looked at", [own, why, names] {
    std::vector<image::StackFile> stack;
    for (std::size_t i = 0; i < own->size(); i++) {
      const int file = (*own)[i].content();
      // A source that came by call has no path of ours but this one.
      stack.push_back({file, i < names.size() ? names[i] : "", "/proc/self/fd/" + std::to_string(file),
                       (*own)[i].fetched != nullptr});
    }
    *why = image::whyNotStack(stack);
  });
  return looked.then([own, why] {
    if (why->has_value()) rpc::refuse(rpc::Reason::BAD_SOURCE, **why);
    return kj::mv(*own);
  });
}

bool anyFetched(const SourceFiles& files) {
  return std::any_of(files.begin(), files.end(),
                     [](const SourceFile& file) { return file.fetched != nullptr; });
}

bool ofRestore(const process::KeptName& owner) {
  return owner.kind == process::KeptName::Kind::restore;
}

process::KeptName layerName(const process::KeptName& owner, Part part, std::size_t index,
                            const SourceFiles& files) {
  if (ofRestore(owner) && anyFetched(files)) return owner.with(part, files.size() - index);
  return owner.layer(index, files.size());
}

}  // namespace

kj::Promise<SourceFiles> checkedStack(Fetcher& fetcher, SourceFiles files,
                                      const std::vector<std::string>& names) {
  if (std::none_of(files.begin(), files.end(), [](const SourceFile& file) { return file.packed; }))
    return checked(kj::mv(files), names);
  return opened(fetcher, kj::mv(files), names)
      .then([names](SourceFiles all) { return checked(kj::mv(all), names); })
      .then([&fetcher, names](SourceFiles all) { return overTheirBases(fetcher, kj::mv(all), names, 0); });
}

std::vector<SourceLayer> layersOf(const SourceFiles& files, const std::vector<std::string>& names) {
  std::vector<SourceLayer> layers;
  if (files.size() == 1 && !anyFetched(files)) return layers;
  for (std::size_t i = 0; i < files.size(); i++)
    layers.push_back(
        {i < names.size() ? names[i] : "", process::identityOf(files[i].get()), files[i].fetched != nullptr});
  return layers;
}

std::optional<std::string> whatChanged(const SourceFiles& files, const std::vector<SourceLayer>& were) {
  // The bytes of one that is fetched are checked as they come.
  for (std::size_t i = 0; i < files.size() && i < were.size(); i++)
    if (auto what = were[i].fetched
                        ? std::nullopt
                        : process::whatChanged(were[i].identity, process::identityOf(files[i].get())))
      return "layer " + were[i].name + " " + *what + " since the restore began";
  return std::nullopt;
}

void store(SupervisorLink& link, const process::KeptName& owner, const SourceFiles& files) {
  for (std::size_t i = 0; i < files.size(); i++) {
    link.store(layerName(owner, Part::source, i, files), files[i].get());
    if (!ofRestore(owner) || files[i].fetched == nullptr) continue;
    link.store(layerName(owner, Part::cache, i, files), files[i].fetched->data.get());
    link.store(layerName(owner, Part::map, i, files), files[i].fetched->map.get());
    link.store(layerName(owner, Part::ring, i, files), files[i].fetched->ring.get());
  }
}

void drop(SupervisorLink& link, const process::KeptName& owner, std::size_t files) {
  link.drop(owner.with(Part::source, 0));
  for (std::size_t number = 1; number <= files; number++)
    for (const Part part : {Part::source, Part::cache, Part::map, Part::ring})
      if (part == Part::source || ofRestore(owner)) link.drop(owner.with(part, number));
}

namespace {

// Takes over what is kept of a layer's cache; null: there is none, or it is not whole.
FetchedRef takeCache(Fetcher& fetcher, Inheritance& inherited, const process::KeptName& owner,
                     std::size_t number, int origin) {
  if (!ofRestore(owner)) return nullptr;
  kj::AutoCloseFd data = inherited.take(owner.with(Part::cache, number)),
                  map = inherited.take(owner.with(Part::map, number)),
                  ring = inherited.take(owner.with(Part::ring, number));
  if (data.get() < 0 || map.get() < 0 || ring.get() < 0) return nullptr;
  FetchedRef taken;
  KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] {
                 taken = fetcher.adopt(process::duplicate(origin),
                                       "layer " + std::to_string(number) + " of restore " + owner.key,
                                       kj::mv(data), kj::mv(map), kj::mv(ring));
               }))
    spdlog::error("restore {}: the cache of a layer cannot be taken over: {}", owner.key,
                  e->getDescription().cStr());
  return taken;
}

}  // namespace

SourceFiles take(Fetcher& fetcher, Inheritance& inherited, const process::KeptName& owner) {
  SourceFiles files;
  if (kj::AutoCloseFd single = inherited.take(owner.with(Part::source, 0)); single.get() >= 0) {
    files.push_back(kj::mv(single));
    return files;
  }
  while (files.size() < process::MOST_LAYERS) {
    kj::AutoCloseFd file = inherited.take(owner.with(Part::source, files.size() + 1));
    if (file.get() < 0) break;
    const int origin = file.get();
    files.emplace_back(kj::mv(file));
    files.back().fetched = takeCache(fetcher, inherited, owner, files.size(), origin);
    files.back().packed = files.back().fetched != nullptr;
  }
  if (files.size() == 1 && files[0].fetched == nullptr) files.clear();  // the rest is missing
  std::reverse(files.begin(), files.end());
  return files;
}

bool areOf(const SourceFiles& files, const std::vector<SourceLayer>& layers) {
  if (files.size() != std::max<std::size_t>(layers.size(), 1)) return false;
  for (std::size_t i = 0; i < layers.size(); i++)
    if (layers[i].fetched != (files[i].fetched != nullptr)) return false;
  return true;
}

kj::AutoCloseFd keptLayers(const std::vector<SourceLayer>& layers) {
  int memory;
  KJ_SYSCALL(memory = memfd_create("faultline-layers", MFD_CLOEXEC));
  kj::AutoCloseFd kept(memory);
  capnp::MallocMessageBuilder message;
  auto list = message.initRoot<rpc::KeptLayers>().initLayers(static_cast<unsigned>(layers.size()));
  for (unsigned i = 0; i < list.size(); i++) {
    const process::FileIdentity& identity = layers[i].identity;
    list[i].setName(layers[i].name.c_str());
    list[i].setDevice(identity.device);
    list[i].setInode(identity.inode);
    list[i].setBytes(identity.bytes);
    list[i].setModified(identity.modified);
    list[i].setChanged(identity.changed);
    list[i].setLinks(identity.links);
    list[i].setFetched(layers[i].fetched);
  }
  capnp::writeMessageToFd(memory, message);
  return kept;
}

std::vector<SourceLayer> layersFrom(int kept) {
  KJ_SYSCALL(lseek(kept, 0, SEEK_SET));
  capnp::StreamFdMessageReader message(kept);
  std::vector<SourceLayer> layers;
  for (auto layer : message.getRoot<rpc::KeptLayers>().getLayers())
    layers.push_back({layer.getName().cStr(),
                      {.device = layer.getDevice(),
                       .inode = layer.getInode(),
                       .bytes = layer.getBytes(),
                       .modified = layer.getModified(),
                       .changed = layer.getChanged(),
                       .links = layer.getLinks()},
                      layer.getFetched()});
  return layers;
}

}  // namespace faultline::coordinator
