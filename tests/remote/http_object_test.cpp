// Objects of real servers, read as a fetcher reads them: nginx and s3rver; and of one that lies.

#include "fetcher/http_object.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "fetcher/curl_library.h"
#include "fetcher/http_engine.h"
#include "fetcher/packed_engine.h"
#include "fetcher/packed_object.h"
#include "image/sampled_checksum.h"
#include "packed/pack.h"
#include "tests/remote/opened.h"
#include "tests/remote/servers.h"
#include "tests/support/image.h"

namespace faultline::test {

namespace {

using testing::AllOf;
using testing::HasSubstr;

class Web : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = Nginx::whyNot(); !why.empty()) GTEST_SKIP() << why;
  }
  std::string put(const Nginx& nginx, const Image& image, const std::string& name = "vm.mem") {
    nginx.put(name, image);
    return nginx.url("/" + name);
  }
};

}  // namespace

TEST_F(Web, EveryByteIsRightOverAFewConnections) {
  const Image image(8 * MIB + 4096);
  const Nginx nginx;
  Opened opened(put(nginx, image), nginx.port());
  const fetcher::HttpEngine engine(opened.object);
  expectSame(engine, image);
  EXPECT_LE(opened.connections, 5u);
  EXPECT_EQ(engine.fingerprint(), fingerprintOf(image));
  EXPECT_EQ(opened.keysAsked, 0u);  // no key goes to a server that is not S3
}

TEST_F(Web, APieceIsAtLeast256KiB) {
  const Image image(MIB + 4096);
  const Nginx nginx;
  Opened opened(put(nginx, image), nginx.port());
  const fetcher::HttpEngine engine(opened.object);
  const auto unit = [&](std::uint64_t begin, std::uint64_t end) {
    const fetcher::Range range = engine.unitOf({begin, end});
    return std::pair(range.begin, range.end);
  };
  EXPECT_EQ(unit(65536, 131072), std::pair(std::uint64_t{0}, MIB / 4));
  EXPECT_EQ(unit(MIB, MIB + 4096), std::pair(MIB, MIB + 4096));
}

TEST_F(Web, AnotherObjectInItsPlaceIsNoticedAtTheNextRead) {
  const Nginx nginx;
  nginx.put("vm", std::string(100'000, 'a'));
  Opened opened(nginx.url("/vm"), nginx.port());
  EXPECT_EQ(opened.read(0, 65536), 0);
  EXPECT_EQ(opened.content, std::string(65536, 'a'));
  const std::string path = nginx.put("vm", std::string(100'000, 'b'));
  std::filesystem::last_write_time(path,
                                   std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_EQ(opened.read(0, 65536), ESTALE);
  // For good: what is left of it is no part of the same memory.
  nginx.put("vm", std::string(100'000, 'a'));
  EXPECT_EQ(opened.read(0, 65536), ESTALE);
}

TEST_F(Web, WhatIsNotThereOrMayNotBeReadIsSaid) {
  const Nginx nginx(
      "location /secret { deny all; } location /moved { return 302 http://localhost/vm; } location /whole { "
      "max_ranges 0; }");
  nginx.put("vm", std::string(100'000, 'a'));
  nginx.put("whole", std::string(100'000, 'a'));
  nginx.put("empty", "");
  const auto refusal = [&](const std::string& path) {
    return whyNot([&] { Opened(nginx.url(path), nginx.port()); });
  };
  EXPECT_THAT(refusal("/nothing"), AllOf(HasSubstr("/nothing cannot be used"), HasSubstr("404"),
                                         HasSubstr("there is no such object")));
  EXPECT_THAT(refusal("/secret"), HasSubstr("403"));
  EXPECT_THAT(refusal("/moved"), AllOf(HasSubstr("302"), HasSubstr("name the place itself")));
  EXPECT_THAT(refusal("/whole"), HasSubstr("the server gives no ranges of it"));
  EXPECT_THAT(refusal("/empty"), testing::AnyOf(HasSubstr("it is empty"), HasSubstr("gives no ranges")));
  Opened opened(nginx.url("/vm"), nginx.port());
  std::filesystem::remove(nginx.folder() / "vm");
  EXPECT_EQ(opened.read(0, 4096), ENOENT);
}

// What has too much to do is asked again, as late as it wishes.
TEST_F(Web, ABusyServerIsAskedAgain) {
  const Nginx nginx(
      "error_page 503 @busy; location @busy { add_header Retry-After 1 always; return 503; } "
      "location /vm { if (-f $document_root/busy) { return 503; } if (-f $document_root/flood) { return 429; "
      "} }");
  nginx.put("vm", std::string(100'000, 'a'));
  Opened opened(nginx.url("/vm"), nginx.port());
  for (const char* mark : {"busy", "flood"}) {
    nginx.put(mark, "");
    auto reading = std::async(std::launch::async, [&] { return opened.read(0, 4096); });
    EXPECT_EQ(reading.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
    std::filesystem::remove(nginx.folder() / mark);
    EXPECT_EQ(reading.get(), 0);
    EXPECT_EQ(opened.content, std::string(4096, 'a'));
  }
  EXPECT_EQ(opened.counters.givenUp, 0u);
}

TEST_F(Web, AServerThatIsKilledAndBackIsReadOn) {
  Nginx nginx;
  nginx.put("vm", std::string(100'000, 'a'));
  Opened opened(nginx.url("/vm"), nginx.port());
  nginx.kill();
  auto reading = std::async(std::launch::async, [&] { return opened.read(0, 4096); });
  EXPECT_EQ(reading.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  nginx.start();
  EXPECT_EQ(reading.get(), 0);
  EXPECT_EQ(opened.content, std::string(4096, 'a'));
  EXPECT_EQ(opened.counters.reconnects, 1u);
}

TEST_F(Web, AServerThatDoesNotAnswerIsGivenUpInTime) {
  const Nginx nginx;
  nginx.put("vm", std::string(100'000, 'a'));
  Opened opened(nginx.url("/vm"), nginx.port(), {}, SECOND);
  kill(nginx.pid(), SIGSTOP);
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(opened.read(0, 4096), ENOTCONN);
  const auto took = std::chrono::steady_clock::now() - before;
  kill(nginx.pid(), SIGCONT);
  EXPECT_GE(took, std::chrono::milliseconds(400));
  EXPECT_LE(took, std::chrono::seconds(5));
  EXPECT_EQ(opened.counters.givenUp, 1u);
  EXPECT_EQ(opened.read(0, 4096), 0);
}

TEST_F(Web, ACertificateMustBeOfTheServerAndOfAnAuthority) {
  const Nginx nginx("", Nginx::Tls::yes);
  const Nginx other("", Nginx::Tls::yes, "elsewhere");
  nginx.put("vm", std::string(100'000, 'a'));
  other.put("vm", std::string(100'000, 'a'));
  Opened opened(nginx.url("/vm"), nginx.port(), {}, PATIENCE, nginx.authorities());
  EXPECT_EQ(opened.read(4096, 4096), 0);
  EXPECT_EQ(opened.content, std::string(4096, 'a'));
  EXPECT_THAT(whyNot([&] { Opened(nginx.url("/vm"), nginx.port(), {}, PATIENCE, other.authorities()); }),
              HasSubstr("certificate"));
  EXPECT_THAT(whyNot([&] { Opened(other.url("/vm"), other.port(), {}, PATIENCE, other.authorities()); }),
              HasSubstr("certificate"));
}

namespace {

// Answers that are wrong in one thing.
struct Lie {
  const char* name;
  std::string answer;  // to a request for bytes 4096 to 8191 of 100000
  int error;
};

std::string answerOf(const std::string& tag, const std::string& range, std::size_t bytes,
                     const std::string& more = "", const std::string& status = "206 Partial Content") {
  return "HTTP/1.1 " + status + "\r\nETag: " + tag + "\r\nContent-Range: " + range + "\r\n" + more +
         "Connection: close\r\n\r\n" + std::string(bytes, 'x');
}

void PrintTo(const Lie& lie, std::ostream* to) {
  *to << lie.name;
}

const std::string RIGHT = "bytes 4096-8191/100000";

class Lies : public testing::TestWithParam<Lie> {};

}  // namespace

TEST_P(Lies, AreNoBytesOfTheObject) {
  bool opening = true;
  MadeServer server([&](const std::string&) {
    return std::exchange(opening, false) ? answerOf("\"tag\"", "bytes 0-4095/100000", 4096)
                                         : GetParam().answer;
  });
  Opened opened("http://localhost/vm", server.port(), {}, SECOND);
  EXPECT_EQ(opened.read(4096, 4096), GetParam().error);
}

INSTANTIATE_TEST_SUITE_P(
    Answers, Lies,
    testing::Values(Lie{"Truth", answerOf("\"tag\"", RIGHT, 4096), 0},
                    Lie{"AnotherTag", answerOf("\"gat\"", RIGHT, 4096), ESTALE},
                    Lie{"AWeakTag", answerOf("W/\"tag\"", RIGHT, 4096), EPROTO},
                    Lie{"AnotherRange", answerOf("\"tag\"", "bytes 0-4095/100000", 4096), EPROTO},
                    Lie{"AnotherSize", answerOf("\"tag\"", "bytes 4096-8191/100001", 4096), ESTALE},
                    Lie{"NoRange", answerOf("\"tag\"", "", 4096), EPROTO},
                    Lie{"TooShort", answerOf("\"tag\"", RIGHT, 4095), EPROTO},
                    Lie{"TooLong", answerOf("\"tag\"", RIGHT, 4097), EPROTO},
                    Lie{"TooShortForItsLength", answerOf("\"tag\"", RIGHT, 4095, "Content-Length: 4096\r\n"),
                        ENOTCONN},
                    Lie{"Packed", answerOf("\"tag\"", RIGHT, 4096, "Content-Encoding: gzip\r\n"), EPROTO},
                    Lie{"Whole", answerOf("\"tag\"", "", 100'000, "", "200 OK"), EPROTO},
                    Lie{"NoHttp", "go away\r\n\r\n", ENOTCONN},
                    Lie{"TooShortAnObject",
                        answerOf("\"tag\"", "bytes */4000", 0, "", "416 Range Not Satisfiable"), ESTALE},
                    Lie{"Nothing", "", ENOTCONN}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(Web, PackedObjectsAreReadByTheirTableInLargePieces) {
  Image image(16 * MIB);
  image.hole(4 * MIB, 4 * MIB);
  const Nginx nginx;
  const std::string path = nginx.put("vm.zst", "");
  {
    const kj::AutoCloseFd in(open(image.path().c_str(), O_RDONLY)), out(open(path.c_str(), O_RDWR));
    packed::pack({in.get(), image.path(), image.bytes(), {{0, 4 * MIB}, {8 * MIB, 8 * MIB}}}, out.get(), path,
                 {}, [](std::uint64_t) {});
  }
  Opened opened(nginx.url("/vm.zst"), nginx.port());
  const auto object = std::make_shared<const fetcher::PackedObject>(opened.object, opened.counters);
  const fetcher::PackedEngine engine(object, fetcher::HTTP_GRAIN, 4);
  const std::uint64_t before = opened.counters.requests;
  std::uint64_t units = 0;
  for (std::uint64_t at = 0; at < image.bytes(); units++) {
    const fetcher::Range unit = engine.unitOf({at, at + 65536});
    std::vector<std::byte> bytes(unit.size());
    ASSERT_EQ(engine.read(unit, bytes), 0);
    ASSERT_EQ(std::memcmp(bytes.data(), image.data() + unit.begin, unit.size()), 0);
    ASSERT_EQ(unit.begin, at);
    at = unit.end;
  }
  EXPECT_EQ(opened.counters.requests - before, units);
  EXPECT_LE(units,
            std::filesystem::file_size(path) / fetcher::HTTP_GRAIN + 16 * MIB / packed::LARGEST_FRAME + 1);
  EXPECT_EQ(engine.fingerprint(), fingerprintOf(image));
}

TEST_F(Web, ADamagedFrameOfAnObjectIsNoBytes) {
  const Image image(MIB);
  const Nginx nginx;
  const std::string path = nginx.put("vm.zst", "");
  {
    const kj::AutoCloseFd in(open(image.path().c_str(), O_RDONLY)), out(open(path.c_str(), O_RDWR));
    packed::pack({in.get(), image.path(), image.bytes(), {{0, MIB}}}, out.get(), path, {},
                 [](std::uint64_t) {});
    char byte;
    ASSERT_EQ(pread(out.get(), &byte, 1, 1000), 1);
    byte = static_cast<char>(byte ^ 1);
    ASSERT_EQ(pwrite(out.get(), &byte, 1, 1000), 1);
  }
  Opened opened(nginx.url("/vm.zst"), nginx.port());
  const fetcher::PackedEngine engine(
      std::make_shared<const fetcher::PackedObject>(opened.object, opened.counters), fetcher::HTTP_GRAIN, 4);
  const fetcher::Range unit = engine.unitOf({0, 65536});
  std::vector<std::byte> bytes(unit.size());
  EXPECT_EQ(engine.read(unit, bytes), EBADMSG);
}

// --- S3 ---

// As AWS demands it.
TEST(S3, ATokenIsSignedAsWell) {
  std::string asked;
  MadeServer server([&](const std::string& request) {
    asked = request;
    return answerOf("\"tag\"", "bytes 0-4095/100000", 4096);
  });
  const Opened opened("s3://snap/vm?endpoint=http://127.0.0.1:" + std::to_string(server.port()),
                      server.port(), {"ID", "SECRET", "TOKEN"});
  EXPECT_THAT(asked, AllOf(HasSubstr("x-amz-security-token: TOKEN"), testing::Not(HasSubstr("SECRET"))));
  const std::size_t begin = asked.find("SignedHeaders=");
  ASSERT_NE(begin, std::string::npos);
  EXPECT_THAT(asked.substr(begin, asked.find(',', begin) - begin), HasSubstr("x-amz-security-token"));
}

TEST(S3, AServerOfItTakesOurSignature) {
  if (const std::string why = S3rver::whyNot(); !why.empty()) GTEST_SKIP() << why;
  const Image image(2 * MIB);
  const S3rver server;
  server.put(image.path(), "vms/vm%201.mem");
  Opened opened("s3://snap/vms/vm%201.mem?endpoint=http://127.0.0.1:" + std::to_string(server.port()),
                server.port(), {"S3RVER", "S3RVER", ""});
  expectSame(fetcher::HttpEngine(opened.object), image);
  EXPECT_EQ(opened.keysAsked, 1u);
}

}  // namespace faultline::test
