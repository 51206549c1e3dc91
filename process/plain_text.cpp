#include "process/plain_text.h"

#include <cstdint>

namespace faultline::process {

namespace {

struct Character {
  std::uint32_t code = 0;
  std::size_t bytes = 0;  // 0: there is none, the first byte is no UTF-8
};

// The character that `text` begins with (RFC 3629: the shortest form, no surrogates, at most 0x10ffff).
Character firstOf(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  constexpr std::uint32_t SMALLEST[] = {0, 0, 0x80, 0x800, 0x10000};
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return {};
  std::uint32_t code = lead & (0x7fu >> bytes);
  for (std::size_t i = 1; i < bytes; i++) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3fu);
  }
  if (code < SMALLEST[bytes] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return {};
  return {code, bytes};
}

bool isCommand(std::uint32_t code) {
  const bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
  const bool direction = code == 0x200e || code == 0x200f || (code >= 0x2028 && code <= 0x202e) ||
                         (code >= 0x2066 && code <= 0x2069);
  return control || direction;
}

}  // namespace

std::string plainText(std::string_view text, Lines lines) {
  std::string plain;
  plain.reserve(text.size());
  while (!text.empty()) {
    const Character next = firstOf(text);
    const std::size_t bytes = next.bytes == 0 ? 1 : next.bytes;
    if (next.bytes == 1 && (next.code == '\n' || next.code == '\t' || next.code == '\r'))
      plain += next.code == '\n' && lines == Lines::keep ? '\n' : ' ';
    else if (next.bytes == 0 || isCommand(next.code))
      plain += '?';
    else
      plain += text.substr(0, bytes);
    text.remove_prefix(bytes);
  }
  return plain;
}

bool isPlainText(std::string_view text) {
  while (!text.empty()) {
    const Character next = firstOf(text);
    if (next.bytes == 0 || isCommand(next.code)) return false;
    text.remove_prefix(next.bytes);
  }
  return true;
}

bool isRestoreName(std::string_view name) {
  constexpr std::size_t MAX_BYTES = 50;
  return !name.empty() && name.size() <= MAX_BYTES && name.find_first_of(".:/ ") == std::string_view::npos &&
         isPlainText(name);
}

}  // namespace faultline::process
