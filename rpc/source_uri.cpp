#include "rpc/source_uri.h"

#include <algorithm>
#include <cctype>

namespace faultline::rpc {

namespace {

bool isOneOf(const std::string& scheme, std::initializer_list<const char*> known) {
  return std::find(known.begin(), known.end(), scheme) != known.end();
}

}  // namespace

SourceUri SourceUri::parse(const std::string& text) {
  if (RbdUri::isMeant(text)) return {RbdUri::parse(text)};
  const std::string scheme = text.substr(0, text.find("://"));
  if (isOneOf(scheme, {"http", "https", "s3"})) return {ObjectUri::parse(text)};
  if (isOneOf(scheme, {"nbd", "nbds", "nbd+unix", "nbds+unix"})) return {NbdUri::parse(text)};
  refuseUri(text,
            "no source of this kind is served; give nbd://HOST[:PORT]/EXPORT or one of its kin "
            "(docs/nbd.md), s3://BUCKET/KEY, "
            "https://HOST/PATH or rbd:POOL/IMAGE@SNAPSHOT (docs/remote.md)");
}

bool SourceUri::isMeant(const std::string& name) {
  if (RbdUri::isMeant(name)) return true;
  const std::size_t end = name.find("://");
  return end != std::string::npos && end > 0 &&
         std::all_of(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(end), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '+' || c == '-' || c == '.';
         });
}

void FetcherRights::add(const std::string& uri) {
  if (uri.empty()) return;
  const SourceUri source = SourceUri::parse(uri);
  const auto read = [this](const std::string& path) {
    if (!path.empty()) readable.insert(path);
  };
  if (const auto* server = std::get_if<NbdUri>(&source.of)) {
    nbd = true;
    read(server->keyFile);
    read(server->certificates);
  } else if (const auto* image = std::get_if<RbdUri>(&source.of)) {
    ceph.insert(image->access());
    read(image->conf);
    read(image->keyring);
  } else {
    http = true;
  }
}

std::vector<std::string> FetcherRights::arguments() const {
  std::vector<std::string> result;
  if (nbd) result.emplace_back("--nbd");
  if (http) result.emplace_back("--http");
  for (const std::string& access : ceph) result.insert(result.end(), {"--ceph", access});
  for (const std::string& path : readable) result.insert(result.end(), {"--readable", path});
  return result;
}

}  // namespace faultline::rpc
