// Targets that have connected and not sent their handshake when their listener is closed.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "rpc/connection.h"
#include "rpc/fd.h"
#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/sources.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

// Another one, beside the server's own.
rpc::Listener::Client listenAt(Server& server, const Image& image, const std::string& socket) {
  auto request = server.client().coordinator().listenRequest();
  request.initSpec().setName("closed");
  fill(request.initSource(), image.path());
  request.setSocket(rpc::makeFd(rpc::listenAt(socket)));
  return server.wait(request.send()).getListener();
}

TEST(ClosedListener, HangsUpOnWhoeverHasNotSaidItsHandshake) {
  Image image(64ul * 4096);
  Server server(image, {.more = {"--handshake-timeout-ms", "600000"}});
  const std::string socket = image.directory() + "/closed";
  auto listener = listenAt(server, image, socket);

  const kj::AutoCloseFd silent = rpc::connectTo(socket);
  Target target(image, socket, 4096);  // behind it: both are known when this one is served
  server.wait(listener.nextRestoreRequest().send());
  server.wait(listener.closeRequest().send());
  char byte;
  EXPECT_EQ(recv(silent.get(), &byte, 1, 0), 0);
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

// A second close() is for the listener that was closed, not for one that has taken its name since.
TEST(ClosedListener, LeavesItsNameToTheNext) {
  Image image(64ul * 4096);
  Server server(image);
  auto first = listenAt(server, image, image.directory() + "/first");
  server.wait(first.closeRequest().send());
  const std::string socket = image.directory() + "/second";
  auto second = listenAt(server, image, socket);
  server.wait(first.closeRequest().send());
  Target target(image, socket, 4096);
  server.wait(second.nextRestoreRequest().send());
  EXPECT_TRUE(target.holdsImage(0));
}

}  // namespace
}  // namespace faultline::test
