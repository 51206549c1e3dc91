// The files of this host that Ceph's library reads.
#pragma once

#include <set>
#include <string>
#include <vector>

namespace faultline::fetcher {

// Files, and directories of them, besides those that a source names: Ceph's configuration and keys, how names of hosts are looked
// up, what the processors are. `accesses`: rpc::RbdUri::access() of sources; where their configurations have keys in other places,
// these as well. After RbdLibrary::load(); reads the configurations.
std::vector<std::string> rbdFiles(const std::set<std::string>& accesses);

}  // namespace faultline::fetcher
