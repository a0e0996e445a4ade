// The tensor core instructions of csrc/cuda/mma.cuh under the emulator.
//
// Everything happens as late as the hardware may let it: copies arrive when they are waited for,
// and a product is added when the last lane of its warp has asked for it, so that a missing wait
// or barrier shows up as a wrong result.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <vector>

#include "common/dtype.h"
#include "cuda/fragments.h"
#include "cuda_emulator.h"

namespace emulator {

struct Copy {
  void* to;
  const void* from;  // null for zeros
};
// What one lane brings to a product.
struct Operands {
  float* c;
  uint32_t a[4], b[2];
};
struct Product {
  std::array<Operands, pysr::kLanes> lanes;
  int present = 0;
};
struct Warp {
  std::deque<Product> products;  // those that lanes still miss from
  std::array<size_t, pysr::kLanes> asked{};
  size_t done = 0;
};
inline std::map<size_t, std::vector<Copy>> copies;  // by thread
inline std::map<size_t, Warp> warps;

inline size_t thread() { return static_cast<size_t>(state.current - state.fibres.data()); }

template <class S>
float half_of(const uint32_t* registers, int i) {
  return pysr::widen(S{static_cast<uint16_t>(registers[i / 2] >> (i % 2 * 16))});
}

template <class S>
void multiply(const Product& product) {
  float a[16][16], b[8][16];  // b by columns
  for (int lane = 0; lane < pysr::kLanes; ++lane) {
    const Operands& given = product.lanes[lane];
    for (int i = 0; i < 8; ++i) {
      const pysr::Element at = pysr::a_element(lane, i);
      a[at.row][at.column] = half_of<S>(given.a, i);
    }
    for (int i = 0; i < 4; ++i) {
      const pysr::Element at = pysr::b_element(lane, i);
      b[at.column][at.row] = half_of<S>(given.b, i);
    }
  }
  for (int lane = 0; lane < pysr::kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const pysr::Element at = pysr::c_element(lane, i);
      float& sum = product.lanes[lane].c[i];
      sum = std::inner_product(a[at.row], a[at.row] + 16, b[at.column], sum);
    }
  }
}

}  // namespace emulator

// Lanes need not meet here: a product waits for all of them.
inline void __syncwarp() {}

namespace pysr {

inline void copy_async(void* to, const void* from, bool inside) {
  const auto unaligned = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 != 0; };
  if (unaligned(to) || unaligned(from)) {
    std::fprintf(stderr, "mma_emulator: a copy of 16 bytes at an odd address\n");
    std::abort();
  }
  emulator::copies[emulator::thread()].push_back({to, inside ? from : nullptr});
}

inline void wait_copies() {
  std::vector<emulator::Copy>& started = emulator::copies[emulator::thread()];
  for (const emulator::Copy& copy : started) {
    if (copy.from == nullptr) std::memset(copy.to, 0, 16);
    else std::memcpy(copy.to, copy.from, 16);
  }
  started.clear();
}

inline void load_pixels(uint32_t (&a)[4], const unsigned char* first, int plane) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int i = 0; i < 8; i += 2) {
    const Element at = a_element(lane, i);
    std::memcpy(&a[i / 2], first + at.column / 8 * plane + at.row * 16 + at.column % 8 * 2, 4);
  }
}

template <class S>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const size_t lane = emulator::thread() % kLanes;
  emulator::Warp& warp = emulator::warps[emulator::thread() / kLanes];
  const size_t mine = warp.asked[lane]++ - warp.done;
  if (mine == warp.products.size()) warp.products.emplace_back();
  emulator::Product& product = warp.products[mine];
  product.lanes[lane] = {c, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  if (++product.present < kLanes) return;
  emulator::multiply<S>(product);
  warp.products.pop_front();
  ++warp.done;
}

}  // namespace pysr
