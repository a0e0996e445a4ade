// The padded picture that kernels slide over, row by row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/window.h"
#include "cpu/memory.h"
#include "cpu/rows_tile.h"

namespace pysr {

template <class T>
RowKernels<T> row_kernels();  // for this processor

// Copies rows of the padded picture, widened to the type that sums are taken in, so that the
// arithmetic sees neither borders, strides, nor half types.
template <class S>
class PaddedLine {
 public:
  using T = Accumulator<S>;

  // row_step and column_step: strides of the picture, in elements.
  PaddedLine(const Windows& windows, int64_t row_step, int64_t column_step)
      : windows_(windows), row_step_(row_step), column_step_(column_step) {}

  // The padded width, or more where the windows leave out pixels at the right border.
  int64_t length() const {
    return std::max(windows_.padded_w(), windows_.margin() + windows_.w);
  }

  // Padded row r of a plane; false, and nothing written, where all of it shows zeros.
  bool fill(const S* plane, int64_t r, T* line) const {
    const int64_t margin = windows_.margin(), padded = windows_.padded_w(), w = windows_.w;
    const int64_t y = windows_.row(r);
    if (y < 0) return false;
    widen_row(plane + y * row_step_, column_step_, line + margin, w);
    // Both borders repeat columns that are in place by now.
    const auto border = [&](int64_t q) {
      const int64_t column = windows_.column(q);
      line[q] = column < 0 ? T{0} : line[margin + column];
    };
    for (int64_t q = 0; q < margin; ++q) border(q);
    for (int64_t q = margin + w; q < padded; ++q) border(q);
    return true;
  }

 private:
  const Windows windows_;
  const int64_t row_step_, column_step_;
};

// Padded rows taken apart by phase. A row has `phases` parts, of which part f holds columns f,
// f + stride, ...; output column j meets tap column v at offset()[v] + j. Parts are zero beyond the
// picture's windows, where whole vectors of outputs reach.
template <class S>
class PaddedRows {
 public:
  using T = Accumulator<S>;

  PaddedRows(const Windows& windows, int64_t row_step, int64_t column_step)
      : windows_(windows), line_(windows, row_step, column_step), kernels_(row_kernels<T>()),
        width_(round_up(windows.wo(), kernels_.lanes)),
        part_(width_ + (windows.k - 1) / windows.stride) {
    for (int64_t v = 0; v < windows.k; ++v) {
      offset_.push_back(static_cast<int32_t>(v % windows.stride * part_ + v / windows.stride));
    }
  }

  int64_t width() const { return width_; }  // of output, in whole vectors
  int64_t row_length() const { return windows_.phases() * part_; }
  const int32_t* offset() const { return offset_.data(); }
  int64_t line_length() const { return line_.length(); }

  // Padded rows first .. first + count - 1 of a plane; `line` holds line_length() numbers.
  void fill(const S* plane, int64_t first, int64_t count, T* line, T* rows) const {
    const int64_t padded = windows_.padded_w();
    for (int64_t r = 0; r < count; ++r) {
      T* row = rows + r * row_length();
      if (!line_.fill(plane, first + r, line)) {
        std::fill_n(row, row_length(), T{0});
        continue;
      }
      if (windows_.stride == 1) {
        std::copy_n(line, padded, row);
        std::fill(row + padded, row + part_, T{0});
        continue;
      }
      const int64_t whole = padded / windows_.stride;
      kernels_.split(line, row, static_cast<int>(windows_.stride),
                     static_cast<int>(windows_.phases()), part_, std::min(whole, part_));
      for (int64_t f = 0; f < windows_.phases(); ++f) {
        T* part = row + f * part_;
        int64_t b = std::min(whole, part_);
        for (; b < part_ && b * windows_.stride + f < padded; ++b) {
          part[b] = line[b * windows_.stride + f];
        }
        std::fill(part + b, part + part_, T{0});
      }
    }
  }

 private:
  const Windows windows_;
  const PaddedLine<S> line_;
  const RowKernels<T> kernels_;
  const int64_t width_, part_;
  std::vector<int32_t> offset_;
};

// Adds one row of the padded picture's gradient to the row of pixels that it showed.
template <class T>
void fold_row(const Windows& windows, const T* padded_row, T* to) {
  const int64_t margin = windows.margin(), padded = windows.padded_w();
  const int64_t inner = std::min(margin + windows.w, padded);
  const auto border = [&](int64_t q) {
    const int64_t column = windows.column(q);
    if (column >= 0) to[column] += padded_row[q];
  };
  for (int64_t q = 0; q < margin; ++q) border(q);
  for (int64_t q = margin; q < inner; ++q) to[q - margin] += padded_row[q];
  for (int64_t q = inner; q < padded; ++q) border(q);
}

}  // namespace pysr
