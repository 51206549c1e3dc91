// A failure as data: a reason and a text, whatever makes it and however it comes here.

#include "rpc/refusal.h"

#include <capnp/schema.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <kj/debug.h>

#include <stdexcept>

#include "rpc/answering.h"
#include "rpc/connection.h"
#include "rpc/control.capnp.h"

namespace faultline::rpc {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<Reason> everyReason() {
  std::vector<Reason> all;
  for (auto enumerant : capnp::Schema::from<Reason>().getEnumerants())
    all.push_back(static_cast<Reason>(enumerant.getOrdinal()));
  return all;
}

kj::Exception thrownBy(kj::Function<void()> action) {
  auto caught = kj::runCatchingExceptions([&] { action(); });
  return kj::mv(KJ_ASSERT_NONNULL(caught));
}

TEST(Refusal, EachReasonIsReadAsItWasMade) {
  for (const Reason reason : everyReason()) {
    const Refusal read = refusalOf(refusal(reason, "the text; a = 1 [2] says why"));
    EXPECT_EQ(read.reason, reason);
    EXPECT_EQ(read.message, "the text; a = 1 [2] says why");
  }
}

TEST(Refusal, HasTheNameOfItsReasonInBrackets) {
  EXPECT_STREQ(refusal(Reason::NOT_FOUND, "no restore is called vm7").getDescription().cStr(),
               "[notFound] no restore is called vm7");
}

TEST(Refusal, MayHaveComeThroughSeveralProcesses) {
  const kj::Exception far(kj::Exception::Type::FAILED, "", 0,
                          kj::str("remote exception: remote exception: [ended] it is over"));
  EXPECT_EQ(refusalOf(far).reason, Reason::ENDED);
  EXPECT_EQ(refusalOf(far).message, "it is over");
}

TEST(Refusal, OfALaterServerIsAFailureWithItsText) {
  const kj::Exception later(kj::Exception::Type::FAILED, "", 0, kj::str("[tooHot] cool it first"));
  EXPECT_EQ(refusalOf(later).reason, Reason::FAILED);
  EXPECT_EQ(refusalOf(later).message, "cool it first");
}

TEST(Refusal, OfARequirementSaysWhatItMeansAndNotHowItIsWritten) {
  const int found = 3;
  const Refusal read = refusalOf(thrownBy([&] { KJ_REQUIRE(found == 4, "there must be four", found); }));
  EXPECT_EQ(read.reason, Reason::FAILED);
  EXPECT_EQ(read.message, "there must be four: 3");
}

TEST(Refusal, OfAStandardExceptionIsItsText) {
  const Refusal read = refusalOf(thrownBy([] { throw std::runtime_error("begins with 'a = b; c'"); }));
  EXPECT_EQ(read.message, "begins with 'a = b; c'");
}

TEST(Refusal, BecauseGivesAReasonToWhatHasNone) {
  EXPECT_EQ(
      refusalOf(because(Reason::BAD_TARGET, thrownBy([] { throw std::runtime_error("no uffd"); }))).reason,
      Reason::BAD_TARGET);
  EXPECT_EQ(refusalOf(because(Reason::BAD_TARGET, refusal(Reason::ENDED, "over"))).reason, Reason::ENDED);
  const auto gone = because(Reason::BAD_TARGET, KJ_EXCEPTION(DISCONNECTED, "the peer has gone"));
  EXPECT_EQ(gone.getType(), kj::Exception::Type::DISCONNECTED);
}

// --- over a connection ---

class Failing final : public Answering<Coordinator> {
 public:
  kj::Promise<void> shutdown(ShutdownContext) override { throw std::runtime_error("cannot be mended"); }
  kj::Promise<void> list(ListContext) override {
    return kj::evalLater([] { refuse(Reason::LIMIT_REACHED, "there are too many"); });
  }
  kj::Promise<void> unlisten(UnlistenContext context) override {
    KJ_REQUIRE(context.getParams().getName().size() > 5, "a longer name is needed");
    return kj::READY_NOW;
  }
};

class OverAConnection : public testing::Test {
 protected:
  OverAConnection() : io_(kj::setupAsyncIo()), acceptor_(kj::heap<Failing>()) {
    auto [ours, theirs] = streamPair();
    acceptor_.accept(*io_.lowLevelProvider, kj::mv(theirs));
    connection_ = kj::heap<Connection>(*io_.lowLevelProvider, kj::mv(ours));
    client_ = connection_->bootstrap().castAs<Coordinator>();
  }
  ~OverAConnection() noexcept override {}  // KJ's may throw

  template <typename Promise>
  kj::Exception failureOf(Promise promise) {
    auto caught = kj::runCatchingExceptions([&] { promise.wait(io_.waitScope); });
    return kj::mv(KJ_ASSERT_NONNULL(caught));
  }
  Coordinator::Client& client() { return KJ_ASSERT_NONNULL(client_); }

  kj::AsyncIoContext io_;
  Acceptor acceptor_;
  kj::Own<Connection> connection_;
  kj::Maybe<Coordinator::Client> client_;
};

TEST_F(OverAConnection, WhatAMethodThrowsHasAReason) {
  const Refusal read = refusalOf(failureOf(client().shutdownRequest().send()));
  EXPECT_EQ(read.reason, Reason::FAILED);
  EXPECT_EQ(read.message, "cannot be mended");
}

TEST_F(OverAConnection, WhatAPromiseIsBrokenWithHasItsOwn) {
  const Refusal read = refusalOf(failureOf(client().listRequest().send()));
  EXPECT_EQ(read.reason, Reason::LIMIT_REACHED);
  EXPECT_EQ(read.message, "there are too many");
}

TEST_F(OverAConnection, NoExpressionOfTheCodeIsOnTheWire) {
  const auto failure = failureOf(client().unlistenRequest().send());
  EXPECT_THAT(failure.getDescription().cStr(), HasSubstr("[failed] a longer name is needed"));
  EXPECT_THAT(failure.getDescription().cStr(), Not(HasSubstr("expected")));
}

TEST_F(OverAConnection, AMethodThatIsNotThereSaysSoByItsType) {
  const auto failure = failureOf(client().statusRequest().send());
  EXPECT_EQ(failure.getType(), kj::Exception::Type::UNIMPLEMENTED);
}

}  // namespace
}  // namespace faultline::rpc
