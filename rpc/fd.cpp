#include "rpc/fd.h"

#include <kj/debug.h>

#include "process/duplicate.h"
#include "rpc/refusal.h"

namespace faultline::rpc {

namespace {

class FdServer final : public Fd::Server {
 public:
  explicit FdServer(kj::AutoCloseFd fd) : fd_(kj::mv(fd)) {}
  kj::Maybe<int> getFd() override { return fd_.get(); }

 private:
  kj::AutoCloseFd fd_;
};

}  // namespace

Fd::Client makeFd(kj::AutoCloseFd fd) {
  return kj::heap<FdServer>(kj::mv(fd));
}

Fd::Client makeFdFrom(int borrowed) {
  return makeFd(process::duplicate(borrowed));
}

kj::Promise<kj::AutoCloseFd> optionalFd(Fd::Client client) {
  // getFd() lends the fd for as long as the client lives, hence the duplicate and the attach.
  auto promise = client.getFd().then([](kj::Maybe<int> fd) {
    KJ_IF_MAYBE (borrowed, fd) {
      return process::duplicate(*borrowed);
    }
    return kj::AutoCloseFd();
  });
  return promise.attach(kj::mv(client));
}

kj::Promise<kj::AutoCloseFd> requireFd(Fd::Client client, kj::StringPtr what) {
  return optionalFd(kj::mv(client)).then([what = kj::str(what)](kj::AutoCloseFd fd) {
    if (fd.get() < 0)
      refuse(Reason::BAD_INPUT,
             kj::str("the call needs a file descriptor and none came with it: ", what).cStr());
    return fd;
  });
}

}  // namespace faultline::rpc
