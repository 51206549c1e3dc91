#include "rpc/object_uri.h"

#include <strings.h>
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace faultline::rpc {

namespace {

constexpr char FORMS[] = "give s3://BUCKET/KEY, https://HOST/PATH or http://HOST/PATH (docs/remote.md)";
constexpr char USUAL_REGION[] = "us-east-1";
constexpr std::size_t LEAST_BUCKET = 3, MOST_BUCKET = 63, MOST_KEY = 1024, MOST_NAME = 64;

// The first of them that is set and not empty; else `otherwise`.
std::string fromEnvironment(std::initializer_list<const char*> names, const char* otherwise) {
  for (const char* name : names)
    if (const char* value = getenv(name); value != nullptr && *value != '\0') return value;
  return otherwise;
}

bool isName(std::string_view text, std::string_view also) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [also](unsigned char c) {
    return std::isalnum(c) != 0 || also.find(static_cast<char>(c)) != std::string_view::npos;
  });
}

// Takes HOST[:PORT] off a URI of HTTP.
void takeServer(ObjectUri& uri, std::string_view& rest) {
  const std::string_view server = rest.substr(0, rest.find_first_of("/?"));
  rest.remove_prefix(server.size());
  if (server.find('@') != std::string_view::npos)
    refuseUri(
        uri.text,
        "it has a user or a password in it, which others could read: keys of S3 come from AWS' environment "
        "or file (docs/remote.md)");
  const HostAndPort parts = hostAndPort(uri.text, server, uri.tls ? "443" : "80");
  uri.host = parts.host;
  uri.port = parts.port;
}

void requireEscapes(const ObjectUri& uri) {
  if (!decoded(uri.target).has_value())
    refuseUri(uri.text, "it has a % that is followed by no two hexadecimal digits");
}

// A URL with a signature in it is a key to the object, and would be seen in lists of processes and in logs.
void refuseSigned(const ObjectUri& uri, std::string_view query) {
  while (!query.empty()) {
    std::string_view pair = takeTo(query, '&');
    const std::string key(takeTo(pair, '='));
    if (strncasecmp(key.c_str(), "x-amz-", 6) == 0 || strncasecmp(key.c_str(), "x-goog-", 7) == 0 ||
        strcasecmp(key.c_str(), "signature") == 0 || key == "sig")
      refuseUri(
          uri.text.substr(0, uri.text.find('?')) + "?...",
          "it is signed, and so a key that others could read; name the object itself (s3://BUCKET/KEY)");
  }
}

ObjectUri parseHttp(ObjectUri uri, std::string_view rest) {
  takeServer(uri, rest);
  uri.target = std::string(rest);
  takeTo(rest, '?');
  refuseSigned(uri, rest);
  if (uri.target.size() < 2 || uri.target.front() != '/')
    refuseUri(uri.text, std::string("it names no object; ") + FORMS);
  requireEscapes(uri);
  return uri;
}

// Leads `uri` to `endpoint`, where the buckets are of S3 that is not AWS'.
void leadTo(ObjectUri& uri, const std::string& endpoint) {
  ObjectUri server{};
  server.text = endpoint;
  std::string_view rest = endpoint;
  if (rest.substr(0, 8) == "https://") {
    server.tls = true;
    rest.remove_prefix(8);
  } else if (rest.substr(0, 7) == "http://") {
    rest.remove_prefix(7);
  } else {
    refuseUri(uri.text, "its endpoint is none: give http://HOST[:PORT] or https://HOST[:PORT]");
  }
  requireUriText(endpoint);
  takeServer(server, rest);
  if (!rest.empty() && rest != "/") refuseUri(uri.text, "its endpoint has a path: give a server alone");
  uri.tls = server.tls;
  uri.host = server.host;
  uri.port = server.port;
}

ObjectUri parseS3(ObjectUri uri, std::string_view rest) {
  uri.s3 = true;
  std::string_view query = rest;
  rest = takeTo(query, '?');
  const std::string bucket(takeTo(rest, '/'));
  const auto key = decoded(rest);
  // It may become the first part of a host's name.
  if (bucket.size() < LEAST_BUCKET || bucket.size() > MOST_BUCKET || !isName(bucket, ".-_") ||
      !isName(bucket.substr(0, 1), "") || !isName(bucket.substr(bucket.size() - 1), ""))
    refuseUri(uri.text, std::string("its bucket is no name of one; ") + FORMS);
  if (!key.has_value() || key->empty() || key->size() > MOST_KEY)
    refuseUri(uri.text, std::string("its key is no name of an object; ") + FORMS);

  const auto values = optionsOf(uri.text, query, {"endpoint", "region", "profile"});
  const auto setting = [&](const char* option, std::initializer_list<const char*> names,
                           const char* otherwise) {
    const auto found = values.find(option);
    return found != values.end() ? found->second : fromEnvironment(names, otherwise);
  };
  const std::string endpoint = setting("endpoint", {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}, "");
  uri.region = setting("region", {"AWS_REGION", "AWS_DEFAULT_REGION"}, USUAL_REGION);
  uri.profile = setting("profile", {}, "");
  if (uri.region.size() > MOST_NAME || !isName(uri.region, "-_"))
    refuseUri(uri.text, "its region is no name of one");
  if (uri.profile.size() > MOST_NAME || (!uri.profile.empty() && !isName(uri.profile, "-_.@+ ")))
    refuseUri(uri.text, "its profile is no name of one");

  uri.target = "/" + encodedPath(*key);
  // A bucket with a dot in it is under no certificate as a host.
  const bool inPath = !endpoint.empty() || bucket.find('.') != std::string::npos;
  if (inPath) uri.target = "/" + bucket + uri.target;
  if (!endpoint.empty()) {
    leadTo(uri, endpoint);
    return uri;
  }
  uri.tls = true;
  uri.port = "443";
  uri.host = (inPath ? "" : bucket + ".") + "s3." + uri.region + ".amazonaws.com";
  return uri;
}

}  // namespace

ObjectUri ObjectUri::parse(const std::string& text) {
  requireUriText(text);
  ObjectUri uri{};
  uri.text = text;
  std::string_view rest = text;
  const std::size_t end = rest.find("://");
  const std::string_view scheme = rest.substr(0, std::min(end, rest.size()));
  if (end == std::string_view::npos || (scheme != "s3" && scheme != "https" && scheme != "http"))
    refuseUri(text, std::string("it is no object of a server; ") + FORMS);
  rest.remove_prefix(end + 3);
  if (scheme == "s3") return parseS3(std::move(uri), rest);
  uri.tls = scheme == "https";
  return parseHttp(std::move(uri), rest);
}

std::string ObjectUri::url() const {
  const bool bracketed = host.find(':') != std::string::npos;
  const std::string server = bracketed ? "[" + host + "]" : host;
  const bool usual = port == (tls ? "443" : "80");
  return (tls ? "https://" : "http://") + server + (usual ? "" : ":" + port) + target;
}

}  // namespace faultline::rpc
