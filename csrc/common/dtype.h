// The storage types of tensors, and the type that sums over them are taken in.
//
// Half types are plain 16-bit structs with our own conversions: operators only load, convert and
// store them, and the same source then compiles where no CUDA header exists.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace pysr {

enum class DType : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

namespace detail {

PYSR_HD inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

PYSR_HD inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace detail

PYSR_HD inline float widen(float value) { return value; }
PYSR_HD inline double widen(double value) { return value; }
PYSR_HD inline float widen(BFloat16 value) {
  return detail::float_of(static_cast<uint32_t>(value.bits) << 16);
}
PYSR_HD inline float widen(Float16 value) {
#ifdef __CUDA_ARCH__
  return __half2float(__half(__half_raw{value.bits}));
#else
  // Shifting exponent and mantissa into place leaves the exponent 112 too small; a subnormal is
  // instead completed to a number in [0.5, 1), whose 0.5 is then taken off.
  const uint32_t sign = (value.bits & 0x8000u) << 16;
  const uint32_t rest = value.bits & 0x7fffu;
  const float normal = detail::float_of((rest << 13) + 0x70000000u) * 0x1p-112f;
  const float subnormal = detail::float_of(rest | 0x3f000000u) - 0.5f;
  return detail::float_of(sign | detail::bits_of(rest < 0x400u ? subnormal : normal));
#endif
}

// Rounds to nearest even, as torch does.
template <class S>
struct Narrow {
  PYSR_HD static S from(S value) { return value; }
};

template <>
struct Narrow<BFloat16> {
  PYSR_HD static BFloat16 from(float value) {
    const uint32_t bits = detail::bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
};

template <>
struct Narrow<Float16> {
  PYSR_HD static Float16 from(float value) {
#ifdef __CUDA_ARCH__
    return {static_cast<__half_raw>(__float2half_rn(value)).x};
#else
    const uint32_t bits = detail::bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t rest = bits & 0x7fffffffu;
    uint32_t half;
    if (rest > 0x7f800000u) {
      half = 0x7e00u;
    } else if (rest >= 0x47800000u) {
      half = 0x7c00u;
    } else if (rest < 0x38800000u) {
      // Adding 0.5 makes the float unit round at the subnormals' last place.
      half = detail::bits_of(detail::float_of(rest) + 0.5f) - 0x3f000000u;
    } else {
      half = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    }
    return {static_cast<uint16_t>(sign | half)};
#endif
  }
};

template <class S>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class S>
using Accumulator = typename AccumulatorOf<S>::type;

template <class S>
struct Type {
  using type = S;
};

inline int64_t accumulator_size(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

// Calls f(Type<S>{}) with the storage type of dtype, which is not float64: for operators that sum
// in float alone.
template <class F>
auto dispatch_float(DType dtype, F&& f) {
  if (dtype == DType::bfloat16) return f(Type<BFloat16>{});
  if (dtype == DType::float16) return f(Type<Float16>{});
  return f(Type<float>{});
}

// Calls f(Type<S>{}) with the storage type of dtype.
template <class F>
auto dispatch(DType dtype, F&& f) {
  if (dtype == DType::float64) return f(Type<double>{});
  return dispatch_float(dtype, f);
}

}  // namespace pysr
