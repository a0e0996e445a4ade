// Runs a CUDA source on a processor, so that ASan and UBSan can watch it and no GPU is needed.
//
// Every thread of a block is a fibre (ucontext) on one host thread, switched at __syncthreads.
// Shared memory is a heap block of exactly the size launched with, so that a read past its end is
// caught. Fibres run in ascending order up to one barrier and in descending order up to the next,
// so that a missing barrier shows up as a wrong result. Warps are emulated by mma_emulator.h alone;
// streams and atomics are not.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define PYSR_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(emulator::state.shared)

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = struct CUstream_st*;

namespace emulator {

constexpr size_t kStack = 256 * 1024;

struct Fibre {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStack);
  dim3 index;
  bool finished = false;
  void* fake_stack = nullptr;
};

struct State {
  std::vector<Fibre> fibres;  // at least as many as threads
  size_t threads = 0;
  Fibre* current = nullptr;
  ucontext_t scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_size = 0;
  unsigned char* shared = nullptr;
  std::function<void()> kernel;
};
inline State state;
inline dim3 block_index, block_size, grid_size;

// ASan must be told of every change of stack.
inline void leave(void** fake_stack, const void* stack, size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake_stack, stack, size);
#else
  (void)fake_stack, (void)stack, (void)size;
#endif
}
inline void arrive(void* fake_stack, const void** stack, size_t* size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, stack, size);
#else
  (void)fake_stack, (void)stack, (void)size;
#endif
}

inline void back_to_scheduler(Fibre& fibre) {
  leave(fibre.finished ? nullptr : &fibre.fake_stack, state.scheduler_stack,
        state.scheduler_stack_size);
  swapcontext(&fibre.context, &state.scheduler);
  arrive(fibre.fake_stack, &state.scheduler_stack, &state.scheduler_stack_size);
}

inline void fibre_main() {
  arrive(nullptr, &state.scheduler_stack, &state.scheduler_stack_size);
  state.kernel();
  state.current->finished = true;
  back_to_scheduler(*state.current);
}

inline void start(Fibre& fibre, unsigned thread) {
  fibre.index = dim3(thread % block_size.x, thread / block_size.x % block_size.y,
                     thread / block_size.x / block_size.y);
  fibre.finished = false;
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack.data();
  fibre.context.uc_stack.ss_size = kStack;
  makecontext(&fibre.context, fibre_main, 0);
}

inline void run_block() {
  for (size_t t = 0; t < state.threads; ++t) start(state.fibres[t], static_cast<unsigned>(t));
  size_t finished = 0;
  for (bool forwards = true; finished == 0; forwards = !forwards) {
    for (size_t t = 0; t < state.threads; ++t) {
      state.current = &state.fibres[forwards ? t : state.threads - 1 - t];
      leave(&state.scheduler_fake_stack, state.current->stack.data(), kStack);
      swapcontext(&state.scheduler, &state.current->context);
      arrive(state.scheduler_fake_stack, nullptr, nullptr);
      finished += state.current->finished;
    }
    if (finished != 0 && finished != state.threads) {
      std::fprintf(stderr, "cuda_emulator: some threads ended, others wait at a barrier\n");
      std::abort();
    }
  }
}

}  // namespace emulator

#define threadIdx (emulator::state.current->index)
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::back_to_scheduler(*emulator::state.current); }

namespace pysr {

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), int64_t blocks, dim3 threads, size_t shared, cudaStream_t,
                   A... arguments) {
  // 99 KiB is the most that every GPU from sm_80 on grants a block.
  if (blocks < 1 || blocks > INT32_MAX || shared > 99 * 1024) return cudaErrorInvalidConfiguration;
  emulator::state.threads = size_t{threads.x} * threads.y * threads.z;
  if (emulator::state.fibres.size() < emulator::state.threads) {
    emulator::state.fibres.resize(emulator::state.threads);
  }
  emulator::state.kernel = [=] { kernel(arguments...); };
  emulator::block_size = threads;
  emulator::grid_size = dim3(static_cast<unsigned>(blocks));
  for (int64_t block = 0; block < blocks; ++block) {
    emulator::block_index = dim3(static_cast<unsigned>(block), 0, 0);
    emulator::state.shared = static_cast<unsigned char*>(std::malloc(shared));
    // Shared memory starts undefined: all ones are NaN in every type.
    if (shared > 0) std::memset(emulator::state.shared, 0xff, shared);
    emulator::run_block();
    std::free(emulator::state.shared);
  }
  return cudaSuccess;
}

}  // namespace pysr
