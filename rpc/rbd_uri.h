// The URI of a snapshot of a Ceph block device: what is allowed in one.
#pragma once

#include <string>

#include "rpc/uri_parts.h"

namespace faultline::rpc {

//   rbd:POOL/[NAMESPACE/]IMAGE@SNAPSHOT[?conf=/PATH][&id=NAME][&keyring=/PATH]
//
// What is not said is where Ceph has it: /etc/ceph/ceph.conf or CEPH_CONF, client.admin, and the keyrings that the
// configuration names. Any thread.
struct RbdUri {
  std::string text;  // the URI as given
  std::string pool, nameSpace, image, snapshot;
  std::string conf, keyring;  // absolute paths; empty: Ceph's own
  std::string id;             // the user's, without "client."

  // USER@CONFIGURATION, which is what Ceph finds a keyring by: of no user there is an @ in the name.
  std::string access() const { return id + "@" + conf; }

  // Throws BadUri: without a snapshot as well, since an image may be written to.
  static RbdUri parse(const std::string& text);
  static bool isMeant(const std::string& text) { return text.rfind("rbd:", 0) == 0; }
};

}  // namespace faultline::rpc
