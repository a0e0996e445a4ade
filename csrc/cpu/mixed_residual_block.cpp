// mixed_residual_block where the processor and this build have matrix tiles; see amx.h.
#include <cstdint>
#include <stdexcept>

#include "common/check.h"
#include "common/isa.h"
#include "ops/mixed_residual_block.h"

namespace pysr {

#ifdef PYSR_AMX
void mixed_residual_block_amx(const MixedResidualBlockParams& p);
void mixed_residual_block_grad_amx(const MixedResidualBlockGradParams& p);
int64_t mixed_residual_block_hidden_amx(int64_t h, int64_t w, int64_t channels);
#define PYSR_BY_AMX(call) \
  if (isa() == Isa::amx) return call
#else
#define PYSR_BY_AMX(call) (void)0
#endif

namespace {

[[noreturn]] void no_tiles() {
  throw std::runtime_error("mixed_residual_block: this processor or build has no matrix tiles (AMX)");
}

}  // namespace

void mixed_residual_block_cpu(const MixedResidualBlockParams& p) {
  check(p.valid(), "mixed_residual_block: sizes or pointers out of range");
  PYSR_BY_AMX(mixed_residual_block_amx(p));
  no_tiles();
}

void mixed_residual_block_grad_cpu(const MixedResidualBlockGradParams& p) {
  check(p.valid(), "mixed_residual_block_grad: sizes or pointers out of range");
  PYSR_BY_AMX(mixed_residual_block_grad_amx(p));
  no_tiles();
}

int64_t mixed_residual_block_hidden([[maybe_unused]] int64_t h, [[maybe_unused]] int64_t w,
                                    [[maybe_unused]] int64_t channels) {
  PYSR_BY_AMX(mixed_residual_block_hidden_amx(h, w, channels));
  no_tiles();
}

}  // namespace pysr
