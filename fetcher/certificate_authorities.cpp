#include "fetcher/certificate_authorities.h"

#include <unistd.h>

#include <cstdlib>

namespace faultline::fetcher {

std::string certificateAuthorities() {
  for (const char* name : {"AWS_CA_BUNDLE", "SSL_CERT_FILE"})
    if (const char* path = getenv(name); path != nullptr && *path != '\0') return path;
  constexpr const char* DEBIAN = "/etc/ssl/certs/ca-certificates.crt";
  constexpr const char* FEDORA = "/etc/pki/tls/certs/ca-bundle.crt";
  return access(DEBIAN, R_OK) == 0 ? DEBIAN : FEDORA;
}

}  // namespace faultline::fetcher
