// wait, status of one restore, and the screen of status --watch, against a service and a target that stands still.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/errors.h"
#include "tests/cli/command.h"
#include "tests/cli/terminal.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::uint64_t PAGES = 64;

Command::Result ask(Server& server, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--control", server.control()});
  return run(arguments);
}
std::unique_ptr<Command> begin(Server& server, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--control", server.control()});
  return std::make_unique<Command>(arguments);
}

TEST(Wait, ReturnsWhenARestoreIsReadyThatWasNotThereYet) {
  Image image(PAGES * 4096);
  Server server(image);
  const auto waiting = begin(server, {"wait", "vm", "--for", "ready"});
  EXPECT_EQ(ask(server, {"wait", "vm", "--for", "ready", "--timeout", "0.2"}).code, cli::INCOMPLETE);
  const Target target(image, server.socket(), 4096);
  const auto result = waiting->finish();
  EXPECT_EQ(result.code, cli::OK) << result.err;
  EXPECT_THAT(result.out, HasSubstr("vm is served"));
}

TEST(Wait, ReturnsWhenEveryPageIsThereAndSaysHowManyAreMissingWhereThatTakesTooLong) {
  Image image(PAGES * 4096);
  Server server(image);
  const Target target(image, server.socket(), 4096);
  server.restore();
  ASSERT_TRUE(target.holdsImage(0));
  const auto late = ask(server, {"wait", "vm", "--for", "complete", "--timeout", "0.2"});
  EXPECT_EQ(late.code, cli::INCOMPLETE);
  EXPECT_THAT(late.err, HasSubstr("of 64 pages are still missing"));
  const auto waiting = begin(server, {"wait", "vm", "--for", "complete"});
  ASSERT_EQ(ask(server, {"prefault", "vm", "--wait"}).code, cli::OK);
  EXPECT_EQ(waiting->finish().code, cli::OK);
  EXPECT_EQ(ask(server, {"wait", "other", "--for", "complete"}).code, cli::NOT_FOUND);
}

TEST(Wait, GoesOnWithTheSuccessorOfACoordinator) {
  Image image(PAGES * 4096);
  Server server(image);
  auto target = std::make_unique<Target>(image, server.socket(), 4096);
  server.restore();
  const auto ended = begin(server, {"wait", "vm", "--for", "ended"});
  const pid_t former = server.coordinatorPid();
  kill(former, SIGKILL);
  server.reconnect();
  target.reset();
  const auto result = ended->finish();
  EXPECT_EQ(result.code, cli::OK) << result.err;
}

TEST(Wait, KnowsOfARestoreThatHasEnded) {
  Image image(PAGES * 4096);
  Server server(image);
  auto target = std::make_unique<Target>(image, server.socket(), 4096);
  server.restore();
  target.reset();
  await([&] { return server.status().getRestores().size() == 0; });
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  const auto result = ask(server, {"wait", "vm", "--for", "ended"});
  EXPECT_EQ(result.code, cli::OK) << result.err;
  EXPECT_THAT(result.out, HasSubstr("vm: "));
  EXPECT_EQ(ask(server, {"wait", "vm", "--for", "complete"}).code, cli::NOT_FOUND)
      << "the next one may come yet";
}

TEST(StatusOfOne, IsOfThatRestoreAlone) {
  Image image(PAGES * 4096);
  Server server(image);
  const Target first(image, server.socket(), 4096), second(image, server.socket(), 4096);
  server.restore(1);
  EXPECT_THAT(ask(server, {"status", "vm-2"}).out, AllOf(HasSubstr("\nvm-2: "), Not(HasSubstr("\nvm: "))));
  EXPECT_EQ(ask(server, {"status", "vm-3"}).code, cli::NOT_FOUND);
  const json filtered = json::parse(ask(server, {"status", "--json", "--filter", "-2"}).out);
  EXPECT_EQ(filtered["restores"].size(), 1u);
}

// The first screen of status --watch that has all of `words`.
std::string screenWith(const Server& server, const std::vector<std::string>& words) {
  Terminal terminal({"status", "--watch", "0.2", "--control", server.control()});
  while (terminal.readOn()) {
    const std::string& text = terminal.text();
    // What comes after the last return to the first line but one.
    const std::size_t last = text.rfind("\033[H");
    const std::size_t begin = last == std::string::npos || last == 0 ? 0 : text.rfind("\033[H", last - 1);
    const std::string screen = text.substr(begin == std::string::npos ? 0 : begin, last - begin);
    if (std::all_of(words.begin(), words.end(),
                    [&](const std::string& each) { return screen.find(each) != std::string::npos; }))
      return screen;
  }
  return "";
}

TEST(StatusScreen, ShowsStallsFirstAndFitsTheTerminal) {
  Image image(PAGES * 4096);
  Server server(image);
  Target target(image, server.socket(), 4096);
  auto restore = server.restore();
  server.wait(restore.pauseRequest().send());
  auto read = target.readLater(7);
  const std::string screen = screenWith(server, {"STALLED, paused: 1 threads of vm", "RESTORE", "paused"});
  ASSERT_FALSE(screen.empty());
  EXPECT_LT(screen.find("STALLED"), screen.find("RESTORE"));
  std::size_t width = 0;
  for (const char each : screen) {
    width = each == '\n' || each == '\r' ? 0 : width + 1;
    // With the few bytes that clear the rest of a line.
    EXPECT_LE(width, 80u + 6u);
  }
  server.wait(restore.resumeRequest().send());
  read.get();
}

}  // namespace
}  // namespace faultline::test
