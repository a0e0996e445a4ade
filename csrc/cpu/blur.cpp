// Borders, types and threads of blur; the arithmetic is in blur_tile.cpp.
//
// Every plane is cut into bands of rows. A band is first copied into a padded buffer in the type
// that sums are taken in, its columns sorted by their remainder modulo the stride and dealt to the
// lanes of vectors, so that the arithmetic sees neither borders, strides, half types, nor loads that
// cross cache lines. Bands depend on sizes alone, and every output is summed in one fixed order, so
// the number of threads never shows in the result.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/check.h"
#include "common/dtype.h"
#include "common/index.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/blur_tile.h"
#include "cpu/memory.h"
#include "cpu/rows.h"
#include "ops/blur.h"

namespace pysr {
namespace {

using Params = BlurParams;

// A band's buffers stay in the second-level cache, and there are about kItems bands at least for the
// threads to share; below kSerialProducts, waking a thread costs more than it saves.
constexpr int64_t kBandBytes = 768 * 1024;
constexpr int64_t kItems = 64;
constexpr int64_t kSerialProducts = 1 << 18;

template <class T>
BlurTile<T> tile_kernels() {
  PYSR_PICK_ISA(blur_tile<T>());
}

template <class T>
struct Scratch {
  Buffer<T> line, row, padded, sums, slope, parts, whole;
};

int64_t products(const Params& p) { return p.planes() * p.ho() * p.wo() * p.k * p.k; }

int thread_count(const Params& p) {
  return products(p) < kSerialProducts ? 1 : std::max(p.threads, 1);
}

// How many of a plane's rows make a band: bands of one size, in whole blocks. A band works on `halo`
// more rows than it has.
int64_t band_rows(int64_t planes, int64_t rows, int64_t row_bytes, int64_t halo, int64_t block) {
  const int64_t fitting = kBandBytes / row_bytes - halo;
  const int64_t most = std::min(fitting, ceil_div(rows, ceil_div(kItems, planes)));
  const int64_t bands = ceil_div(rows, std::max(most, 2 * block));
  return std::min(round_up(ceil_div(rows, bands), block), rows);
}

// An odd number of vectors at least as long, so that rows below each other fall into different sets
// of the first-level cache.
int64_t odd_vectors(int64_t length, int lanes) { return (length / lanes | 1) * lanes; }

// Rows as blur_tile.h wants them: in `parts` parts, each of `segment` + `reach` - 1 vectors.
template <class T>
struct DealtRows {
  int lanes;
  int64_t segment, part, length;  // in elements but for segment

  DealtRows(const BlurTile<T>& tile, int64_t columns, int64_t reach, int64_t parts)
      : lanes(tile.lanes), segment(ceil_div(columns, lanes)), part((segment + reach - 1) * lanes),
        length(odd_vectors(parts * part, lanes)) {}
  int64_t width() const { return segment * lanes; }
};

// The padded picture, dealt.
template <class S>
class DealtPicture : public DealtRows<Accumulator<S>> {
 public:
  using T = Accumulator<S>;

  DealtPicture(const Params& p, const BlurTile<T>& tile)
      : DealtRows<T>(tile, p.wo(), ceil_div(p.k, p.stride), p.phases()), tile_(tile),
        padder_(p, p.x_stride[2], p.x_stride[3]), parts_(p.phases()) {
    for (int64_t v = 0; v < p.k; ++v) {
      const int64_t at = v % p.stride * this->part + v / p.stride * this->lanes;
      offset_.push_back(static_cast<int32_t>(at));
    }
  }

  const int32_t* offset() const { return offset_.data(); }

  int64_t band_rows(const Params& p, int64_t block) const {
    const int64_t bytes = p.stride * this->length * static_cast<int64_t>(sizeof(T));
    return pysr::band_rows(p.planes(), p.ho(), bytes, p.k / p.stride, block);
  }

  // Padded rows first .. first + count - 1 of a plane.
  void fill(const S* plane, int64_t first, int64_t count, Scratch<T>& scratch, T* rows) const {
    T* const line = scratch.line.get(padder_.line_length());
    T* const row = scratch.row.get(padder_.row_length() + this->lanes);
    const int64_t part = padder_.row_length() / parts_, vectors = this->part / this->lanes;
    for (int64_t r = 0; r < count; ++r) {
      padder_.fill(plane, first + r, 1, line, row);
      for (int64_t f = 0; f < parts_; ++f) {
        tile_.deal(row + f * part, this->segment, vectors, rows + r * this->length + f * this->part);
      }
    }
  }

 private:
  const BlurTile<T>& tile_;
  const PaddedRows<S> padder_;
  const int64_t parts_;
  std::vector<int32_t> offset_;
};

template <class S>
void forward(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<T>();
  const DealtPicture<S> picture(p, tile);
  const int64_t rows = picture.band_rows(p, tile.rows);
  const int64_t bands = ceil_div(p.ho(), rows), ho = p.ho(), wo = p.wo();
  const int64_t padded_rows = p.stride * (rows - 1) + p.k, width = picture.width();
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(p.planes() * bands, thread_count(p), [&](int64_t item, int worker) {
    T* const padded = scratch[worker].padded.get(padded_rows * picture.length);
    T* const sums = scratch[worker].sums.get(rows * width);
    T* const whole = scratch[worker].whole.get(width + tile.lanes);
    const int64_t plane = item / bands, top = item % bands * rows;
    const int64_t count = std::min(rows, ho - top);
    picture.fill(static_cast<const S*>(p.x) + p.offset(p.x_stride, plane), p.stride * top,
                 p.stride * (count - 1) + p.k, scratch[worker], padded);
    Correlation<T> job{};
    job.in = padded;
    job.in_step = picture.length;
    job.taps = static_cast<const T*>(p.kernels) + p.kernel_of(plane) * p.k * p.k;
    job.tap_rows = job.tap_columns = static_cast<int>(p.k);
    job.offset = picture.offset();
    job.stride = static_cast<int>(p.stride);
    job.out = sums;
    job.out_step = width;
    job.rows = static_cast<int>(count);
    job.width = static_cast<int>(width);
    tile.correlate(job);
    S* out = static_cast<S*>(p.out) + (plane * ho + top) * wo;
    for (int64_t i = 0; i < count; ++i) {
      tile.collect(sums + i * width, picture.segment, whole);
      narrow_row<S>(whole, out + i * wo, wo);
    }
  });
}

// The gradient by the padded picture, folded back over the borders. Its pixels of one phase (their
// row and column modulo the stride) are a correlation of the zero-padded output gradient with the
// taps of that phase, turned by 180 degrees.
template <class S>
void grad_x(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<T>();
  const RowKernels<T> rows_of = row_kernels<T>();
  const int64_t s = p.stride, k = p.k, ho = p.ho(), wo = p.wo();
  const int64_t phases = p.phases(), reach = ceil_div(k, s);  // taps of the first phase
  const DealtRows<T> dealt(tile, ceil_div(p.padded_w(), s), reach, 1);
  const int64_t width = dealt.width(), slope_width = width + reach - 1;

  // turned[kernel][row phase][column phase], each phase contiguous; start gives where it lies.
  std::vector<T> turned(p.kernel_count() * k * k);
  std::vector<int64_t> start(phases * phases);
  int64_t next = 0;
  for (int64_t fu = 0; fu < phases; ++fu) {
    for (int64_t fv = 0; fv < phases; ++fv) {
      start[fu * phases + fv] = next;
      next += phase_count(k, fu, s) * phase_count(k, fv, s);
    }
  }
  const T* kernels = static_cast<const T*>(p.kernels);
  for (int64_t n = 0; n < p.kernel_count(); ++n) {
    for (int64_t u = 0; u < k; ++u) {
      for (int64_t v = 0; v < k; ++v) {
        const int64_t fu = u % s, fv = v % s;
        const int64_t rows = phase_count(k, fu, s), columns = phase_count(k, fv, s);
        turned[n * k * k + start[fu * phases + fv] + (rows - 1 - u / s) * columns +
               columns - 1 - v / s] = kernels[(n * k + u) * k + v];
      }
    }
  }
  std::vector<int32_t> offset(reach);
  for (int64_t t = 0; t < reach; ++t) offset[t] = static_cast<int32_t>(t * dealt.lanes);

  const int64_t row_bytes = (width + ceil_div(dealt.length, s)) * static_cast<int64_t>(sizeof(T));
  const int64_t band = band_rows(p.planes(), p.h, row_bytes, p.k, s * tile.rows);
  const int64_t bands = ceil_div(p.h, band), run_rows = ceil_div(band, s) + 1;
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(p.planes() * bands, thread_count(p), [&](int64_t item, int worker) {
    T* const slope = scratch[worker].slope.get((run_rows + reach) * dealt.length);
    T* const parts = scratch[worker].parts.get(s * run_rows * width);
    T* const row = scratch[worker].row.get(slope_width + dealt.lanes);
    T* const whole = scratch[worker].whole.get(s * width + dealt.lanes);
    T* const line = scratch[worker].line.get(s * width);
    T* const folded = scratch[worker].sums.get(band * p.w);
    const int64_t plane = item / bands, top = item % bands * band;
    const int64_t count = std::min(band, p.h - top);
    const S* g = static_cast<const S*>(p.out) + p.offset(p.out_stride, plane);
    const T* taps = turned.data() + p.kernel_of(plane) * k * k;
    std::fill_n(folded, count * p.w, T{0});

    const auto in_band = [&](int64_t r) {
      const int64_t y = p.row(r);
      return y >= top && y < top + count;
    };
    const auto work = [&](int64_t first, int64_t last) {  // padded rows first .. last - 1
      const int64_t low = first / s - (reach - 1), high = (last - 1) / s;
      for (int64_t i = low; i <= high; ++i) {
        T* const to = slope + (i - low) * dealt.length;
        if (i < 0 || i >= ho) {
          std::fill_n(to, dealt.length, T{0});
          continue;
        }
        std::fill_n(row, reach - 1, T{0});
        widen_row(g + i * p.out_stride[2], p.out_stride[3], row + reach - 1, wo);
        std::fill(row + reach - 1 + wo, row + slope_width, T{0});
        tile.deal(row, dealt.segment, dealt.segment + reach - 1, to);
      }
      for (int64_t fu = 0; fu < phases; ++fu) {
        const int64_t a = first > fu ? ceil_div(first - fu, s) : 0;
        const int64_t rows = (last - fu > 0 ? ceil_div(last - fu, s) : 0) - a;
        if (rows < 1) continue;
        const int64_t tap_rows = phase_count(k, fu, s);
        for (int64_t fv = 0; fv < phases; ++fv) {
          Correlation<T> job{};
          job.tap_rows = static_cast<int>(tap_rows);
          job.tap_columns = static_cast<int>(phase_count(k, fv, s));
          job.in = slope + (a - (tap_rows - 1) - low) * dealt.length +
                   (reach - job.tap_columns) * dealt.lanes;
          job.in_step = dealt.length;
          job.taps = taps + start[fu * phases + fv];
          job.offset = offset.data();
          job.stride = 1;
          job.out = parts + fv * width;
          job.out_step = s * width;
          job.rows = static_cast<int>(rows);
          job.width = static_cast<int>(width);
          tile.correlate(job);
        }
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t fv = 0; fv < phases; ++fv) {
            tile.collect(parts + (i * s + fv) * width, dealt.segment, whole + fv * width);
          }
          std::fill(whole + phases * width, whole + s * width, T{0});
          if (s > 1) rows_of.merge(line, whole, static_cast<int>(s), width, width);
          fold_row(p, s > 1 ? line : whole, folded + (p.row(s * (a + i) + fu) - top) * p.w);
        }
      }
    };
    for (int64_t r = 0; r < p.padded_h();) {
      if (!in_band(r)) {
        ++r;
        continue;
      }
      int64_t last = r + 1;
      while (last < p.padded_h() && last - r < band && in_band(last)) ++last;
      work(r, last);
      r = last;
    }
    narrow_row<S>(folded, static_cast<S*>(p.x) + (plane * p.h + top) * p.w, count * p.w);
  });
}

template <class S>
void grad_kernels(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<T>();
  const DealtPicture<S> picture(p, tile);
  const int64_t rows = picture.band_rows(p, 16);
  const int64_t bands = ceil_div(p.ho(), rows), ho = p.ho(), wo = p.wo(), kk = p.k * p.k;
  const int64_t padded_rows = p.stride * (rows - 1) + p.k, width = picture.width();
  const int64_t slope_step = odd_vectors(width, tile.lanes);
  std::vector<T> partial(p.planes() * bands * kk, T{0});
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(p.planes() * bands, thread_count(p), [&](int64_t item, int worker) {
    T* const padded = scratch[worker].padded.get(padded_rows * picture.length);
    T* const whole = scratch[worker].whole.get(width + tile.lanes);
    T* const slope = scratch[worker].slope.get((rows + 2 * tile.zero_rows) * slope_step);
    const int64_t plane = item / bands, top = item % bands * rows;
    const int64_t count = std::min(rows, ho - top);
    picture.fill(static_cast<const S*>(p.x) + p.offset(p.x_stride, plane), p.stride * top,
                 p.stride * (count - 1) + p.k, scratch[worker], padded);
    const S* g = static_cast<const S*>(p.out) + p.offset(p.out_stride, plane);
    T* const first = slope + tile.zero_rows * slope_step;
    T* const end = first + count * slope_step;
    std::fill(slope, first, T{0});
    std::fill(whole + wo, whole + width, T{0});
    for (int64_t i = 0; i < count; ++i) {
      widen_row(g + (top + i) * p.out_stride[2], p.out_stride[3], whole, wo);
      tile.deal(whole, picture.segment, picture.segment, first + i * slope_step);
    }
    std::fill(end, end + tile.zero_rows * slope_step, T{0});
    TapSums<T> job{};
    job.in = padded;
    job.in_step = picture.length;
    job.g = first;
    job.g_step = slope_step;
    job.k = static_cast<int>(p.k);
    job.offset = picture.offset();
    job.stride = static_cast<int>(p.stride);
    job.sums = partial.data() + item * kk;
    job.rows = static_cast<int>(count);
    job.width = static_cast<int>(width);
    tile.add_tap_sums(job);
  });
  T* out = static_cast<T*>(p.kernels);
  std::vector<double> total(kk);
  for (int64_t kernel = 0; kernel < p.kernel_count(); ++kernel) {
    std::fill(total.begin(), total.end(), 0.0);
    for (int64_t index = 0; index < p.sharers(); ++index) {
      const T* part = partial.data() + p.sharer(kernel, index) * bands * kk;
      for (int64_t band = 0; band < bands; ++band, part += kk) {
        for (int64_t tap = 0; tap < kk; ++tap) total[tap] += part[tap];
      }
    }
    for (int64_t tap = 0; tap < kk; ++tap) out[kernel * kk + tap] = static_cast<T>(total[tap]);
  }
}

void check_params(const Params& p) {
  check(p.valid(), "blur: sizes, kernel size, stride or pointers out of range");
}

}  // namespace

void blur_cpu(const BlurParams& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { forward<typename decltype(type)::type>(p); });
}

void blur_grad_x_cpu(const BlurParams& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { grad_x<typename decltype(type)::type>(p); });
}

void blur_grad_kernels_cpu(const BlurParams& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { grad_kernels<typename decltype(type)::type>(p); });
}

}  // namespace pysr
