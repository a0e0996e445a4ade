// Borders, types and threads of basis_svconv; the arithmetic is in basis_svconv_tile.cpp.
//
// Every sample is cut into bands of rows of output (of the picture, for its gradient). A worker
// walks down a band with the k padded rows of all channels that the current row of output sees, in
// the layout and the type that the arithmetic wants. Neither per-pixel kernels nor unfolded pixels
// exist anywhere. Bands depend on sizes alone and every sum has one fixed order, so the number of
// threads never shows in the result.
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/check.h"
#include "common/dtype.h"
#include "common/index.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/basis_svconv_tile.h"
#include "cpu/memory.h"
#include "cpu/rows.h"
#include "ops/basis_svconv.h"

namespace pysr {
namespace {

using Params = BasisSvconvParams;

// A band is work enough to be worth a thread's while, and tall enough that the padded rows which it
// shares with its neighbours, and which each prepares, are few.
constexpr int64_t kBandProducts = 1 << 22;
constexpr int64_t kBandWindows = 4;
constexpr int64_t kSerialProducts = 1 << 18;  // below, waking a thread costs more than it saves

template <class T>
BasisSvconvTile<T> tile_kernels() {
  PYSR_PICK_ISA(basis_svconv_tile<T>());
}

int64_t row_products(const Params& p) { return p.wo() * p.k * p.k * (p.m + p.c); }

int thread_count(const Params& p) {
  return p.n * p.ho() * row_products(p) < kSerialProducts ? 1 : std::max(p.threads, 1);
}

// Rows of output that make a band.
int64_t band_rows(const Params& p) {
  const int64_t tall = kBandWindows * ceil_div(p.k, p.stride);
  return std::min(std::max(tall, kBandProducts / row_products(p)), p.ho());
}

template <class S>
const S* plane_of(const void* base, const int64_t (&stride)[4], int64_t n, int64_t c) {
  return static_cast<const S*>(base) + n * stride[0] + c * stride[1];
}

template <class T>
struct Scratch {
  Buffer<T> line, in, coefficients, out, folded, sums;
  std::vector<T*> rows;  // of in, under the k tap rows
};

// Moves rows between tensors and the layout of BasisRow.
template <class S>
class Layout {
 public:
  using T = Accumulator<S>;

  explicit Layout(const Params& p)
      : p_(p), rows_of_(row_kernels<T>()), padded_(p, p.x_stride[2], p.x_stride[3]),
        vectors_(ceil_div(p.wo(), rows_of_.lanes)), in_vectors_(p.stride * (vectors_ - 1) + p.k) {}

  int64_t lanes() const { return rows_of_.lanes; }
  int64_t out_row() const { return vectors_ * lanes(); }  // of one channel or basis
  int64_t in_row() const { return in_vectors_ * lanes(); }
  int64_t line_length() const {
    return std::max(padded_.length(), p_.stride * (out_row() - 1) + p_.k);
  }

  BasisRow<T> row(const T* taps, Scratch<T>& scratch) const {
    scratch.rows.resize(p_.k);
    BasisRow<T> row{};
    row.k = static_cast<int>(p_.k), row.stride = static_cast<int>(p_.stride);
    row.bases = static_cast<int>(p_.m), row.channels = static_cast<int>(p_.c);
    row.vectors = static_cast<int>(vectors_), row.in_vectors = static_cast<int>(in_vectors_);
    row.in = scratch.rows.data();
    row.coefficients = scratch.coefficients.get(p_.m * out_row());
    row.taps = taps;
    row.out = scratch.out.get(p_.c * out_row());
    row.first = 0, row.last = row.k;
    return row;
  }

  // Padded row r of every channel lies in place r % k of `in`.
  T* in_place(T* in, int64_t r) const { return in + r % p_.k * p_.c * in_row(); }

  void read_x(int64_t n, int64_t r, T* line, T* in) const {
    T* to = in_place(in, r);
    for (int64_t c = 0; c < p_.c; ++c, to += in_row()) {
      if (!padded_.fill(plane_of<S>(p_.x, p_.x_stride, n, c), r, line)) {
        std::fill_n(to, in_row(), T{0});
        continue;
      }
      std::fill(line + p_.padded_w(), line + line_length(), T{0});
      rows_of_.merge_lanes(to, line, p_.stride * vectors_, in_vectors_);
    }
  }

  // Row i of all planes of out and of the coefficients.
  void read_out(int64_t n, int64_t i, T* line, T* to) const {
    for (int64_t c = 0; c < p_.c; ++c) {
      const S* plane = plane_of<S>(p_.out, p_.out_stride, n, c);
      read(plane + i * p_.out_stride[2], p_.out_stride[3], line, to + c * out_row());
    }
  }
  void write_out(int64_t n, int64_t i, T* line, const T* from) const {
    write(static_cast<S*>(p_.out), n, p_.c, i, line, from);
  }
  void read_coefficients(int64_t n, int64_t i, T* line, T* to) const {
    for (int64_t m = 0; m < p_.m; ++m) {
      const int64_t row = (n * p_.m + m) * p_.ho() + i;
      read(static_cast<const S*>(p_.coefficients) + row * p_.wo(), 1, line, to + m * out_row());
    }
  }
  void write_coefficients(int64_t n, int64_t i, T* line, const T* from) const {
    write(static_cast<S*>(p_.coefficients), n, p_.m, i, line, from);
  }

  // Adds a padded row of one channel's gradient to the row of pixels that it showed; `parts` holds
  // in_row() numbers.
  void fold(const T* in, T* parts, T* line, T* pixels) const {
    rows_of_.split_lanes(in, parts, in_vectors_, in_vectors_);
    std::fill_n(line, line_length(), T{0});
    for (int64_t lane = 0; lane < lanes(); ++lane) {
      T* const to = line + lane * p_.stride * vectors_;
      for (int64_t b = 0; b < in_vectors_; ++b) to[b] += parts[lane * in_vectors_ + b];
    }
    fold_row(p_, line, pixels);
  }

 private:
  void read(const S* row, int64_t step, T* line, T* to) const {
    if constexpr (std::is_same_v<S, T>) {
      // Nothing to widen and nothing to fill up.
      if (step == 1 && p_.wo() == out_row()) {
        rows_of_.merge_lanes(to, row, vectors_, vectors_);
        return;
      }
    }
    widen_row(row, step, line, p_.wo());
    std::fill(line + p_.wo(), line + out_row(), T{0});
    rows_of_.merge_lanes(to, line, vectors_, vectors_);
  }
  void write(S* base, int64_t n, int64_t planes, int64_t i, T* line, const T* from) const {
    for (int64_t plane = 0; plane < planes; ++plane) {
      rows_of_.split_lanes(from + plane * out_row(), line, vectors_, vectors_);
      narrow_row<S>(line, base + ((n * planes + plane) * p_.ho() + i) * p_.wo(), p_.wo());
    }
  }

  const Params p_;
  const RowKernels<T> rows_of_;
  const PaddedLine<S> padded_;
  const int64_t vectors_, in_vectors_;
};

template <class S>
std::vector<Accumulator<S>> widened_bases(const Params& p) {
  std::vector<Accumulator<S>> taps(p.m * p.k * p.k);
  widen_row(static_cast<const S*>(p.bases), 1, taps.data(), static_cast<int64_t>(taps.size()));
  return taps;
}

// Calls work(i) for the rows of output of a band, with row.in set to the padded rows under it.
template <class S, class F>
void walk_band(const Params& p, const Layout<S>& layout, int64_t band,
               const BasisRow<Accumulator<S>>& row, Scratch<Accumulator<S>>& scratch, F&& work) {
  using T = Accumulator<S>;
  const int64_t rows = band_rows(p), bands = ceil_div(p.ho(), rows);
  const int64_t n = band / bands, top = band % bands * rows;
  T* const line = scratch.line.get(layout.line_length());
  T* const in = scratch.in.get(p.k * p.c * layout.in_row());
  int64_t next = 0;
  for (int64_t i = top; i < std::min(top + rows, p.ho()); ++i) {
    const int64_t first = p.stride * i;
    for (int64_t r = std::max(next, first); r < first + p.k; ++r) layout.read_x(n, r, line, in);
    next = first + p.k;
    for (int64_t u = 0; u < p.k; ++u) row.in[u] = layout.in_place(in, first + u);
    work(n, i, line);
  }
}

int64_t band_count(const Params& p) { return p.n * ceil_div(p.ho(), band_rows(p)); }

template <class S>
void forward(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<T>();
  const Layout<S> layout(p);
  const std::vector<T> taps = widened_bases<S>(p);
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(band_count(p), thread_count(p), [&](int64_t band, int worker) {
    const BasisRow<T> row = layout.row(taps.data(), scratch[worker]);
    walk_band(p, layout, band, row, scratch[worker], [&](int64_t n, int64_t i, T* line) {
      layout.read_coefficients(n, i, line, row.coefficients);
      std::fill_n(row.out, p.c * layout.out_row(), T{0});
      tile.add_out(row);
      layout.write_out(n, i, line, row.out);
    });
  });
}

template <class S>
void grad_coefficients(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<T>();
  const Layout<S> layout(p);
  const std::vector<T> taps = widened_bases<S>(p);
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(band_count(p), thread_count(p), [&](int64_t band, int worker) {
    const BasisRow<T> row = layout.row(taps.data(), scratch[worker]);
    walk_band(p, layout, band, row, scratch[worker], [&](int64_t n, int64_t i, T* line) {
      layout.read_out(n, i, line, row.out);
      std::fill_n(row.coefficients, p.m * layout.out_row(), T{0});
      tile.add_coefficients(row);
      layout.write_coefficients(n, i, line, row.coefficients);
    });
  });
}

// Bands are shared out among parts, and every part sums its own in order.
template <class S>
void grad_bases(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<T>();
  const Layout<S> layout(p);
  const int64_t bands = band_count(p), parts = basis_svconv_parts(bands);
  const int64_t count = p.m * p.k * p.k, lanes = layout.lanes();
  std::vector<T> partial(parts * count);
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(parts, thread_count(p), [&](int64_t part, int worker) {
    BasisRow<T> row = layout.row(nullptr, scratch[worker]);
    row.tap_sums = scratch[worker].sums.get(count * lanes);
    std::fill_n(row.tap_sums, count * lanes, T{0});
    for (int64_t band = part * bands / parts; band < (part + 1) * bands / parts; ++band) {
      walk_band(p, layout, band, row, scratch[worker], [&](int64_t n, int64_t i, T* line) {
        layout.read_out(n, i, line, row.out);
        layout.read_coefficients(n, i, line, row.coefficients);
        tile.add_tap_sums(row);
      });
    }
    for (int64_t tap = 0; tap < count; ++tap) {
      T total = 0;
      for (int64_t lane = 0; lane < lanes; ++lane) total += row.tap_sums[tap * lanes + lane];
      partial[part * count + tap] = total;
    }
  });
  for (int64_t tap = 0; tap < count; ++tap) {
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += partial[part * count + tap];
    static_cast<S*>(p.bases)[tap] = Narrow<S>::from(static_cast<T>(total));
  }
}

// A band of pixels gathers the gradients by the padded rows that show them. Such rows come in runs,
// one but for mirrored or repeated ones at the borders; walking down the rows of output that reach
// a run, a padded row is complete, and folded, once the last window that begins above it is done.
template <class S>
void grad_x(const Params& p) {
  using T = Accumulator<S>;
  const auto tile = tile_kernels<T>();
  const Layout<S> layout(p);
  const std::vector<T> taps = widened_bases<S>(p);
  const int64_t rows = std::min(p.stride * band_rows(p), p.h), bands = ceil_div(p.h, rows);
  std::vector<Scratch<T>> scratch(thread_count(p));
  parallel_for(p.n * bands, thread_count(p), [&](int64_t item, int worker) {
    const int64_t n = item / bands, top = item % bands * rows, bottom = std::min(top + rows, p.h);
    BasisRow<T> row = layout.row(taps.data(), scratch[worker]);
    T* const line = scratch[worker].line.get(layout.line_length());
    T* const in = scratch[worker].in.get(p.k * p.c * layout.in_row());
    T* const parts = scratch[worker].sums.get(layout.in_row());
    T* const folded = scratch[worker].folded.get(p.c * rows * p.w);
    std::fill_n(folded, p.c * rows * p.w, T{0});

    const auto in_band = [&](int64_t r) { return p.row(r) >= top && p.row(r) < bottom; };
    const auto work = [&](int64_t first, int64_t last) {  // padded rows first .. last - 1
      int64_t next = first, done = first;                 // to be cleared, to be folded
      for (int64_t i = std::max(first - p.k + p.stride, int64_t{0}) / p.stride;
           i < p.ho() && p.stride * i < last; ++i) {
        const int64_t above = p.stride * i, below = std::min(above + p.k, last);
        next = std::max(next, above), done = std::max(done, above);
        for (; next < below; ++next) {
          std::fill_n(layout.in_place(in, next), p.c * layout.in_row(), T{0});
        }
        row.first = static_cast<int>(std::max(first - above, int64_t{0}));
        row.last = static_cast<int>(below - above);
        for (int64_t u = row.first; u < row.last; ++u) row.in[u] = layout.in_place(in, above + u);
        layout.read_coefficients(n, i, line, row.coefficients);
        layout.read_out(n, i, line, row.out);
        tile.add_in(row);
        const int64_t complete = i + 1 < p.ho() ? std::min(above + p.stride, last) : last;
        for (; done < std::min(complete, next); ++done) {
          for (int64_t c = 0; c < p.c; ++c) {
            layout.fold(layout.in_place(in, done) + c * layout.in_row(), parts, line,
                        folded + (c * rows + p.row(done) - top) * p.w);
          }
        }
      }
    };
    for (int64_t r = 0; r < p.padded_h();) {
      if (!in_band(r)) {
        ++r;
        continue;
      }
      int64_t last = r + 1;
      while (last < p.padded_h() && in_band(last)) ++last;
      work(r, last);
      r = last;
    }
    for (int64_t c = 0; c < p.c; ++c) {
      narrow_row<S>(folded + c * rows * p.w,
                    static_cast<S*>(p.x) + ((n * p.c + c) * p.h + top) * p.w,
                    (bottom - top) * p.w);
    }
  });
}

void check_params(const Params& p) {
  check(p.valid(), "basis_svconv: sizes, bases, stride or pointers out of range");
}

}  // namespace

void basis_svconv_cpu(const Params& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { forward<typename decltype(type)::type>(p); });
}

void basis_svconv_grad_x_cpu(const Params& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { grad_x<typename decltype(type)::type>(p); });
}

void basis_svconv_grad_coefficients_cpu(const Params& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { grad_coefficients<typename decltype(type)::type>(p); });
}

void basis_svconv_grad_bases_cpu(const Params& p) {
  check_params(p);
  dispatch(p.dtype, [&](auto type) { grad_bases<typename decltype(type)::type>(p); });
}

}  // namespace pysr
