// The service manager's end of NOTIFY_SOCKET (sd_notify(3)).
#pragma once

#include <kj/io.h>

#include <string>

#include "tests/cli/supervised.h"

namespace faultline::test {

class FakeManager {
 public:
  FakeManager();
  ~FakeManager();
  FakeManager(const FakeManager&) = delete;

  std::string path() const { return directory_ + "/notify"; }

  struct Notice {
    std::string text;
    kj::AutoCloseFd fd;  // -1: none came
  };
  Notice next();
  // The next that contains `text`, whatever comes before it.
  Notice skipTo(const std::string& text);

 private:
  std::string directory_;
  kj::AutoCloseFd socket_;
};

// A supervisor that it has started.
Beginning under(const FakeManager& manager);

}  // namespace faultline::test
