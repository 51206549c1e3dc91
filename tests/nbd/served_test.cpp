// Targets that are restored from NBD servers: what they see is what the server has, by the shipped programs.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/snapshot_identity.h"
#include "cli/working_set_file.h"
#include "process/clock.h"
#include "process/process.h"
#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

#define NEEDS(program) \
  if (const std::string why = NbdServer::whyNot(program); !why.empty()) GTEST_SKIP() << why

class Nbd : public BothPageSizes {
 protected:
  void SetUp() override {
    BothPageSizes::SetUp();
    if (!IsSkipped()) NEEDS("nbdkit");
  }
  std::uint64_t bytes() const { return pageSize() == SMALL ? 4u << 20 : 8u << 20; }
};
BOTH_PAGE_SIZES(Nbd);

TEST_P(Nbd, EveryByteIsTheServers) {
  Image image(bytes());
  image.zero(64 << 10, 200 << 10);
  image.hole(1 << 20, 1 << 20);
  const NbdServer source(NbdServer::ofFile(image.path()));
  Server server(image, serving(source));
  Target target(image, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
  EXPECT_LE(figuresOf(server).bytes, image.bytes() - (1 << 20)) << "what it says is zero is not fetched";
  EXPECT_GT(figuresOf(server).bytes, 0u);
}

TEST_P(Nbd, APopulationBringsAllOfIt) {
  Image image(bytes());
  image.hole(1 << 20, 300 << 10);
  const NbdServer source(NbdServer::ofFile(image.path()));
  Server server(image, serving(source));
  Target target(image, server.socket(), pageSize());
  populate(server, target);
  expectContent(target, {});
}

// Layers that are plain files here, over what a server has.
TEST_P(Nbd, ItIsTheLowestOfAStack) {
  for (std::uint64_t seed = 0; seed < 3; seed++) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Stack stack = Stack::random(bytes(), seed);
    const NbdServer source(NbdServer::ofFile(stack.lowest().path()));
    Server server(stack.shown(), servingOver(stack, source.uri()));
    Target target(stack.shown(), server.socket(), pageSize());
    server.restore();
    expectContent(target, {});
  }
}

// Its filters at work: every read takes its time; some fail, those by which it is known included; what it shows is larger than its
// file.
TEST_P(Nbd, EveryByteIsTheServersThroughDelays) {
  Image image(bytes());
  const NbdServer source(NbdServer::ofFile(image.path(), {"delay"}, {"rdelay=3ms"}));
  Server server(image, serving(source));
  Target target(image, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
}

TEST_P(Nbd, EveryByteIsTheServersThroughErrors) {
  Image image(bytes());
  const NbdServer source(NbdServer::ofFile(image.path(), {"error"}, {"error=EIO", "error-pread-rate=10%"}));
  Server server(image, serving(source, {.more = {"--source-patience", "60s"}}));
  Target target(image, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
  EXPECT_GT(figuresOf(server).errors, 0u);
}

TEST_P(Nbd, WhatAServerShowsBeyondItsFileIsZero) {
  Image file(bytes() / 2), shown(bytes());
  shown.zero(bytes() / 2, bytes() / 2);
  const NbdServer source(
      NbdServer::ofFile(file.path(), {"truncate"}, {"truncate=" + std::to_string(bytes())}));
  Server server(shown, serving(source));
  Target target(shown, server.socket(), pageSize());
  server.restore();
  expectContent(target, {});
}

class NbdOnce : public testing::Test {
 protected:
  void SetUp() override { NEEDS("nbdkit"); }
  Image image_{4 << 20};
};

// What it takes long for overlaps: one read after the other would take 6.4 s.
TEST_F(NbdOnce, SlowReadsOverlap) {
  auto command = NbdServer::ofFile(image_.path(), {"delay"}, {"rdelay=100ms"});
  std::replace(command.begin(), command.end(), std::string("1"), std::string("16"));
  const NbdServer source(command);
  Server server(image_, serving(source));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  const std::uint64_t before = process::nowNs();
  Reads reads = readChunks(target, 0, 64);
  finish(reads);
  EXPECT_LT(process::nowNs() - before, 3'000'000'000u);
  expectContent(target, {});
}

// One that shows what it has slowly is waited for, as long as it goes on.
TEST_F(NbdOnce, ASlowServerIsServed) {
  const NbdServer source(NbdServer::ofFile(image_.path(), {"delay"}, {"rdelay=21ms"}));
  Server server(image_, serving(source, {.more = {"--handshake-timeout-ms", "60000"}}));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
}

// A server that takes one client at a time has the one.
TEST_F(NbdOnce, OneConnectionIsEnough) {
  NEEDS("qemu-nbd");
  const NbdServer source({"qemu-nbd", "-r", "-t", "-e", "1", "-f", "raw", "-k", "{}", image_.path()});
  Server server(image_, serving(source));
  Target target(image_, server.socket(), SMALL);
  server.restore();
  Reads reads = readChunks(target, 0, 64);
  finish(reads);
  expectContent(target, {});
}

// One whose clients are all ours: the connections that there is no need of make way for a look at it.
TEST_F(NbdOnce, AServerWithoutRoomForMoreClientsServesTheNextRestore) {
  NEEDS("qemu-nbd");
  const NbdServer source({"qemu-nbd", "-r", "-t", "-e", "2", "-f", "raw", "-k", "{}", image_.path()});
  const std::size_t before = source.sockets();
  Server server(image_, serving(source));
  Target first(image_, server.socket(), SMALL);
  server.restore();
  for (std::uint64_t chunk = 0, end = 0; source.sockets() < before + 2; chunk = end) {
    source.stall();
    end = std::min(chunk + 8, first.pages() / CHUNK_PAGES);
    ASSERT_LT(chunk, end) << "there is no second connection";
    Reads reads = readChunks(first, chunk, end - chunk);
    await([&] { return first.queued().total >= end - chunk; });
    source.goOn();
    finish(reads);
  }
  Target second(image_, server.socket(), SMALL);
  server.restore(1);
  expectContent(second, {});
  expectContent(first, {});
}

TEST_F(NbdOnce, NothingIsFetchedTwice) {
  const NbdServer source(NbdServer::ofFile(image_.path()));
  Server server(image_, serving(source));
  {
    Target first(image_, server.socket(), SMALL);
    server.restore();
    expectContent(first, {});
    Target second(image_, server.socket(), SMALL);
    server.restore(1);
    expectContent(second, {});
  }
  await([&] { return server.status().getRestores().size() == 0; });
  Target third(image_, server.socket(), SMALL);
  server.restore();
  expectContent(third, {});
  EXPECT_EQ(figuresOf(server).bytes, image_.bytes());
  EXPECT_EQ(figuresOf(server).savedBytes, 2 * image_.bytes());
}

// Another snapshot under the same name, between two restores: the later one has it, with a cache of its own.
TEST_F(NbdOnce, ALaterRestoreHasWhatIsThereThen) {
  Image other(4 << 20);
  other.fill(0, 4096, 7);
  NbdServer source(NbdServer::ofFile(image_.path()));
  Server server(image_, serving(source));
  {
    Target target(image_, server.socket(), SMALL);
    server.restore();
    expectContent(target, {});
  }
  await([&] { return server.status().getRestores().size() == 0; });
  source.kill();
  source.startAs(NbdServer::ofFile(other.path()));
  Target target(other, server.socket(), SMALL);
  server.restore();
  expectContent(target, {});
}

TEST_F(NbdOnce, CallsNameItByItsUri) {
  const NbdServer source(NbdServer::ofFile(image_.path()));
  Image plain(4 << 20);
  Server server(plain);
  const std::string socket = image_.directory() + "/placed";
  listenAt(server, "placed", socket, {source.uri()});
  Target target(image_, socket, SMALL);
  server.restoreNamed("placed");
  expectContent(target, {});
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
  Target late(image_, socket, SMALL);
  server.restoreNamed("placed-2");
  expectContent(late, {});
}

// As the files of restores.d name it; the server is asked when a target comes, not when the service begins.
TEST_F(NbdOnce, TheConfigurationNamesItByItsUri) {
  NbdServer source(NbdServer::ofFile(image_.path()));
  const Directory folder;
  std::filesystem::create_directory(folder / "restores.d");
  folder.file("faultline.conf", "");
  const std::string socket = folder / "configured";
  folder.file("restores.d/configured.conf", "memory = " + source.uri() + "\nsocket = " + socket +
                                                "\nkeep-serving = true\nprefault = false\n");
  Image plain(4 << 20);
  source.kill();
  Server server(plain, {.more = {"--config", folder / "faultline.conf"}});
  source.start();
  Target target(image_, socket, SMALL);
  server.restoreNamed("configured");
  expectContent(target, {});
  folder.file("restores.d/configured.conf", "memory = nbd+ssh://host/disk\nsocket = " + socket + "\n");
  const auto refused = run({"reload", "--control", server.control(), "--config", folder / "faultline.conf"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("no source of this kind is served"));
}

TEST_F(NbdOnce, RunServesItToACommand) {
  const NbdServer source(NbdServer::ofFile(image_.path()));
  const auto result =
      run({"run", "--memory", source.uri(), "--", process::siblingExecutable("faultline-target"), "--socket",
           "{}", "--image", image_.path()});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("every byte is right"));
}

// What is no NBD server, and one that never says a word: refused within the time that a connection may take.
TEST_F(NbdOnce, OneThatSpeaksNonsenseOrNothingIsRefused) {
  NEEDS("python3");
  for (const char* says : {"os.urandom(1 << 20)", "b'NBDMAGICIHAVEOPT' + b'\\xff' * 65536", "b''"}) {
    SCOPED_TRACE(says);
    const NbdServer source({"python3", "-c",
                            "import os, socket, sys\n"
                            "listening = socket.socket(socket.AF_UNIX)\n"
                            "listening.bind(sys.argv[1])\n"
                            "listening.listen()\n"
                            "kept = []\n"
                            "while True:\n"
                            "    kept.append(listening.accept()[0])\n"
                            "    try:\n"
                            "        kept[-1].sendall(" +
                                std::string(says) +
                                ")\n"
                                "    except OSError:\n"
                                "        pass\n",
                            "{}"});
    const auto result = run({"restore", "--memory", source.uri(), "--socket", image_.directory() + "/s"});
    EXPECT_NE(result.code, 0);
    EXPECT_THAT(result.err, HasSubstr("source " + source.uri() + " cannot be used: "));
  }
}

TEST_F(NbdOnce, OneThatIsSmallerThanTheMemoryIsRefused) {
  const NbdServer source(NbdServer::ofFile(image_.path(), {"truncate"}, {"truncate=2M"}));
  const std::string log = image_.directory() + "/log";
  Server server(image_, serving(source, {.logFile = log}));
  Target target(image_, server.socket(), SMALL);
  awaitRefusal(log);
  EXPECT_THAT(textOf(log), HasSubstr("2097152"));
  EXPECT_EQ(server.status().getRestores().size(), 0u);
}

TEST_F(NbdOnce, OneThatIsNotThereIsRefusedWithTheReason) {
  const auto result = run({"restore", "--memory", "nbd+unix:///?socket=" + image_.directory() + "/none",
                           "--socket", image_.directory() + "/s"});
  EXPECT_NE(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("is the server running?"));
}

TEST_F(NbdOnce, AUriThatIsNotServedIsRefusedWithTheWayOut) {
  const auto result =
      run({"restore", "--memory", "nbd+ssh://host/disk", "--socket", image_.directory() + "/s"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("no source of this kind is served; give nbd://HOST"));
}

TEST_F(NbdOnce, CommandsThatReadFilesSaySo) {
  const auto result = run({"info", "nbd://host/disk"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("nbdcopy"));
}

// A working set is of a snapshot, whichever way its bytes come.
TEST_F(NbdOnce, AWorkingSetOfTheFileIsOneOfTheExport) {
  const NbdServer source(NbdServer::ofFile(image_.path()));
  const kj::AutoCloseFd file(open(image_.path().c_str(), O_RDONLY | O_CLOEXEC));
  cli::WorkingSet set;
  set.snapshot = cli::identityOf(file.get());
  set.pageSize = SMALL;
  set.ranges = {{64 << 10, 8192}};
  const std::string path = image_.directory() + "/set";
  cli::writeWorkingSet(path, set);
  const auto shown = run({"working-set", "show", path, "--memory", source.uri()});
  EXPECT_EQ(shown.code, 0) << shown.err;
  Image other(4 << 20);
  other.fill(0, 4096, 7);
  const NbdServer another(NbdServer::ofFile(other.path()));
  const auto refused = run({"working-set", "show", path, "--memory", another.uri()});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("was recorded with another snapshot"));
}

TEST_F(NbdOnce, CheckTellsWhetherItCanBeServed) {
  const NbdServer source(NbdServer::ofFile(image_.path()));
  EXPECT_THAT(run({"check", "--memory", source.uri()}).out,
              HasSubstr(source.uri() + ": 4.0 MiB, the lowest"));
  const auto none = run({"check", "--memory", "nbd+unix:///?socket=/none"});
  EXPECT_THAT(none.out, HasSubstr("is the server running?"));
}

TEST_F(NbdOnce, TheDemonstrationKillsItsServer) {
  const Directory folder;
  const auto result =
      run({"demo", "--nbd", "--size-mib", "128", "--threads", "2", "--json", "--dir", folder.path()});
  EXPECT_EQ(result.code, 0) << result.err;
  const auto report = nlohmann::json::parse(result.out);
  EXPECT_EQ(report["nbd_kills"], 2);
  EXPECT_EQ(report["pages"], (128 << 20) / SMALL);
}

}  // namespace
}  // namespace faultline::test
