// Every call of the control interface, with arguments that can never be right, with none, and after its restore is over:
// each refusal has a reason and a text for people. The calls are those of the schema: one that is new has to be named in
// the table here, or the test is red.

#include <capnp/dynamic.h>
#include <capnp/schema.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "rpc/fd.h"
#include "rpc/refusal.h"
#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using rpc::Reason;
using testing::MatchesRegex;

constexpr std::uint64_t SMALL = 4096, PAGES = 64;

// The outcome of a call with such arguments.
struct Expected {
  enum class Kind { refused, answered, notSent } kind = Kind::answered;
  Reason reason = Reason::FAILED;  // where it is refused
};
Expected refused(Reason reason) {
  return {Expected::Kind::refused, reason};
}
const Expected ANSWERED{};
const Expected NOT_SENT{
    Expected::Kind::notSent};  // waits for what does not come here, or changes what the others are about

struct Row {
  Expected wrong;   // each number the largest, each name of nothing, each list of one such element
  Expected absent;  // each value its default, no capability
};

// By interface and method, as the schema names them.
const std::map<std::string, std::map<std::string, Row>> EXPECTED = {
    {"Coordinator",
     {
         {"attach", {refused(Reason::BAD_TARGET), refused(Reason::BAD_INPUT)}},
         {"list", {ANSWERED, ANSWERED}},
         {"restore", {refused(Reason::NOT_FOUND), refused(Reason::NOT_FOUND)}},
         {"listen", {refused(Reason::BAD_INPUT), refused(Reason::BAD_INPUT)}},
         {"unlisten", {refused(Reason::NOT_FOUND), refused(Reason::NOT_FOUND)}},
         {"status", {ANSWERED, ANSWERED}},
         {"shutdown", {refused(Reason::PAGES_MISSING), refused(Reason::PAGES_MISSING)}},
         {"reshard", {refused(Reason::NOT_FOUND), refused(Reason::NOT_FOUND)}},
         {"upgrade", {refused(Reason::BAD_INPUT), refused(Reason::BAD_INPUT)}},
         {"waitUpgraded", {ANSWERED, ANSWERED}},
         {"listenAt", {refused(Reason::BAD_INPUT), refused(Reason::BAD_INPUT)}},
         {"events", {refused(Reason::BAD_INPUT), NOT_SENT}},
         {"ended", {ANSWERED, ANSWERED}},
         {"listeners", {ANSWERED, ANSWERED}},
         {"configure", {refused(Reason::BAD_INPUT), ANSWERED}},
         {"drain", {NOT_SENT, NOT_SENT}},
     }},
    {"Restore",
     {
         {"info", {ANSWERED, ANSWERED}},
         {"waitReady", {ANSWERED, ANSWERED}},
         {"waitComplete", {NOT_SENT, NOT_SENT}},
         {"pageStates", {refused(Reason::BAD_INPUT), ANSWERED}},
         {"pause", {ANSWERED, refused(Reason::WRONG_PHASE)}},   // the second time
         {"resume", {ANSWERED, refused(Reason::WRONG_PHASE)}},  // the same
         {"prefault", {refused(Reason::BAD_INPUT), NOT_SENT}},
         {"stats", {ANSWERED, ANSWERED}},
         {"detach", {refused(Reason::PAGES_MISSING), refused(Reason::PAGES_MISSING)}},
         {"waitEnded", {NOT_SENT, NOT_SENT}},
         {"workingSet", {refused(Reason::NOT_FOUND), refused(Reason::NOT_FOUND)}},
         {"owners", {refused(Reason::BAD_INPUT), ANSWERED}},
     }},
    {"Listener",
     {
         {"nextRestore", {NOT_SENT, NOT_SENT}},
         {"close", {ANSWERED, ANSWERED}},
         {"lastError", {ANSWERED, ANSWERED}},
     }},
    {"Prefault",
     {
         {"progress", {ANSWERED, ANSWERED}},
         {"wait", {NOT_SENT, NOT_SENT}},
         {"cancel", {ANSWERED, ANSWERED}},
     }},
    {"RecordedWorkingSet",
     {
         {"pages", {ANSWERED, ANSWERED}},
         {"snapshot", {ANSWERED, ANSWERED}},
     }},
};

constexpr const char* NOTHING = "no such thing";

rpc::Fd::Client wrongFile() {
  return rpc::makeFd(kj::AutoCloseFd(open("/dev/null", O_RDONLY | O_CLOEXEC)));
}

void fillWrong(capnp::DynamicStruct::Builder to);

void fillWrong(capnp::DynamicList::Builder list) {
  const capnp::Type type = list.getSchema().getElementType();
  for (unsigned i = 0; i < list.size(); i++) {
    if (type.isStruct())
      fillWrong(list[i].as<capnp::DynamicStruct>());
    else if (type.isText())
      list.set(i, NOTHING);
    else if (type.isUInt64())
      list.set(i, ~0ull);
    else
      FAIL() << "an element of a kind that this test does not know";
  }
}

// Booleans stay false: they are what an operator confirms with.
void fillWrong(capnp::DynamicStruct::Builder to, capnp::StructSchema::Field field) {
  const capnp::Type type = field.getType();
  if (type.isStruct()) {
    fillWrong(to.init(field).as<capnp::DynamicStruct>());
  } else if (type.isList()) {
    fillWrong(to.init(field, 1).as<capnp::DynamicList>());
  } else if (type.isText()) {
    to.set(field, NOTHING);
  } else if (type.isUInt64()) {
    to.set(field, ~0ull);
  } else if (type.isUInt32()) {
    to.set(field, ~std::uint32_t{0});
  } else if (type.isUInt16()) {
    to.set(field, static_cast<std::uint16_t>(~0u));
  } else if (type.isEnum()) {
    to.set(field, capnp::DynamicEnum(type.asEnum(), 0x7fff));
  } else if (type.isInterface()) {
    to.set(field, capnp::DynamicCapability::Client(wrongFile()));
  } else if (!type.isBool()) {
    FAIL() << field.getProto().getName().cStr() << " is of a kind that this test does not know";
  }
}

void fillWrong(capnp::DynamicStruct::Builder to) {
  for (auto field : to.getSchema().getNonUnionFields()) fillWrong(to, field);
  const auto choice = to.getSchema().getUnionFields();
  if (choice.size() > 0) fillWrong(to, choice[0]);
}

class EveryCall : public testing::Test {
 protected:
  ~EveryCall() noexcept override {}  // KJ's may throw

  using Methods = capnp::InterfaceSchema::MethodList;

  // The rows of an interface; red where they are not its methods.
  static const std::map<std::string, Row>& rowsOf(capnp::InterfaceSchema schema) {
    const std::string name = schema.getShortDisplayName().cStr();
    const auto& rows = EXPECTED.at(name);
    std::set<std::string> named, there;
    for (const auto& [method, row] : rows) named.insert(method);
    for (auto method : schema.getMethods()) there.insert(method.getProto().getName().cStr());
    EXPECT_EQ(named, there) << "of " << name;
    return rows;
  }

  // Why the call was refused, as it came; nothing: it was answered.
  std::optional<std::string> call(capnp::DynamicCapability::Client target,
                                  capnp::InterfaceSchema::Method method, bool wrong) {
    auto request = target.newRequest(method);
    if (wrong) fillWrong(request);
    try {
      server_.wait(request.send().ignoreResult());
    } catch (const kj::Exception& error) {
      return error.getDescription().cStr();
    }
    return std::nullopt;
  }

  static void expectRefusal(const std::optional<std::string>& said, std::optional<Reason> reason,
                            const std::string& what) {
    ASSERT_TRUE(said.has_value()) << what << " was answered";
    // "[reason] text", in plain words: nothing of how the server is written.
    EXPECT_THAT(*said, MatchesRegex("(remote exception: )?\\[[a-zA-Z]+\\] .+")) << what;
    for (const char* inside : {"expected ", "stringify", " == ", " != ", ".cpp", ".c++", "std::", "kj::"})
      EXPECT_EQ(said->find(inside), std::string::npos) << what << ": " << *said;
    if (!reason.has_value()) return;
    const rpc::Refusal refusal =
        rpc::refusalOf(kj::Exception(kj::Exception::Type::FAILED, "", 0, kj::str(said->c_str())));
    EXPECT_EQ(rpc::nameOf(refusal.reason), rpc::nameOf(*reason)) << what << ": " << *said;
  }

  // Every method, both ways.
  template <typename Interface>
  void callAll(typename Interface::Client client) {
    const auto schema = capnp::Schema::from<Interface>();
    const auto& rows = rowsOf(schema);
    capnp::DynamicCapability::Client target(kj::mv(client));
    for (auto method : schema.getMethods()) {
      const std::string name = method.getProto().getName().cStr();
      for (const bool wrong : {true, false}) {
        const Expected& expected = wrong ? rows.at(name).wrong : rows.at(name).absent;
        const std::string what = schema.getShortDisplayName().cStr() + ("." + name) +
                                 (wrong ? ", arguments that cannot be right" : ", no arguments");
        if (expected.kind == Expected::Kind::notSent) continue;
        const auto said = call(target, method, wrong);
        if (expected.kind == Expected::Kind::refused)
          expectRefusal(said, expected.reason, what);
        else
          EXPECT_EQ(said, std::nullopt) << what;
      }
    }
  }

  Image image_{PAGES * SMALL};
  Server server_{image_};
  Target target_{image_, server_.socket(), SMALL};
  rpc::Restore::Client restore_ = server_.restore();
};

TEST_F(EveryCall, OfTheCoordinator) {
  callAll<rpc::Coordinator>(server_.client().coordinator());
}

TEST_F(EveryCall, OfARestore) {
  callAll<rpc::Restore>(restore_);
}

TEST_F(EveryCall, OfAListener) {
  auto request = server_.client().coordinator().listenAtRequest();
  auto placed = request.initPlaced();
  placed.initSpec().setName("other");
  placed.initSocket().setPath((image_.directory() + "/other").c_str());
  placed.initLayers(1).set(0, image_.path().c_str());
  callAll<rpc::Listener>(server_.wait(request.send()).getListener());
}

TEST_F(EveryCall, OfAPopulation) {
  callAll<rpc::Prefault>(server_.wait(restore_.prefaultRequest().send()).getPrefault());
}

TEST_F(EveryCall, OfARecording) {
  auto request = server_.client().coordinator().listenAtRequest();
  auto placed = request.initPlaced();
  placed.initSpec().setName("recorded");
  placed.getSpec().initPolicy().setRecordWorkingSet(true);
  placed.initSocket().setPath((image_.directory() + "/recorded").c_str());
  placed.initLayers(1).set(0, image_.path().c_str());
  server_.wait(request.send());
  Target target(image_, image_.directory() + "/recorded", SMALL);
  auto restore = server_.restoreNamed("recorded");
  callAll<rpc::RecordedWorkingSet>(server_.wait(restore.workingSetRequest().send()).getWorkingSet());
}

// Every call of a restore that is over says so, but the two that are about its end.
TEST_F(EveryCall, OfARestoreThatIsOver) {
  auto detach = restore_.detachRequest();
  detach.setForce(true);
  server_.wait(detach.send());
  // It is over once it is told as ended: the capability may hold it for a moment longer.
  await([&] {
    return server_.wait(server_.client().coordinator().listRequest().send()).getRestores().size() == 0;
  });
  const auto schema = capnp::Schema::from<rpc::Restore>();
  for (auto method : schema.getMethods()) {
    const std::string name = method.getProto().getName().cStr();
    for (const bool wrong : {true, false}) {
      const auto said = call(rpc::Restore::Client(restore_), method, wrong);
      if (name == "waitEnded")
        EXPECT_EQ(said, std::nullopt);
      else
        expectRefusal(said, name == "workingSet" ? Reason::NOT_FOUND : Reason::ENDED, name);
    }
  }
}

// A capability that is none at all: the answer has a reason as well.
TEST_F(EveryCall, OfAFileThatIsNoFile) {
  auto request = server_.client().coordinator().attachRequest();
  request.setUffd(capnp::Capability::Client(server_.client().coordinator()).castAs<rpc::Fd>());
  request.initSource().initLayers(1)[0].setFile(wrongFile());
  std::optional<std::string> said;
  server_.wait(request.send().ignoreResult().catch_(
      [&](kj::Exception&& error) { said = error.getDescription().cStr(); }));
  expectRefusal(said, Reason::BAD_INPUT, "attach of a capability that has no file");
}

}  // namespace
}  // namespace faultline::test
