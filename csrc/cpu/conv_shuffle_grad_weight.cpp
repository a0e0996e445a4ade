// Layouts and threads of conv_shuffle_grad_weight; the arithmetic is in winograd_gradient_tile.cpp.
//
// Threads share out the blocks of tiles to transform, then the positions to sum: every sum is one
// thread's, which takes the blocks in order, so the number of threads never shows in the result.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/check.h"
#include "cpu/winograd.h"
#include "cpu/winograd_gradient_tile.h"
#include "ops/conv_shuffle.h"

namespace pysr {
namespace {

using Params = ConvShuffleGradWeightParams;

constexpr int kPositions = kWinogradPatch * kWinogradPatch;

WinogradGradientTile gradient_kernels() { PYSR_PICK_ISA(winograd_gradient_tile()); }

template <class S>
class WeightGradient {
 public:
  explicit WeightGradient(const Params& p)
      : p_(p), kernels_(gradient_kernels()), c_(static_cast<int>(p.c)), o_(static_cast<int>(p.o)),
        side_(static_cast<int>(p.side)),
        threads_(products() < kSerialProducts ? 1 : std::max(p.threads, 1)),
        tiles_(kernels_.tiles, p.h, p.w, p.side),
        x_{static_cast<S*>(p.x), p.n, p.c, p.h, p.w, p.x_stride},
        grad_{static_cast<S*>(p.grad), p.n, p.o, p.h, p.w, p.grad_stride},
        block_floats_(round_up(kernels_.block_floats(c_, o_), 16)),
        sums_floats_(kernels_.sums_floats(c_, o_)) {
    // One thread finds what it has transformed in its cache; several meet less often.
    together_ = std::min<int64_t>(threads_ == 1 ? 1 : 2 * threads_, p.n * tiles_.blocks());
    const int64_t c_padded = round_up(p.c, kernels_.lanes);
    const int64_t o_padded = round_up(p.o, kernels_.lanes);
    const int64_t pixels = p.n * p.h * p.w;
    const bool x_direct = x_.direct(kernels_.lanes), grad_direct = grad_.direct(kernels_.lanes);
    const int64_t blocks = arena_.reserve(together_ * block_floats_);
    const int64_t patches = arena_.reserve(threads_ * patch_floats());
    const int64_t sums = arena_.reserve(kPositions * sums_floats_);
    const int64_t staged_x = arena_.reserve(x_direct ? 0 : pixels * c_padded);
    const int64_t staged_grad = arena_.reserve(grad_direct ? 0 : pixels * o_padded);
    arena_.take();
    blocks_ = arena_.at(blocks), patches_ = arena_.at(patches), sums_ = arena_.at(sums);
    from_ = x_direct ? x_.pictures() : dense_pictures(arena_.at(staged_x), p.h, p.w, c_padded);
    result_ = grad_direct ? grad_.pictures()
                          : dense_pictures(arena_.at(staged_grad), p.h, p.w, o_padded);
    if (!x_direct) x_.stage(from_, threads_);
    if (!grad_direct) grad_.stage(result_, threads_);
  }

  void run() const {
    std::fill_n(sums_, kPositions * sums_floats_, 0.0f);
    const int64_t items = p_.n * tiles_.blocks();
    for (int64_t first = 0; first < items; first += together_) {
      const int64_t count = std::min(together_, items - first);
      parallel_for(count, threads_, [&](int64_t block, int worker) {
        TileConvolution job = tiles_.job(first + block);
        const int64_t image = (first + block) / tiles_.blocks();
        job.in = from_.at(image), job.out = result_.at(image);
        job.channels = c_;
        job.scratch = patches_ + worker * patch_floats();
        kernels_.transform(job, side_, o_, blocks_ + block * block_floats_);
      });
      parallel_for(kPositions, threads_, [&](int64_t position, int) {
        for (int64_t block = 0; block < count; ++block) {
          kernels_.accumulate(blocks_ + block * block_floats_, tiles_.job(first + block).count, c_,
                              o_, static_cast<int>(position), sums_ + position * sums_floats_);
        }
      });
    }
    const int64_t row = p_.c * p_.side * p_.side;
    parallel_for(p_.o, threads_, [&](int64_t output, int) {
      std::vector<float> gradient(row);
      kernels_.finish(sums_, side_, c_, o_, static_cast<int>(output), gradient.data());
      narrow_row(gradient.data(), static_cast<S*>(p_.grad_weight) + output * row, row);
    });
  }

 private:
  int64_t products() const { return p_.n * p_.h * p_.w * p_.c * p_.o * p_.side * p_.side; }
  int64_t patch_floats() const { return kPositions * round_up(p_.c, kernels_.lanes); }

  const Params& p_;
  const WinogradGradientTile kernels_;
  const int c_, o_, side_, threads_;
  const TileBlocks tiles_;
  const StridedPictures<S> x_, grad_;
  const int64_t block_floats_, sums_floats_;
  int64_t together_;
  Arena arena_;
  float *blocks_, *patches_, *sums_;
  Pictures from_, result_;
};

}  // namespace

void conv_shuffle_grad_weight_cpu(const Params& p) {
  check(p.valid(), "conv_shuffle_grad_weight: sizes, dtype or pointers out of range");
  dispatch_float(p.dtype, [&](auto type) {
    WeightGradient<typename decltype(type)::type>(p).run();
  });
}

}  // namespace pysr
