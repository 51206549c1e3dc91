// Pieces of URIs, as every kind of them is taken apart: strictly, since anybody may have written them.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace faultline::rpc {

// For people: what is wrong with a URI, and the way out.
struct BadUri : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Throws BadUri, naming the source as far as it can be printed.
[[noreturn]] void refuseUri(const std::string& uri, const std::string& why);
// Refuses one that is too long, or has what no URI may: blanks, control characters, bytes beyond ASCII, a fragment.
void requireUriText(const std::string& uri);

// %XX replaced. Returns nothing where an escape is none, or is a NUL.
std::optional<std::string> decoded(std::string_view part);
// The text as a part of a path: all but letters, digits, "-._~" and '/' as %XX, as AWS wants it signed.
std::string encodedPath(std::string_view text);
// Takes the text before `end` away, and `end` with it; returns the text: all, where `end` is not there.
std::string_view takeTo(std::string_view& rest, char end);

// The options of `query`, KEY=VALUE&..., of which there are just these three. Refuses `uri` where one is another, stands twice, or
// has no value that makes sense; an empty one does where `mayBeEmpty`.
std::map<std::string, std::string> optionsOf(const std::string& uri, std::string_view query,
                                             const std::array<const char*, 3>& known,
                                             bool mayBeEmpty = false);

struct HostAndPort {
  std::string host, port;  // an IPv6 address has no brackets
};
// Takes HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT apart. Refuses `uri` where it is none of these.
HostAndPort hostAndPort(const std::string& uri, std::string_view server, const char* usualPort);

}  // namespace faultline::rpc
