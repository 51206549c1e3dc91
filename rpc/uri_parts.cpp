#include "rpc/uri_parts.h"

#include <algorithm>
#include <cctype>

#include "process/plain_text.h"

namespace faultline::rpc {

namespace {

constexpr std::size_t MOST_BYTES = 4096, MOST_HOST_BYTES = 253;

int valueOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool isPort(std::string_view text) {
  if (text.empty() || text.size() > 5) return false;
  unsigned number = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    number = number * 10 + static_cast<unsigned>(c - '0');
  }
  return number >= 1 && number <= 65535;
}

bool isHost(std::string_view text) {
  return !text.empty() && text.size() <= MOST_HOST_BYTES && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
         });
}

bool isAddress6(std::string_view text) {
  return text.size() >= 2 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isxdigit(c) != 0 || c == ':' || c == '.';
         });
}

}  // namespace

void refuseUri(const std::string& uri, const std::string& why) {
  const std::string shown = process::plainText(uri.substr(0, 200));
  throw BadUri("source " + shown + ": " + why);
}

void requireUriText(const std::string& uri) {
  if (uri.size() > MOST_BYTES) refuseUri(uri, "it is longer than 4096 bytes");
  if (std::any_of(uri.begin(), uri.end(), [](unsigned char c) { return c <= 0x20 || c >= 0x7f; }))
    refuseUri(uri, "a URI has no spaces, control characters or bytes beyond ASCII: write them as %XX");
  if (uri.find('#') != std::string::npos) refuseUri(uri, "it has a fragment (#); write %23 in a name");
}

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

std::string encodedPath(std::string_view text) {
  constexpr char DIGITS[] = "0123456789ABCDEF";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain =
        byte < 0x80 && (std::isalnum(byte) != 0 || c == '-' || c == '.' || c == '_' || c == '~' || c == '/');
    if (plain) {
      result += c;
      continue;
    }
    result += '%';
    result += DIGITS[byte >> 4];
    result += DIGITS[byte & 15];
  }
  return result;
}

std::string_view takeTo(std::string_view& rest, char end) {
  const std::size_t at = rest.find(end);
  const std::string_view part = rest.substr(0, at);
  rest = at == std::string_view::npos ? std::string_view() : rest.substr(at + 1);
  return part;
}

std::map<std::string, std::string> optionsOf(const std::string& uri, std::string_view query,
                                             const std::array<const char*, 3>& known, bool mayBeEmpty) {
  std::map<std::string, std::string> values;
  while (!query.empty()) {
    std::string_view pair = takeTo(query, '&');
    const std::string key(takeTo(pair, '='));
    if (std::find(known.begin(), known.end(), key) == known.end())
      refuseUri(uri, "there is no option " + key + "; there are " + known[0] + ", " + known[1] + " and " +
                         known[2]);
    const auto value = decoded(pair);
    if (!value.has_value() || (value->empty() && !mayBeEmpty) || !values.emplace(key, *value).second)
      refuseUri(uri, "its option " + key + " makes no sense");
  }
  return values;
}

HostAndPort hostAndPort(const std::string& uri, std::string_view server, const char* usualPort) {
  HostAndPort result{"", usualPort};
  bool valid;
  if (!server.empty() && server.front() == '[') {
    server.remove_prefix(1);
    const bool closed = server.find(']') != std::string_view::npos;
    result.host = std::string(takeTo(server, ']'));
    valid = closed && isAddress6(result.host) && (server.empty() || server.front() == ':');
    if (valid && !server.empty()) result.port = std::string(server.substr(1));
  } else {
    const bool hasPort = server.find(':') != std::string_view::npos;
    result.host = std::string(takeTo(server, ':'));
    valid = isHost(result.host);
    if (hasPort) result.port = std::string(server);
  }
  if (!valid) refuseUri(uri, "it names no host");
  if (!isPort(result.port)) refuseUri(uri, "its port is none: 1 to 65535");
  return result;
}

}  // namespace faultline::rpc
