// The URI of an object that a server gives ranges of by HTTP: what is allowed in one, and where it leads.
#pragma once

#include <string>

#include "rpc/uri_parts.h"

namespace faultline::rpc {

//   https://HOST[:PORT]/PATH[?QUERY]   http://HOST[:PORT]/PATH[?QUERY]
//   s3://BUCKET/KEY[?endpoint=URL][&region=REGION][&profile=PROFILE]
//
// For s3, what is not said comes from the environment, as for AWS' own tools: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL (both with
// the bucket in the path), AWS_REGION, AWS_DEFAULT_REGION. Without an endpoint it is AWS. A URI never has a key
// in it: keys come from elsewhere (fetcher/s3_keys.h). Any thread.
struct ObjectUri {
  std::string text;  // the URI as given
  bool s3 = false;   // asked with S3's signature, where there are keys
  bool tls = false;
  std::string host, port;
  std::string target;           // path and query, encoded; begins with '/'
  std::string region, profile;  // for s3; the profile is empty where none is named

  // Throws BadUri.
  static ObjectUri parse(const std::string& text);
  // The URL that this leads to, as HTTP has it.
  std::string url() const;
};

}  // namespace faultline::rpc
