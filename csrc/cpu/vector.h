// Vectors of the instruction set that a file is compiled for, as GCC's and Clang's vector types.
//
// Only for X_tile.cpp files: CMake compiles them once per instruction set, and all that they define
// lies in the namespace PYSR_ISA.
#pragma once

#include <cstddef>
#include <utility>

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

// Every second group of H lanes of a with those of b: the first ones of each pair, or the second.
template <class T, int H, bool Second, int... Lane>
PYSR_INLINE void mix_lanes(Vector<T>& mixed, const Vector<T>& a, const Vector<T>& b,
                           std::integer_sequence<int, Lane...>) {
  mixed = __builtin_shufflevector(
      a, b, (Lane & H ? kLanes<T> + Lane - (Second ? 0 : H) : Lane + (Second ? H : 0))...);
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

}  // namespace
}  // namespace PYSR_ISA
}  // namespace pysr
