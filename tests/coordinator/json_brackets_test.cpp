// Begin, end and depth of a JSON text, whatever the pieces it comes in.

#include "coordinator/json_brackets.h"

#include <gtest/gtest.h>

#include <string>

namespace faultline::coordinator {
namespace {

JsonBrackets byteByByte(std::string_view text) {
  JsonBrackets brackets;
  for (std::size_t length = 1; length <= text.size(); length++) brackets.look(text.substr(0, length));
  return brackets;
}

TEST(JsonBrackets, EachByteIsLookedAtOnce) {
  constexpr std::size_t LENGTH = 300'000;
  const std::string text = "[" + std::string(LENGTH - 1, ' ');
  EXPECT_EQ(byteByByte(text).looked(), LENGTH);
}

TEST(JsonBrackets, PiecesSayWhatTheWholeSays) {
  for (const std::string text :
       {R"( [{"a":"]}"},["\"]"]] )", R"(["\\"] [)", R"(["\\\"]"])", "\n\t x[]", "]][["}) {
    JsonBrackets whole;
    whole.look(text);
    const JsonBrackets pieces = byteByByte(text);
    EXPECT_EQ(pieces.begin(), whole.begin()) << text;
    EXPECT_EQ(pieces.end(), whole.end()) << text;
    EXPECT_EQ(pieces.deepest(), whole.deepest()) << text;
  }
}

TEST(JsonBrackets, EndWithTheBracketThatClosesTheFirst) {
  const std::string array = R"([{"a":"]}\"]"},[[]]])";
  const JsonBrackets brackets = byteByByte("  " + array + "[");
  EXPECT_EQ(brackets.begin(), 2u);
  EXPECT_EQ(brackets.end(), 2 + array.size());
  EXPECT_EQ(brackets.deepest(), 3);
  EXPECT_EQ(byteByByte(array.substr(0, array.size() - 1)).end(), JsonBrackets::NOT_YET);
  EXPECT_EQ(byteByByte(" \t").begin(), JsonBrackets::NOT_YET);
}

}  // namespace
}  // namespace faultline::coordinator
