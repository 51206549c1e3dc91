// Begin, end and depth of a JSON text that comes in pieces, by its brackets alone.
#pragma once

#include <cstddef>
#include <string_view>

namespace faultline::coordinator {

class JsonBrackets {
 public:
  static constexpr std::size_t NOT_YET = std::string_view::npos;

  // `text`: all that has come so far. A byte is looked at once, so that a text that comes byte by byte costs
  // no more than one that comes whole.
  void look(std::string_view text);

  std::size_t begin() const { return begin_; }  // the first byte that is no blank
  std::size_t end() const { return end_; }      // behind the bracket that closes the first one
  int deepest() const { return deepest_; }
  std::size_t looked() const { return looked_; }  // at so many bytes in all

 private:
  void lookAt(char byte);

  std::size_t begin_ = NOT_YET, end_ = NOT_YET;
  int depth_ = 0, deepest_ = 0;
  bool quoted_ = false, escaped_ = false;
  std::size_t looked_ = 0;
};

}  // namespace faultline::coordinator
