// Scratch memory of the CPU kernels, and rows moved between storage and accumulation types.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

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

// Asks for large pages under memory that is about to be written from end to end. A new tensor's
// pages are mapped as they are first touched, 4 KiB at a time, which can take as long as the work
// itself; Linux grants 2 MiB at a time where it is asked to. Elsewhere, and for less, does nothing.
inline void prefer_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  const uintptr_t first = reinterpret_cast<uintptr_t>(memory), end = first + bytes;
  const uintptr_t aligned = (first + page - 1) / page * page;
  if (aligned + page > end) return;
  // Advice: a refusal costs nothing but time.
  (void)madvise(reinterpret_cast<void*>(aligned), (end - aligned) / page * page, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

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
