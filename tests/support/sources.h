// Sources as calls name them.
#pragma once

#include <fcntl.h>

#include <string>

#include "rpc/control.capnp.h"
#include "rpc/fd.h"

namespace faultline::test {

// A memory file.
inline void fill(rpc::SourceSpec::Builder to, const std::string& path) {
  auto layer = to.initLayers(1)[0];
  layer.setFile(rpc::makeFd(kj::AutoCloseFd(open(path.c_str(), O_RDONLY | O_CLOEXEC))));
  layer.setName(path.c_str());
}

}  // namespace faultline::test
