// What Ceph's library reads of this host.
#pragma once

#include <string>
#include <vector>

namespace faultline::fetcher {

// Files, and directories of them, besides those that a source names: Ceph's configuration and keys, how names of hosts are looked
// up, what the processors are.
std::vector<std::string> rbdFiles();

}  // namespace faultline::fetcher
