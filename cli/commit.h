// The commit that this program was built from.
#pragma once

namespace faultline::cli {

// Twelve hexadecimal digits; "unknown" where it was built from a copy without its history.
const char* commit();

}  // namespace faultline::cli
