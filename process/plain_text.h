// Text that others made, for a terminal or a log: names of files and restores, messages of peers, what a handshake
// begins with. Everything that is printed or logged goes through here, and nothing else makes it harmless.
#pragma once

#include <string>
#include <string_view>

namespace faultline::process {

enum class Lines { join, keep };  // line breaks become blanks, or stay

// `text` as valid UTF-8 without anything that a terminal takes for a command. Blank space becomes a blank; each
// other control character (C0, 0x7f, C1), each sign that changes the direction of what follows, and each byte
// that belongs to no character becomes '?'.
std::string plainText(std::string_view text, Lines lines = Lines::join);

// Whether it is that already.
bool isPlainText(std::string_view text);

// Whether `name` can be that of a restore or listener: 1 to 50 bytes of plain text, none of them '.', ':', '/' or
// blank. The name is part of names of kept fds, of log lines and of labels.
bool isRestoreName(std::string_view name);
inline constexpr const char* RESTORE_NAME_RULE =
    "a name has 1 to 50 characters, none of them '.', ':', '/', blank or a control character";

}  // namespace faultline::process
