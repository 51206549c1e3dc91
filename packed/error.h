// Errors of packed images. Messages are for people: they name the file, the value and the way out.
#pragma once

#include <stdexcept>

namespace faultline::packed {

// The file cannot be used at all. Found when it is opened, before a byte of it is given out.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The bytes of one frame are not those that were packed. Other frames can be read still.
struct Damaged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace faultline::packed
