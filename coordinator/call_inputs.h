// What comes with calls of the control interface and concerns no restore that is there yet. Each throws
// (FAILED), naming the value and the way out.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::coordinator {

// Of a listener or a restore: what is made of it stands in names, logs and labels.
void requireName(const std::string& name);
// Of a restore.
void requireShards(std::uint32_t shards);
// Of a build that is to take over.
void requireBuildDirectory(const std::string& directory);

}  // namespace faultline::coordinator
