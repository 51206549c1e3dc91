// The help of the program itself: short enough for a screen.
#pragma once

#include <CLI/CLI.hpp>

namespace faultline::cli {

// Gives `app`, which has all its commands, a help that names them in groups. The long texts are in each command's own.
void helpInGroups(CLI::App& app);

}  // namespace faultline::cli
