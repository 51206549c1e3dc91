// The keys that S3 wants requests to be signed with, from where AWS' own tools have them.
#pragma once

#include <string>
#include <vector>

namespace faultline::fetcher {

struct S3Keys {
  std::string id, secret;
  std::string token;  // temporary keys have one; may be empty

  bool operator==(const S3Keys&) const = default;
  bool none() const { return id.empty(); }
};

// Returns the keys of `profile`, if one is named; else AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, where
// they are set; else those of the profile AWS_PROFILE, or default. Profiles are in the file AWS_SHARED_CREDENTIALS_FILE, or
// ~/.aws/credentials. Returns none() without keys: what is public can be read. Throws std::runtime_error, which names no
// key, where the file makes no sense, or has not the profile. Reads a file. Any thread.
S3Keys s3Keys(const std::string& profile);

// The file that they come from, whether it is there or not; empty: none is named.
std::string s3KeyFile();

}  // namespace faultline::fetcher
