#include "fetcher/peer_check.h"

#include <dlfcn.h>
#include <gnutls/gnutls.h>

#include <stdexcept>

#include "fetcher/shared_library.h"
#include "process/plain_text.h"

namespace faultline::fetcher {

namespace {

// Functions of GnuTLS, as gnutls(3) has them.
struct GnuTls {
  int (*handshake)(gnutls_session_t session);
  decltype(&gnutls_session_set_verify_cert) setVerifyCert;
  decltype(&gnutls_session_get_verify_cert_status) verifyCertStatus;
  decltype(&gnutls_certificate_verification_status_print) printStatus;
  gnutls_free_function* release;
};

LoadedLibrary<GnuTls> library("GnuTLS");

GnuTls found() {
  const SharedLibrary file("libgnutls.so.30", "no certificate can be checked",
                           "install GnuTLS (Debian: libgnutls30)");
  GnuTls tls{};
  file.find(tls.handshake, "gnutls_handshake");
  file.find(tls.setVerifyCert, "gnutls_session_set_verify_cert");
  file.find(tls.verifyCertStatus, "gnutls_session_get_verify_cert_status");
  file.find(tls.printStatus, "gnutls_certificate_verification_status_print");
  file.find(tls.release, "gnutls_free");
  return tls;
}

thread_local PeerCheck* current = nullptr;

// In words; GnuTLS gives one sentence for each thing that is wrong.
std::string described(const GnuTls& tls, unsigned status) {
  gnutls_datum_t text{};
  if (tls.printStatus(status, GNUTLS_CRT_X509, &text, 0) < 0) return "it is not trusted";
  std::string words(reinterpret_cast<const char*>(text.data), text.size);
  (*tls.release)(text.data);
  while (!words.empty() && words.back() == ' ') words.pop_back();
  return process::plainText(words);
}

}  // namespace

void PeerCheck::load() {
  library.load(found);
}

PeerCheck::PeerCheck(const std::string& host) : host_(host) {
  library.loaded();
  if (dlsym(RTLD_DEFAULT, "gnutls_handshake") != reinterpret_cast<void*>(&gnutls_handshake))
    throw std::runtime_error("no certificate can be checked: libnbd does not find this program's check");
  current = this;
}

PeerCheck::~PeerCheck() {
  current = nullptr;
}

int PeerCheck::handshake(void* session) {
  const GnuTls& tls = library.loaded();
  auto* const its = static_cast<gnutls_session_t>(session);
  tls.setVerifyCert(its, host_.empty() ? nullptr : host_.c_str(), 0);
  const int result = tls.handshake(its);
  if (result < 0 && result != GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) return result;
  // All bits where nothing was checked: a server may offer to do without a certificate.
  const unsigned status = tls.verifyCertStatus(its);
  passed_ = result == 0 && status == 0;
  if (passed_) return result;
  why_ = status == static_cast<unsigned>(-1) ? "it has shown none" : described(tls, status);
  return GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR;
}

}  // namespace faultline::fetcher

// Called by libnbd in place of GnuTLS's own; the contract is the same.
extern "C" __attribute__((visibility("default"))) int gnutls_handshake(gnutls_session_t session) {
  using namespace faultline::fetcher;
  try {
    return current == nullptr ? library.loaded().handshake(session) : current->handshake(session);
  } catch (const std::exception&) {
    return GNUTLS_E_INTERNAL_ERROR;
  }
}
