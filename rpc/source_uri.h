// The URI of a source that a server has, as people and programs name it: what is allowed in one, and what it says.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace faultline::rpc {

// For people: what is wrong with a URI, and the way out.
struct BadUri : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// An export of an NBD server. Any thread.
//
//   nbd://HOST[:PORT]/EXPORT        nbd+unix:///EXPORT?socket=/PATH
//   nbds://USER@HOST[:PORT]/EXPORT  nbds+unix://USER@/EXPORT?socket=/PATH   (TLS: &tls-psk-file=/PATH, or
//                                                                            &tls-certificates=/DIRECTORY)
struct SourceUri {
  bool tls = false;
  std::string host, port;  // empty: a Unix socket
  std::string socket;      // its path, absolute
  std::string exportName;  // may be empty: the server's default
  // Of TLS. One of the two files is set; `user`: whose key it is, of a key file.
  std::string user, keyFile, certificates;

  // Throws BadUri. Whatever is not known is refused: a URI comes from others, and libraries know schemes that start programs.
  static SourceUri parse(const std::string& text);
  // Whether a name is meant as a URI, not as a path.
  static bool isMeant(const std::string& name);
};

}  // namespace faultline::rpc
