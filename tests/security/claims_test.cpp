// A shard's claims on a restore that it does not serve are not believed.

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "process/process.h"
#include "rpc/connection.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t SMALL = 4096, PAGES = 64;

class Claims : public testing::Test {
 protected:
  Claims() {
    const std::string programs = image_.directory() + "/bin";
    fs::create_directory(programs);
    for (const char* program : {"faultline", "faultline-coordinator"})
      fs::copy_file(process::siblingExecutable(program), fs::path(programs) / program);
    fs::copy_file(process::siblingExecutable("lying-shard"), fs::path(programs) / "faultline-shard");
    listening_ = rpc::listenAt(image_.directory() + "/liar");
    const std::string liar = image_.directory() + "/liar",
                      real = process::siblingExecutable("faultline-shard");
    server_ = std::make_unique<Server>(image_, ServerOptions{.owners = 1,
                                                             .more = {"--on-lost", "kill"},
                                                             .before =
                                                                 [liar, real] {
                                                                   setenv("LIAR_SOCKET", liar.c_str(), 1);
                                                                   setenv("REAL_SHARD", real.c_str(), 1);
                                                                 },
                                                             .programs = programs});
    liar_ = kj::AutoCloseFd(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  ~Claims() noexcept override {}  // KJ's may throw

  // A restore has one owner, which changes from restore to restore: targets are added until it is the shard
  // that serves.
  unsigned aTargetOfTheOther() {
    for (unsigned n = 0;; n++) {
      targets_.push_back(std::make_unique<Target>(image_, server_->socket(), SMALL));
      auto listed = server_->wait(server_->restore(n).infoRequest().send());
      id_ = listed.getInfo().getId();
      const auto owners = server_->wait(server_->restore(n).ownersRequest().send());
      if (owners.getRuns()[0].getShard() == 0) return n;
    }
  }

  std::string answerTo(const std::string& verb) {
    const std::string order = verb + " " + std::to_string(id_) + "\n";
    EXPECT_EQ(send(liar_.get(), order.data(), order.size(), 0), static_cast<ssize_t>(order.size()));
    std::string answer;
    for (char byte; recv(liar_.get(), &byte, 1, 0) == 1 && byte != '\n';) answer += byte;
    return answer;
  }

  Image image_{PAGES * SMALL};
  kj::AutoCloseFd listening_, liar_;
  std::unique_ptr<Server> server_;
  std::vector<std::unique_ptr<Target>> targets_;
  std::uint64_t id_ = 0;
};

TEST_F(Claims, OfAShardThatDoesNotServeTheRestoreAreRefused) {
  const unsigned n = aTargetOfTheOther();
  for (const char* verb : {"gone", "failed", "lost"}) EXPECT_EQ(answerTo(verb), "forbidden") << verb;
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(targets_.back()->holdsImage(page)) << page;
  const auto info = server_->wait(server_->restore(n).infoRequest().send());
  EXPECT_NE(info.getInfo().getPhase(), rpc::Phase::FAILED);
  EXPECT_EQ(server_->status().getTotals().getPagesLost(), 0u);
}

}  // namespace
}  // namespace faultline::test
