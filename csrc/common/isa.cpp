#include "common/isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#ifdef PYSR_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pysr {
namespace {

#ifdef PYSR_AMX
// Linux grants a process the tile registers' state when it is asked.
bool matrix_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
bool matrix_tiles() { return false; }
#endif

}  // namespace

const char* name(Isa isa) {
  static const char* const names[] = {"baseline", "avx2", "avx512", "amx"};
  return names[static_cast<int>(isa)];
}

Isa supported_isa() {
#ifdef PYSR_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
  if (!__builtin_cpu_supports("avx512f")) return Isa::avx2;
  return matrix_tiles() ? Isa::amx : Isa::avx512;
#else
  return Isa::baseline;
#endif
}

Isa isa() {
  static const Isa chosen = [] {
    const char* wish = std::getenv("PYSR_ISA");
    if (wish == nullptr || *wish == '\0') return supported_isa();
    for (Isa each : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::amx}) {
      if (std::strcmp(wish, name(each)) == 0) return std::min(supported_isa(), each);
    }
    throw std::invalid_argument("PYSR_ISA: expected baseline, avx2, avx512 or amx, got " +
                                std::string(wish));
  }();
  return chosen;
}

}  // namespace pysr
