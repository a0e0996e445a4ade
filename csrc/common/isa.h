// Which build of the inner loops runs on this processor.
//
// The loops are compiled once per instruction set and chosen at run time, so that one binary serves
// every x86-64 machine. The environment variable PYSR_ISA (baseline, avx2, avx512, amx) lowers the
// choice; another value is an error. With amx the loops are those of avx512, and what can works on
// matrix tiles in bfloat16.
#pragma once

namespace pysr {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2, amx = 3 };

Isa isa();            // the one in use
Isa supported_isa();  // the best that this processor and this build offer
const char* name(Isa isa);

// Returns what the build for this processor's instruction set of a function gives.
#ifdef PYSR_X86
#define PYSR_PICK_ISA(call)                          \
  do {                                               \
    if (isa() >= Isa::avx512) return avx512::call;   \
    if (isa() == Isa::avx2) return avx2::call;       \
    return baseline::call;                           \
  } while (false)
#else
#define PYSR_PICK_ISA(call) return baseline::call
#endif

}  // namespace pysr
