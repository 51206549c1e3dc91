// Limits that our HTTP servers set their clients.
#pragma once

#include <kj/compat/http.h>

namespace faultline::cli {

// `limit`: what a client may take to send a request, the next one on a connection too. `errors` is borrowed.
inline kj::HttpServerSettings httpSettings(kj::HttpServerErrorHandler& errors, kj::Duration limit) {
  kj::HttpServerSettings settings;
  settings.errorHandler = errors;
  settings.headerTimeout = limit;
  settings.pipelineTimeout = limit;
  return settings;
}

}  // namespace faultline::cli
