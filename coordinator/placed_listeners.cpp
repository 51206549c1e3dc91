#include "coordinator/placed_listeners.h"

#include <capnp/message.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "coordinator/call_inputs.h"
#include "coordinator/own_thread.h"
#include "image/packed_look.h"
#include "process/content_size.h"
#include "process/file_identity.h"
#include "process/plain_text.h"
#include "rpc/refusal.h"
#include "rpc/source_uri.h"

namespace faultline::coordinator {

namespace {

using rpc::Reason;

constexpr std::size_t MOST_LAYER_PATH = 4096;  // bytes

void requireLayerPaths(const std::vector<std::string>& paths) {
  if (paths.empty()) rpc::refuse(Reason::BAD_INPUT, "no layer is given: give the path of the memory file");
  if (paths.size() > process::MOST_LAYERS)
    rpc::refuse(Reason::BAD_INPUT, std::to_string(paths.size()) + " layers are more than the " +
                                       std::to_string(process::MOST_LAYERS) +
                                       " that a source can have: flatten some of them");
  for (const std::string& path : paths) {
    if (rpc::SourceUri::isMeant(path)) continue;  // namedSource() looks at it
    if (path.empty() || path.front() != '/' || path.size() > MOST_LAYER_PATH ||
        path != process::plainText(path))
      rpc::refuse(
          Reason::BAD_INPUT,
          "a layer is given by its absolute path, of at most 4096 bytes and without control characters");
  }
}

kj::AutoCloseFd openLayer(const std::string& path) {
  const auto refuse = [&path](const std::string& why) {
    rpc::refuse(Reason::BAD_SOURCE, "memory file " + path + ": " + why);
  };
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) refuse(std::strerror(errno));
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    refuse("it is no regular file and no block device");
  kj::AutoCloseFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) refuse(std::strerror(errno));
  const auto bytes = process::contentBytes(fd.get());
  if (!bytes.has_value()) refuse("it is no regular file and no block device");
  if (*bytes == 0) refuse("it is empty; was the snapshot written?");
  // io_uring would take the flag for a wish not to wait.
  if (fcntl(fd.get(), F_SETFL, 0) != 0) refuse(std::strerror(errno));
  return fd;
}

// A listener on its way, in the order in which its parts come.
struct Making {
  kj::Own<rpc::PlacedListener::Reader> placed;
  ListenerSpec spec;
  SourceFiles source;
  std::unique_ptr<PlacedSocket> socket;
};

}  // namespace

std::vector<std::string> layerPathsOf(rpc::PlacedListener::Reader placed) {
  std::vector<std::string> paths;
  for (auto layer : placed.getLayers()) paths.emplace_back(layer.cStr());
  return paths;
}

kj::Promise<SourceFiles> openLayers(Fetcher& fetcher, const std::vector<std::string>& paths) {
  requireLayerPaths(paths);
  auto files = std::make_shared<SourceFiles>();
  return workInOwnThread([paths, files] {
           for (const std::string& path : paths) {
             if (rpc::SourceUri::isMeant(path)) {
               files->push_back(namedSource(path));
               continue;
             }
             kj::AutoCloseFd file = openLayer(path);
             const bool packed = image::looksPacked(file.get());
             files->emplace_back(kj::mv(file), packed);
           }
         })
      .then([&fetcher, paths, files] { return checkedStack(fetcher, kj::mv(*files), paths); });
}

kj::Promise<std::shared_ptr<Listener>> PlacedListeners::listen(process::Origin origin,
                                                               rpc::PlacedListener::Reader placed) {
  listeners_.requireFree(placed.getSpec().getName().cStr());
  const SocketWish wish = wishFrom(placed.getSocket());
  if (const auto name = listeners_.at(wish.path))
    rpc::refuse(Reason::NAME_TAKEN, "socket " + wish.path + ": it is that of listener " + *name);
  if (underWay_.count(wish.path) != 0)
    rpc::refuse(Reason::NAME_TAKEN, "socket " + wish.path + ": another call is making it");
  if (underWay_.size() >= MOST_UNDER_WAY)
    rpc::refuse(Reason::LIMIT_REACHED,
                std::to_string(underWay_.size()) +
                    " listeners are being made already: does a file system not answer?");
  auto making = std::make_shared<Making>(Making{capnp::clone(placed), {}, {}, nullptr});
  auto source = openLayers(fetcher_, layerPathsOf(placed));
  underWay_.insert(wish.path);
  return source
      .then([making](SourceFiles files) {
        making->spec = listenerSpecFrom(making->placed->getSpec(), layerPathsOf(*making->placed), files);
        making->source = kj::mv(files);
      })
      .then([making, wish] {
        return workInOwnThread([making, wish] { making->socket = std::make_unique<PlacedSocket>(wish); });
      })
      .then([this, making, origin] {
        making->spec.place = making->socket->place();
        auto listener = listeners_.listen(origin, std::move(making->spec), making->socket->take(),
                                          kj::mv(making->source));
        making->socket->keep();
        return listener;
      })
      .attach(kj::defer([this, path = wish.path] { underWay_.erase(path); }));
}

}  // namespace faultline::coordinator
