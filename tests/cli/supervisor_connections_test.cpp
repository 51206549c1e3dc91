// Targets' connections: accepted by the supervisor, and never lost with a coordinator.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "rpc/connection.h"
#include "tests/cli/fake_manager.h"
#include "tests/cli/supervised.h"

namespace faultline::test {
namespace {

using ::testing::ElementsAre;

// A handshake socket with its clients.
class Doors {
 public:
  Doors() : directory_(std::filesystem::temp_directory_path() / "faultline-test-XXXXXX") {
    if (mkdtemp(directory_.data()) == nullptr) throw std::runtime_error("mkdtemp");
  }
  ~Doors() { std::filesystem::remove_all(directory_); }

  kj::AutoCloseFd listen(const std::string& name) { return rpc::listenAt(directory_ + "/" + name); }
  kj::AutoCloseFd connect(const std::string& name) { return rpc::connectTo(directory_ + "/" + name); }

 private:
  std::string directory_;
};

void send(int fd, const std::string& text) {
  ASSERT_EQ(::send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}

std::string receive(int fd) {
  awaitReadable(fd, "data on a connection");
  char text[64];
  const ssize_t got = recv(fd, text, sizeof text, 0);
  return std::string(text, got > 0 ? static_cast<std::size_t>(got) : 0);
}

Beginning withListener(Doors& doors) {
  Beginning setup;
  setup.kept.keep("listener.vm.listen", doors.listen("vm"));
  return setup;
}

TEST(SupervisorConnections, AreHandedToTheCoordinator) {
  Doors doors;
  Supervised supervised(withListener(doors));
  Incarnation first = begin(supervised);

  auto client = doors.connect("vm");
  auto conn = first.expect("conn");
  EXPECT_EQ(conn.name, "listener.vm.conn.1");
  send(client.get(), "handshake");
  EXPECT_EQ(receive(conn.fd.get()), "handshake");

  auto other = doors.connect("vm");
  EXPECT_EQ(first.expect("conn").name, "listener.vm.conn.2");
}

TEST(SupervisorConnections, OutliveACoordinatorUntilTheyAreDropped) {
  Doors doors;
  Supervised supervised(withListener(doors));
  Incarnation first = begin(supervised);
  auto served = doors.connect("vm");
  first.expect("conn");
  auto waiting = doors.connect("vm");
  first.expect("conn");
  first.say("drop", "listener.vm.conn.1");
  send(waiting.get(), "handshake");
  first.kill();

  auto told = supervised.next().introduction();

  EXPECT_THAT(told.names, ElementsAre("listener.vm.listen", "listener.vm.conn.2"));
  EXPECT_EQ(receive(told.fds["listener.vm.conn.2"].get()), "handshake");
  EXPECT_EQ(receive(served.get()), "");  // closed by all processes
}

TEST(SupervisorConnections, AreAcceptedWhileNoCoordinatorIsThere) {
  Doors doors;
  FakeManager manager;  // hears of accepted connections
  Beginning beginning = under(manager);
  beginning.kept.keep("listener.vm.listen", doors.listen("vm"));
  Supervised supervised(kj::mv(beginning));
  Incarnation first = begin(supervised);
  supervised.makeUnstartable();
  first.kill();
  auto client = doors.connect("vm");
  send(client.get(), "handshake");
  manager.skipTo("FDNAME=listener.vm.conn.1");
  supervised.makeStartable();

  auto told = supervised.next().introduction();
  EXPECT_THAT(told.names, ElementsAre("listener.vm.listen", "listener.vm.conn.1"));
  EXPECT_EQ(receive(told.fds["listener.vm.conn.1"].get()), "handshake");
}

TEST(SupervisorConnections, ComeByListenersThatAreAddedLater) {
  Doors doors;
  Supervised supervised;
  Incarnation first = begin(supervised);
  auto listening = doors.listen("late");
  first.say("store", "listener.late.listen", listening.get());

  auto client = doors.connect("late");

  EXPECT_EQ(first.expect("conn").name, "listener.late.conn.1");
}

TEST(SupervisorConnections, EndWithTheirListener) {
  Doors doors;
  Supervised supervised(withListener(doors));
  Incarnation first = begin(supervised);
  first.say("drop", "listener.vm.listen");
  auto second = doors.listen("other");
  first.say("store", "listener.other.listen", second.get());
  auto client = doors.connect("other");
  first.expect("conn");  // by now the drop has been heard

  EXPECT_THROW(doors.connect("vm"), kj::Exception);
}

TEST(SupervisorConnections, BeyondTheLimitWaitInTheKernel) {
  constexpr int LIMIT = 256;
  Doors doors;
  Beginning setup = withListener(doors);
  setup.kept.keep("listener.other.listen", doors.listen("other"));
  Supervised supervised(kj::mv(setup));
  Incarnation first = begin(supervised);
  std::vector<kj::AutoCloseFd> clients;
  for (int i = 0; i < LIMIT; i++) {
    clients.push_back(doors.connect("vm"));
    EXPECT_EQ(first.expect("conn").name, "listener.vm.conn." + std::to_string(i + 1));
  }

  clients.push_back(doors.connect("vm"));
  // Looked at after "vm": what "vm" would give has been given.
  clients.push_back(doors.connect("other"));
  EXPECT_EQ(first.expect("conn").name, "listener.other.conn.1");
  clients.push_back(doors.connect("other"));
  EXPECT_EQ(first.expect("conn").name, "listener.other.conn.2");

  first.order("drop", "listener.vm.conn.17");
  first.expect("said");
  EXPECT_EQ(first.expect("conn").name, "listener.vm.conn.257");
}

TEST(SupervisorConnections, FloodAStoppedCoordinatorWithoutHoldingUpTheWatchdog) {
  Doors doors;
  Beginning setup = withListener(doors);
  setup.kept.keep("listener.other.listen", doors.listen("other"));
  setup.watchdog = std::chrono::milliseconds(500);
  Supervised supervised(kj::mv(setup));
  Incarnation first = begin(supervised);
  first.signal(SIGSTOP);
  // More than a channel takes (278 words here).
  std::vector<kj::AutoCloseFd> clients;
  for (int i = 0; i < 200; i++)
    for (const char* door : {"vm", "other"}) clients.push_back(doors.connect(door));

  Incarnation second = supervised.next();
  auto told = second.introduction();
  EXPECT_EQ(told.number, "2");
  std::size_t connections = told.names.size() - 2;
  while (connections < clients.size()) {
    second.expect("conn");
    connections++;
  }
}

TEST(SupervisorConnections, DoNotComeByWhatIsNoListeningSocket) {
  Doors doors;
  Beginning setup;
  setup.kept.keep("listener.file.listen", memoryWith("no socket"));
  setup.kept.keep("listener.idle.listen", kj::AutoCloseFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  setup.kept.keep("listener.vm.listen", doors.listen("vm"));
  Supervised supervised(kj::mv(setup));
  Incarnation first = begin(supervised);

  auto client = doors.connect("vm");

  EXPECT_EQ(first.expect("conn").name, "listener.vm.conn.1");
}

// The kernel tells the survivor of a peer's unread words (ECONNRESET) before it hands out what the peer had
// said.
TEST(SupervisorConnections, LeftUnreadDoNotHideWhatTheCoordinatorSaidLast) {
  Doors doors;
  Supervised supervised(withListener(doors));
  Incarnation first = begin(supervised);
  first.order("deaf");
  first.expect("said");
  auto client = doors.connect("vm");
  first.order("pending");
  first.expect("said");
  supervised.stop();
  first.say("store", "restore.1.uffd", memoryWith("a uffd").get());
  first.say("store", "restore.1.segment", memoryWith("a segment").get());
  first.kill();
  supervised.signal(SIGCONT);

  EXPECT_THAT(supervised.next().introduction().names,
              ElementsAre("listener.vm.listen", "listener.vm.conn.1", "restore.1.uffd", "restore.1.segment"));
}

TEST(SupervisorConnections, AreNumberedBehindThoseThatAServiceManagerGaveBack) {
  Doors doors;
  Beginning setup = withListener(doors);
  setup.kept.keep("listener.vm.conn.41", memoryWith("a connection of the supervisor before"));
  Supervised supervised(kj::mv(setup));
  Incarnation first = begin(supervised);

  auto client = doors.connect("vm");

  EXPECT_EQ(first.expect("conn").name, "listener.vm.conn.42");
}

}  // namespace
}  // namespace faultline::test
