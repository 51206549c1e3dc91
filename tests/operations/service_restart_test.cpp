// The whole service is restarted under a service manager with an fd store, and no target notices.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "rpc/client.h"
#include "rpc/connection.h"
#include "tests/operations/fake_systemd.h"
#include "tests/operations/load.h"
#include "tests/support/image.h"
#include "tests/support/server.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t SMALL = 4096, LOAD_PAGES = 8192;
constexpr unsigned THREADS = 4;

std::vector<std::string> argumentsFor(const Image& image) {
  const char* level = getenv("FAULTLINE_TEST_LOG");
  return {"--control",     image.directory() + "/control",
          "--socket",      image.directory() + "/socket",
          "--memory",      image.path(),
          "--name",        "vm",
          "--shards",      "3",
          "--no-prefault", "--keep-serving",
          "--log-level",   level != nullptr ? level : "off"};
}

void awaitFile(const std::string& path) {
  await([&] { return access(path.c_str(), F_OK) == 0; });
}

TEST(ServiceRestart, LosesNoTarget) {
  Image image(LOAD_PAGES * SMALL);
  const std::string socket = image.directory() + "/socket", control = image.directory() + "/control";
  FakeSystemd systemd(argumentsFor(image));
  systemd.start();
  awaitFile(socket);
  Target target(image, socket, SMALL);
  Load load(target, THREADS);
  load.awaitMore(20);

  // `systemctl restart`: all of it is left, and no process that would go on with it.
  EXPECT_EQ(systemd.end(SIGUSR1), 75);
  EXPECT_EQ(access(socket.c_str(), F_OK), 0) << "a target that comes meanwhile would be refused";
  systemd.start();
  load.awaitMore(20);

  // The machine's memory ran out, say: all of it is killed.
  systemd.kill();
  systemd.start();
  load.awaitMore(20);

  // Targets that come now are served by the socket that was made by the first.
  Target late(image, socket, SMALL);
  EXPECT_TRUE(late.holdsImage(1));
  load.finish();

  EXPECT_EQ(systemd.end(SIGTERM), 0);
  EXPECT_TRUE(systemd.kept().empty()) << systemd.kept().front();
  EXPECT_NE(access(socket.c_str(), F_OK), 0) << "the socket's file is left behind";
}

// Kept segments have slots for as many workers as there were.
TEST(ServiceRestart, WithMoreWorkersThanWhatIsKeptHasSlotsFor) {
  Image image(LOAD_PAGES * SMALL);
  FakeSystemd systemd(argumentsFor(image));
  systemd.start({"--workers", "1"});
  Target target(image, image.directory() + "/socket", SMALL);
  ASSERT_TRUE(target.holdsImage(0));
  EXPECT_EQ(systemd.end(SIGUSR1), 75);
  systemd.start({"--workers", "4"});
  for (std::uint64_t page = 0; page < target.pages(); page += 100)
    ASSERT_TRUE(target.holdsImage(page)) << page;
  Target late(image, image.directory() + "/socket", SMALL);
  EXPECT_TRUE(late.holdsImage(1));
  EXPECT_EQ(systemd.end(SIGTERM), 0);
}

// The target came while the service was down, by a socket of the service manager's, and waits as the
// coordinator begins.
TEST(ServiceRestart, ATargetThatCameBeforeTheServiceIsServed) {
  Image image(LOAD_PAGES * SMALL);
  const std::string socket = image.directory() + "/socket";
  FakeSystemd systemd(argumentsFor(image));
  systemd.give("listener.vm.listen", rpc::listenAt(socket));
  Target target(image, socket, SMALL);
  systemd.start();
  EXPECT_TRUE(target.holdsImage(7));
  EXPECT_EQ(systemd.end(SIGTERM), 0);
}

}  // namespace
}  // namespace faultline::test
