// Targets that are restored from objects of web servers, by the shipped programs: what they see is what the server has.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>

#include "tests/fetcher/fetched_target.h"
#include "tests/remote/servers.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t GRAIN_PAGES = 64;

class Objects : public BothPageSizes {
 protected:
  void SetUp() override {
    BothPageSizes::SetUp();
    if (const std::string why = Nginx::whyNot(); !IsSkipped() && !why.empty()) GTEST_SKIP() << why;
  }
  std::uint64_t bytes() const { return pageSize() == SMALL ? 4u << 20 : 8u << 20; }
};
BOTH_PAGE_SIZES(Objects);

TEST_P(Objects, EveryByteIsTheServers) {
  Image image(bytes());
  image.zero(64 << 10, 200 << 10);
  const Nginx nginx;
  nginx.put("vm.mem", image);
  Server server(image, serving(nginx.url("/vm.mem")));
  Target target(image, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
  EXPECT_EQ(figuresOf(server).bytes, image.bytes());
}

TEST_P(Objects, APopulationBringsAllOfThem) {
  const Image image(bytes());
  const Nginx nginx;
  nginx.put("vm.mem", image);
  Server server(image, serving(nginx.url("/vm.mem")));
  Target target(image, server.socket(), pageSize());
  populate(server, target);
  expectContent(target, {});
  EXPECT_EQ(figuresOf(server).bytes, image.bytes());
}

TEST_P(Objects, PackedOnesAreUnpackedAsTheyAreWanted) {
  Image image(bytes());
  image.hole(1 << 20, 1 << 20);
  const PackedSource packed(image);
  const Nginx nginx;
  std::filesystem::copy_file(packed.path(), nginx.folder() / "vm.zst");
  Server server(image, serving(nginx.url("/vm.zst")));
  Target target(image, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
}

// With which the others of its unit come, by a fault and by a population.
TEST_P(Objects, ADamagedFrameOfAPackedOneCostsItsPagesAlone) {
  const Image image(bytes());
  const PackedSource packed(image);
  packed.damage(20);  // in the first frame
  const Nginx nginx;
  std::filesystem::copy_file(packed.path(), nginx.folder() / "vm.zst");
  for (const bool populated : {false, true}) {
    Server server(image, serving(nginx.url("/vm.zst")));
    Target target(image, server.socket(), pageSize());
    auto restore = server.restore();
    if (populated) {
      auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
      server.wait(prefault.waitRequest().send());
    }
    const std::uint64_t lost = std::max<std::uint64_t>(1, (64 << 10) / pageSize());
    EXPECT_EQ(target.touch(0), Touch::sigbus);
    EXPECT_EQ(target.touch(lost - 1), Touch::sigbus);
    for (std::uint64_t page = lost; page < target.pages(); page++)
      ASSERT_TRUE(target.holdsImage(page)) << page;
  }
}

TEST_P(Objects, TheyAreTheLowestOfAStack) {
  Stack stack = Stack::random(bytes(), 3);
  const Nginx nginx;
  nginx.put("base.mem", stack.lowest());
  Server server(stack.shown(), servingOver(stack, nginx.url("/base.mem")));
  Target target(stack.shown(), server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
}

class ServedObject : public FetchedTarget {
 protected:
  void SetUp() override {
    if (const std::string why = Nginx::whyNot(); !why.empty()) GTEST_SKIP() << why;
    nginx_ = std::make_unique<Nginx>();
    nginx_->put("vm.mem", image_);
  }
  void begin(const std::string& patience = "60s") { restore(nginx_->url("/vm.mem"), patience); }
  // nginx makes its ETags of size and time, in seconds.
  void replace(const Image& image) {
    const std::string path = nginx_->put("vm.mem", image);
    std::filesystem::last_write_time(path,
                                     std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  }

  std::unique_ptr<Nginx> nginx_;
};

TEST_F(ServedObject, IsFetchedOnceForAllRestores) {
  begin();
  expectContent(*target_, {});
  Target second(image_, server_->socket(), SMALL);
  server_->restore(1);
  expectContent(second, {});
  EXPECT_EQ(figuresOf(*server_).bytes, image_.bytes());
}

// More than it has workers: with one run for each, a store would have nothing to do while that is copied. One of the four may be
// that of the latest fault once more.
TEST_F(ServedObject, APopulationHasSeveralRunsUnderWay) {
  constexpr std::uint64_t RUN_CHUNKS = 32;
  const Image large(16 << 20);
  nginx_->put("large.mem", large);
  Server server(large, serving(nginx_->url("/large.mem"), {.shards = 1, .workers = 1}));
  Target target(large, server.socket(), SMALL);
  auto restore = server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  kill(nginx_->pid(), SIGSTOP);
  const std::uint64_t before = server.status().getFetcher().getMisses();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  await([&] { return server.status().getFetcher().getMisses() - before > 2 * RUN_CHUNKS; });
  kill(nginx_->pid(), SIGCONT);
  server.wait(prefault.waitRequest().send());
  expectContent(target, {});
}

TEST_F(ServedObject, PagesWaitForAServerThatWasKilled) {
  begin();
  nginx_->kill();
  touch(40, 40);
  awaitQueued();
  nginx_->start();
  expectAll();
}

TEST_F(ServedObject, EveryProcessMayDieWhileItsServerStalls) {
  begin();
  kill(nginx_->pid(), SIGSTOP);
  touch(40, 40);
  awaitQueued();
  killAll(*server_);
  kill(nginx_->pid(), SIGCONT);
  expectAll();
}

TEST_F(ServedObject, PastThePatienceItsPagesAreLostAlone) {
  begin("300ms");
  nginx_->kill();
  EXPECT_EQ(target_->touch(10 * GRAIN_PAGES), Touch::sigbus);
  EXPECT_TRUE(target_->holdsImage(1)) << "what was fetched is served meanwhile";
  nginx_->start();
  EXPECT_TRUE(target_->holdsImage(20 * GRAIN_PAGES));
}

TEST_F(ServedObject, AnotherInItsPlaceFailsTheRestore) {
  begin();
  Image other(image_.bytes());
  other.fill(10 * GRAIN_PAGES * SMALL, 4096, 7);
  replace(other);
  EXPECT_EQ(target_->touch(10 * GRAIN_PAGES), Touch::sigbus) << "no byte of the other";
  awaitSourceChanged(*server_);
}

// Noticed by the next fetcher, which never saw the one before; so is one whose bytes are the same.
TEST_F(ServedObject, AnotherWhileNoFetcherLooksFailsTheRestore) {
  begin();
  replace(image_);
  killFetcher(*server_);
  EXPECT_EQ(target_->touch(10 * GRAIN_PAGES), Touch::sigbus);
  awaitSourceChanged(*server_);
}

TEST_F(ServedObject, IsRefusedWithTheReasonWhereItIsNotThere) {
  const auto result =
      run({"restore", "--memory", nginx_->url("/none"), "--socket", image_.directory() + "/s"});
  EXPECT_NE(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("there is no such object"));
}

// A diff that was packed over the file is one over the object as well.
TEST_F(ServedObject, IsTheBaseOfAPackedDiff) {
  Stack stack(8 << 20, 2);
  stack.data(0, 100, 40);
  stack.zeros(0, 300, 20);
  const PackedSource packed(stack, PackedSource::Lowest::plain);
  nginx_->put("base.mem", stack.lowest());
  Server server(stack.shown(), serving(packed.path(), {.more = {"--over", nginx_->url("/base.mem")}}));
  Target target(stack.shown(), server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
  Image other(8 << 20);
  other.fill(0, other.bytes(), 7);
  nginx_->put("other.mem", other);
  const auto refused = run({"restore", "--memory", packed.path(), "--over", nginx_->url("/other.mem"),
                            "--socket", image_.directory() + "/s"});
  EXPECT_THAT(refused.err, HasSubstr("name its own base"));
}

TEST(ServedTls, AuthoritiesAreThoseOfTheEnvironment) {
  if (const std::string why = Nginx::whyNot(); !why.empty()) GTEST_SKIP() << why;
  const Image image(4 << 20);
  const Nginx nginx("", Nginx::Tls::yes);
  nginx.put("vm.mem", image);
  const auto none = run({"check", "--memory", nginx.url("/vm.mem")});
  EXPECT_THAT(none.out, HasSubstr("certificate"));
  Server server(image, serving(nginx.url("/vm.mem"), {.before = [&] {
                                 unsetenv("AWS_CA_BUNDLE");
                                 setenv("SSL_CERT_FILE", nginx.authorities().c_str(), 1);
                               }}));
  Target target(image, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
}

TEST(ServedS3, KeysComeFromTheEnvironmentOrAFile) {
  if (const std::string why = S3rver::whyNot(); !why.empty()) GTEST_SKIP() << why;
  const Image image(4 << 20);
  const S3rver s3;
  s3.put(image.path(), "vms/1.mem");
  const Directory folder;
  const std::string file =
      folder.file("credentials", "[default]\naws_access_key_id = S3RVER\naws_secret_access_key = S3RVER\n");
  const auto endpoint = [&] {
    for (const char* other : {"AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                              "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"})
      unsetenv(other);
    setenv("AWS_ENDPOINT_URL", ("http://127.0.0.1:" + std::to_string(s3.port())).c_str(), 1);
    setenv("HOME", "/nonexistent", 1);
  };
  for (const bool byFile : {false, true}) {
    Server server(image, serving("s3://snap/vms/1.mem", {.before = [&] {
                                   endpoint();
                                   if (byFile) {
                                     setenv("AWS_SHARED_CREDENTIALS_FILE", file.c_str(), 1);
                                   } else {
                                     setenv("AWS_ACCESS_KEY_ID", "S3RVER", 1);
                                     setenv("AWS_SECRET_ACCESS_KEY", "S3RVER", 1);
                                   }
                                 }}));
    Target target(image, server.socket(), SMALL);
    server.restore();
    expectContent(target, {});
  }
}

}  // namespace
}  // namespace faultline::test
