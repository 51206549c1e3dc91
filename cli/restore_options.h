// Options that name a server or a restore, shared by the commands that take them.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace faultline::cli {

inline const char* DEFAULT_CONTROL = "/run/faultline/control.sock";

// Adds --control.
void addControl(CLI::App& command, std::string& path);

// A check of the names of restores and listeners: they are part of the names of kept fds.
const CLI::Validator& restoreName();

}  // namespace faultline::cli
