// Vectors of the instruction set that a file is compiled for, as GCC's and Clang's vector types.
//
// Only for X_tile.cpp files: CMake compiles them once per instruction set, and all that they define
// lies in the namespace PYSR_ISA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "common/dtype.h"

#if defined(__AVX512F__)
#define PYSR_ISA avx512
#define PYSR_VECTOR_BYTES 64
#define PYSR_REGISTERS 32
#elif defined(__AVX2__)
#define PYSR_ISA avx2
#define PYSR_VECTOR_BYTES 32
#define PYSR_REGISTERS 16
#else
#define PYSR_ISA baseline
#define PYSR_VECTOR_BYTES 16
#ifdef __aarch64__
#define PYSR_REGISTERS 32
#else
#define PYSR_REGISTERS 16
#endif
#endif

#ifdef __clang__
#define PYSR_UNROLL _Pragma("unroll")
#else
#define PYSR_UNROLL _Pragma("GCC unroll 16")
#endif
#define PYSR_INLINE inline __attribute__((always_inline))

namespace pysr {
namespace PYSR_ISA {
namespace {

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(PYSR_VECTOR_BYTES)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = PYSR_VECTOR_BYTES / sizeof(T);

// Unaligned. A vector is returned through an argument: passing one by value draws warnings about
// the calling convention of machines without these registers.
template <class T>
PYSR_INLINE void load(Vector<T>& vector, const T* from) {
  __builtin_memcpy(&vector, from, sizeof vector);
}
template <class T>
PYSR_INLINE void store(T* to, const Vector<T>& vector) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

template <class T>
using LaneIndex = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

// Every second group of H lanes of a with those of b: the first ones of each pair, or the second.
template <class T, int H, bool Second, int... Lane>
PYSR_INLINE void mix_lanes(Vector<T>& mixed, const Vector<T>& a, const Vector<T>& b,
                           std::integer_sequence<int, Lane...>) {
#define PYSR_FROM (Lane & H ? kLanes<T> + Lane - (Second ? 0 : H) : Lane + (Second ? H : 0))...
#ifdef __clang__
  mixed = __builtin_shufflevector(a, b, PYSR_FROM);
#else  // which GCC has from version 12 on
  mixed = __builtin_shuffle(a, b, Vector<LaneIndex<T>>{PYSR_FROM});
#endif
#undef PYSR_FROM
}

// Row i, lane j <-> row j, lane i.
template <class T, int H = kLanes<T> / 2>
PYSR_INLINE void transpose(Vector<T> (&rows)[kLanes<T>]) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes<T>>{};
  PYSR_UNROLL
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i & H) continue;
    const Vector<T> a = rows[i], b = rows[i + H];
    mix_lanes<T, H, false>(rows[i], a, b, lanes);
    mix_lanes<T, H, true>(rows[i + H], a, b, lanes);
  }
  if constexpr (H > 1) transpose<T, H / 2>(rows);
}

// Storage types as vectors: what widen and Narrow of common/dtype.h do, without calling them, since
// the linker would merge their copies compiled here with those that every machine runs.
typedef uint32_t Bits __attribute__((vector_size(PYSR_VECTOR_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(PYSR_VECTOR_BYTES / 2)));

template <class S>
struct Storage {
  static PYSR_INLINE void load(Vector<S>& vector, const S* from) {
    PYSR_ISA::load<S>(vector, from);
  }
  static PYSR_INLINE void store(S* to, const Vector<S>& vector) { PYSR_ISA::store<S>(to, vector); }
};

template <>
struct Storage<BFloat16> {
  static PYSR_INLINE void load(Vector<float>& vector, const BFloat16* from) {
    HalfBits half;
    __builtin_memcpy(&half, from, sizeof half);
    vector = (Vector<float>)(__builtin_convertvector(half, Bits) << 16);
  }
  static PYSR_INLINE void store(BFloat16* to, const Vector<float>& vector) {
    const Bits bits = (Bits)vector;
    const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Bits whole = (bits & 0x7fffffffu) > 0x7f800000u ? Bits{} + 0x7fc0u : rounded;
    const HalfBits half = __builtin_convertvector(whole, HalfBits);
    __builtin_memcpy(to, &half, sizeof half);
  }
};

template <>
struct Storage<Float16> {
  static PYSR_INLINE void load(Vector<float>& vector, const Float16* from) {
    HalfBits half;
    __builtin_memcpy(&half, from, sizeof half);
    const Bits bits = __builtin_convertvector(half, Bits), rest = bits & 0x7fffu;
    const Bits normal = (Bits)((Vector<float>)((rest << 13) + 0x70000000u) * 0x1p-112f);
    const Bits subnormal = (Bits)((Vector<float>)(rest | 0x3f000000u) - 0.5f);
    vector = (Vector<float>)((bits & 0x8000u) << 16 | (rest < 0x400u ? subnormal : normal));
  }
  static PYSR_INLINE void store(Float16* to, const Vector<float>& vector) {
    const Bits bits = (Bits)vector, rest = bits & 0x7fffffffu;
    const Bits normal = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    const Bits subnormal = (Bits)((Vector<float>)rest + 0.5f) - 0x3f000000u;
    Bits whole = rest < 0x38800000u ? subnormal : normal;
    whole = rest >= 0x47800000u ? Bits{} + 0x7c00u : whole;
    whole = rest > 0x7f800000u ? Bits{} + 0x7e00u : whole;
    const HalfBits half = __builtin_convertvector((bits >> 16 & 0x8000u) | whole, HalfBits);
    __builtin_memcpy(to, &half, sizeof half);
  }
};

// Unaligned, from and to storage types.
template <class S>
PYSR_INLINE void load_widened(Vector<Accumulator<S>>& vector, const S* from) {
  Storage<S>::load(vector, from);
}
template <class S>
PYSR_INLINE void store_narrowed(S* to, const Vector<Accumulator<S>>& vector) {
  Storage<S>::store(to, vector);
}

}  // namespace
}  // namespace PYSR_ISA
}  // namespace pysr
