// The URI of a source: refused with a message, or everything that it says is what may be used.

#include <algorithm>
#include <cstdint>
#include <string>

#include "rpc/source_uri.h"
#include "tests/fuzz/require.h"

using namespace faultline;

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
  fuzz::require(uri.host.empty() != uri.socket.empty(), "it names a host or a socket");
  fuzz::require(uri.socket.empty() || (uri.socket[0] == '/' && uri.socket.size() < 108),
                "a socket can be bound");
  fuzz::require(uri.host.empty() || (std::stoul(uri.port) >= 1 && std::stoul(uri.port) <= 65535),
                "a port is one");
  fuzz::require(uri.host.empty() || uri.host[0] != '-', "a host is no option");
  fuzz::require(uri.tls == (uri.keyFile.empty() != uri.certificates.empty()),
                "TLS has one kind of credentials");
  fuzz::require(uri.keyFile.empty() || !uri.user.empty(), "a key has a user");
  for (const std::string* part : {&uri.exportName, &uri.socket, &uri.keyFile, &uri.certificates, &uri.user})
    fuzz::require(part->find('\0') == std::string::npos && part->size() <= 4096, "a name has no end within");
  return 0;
}
