// The names of kept fds, made and parsed.

#include "process/kept_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

namespace faultline::process {
namespace {

using Kind = KeptName::Kind;
using Part = KeptName::Part;
using testing::UnorderedElementsAre;

std::vector<std::string> texts() {
  std::vector<std::string> result;
  for (const KeptName& name : everyKeptName()) result.push_back(name.text());
  return result;
}

// Written out: the next build must understand what this one has left.
TEST(KeptName, TheseAreAll) {
  EXPECT_THAT(texts(),
              UnorderedElementsAre(
                  "control", "counters", "ended", "election", "names.3", "listener.vm-1.listen",
                  "listener.vm-1.conn.3", "listener.vm-1.source.3", "listener.vm-1.spec-options",
                  "listener.vm-1.spec-file", "listener.vm-1.spec-call", "restore.7.uffd",
                  "restore.7.source.3", "restore.7.cache.3", "restore.7.map.3", "restore.7.ring.3",
                  "fetcher.pidfd", "restore.7.names", "restore.7.conn", "restore.7.target",
                  "restore.7.touches", "restore.7.segment", "shard.7.pidfd", "shard.7.channel",
                  "program.shard", "program.fetcher", "failpoint.vm-1.reached", "failpoint.vm-1.resume"));
}

TEST(KeptName, EachIsParsedAsItWasMade) {
  for (const KeptName& name : everyKeptName()) {
    const auto parsed = KeptName::parse(name.text());
    ASSERT_TRUE(parsed.has_value()) << name.text();
    EXPECT_EQ(*parsed, name);
    EXPECT_EQ(parsed->text(), name.text());
  }
}

TEST(KeptName, IsMadeOfWhatItNames) {
  EXPECT_EQ(KeptName::service(Part::control).text(), "control");
  EXPECT_EQ(KeptName::listener("vm", Part::conn, 12).text(), "listener.vm.conn.12");
  EXPECT_EQ(KeptName::restore(~0ull, Part::source, 0).text(), "restore.18446744073709551615.source.0");
  EXPECT_EQ(KeptName::restore(1, Part::segment).with(Part::source, 2).text(), "restore.1.source.2");
  EXPECT_EQ(KeptName::restore(1, Part::segment).layer(0, 1).text(), "restore.1.source.0");
  EXPECT_EQ(KeptName::restore(1, Part::segment).layer(0, 3).text(), "restore.1.source.3");
  EXPECT_EQ(KeptName::restore(1, Part::segment).layer(2, 3).text(), "restore.1.source.1");
  EXPECT_EQ(KeptName::shard(63, Part::channel).text(), "shard.63.channel");
  EXPECT_EQ(KeptName::program().text(), "program.shard");
  EXPECT_EQ(KeptName::restore(12, Part::uffd).id(), 12u);
}

TEST(KeptName, OfASpecSaysWhoMadeTheListener) {
  for (const Origin origin : {Origin::commandLine, Origin::configuration, Origin::call}) {
    const KeptName spec = KeptName::listenerSpec("vm", origin);
    EXPECT_EQ(spec.origin(), origin);
    EXPECT_EQ(KeptName::parse(spec.text())->origin(), origin);
  }
  EXPECT_EQ(KeptName::listener("vm", Part::listen).origin(), std::nullopt);
}

TEST(KeptName, NumbersAreOrderedAsNumbers) {
  EXPECT_LT(KeptName::listener("vm", Part::conn, 9), KeptName::listener("vm", Part::conn, 10));
}

// Whatever else a service manager keeps, or a later build has left.
TEST(KeptName, OthersAreNotOurs) {
  for (const char* text : {"",
                           ".",
                           "foreign",
                           "control.",
                           "control.0",
                           ".control",
                           "Control",
                           "listener",
                           "listener.vm",
                           "listener.vm.",
                           "listener..listen",
                           "listener.vm.listen.1",
                           "listener.vm.conn",
                           "listener.vm.conn.",
                           "listener.vm.conn.x",
                           "listener.vm.conn.-1",
                           "listener.vm.conn.01",
                           "listener.vm.conn.1.2",
                           "listener.vm.conn.18446744073709551616",
                           "listener.a.b.listen",
                           "listener.a:b.listen",
                           "listener.a b.listen",
                           "listener.vm.uffd",
                           "restore.7",
                           "restore.x.uffd",
                           "restore..uffd",
                           "restore.07.uffd",
                           "restore.+7.uffd",
                           "restore.7.uffd.0",
                           "restore.7.source",
                           "restore.7.map",
                           "restore.18446744073709551616.uffd",
                           "shard.4294967296.pidfd",
                           "shard.1.uffd",
                           "program.coordinator",
                           "program.1.shard",
                           "stored",
                           "failpoint.x"})
    EXPECT_EQ(KeptName::parse(text), std::nullopt) << '"' << text << '"';
  EXPECT_EQ(KeptName::parse("listener." + std::string(250, 'x') + ".listen"), std::nullopt);
}

TEST(KeptName, IsNotMadeOfWhatCannotBeParsed) {
  EXPECT_THROW(KeptName::listener("a.b", Part::listen), std::invalid_argument);
  EXPECT_THROW(KeptName::listener("", Part::listen), std::invalid_argument);
  EXPECT_THROW(KeptName::listener("vm", Part::conn), std::invalid_argument);
  EXPECT_THROW(KeptName::listener("vm", Part::listen, 1), std::invalid_argument);
  EXPECT_THROW(KeptName::restore(1, Part::channel), std::invalid_argument);
  EXPECT_THROW(KeptName::service(Part::uffd), std::invalid_argument);
}

}  // namespace
}  // namespace faultline::process
