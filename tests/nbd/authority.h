// Certificates for tests, made by openssl.
#pragma once

#include <string>
#include <vector>

#include "tests/cli/command.h"

namespace faultline::test {

// What an authority signs.
struct Subject {
  std::string who = "server", address = "";
  std::string days = "2";  // that it is valid for from now on; negative: it was until then
};

// The folders of an authority, and of those that it has signed, as GnuTLS names their files.
class Authority {
 public:
  explicit Authority(const std::string& name = "authority");

  // What a client has that trusts it, and shows nothing itself.
  const Directory& own() const { return own_; }
  // All of whose files are in `folder` then.
  void sign(const Directory& folder, const Subject& subject) const;

 private:
  static void makeKey(const std::string& name, const std::string& key, const std::vector<std::string>& more);

  const Directory own_;
};

}  // namespace faultline::test
