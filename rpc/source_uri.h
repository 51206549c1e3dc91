// The URI of a source that is no file of this host, as people and programs name it.
#pragma once

#include <set>
#include <string>
#include <variant>
#include <vector>

#include "rpc/nbd_uri.h"
#include "rpc/object_uri.h"
#include "rpc/rbd_uri.h"

namespace faultline::rpc {

// Any thread.
struct SourceUri {
  std::variant<NbdUri, ObjectUri, RbdUri> of;

  // Throws BadUri. Whatever is not known is refused: a URI comes from others, and libraries know schemes that start programs.
  static SourceUri parse(const std::string& text);
  // Whether a name is meant as a URI, not as a path.
  static bool isMeant(const std::string& name);
};

// Rights that a fetcher has to be started with: those that its sources want, and no others.
struct FetcherRights {
  bool nbd = false, http = false;
  std::set<std::string> ceph{};      // RbdUri::access() of each
  std::set<std::string> readable{};  // keys, and directories of certificates

  // Adds the rights of a source. `uri`: empty where it is a file. Throws BadUri.
  void add(const std::string& uri);
  // For the command line of faultline-fetcher.
  std::vector<std::string> arguments() const;
  bool operator==(const FetcherRights&) const = default;
};

}  // namespace faultline::rpc
