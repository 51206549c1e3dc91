// The target program's verdict, which demo and scripts/large rest on: it can be that bytes are wrong.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <thread>

#include "coordinator/handshake.h"
#include "rpc/connection.h"
#include "tests/cli/command.h"
#include "uffd/uffd.h"

namespace faultline::test {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

std::string contentOf(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// A page server as simple as wrong: it keeps no books, and gives a removed page its old bytes. For one target
// with one region; serves until that has hung up.
class OldBytesServer {
 public:
  OldBytesServer(const std::string& socket, std::string bytes)
      : bytes_(std::move(bytes)), listening_(rpc::listenAt(socket)), thread_([this] { serve(); }) {}
  // The target has ended, or never came.
  ~OldBytesServer() {
    shutdown(listening_.get(), SHUT_RDWR);
    thread_.join();
  }
  OldBytesServer(const OldBytesServer&) = delete;

 private:
  void serve() {
    const kj::AutoCloseFd connection(accept4(listening_.get(), nullptr, nullptr, SOCK_NONBLOCK));
    if (connection.get() < 0) return;
    coordinator::HandshakeReader reader(connection.get());
    pollfd fds[2] = {{connection.get(), POLLIN, 0}, {-1, POLLIN, 0}};
    while (reader.advance() == coordinator::HandshakeReader::Progress::needMore) poll(fds, 1, -1);
    const coordinator::Handshake handshake = reader.take();
    reader.consume();
    fds[1].fd = handshake.uffd.get();
    while (poll(fds, 2, -1) > 0 && fds[0].revents == 0) answer(handshake);
  }
  void answer(const coordinator::Handshake& handshake) const {
    const shm::Region& region = handshake.regions.at(0);
    uffd_msg message;
    if (read(handshake.uffd.get(), &message, sizeof message) != sizeof message ||
        message.event != UFFD_EVENT_PAGEFAULT)
      return;
    const std::uint64_t address = message.arg.pagefault.address & ~(region.pageSize - 1);
    // Refused while a removal is queued: then the fault comes again.
    if (uffd::copy(handshake.uffd.get(), address, bytes_.data() + (address - region.base), region.pageSize,
                   uffd::Protect::no, uffd::Waiters::wake)
            .outcome != uffd::Outcome::done)
      uffd::wake(handshake.uffd.get(), address, region.pageSize);
  }

  const std::string bytes_;
  const kj::AutoCloseFd listening_;
  std::thread thread_;
};

TEST(Verdict, OneWrongByteIsNamed) {
  const Directory directory;
  std::string bytes = contentOf(directory.image(1));
  const std::string expected = directory.file("expected", bytes);
  bytes[10 * 4096 + 7] = static_cast<char>(~bytes[10 * 4096 + 7]);
  const std::string served = directory.file("served", bytes), socket = directory / "socket";
  Command restore({"restore", "--memory", served, "--socket", socket});
  restore.await("waiting for a target");
  const auto result = Command({"--socket", socket, "--image", expected}, "faultline-target").finish();
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.out, HasSubstr("page 10, byte 7 "));
  EXPECT_EQ(restore.finish().code, 0);
}

TEST(Verdict, OldBytesInAPageThatWasGivenBackAreNamed) {
  const Directory directory;
  const std::string image = directory.image(1), socket = directory / "socket";
  const OldBytesServer server(socket, contentOf(image));
  const auto result =
      Command({"--socket", socket, "--image", image, "--give-back", "20"}, "faultline-target").finish();
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.out, ContainsRegex("page [0-9]+, byte [0-9]+ .*expected 0x00 .*given back"));
}

}  // namespace
}  // namespace faultline::test
