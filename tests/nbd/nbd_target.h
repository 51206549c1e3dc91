// Targets whose pages an NBD server has: what tests of servers that go and come back have in common.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/fetcher/fetched_target.h"
#include "tests/nbd/nbd_server.h"

namespace faultline::test {

// A restore from nbdkit, which has the image.
class NbdTarget : public FetchedTarget {
 protected:
  using FetchedTarget::FetchedTarget;
  void SetUp() override {
    if (const std::string why = NbdServer::whyNot(); !why.empty()) GTEST_SKIP() << why;
    source_ = std::make_unique<NbdServer>(NbdServer::ofFile(image_.path()));
  }
  // Returns when it serves its first page.
  void begin(const std::string& patience) { restore(source_->uri(), patience); }
  // Another image is at the server's address from now on.
  void replaceContent() {
    replacement_ = std::make_unique<Image>(image_.bytes());
    replacement_->fill(0, SMALL, 7);
    source_->kill();
    source_->startAs(NbdServer::ofFile(replacement_->path()));
  }
  // A page that was not asked for before.
  void expectAnotherContentToFailIt(std::uint64_t page) {
    EXPECT_EQ(target_->touch(page), Touch::sigbus) << "no byte of the other";
    awaitSourceChanged(*server_);
  }

  std::unique_ptr<NbdServer> source_;

 private:
  std::unique_ptr<Image> replacement_;
};

}  // namespace faultline::test
