// Memory and threads of mixed_residual_block; what it computes is in amx_mixed_residual_block.cpp.
#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "common/check.h"
#include "common/index.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/amx_blocks.h"
#include "cpu/memory.h"
#include "ops/mixed_residual_block.h"

namespace pysr {
namespace {

void need_matrix_tiles() {
  if (isa() != Isa::amx) {
    throw std::runtime_error("mixed_residual_block: no matrix tiles (AMX) on this processor");
  }
}

#ifdef PYSR_AMX
// A call's memory: `shared`, then every thread's own.
class Memory {
 public:
  Memory(int64_t shared, int64_t scratch, int threads)
      : shared_(round_up(shared, 64)), scratch_(round_up(scratch, 64)),
        memory_(static_cast<size_t>(shared_ + threads * scratch_)) {}
  void* shared() const { return memory_.data(); }
  void* scratch(int worker) const {
    return static_cast<char*>(memory_.data()) + shared_ + worker * scratch_;
  }

 private:
  const int64_t shared_, scratch_;
  const CallMemory memory_;
};

int threads_for(int64_t items, int threads) {
  return static_cast<int>(std::clamp<int64_t>(threads, 1, items));
}
#endif

}  // namespace

void mixed_residual_block_cpu(const MixedResidualBlockParams& p) {
  check(p.valid(), "mixed_residual_block: sizes or pointers out of range");
  need_matrix_tiles();
#ifdef PYSR_AMX
  const int threads = threads_for(p.n, p.threads);
  const Memory memory(amx::mixed_shared(p), amx::mixed_scratch(p), threads);
  amx::mixed_prepare(p, memory.shared());
  parallel_for(p.n, threads, [&](int64_t n, int worker) {
    amx::mixed_picture(p, n, memory.shared(), memory.scratch(worker));
  });
#endif
}

void mixed_residual_block_grad_cpu(const MixedResidualBlockGradParams& p) {
  check(p.valid(), "mixed_residual_block_grad: sizes or pointers out of range");
  need_matrix_tiles();
#ifdef PYSR_AMX
  const int64_t groups = amx::mixed_grad_groups(p);
  const int threads = threads_for(groups, p.threads);
  const Memory memory(amx::mixed_grad_shared(p), amx::mixed_grad_scratch(p), threads);
  amx::mixed_grad_prepare(p, memory.shared());
  parallel_for(groups, threads, [&](int64_t group, int worker) {
    amx::mixed_grad_group(p, group, memory.shared(), memory.scratch(worker));
  });
  amx::mixed_grad_sum(p, memory.shared());
#endif
}

int64_t mixed_residual_block_hidden([[maybe_unused]] int64_t h, [[maybe_unused]] int64_t w,
                                    [[maybe_unused]] int64_t channels) {
  need_matrix_tiles();
#ifdef PYSR_AMX
  return amx::block_hidden(h, w, channels);
#else
  return 0;
#endif
}

}  // namespace pysr
