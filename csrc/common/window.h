// How k x k windows, `stride` pixels apart, lie over a picture, and what the picture shows beyond
// its borders. Shared by the operators that slide a kernel over a picture.
#pragma once

#include "common/index.h"

namespace pysr {

// none: an output exists only where its whole window lies inside the picture.
enum class Padding : int { reflect = 0, replicate = 1, zeros = 2, none = 3 };

// The pixel that index i of a row of `length` pixels shows, or -1 where it shows a zero.
PYSR_HD inline int64_t shown(int64_t i, int64_t length, Padding padding) {
  if (i >= 0 && i < length) return i;
  if (padding == Padding::reflect) return reflect(i, length);
  if (padding == Padding::replicate) return i < 0 ? 0 : length - 1;
  return -1;
}

// The indices r of a padded row of `count` pixels that show pixel i, those with
// shown(r - margin, length, padding) == i, in ascending order:
//   for (int64_t r = from.first; r < from.end; r = from.after(r))
struct Preimages {
  int64_t first, end;

  PYSR_HD Preimages(int64_t i, int64_t length, int64_t margin, int64_t count, Padding padding)
      : first(margin + i), end(first < count ? first + 1 : count) {
    if (padding == Padding::reflect) {
      // One in every period shows i directly, another one mirrored, save at the turning points.
      period_ = reflect_period(length);
      const int64_t direct = first % period_;
      const int64_t mirrored = ((margin - i) % period_ + period_) % period_;
      first = direct < mirrored ? direct : mirrored;
      gap_ = direct + mirrored - 2 * first;
      end = count;
    } else if (padding == Padding::replicate) {
      if (i == 0) first = 0;
      if (i == length - 1) end = count;
    }
  }
  PYSR_HD int64_t after(int64_t r) const {
    return r + (gap_ > 0 && (r - first) % period_ == 0 ? gap_ : period_ - gap_);
  }

 private:
  int64_t period_ = 1, gap_ = 0;  // steps of gap and period - gap by turns
};

// Rows and columns of a picture at most: with its padding it is indexed in 32 bits.
constexpr int64_t kLongest = int64_t{1} << 30;

struct Windows {
  int64_t h, w;  // of the picture
  int64_t k, stride;
  Padding padding;

  PYSR_HD int64_t ho() const { return outputs(h); }
  PYSR_HD int64_t wo() const { return outputs(w); }
  // Output i's window begins at pixel stride * i - margin: tap k / 2 lies over pixel stride * i.
  PYSR_HD int64_t margin() const { return padding == Padding::none ? 0 : k / 2; }
  // Extent of the padded picture that the windows touch, from -margin on.
  PYSR_HD int64_t padded_h() const { return stride * (ho() - 1) + k; }
  PYSR_HD int64_t padded_w() const { return stride * (wo() - 1) + k; }
  // Taps whose columns differ by a multiple of the stride form a phase.
  PYSR_HD int64_t phases() const { return stride < k ? stride : k; }
  // The pixels under padded row and column, or -1.
  PYSR_HD int64_t row(int64_t padded) const { return shown(padded - margin(), h, padding); }
  PYSR_HD int64_t column(int64_t padded) const { return shown(padded - margin(), w, padding); }
  // The padded rows and columns that show a pixel.
  PYSR_HD Preimages rows_showing(int64_t y) const {
    return Preimages(y, h, margin(), padded_h(), padding);
  }
  PYSR_HD Preimages columns_showing(int64_t x) const {
    return Preimages(x, w, margin(), padded_w(), padding);
  }
  bool valid(int64_t max_size, int64_t max_stride) const {
    return h > 0 && w > 0 && h <= kLongest && w <= kLongest && k > 0 && k <= max_size &&
           stride > 0 && stride <= max_stride &&
           padding >= Padding::reflect && padding <= Padding::none &&
           (padding != Padding::none || (h >= k && w >= k));
  }

 private:
  PYSR_HD int64_t outputs(int64_t length) const {
    return padding == Padding::none ? (length - k) / stride + 1 : ceil_div(length, stride);
  }
};

}  // namespace pysr
