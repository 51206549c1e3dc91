#include "fetcher/curl_library.h"

#include <stdexcept>

#include "fetcher/connected_sockets.h"
#include "fetcher/shared_library.h"

namespace faultline::fetcher {

namespace {

LoadedLibrary<CurlLibrary> library("libcurl");

CurlLibrary found() {
  const SharedLibrary file("libcurl.so.4", "no object can be asked for",
                           "install libcurl (Debian: libcurl4)");
  CurlLibrary curl{};
  file.find(curl.globalInit, "curl_global_init");
  file.find(curl.easyInit, "curl_easy_init");
  file.find(curl.easyCleanup, "curl_easy_cleanup");
  file.find(curl.easySetopt, "curl_easy_setopt");
  file.find(curl.easyPerform, "curl_easy_perform");
  file.find(curl.easyGetinfo, "curl_easy_getinfo");
  file.find(curl.easyStrerror, "curl_easy_strerror");
  file.find(curl.slistAppend, "curl_slist_append");
  file.find(curl.slistFreeAll, "curl_slist_free_all");
  if (!connectedSocketsAreTaken())
    throw std::runtime_error("libcurl cannot be used: connect() is another than ours");
  if (curl.globalInit(CURL_GLOBAL_DEFAULT) != CURLE_OK) throw std::runtime_error("libcurl cannot be used");
  return curl;
}

}  // namespace

const CurlLibrary& CurlLibrary::load() {
  return library.load(found);
}

const CurlLibrary& CurlLibrary::loaded() {
  return library.loaded();
}

}  // namespace faultline::fetcher
