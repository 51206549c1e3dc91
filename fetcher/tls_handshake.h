// The TLS handshakes that libnbd makes. Of a connection that it is handed it looks at no certificate (1.14 to 1.22 at least); and once
// it has asked GnuTLS for a handshake, that does not return before the end, and asks the socket again and again meanwhile, for 40 s
// where the server is silent (GnuTLS 3.7). Therefore this program has a gnutls_handshake() of its own, which libnbd finds before that of
// GnuTLS: it waits for the socket, for as long as is wanted, and has GnuTLS check what is wanted.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::fetcher {

// While one lives, the handshakes of its thread are as it says. Belongs to one thread, which has one at a time.
class TlsHandshake {
 public:
  // Whether the server's certificate is looked at: it must be signed by an authority that is trusted, be valid today, and have the
  // host's name. Without, the server is known by its key.
  enum class Certificate { ignored, checked };

  // Finds GnuTLS, once. Before there is a filter that opens no files. Throws std::runtime_error where it is not there.
  static void load();

  // `deadline`: ns, CLOCK_MONOTONIC, past which a handshake fails. `host`: the name, or address, that the certificate has to be for;
  // empty: of whichever, since it is a socket of this host. Must outlive this. Throws std::runtime_error where libnbd does not
  // find this program's handshake.
  TlsHandshake(std::uint64_t deadline, Certificate certificate, const std::string& host);
  ~TlsHandshake();
  TlsHandshake(const TlsHandshake&) = delete;

  // Whether a handshake was made, and what was to be checked was good. A connection that has not passed must not be used.
  bool passed() const { return passed_; }
  // Whether the deadline has come meanwhile.
  bool late() const { return late_; }
  // Says what is wrong with the certificate, for people; empty: nothing is known.
  const std::string& why() const { return why_; }

  // Does the work of gnutls_handshake(), and returns its result. `session`: gnutls_session_t.
  int make(void* session);
  // Waits until the socket has data. False: the deadline has come.
  bool await(int socket);

 private:
  const std::uint64_t deadline_;
  const Certificate certificate_;
  const std::string& host_;
  bool passed_ = false, late_ = false;
  std::string why_;
};

}  // namespace faultline::fetcher
