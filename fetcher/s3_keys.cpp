#include "fetcher/s3_keys.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string_view>

namespace faultline::fetcher {

namespace {

constexpr std::size_t MOST_LINES = 10'000;

std::string environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view BLANKS = " \t\r";
  const std::size_t begin = text.find_first_not_of(BLANKS);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(BLANKS) - begin + 1);
}

// Reads the keys of the section [profile]. A message never has a part of a line.
S3Keys fromFile(const std::string& path, std::istream& file, const std::string& profile) {
  S3Keys keys;
  bool inside = false, found = false;
  std::string line;
  for (std::size_t number = 1; std::getline(file, line); number++) {
    const std::string_view text = trimmed(line);
    if (number > MOST_LINES) throw std::runtime_error(path + " is no file of keys: it has too many lines");
    if (text.empty() || text.front() == '#' || text.front() == ';') continue;
    if (text.front() == '[') {
      if (text.back() != ']')
        throw std::runtime_error(path + ", line " + std::to_string(number) + ": no ] ends the name");
      inside = trimmed(text.substr(1, text.size() - 2)) == profile;
      found = found || inside;
      continue;
    }
    if (!inside) continue;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;  // nested settings of other tools
    const std::string_view name = trimmed(text.substr(0, equals));
    const std::string value(trimmed(text.substr(equals + 1)));
    if (name == "aws_access_key_id") keys.id = value;
    if (name == "aws_secret_access_key") keys.secret = value;
    if (name == "aws_session_token") keys.token = value;
  }
  if (!found && profile == "default") return {};
  if (!found) throw std::runtime_error(path + " has no profile [" + profile + "]");
  if (keys.id.empty() || keys.secret.empty())
    throw std::runtime_error(path + ": the profile [" + profile +
                             "] has no aws_access_key_id or no aws_secret_access_key");
  return keys;
}

}  // namespace

std::string s3KeyFile() {
  if (std::string path = environment("AWS_SHARED_CREDENTIALS_FILE"); !path.empty()) return path;
  const std::string home = environment("HOME");
  return home.empty() ? "" : home + "/.aws/credentials";
}

S3Keys s3Keys(const std::string& named) {
  S3Keys keys{environment("AWS_ACCESS_KEY_ID"), environment("AWS_SECRET_ACCESS_KEY"),
              environment("AWS_SESSION_TOKEN")};
  if (named.empty() && !keys.id.empty() && !keys.secret.empty()) return keys;
  std::string profile = named.empty() ? environment("AWS_PROFILE") : named;
  if (profile.empty()) profile = "default";
  const std::string path = s3KeyFile();
  if (path.empty()) return {};
  std::ifstream file(path);
  if (!file) {
    if (errno == ENOENT && profile == "default" && environment("AWS_SHARED_CREDENTIALS_FILE").empty())
      return {};
    throw std::runtime_error("the keys of S3, " + path + ": " + std::strerror(errno));
  }
  return fromFile(path, file, profile);
}

}  // namespace faultline::fetcher
