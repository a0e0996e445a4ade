// Launchers refuse impossible parameters themselves: C++ callers do not pass through Python's
// checks.
#pragma once

#include <stdexcept>

namespace pysr {

inline void check(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

}  // namespace pysr
