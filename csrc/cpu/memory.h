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

// Memory for the length of one call, uninitialised, aligned to a vector. A thread keeps the largest
// block of up to kKept bytes for its next call, until any thread releases those of all: fresh
// memory comes page by page from the system, which takes as long as a good part of an operator's
// arithmetic.
// kKept is what a conditional block of the published DAN takes for a tile of 768x768 pixels.
class CallMemory {
 public:
  static constexpr size_t kKept = 256 << 20;

  struct Block {
    std::unique_ptr<void, FreeCacheLines> data;
    size_t bytes = 0;
  };

  explicit CallMemory(size_t bytes);
  ~CallMemory();
  CallMemory(const CallMemory&) = delete;
  CallMemory& operator=(const CallMemory&) = delete;
  void* data() const { return block_.data.get(); }
  static void release();  // what threads keep and do not use

 private:
  Block block_;
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
