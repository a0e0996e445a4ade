// conv_shuffle on CUDA: halves on tensor cores, float32 straight from shared memory. Either way the
// pixel shuffle is where a sum is stored, nothing more.
#include "ops/conv_shuffle.h"

#include "common/launch.h"
#include "cuda/direct_convolution.cuh"
#include "cuda/tensor_convolution.h"

namespace pysr {
namespace {

using Params = ConvShuffleParams;

template <int Side>
__global__ void __launch_bounds__(kDirectThreads, 2)
    convolve_kernel(Params p, DirectConvolution convolution) {
  PYSR_DYNAMIC_SHARED(float, shared);
  const auto input = [&p](int64_t n, int64_t c, int64_t y, int64_t x) {
    return static_cast<const float*>(p.x)[n * p.x_stride[0] + c * p.x_stride[1] +
                                          y * p.x_stride[2] + x * p.x_stride[3]];
  };
  const auto output = [&p](int64_t n, int64_t o, int64_t y, int64_t x, float sum) {
    const int64_t channel = o / (p.shuffle * p.shuffle), subpixel = o % (p.shuffle * p.shuffle);
    const int64_t row = y * p.shuffle + subpixel / p.shuffle;
    const int64_t column = x * p.shuffle + subpixel % p.shuffle;
    static_cast<float*>(p.out)[n * p.out_stride[0] + channel * p.out_stride[1] +
                               row * p.out_stride[2] + column * p.out_stride[3]] =
        sum + static_cast<const float*>(p.bias)[o];
  };
  convolve_direct<Side>(convolution, shared, input, output);
}

template <int Side>
cudaError_t run_float(const Params& p, cudaStream_t stream) {
  const DirectConvolution convolution{
      static_cast<const float*>(p.weight), p.c, p.c, p.o, p.n, p.h, p.w};
  return launch(convolve_kernel<Side>, convolution.blocks(), dim3(kDirectColumns, kDirectWarps),
                DirectShape<Side>::bytes, stream, p, convolution);
}

PackedWeights packing(const Params& p) {
  return packed_weights(p.c, 0, p.c, p.o, static_cast<int>(p.shuffle), static_cast<int>(p.side));
}

StridedPicture picture(const Params& p) { return {p.x, p.n, p.c, p.h, p.w, p.x_stride}; }

// The workspace of halves: weights packed by the call itself, then the picture channels last.
int64_t packed_here(const Params& p) { return p.packed == nullptr ? packing(p).halves() : 0; }

int run_halves(const Params& p, cudaStream_t stream) {
  uint16_t* const workspace = static_cast<uint16_t*>(p.workspace);
  TensorConvolution convolution{};
  convolution.weights = packing(p);
  convolution.packed = p.packed;
  if (p.packed == nullptr) {
    convolution.packed = workspace;
    const int status = pack_weights(convolution.weights, p.weight, workspace, stream);
    if (status != cudaSuccess) return status;
  }
  const int status =
      as_pixels(picture(p), workspace + packed_here(p), &convolution.inputs[0], stream);
  if (status != cudaSuccess) return status;
  convolution.side = static_cast<int>(p.side);
  convolution.n = p.n, convolution.h = p.h, convolution.w = p.w;
  convolution.columns = p.o;
  convolution.dtype = p.dtype;
  convolution.bias = p.bias;
  convolution.out = p.out;
  for (int i = 0; i < 4; ++i) convolution.out_stride[i] = p.out_stride[i];
  return tensor_convolve(convolution, stream);
}

}  // namespace

int64_t conv_shuffle_workspace(const Params& p) {
  if (p.dtype == DType::float32) return 0;
  return (packed_here(p) + picture(p).staged_halves()) * static_cast<int64_t>(sizeof(uint16_t));
}

int conv_shuffle_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid()) return cudaErrorInvalidValue;
  if (p.dtype != DType::float32) return run_halves(p, stream);
  return p.side == 3 ? run_float<3>(p, stream) : run_float<5>(p, stream);
}

int64_t conv_shuffle_packed_cuda(const Params& p) {
  if (p.dtype == DType::float32) return 0;
  return packing(p).halves() * static_cast<int64_t>(sizeof(uint16_t));
}

int conv_shuffle_pack_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid_weight()) return cudaErrorInvalidValue;
  if (p.dtype == DType::float32) return cudaSuccess;
  if (p.packed == nullptr) return cudaErrorInvalidValue;
  return pack_weights(packing(p), p.weight, p.packed, stream);
}

}  // namespace pysr
