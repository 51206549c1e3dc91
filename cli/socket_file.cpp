#include "cli/socket_file.h"

#include <kj/exception.h>
#include <unistd.h>

#include "cli/errors.h"
#include "process/message.h"
#include "rpc/connection.h"

namespace faultline::cli {

SocketFile::SocketFile(const std::string& path) : path_(path) {
  auto failure = kj::runCatchingExceptions([&] { fd_ = rpc::listenAt(path); });
  KJ_IF_MAYBE (e, failure) {
    throw CommandError(USAGE, "socket: " + process::messageOf(*e));
  }
}

SocketFile::~SocketFile() {
  if (!left_) unlink(path_.c_str());
}

}  // namespace faultline::cli
