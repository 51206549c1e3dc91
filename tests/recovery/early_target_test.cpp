// A target that connects while no coordinator serves yet: the supervisor takes its connection, and the first
// coordinator, or a successor, does the handshake once it has taken over.

#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

TEST(EarlyTarget, ThatComesBeforeTheFirstCoordinatorIsServed) {
  Image image(PAGES * SMALL);
  auto early = std::async(std::launch::async, [&] {
    Target target(image, image.directory() + "/socket", SMALL);
    expectContent(target, {});
  });
  Server server(image, {.shards = SHARDS});
  early.get();
}

// The word of the connection comes while the successor is busy with recovery.
TEST(EarlyTarget, ThatComesDuringATakeoverIsServed) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = SHARDS});
  Target first(image, server.socket(), SMALL);
  server.restore();
  const pid_t coordinator = server.coordinatorPid();
  kill(coordinator, SIGSTOP);
  Target second(image, server.socket(), SMALL);
  kill(coordinator, SIGKILL);
  Target third(image, server.socket(), SMALL);
  for (const Target* target : {&first, &second, &third}) expectContent(*target, {});
}

}  // namespace
}  // namespace faultline::test
