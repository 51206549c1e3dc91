// Sources as calls name them.
#pragma once

#include <fcntl.h>

#include <string>
#include <vector>

#include "rpc/control.capnp.h"
#include "rpc/fd.h"

namespace faultline::test {

// A memory file.
inline void fill(rpc::SourceSpec::Builder to, const std::string& path) {
  auto layer = to.initLayers(1)[0];
  layer.setFile(rpc::makeFd(kj::AutoCloseFd(open(path.c_str(), O_RDONLY | O_CLOEXEC))));
  layer.setName(path.c_str());
}

// Layers, the top one first.
inline void fill(rpc::SourceSpec::Builder to, const std::vector<std::string>& paths) {
  auto layers = to.initLayers(static_cast<unsigned>(paths.size()));
  for (unsigned i = 0; i < layers.size(); i++) {
    layers[i].setFile(rpc::makeFd(kj::AutoCloseFd(open(paths[i].c_str(), O_RDONLY | O_CLOEXEC))));
    layers[i].setName(paths[i].c_str());
  }
}

}  // namespace faultline::test
