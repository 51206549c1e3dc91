#include "rpc/nbd_uri.h"

#include <sys/un.h>

#include <algorithm>
#include <optional>
#include <string_view>

namespace faultline::rpc {

namespace {

constexpr std::size_t MOST_EXPORT_BYTES = 4096;
constexpr char USUAL_PORT[] = "10809";
constexpr char FORMS[] =
    "give nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=/PATH, or nbds of either with a key "
    "(docs/nbd.md)";

std::string absolutePath(const std::string& uri, const std::string& key, const std::string& path) {
  if (path.empty() || path.front() != '/') refuseUri(uri, key + " takes an absolute path");
  return path;
}

}  // namespace

NbdUri NbdUri::parse(const std::string& text) {
  requireUriText(text);
  const std::size_t schemeEnd = text.find("://");
  const std::string scheme = text.substr(0, std::min(schemeEnd, text.size()));
  NbdUri uri;
  uri.tls = scheme == "nbds" || scheme == "nbds+unix";
  const bool overUnix = scheme == "nbd+unix" || scheme == "nbds+unix";
  if (schemeEnd == std::string::npos || (!uri.tls && !overUnix && scheme != "nbd"))
    refuseUri(text, std::string("no source of this kind is served; ") + FORMS);
  std::string_view query = std::string_view(text).substr(schemeEnd + 3);
  std::string_view rest = takeTo(query, '?');
  if (rest.find('/') == std::string_view::npos)
    refuseUri(text, std::string("no export follows the server; ") + FORMS);
  std::string_view server = takeTo(rest, '/');

  if (const std::size_t at = server.find('@'); at != std::string_view::npos) {
    const auto user = decoded(takeTo(server, '@'));
    if (!user.has_value() || user->empty()) refuseUri(text, "its user is no name");
    if (user->find(':') != std::string::npos)
      refuseUri(text, "it has a password, which no NBD server takes: keys are given by tls-psk-file");
    uri.user = *user;
  }
  const auto name = decoded(rest);
  if (!name.has_value() || name->size() > MOST_EXPORT_BYTES) refuseUri(text, "its export is no name");
  uri.exportName = *name;

  const auto values = optionsOf(text, query, {"socket", "tls-psk-file", "tls-certificates"}, true);
  const auto valueOf = [&](const char* key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string() : absolutePath(text, key, found->second);
  };
  uri.socket = valueOf("socket");
  uri.keyFile = valueOf("tls-psk-file");
  uri.certificates = valueOf("tls-certificates");

  if (overUnix) {
    if (!server.empty())
      refuseUri(text, "it names a host, and a Unix socket: nbd+unix:///EXPORT?socket=/PATH");
    if (uri.socket.empty()) refuseUri(text, "no socket is named: nbd+unix:///EXPORT?socket=/PATH");
    if (uri.socket.size() >= sizeof sockaddr_un{}.sun_path)
      refuseUri(text, "the path of its socket is too long for the kernel (107 bytes)");
  } else {
    if (!uri.socket.empty()) refuseUri(text, "a socket is of nbd+unix:// and nbds+unix://");
    const HostAndPort place = hostAndPort(text, server, USUAL_PORT);
    uri.host = place.host;
    uri.port = place.port;
  }

  if (!uri.tls && (!uri.keyFile.empty() || !uri.certificates.empty() || !uri.user.empty()))
    refuseUri(text, "user, key and certificates are of TLS: nbds:// or nbds+unix://");
  if (uri.tls && uri.keyFile.empty() == uri.certificates.empty())
    refuseUri(text, "TLS wants a key or certificates: tls-psk-file=/PATH or tls-certificates=/DIRECTORY");
  if (!uri.keyFile.empty() && uri.user.empty())
    refuseUri(text, "no user is named, whose key tls-psk-file has: nbds://USER@HOST/EXPORT");
  return uri;
}

}  // namespace faultline::rpc
