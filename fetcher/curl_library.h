// libcurl, loaded when a source wants it: a host whose memories are files has no need of it.
#pragma once

#include <curl/curl.h>

namespace faultline::fetcher {

// The functions of it that are used (libcurl(3)). Any thread; a handle is one thread's at a time.
struct CurlLibrary {
  decltype(&curl_global_init) globalInit;
  decltype(&curl_easy_init) easyInit;
  decltype(&curl_easy_cleanup) easyCleanup;
  decltype(&curl_easy_setopt) easySetopt;
  decltype(&curl_easy_perform) easyPerform;
  decltype(&curl_easy_getinfo) easyGetinfo;
  decltype(&curl_easy_strerror) easyStrerror;
  decltype(&curl_slist_append) slistAppend;
  decltype(&curl_slist_free_all) slistFreeAll;

  // Loads it, once. Before there is a filter that opens no files. Throws std::runtime_error with the way out where it is not
  // there, or too old.
  static const CurlLibrary& load();
  // Returns what load() has brought. Throws as load() did; also where load() was not called.
  static const CurlLibrary& loaded();
};

}  // namespace faultline::fetcher
