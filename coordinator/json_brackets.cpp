#include "coordinator/json_brackets.h"

#include <algorithm>

namespace faultline::coordinator {

void JsonBrackets::look(std::string_view text) {
  for (const char byte : text.substr(looked_)) lookAt(byte);
}

void JsonBrackets::lookAt(char byte) {
  const std::size_t at = looked_++;
  if (begin_ == NOT_YET && std::string_view(" \t\r\n").find(byte) == std::string_view::npos) begin_ = at;
  if (escaped_) {
    escaped_ = false;
  } else if (quoted_) {
    escaped_ = byte == '\\';
    quoted_ = byte != '"';
  } else if (byte == '"') {
    quoted_ = true;
  } else if (byte == '[' || byte == '{') {
    deepest_ = std::max(deepest_, ++depth_);
  } else if (byte == ']' || byte == '}') {
    if (--depth_ == 0 && end_ == NOT_YET) end_ = at + 1;
  }
}

}  // namespace faultline::coordinator
