// Showing how a restore goes: one line that is rewritten on a terminal, one a second elsewhere, JSON for
// programs.
#pragma once

#include <cstdint>
#include <string>

#include "rpc/control.capnp.h"

namespace faultline::cli {

enum class Output { people, json };

class Progress {
 public:
  explicit Progress(Output output);

  // How often it wants to be told, in ms.
  unsigned intervalMs() const { return terminal_ ? 200 : 1000; }
  void show(rpc::RestoreInfo::Reader info);
  // The last word. `reason`: why it is over.
  void finish(rpc::RestoreInfo::Reader info, const std::string& reason);
  void say(const std::string& text);

 private:
  void print(const std::string& line, bool last);

  const Output output_;
  const bool terminal_;
  std::uint64_t lastAge_ = 0, lastMissing_ = 0;
};

}  // namespace faultline::cli
