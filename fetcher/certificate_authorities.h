// Whom certificates of servers are to be signed by.
#pragma once

#include <string>

namespace faultline::fetcher {

// A file of certificates: AWS_CA_BUNDLE or SSL_CERT_FILE, where it is set; else the host's. Any thread.
std::string certificateAuthorities();

}  // namespace faultline::fetcher
