#include "process/close_errors.h"

#include <spdlog/spdlog.h>

#include <string_view>

namespace faultline::process {

void CloseErrorsLogged::onRecoverableException(kj::Exception&& exception) {
  // The text that kj/io.c++ writes, in the destructor of AutoCloseFd.
  if (std::string_view(exception.getDescription().cStr()).starts_with("close: "))
    spdlog::warn("{}", exception.getDescription().cStr());
  else
    next.onRecoverableException(kj::mv(exception));
}

}  // namespace faultline::process
