// Listeners that are given by paths (rpc::PlacedListener): the server opens the files and makes the socket, in threads of
// their own, and then has a listener made of them.
#pragma once

#include <kj/async.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/listeners.h"
#include "coordinator/placed_socket.h"

namespace faultline::coordinator {

// The paths that are given, as they are.
std::vector<std::string> layerPathsOf(rpc::PlacedListener::Reader placed);
// Opens the layers of a source by their paths, the top one first, and looks whether they can be one. Refuses (badInput,
// badSource, unsupported) with a text that names the layer.
kj::Promise<SourceFiles> openLayers(Fetcher& fetcher, const std::vector<std::string>& paths);

// Loop thread only.
class PlacedListeners {
 public:
  // The most that are made at a time: a file system that does not answer holds each of them up.
  static constexpr std::size_t MOST_UNDER_WAY = 16;

  PlacedListeners(Listeners& listeners, Fetcher& fetcher) : listeners_(listeners), fetcher_(fetcher) {}

  // Makes a listener and has it kept as made by `origin`. A refused listener leaves nothing behind. `placed` is copied.
  kj::Promise<std::shared_ptr<Listener>> listen(process::Origin origin, rpc::PlacedListener::Reader placed);

 private:
  Listeners& listeners_;
  Fetcher& fetcher_;
  std::set<std::string> underWay_;  // paths of sockets
};

}  // namespace faultline::coordinator
