// A source that is named, not opened: its URI in sealed memory, which takes the place of a file wherever those of a source are
// held, handed over and kept. A successor thus has what it needs to go on, as with a file.
#pragma once

#include <kj/io.h>

#include <optional>
#include <string>

#include "rpc/source_uri.h"

namespace faultline::rpc {

// Memory that names the source. Throws BadUri where the URI is none that is served. Any thread.
kj::AutoCloseFd makeNamedSource(const std::string& uri);

// The URI that the memory has; nothing: it is another file. Throws BadUri where it is such memory, and what it names is no
// source that is served: any process may have made it. `file` is borrowed. Does not wait. Any thread.
std::optional<std::string> uriOf(int file);

}  // namespace faultline::rpc
