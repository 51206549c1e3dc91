// The URI of a source: refused with a message, or everything that it says is what may be used.

#include <algorithm>
#include <cstdint>
#include <string>
#include <variant>

#include "rpc/source_uri.h"
#include "tests/fuzz/require.h"

using namespace faultline;

namespace {

bool isPort(const std::string& text) {
  return std::stoul(text) >= 1 && std::stoul(text) <= 65535;
}

bool isName(const std::string& text) {
  return text.find('\0') == std::string::npos && text.size() <= 4096;
}

void check(const rpc::NbdUri& uri) {
  fuzz::require(uri.host.empty() != uri.socket.empty(), "it names a host or a socket");
  fuzz::require(uri.socket.empty() || (uri.socket[0] == '/' && uri.socket.size() < 108),
                "a socket can be bound");
  fuzz::require(uri.host.empty() || isPort(uri.port), "a port is one");
  fuzz::require(uri.host.empty() || uri.host[0] != '-', "a host is no option");
  fuzz::require(uri.tls == (uri.keyFile.empty() != uri.certificates.empty()),
                "TLS has one kind of credentials");
  fuzz::require(uri.keyFile.empty() || !uri.user.empty(), "a key has a user");
  for (const std::string* part : {&uri.exportName, &uri.socket, &uri.keyFile, &uri.certificates, &uri.user})
    fuzz::require(isName(*part), "a name has no end within");
}

void check(const rpc::ObjectUri& uri) {
  fuzz::require(!uri.host.empty() && uri.host[0] != '-' && isPort(uri.port), "it names a host and a port");
  fuzz::require(uri.target.size() >= 2 && uri.target[0] == '/', "it names an object");
  // It becomes lines of a request.
  for (const std::string* part : {&uri.host, &uri.target, &uri.region, &uri.profile})
    fuzz::require(
        std::all_of(part->begin(), part->end(), [](unsigned char c) { return c >= 0x20 && c < 0x7f; }),
        "it has nothing that ends a line");
  fuzz::require(uri.target.find_first_of(" #") == std::string::npos, "its path is one word");
}

void check(const rpc::RbdUri& uri) {
  for (const std::string* part : {&uri.pool, &uri.image, &uri.snapshot, &uri.id})
    fuzz::require(!part->empty() && isName(*part) && part->find_first_of("/@") == std::string::npos,
                  "it names a snapshot");
  for (const std::string* path : {&uri.conf, &uri.keyring})
    fuzz::require(path->empty() || ((*path)[0] == '/' && isName(*path)), "a file is an absolute path");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(bytes), size);
  rpc::SourceUri uri;
  try {
    uri = rpc::SourceUri::parse(text);
  } catch (const rpc::BadUri& error) {
    const std::string why = error.what();
    fuzz::require(!why.empty() && std::none_of(why.begin(), why.end(),
                                               [](unsigned char c) { return c < 0x20 || c == 0x7f; }),
                  "a refusal says why, in text that can be shown");
    return 0;
  }
  fuzz::require(rpc::SourceUri::isMeant(text), "what is one is known as one");
  std::visit([](const auto& one) { check(one); }, uri.of);
  return 0;
}
