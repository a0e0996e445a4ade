// See basis_svconv_tile.h. A block is a few taps of one tap row over a few vectors of outputs. Its
// kernels, one number per tap and output, are built in registers as a small matrix product of the
// bases' taps and the coefficients, and used up from there; the gradients by coefficients and bases
// do the same with what the kernels' gradient would be.
#include "cpu/basis_svconv_tile.h"

#include "cpu/vector.h"

namespace pysr {
namespace PYSR_ISA {
namespace {

// Blocks sized so that their numbers, a vector of operands and one broadcast fill the registers.
constexpr int kTaps = PYSR_REGISTERS == 32 ? 8 : 4;
constexpr int kVectors = PYSR_REGISTERS == 32 ? 3 : 2;
constexpr int kBases = kVectors;
constexpr int kStrides = 4;
// A run of this many vectors goes through all taps before the next: its share of the coefficients
// stays in the first-level cache.
constexpr int kRunVectors = 24;
constexpr int kRunCoefficients = 192;

template <int N>
struct Size {
  static constexpr int value = N;
};

// Calls f(Size<n>{}), for n from 1 to Most.
template <int Most, class F>
PYSR_INLINE void pick(int n, F&& f) {
  if (n == Most) {
    f(Size<Most>{});
  } else if constexpr (Most > 1) {
    pick<Most - 1>(n, f);
  }
}

// Cuts a length into pieces that are about equal and no longer than `most`: the first `longer` ones
// have size + 1.
struct Pieces {
  int count, size, longer;
  Pieces(int length, int most)
      : count((length + most - 1) / most), size(length / count), longer(length % count) {}
};

// Calls f(first, size) for every piece.
template <class F>
PYSR_INLINE void in_pieces(int length, int most, F&& f) {
  const Pieces pieces(length, most);
  for (int piece = 0, first = 0; piece < pieces.count; ++piece) {
    const int size = pieces.size + (piece < pieces.longer);
    f(first, size);
    first += size;
  }
}

// A block: taps v, v + 1, ... of tap row u over output vectors q, q + 1, ...
struct Place {
  int u, v, q;
};

template <class T>
PYSR_INLINE const T* taps_at(const BasisRow<T>& job, const Place& at) {
  return job.taps + at.u * job.k + at.v;
}
template <class T>
PYSR_INLINE T* in_at(const BasisRow<T>& job, const Place& at) {
  return job.in[at.u] + (job.stride * at.q + at.v) * kLanes<T>;
}

template <class T, int B, int V>
PYSR_INLINE void mix_kernels(const BasisRow<T>& job, const Place& at, Vector<T> (&kernel)[B][V]) {
  PYSR_UNROLL
  for (int t = 0; t < B; ++t) {
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) kernel[t][x] = Vector<T>{};
  }
  const T* taps = taps_at(job, at);
  const T* coefficients = job.coefficients + at.q * kLanes<T>;
  for (int m = 0; m < job.bases; ++m) {
    Vector<T> coefficient[V];
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) load<T>(coefficient[x], coefficients + x * kLanes<T>);
    PYSR_UNROLL
    for (int t = 0; t < B; ++t) {
      const T tap = taps[t];
      PYSR_UNROLL
      for (int x = 0; x < V; ++x) kernel[t][x] += coefficient[x] * tap;
    }
    taps += job.k * job.k;
    coefficients += job.vectors * kLanes<T>;
  }
}

// The gradient by the kernels.
template <class T, int B, int V>
PYSR_INLINE void kernel_slopes(const BasisRow<T>& job, const Place& at, Vector<T> (&slope)[B][V]) {
  PYSR_UNROLL
  for (int t = 0; t < B; ++t) {
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) slope[t][x] = Vector<T>{};
  }
  const T* in = in_at(job, at);
  const T* out = job.out + at.q * kLanes<T>;
  for (int c = 0; c < job.channels; ++c) {
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) {
      Vector<T> factor;
      load<T>(factor, out + x * kLanes<T>);
      PYSR_UNROLL
      for (int t = 0; t < B; ++t) {
        Vector<T> pixel;
        load<T>(pixel, in + (job.stride * x + t) * kLanes<T>);
        slope[t][x] += factor * pixel;
      }
    }
    in += job.in_vectors * kLanes<T>;
    out += job.vectors * kLanes<T>;
  }
}

template <class T, int B, int V>
void add_out_block(const BasisRow<T>& job, const Place& at) {
  Vector<T> kernel[B][V];
  mix_kernels<T, B, V>(job, at, kernel);
  const T* in = in_at(job, at);
  T* out = job.out + at.q * kLanes<T>;
  for (int c = 0; c < job.channels; ++c) {
    Vector<T> sum[V];
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) load<T>(sum[x], out + x * kLanes<T>);
    PYSR_UNROLL
    for (int t = 0; t < B; ++t) {
      PYSR_UNROLL
      for (int x = 0; x < V; ++x) {
        Vector<T> pixel;
        load<T>(pixel, in + (job.stride * x + t) * kLanes<T>);
        sum[x] += kernel[t][x] * pixel;
      }
    }
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) store<T>(out + x * kLanes<T>, sum[x]);
    in += job.in_vectors * kLanes<T>;
    out += job.vectors * kLanes<T>;
  }
}

// A pixel that several taps of the block lie over is loaded and stored once: the stride is known to
// the compiler.
template <class T, int B, int V, int S>
void add_in_block(const BasisRow<T>& job, const Place& at) {
  Vector<T> kernel[B][V];
  mix_kernels<T, B, V>(job, at, kernel);
  T* in = in_at(job, at);
  const T* out = job.out + at.q * kLanes<T>;
  for (int c = 0; c < job.channels; ++c) {
    Vector<T> factor[V];
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) load<T>(factor[x], out + x * kLanes<T>);
    PYSR_UNROLL
    for (int pixel = 0; pixel < B + S * (V - 1); ++pixel) {
      Vector<T> sum;
      load<T>(sum, in + pixel * kLanes<T>);
      PYSR_UNROLL
      for (int x = 0; x < V; ++x) {
        const int t = pixel - S * x;
        if (t >= 0 && t < B) sum += kernel[t][x] * factor[x];
      }
      store<T>(in + pixel * kLanes<T>, sum);
    }
    in += job.in_vectors * kLanes<T>;
    out += job.vectors * kLanes<T>;
  }
}

template <class T, int B, int V>
void add_coefficients_block(const BasisRow<T>& job, const Place& at) {
  Vector<T> slope[B][V];
  kernel_slopes<T, B, V>(job, at, slope);
  const T* taps = taps_at(job, at);
  T* coefficients = job.coefficients + at.q * kLanes<T>;
  for (int m = 0; m < job.bases; ++m) {
    Vector<T> sum[V];
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) load<T>(sum[x], coefficients + x * kLanes<T>);
    PYSR_UNROLL
    for (int t = 0; t < B; ++t) {
      const T tap = taps[t];
      PYSR_UNROLL
      for (int x = 0; x < V; ++x) sum[x] += slope[t][x] * tap;
    }
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) store<T>(coefficients + x * kLanes<T>, sum[x]);
    taps += job.k * job.k;
    coefficients += job.vectors * kLanes<T>;
  }
}

// The kernels' gradient, stored as (B, count) from vector `at` of the run on.
template <class T, int B, int V>
void store_slopes(const BasisRow<T>& job, const Place& at, T* slopes, int count) {
  Vector<T> slope[B][V];
  kernel_slopes<T, B, V>(job, at, slope);
  PYSR_UNROLL
  for (int t = 0; t < B; ++t) {
    PYSR_UNROLL
    for (int x = 0; x < V; ++x) store<T>(slopes + (t * count + x) * kLanes<T>, slope[t][x]);
  }
}

// Adds to the sums of M bases from m on what a run's slopes give.
template <class T, int B, int M>
void add_products(const BasisRow<T>& job, const Place& at, int m, const T* slopes, int count) {
  T* sums = job.tap_sums + ((m * job.k + at.u) * job.k + at.v) * kLanes<T>;
  const ptrdiff_t sums_step = ptrdiff_t{job.k} * job.k * kLanes<T>;
  const T* coefficients = job.coefficients + (ptrdiff_t{m} * job.vectors + at.q) * kLanes<T>;
  const ptrdiff_t step = ptrdiff_t{job.vectors} * kLanes<T>;
  Vector<T> sum[M][B];
  PYSR_UNROLL
  for (int b = 0; b < M; ++b) {
    PYSR_UNROLL
    for (int t = 0; t < B; ++t) sum[b][t] = Vector<T>{};
  }
  for (int x = 0; x < count; ++x) {
    Vector<T> coefficient[M], slope;
    PYSR_UNROLL
    for (int b = 0; b < M; ++b) load<T>(coefficient[b], coefficients + b * step + x * kLanes<T>);
    PYSR_UNROLL
    for (int t = 0; t < B; ++t) {
      load<T>(slope, slopes + (t * count + x) * kLanes<T>);
      PYSR_UNROLL
      for (int b = 0; b < M; ++b) sum[b][t] += coefficient[b] * slope;
    }
  }
  PYSR_UNROLL
  for (int b = 0; b < M; ++b) {
    PYSR_UNROLL
    for (int t = 0; t < B; ++t) {
      T* const to = sums + b * sums_step + t * kLanes<T>;
      Vector<T> total;
      load<T>(total, to);
      total += sum[b][t];
      store<T>(to, total);
    }
  }
}

// Calls f(at, taps, vectors) for every tap block over every run.
template <class T, class F>
PYSR_INLINE void for_runs(const BasisRow<T>& job, F&& f) {
  int most = kRunCoefficients / job.bases;
  if (most > kRunVectors) most = kRunVectors;
  in_pieces(job.vectors, most, [&](int q, int vectors) {
    for (int u = job.first; u < job.last; ++u) {
      in_pieces(job.k, kTaps, [&](int v, int taps) { f(Place{u, v, q}, taps, vectors); });
    }
  });
}

// Calls f(at, Size<width>{}) for every block of a run, `vectors` from `run` on.
template <class F>
PYSR_INLINE void for_blocks(const Place& run, int vectors, F&& f) {
  const Pieces pieces(vectors, kVectors);
  Place at = run;
  // Two loops whose size is known at their start, so that nothing is looked up between blocks.
  const auto blocks = [&](int count, int size) {
    if (count == 0) return;
    pick<kVectors>(size, [&](auto width) {
      for (int block = 0; block < count; ++block) {
        f(at, width);
        at.q += decltype(width)::value;
      }
    });
  };
  blocks(pieces.longer, pieces.size + 1);
  blocks(pieces.count - pieces.longer, pieces.size);
}

template <class T>
void add_out(const BasisRow<T>& job) {
  for_runs(job, [&](const Place& run, int taps, int vectors) {
    pick<kTaps>(taps, [&](auto b) {
      for_blocks(run, vectors, [&](const Place& at, auto v) {
        add_out_block<T, decltype(b)::value, decltype(v)::value>(job, at);
      });
    });
  });
}

template <class T>
void add_in(const BasisRow<T>& job) {
  pick<kStrides>(job.stride, [&](auto s) {
    for_runs(job, [&](const Place& run, int taps, int vectors) {
      pick<kTaps>(taps, [&](auto b) {
        for_blocks(run, vectors, [&](const Place& at, auto v) {
          add_in_block<T, decltype(b)::value, decltype(v)::value, decltype(s)::value>(job, at);
        });
      });
    });
  });
}

template <class T>
void add_coefficients(const BasisRow<T>& job) {
  for_runs(job, [&](const Place& run, int taps, int vectors) {
    pick<kTaps>(taps, [&](auto b) {
      for_blocks(run, vectors, [&](const Place& at, auto v) {
        add_coefficients_block<T, decltype(b)::value, decltype(v)::value>(job, at);
      });
    });
  });
}

template <class T>
void add_tap_sums(const BasisRow<T>& job) {
  alignas(PYSR_VECTOR_BYTES) T slopes[kTaps * kRunVectors * kLanes<T>];
  for_runs(job, [&](const Place& run, int taps, int vectors) {
    pick<kTaps>(taps, [&](auto b) {
      constexpr int B = decltype(b)::value;
      for_blocks(run, vectors, [&](const Place& at, auto v) {
        store_slopes<T, B, decltype(v)::value>(job, at, slopes + (at.q - run.q) * kLanes<T>,
                                               vectors);
      });
      in_pieces(job.bases, kBases, [&](int m, int bases) {
        pick<kBases>(bases, [&](auto count) {
          add_products<T, B, decltype(count)::value>(job, run, m, slopes, vectors);
        });
      });
    });
  });
}

}  // namespace

template <class T>
BasisSvconvTile<T> basis_svconv_tile() {
  return {add_out<T>, add_in<T>, add_coefficients<T>, add_tap_sums<T>};
}

template BasisSvconvTile<float> basis_svconv_tile<float>();
template BasisSvconvTile<double> basis_svconv_tile<double>();

}  // namespace PYSR_ISA
}  // namespace pysr
