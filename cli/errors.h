// Exit codes of the commands, and errors for people.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>

#include "rpc/reasons.capnp.h"

namespace faultline::cli {

enum Exit : int {
  OK = 0,
  FAILED = 1,        // an error of data or service: the message says which
  USAGE = 2,         // the command line, or a file or path named on it
  ENVIRONMENT = 3,   // the machine does not allow it
  DISCONNECTED = 4,  // no server there, or it has gone, or does not answer
  NOT_FOUND = 5,     // the server has nothing of that name, or it has ended
  REFUSED = 6,       // not as things stand: pages would be lost, the restore is paused already, ...
  INCOMPLETE = 7,    // pages are missing that were to be there, or what was waited for did not come in time
};

inline const char* EXIT_CODES =
    "Exit codes: 0 done, 1 failed (the message says what), 2 wrong usage or input,\n"
    "            3 not possible on this machine, 4 no server reachable, it has gone or does not answer,\n"
    "            5 nothing of that name, 6 refused as things stand, 7 pages are missing, or it took too long";

// The exit code of a command whose call was refused.
Exit exitOf(rpc::Reason reason);

// Ends the command with this code and message.
struct CommandError : std::runtime_error {
  CommandError(Exit exit, const std::string& message) : std::runtime_error(message), code(exit) {}
  const Exit code;
};

// Runs a command's body; prints what went wrong in one line; returns the exit code.
int guarded(const std::function<int()>& body);

}  // namespace faultline::cli
