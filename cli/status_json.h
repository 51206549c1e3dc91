// A service as programs read it: the object of `faultline status --json`.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/metrics_text.h"
#include "cli/restore_view.h"
#include "rpc/control.capnp.h"

namespace faultline::cli {

// Looks at a service, again and again: rates are between two looks.
class StatusHistory {
 public:
  // `restores`: those whose figures could be had; others are told without.
  nlohmann::json look(rpc::ServiceInfo::Reader service, const std::vector<RestoreFigures>& restores);

 private:
  nlohmann::json lookAt(rpc::RestoreInfo::Reader info, const RestoreFigures* figures,
                        std::map<std::string, RestoreView>& views) const;

  std::map<std::string, RestoreView> before_;
};

}  // namespace faultline::cli
