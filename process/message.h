// Messages of exceptions for people.
#pragma once

#include <kj/exception.h>

#include <string>

namespace faultline::process {

// The message of a kj::Exception without places and expressions of the code.
std::string messageOf(const kj::Exception& exception);

}  // namespace faultline::process
