// `faultline restore` with recordings, and `faultline working-set show`.

#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/errors.h"
#include "cli/memory_file.h"
#include "tests/support/child_process.h"
#include "tests/working_set/working_set_test.h"

namespace faultline::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class RestoreCommand : public testing::Test {
 protected:
  std::string socket() const { return image_.directory() + "/socket"; }
  std::unique_ptr<Command> restore(std::vector<std::string> more) {
    more.insert(more.begin(), {"restore", "--memory", image_.path(), "--socket", socket()});
    auto command = std::make_unique<Command>(more);
    command->await("waiting for a target");
    return command;
  }
  cli::WorkingSet recorded() const {
    return cli::readWorkingSetFor(set_, cli::openMemory(image_.path()).get(), image_.path());
  }

  Image image_{PAGES * SMALL};
  const std::string set_ = fileBeside(image_);
};

TEST_F(RestoreCommand, RecordsUntilTheTargetGoes) {
  auto command = restore({"--record-working-set", set_});
  ChildProcess child([&] {
    const Target target(image_, socket(), SMALL);
    for (const std::uint64_t page : {1500, 3, 4, 700})
      if (!target.holdsImage(page)) _exit(1);
  });
  EXPECT_EQ(child.join(), 0);
  const auto result = command->finish();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("recorded in " + set_ + ": 4 pages (16.0 KiB) in 3 runs"));
  EXPECT_THAT(recorded().ranges,
              ElementsAre(cli::SourceRange{1500 * SMALL, SMALL}, cli::SourceRange{3 * SMALL, 2 * SMALL},
                          cli::SourceRange{700 * SMALL, SMALL}));
}

TEST_F(RestoreCommand, RecordsUntilEverythingIsThere) {
  auto command = restore({"--record-working-set", set_});
  Command target({"--socket", socket(), "--image", image_.path()}, "faultline-target");
  EXPECT_EQ(target.finish().code, 0);
  EXPECT_EQ(command->finish().code, 0);
  EXPECT_EQ(recorded().bytes(), image_.bytes());
}

// Interrupted: the recording is written first, then the rest is fetched, which is none of the target's doing.
TEST_F(RestoreCommand, InterruptedItWritesWhatItHas) {
  auto command = restore({"--record-working-set", set_});
  Target target(image_, socket(), SMALL);
  for (const std::uint64_t page : {9, 1000}) EXPECT_TRUE(target.holdsImage(page));
  command->signal(SIGINT);
  EXPECT_EQ(command->finish().code, 0);
  EXPECT_EQ(recorded().ranges, rangesOf(target, {9, 1000}));
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

// The target is there, and the command, which stands still, has not heard of it as it is interrupted.
TEST_F(RestoreCommand, InterruptedBeforeItHasHeardOfItsTargetItSeesToItAllTheSame) {
  auto command = restore({"--record-working-set", set_});
  command->signal(SIGSTOP);
  siginfo_t stopped;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(command->pid()), &stopped, WSTOPPED), 0);
  Target target(image_, socket(), SMALL);
  EXPECT_TRUE(target.holdsImage(9));
  command->signal(SIGINT);
  command->signal(SIGCONT);
  const auto result = command->finish();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(recorded().ranges, rangesOf(target, {9}));
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

// The recording can't be written: the target must not suffer for it, and the user must hear of it.
TEST_F(RestoreCommand, AFailedRecordingCostsTheTargetNothing) {
  const std::string folder = image_.directory() + "/folder";
  std::filesystem::create_directory(folder);
  auto command = restore({"--record-working-set", folder + "/set"});
  std::filesystem::remove(folder);
  Target target(image_, socket(), SMALL);
  EXPECT_TRUE(target.holdsImage(5));
  command->signal(SIGINT);
  const auto result = command->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, HasSubstr("working set " + folder + "/set is not written"));
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

TEST_F(RestoreCommand, ReplaysAndPopulatesTheRest) {
  writeSet(image_, {1500, 3, 700});
  auto command = restore({"--working-set", set_});
  Target target(image_, socket(), SMALL);
  EXPECT_EQ(command->finish().code, 0);
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

TEST_F(RestoreCommand, ReplaysAloneWithoutBackgroundPopulation) {
  writeSet(image_, {1500, 3, 700});
  auto command = restore({"--working-set", set_, "--no-prefault", "--json"});
  Target target(image_, socket(), SMALL);
  command->await("\"missing\":" + std::to_string(PAGES - 3) + ",");
  for (std::uint64_t page = 0; page < PAGES; page++)
    ASSERT_EQ(target.inMemory(page), page == 1500 || page == 3 || page == 700) << page;
  // Everything else by faults, so that it can end.
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
  EXPECT_EQ(command->finish().code, 0);
}

TEST_F(RestoreCommand, RefusesTheSetOfAnotherSnapshot) {
  Image other(PAGES * SMALL + SMALL);
  const auto result = run(
      {"restore", "--memory", image_.path(), "--socket", socket(), "--working-set", writeSet(other, {1})});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, HasSubstr("was recorded with another snapshot"));
  EXPECT_NE(access(socket().c_str(), F_OK), 0);
}

TEST_F(RestoreCommand, SaysThatASetIsForOtherPages) {
  Image image(2 * HUGE);
  Command command({"restore", "--memory", image.path(), "--socket", socket(), "--working-set",
                   writeSet(image, {0}, HUGE), "--no-prefault"});
  command.await("waiting for a target");
  Target target(image, socket(), SMALL);
  command.await("is not used: it was recorded with pages of 2097152 bytes");
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
  EXPECT_EQ(command.finish().code, 0);
}

TEST_F(RestoreCommand, DoesNotRecordWhatItReplays) {
  const auto result = run({"restore", "--memory", image_.path(), "--socket", socket(), "--working-set", set_,
                           "--record-working-set", set_});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, HasSubstr("excludes"));
}

TEST_F(RestoreCommand, RefusesAFolderThatIsNotThereBeforeItBegins) {
  const auto result = run({"restore", "--memory", image_.path(), "--socket", socket(), "--record-working-set",
                           image_.directory() + "/no/set"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(HasSubstr(image_.directory() + "/no/set"), HasSubstr("its folder")));
}

TEST_F(RestoreCommand, ShowsWhatIsInAFile) {
  writeSet(image_, {1500, 3});
  const auto text = run({"working-set", "show", set_, "--memory", image_.path()});
  EXPECT_EQ(text.code, 0);
  EXPECT_THAT(text.out,
              AllOf(HasSubstr("2 pages (8.0 KiB) in 2 runs"), HasSubstr(" 6144000 "), HasSubstr(" 12288 ")));
  const auto json = nlohmann::json::parse(run({"working-set", "show", set_, "--json"}).out);
  EXPECT_EQ(json["page_size"], SMALL);
  EXPECT_EQ(json["snapshot_bytes"], image_.bytes());
  EXPECT_EQ(json["pages"], 2);
  EXPECT_EQ(json["lost"], 0);
  EXPECT_EQ(json["ranges"][0]["offset"], 1500 * SMALL);
  EXPECT_EQ(json["ranges"][1]["size"], SMALL);
  Image other(PAGES * SMALL + SMALL);
  EXPECT_EQ(run({"working-set", "show", set_, "--memory", other.path()}).code, cli::USAGE);
}

}  // namespace
}  // namespace faultline::test
