// How a failpoint that a successor is to take up is named among the kept fds (process/kept_name.h,
// failpoint). Tests only.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "failpoints/failpoints.h"

namespace faultline::coordinator {

// "POINT,ACTION,SKIP,PAGE".
std::string nameOf(const failpoints::Failpoints::Arm& arm);
// Without its eventfds. nullopt where `name` is no such name.
std::optional<failpoints::Failpoints::Arm> armOf(std::string_view name);

}  // namespace faultline::coordinator
