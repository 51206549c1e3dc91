#include "cli/table.h"

#include <libsmartcols/libsmartcols.h>

#include <cstdlib>
#include <new>

#include "process/plain_text.h"

namespace faultline::cli {

namespace {

int flagsOf(Table::Column kind) {
  switch (kind) {
    case Table::Column::left:
      break;
    case Table::Column::right:
      return SCOLS_FL_RIGHT;
    case Table::Column::cut:
      return SCOLS_FL_TRUNC;
    case Table::Column::wrapped:
      return SCOLS_FL_WRAP;
  }
  return 0;
}

}  // namespace

Table::Table() : table_(scols_new_table(), scols_unref_table) {
  if (table_ == nullptr) throw std::bad_alloc();
}

void Table::noHeadings() {
  scols_table_enable_noheadings(table_.get(), 1);
}

void Table::width(unsigned columns) {
  scols_table_set_termforce(table_.get(), SCOLS_TERMFORCE_ALWAYS);
  scols_table_set_termwidth(table_.get(), columns);
}

void Table::column(const char* name, Column kind) {
  if (scols_table_new_column(table_.get(), name, 0, flagsOf(kind)) == nullptr) throw std::bad_alloc();
}

void Table::line() {
  line_ = scols_table_new_line(table_.get(), nullptr);
  if (line_ == nullptr) throw std::bad_alloc();
  at_ = 0;
}

void Table::cell(const std::string& text) {
  if (scols_line_set_data(line_, at_++, process::plainText(text).c_str()) != 0) throw std::bad_alloc();
}

void Table::print() const {
  scols_print_table(table_.get());
}

std::string Table::text() const {
  char* text = nullptr;
  if (scols_print_table_to_string(table_.get(), &text) != 0) throw std::bad_alloc();
  const std::unique_ptr<char, void (*)(void*)> owned(text, free);
  return text;
}

}  // namespace faultline::cli
