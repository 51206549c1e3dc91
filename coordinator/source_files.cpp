#include "coordinator/source_files.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "coordinator/own_thread.h"
#include "image/stack.h"
#include "process/duplicate.h"
#include "rpc/fd.h"
#include "rpc/kept.capnp.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

using Part = process::KeptName::Part;

SourceFiles duplicates(const SourceFiles& files) {
  SourceFiles result;
  for (const kj::AutoCloseFd& file : files) result.push_back(process::duplicate(file.get()));
  return result;
}

std::vector<std::string> namesOf(rpc::SourceSpec::Reader source) {
  std::vector<std::string> names;
  if (source.isLayers())
    for (auto layer : source.getLayers()) names.emplace_back(layer.getName().cStr());
  return names;
}

kj::Promise<SourceFiles> filesOf(rpc::SourceSpec::Reader source) {
  if (source.isUri())
    rpc::refuse(rpc::Reason::UNSUPPORTED,
                "sources by URI are not served by this build: give the memory file");
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
  return kj::joinPromises(files.finish()).then([](kj::Array<kj::AutoCloseFd> got) {
    SourceFiles result;
    for (kj::AutoCloseFd& file : got) result.push_back(kj::mv(file));
    return result;
  });
}

std::string nameOf(const std::vector<std::string>& layers) {
  std::string text;
  for (const std::string& layer : layers) text += (text.empty() ? "" : " over ") + layer;
  return text;
}

kj::Promise<SourceFiles> checkedStack(SourceFiles files, const std::vector<std::string>& names) {
  if (files.size() < 2) return kj::mv(files);
  auto own = std::make_shared<SourceFiles>(kj::mv(files));
  auto why = std::make_shared<std::optional<std::string>>();
  auto looked = inOwnThread("the layers of a source cannot be looked at", [own, why, names] {
    std::vector<image::StackFile> stack;
    for (std::size_t i = 0; i < own->size(); i++) {
      const int file = (*own)[i].get();
      // A source that came by call has no path of ours but this one.
      stack.push_back({file, i < names.size() ? names[i] : "", "/proc/self/fd/" + std::to_string(file)});
    }
    *why = image::whyNotStack(stack);
  });
  return looked.then([own, why] {
    if (why->has_value()) rpc::refuse(rpc::Reason::BAD_SOURCE, **why);
    return kj::mv(*own);
  });
}

std::vector<SourceLayer> layersOf(const SourceFiles& files, const std::vector<std::string>& names) {
  std::vector<SourceLayer> layers;
  for (std::size_t i = 0; files.size() > 1 && i < files.size(); i++)
    layers.push_back({i < names.size() ? names[i] : "", process::identityOf(files[i].get())});
  return layers;
}

std::optional<std::string> whatChanged(const SourceFiles& files, const std::vector<SourceLayer>& were) {
  for (std::size_t i = 0; i < files.size() && i < were.size(); i++)
    if (auto what = process::whatChanged(were[i].identity, process::identityOf(files[i].get())))
      return "layer " + were[i].name + " " + *what + " since the restore began";
  return std::nullopt;
}

void store(SupervisorLink& link, const process::KeptName& owner, const SourceFiles& files) {
  for (std::size_t i = 0; i < files.size(); i++) link.store(owner.layer(i, files.size()), files[i].get());
}

void drop(SupervisorLink& link, const process::KeptName& owner, std::size_t files) {
  link.drop(owner.with(Part::source, 0));
  for (std::size_t number = 1; files > 1 && number <= files; number++)
    link.drop(owner.with(Part::source, number));
}

SourceFiles take(Inheritance& inherited, const process::KeptName& owner) {
  SourceFiles files;
  if (kj::AutoCloseFd single = inherited.take(owner.with(Part::source, 0)); single.get() >= 0) {
    files.push_back(kj::mv(single));
    return files;
  }
  while (files.size() < process::MOST_LAYERS) {
    kj::AutoCloseFd file = inherited.take(owner.with(Part::source, files.size() + 1));
    if (file.get() < 0) break;
    files.push_back(kj::mv(file));
  }
  if (files.size() == 1) files.clear();  // the rest is missing
  std::reverse(files.begin(), files.end());
  return files;
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
                       .links = layer.getLinks()}});
  return layers;
}

}  // namespace faultline::coordinator
