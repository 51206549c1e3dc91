// Layers that cannot be those of one source: refused by name before a target is accepted.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "rpc/connection.h"
#include "rpc/refusal.h"
#include "tests/recovery/recovery_test.h"
#include "tests/support/sources.h"
#include "tests/support/stack.h"

namespace faultline::test {
namespace {

using rpc::Reason;
using testing::AllOf;
using testing::HasSubstr;

class RefusedLayers : public testing::Test {
 protected:
  ~RefusedLayers() noexcept override {}  // KJ's may throw

  // The answer to a call that names these files.
  rpc::Refusal refusalOf(const std::vector<std::string>& paths) {
    auto request = server_.client().coordinator().listenRequest();
    request.initSpec().setName("layers");
    fill(request.initSource(), paths);
    request.setSocket(rpc::makeFd(rpc::listenAt(image_.directory() + "/" + std::to_string(sockets_++))));
    try {
      server_.wait(request.send());
    } catch (const kj::Exception& error) {
      return rpc::refusalOf(error);
    }
    ADD_FAILURE() << "not refused";
    return {};
  }

  Image image_{PAGES * SMALL};
  Server server_{image_};
  Stack stack_ = [] {
    Stack stack(PAGES * SMALL, 3);
    stack.data(1, 5, 3);
    stack.data(0, 7, 3);
    return stack;
  }();
  unsigned sockets_ = 0;
};

TEST_F(RefusedLayers, MoreThanThereMayBe) {
  const auto refusal = refusalOf(std::vector<std::string>(33, image_.path()));
  EXPECT_EQ(refusal.reason, Reason::BAD_INPUT);
  EXPECT_THAT(refusal.message, AllOf(HasSubstr("33 layers"), HasSubstr("32"), HasSubstr("flatten")));
}

// A smaller one over a larger one is another target's, too.
TEST_F(RefusedLayers, OfSeveralSizes) {
  for (const std::uint64_t pages : {PAGES / 2, 2 * PAGES}) {
    Stack other(pages * SMALL, 2);
    other.data(0, 1, 1);
    const auto refusal = refusalOf({other.top().path(), image_.path()});
    EXPECT_EQ(refusal.reason, Reason::BAD_SOURCE);
    EXPECT_THAT(refusal.message,
                AllOf(HasSubstr(other.top().path() + " has " + std::to_string(pages * SMALL) + " bytes"),
                      HasSubstr(image_.path() + " has " + std::to_string(PAGES * SMALL))));
  }
}

TEST_F(RefusedLayers, OneFileTwice) {
  const std::string again = image_.directory() + "/again";
  ASSERT_EQ(link(stack_.top().path().c_str(), again.c_str()), 0);
  const auto refusal = refusalOf({stack_.top().path(), again, stack_.lowest().path()});
  EXPECT_EQ(refusal.reason, Reason::BAD_SOURCE);
  EXPECT_THAT(refusal.message, HasSubstr(again + " is the same file as layer " + stack_.top().path()));
}

// It would hide all that is below.
TEST_F(RefusedLayers, AFullSnapshotOverAnother) {
  const auto refusal = refusalOf({stack_.top().path(), image_.path(), stack_.lowest().path()});
  EXPECT_EQ(refusal.reason, Reason::BAD_SOURCE);
  EXPECT_THAT(refusal.message, HasSubstr(image_.path() + " can't be an upper layer"));
}

TEST_F(RefusedLayers, OneWithoutAFile) {
  auto request = server_.client().coordinator().listenRequest();
  request.initSpec().setName("layers");
  auto layers = request.initSource().initLayers(2);
  layers[0].setFile(rpc::makeFd(kj::AutoCloseFd(open(stack_.top().path().c_str(), O_RDONLY | O_CLOEXEC))));
  request.setSocket(rpc::makeFd(rpc::listenAt(image_.directory() + "/without")));
  auto sent = kj::evalNow([&] { return request.send().ignoreResult(); });
  try {
    server_.wait(kj::mv(sent));
    ADD_FAILURE() << "not refused";
  } catch (const kj::Exception& error) {
    EXPECT_EQ(rpc::refusalOf(error).reason, Reason::BAD_INPUT);
  }
}

// The whole way by call: none of the paths is looked at.
TEST_F(RefusedLayers, OthersAreServed) {
  const std::string socket = image_.directory() + "/layers-socket";
  auto request = server_.client().coordinator().listenRequest();
  request.initSpec().setName("layers");
  fill(request.initSource(), stack_.paths());
  request.setSocket(rpc::makeFd(rpc::listenAt(socket)));
  auto listener = server_.wait(request.send()).getListener();
  Target target(stack_.shown(), socket, SMALL);
  expectContent(target, {});
}

}  // namespace
}  // namespace faultline::test
