// Why a call fails, for programs and for people, as one kj::Exception.
//
// Cap'n Proto 0.9.2 carries the type and the text of an exception and nothing else. A union in each result
// would carry a code as well, but a client that does not look at it would take a refusal for a success, and a
// capability in a result could not be called before the result is there. The text therefore begins with the
// code: "[notFound] no restore is called vm7". refusal() makes it and refusalOf() reads it; nothing else does
// either.
#pragma once

#include <kj/exception.h>
#include <kj/function.h>

#include <string>

#include "rpc/reasons.capnp.h"

namespace faultline::rpc {

struct Refusal {
  Reason reason = Reason::FAILED;
  std::string message;  // a line for people, without places and expressions of the code
};

kj::Exception refusal(Reason reason, const std::string& message);
[[noreturn]] void refuse(Reason reason, const std::string& message);

// Reason and message of an exception, also of one that came over RPC. The reason is FAILED for an exception
// that refusal() did not make, and for a reason that this build does not know.
Refusal refusalOf(const kj::Exception& exception);
bool hasReason(const kj::Exception& exception);

// `exception` with a reason: its own where it has one, else `reason`. Exceptions of the types DISCONNECTED
// and UNIMPLEMENTED stay as they are: the type says what there is to know.
kj::Exception because(Reason reason, kj::Exception&& exception);
// Runs `action`; what it throws has a reason.
void because(Reason reason, kj::FunctionParam<void()> action);

// The enumerant as reasons.capnp writes it; "failed" and "serverFailed" for numbers that it does not have.
std::string nameOf(Reason reason);
std::string nameOf(EndReason reason);

}  // namespace faultline::rpc
