#include "fetcher/tls_handshake.h"

#include <dlfcn.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <stdexcept>

#include "fetcher/shared_library.h"
#include "process/clock.h"
#include "process/plain_text.h"

namespace faultline::fetcher {

namespace {

// Functions of GnuTLS, as gnutls(3) has them.
struct GnuTls {
  int (*handshake)(gnutls_session_t session);
  decltype(&gnutls_transport_set_pull_function) setPull;
  decltype(&gnutls_transport_set_pull_timeout_function) setPullTimeout;
  decltype(&gnutls_session_set_verify_cert) setVerifyCert;
  decltype(&gnutls_session_get_verify_cert_status) verifyCertStatus;
  decltype(&gnutls_certificate_verification_status_print) printStatus;
  gnutls_free_function* release;
};

LoadedLibrary<GnuTls> library("GnuTLS");

GnuTls found() {
  const SharedLibrary file("libgnutls.so.30", "no TLS can be spoken", "install GnuTLS (Debian: libgnutls30)");
  GnuTls tls{};
  file.find(tls.handshake, "gnutls_handshake");
  file.find(tls.setPull, "gnutls_transport_set_pull_function");
  file.find(tls.setPullTimeout, "gnutls_transport_set_pull_timeout_function");
  file.find(tls.setVerifyCert, "gnutls_session_set_verify_cert");
  file.find(tls.verifyCertStatus, "gnutls_session_get_verify_cert_status");
  file.find(tls.printStatus, "gnutls_certificate_verification_status_print");
  file.find(tls.release, "gnutls_free");
  return tls;
}

thread_local TlsHandshake* current = nullptr;

// As poll() answers.
int awaitReadable(int socket, unsigned ms) {
  pollfd waiting{socket, POLLIN, 0};
  return poll(&waiting, 1, static_cast<int>(ms));
}

int socketOf(gnutls_transport_ptr_t transport) {
  return static_cast<int>(reinterpret_cast<std::intptr_t>(transport));
}

// What GnuTLS does by itself, which is to read without waiting; but waits while a handshake is made.
ssize_t pull(gnutls_transport_ptr_t transport, void* to, std::size_t size) {
  for (;;) {
    const ssize_t got = recv(socketOf(transport), to, size, 0);
    if (got >= 0 || errno != EAGAIN || current == nullptr) return got;
    if (!current->await(socketOf(transport))) {
      errno = ETIMEDOUT;
      return -1;
    }
  }
}

int pullTimeout(gnutls_transport_ptr_t transport, unsigned ms) {
  return awaitReadable(socketOf(transport), ms);
}

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

void TlsHandshake::load() {
  library.load(found);
}

TlsHandshake::TlsHandshake(std::uint64_t deadline, Certificate certificate, const std::string& host)
    : deadline_(deadline), certificate_(certificate), host_(host) {
  library.loaded();
  if (dlsym(RTLD_DEFAULT, "gnutls_handshake") != reinterpret_cast<void*>(&gnutls_handshake))
    throw std::runtime_error("no TLS can be spoken: libnbd does not find this program's handshake");
  current = this;
}

TlsHandshake::~TlsHandshake() {
  current = nullptr;
}

bool TlsHandshake::await(int socket) {
  const std::uint64_t now = process::nowNs();
  late_ = now >= deadline_;
  if (late_) return false;
  awaitReadable(socket, static_cast<unsigned>((deadline_ - now) / 1'000'000 + 1));
  return true;
}

int TlsHandshake::make(void* session) {
  const GnuTls& tls = library.loaded();
  auto* const its = static_cast<gnutls_session_t>(session);
  tls.setPull(its, pull);
  tls.setPullTimeout(its, pullTimeout);
  if (certificate_ == Certificate::checked)
    tls.setVerifyCert(its, host_.empty() ? nullptr : host_.c_str(), 0);
  const int result = tls.handshake(its);
  if (certificate_ == Certificate::ignored) {
    passed_ = result == 0;
    return result;
  }
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
    return current == nullptr ? library.loaded().handshake(session) : current->make(session);
  } catch (const std::exception&) {
    return GNUTLS_E_INTERNAL_ERROR;
  }
}
