#include "cli/errors.h"

#include <kj/exception.h>

#include <cstdio>

#include "process/message.h"

namespace faultline::cli {

int guarded(const std::function<int()>& body) {
  try {
    return body();
  } catch (const CommandError& error) {
    fprintf(stderr, "faultline: %s\n", error.what());
    return error.code;
  } catch (const kj::Exception& error) {
    fprintf(stderr, "faultline: %s\n", process::messageOf(error).c_str());
    return error.getType() == kj::Exception::Type::DISCONNECTED ? DISCONNECTED : FAILED;
  } catch (const std::exception& error) {
    fprintf(stderr, "faultline: %s\n", error.what());
    return FAILED;
  }
}

}  // namespace faultline::cli
