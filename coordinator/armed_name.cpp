#include "coordinator/armed_name.h"

#include <charconv>
#include <vector>

namespace faultline::coordinator {

namespace {

constexpr std::size_t NUMBERS = 3;

template <typename Number>
bool parse(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string nameOf(const failpoints::Failpoints::Arm& arm) {
  return std::string(failpoints::nameOf(arm.point)) + "," + std::to_string(static_cast<int>(arm.action)) +
         "," + std::to_string(arm.skip) + "," + std::to_string(arm.page);
}

std::optional<failpoints::Failpoints::Arm> armOf(std::string_view name) {
  std::vector<std::string_view> fields;
  for (std::size_t comma; (comma = name.find(',')) != std::string_view::npos; name = name.substr(comma + 1))
    fields.push_back(name.substr(0, comma));
  fields.push_back(name);
  const auto point = failpoints::pointNamed(fields.front());
  failpoints::Failpoints::Arm arm;
  int action = 0;
  if (fields.size() != 1 + NUMBERS || !point.has_value() || !parse(fields[1], action) ||
      !parse(fields[2], arm.skip) || !parse(fields[3], arm.page))
    return std::nullopt;
  arm.point = *point;
  arm.action = static_cast<failpoints::Action>(action);
  return arm;
}

}  // namespace faultline::coordinator
