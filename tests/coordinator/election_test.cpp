// The election between several processes: only the winner may serve.

#include "coordinator/election.h"

#include <gtest/gtest.h>
#include <kj/exception.h>
#include <sys/mman.h>

#include "process/duplicate.h"
#include "tests/support/child_process.h"

namespace faultline::coordinator {
namespace {

using test::ChildProcess;
using test::Signal;

TEST(Election, IsLostWhileAnotherLivesAndWonWhenThatIsDead) {
  const Election mine((kj::AutoCloseFd()));
  ChildProcess other([&] {
    try {
      Election theirs(process::duplicate(mine.fresh()), std::chrono::milliseconds(1));
    } catch (const kj::Exception&) {
      _exit(0);
    }
    _exit(1);
  });
  EXPECT_EQ(other.join(), 0);
}

TEST(Election, IsWonAtOnceWhenItsHolderHasBeenKilled) {
  const int kept = memfd_create("election", MFD_CLOEXEC);
  ASSERT_GE(kept, 0);
  Signal elected;
  ChildProcess first([&] {
    const Election theirs(process::duplicate(kept));
    elected.send();
    for (;;) pause();
  });
  elected.wait();
  first.kill();
  ChildProcess second([&] {
    const Election theirs(process::duplicate(kept));
    _exit(0);
  });
  EXPECT_EQ(second.join(), 0);
  close(kept);
}

}  // namespace
}  // namespace faultline::coordinator
