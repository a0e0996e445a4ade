// Scratch memory of the CPU kernels, and rows moved between storage and accumulation types.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "common/dtype.h"

namespace pysr {

constexpr std::align_val_t kCacheLine{64};

struct FreeCacheLines {
  void operator()(void* memory) const { operator delete(memory, kCacheLine); }
};

// Memory of one worker, taken once and kept from item to item: uninitialised, aligned to a vector.
// Every call must ask for the same count.
template <class T>
class Buffer {
 public:
  T* get(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (!data_) data_.reset(static_cast<T*>(operator new(bytes, kCacheLine)));
    return data_.get();
  }

 private:
  std::unique_ptr<T, FreeCacheLines> data_;
};

// count numbers from every step-th place on.
template <class S>
void widen_row(const S* from, int64_t step, Accumulator<S>* to, int64_t count) {
  if constexpr (std::is_same<S, Accumulator<S>>::value) {
    if (step == 1) {
      std::copy_n(from, count, to);
      return;
    }
  }
  if (step == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i * step]);
  }
}

template <class S>
void narrow_row(const Accumulator<S>* from, S* to, int64_t count) {
  if constexpr (std::is_same<S, Accumulator<S>>::value) {
    std::copy_n(from, count, to);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = Narrow<S>::from(from[i]);
  }
}

}  // namespace pysr
