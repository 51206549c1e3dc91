// Firecracker's handshake, version by version, and what is refused.

#include "coordinator/handshake.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "tests/support/send_with_fds.h"

namespace faultline::coordinator {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

// ---- the body ----

TEST(ParseRegions, Firecracker1_1To1_6HaveThreeFields) {
  const auto parsed = parseRegions(R"([{"base_host_virt_addr":4096,"size":8192,"offset":0}])");
  ASSERT_EQ(parsed.regions.size(), 1u);
  EXPECT_EQ(parsed.regions[0], (shm::Region{4096, 8192, 0, 4096}));
  EXPECT_FALSE(parsed.socketOutlivesHandshake);
}

TEST(ParseRegions, Firecracker1_7To1_11SayPageSizeKibAndMeanBytes) {
  const auto parsed =
      parseRegions(R"([{"base_host_virt_addr":0,"size":2097152,"offset":0,"page_size_kib":2097152}])");
  EXPECT_EQ(parsed.regions[0].pageSize, 2097152u);
  EXPECT_FALSE(parsed.socketOutlivesHandshake);
}

TEST(ParseRegions, PageSizeKibInRealKibIsUnderstood) {
  const auto parsed = parseRegions(R"([{"base_host_virt_addr":0,"size":4096,"offset":0,"page_size_kib":4},
                                       {"base_host_virt_addr":0,"size":4096,"offset":0,"page_size_kib":2048}])");
  EXPECT_EQ(parsed.regions[0].pageSize, 4096u);
  EXPECT_EQ(parsed.regions[1].pageSize, 2097152u);
}

TEST(ParseRegions, Firecracker1_12AndLaterSayPageSizeAndKeepTheSocket) {
  const auto parsed = parseRegions(
      R"([{"base_host_virt_addr":4096,"size":4096,"offset":0,"page_size":4096,"page_size_kib":4096}])");
  EXPECT_EQ(parsed.regions[0].pageSize, 4096u);
  EXPECT_TRUE(parsed.socketOutlivesHandshake);
}

TEST(ParseRegions, UnknownFieldsAreAccepted) {
  EXPECT_EQ(parseRegions(R"([{"base_host_virt_addr":0,"size":4096,"offset":0,"gpa_start":7,"x":{"y":[1]}}])")
                .regions.size(),
            1u);
}

struct Refused {
  const char* body;
  const char* says;
};

class ParseRefuses : public testing::TestWithParam<Refused> {};

TEST_P(ParseRefuses, AndSaysWhy) {
  EXPECT_THAT([] { parseRegions(GetParam().body); },
              ThrowsMessage<HandshakeError>(HasSubstr(GetParam().says)));
}

INSTANTIATE_TEST_SUITE_P(
    Bodies, ParseRefuses,
    testing::Values(Refused{"nonsense", "not valid JSON"}, Refused{"{}", "no JSON array"},
                    Refused{"[]", "no region"}, Refused{"[1]", "no JSON object"},
                    Refused{R"([{"size":1,"offset":0}])", "base_host_virt_addr is missing"},
                    Refused{R"([{"base_host_virt_addr":0,"offset":0}])", "size is missing"},
                    Refused{R"([{"base_host_virt_addr":0,"size":-4096,"offset":0}])", "size is -4096"},
                    Refused{R"([{"base_host_virt_addr":0,"size":1.5,"offset":0}])", "size is 1.5"},
                    Refused{R"([{"base_host_virt_addr":0,"size":"4096","offset":0}])", "size is \"4096\""},
                    Refused{R"([{"base_host_virt_addr":99999999999999999999999,"size":1,"offset":0}])",
                            "base_host_virt_addr"},
                    Refused{R"([{"base_host_virt_addr":0,"size":1,"offset":null}])", "offset is null"},
                    Refused{"[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]", "nested too deeply"}));

// ---- the connection ----

constexpr const char* BODY = R"([{"base_host_virt_addr":4096,"size":4096,"offset":0,"page_size":4096}])";

class Connection : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends_), 0);
    uffd_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    if (uffd_ < 0) GTEST_SKIP() << "userfaultfd is not permitted here: " << strerror(errno);
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_EVENT_REMOVE;
    ASSERT_EQ(ioctl(uffd_, UFFDIO_API, &api), 0);
  }
  void TearDown() override {
    for (const int fd : {ends_[0], ends_[1], uffd_})
      if (fd >= 0) close(fd);
  }
  int server() const { return ends_[0]; }
  void closeClient() {
    close(ends_[1]);
    ends_[1] = -1;
  }

  void send(const std::string& body, std::vector<int> fds = {}) {
    ASSERT_TRUE(test::sendWithFds(ends_[1], body, fds));
  }

  Handshake readAll() {
    HandshakeReader reader(server());
    if (reader.advance() != HandshakeReader::Progress::complete) throw HandshakeError("incomplete");
    return reader.take();
  }
  auto reading() {
    return [this] { readAll(); };
  }

  int ends_[2] = {-1, -1};
  int uffd_ = -1;
};

TEST_F(Connection, OneMessageIsAHandshake) {
  send(BODY, {uffd_});
  const Handshake handshake = readAll();
  EXPECT_EQ(handshake.regions.size(), 1u);
  EXPECT_EQ(handshake.features, static_cast<std::uint64_t>(UFFD_FEATURE_EVENT_REMOVE));
  EXPECT_GE(handshake.uffd.get(), 0);
  EXPECT_NE(fcntl(handshake.uffd.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(Connection, ManyRegionsInOneMessage) {
  std::string body = "[";
  for (unsigned i = 0; i < 500; i++)
    body += std::string(i == 0 ? "" : ",") + "{\"base_host_virt_addr\":" + std::to_string(i * 8192) +
            ",\"size\":4096,\"offset\":0,\"page_size\":4096,\"page_size_kib\":4096}";
  send(body + "]", {uffd_});
  EXPECT_EQ(readAll().regions.size(), 500u);
}

TEST_F(Connection, ABodyInPiecesIsReadUntilItIsComplete) {
  const std::string body = BODY;
  HandshakeReader reader(server());
  send(body.substr(0, 10), {uffd_});
  EXPECT_EQ(reader.advance(), HandshakeReader::Progress::needMore);
  send(body.substr(10, 20));
  EXPECT_EQ(reader.advance(), HandshakeReader::Progress::needMore);
  send(body.substr(30));
  EXPECT_EQ(reader.advance(), HandshakeReader::Progress::complete);
  EXPECT_EQ(reader.take().regions.size(), 1u);
}

// A coordinator that dies half way leaves the whole message to its successor.
TEST_F(Connection, ASecondReaderFindsItAllAgain) {
  const std::string body = BODY;
  send(body.substr(0, 10), {uffd_});
  send(body.substr(10));
  EXPECT_EQ(readAll().regions.size(), 1u);
  HandshakeReader second(server());
  EXPECT_EQ(second.advance(), HandshakeReader::Progress::complete);
  EXPECT_EQ(second.take().regions.size(), 1u);
  second.consume();
  char byte;
  EXPECT_EQ(recv(server(), &byte, 1, 0), -1);
  closeClient();
  EXPECT_EQ(recv(server(), &byte, 1, 0), 0);
}

TEST_F(Connection, WithoutAnFdIsRefused) {
  send(BODY);
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(HasSubstr("no file descriptor came")));
}

TEST_F(Connection, WithTwoFdsIsRefused) {
  send(BODY, {uffd_, uffd_});
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(
                             AllOf(HasSubstr("2 file descriptors"),
                                   HasSubstr("memory by memfd, as newer drafts send it, is not"))));
}

// Byte by byte, with an fd each: it is over at the second, whatever else is to come.
TEST_F(Connection, WithAnFdInEachPieceIsRefusedAtTheSecond) {
  HandshakeReader reader(server());
  send("[", {uffd_});
  EXPECT_EQ(reader.advance(), HandshakeReader::Progress::needMore);
  send("{", {uffd_});
  EXPECT_THAT([&] { reader.advance(); }, ThrowsMessage<HandshakeError>(HasSubstr("2 file descriptors")));
}

TEST_F(Connection, WithMoreFdsThanCanBeTakenIsRefused) {
  send(BODY, std::vector<int>(40, uffd_));
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(HasSubstr("more file descriptors")));
}

TEST_F(Connection, WithASocketOrAFileForAnFdIsRefused) {
  send(BODY, {ends_[0]});
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(HasSubstr("no userfaultfd, it is socket:")));
}

TEST_F(Connection, WithAFileForAnFdIsRefused) {
  const int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
  send(BODY, {file});
  close(file);
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(HasSubstr("it is /dev/null")));
}

TEST_F(Connection, WithAUffdThatIsNotSetUpIsRefused) {
  const int raw = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  send(BODY, {raw});
  close(raw);
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(HasSubstr("UFFDIO_API")));
}

TEST_F(Connection, ClosedHalfWayIsRefused) {
  send("[{\"base_host", {uffd_});
  closeClient();
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(HasSubstr("before the handshake was complete")));
}

TEST_F(Connection, ThatIsNotJsonIsRefused) {
  send("GET / HTTP/1.1\r\n", {uffd_});
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(HasSubstr("no JSON array")));
}

TEST_F(Connection, WithBytesBehindTheArrayIsRefused) {
  send(std::string(BODY) + "{}", {uffd_});
  EXPECT_THAT(reading(), ThrowsMessage<HandshakeError>(HasSubstr("bytes follow")));
}

TEST_F(Connection, ABodyThatIsTooLongIsRefused) {
  const int room = 4 << 20;
  setsockopt(ends_[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  HandshakeReader reader(server());
  auto flood = [&] {
    const std::string piece(60'000, ' ');
    send("[" + piece, {uffd_});
    for (unsigned i = 0; i < 40; i++) {
      send(piece);
      reader.advance();
    }
  };
  EXPECT_THAT(flood, ThrowsMessage<HandshakeError>(HasSubstr("more than 1048576 bytes")));
}

TEST_F(Connection, ThePeerIsKnown) {
  const Peer peer = peerOf(server());
  EXPECT_EQ(peer.pid, getpid());
  EXPECT_EQ(peer.uid, geteuid());
  EXPECT_GE(peer.pidfd.get(), 0);
  EXPECT_NO_THROW(requireOwnUser(peer));
  Peer other;
  other.uid = 12345;
  EXPECT_THAT([&] { requireOwnUser(other); }, ThrowsMessage<HandshakeError>(HasSubstr("user 12345")));
}

}  // namespace
}  // namespace faultline::coordinator
