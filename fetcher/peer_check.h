// Whether an NBD server's certificate is one that may be trusted. libnbd asks that of connections that it makes itself, and of none
// that it is handed (1.14 to 1.22 at least): those it encrypts, whatever certificate comes. Therefore this program has
// a gnutls_handshake() of its own, which libnbd finds before that of GnuTLS: where a check is wanted, it has GnuTLS make it.
#pragma once

#include <string>

namespace faultline::fetcher {

// While one lives, each handshake of its thread fails unless the certificate is signed by an authority that is trusted,
// is valid today, and has the host's name. Belongs to one thread, which has one at a time.
class PeerCheck {
 public:
  // Finds GnuTLS, once. Before there is a filter that opens no files. Throws std::runtime_error where it is not there.
  static void load();

  // `host`: the name, or address, that the certificate has to be for; empty: of whichever, since it is a socket of this host.
  // Must outlive the connections. Throws std::runtime_error where nothing can be checked.
  explicit PeerCheck(const std::string& host);
  ~PeerCheck();
  PeerCheck(const PeerCheck&) = delete;

  // Whether a handshake was made, and the certificate was good. A connection that has not passed must not be used.
  bool passed() const { return passed_; }
  // Says what is wrong with the certificate, for people; empty: nothing is known.
  const std::string& why() const { return why_; }

  // Does the work of gnutls_handshake(), and returns its result. `session`: gnutls_session_t.
  int handshake(void* session);

 private:
  const std::string& host_;
  bool passed_ = false;
  std::string why_;
};

}  // namespace faultline::fetcher
