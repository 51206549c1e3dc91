#include "rpc/source_uri.h"

#include <sys/un.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <string_view>

#include "process/plain_text.h"

namespace faultline::rpc {

namespace {

constexpr std::size_t MOST_BYTES = 4096, MOST_EXPORT_BYTES = 4096, MOST_HOST_BYTES = 253;
constexpr char USUAL_PORT[] = "10809";
constexpr char FORMS[] =
    "give nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=/PATH, or nbds of either with a key "
    "(docs/nbd.md)";

[[noreturn]] void refuse(const std::string& text, const std::string& why) {
  const std::string shown = process::plainText(text.substr(0, 200));
  throw BadUri("source " + shown + ": " + why);
}

int valueOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Nothing: an escape is none, or is a NUL.
std::optional<std::string> decoded(std::string_view part) {
  std::string text;
  for (std::size_t i = 0; i < part.size(); i++) {
    if (part[i] != '%') {
      text += part[i];
      continue;
    }
    if (i + 2 >= part.size()) return std::nullopt;
    const int high = valueOf(part[i + 1]), low = valueOf(part[i + 2]);
    if (high < 0 || low < 0 || high * 16 + low == 0) return std::nullopt;
    text += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return text;
}

// What stands before `end`, which is taken away with it; all, where `end` is not there.
std::string_view takeTo(std::string_view& rest, char end) {
  const std::size_t at = rest.find(end);
  const std::string_view part = rest.substr(0, at);
  rest = at == std::string_view::npos ? std::string_view() : rest.substr(at + 1);
  return part;
}

bool isPort(std::string_view text) {
  return !text.empty() && text.size() <= 5 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); }) &&
         std::stoul(std::string(text)) >= 1 && std::stoul(std::string(text)) <= 65535;
}

bool isHost(std::string_view text) {
  return !text.empty() && text.size() <= MOST_HOST_BYTES && text.front() != '-' &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '-' || c == '_'; });
}

bool isAddress6(std::string_view text) {
  return text.size() >= 2 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isxdigit(c) || c == ':' || c == '.';
         });
}

std::string absolutePath(const std::string& uri, const std::string& key, const std::string& path) {
  if (path.empty() || path.front() != '/') refuse(uri, key + " takes an absolute path");
  return path;
}

}  // namespace

bool SourceUri::isMeant(const std::string& name) {
  const std::size_t end = name.find("://");
  return end != std::string::npos && end > 0 &&
         std::all_of(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(end),
                     [](unsigned char c) { return std::isalnum(c) || c == '+' || c == '-' || c == '.'; });
}

SourceUri SourceUri::parse(const std::string& text) {
  if (text.size() > MOST_BYTES) refuse(text, "it is longer than 4096 bytes");
  if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return c <= 0x20 || c >= 0x7f; }))
    refuse(text, "a URI has no spaces, control characters or bytes beyond ASCII: write them as %XX");
  const std::size_t schemeEnd = text.find("://");
  const std::string scheme = text.substr(0, std::min(schemeEnd, text.size()));
  SourceUri uri;
  uri.tls = scheme == "nbds" || scheme == "nbds+unix";
  const bool overUnix = scheme == "nbd+unix" || scheme == "nbds+unix";
  if (schemeEnd == std::string::npos || (!uri.tls && !overUnix && scheme != "nbd"))
    refuse(text, std::string("no source of this kind is served; ") + FORMS);
  std::string_view query = std::string_view(text).substr(schemeEnd + 3);
  if (query.find('#') != std::string_view::npos) refuse(text, "it has a fragment (#); write %23 in a name");
  std::string_view rest = takeTo(query, '?');
  if (rest.find('/') == std::string_view::npos)
    refuse(text, std::string("no export follows the server; ") + FORMS);
  std::string_view server = takeTo(rest, '/');

  if (const std::size_t at = server.find('@'); at != std::string_view::npos) {
    const auto user = decoded(takeTo(server, '@'));
    if (!user.has_value() || user->empty()) refuse(text, "its user is no name");
    if (user->find(':') != std::string::npos)
      refuse(text, "it has a password, which no NBD server takes: keys are given by tls-psk-file");
    uri.user = *user;
  }
  const auto name = decoded(rest);
  if (!name.has_value() || name->size() > MOST_EXPORT_BYTES) refuse(text, "its export is no name");
  uri.exportName = *name;

  std::map<std::string, std::string> values;
  while (!query.empty()) {
    std::string_view pair = takeTo(query, '&');
    const std::string key(takeTo(pair, '='));
    const auto value = decoded(pair);
    if (key != "socket" && key != "tls-psk-file" && key != "tls-certificates")
      refuse(text, "there is no option " + key + "; there are socket, tls-psk-file and tls-certificates");
    if (!value.has_value() || !values.emplace(key, *value).second)
      refuse(text, "its option " + key + " makes no sense");
  }
  const auto valueOf = [&](const char* key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string() : absolutePath(text, key, found->second);
  };
  uri.socket = valueOf("socket");
  uri.keyFile = valueOf("tls-psk-file");
  uri.certificates = valueOf("tls-certificates");

  if (overUnix) {
    if (!server.empty()) refuse(text, "it names a host, and a Unix socket: nbd+unix:///EXPORT?socket=/PATH");
    if (uri.socket.empty()) refuse(text, "no socket is named: nbd+unix:///EXPORT?socket=/PATH");
    if (uri.socket.size() >= sizeof sockaddr_un{}.sun_path)
      refuse(text, "the path of its socket is too long for the kernel (107 bytes)");
  } else {
    if (!uri.socket.empty()) refuse(text, "a socket is of nbd+unix:// and nbds+unix://");
    uri.port = USUAL_PORT;
    bool valid = true;
    if (!server.empty() && server.front() == '[') {
      server.remove_prefix(1);
      const bool closed = server.find(']') != std::string_view::npos;
      uri.host = std::string(takeTo(server, ']'));
      valid = closed && isAddress6(uri.host) && (server.empty() || server.front() == ':');
      if (valid && !server.empty()) uri.port = std::string(server.substr(1));
    } else {
      const bool hasPort = server.find(':') != std::string_view::npos;
      uri.host = std::string(takeTo(server, ':'));
      valid = isHost(uri.host);
      if (hasPort) uri.port = std::string(server);
    }
    if (!valid) refuse(text, "it names no host");
    if (!isPort(uri.port)) refuse(text, "its port is none: 1 to 65535");
  }

  if (!uri.tls && (!uri.keyFile.empty() || !uri.certificates.empty() || !uri.user.empty()))
    refuse(text, "user, key and certificates are of TLS: nbds:// or nbds+unix://");
  if (uri.tls && uri.keyFile.empty() == uri.certificates.empty())
    refuse(text, "TLS wants a key or certificates: tls-psk-file=/PATH or tls-certificates=/DIRECTORY");
  if (!uri.keyFile.empty() && uri.user.empty())
    refuse(text, "no user is named, whose key tls-psk-file has: nbds://USER@HOST/EXPORT");
  return uri;
}

}  // namespace faultline::rpc
