// The URI of an export of an NBD server: what is allowed in one, and what it says.
#pragma once

#include <string>

#include "rpc/uri_parts.h"

namespace faultline::rpc {

// An export of an NBD server. Any thread.
//
//   nbd://HOST[:PORT]/EXPORT        nbd+unix:///EXPORT?socket=/PATH
//   nbds://USER@HOST[:PORT]/EXPORT  nbds+unix://USER@/EXPORT?socket=/PATH   (TLS: &tls-psk-file=/PATH, or
//                                                                            &tls-certificates=/DIRECTORY)
struct NbdUri {
  bool tls = false;
  std::string host, port;  // empty: a Unix socket
  std::string socket;      // its path, absolute
  std::string exportName;  // may be empty: the server's default
  // For TLS, where `keyFile` or `certificates` is set, not both; `user`: whose key it is, of a key file.
  std::string user, keyFile, certificates;

  // Throws BadUri.
  static NbdUri parse(const std::string& text);
};

}  // namespace faultline::rpc
