// Errors that a file system reports as a file is closed are no reason to end a process that holds the files of others:
// the fd is closed all the same. (A FUSE file system whose program has gone answers ENOTCONN, NFS what its last write
// came to.) kj::AutoCloseFd makes an exception of it, in destructors where that ends the process.
#pragma once

#include <kj/exception.h>

namespace faultline::process {

// Errors of close() are logged, and are nothing else, in this thread for as long as the object is there. On the stack, as
// every kj::ExceptionCallback.
class CloseErrorsLogged final : public kj::ExceptionCallback {
 public:
  void onRecoverableException(kj::Exception&& exception) override;
};

}  // namespace faultline::process
