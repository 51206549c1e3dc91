// What is said where something is refused.
#pragma once

#include <string>

namespace faultline::test {

// The words of the Error that `work` throws; "it is taken" where it throws none.
template <typename Error, typename Work>
std::string refusalOf(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "it is taken";
}

}  // namespace faultline::test
