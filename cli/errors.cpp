#include "cli/errors.h"

#include <kj/exception.h>

#include <cstdio>

#include "process/plain_text.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

void complain(const std::string& message) {
  fprintf(stderr, "faultline: %s\n", process::plainText(message).c_str());
}

}  // namespace

Exit exitOf(rpc::Reason reason) {
  switch (reason) {
    case rpc::Reason::FAILED:
      return FAILED;
    case rpc::Reason::BAD_INPUT:
    case rpc::Reason::BAD_SOURCE:
    case rpc::Reason::BAD_TARGET:
      return USAGE;
    case rpc::Reason::UNSUPPORTED:
      return ENVIRONMENT;
    case rpc::Reason::NOT_FOUND:
    case rpc::Reason::ENDED:
      return NOT_FOUND;
    case rpc::Reason::NAME_TAKEN:
    case rpc::Reason::WRONG_PHASE:
    case rpc::Reason::PAGES_MISSING:
    case rpc::Reason::LIMIT_REACHED:
    case rpc::Reason::FORBIDDEN:
    case rpc::Reason::NOT_READY:
    case rpc::Reason::OTHER_BUILD:
    case rpc::Reason::ENDING:
      return REFUSED;
  }
  return FAILED;
}

int guarded(const std::function<int()>& body) {
  try {
    return body();
  } catch (const CommandError& error) {
    complain(error.what());
    return error.code;
  } catch (const kj::Exception& error) {
    const rpc::Refusal refusal = rpc::refusalOf(error);
    complain(refusal.message);
    // OVERLOADED: it does not answer (cli/session.h).
    const bool nobody = error.getType() == kj::Exception::Type::DISCONNECTED ||
                        error.getType() == kj::Exception::Type::OVERLOADED;
    return nobody ? DISCONNECTED : exitOf(refusal.reason);
  } catch (const std::exception& error) {
    complain(error.what());
    return FAILED;
  }
}

}  // namespace faultline::cli
