#include "rpc/source_connector.h"

#include <kj/debug.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "process/duplicate.h"
#include "process/plain_text.h"
#include "process/process.h"
#include "rpc/answering.h"
#include "rpc/connection.h"
#include "rpc/fd.h"
#include "rpc/refusal.h"

namespace faultline::rpc {

namespace {

constexpr kj::Duration LIMIT = 10 * kj::SECONDS;
constexpr unsigned MOST_AT_ONCE = 8;
constexpr std::size_t MOST_WHY = 500;  // bytes
constexpr char CONNECTED = 'c', FAILED = 'f';

// A process that connects; killed and reaped as this goes.
struct Attempt {
  Attempt(kj::AsyncIoContext& io, const std::string& uri, int program) {
    auto [ours, theirs] = streamPair();
    child = process::startProcess(process::siblingExecutable("faultline-fetcher"), {"--connect", uri},
                                  theirs.get(), {.image = program});
    stream = io.lowLevelProvider->wrapUnixSocketFd(kj::mv(ours));
  }
  // Its end is not waited for here: that may take a moment, which is nothing to the loop.
  ~Attempt() {
    process::sendSignal(child.pidfd.get(), SIGKILL);
    try {
      auto pidfd = std::make_shared<kj::AutoCloseFd>(process::duplicate(child.pidfd.get()));
      std::thread([pidfd] { process::endChild(pidfd->get(), std::chrono::seconds(10)); }).detach();
    } catch (const std::system_error&) {
      process::endChild(child.pidfd.get(), std::chrono::milliseconds(100));
    }
  }
  Attempt(const Attempt&) = delete;

  process::ChildProcess child;
  kj::Own<kj::AsyncCapabilityStream> stream;
  std::array<char, 1024> text{};
  kj::AutoCloseFd socket;
};

class ConnectorServer final : public Answering<Connector> {
 public:
  ConnectorServer(kj::AsyncIoContext& io, std::string uri, int program, ConnectionNews news)
      : io_(io), uri_(std::move(uri)), program_(program), news_(std::move(news)) {}

  kj::Promise<void> connect(ConnectContext context) override {
    if (underWay_ >= MOST_AT_ONCE)
      refuse(Reason::LIMIT_REACHED, std::to_string(underWay_) + " connections are being made already");
    auto attempt = kj::heap<Attempt>(io_, uri_, program_);
    Attempt& under = *attempt;
    underWay_++;
    return under.stream->tryReadWithFds(under.text.data(), 1, under.text.size(), &under.socket, 1)
        .then([&under, context](kj::AsyncCapabilityStream::ReadResult got) mutable {
          if (got.byteCount > 0 && under.text[0] == CONNECTED && got.capCount == 1)
            return context.getResults().setSocket(makeFd(kj::mv(under.socket)));
          const std::string why(under.text.data() + std::min<std::size_t>(1, got.byteCount),
                                got.byteCount - std::min<std::size_t>(1, got.byteCount));
          refuse(Reason::BAD_SOURCE, got.byteCount > 1 && under.text[0] == FAILED
                                         ? process::plainText(why)
                                         : "the process that connects has ended without a word");
        })
        .exclusiveJoin(io_.provider->getTimer().afterDelay(LIMIT).then(
            [] { refuse(Reason::BAD_SOURCE, "no connection could be made in 10 s"); }))
        .attach(kj::mv(attempt), kj::defer([this, self = thisCap()] { underWay_--; }));
  }

  kj::Promise<void> lost(LostContext context) override {
    const kj::StringPtr why = context.getParams().getWhy();
    if (news_.lost != nullptr)
      news_.lost(process::plainText(std::string(why.cStr(), std::min(why.size(), MOST_WHY))));
    return kj::READY_NOW;
  }

  kj::Promise<void> made(MadeContext) override {
    if (news_.made != nullptr) news_.made();
    return kj::READY_NOW;
  }

 private:
  kj::AsyncIoContext& io_;
  const std::string uri_;
  const int program_;
  const ConnectionNews news_;
  unsigned underWay_ = 0;
};

void send(int channel, const char* bytes, std::size_t size, int socket) {
  iovec data{const_cast<char*>(bytes), size};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  if (socket >= 0) {
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &socket, sizeof socket);
  }
  sendmsg(channel, &message, MSG_NOSIGNAL);
}

}  // namespace

Connector::Client makeConnector(kj::AsyncIoContext& io, const std::string& uri, int program,
                                ConnectionNews news) {
  return kj::heap<ConnectorServer>(io, uri, program, std::move(news));
}

void sendConnection(int channel, int socket) {
  send(channel, &CONNECTED, 1, socket);
}

void sendNoConnection(int channel, const std::string& why) {
  const std::string text = FAILED + why.substr(0, 1000);
  send(channel, text.data(), text.size(), -1);
}

}  // namespace faultline::rpc
