// Sockets that are connected when a library gets them. libcurl is told so (CURL_SOCKOPT_ALREADY_CONNECTED), and its versions
// 7.88.0 and 7.88.1, which Debian 12 has, call connect() all the same, and take EISCONN for a failure. Therefore this program
// has a connect() of its own, which libraries that it loads find before that of libc: of a connected socket it says so.
#pragma once

namespace faultline::fetcher {

// Whether a library that is loaded now calls that one.
bool connectedSocketsAreTaken();

}  // namespace faultline::fetcher
