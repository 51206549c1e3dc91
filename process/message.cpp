#include "process/message.h"

#include <vector>

namespace faultline::process {

namespace {

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find(separator, begin)) != std::string::npos;
       begin = end + separator.size())
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

// "path.c_str() = /tmp/x" is "/tmp/x" to people; words with a blank in front of the sign are words.
std::string withoutExpression(const std::string& operand) {
  const std::size_t sign = operand.find(" = ");
  return sign == std::string::npos ? operand : operand.substr(sign + 3);
}

}  // namespace

std::string messageOf(const kj::Exception& exception) {
  std::string text = exception.getDescription().cStr();
  if (text.starts_with("remote exception: ")) text = text.substr(18);
  // The text of KJ_REQUIRE is "expected a == b; what it means; a = 1; b = 2".
  std::vector<std::string> parts = split(text, "; ");
  if (parts.size() > 1 && parts.front().starts_with("expected ")) parts.erase(parts.begin());
  std::string message = parts.front();
  for (std::size_t i = 1; i < parts.size(); i++) {
    const bool operand = parts[i].find(" = ") != std::string::npos;
    message += (operand ? ": " : "; ") + withoutExpression(parts[i]);
  }
  return message;
}

}  // namespace faultline::process
