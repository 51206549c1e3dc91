// Listeners by path: what is made, who may connect when, what is refused, and that nothing is left of what ends.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "process/process.h"
#include "rpc/connection.h"
#include "rpc/refusal.h"
#include "tests/cli/command.h"
#include "tests/recovery/recovery_test.h"
#include "tests/support/fuse_file.h"
#include "tests/support/stack.h"

namespace faultline::test {
namespace {

using rpc::Reason;
using testing::ElementsAre;
using testing::HasSubstr;

struct Wish {
  std::string name = "placed", socket, owner, group;
  std::vector<std::string> layers;
  std::uint16_t mode = 0;
};

class PlacedListener : public testing::Test {
 protected:
  std::string at(const std::string& name) const { return image_.directory() + "/" + name; }
  Wish wish() const {
    Wish wish;
    wish.socket = at("placed");
    wish.layers = {image_.path()};
    return wish;
  }

  auto send(const Wish& wish) {
    auto request = server_.client().coordinator().listenAtRequest();
    auto placed = request.initPlaced();
    placed.initSpec().setName(wish.name.c_str());
    placed.getSpec().initPolicy().setKeepServing(true);
    auto socket = placed.initSocket();
    socket.setPath(wish.socket.c_str());
    socket.setOwner(wish.owner.c_str());
    socket.setGroup(wish.group.c_str());
    socket.setMode(wish.mode);
    auto layers = placed.initLayers(static_cast<unsigned>(wish.layers.size()));
    for (unsigned i = 0; i < layers.size(); i++) layers.set(i, wish.layers[i].c_str());
    return request.send();
  }
  rpc::Listener::Client listen(const Wish& wish) { return server_.wait(send(wish)).getListener(); }

  void expectRefused(const Wish& wish, Reason reason, const std::string& words) {
    std::optional<rpc::Refusal> refused;
    server_.wait(
        send(wish).ignoreResult().catch_([&](kj::Exception&& error) { refused = rpc::refusalOf(error); }));
    ASSERT_TRUE(refused.has_value()) << words;
    EXPECT_EQ(refused->reason, reason) << refused->message;
    EXPECT_THAT(refused->message, HasSubstr(words));
  }

  std::vector<std::string> listeners() {
    const auto response = server_.wait(server_.client().coordinator().listenersRequest().send());
    std::vector<std::string> names;
    for (auto listener : response.getListeners()) names.emplace_back(listener.getName().cStr());
    return names;
  }
  void unlisten(const std::string& name) {
    auto request = server_.client().coordinator().unlistenRequest();
    request.setName(name.c_str());
    server_.wait(request.send());
  }
  void killCoordinator() {
    kill(server_.coordinatorPid(), SIGKILL);
    server_.reconnect();
  }
  static bool exists(const std::string& path) {
    return std::filesystem::exists(std::filesystem::symlink_status(path));
  }
  // In a thread of the server's: it is waited for.
  static void awaitGone(const std::string& path) {
    await([&] { return !exists(path); });
  }
  static struct stat statusOf(const std::string& path) {
    struct stat status {};
    EXPECT_EQ(lstat(path.c_str(), &status), 0) << path;
    return status;
  }

  Image image_{64 * SMALL};
  Server server_{image_};
};

TEST_F(PlacedListener, ServesTargetsAndTellsOfThem) {
  auto listener = listen(wish());
  EXPECT_EQ(statusOf(at("placed")).st_mode, S_IFSOCK | 0600u);
  Target target(image_, at("placed"), SMALL);
  EXPECT_EQ(std::string(server_.wait(listener.nextRestoreRequest().send()).getInfo().getName().cStr()),
            "placed");
  expectContent(target, {});
  const auto response = server_.wait(server_.client().coordinator().listenersRequest().send());
  ASSERT_EQ(response.getListeners().size(), 2u);
  auto mine = response.getListeners()[0], servers = response.getListeners()[1];
  EXPECT_EQ(std::string(mine.getName().cStr()), "placed");
  EXPECT_EQ(mine.getOrigin(), rpc::ListenerOrigin::CALL);
  EXPECT_EQ(std::string(mine.getPath().cStr()), at("placed"));
  ASSERT_EQ(mine.getLayers().size(), 1u);
  EXPECT_EQ(std::string(mine.getLayers()[0].cStr()), image_.path());
  EXPECT_TRUE(mine.getPolicy().getKeepServing());
  EXPECT_EQ(mine.getBegun(), 1u);
  EXPECT_EQ(mine.getRefused(), 0u);
  EXPECT_EQ(std::string(servers.getName().cStr()), "vm");
  EXPECT_EQ(servers.getOrigin(), rpc::ListenerOrigin::COMMAND_LINE);
  EXPECT_EQ(std::string(servers.getPath().cStr()), server_.socket());
}

TEST_F(PlacedListener, TellsWhyItRefusedATarget) {
  listen(wish());
  const kj::AutoCloseFd stranger = rpc::connectTo(at("placed"));
  ASSERT_EQ(::send(stranger.get(), "no JSON", 7, MSG_NOSIGNAL), 7);
  await([&] {
    const auto response = server_.wait(server_.client().coordinator().listenersRequest().send());
    auto mine = response.getListeners()[0];
    return mine.getRefused() == 1 && mine.getLastRefusal().size() > 0 &&
           mine.getLastReason() != Reason::FAILED;
  });
}

TEST_F(PlacedListener, HasOwnerGroupAndMode) {
  if (geteuid() != 0) GTEST_SKIP() << "only root gives files away";
  Wish wanted = wish();
  wanted.owner = "nobody";
  wanted.group = "4711";
  wanted.mode = 0620;
  listen(wanted);
  const struct stat status = statusOf(at("placed"));
  EXPECT_EQ(status.st_uid, 65534u);
  EXPECT_EQ(status.st_gid, 4711u);
  EXPECT_EQ(status.st_mode, S_IFSOCK | 0620u);
}

TEST_F(PlacedListener, OfLayers) {
  Stack stack = Stack::split(image_, 3);
  Wish wanted = wish();
  wanted.layers = stack.paths();
  auto listener = listen(wanted);
  Target target(image_, at("placed"), SMALL);
  server_.wait(listener.nextRestoreRequest().send());
  expectContent(target, {});
}

// The file goes with the listener, whichever coordinator closes it.
TEST_F(PlacedListener, LeavesNothingBehind) {
  auto listener = listen(wish());
  server_.wait(listener.closeRequest().send());
  EXPECT_FALSE(exists(at("placed")));
  listen(wish());
  killCoordinator();
  EXPECT_THAT(listeners(), ElementsAre("placed", "vm"));
  ASSERT_TRUE(exists(at("placed")));
  Target target(image_, at("placed"), SMALL);
  server_.restoreNamed("placed");
  expectContent(target, {});
  unlisten("placed");
  EXPECT_FALSE(exists(at("placed")));
}

// Another coordinator is no end.
TEST_F(PlacedListener, StaysWhereAnotherBuildTakesOver) {
  listen(wish());
  const ino_t before = statusOf(at("placed")).st_ino;
  EXPECT_EQ(run({"upgrade", "--control", server_.control(), "--build", process::ownDirectory()}).code, 0);
  server_.reconnect();
  EXPECT_EQ(statusOf(at("placed")).st_ino, before);
  Target target(image_, at("placed"), SMALL);
  server_.restoreNamed("placed");
  expectContent(target, {});
}

TEST_F(PlacedListener, GoesWithTheService) {
  listen(wish());
  auto request = server_.client().coordinator().shutdownRequest();
  request.setForce(true);
  server_.wait(request.send());
  awaitGone(server_.control());
  EXPECT_FALSE(exists(at("placed")));
}

// What another has put there since is not ours to remove.
TEST_F(PlacedListener, RemovesNoFileOfOthers) {
  listen(wish());
  std::filesystem::remove(at("placed"));
  std::ofstream(at("placed")) << "theirs";
  unlisten("placed");
  EXPECT_TRUE(exists(at("placed")));
}

TEST_F(PlacedListener, TakesThePlaceOfASocketThatIsNotServed) {
  { const kj::AutoCloseFd left = rpc::listenAt(at("placed")); }
  const ino_t before = statusOf(at("placed")).st_ino;
  const kj::AutoCloseFd holdsTheInode(open(at("placed").c_str(), O_PATH));
  listen(wish());
  EXPECT_NE(statusOf(at("placed")).st_ino, before);
  Target target(image_, at("placed"), SMALL);
  server_.restoreNamed("placed");
  expectContent(target, {});
}

// Its coordinator dies when half of it is kept: the other half goes, and the call can be made again.
TEST_F(PlacedListener, OfACoordinatorThatDiedOverItLeavesNothing) {
  const pid_t coordinator = server_.coordinatorPid();
  const auto barrier = arm(server_, coordinatorHooks(server_), "listenerNamed", rpc::Action::KILL);
  EXPECT_THROW(listen(wish()), kj::Exception);
  await([&] { return kill(coordinator, 0) != 0; });
  server_.reconnect();
  EXPECT_THAT(listeners(), ElementsAre("vm"));
  awaitGone(at("placed"));
  listen(wish());
  Target target(image_, at("placed"), SMALL);
  server_.restoreNamed("placed");
  expectContent(target, {});
}

TEST_F(PlacedListener, IsRefusedWithAReasonAndLeavesNothing) {
  const auto with = [this](auto change) {
    Wish changed = wish();
    change(changed);
    return changed;
  };
  std::ofstream(at("file")) << "text";
  std::ofstream(at("empty")) << "";
  const Image other(32 * SMALL);
  const kj::AutoCloseFd served = rpc::listenAt(at("served"));
  listen(with([this](Wish& w) { w.name = "one", w.socket = at("one"); }));

  expectRefused(with([](Wish& w) { w.name = ""; }), Reason::BAD_INPUT, "a name has");
  expectRefused(with([](Wish& w) { w.name = "a/b"; }), Reason::BAD_INPUT, "a name has");
  expectRefused(with([](Wish& w) { w.name = "vm"; }), Reason::NAME_TAKEN, "a listener called vm");
  expectRefused(with([](Wish& w) { w.socket = "placed"; }), Reason::BAD_INPUT, "absolute path");
  expectRefused(with([](Wish& w) { w.socket = ""; }), Reason::BAD_INPUT, "absolute path");
  expectRefused(with([this](Wish& w) { w.socket = at(std::string(108, 'x')); }), Reason::BAD_INPUT,
                "at most 107 bytes");
  expectRefused(with([this](Wish& w) { w.socket = at("a\nb"); }), Reason::BAD_INPUT, "control characters");
  expectRefused(with([this](Wish& w) { w.socket = at("none/placed"); }), Reason::BAD_INPUT,
                "No such file or directory");
  expectRefused(with([this](Wish& w) { w.socket = at("file"); }), Reason::NAME_TAKEN,
                "another file is there");
  expectRefused(with([this](Wish& w) { w.socket = at("served"); }), Reason::NAME_TAKEN, "another server");
  expectRefused(with([this](Wish& w) { w.socket = at("one"); }), Reason::NAME_TAKEN, "listener one");
  expectRefused(with([](Wish& w) { w.mode = 01777; }), Reason::BAD_INPUT, "permission bits");
  expectRefused(with([](Wish& w) { w.owner = "no-such-user"; }), Reason::BAD_INPUT, "no user no-such-user");
  expectRefused(with([](Wish& w) { w.group = "no-such-group"; }), Reason::BAD_INPUT,
                "no group no-such-group");
  expectRefused(with([](Wish& w) { w.layers = {}; }), Reason::BAD_INPUT, "no layer is given");
  expectRefused(with([](Wish& w) { w.layers = {"vm.mem"}; }), Reason::BAD_INPUT, "absolute path");
  expectRefused(with([](Wish& w) { w.layers = {"nbd+ssh://host/disk"}; }), Reason::BAD_INPUT,
                "no source of this kind");
  expectRefused(with([this](Wish& w) { w.layers = {at("none")}; }), Reason::BAD_SOURCE,
                "No such file or directory");
  expectRefused(with([this](Wish& w) { w.layers = {image_.directory()}; }), Reason::BAD_SOURCE,
                "no regular file");
  expectRefused(with([this](Wish& w) { w.layers = {at("empty")}; }), Reason::BAD_SOURCE, "is empty");
  expectRefused(with([&](Wish& w) { w.layers.push_back(other.path()); }), Reason::BAD_SOURCE, other.path());
  expectRefused(with([this](Wish& w) { w.layers.assign(33, image_.path()); }), Reason::BAD_INPUT,
                "33 layers");
  expectRefused(with([](Wish& w) { w.layers = {"/a\nb"}; }), Reason::BAD_INPUT, "control characters");

  EXPECT_FALSE(exists(at("placed")));
  EXPECT_THAT(listeners(), ElementsAre("one", "vm"));
  EXPECT_EQ(textOf(at("file")), "text");
}

// A file system that does not answer holds up the call alone; so many at a time, and each path once.
TEST_F(PlacedListener, OnAFileSystemThatDoesNotAnswerHoldsUpNoOther) {
  if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  FuseFile file(image_);
  const pid_t program = std::stoi(file.path().substr(std::string("/proc/").size()));
  kill(program, SIGSTOP);
  awaitStopped(program);
  std::vector<kj::Promise<void>> waiting;
  for (unsigned i = 0; i < 16; i++) {
    Wish slow = wish();
    slow.name += std::to_string(i);
    slow.socket += std::to_string(i);
    slow.layers = {file.path()};
    waiting.push_back(send(slow).ignoreResult());
  }
  expectRefused(wish(), Reason::LIMIT_REACHED, "16 listeners are being made");
  Wish same = wish();
  same.socket += "3";
  expectRefused(same, Reason::NAME_TAKEN, "another call is making it");
  Target target(image_, server_.socket(), SMALL);
  server_.restore();
  expectContent(target, {});
  kill(program, SIGCONT);
  for (auto& call : waiting) server_.wait(kj::mv(call));
  EXPECT_EQ(listeners().size(), 17u);
}

// Its files cannot even be closed without an error: that ends no process.
TEST_F(PlacedListener, OnAFileSystemThatHasGoneIsClosedAllTheSame) {
  if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  {
    FuseFile file(image_);
    Wish wanted = wish();
    wanted.layers = {file.path()};
    listen(wanted);
  }
  unlisten("placed");
  EXPECT_FALSE(exists(at("placed")));
  Target target(image_, server_.socket(), SMALL);
  server_.restore();
  expectContent(target, {});
  EXPECT_EQ(server_.status().getIncarnation(), 1u);
}

}  // namespace
}  // namespace faultline::test
