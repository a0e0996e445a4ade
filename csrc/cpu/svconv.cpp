// Borders, types and threads of svconv; the arithmetic is in svconv_tile.cpp.
//
// A picture's kernels are hundreds of times larger than the picture: the operator is bound by
// reading them, or writing them, once. Work therefore goes by runs of rows whose pixels and sums
// stay in the second-level cache, while the run's part of every tap's plane passes by, long enough
// for the processor to fetch ahead. A thread takes some runs at once, a band, and copies every row
// into its padded form once for all of them. More channels than share a read are a second pass over
// the same band, taken right after. Bands depend on sizes alone, and every sum is taken in one
// fixed order, so the number of threads never shows in the result.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/check.h"
#include "common/dtype.h"
#include "common/index.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/memory.h"
#include "cpu/rows.h"
#include "cpu/svconv_tile.h"
#include "ops/svconv.h"

namespace pysr {
namespace {

using Params = SvconvParams;

// The rows of a run stay in the second-level cache.
constexpr int64_t kRunBytes = 768 * 1024;
// A picture falls into this many bands, unless they would be too small to be worth handing out;
// below kSerialProducts, waking a thread costs more than it saves.
constexpr int64_t kBands = 32;
constexpr int64_t kBandProducts = 1 << 21;
constexpr int64_t kSerialProducts = 1 << 18;

template <class S>
SvconvTile<S> tile_kernels() {
  PYSR_PICK_ISA(svconv_tile<S>());
}

template <class T>
struct Scratch {
  Buffer<T> line, x, out, folded;
};

int thread_count(const Params& p) {
  const int64_t products = p.n * p.c * p.ho() * p.wo() * p.k * p.k;
  return products < kSerialProducts ? 1 : std::max(p.threads, 1);
}

// Rows of a run, and of a band in whole runs.
struct Bands {
  int64_t run, band;

  // For `rows` rows, of which a run takes `fixed` bytes and `each` more for every row.
  Bands(const Params& p, int64_t rows, int64_t fixed, int64_t each) {
    const int64_t products = p.wo() * p.k * p.k * p.c;
    const int64_t wanted =
        std::clamp(std::max(rows / kBands, kBandProducts / products), int64_t{1}, rows);
    run = std::clamp((kRunBytes - fixed) / each, int64_t{1}, wanted);
    band = wanted / run * run;
  }
};

template <class S>
S* plane(void* base, const int64_t (&stride)[4], int64_t sample, int64_t channel) {
  return static_cast<S*>(base) + sample * stride[0] + channel * stride[1];
}

template <class S>
S* tap_plane(const Params& p, int64_t sample, int64_t u, int64_t v) {
  return static_cast<S*>(p.kernels) + sample * p.kernels_stride[0] + u * p.kernels_stride[1] +
         v * p.kernels_stride[2];
}

// Some rows of output and channels of one sample, from `top` and `first` on.
template <class S>
struct Run {
  TapRows<S> job;  // x: the padded rows that tap row 0 meets; out: as long as its steps say
  int64_t sample, first, top, x_row;
};

// Calls work(run, padder) for all runs, each with at most `shared` channels.
template <class S, class F>
void each_run(const Params& p, int64_t shared, F&& work) {
  using T = Accumulator<S>;
  const PaddedRows<S> padder(p, p.x_stride[2], p.x_stride[3]);
  const int64_t ho = p.ho(), width = padder.width(), length = padder.row_length();
  const int64_t passes = ceil_div(p.c, shared), row_bytes = shared * length * sizeof(T);
  const Bands rows(p, ho, row_bytes * (p.k - 1),
                   row_bytes * p.stride + shared * width * sizeof(T));
  const int64_t bands = ceil_div(ho, rows.band), padded_rows = p.stride * (rows.band - 1) + p.k;
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(p.n * bands * passes, thread_count(p), [&](int64_t item, int worker) {
    T* const line = scratch[worker].line.get(padder.line_length());
    T* const x = scratch[worker].x.get(shared * padded_rows * length);
    const int64_t begin = item / passes % bands * rows.band;
    const int64_t end = std::min(begin + rows.band, ho);
    Run<S> run{};
    run.sample = item / passes / bands;
    run.first = item % passes * shared;
    run.x_row = length;
    TapRows<S>& job = run.job;
    job.x_step = padded_rows * length;
    job.x_row = p.stride * length;
    job.kernels_step = p.kernels_stride[2];
    job.kernels_row = p.kernels_stride[3];
    job.out = scratch[worker].out.get(shared * rows.run * width);
    job.out_step = rows.run * width;
    job.out_row = width;
    job.channels = static_cast<int>(std::min(shared, p.c - run.first));
    job.width = static_cast<int>(p.wo());
    int64_t filled = 0;
    for (run.top = begin; run.top < end; run.top += rows.run) {
      job.rows = static_cast<int>(std::min(rows.run, end - run.top));
      const int64_t offset = p.stride * (run.top - begin);
      const int64_t needed = offset + p.stride * (job.rows - 1) + p.k;
      for (int64_t c = 0; c < job.channels; ++c) {
        padder.fill(plane<S>(p.x, p.x_stride, run.sample, run.first + c),
                    p.stride * begin + filled, needed - filled, line,
                    x + (c * padded_rows + filled) * length);
      }
      filled = needed;
      job.x = x + offset * length;
      work(run, padder);
    }
  });
}

template <class S>
void forward(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<S>();
  const int64_t ho = p.ho(), wo = p.wo(), shared = std::min<int64_t>(p.c, kSvconvChannels);
  each_run<S>(p, shared, [&](const Run<S>& run, const PaddedRows<S>& padder) {
    TapRows<S> job = run.job;
    std::fill_n(job.out, job.channels * job.out_step, T{0});
    for (int64_t u = 0; u < p.k; ++u) {
      job.x = run.job.x + u * run.x_row;
      for (int64_t v = 0; v < p.k; v += kSvconvTaps) {
        job.kernels = tap_plane<S>(p, run.sample, u, v) + run.top * p.kernels_stride[3];
        job.offset = padder.offset() + v;
        job.taps = static_cast<int>(std::min<int64_t>(kSvconvTaps, p.k - v));
        tile.add_to_out(job);
      }
    }
    for (int64_t c = 0; c < job.channels; ++c) {
      S* out = static_cast<S*>(p.out) + ((run.sample * p.c + run.first + c) * ho + run.top) * wo;
      for (int64_t i = 0; i < job.rows; ++i) {
        narrow_row<S>(job.out + c * job.out_step + i * job.out_row, out + i * wo, wo);
      }
    }
  });
}

// Written whole by one pass over all channels, so that half types are rounded once.
template <class S>
void grad_kernels(const Params& p) {
  const auto tile = tile_kernels<S>();
  const int64_t wo = p.wo();
  each_run<S>(p, p.c, [&](const Run<S>& run, const PaddedRows<S>& padder) {
    TapRows<S> job = run.job;
    for (int64_t c = 0; c < job.channels; ++c) {
      const S* g = plane<S>(p.out, p.out_stride, run.sample, c) + run.top * p.out_stride[2];
      for (int64_t i = 0; i < job.rows; ++i) {
        widen_row(g + i * p.out_stride[2], p.out_stride[3],
                  job.out + c * job.out_step + i * job.out_row, wo);
      }
    }
    job.taps = 1;
    for (int64_t u = 0; u < p.k; ++u) {
      job.x = run.job.x + u * run.x_row;
      for (int64_t v = 0; v < p.k; ++v) {
        job.kernels = tap_plane<S>(p, run.sample, u, v) + run.top * p.kernels_stride[3];
        job.offset = padder.offset() + v;
        tile.write_kernels(job);
      }
    }
  });
}

// Every row of the padded picture gathers the tap rows and outputs that met it, and is then folded
// back over the borders. A band holds the pixels of some rows, and takes the padded rows that
// showed them; columns are kept by phase (their remainder modulo the stride), in which the taps of
// a phase lie side by side.
template <class S>
void grad_x(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<S>();
  const RowKernels<T> rows_of = row_kernels<T>();
  const int64_t s = p.stride, k = p.k, ho = p.ho(), wo = p.wo(), lanes = tile.lanes;
  const int64_t part = round_up(wo + (k - 1) / s, lanes) + lanes, length = s * part;
  const int64_t reach = round_up(kSvconvTaps - 1, lanes);  // of the taps, beyond a row's ends
  const int64_t slope_length = round_up(wo, lanes) + 2 * reach;
  const int64_t shared = std::min<int64_t>(p.c, kSvconvChannels), passes = ceil_div(p.c, shared);

  const int64_t slope_bytes = shared * slope_length * sizeof(T);
  const Bands rows(p, p.h, slope_bytes * ceil_div(k, s),
                   shared * length * sizeof(T) + ceil_div(slope_bytes, s));
  const int64_t bands = ceil_div(p.h, rows.band), longest = rows.band + k;
  const int64_t slope_rows = ceil_div(longest + k, s) + 1;
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(p.n * bands * passes, thread_count(p), [&](int64_t item, int worker) {
    T* const line = scratch[worker].line.get(length);
    T* const x = scratch[worker].x.get(shared * rows.run * length);
    T* const slope = scratch[worker].out.get(shared * slope_rows * slope_length);
    T* const folded = scratch[worker].folded.get(shared * rows.band * p.w);
    const int64_t first = item % passes * shared, top = item / passes % bands * rows.band;
    const int64_t sample = item / passes / bands;
    const int64_t channels = std::min(shared, p.c - first), count = std::min(rows.band, p.h - top);
    std::fill_n(folded, channels * rows.band * p.w, T{0});
    std::fill_n(slope, channels * slope_rows * slope_length, T{0});
    TapRows<S> job{};
    job.x_step = rows.run * length;
    job.x_row = s * length;
    job.kernels_step = s * p.kernels_stride[2];
    job.kernels_row = p.kernels_stride[3];
    job.out_step = slope_rows * slope_length;
    job.out_row = slope_length;
    job.channels = static_cast<int>(channels);
    job.width = static_cast<int>(wo);

    // Padded rows low .. high - 1, given the outputs' slopes from row `begin` to before `end`.
    const auto work = [&](int64_t low, int64_t high, int64_t begin, int64_t end) {
      std::fill_n(x, channels * rows.run * length, T{0});
      for (int64_t u = 0; u < k; ++u) {
        // Tap row u of output i lies over padded row s * i + u.
        const int64_t i = std::max(begin, low > u ? ceil_div(low - u, s) : 0);
        const int64_t last = high > u ? std::min(end, ceil_div(high - u, s)) : 0;
        if (i >= last) continue;
        job.rows = static_cast<int>(last - i);
        job.out = slope + (i - begin) * slope_length + reach;
        for (int64_t phase = 0; phase < p.phases(); ++phase) {
          const int64_t taps = phase_count(k, phase, s);
          for (int64_t t = 0; t < taps; t += kSvconvTaps) {
            job.x = x + (s * i + u - low) * length + phase * part + t;
            job.kernels = tap_plane<S>(p, sample, u, phase + t * s) + i * p.kernels_stride[3];
            job.taps = static_cast<int>(std::min<int64_t>(kSvconvTaps, taps - t));
            tile.add_to_x(job);
          }
        }
      }
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t r = low; r < high; ++r) {
          const T* row = x + (c * rows.run + r - low) * length;
          if (s > 1) {
            rows_of.merge(line, row, static_cast<int>(s), part, part);
            row = line;
          }
          fold_row(p, row, folded + (c * rows.band + p.row(r) - top) * p.w);
        }
      }
    };
    const auto in_band = [&](int64_t r) {
      const int64_t y = p.row(r);
      return y >= top && y < top + count;
    };
    for (int64_t r = 0; r < p.padded_h(); ++r) {
      if (!in_band(r)) continue;
      int64_t last = r + 1;
      while (last < p.padded_h() && last - r < longest && in_band(last)) ++last;
      const int64_t begin = r < k ? 0 : ceil_div(r - k + 1, s);
      for (int64_t filled = begin; r < last; r += rows.run) {
        const int64_t high = std::min(r + rows.run, last), end = std::min((high - 1) / s + 1, ho);
        for (int64_t c = 0; c < channels; ++c) {
          const S* from = plane<S>(p.out, p.out_stride, sample, first + c);
          T* to = slope + c * slope_rows * slope_length + reach;
          for (int64_t i = filled; i < end; ++i) {
            widen_row(from + i * p.out_stride[2], p.out_stride[3], to + (i - begin) * slope_length,
                      wo);
          }
        }
        filled = end;
        work(r, high, begin, end);
      }
      r = last - 1;
    }
    for (int64_t c = 0; c < channels; ++c) {
      S* to = static_cast<S*>(p.x) + ((sample * p.c + first + c) * p.h + top) * p.w;
      narrow_row<S>(folded + c * rows.band * p.w, to, count * p.w);
    }
  });
}

void check_params(const Params& p) {
  check(p.valid(), "svconv: sizes, kernel size, stride or pointers out of range");
}

}  // namespace

void svconv_cpu(const SvconvParams& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { forward<typename decltype(type)::type>(p); });
}

void svconv_grad_x_cpu(const SvconvParams& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { grad_x<typename decltype(type)::type>(p); });
}

void svconv_grad_kernels_cpu(const SvconvParams& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { grad_kernels<typename decltype(type)::type>(p); });
}

}  // namespace pysr
