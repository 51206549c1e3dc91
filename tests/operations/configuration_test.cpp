// The configuration of a service: what its files may say, and what a reload changes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <filesystem>
#include <fstream>
#include <thread>

#include "cli/configuration.h"
#include "cli/errors.h"
#include "rpc/refusal.h"
#include "tests/cli/command.h"
#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

using cli::readConfiguration;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

struct Files {
  Directory directory;
  std::string config = directory / "faultline.conf";
  Files() {
    std::filesystem::create_directory(directory / "restores.d");
    service("");
  }
  void service(const std::string& text) const { directory.file("faultline.conf", text); }
  std::string at(const std::string& name) const { return directory / ("restores.d/" + name + ".conf"); }
  void restore(const std::string& name, const std::string& text) const {
    directory.file("restores.d/" + name + ".conf", text);
  }
  std::string socket(const std::string& name) const { return directory / (name + ".sock"); }
  void remove(const std::string& name) const { std::filesystem::remove(at(name)); }
};

std::string whyRefused(const std::string& config) {
  try {
    readConfiguration(config);
  } catch (const cli::CommandError& error) {
    EXPECT_EQ(error.code, cli::USAGE);
    return error.what();
  }
  return "";
}

TEST(ConfigurationFiles, SayWhatIsServed) {
  const Files files;
  files.service("# of the host\nshards = 3\npopulation-rate = \"200MiB\"\non-lost = kill\nmode = 0660\n");
  files.restore(
      "vm2",
      "memory = /b\nover = [\"/a\", \"/c\"]\nsocket = /run/vm2.sock\nprefault = false\non-lost = poison\n");
  files.restore("vm1",
                "  memory = \"/a\"   # the snapshot\n\n\tsocket = /run/vm1.sock\nany-user\nowner = 4711\n");
  files.directory.file("restores.d/vm3.conf.bak", "nothing of ours");
  const auto configuration = readConfiguration(files.config);
  ASSERT_TRUE(configuration.service.has_value());
  ASSERT_EQ(configuration.listeners.size(), 2u);
  const auto &one = configuration.listeners[0], &two = configuration.listeners[1];
  EXPECT_EQ(one.name, "vm1");
  EXPECT_EQ(one.layers, (std::vector<std::string>{"/a"}));
  EXPECT_TRUE(one.anyUser);
  EXPECT_TRUE(one.policy.prefault);
  EXPECT_EQ(one.policy.onLost, "kill") << "of the host's file";
  EXPECT_EQ(one.access, (rpc::SocketAccess{"4711", "", 0660}));
  EXPECT_EQ(one.socketAt, files.at("vm1") + ":3");
  EXPECT_EQ(two.layers, (std::vector<std::string>{"/b", "/a", "/c"}));
  EXPECT_FALSE(two.policy.prefault);
  EXPECT_EQ(two.policy.onLost, "poison");
  EXPECT_FALSE(two.anyUser);
}

TEST(ConfigurationFiles, AMistakeIsTheirsByFileAndLine) {
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"shards = 3\nshrads = 4\n", ":2: shrads is no setting"},
           {"shards = many\n", ":1: "},
           {"\n\nshards = 65\n", ":3: "},
           {"shards = 3\nshards = 3\n", ":2: shards is set already, in line 1"},
           {"[service]\n", ":1: sections"},
           {"over = [\"/a\",\n\"/b\"]\n", ":1: a list stands in one line"},
           {"prefault = perhaps\n", ":1: "},
           {"x\n", ":1: "},
           {"test-hooks = true\n", ":1: test-hooks is no setting"},
           {"memory = /a\n", ":1: memory is no setting"},
           {"mode = 0999\n", ":1: "},
           {"population-rate = fast\n", ":1: "},
           {"shards = \n", ":1: shards has no value"},
           {std::string("shards = 3\nowner = a\0b\n", 23), ":2: "}}) {
    const Files files;
    files.service(text);
    EXPECT_THAT(whyRefused(files.config), StartsWith(files.config + why)) << text;
  }
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"memory = /a\n", ": socket is not set"},
           {"socket = /a\n", ": memory is not set"},
           {"memory = a\nsocket = /s\n", ":1: "},
           {"memory = /a\nsocket = s\n", ":2: "},
           {"memory = /a\nsocket = /s\nshards = 3\n", ":3: shards is no setting"},
           {"memory = /a\nsocket = /s\nowner = no-such-user\n", ":3: "},
           {"memory = /a\nsocket = /s\naround = 5\n", ":3: "}}) {
    const Files files;
    files.restore("vm1", text);
    EXPECT_THAT(whyRefused(files.config), StartsWith(files.at("vm1") + why)) << text;
  }
  const Files files;
  files.restore("vm1", "memory = /a\nsocket = /s\n");
  files.restore("vm2", "memory = /a\nsocket = /s\n");
  EXPECT_THAT(whyRefused(files.config),
              AllOf(StartsWith(files.at("vm2") + ":2: "), HasSubstr(files.at("vm1") + ":2")));
  const Files misnamed;
  misnamed.restore("a.b", "memory = /a\nsocket = /s\n");
  EXPECT_THAT(whyRefused(misnamed.config), StartsWith(misnamed.at("a.b") + ": the file's name"));
}

// A service with a configuration, run as a person would.
class Configured : public testing::Test {
 protected:
  Configured() { restore("vm1", "keep-serving = true\nprefault = false\n"); }

  void restore(const std::string& name, const std::string& more, const std::string& memory = "") const {
    files_.restore(name, "memory = " + (memory.empty() ? image_.path() : memory) +
                             "\nsocket = " + files_.socket(name) + "\n" + more);
  }
  std::string control() const { return files_.directory / "control"; }
  std::unique_ptr<Command> serve(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"serve", "--control", control(), "--config", files_.config});
    auto server = std::make_unique<Command>(more);
    server->await("serving; control socket");
    return server;
  }
  Command::Result run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--control", control()});
    return test::run(arguments);
  }
  Command::Result reload() const { return run({"reload", "--config", files_.config}); }
  std::string listeners() const { return run({"listeners", "--json"}).out; }
  bool there(const std::string& name) const { return std::filesystem::exists(files_.socket(name)); }

  Image image_{64 * SMALL};
  Files files_;
};

TEST_F(Configured, AReloadTakesWhatIsNewChangedAndGone) {
  restore("vm2", "");
  const auto server = serve();
  EXPECT_TRUE(there("vm1") && there("vm2"));
  // A restore that runs keeps what it began with.
  Target target(image_, files_.socket("vm1"), SMALL);
  ASSERT_TRUE(target.holdsImage(3));
  restore("vm1", "keep-serving = false\nprefault = false\nmode = 0666\n");
  files_.remove("vm2");
  restore("vm3", "on-lost = kill\n");
  const auto done = reload();
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_THAT(done.out, StartsWith("2 listeners: 1 new, 1 changed, 1 closed"));
  await([&] { return !there("vm2"); });
  EXPECT_TRUE(there("vm3"));
  struct stat status {};
  ASSERT_EQ(stat(files_.socket("vm1").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0666u);
  EXPECT_THAT(reload().out, StartsWith("2 listeners: 0 new, 0 changed, 0 closed"));
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page));
  rpc::ControlClient client(control());
  auto request = client.coordinator().restoreRequest();
  request.setName("vm1");
  auto restore = client.wait(request.send()).getRestore();
  EXPECT_TRUE(client.wait(restore.infoRequest().send()).getInfo().getPolicy().getKeepServing());
  Target next(image_, files_.socket("vm1"), SMALL);
  await([&] {
    auto list = client.wait(client.coordinator().listRequest().send());
    for (auto info : list.getRestores())
      if (info.getName() == "vm1-2") return !info.getPolicy().getKeepServing();
    return false;
  });
  server->signal(SIGTERM);
  EXPECT_EQ(server->finish().code, 0);
  EXPECT_FALSE(there("vm1") || there("vm3")) << "a socket was left";
}

TEST_F(Configured, AMistakeChangesNothing) {
  const auto server = serve();
  const std::string before = listeners();
  restore("vm1", "prefault = true\n");
  restore("vm2", "", files_.directory / "no-such-file");
  auto refused = reload();
  EXPECT_EQ(refused.code, cli::USAGE);
  EXPECT_THAT(refused.err, AllOf(HasSubstr(files_.at("vm2") + ":1: "), HasSubstr("no-such-file")));
  files_.remove("vm2");
  files_.service("shards = none\n");
  refused = reload();
  EXPECT_EQ(refused.code, cli::USAGE);
  EXPECT_THAT(refused.err, HasSubstr(files_.config + ":1: "));
  std::filesystem::remove(files_.config);
  std::filesystem::rename(files_.directory / "restores.d", files_.directory / "elsewhere");
  EXPECT_EQ(reload().code, cli::USAGE) << "without its files nothing would be served any more";
  EXPECT_EQ(listeners(), before);
}

TEST_F(Configured, TheCommandLineWinsAndSaysSo) {
  files_.service("shards = 1\nworkers = 1\n");
  const auto server = serve(
      {"--shards", "2", "--name", "vm1", "--socket", files_.directory / "other", "--memory", image_.path()});
  EXPECT_FALSE(there("vm1"));
  EXPECT_THAT(listeners(),
              AllOf(HasSubstr("\"command line\""), testing::Not(HasSubstr("\"configuration\""))));
  const auto done = reload();
  EXPECT_EQ(done.code, 0);
  EXPECT_THAT(done.err, HasSubstr("listener vm1 is that of the command line"));
  EXPECT_THAT(done.out, HasSubstr("shards: 1 in " + files_.config + ", 2 in force"));
  EXPECT_THAT(done.out, testing::Not(HasSubstr("workers")));
  server->signal(SIGTERM);
  EXPECT_THAT(server->finish().err, AllOf(HasSubstr("--shards of the command line wins"),
                                          HasSubstr("listener vm1 is that of the command line")));
}

TEST_F(Configured, ACheckChangesNothingAndSaysWhatIsWrong) {
  EXPECT_EQ(test::run({"serve", "--check", "--config", files_.config}).code, 0);
  restore("vm2", "working-set = /no/such/file\n");
  const auto wrong = test::run({"serve", "--check", "--config", files_.config});
  EXPECT_EQ(wrong.code, cli::USAGE);
  EXPECT_THAT(wrong.err, HasSubstr(files_.at("vm2")));
  EXPECT_FALSE(there("vm1"));
}

TEST_F(Configured, AListenerOfACallIsLeftAlone) {
  const auto server = serve();
  const std::string socket = files_.socket("lent");
  const auto made = run({"listen", "lent", "--memory", image_.path(), "--socket", socket, "--mode", "0640"});
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(reload().code, 0);
  Target target(image_, socket, SMALL);
  EXPECT_TRUE(target.holdsImage(5));
  restore("lent", "");
  const auto refused = reload();
  EXPECT_EQ(refused.code, cli::REFUSED);
  EXPECT_THAT(refused.err, HasSubstr("faultline unlisten"));
  EXPECT_EQ(run({"unlisten", "lent"}).code, 0);
  EXPECT_EQ(run({"unlisten", "lent"}).code, cli::NOT_FOUND);
  await([&] { return !there("lent"); });
  EXPECT_EQ(reload().code, 0);
  EXPECT_TRUE(there("lent"));
}

// A call takes precedence for now: what the configuration says counts again at its next reading.
TEST_F(Configured, ACallClosesAListenerOfTheConfigurationUntilAReload) {
  const auto server = serve();
  EXPECT_TRUE(there("vm1"));
  EXPECT_EQ(run({"unlisten", "vm1"}).code, 0);
  await([&] { return !there("vm1"); });
  EXPECT_EQ(reload().code, 0);
  EXPECT_TRUE(there("vm1"));
}

// Fifty listeners from a folder: each of them is changed again and again while targets come. Each target gets one of the
// two memories whole, and none is refused.
TEST_F(Configured, FiftyListenersAreReloadedUnderLoad) {
  constexpr unsigned COUNT = 50, ROUNDS = 6;
  Image other(64 * SMALL);
  for (std::uint64_t page = 0; page < 64; page++) other.fill(page * SMALL + 8, SMALL - 8, 0xab);
  const auto name = [](unsigned i) { return "guest" + std::to_string(i); };
  const auto write = [&](unsigned round) {
    for (unsigned i = 0; i < COUNT; i++)
      restore(name(i), round % 2 == 0 ? "prefault = true\n" : "prefault = false\n",
              round % 2 == 0 ? image_.path() : other.path());
  };
  write(0);
  const auto server = serve();
  std::atomic<bool> done{false};
  std::atomic<unsigned> whole{0}, wrong{0};
  const auto target = [&](unsigned seed) {
    // All are kept: the kernel would let one restore put pages where the memory of one before it was.
    std::deque<Target> targets;
    for (unsigned i = seed; !done; i += 7) {
      const Target& each = targets.emplace_back(image_, files_.socket(name(i % COUNT)), SMALL);
      unsigned first = 0, second = 0;
      for (std::uint64_t page = 0; page < each.pages(); page++) {
        first += each.holdsImage(page) ? 1 : 0;
        second += each.read(page) == static_cast<unsigned char>(other.at(page * SMALL)) &&
                          each.address(page)[4095] == 0xab
                      ? 1
                      : 0;
      }
      (first == each.pages() || second == each.pages() ? whole : wrong)++;
    }
  };
  std::thread one(target, 0), two(target, 3);
  for (unsigned round = 1; round <= ROUNDS; round++) {
    const unsigned before = whole;
    write(round);
    const auto reloaded = reload();
    EXPECT_EQ(reloaded.code, 0) << reloaded.err;
    EXPECT_THAT(reloaded.out, StartsWith("51 listeners: 0 new, 50 changed, 0 closed"));
    await([&] { return whole > before + 4 || wrong > 0; });
  }
  done = true;
  one.join();
  two.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_THAT(listeners(), testing::Not(testing::ContainsRegex("\"refused\": [1-9]")));
  for (unsigned i = 0; i < COUNT; i++) files_.remove(name(i));
  EXPECT_THAT(reload().out, StartsWith("1 listeners: 0 new, 0 changed, 50 closed"));
}

// --- the call itself ---

class ConfigureCall : public testing::Test {
 protected:
  struct Wanted {
    std::string name, socket, memory;
    std::uint16_t mode = 0600;
    bool prefault = false;
  };
  auto send(const std::vector<Wanted>& wanted) {
    auto request = server_.client().coordinator().configureRequest();
    auto list = request.initListeners(static_cast<unsigned>(wanted.size()));
    for (unsigned i = 0; i < wanted.size(); i++) {
      list[i].initSpec().setName(wanted[i].name.c_str());
      list[i].getSpec().initPolicy().setPrefault(wanted[i].prefault);
      list[i].initSocket().setPath(wanted[i].socket.c_str());
      list[i].getSocket().setMode(wanted[i].mode);
      list[i].initLayers(1).set(0, wanted[i].memory.c_str());
    }
    return request.send();
  }
  void configure(const std::vector<Wanted>& wanted) { server_.wait(send(wanted)); }
  std::string refusal(const std::vector<Wanted>& wanted) {
    std::string why;
    server_.wait(
        send(wanted).ignoreResult().catch_([&](kj::Exception&& e) { why = e.getDescription().cStr(); }));
    return why;
  }
  std::string at(const std::string& name) const { return image_.directory() + "/" + name; }
  mode_t modeOf(const std::string& path) {
    struct stat status {};
    return stat(path.c_str(), &status) == 0 ? status.st_mode & 0777 : 0;
  }
  Image image_{16 * SMALL};
  Server server_{image_};
};

// What comes before the mistake has been made already: it is undone.
TEST_F(ConfigureCall, WhatCannotBeServedLeavesEverythingAsItWas) {
  configure({{"a", at("a"), image_.path()}});
  const std::string why = refusal({{"a", at("a"), image_.path(), 0666, true},
                                   {"b", at("b"), image_.path()},
                                   {"c", at("c"), at("nothing")}});
  EXPECT_THAT(why, AllOf(HasSubstr("listener c"), HasSubstr(at("nothing"))));
  EXPECT_FALSE(std::filesystem::exists(at("b")));
  await([&] { return modeOf(at("a")) == 0600; });
  auto response = server_.wait(server_.client().coordinator().listenersRequest().send());
  ASSERT_EQ(response.getListeners().size(), 2u);
  EXPECT_FALSE(response.getListeners()[0].getPolicy().getPrefault());
  Target target(image_, at("a"), SMALL);
  EXPECT_TRUE(target.holdsImage(1));
}

TEST_F(ConfigureCall, NamesAndSocketsOfOthersAreRefused) {
  EXPECT_THAT(refusal({{"vm", at("a"), image_.path()}}), HasSubstr("command line"));
  EXPECT_THAT(refusal({{"a", server_.socket(), image_.path()}}), HasSubstr("is that of listener vm"));
  EXPECT_THAT(refusal({{"a", at("a"), image_.path()}, {"a", at("b"), image_.path()}}),
              HasSubstr("two listeners"));
  EXPECT_THAT(refusal({{"a", at("a"), image_.path()}, {"b", at("a"), image_.path()}}),
              HasSubstr("two listeners"));
}

// Interleaving: the coordinator dies in the middle of a change. Its successor serves nothing that is half of the one and
// half of the other, and takes the configuration when it is asked again.
TEST_F(ConfigureCall, ADeathInTheMiddleOfAChangeServesNoHalf) {
  configure({{"a", at("a"), image_.path()}});
  const auto barrier = arm(server_, coordinatorHooks(server_), "listenerChanging", rpc::Action::KILL);
  EXPECT_NE(refusal({{"a", at("a"), image_.path(), 0600, true}}), "");
  server_.reconnect();
  EXPECT_NE(server_.eventWith({"listener a is closed", "faultline reload"}), "");
  await([&] { return !std::filesystem::exists(at("a")); });
  configure({{"a", at("a"), image_.path(), 0600, true}});
  Target target(image_, at("a"), SMALL);
  EXPECT_TRUE(target.holdsImage(1));
}

TEST_F(ConfigureCall, OutlivesTheCoordinator) {
  configure({{"a", at("a"), image_.path()}, {"b", at("b"), image_.path()}});
  configure({{"a", at("a"), image_.path(), 0600, true}, {"b", at("b2"), image_.path()}});
  await([&] { return !std::filesystem::exists(at("b")); });
  kill(server_.coordinatorPid(), SIGKILL);
  server_.reconnect();
  Target a(image_, at("a"), SMALL), b(image_, at("b2"), SMALL);
  EXPECT_TRUE(a.holdsImage(1));
  EXPECT_TRUE(b.holdsImage(1));
  configure({});
  await([&] { return !std::filesystem::exists(at("a")) && !std::filesystem::exists(at("b2")); });
}

// A socket whose file is gone takes no target: it is made anew, though nothing has changed.
TEST_F(ConfigureCall, ASocketThatWasRemovedIsMadeAnew) {
  configure({{"a", at("a"), image_.path()}});
  std::filesystem::remove(at("a"));
  configure({{"a", at("a"), image_.path()}});
  Target target(image_, at("a"), SMALL);
  EXPECT_TRUE(target.holdsImage(1));
}

}  // namespace
}  // namespace faultline::test
