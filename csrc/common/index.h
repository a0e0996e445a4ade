// Index arithmetic shared by the CPU and CUDA kernels, and tested without either.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace pysr {

PYSR_HD inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
PYSR_HD inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

PYSR_HD inline int64_t reflect_period(int64_t length) { return length > 1 ? 2 * (length - 1) : 1; }

// The pixel that index i of a row of `length` pixels shows when the row is mirrored at both ends,
// over and over, without repeating the edge pixel.
PYSR_HD inline int64_t reflect(int64_t i, int64_t length) {
  if (i >= 0 && i < length) return i;
  const int64_t period = reflect_period(length);
  i %= period;
  if (i < 0) i += period;
  return i < length ? i : period - i;
}

// How many of 0 .. count - 1 are congruent to `phase` modulo `stride`.
PYSR_HD inline int64_t phase_count(int64_t count, int64_t phase, int64_t stride) {
  return phase < count ? ceil_div(count - phase, stride) : 0;
}

}  // namespace pysr
