#include "process/close_errors.h"

#include <spdlog/spdlog.h>

#include <string_view>

namespace faultline::process {

void CloseErrorsLogged::onRecoverableException(kj::Exception&& exception) {
  // As kj/io.c++ writes it, in the destructor of AutoCloseFd.
  if (std::string_view(exception.getDescription().cStr()).starts_with("close: "))
    spdlog::warn("{}", exception.getDescription().cStr());
  else
    next.onRecoverableException(kj::mv(exception));
}

}  // namespace faultline::process
