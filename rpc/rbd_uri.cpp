#include "rpc/rbd_uri.h"

#include <vector>

namespace faultline::rpc {

namespace {

constexpr char FORM[] = "give rbd:POOL/IMAGE@SNAPSHOT (docs/remote.md)";
constexpr std::size_t MOST_NAME = 200;

}  // namespace

RbdUri RbdUri::parse(const std::string& text) {
  requireUriText(text);
  if (!isMeant(text)) refuseUri(text, std::string("it is no image of Ceph's; ") + FORM);
  RbdUri uri{};
  uri.text = text;
  std::string_view query = std::string_view(text).substr(4);
  std::string_view rest = takeTo(query, '?');
  const std::size_t at = rest.rfind('@');
  if (at == std::string_view::npos)
    refuseUri(text,
              std::string("it names no snapshot, and an image may be written to while it is read; ") + FORM);

  const auto name = [&](std::string_view part, const char* what) {
    const auto value = decoded(part);
    if (!value.has_value() || value->empty() || value->size() > MOST_NAME ||
        value->find_first_of("/@\n") != std::string::npos)
      refuseUri(text, std::string("its ") + what + " is no name; " + FORM);
    return *value;
  };
  uri.snapshot = name(rest.substr(at + 1), "snapshot");
  rest = rest.substr(0, at);
  std::vector<std::string_view> parts;
  while (!rest.empty()) parts.push_back(takeTo(rest, '/'));
  if (parts.size() != 2 && parts.size() != 3)
    refuseUri(text, std::string("it names no pool and image; ") + FORM);
  uri.pool = name(parts.front(), "pool");
  if (parts.size() == 3) uri.nameSpace = name(parts[1], "namespace");
  uri.image = name(parts.back(), "image");

  auto values = optionsOf(text, query, {"conf", "id", "keyring"});
  for (const char* key : {"conf", "keyring"})
    if (values.count(key) != 0 && values[key].front() != '/')
      refuseUri(text, std::string(key) + " takes an absolute path");
  uri.conf = values["conf"];
  uri.keyring = values["keyring"];
  uri.id = values.count("id") != 0 ? name(values["id"], "user") : "admin";
  return uri;
}

}  // namespace faultline::rpc
