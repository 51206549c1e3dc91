// Showing how a restore goes: one line that is rewritten on a terminal, one a second elsewhere, JSON for
// programs (one object a line, its kind in "event": note, progress, end).
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "cli/restore_view.h"

namespace faultline::cli {

enum class Output { people, json };

class Progress {
 public:
  explicit Progress(Output output);

  // Shows it if the last time is long enough ago: 0.2 s on a terminal, 1 s elsewhere.
  void show(const RestoreView& view);
  // The last word. `reason`: why it is over.
  void finish(const RestoreView& view, rpc::EndReason reason, const std::string& text);
  void say(const std::string& text);

 private:
  void print(const std::string& line, bool stays);

  const Output output_;
  const bool terminal_;
  std::optional<RestoreView> last_;
  std::chrono::steady_clock::time_point shownAt_;
};

}  // namespace faultline::cli
