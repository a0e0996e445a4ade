#include "common/isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace pysr {

const char* name(Isa isa) {
  static const char* const names[] = {"baseline", "avx2", "avx512"};
  return names[static_cast<int>(isa)];
}

Isa supported_isa() {
#ifdef PYSR_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
  return __builtin_cpu_supports("avx512f") ? Isa::avx512 : Isa::avx2;
#else
  return Isa::baseline;
#endif
}

Isa isa() {
  static const Isa chosen = [] {
    Isa best = supported_isa();
    const char* wish = std::getenv("PYSR_ISA");
    for (Isa each : {Isa::baseline, Isa::avx2}) {
      if (wish != nullptr && std::strcmp(wish, name(each)) == 0) best = std::min(best, each);
    }
    return best;
  }();
  return chosen;
}

}  // namespace pysr
