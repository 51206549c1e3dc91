// A table on stdout, or as a text, by libsmartcols.
#pragma once

#include <memory>
#include <string>

struct libscols_table;
struct libscols_line;

namespace faultline::cli {

// Every function throws std::bad_alloc where there is no memory. A cell is made plain text (process/plain_text.h). One thread.
class Table {
 public:
  // left: as it comes. right: for numbers. cut: cut off where the line has no room. wrapped: goes on below.
  enum class Column { left, right, cut, wrapped };

  Table();

  void noHeadings();
  // The width in columns, whatever stdout is.
  void width(unsigned columns);
  void column(const char* name, Column kind = Column::left);
  // Begins a line; cell() fills it from the left.
  void line();
  void cell(const std::string& text);

  void print() const;
  std::string text() const;

 private:
  std::unique_ptr<libscols_table, void (*)(libscols_table*)> table_;
  libscols_line* line_ = nullptr;  // the table's
  std::size_t at_ = 0;
};

}  // namespace faultline::cli
