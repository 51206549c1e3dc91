// What a server shows of a source that is named by its URI.
#pragma once

#include <string>

#include "cli/working_set.h"

namespace faultline::cli {

// Size and fingerprint, as a file of the same bytes has them. `named`: what names it (rpc/named_source.h), borrowed. Asked by a
// fetcher of its own, so that no reply of a server is parsed here. Waits, some 20 s at most. CommandError(FAILED) where the
// server cannot be asked.
SnapshotIdentity askServer(int named, const std::string& uri);

}  // namespace faultline::cli
