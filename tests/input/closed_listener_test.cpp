// What becomes of targets that have connected, and not said their handshake, when their listener is closed.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "rpc/connection.h"
#include "rpc/fd.h"
#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

TEST(ClosedListener, HangsUpOnWhoeverHasNotSaidItsHandshake) {
  Image image(64 * 4096);
  Server server(image, {.more = {"--handshake-timeout-ms", "600000"}});
  const std::string socket = image.directory() + "/closed";
  auto request = server.client().coordinator().listenRequest();
  request.initSpec().setName("closed");
  request.setSource(rpc::makeFd(kj::AutoCloseFd(open(image.path().c_str(), O_RDONLY | O_CLOEXEC))));
  request.setSocket(rpc::makeFd(rpc::listenAt(socket)));
  auto listener = server.wait(request.send()).getListener();

  const kj::AutoCloseFd silent = rpc::connectTo(socket);
  Target target(image, socket, 4096);  // behind it: both are known when this one is served
  server.wait(listener.nextRestoreRequest().send());
  server.wait(listener.closeRequest().send());
  char byte;
  EXPECT_EQ(recv(silent.get(), &byte, 1, 0), 0);
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

}  // namespace
}  // namespace faultline::test
