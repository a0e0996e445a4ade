// The tensor cores and what feeds them, as on every GPU from sm_80 on; tests/native emulates it.
//
// copy_async and load_pixels move 16 bytes at 16-byte addresses. All lanes of a warp call
// load_pixels and multiply_add together, and what multiply_add adds up is there after the next
// __syncthreads.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/dtype.h"
#include "common/launch.h"
#include "cuda/fragments.h"

#ifdef PYSR_CUDA_EMULATOR
#include "mma_emulator.h"
#else

namespace pysr {

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts a copy from global to shared memory, or of zeros; nothing is read where !inside.
__device__ inline void copy_async(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0)
               : "memory");
}
// Ends this thread's copies; __syncthreads then shows them to the block.
__device__ inline void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// A of 16 pixels by 16 channels from shared memory: 8 channels of every pixel side by side, the
// other 8 `plane` bytes further on. Eight pixels fill all banks once.
__device__ inline void load_pixels(uint32_t (&a)[4], const unsigned char* first, int plane) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const unsigned char* const row = first + lane / 16 * plane + lane % 16 * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += A * B
template <class S>
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same<S, BFloat16>::value) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

}  // namespace pysr
#endif
