// conditional_residual_block on CUDA: halves on tensor cores, float32 straight from shared memory.
//
// A constant condition enters the first convolution as a bias, from a table of the nine border
// cases; a picture is convolved after f's channels. Nothing is summed with atomics, so results
// repeat bit by bit.
//
// Channel attention wants the means of r before any of it is stored. For halves they come, as on
// the CPU, from sums of the hidden features over the pixels that each tap touches: all of them, or
// all but a border row or column. The first convolution adds these up as it stores, and the second
// one stores the block's result. In float32 r is kept until its means are known.
#include <algorithm>
#include <cmath>

#include "common/dtype.h"
#include "common/index.h"
#include "common/launch.h"
#include "cuda/direct_convolution.cuh"
#include "cuda/tensor_convolution.h"
#include "ops/conditional_residual_block.h"

namespace pysr {
namespace {

using Params = ConditionalResidualBlockParams;

constexpr int kThreads = 256;
constexpr int kGateThreads = 512;
constexpr int kSegments = 16;  // in which an output's products are summed
constexpr int64_t kPixelsPerPart = 4096;
constexpr float kSlope = 0.2f;

PackedWeights first_weights(const Params& p) {
  return packed_weights(p.c, p.constant() ? 0 : p.d, p.hidden(), p.hidden(), 1, 3);
}
PackedWeights second_weights(const Params& p) {
  return packed_weights(p.hidden(), 0, p.hidden(), p.c, 1, 3);
}
StridedPicture picture_of_f(const Params& p) { return {p.f, p.n, p.c, p.h, p.w, p.f_stride}; }
StridedPicture picture_of_cond(const Params& p) {
  return {p.cond, p.n, p.d, p.h, p.w, p.cond_stride};
}

// Where lies what the kernels leave to each other, in bytes from the workspace's start.
struct Workspace {
  bool halves;
  int64_t pitch;   // channels of a border case, and of a hidden pixel of halves
  int64_t parts;   // in which a channel of r is summed, whatever the GPU
  int64_t cases;   // floats (n, 9, pitch)
  int64_t gates;   // floats (n, c)
  int64_t sums;    // floats (n, LineSums::slots, pitch), or in float32 (n, c, parts)
  int64_t hidden;  // halves (n, h, w, pitch), or floats (n, hidden, h, w)
  int64_t r;       // floats (n, c, h, w), in float32 alone
  int64_t packed, f, cond;  // halves that were not given in the form that is needed
  int64_t end = 0;

  explicit Workspace(const Params& p) : halves(p.dtype != DType::float32) {
    const int64_t pixels = p.n * p.h * p.w, half = sizeof(uint16_t), whole = sizeof(float);
    pitch = halves ? round_up(p.hidden(), kPlane) : p.hidden();
    parts = std::min<int64_t>(ceil_div(p.h * p.w, kPixelsPerPart), 64);
    cases = reserve(p.n * 9 * pitch * whole);
    gates = reserve(p.n * p.c * whole);
    sums = reserve(p.n * (halves ? LineSums(p.h, p.w).slots() * pitch : p.c * parts) * whole);
    hidden = reserve(pixels * pitch * (halves ? half : whole));
    r = reserve(halves ? 0 : pixels * p.c * whole);
    const bool pack = halves && p.packed == nullptr;
    packed = reserve(pack ? (first_weights(p).halves() + second_weights(p).halves()) * half : 0);
    f = reserve(halves ? picture_of_f(p).staged_halves() * half : 0);
    cond = reserve(halves && !p.constant() ? picture_of_cond(p).staged_halves() * half : 0);
  }
  template <class T>
  PYSR_HD static T* at(const Params& p, int64_t offset) {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(p.workspace) + offset);
  }

 private:
  int64_t reserve(int64_t bytes) {
    const int64_t start = end;
    end += round_up(bytes, 256);
    return start;
  }
};

template <class S>
PYSR_HD float at(const void* tensor, int64_t index) {
  return widen(static_cast<const S*>(tensor)[index]);
}

__device__ float leaky(float value) { return value > 0 ? value : kSlope * value; }

// conv1's bias and a constant condition's share, one thread per image, case and hidden channel.
template <class S>
__global__ void __launch_bounds__(kThreads, 2) cases_kernel(Params p, Workspace place) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t hidden = p.hidden();
  if (index >= p.n * 9 * place.pitch) return;
  const int64_t o = index % place.pitch, n = index / place.pitch / 9;
  const int i = static_cast<int>(index / place.pitch % 9 / 3);
  const int j = static_cast<int>(index / place.pitch % 3);
  const int rows = static_cast<int>(p.h < 3 ? p.h : 3);
  const int columns = static_cast<int>(p.w < 3 ? p.w : 3);
  float sum = o < hidden ? at<S>(p.conv1_bias, o) : 0;
  for (int64_t e = 0; e < p.d && p.constant() && o < hidden; ++e) {
    const int64_t weight = (o * hidden + p.c + e) * 9;
    float taps = 0;
    for (int u = 0; u < 3; ++u) {
      for (int v = 0; v < 3; ++v) {
        const int y = i + u - 1, x = j + v - 1;
        const bool inside = y >= 0 && y < rows && x >= 0 && x < columns;
        if (inside) taps += at<S>(p.conv1_weight, weight + u * 3 + v);
      }
    }
    sum += taps * at<S>(p.cond, n * p.cond_stride[0] + e * p.cond_stride[1]);
  }
  Workspace::at<float>(p, place.cases)[index] = sum;
}

// Gates of image n from means in shared memory, by all threads of a block.
template <class S>
__device__ void attend(const Params& p, const Workspace& place, int64_t n, const float* means,
                       float* reduced) {
  const int64_t thread = threadIdx.x, threads = blockDim.x;
  __syncthreads();
  for (int64_t o = thread; o < p.r; o += threads) {
    float sum = at<S>(p.reduce_bias, o);
    for (int64_t c = 0; c < p.c; ++c) sum += at<S>(p.reduce_weight, o * p.c + c) * means[c];
    reduced[o] = leaky(sum);
  }
  __syncthreads();
  for (int64_t c = thread; c < p.c; c += threads) {
    float sum = at<S>(p.expand_bias, c);
    for (int64_t o = 0; o < p.r; ++o) sum += at<S>(p.expand_weight, c * p.r + o) * reduced[o];
    Workspace::at<float>(p, place.gates)[n * p.c + c] = 1 / (1 + expf(-sum));
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 2) given_gates_kernel(Params p, Workspace place) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < p.n * p.c) Workspace::at<float>(p, place.gates)[index] = at<S>(p.gate, index);
}

template <class S>
cudaError_t make_cases(const Params& p, const Workspace& place, cudaStream_t stream) {
  return launch(cases_kernel<S>, ceil_div(p.n * 9 * place.pitch, kThreads), dim3(kThreads), 0,
                stream, p, place);
}
template <class S>
cudaError_t take_gates(const Params& p, const Workspace& place, cudaStream_t stream) {
  return launch(given_gates_kernel<S>, ceil_div(p.n * p.c, kThreads), dim3(kThreads), 0, stream, p,
                place);
}

// The first convolution, f (and cond) to hidden, or the second one, hidden to r.
template <bool First>
__global__ void __launch_bounds__(kDirectThreads, 2)
    convolve_kernel(Params p, Workspace place, DirectConvolution convolution) {
  PYSR_DYNAMIC_SHARED(float, shared);
  const float* const features = Workspace::at<float>(p, place.hidden);
  const float* const cases = Workspace::at<float>(p, place.cases);
  float* const out = Workspace::at<float>(p, First ? place.hidden : place.r);
  const auto input = [&](int64_t n, int64_t c, int64_t y, int64_t x) {
    if (!First) return features[((n * p.hidden() + c) * p.h + y) * p.w + x];
    const auto& stride = c < p.c ? p.f_stride : p.cond_stride;
    const float* const data = static_cast<const float*>(c < p.c ? p.f : p.cond);
    const int64_t channel = c < p.c ? c : c - p.c;
    return data[n * stride[0] + channel * stride[1] + y * stride[2] + x * stride[3]];
  };
  const auto output = [&](int64_t n, int64_t o, int64_t y, int64_t x, float sum) {
    const int64_t border = border_case(y, p.h) * 3 + border_case(x, p.w);
    out[((n * convolution.outputs + o) * p.h + y) * p.w + x] =
        First ? leaky(sum + cases[(n * 9 + border) * place.pitch + o])
              : sum + static_cast<const float*>(p.conv2_bias)[o];
  };
  convolve_direct<3>(convolution, shared, input, output);
}

// Sums of r, one block per channel and part.
__global__ void __launch_bounds__(kThreads, 2) sums_kernel(Params p, Workspace place) {
  PYSR_DYNAMIC_SHARED(float, shared);
  const int64_t part = blockIdx.x % place.parts, plane = blockIdx.x / place.parts;
  const int64_t pixels = p.h * p.w;
  const float* const r = Workspace::at<float>(p, place.r) + plane * pixels;
  const int thread = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int64_t t = part * kThreads + thread; t < pixels; t += place.parts * kThreads) sum += r[t];
  shared[thread] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) shared[thread] += shared[thread + half];
  }
  if (thread == 0) Workspace::at<float>(p, place.sums)[blockIdx.x] = shared[0];
}

// Channel attention from the sums of r, one block per image.
__global__ void __launch_bounds__(kThreads, 2) float_gates_kernel(Params p, Workspace place) {
  PYSR_DYNAMIC_SHARED(float, means);
  const int64_t n = blockIdx.x;
  const float* const sums = Workspace::at<float>(p, place.sums) + n * p.c * place.parts;
  for (int64_t c = threadIdx.x; c < p.c; c += kThreads) {
    double sum = 0;
    for (int64_t part = 0; part < place.parts; ++part) sum += sums[c * place.parts + part];
    means[c] = static_cast<float>(sum / static_cast<double>(p.h * p.w));
  }
  attend<float>(p, place, n, means, means + p.c);
}

__global__ void __launch_bounds__(kThreads, 2) residual_kernel(Params p, Workspace place) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t pixels = p.h * p.w, plane = index / pixels;
  if (plane >= p.n * p.c) return;
  const int64_t n = plane / p.c, c = plane % p.c, y = index % pixels / p.w, x = index % p.w;
  const float change =
      Workspace::at<float>(p, place.gates)[plane] * Workspace::at<float>(p, place.r)[index];
  const auto offset = [=](const int64_t(&stride)[4]) {
    return n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
  };
  static_cast<float*>(p.out)[offset(p.out_stride)] =
      static_cast<const float*>(p.f)[offset(p.f_stride)] + change;
}

cudaError_t run_float(const Params& p, cudaStream_t stream) {
  const Workspace place(p);
  const dim3 line(kThreads), warps(kDirectColumns, kDirectWarps);
  const auto convolution = [&p](const void* weight, int64_t inputs, int64_t outputs) {
    return DirectConvolution{
        static_cast<const float*>(weight), p.hidden(), inputs, outputs, p.n, p.h, p.w};
  };
  const auto first = convolution(p.conv1_weight, p.constant() ? p.c : p.hidden(), p.hidden());
  const auto second = convolution(p.conv2_weight, p.hidden(), p.c);
  const size_t tile = DirectShape<3>::bytes;

  cudaError_t status = make_cases<float>(p, place, stream);
  if (status != cudaSuccess) return status;
  status = launch(convolve_kernel<true>, first.blocks(), warps, tile, stream, p, place, first);
  if (status != cudaSuccess) return status;
  status = launch(convolve_kernel<false>, second.blocks(), warps, tile, stream, p, place, second);
  if (status != cudaSuccess) return status;
  if (p.gate == nullptr) {
    status = launch(sums_kernel, p.n * p.c * place.parts, line, sizeof(float) * kThreads, stream, p,
                    place);
    if (status != cudaSuccess) return status;
    const size_t widths = sizeof(float) * static_cast<size_t>(p.c + p.r);
    status = launch(float_gates_kernel, p.n, line, widths, stream, p, place);
  } else {
    status = take_gates<float>(p, place, stream);
  }
  if (status != cudaSuccess) return status;
  return launch(residual_kernel, ceil_div(p.n * p.c * p.h * p.w, kThreads), line, 0, stream, p,
                place);
}

// Shared memory of the kernel below, in floats.
struct GateMemory {
  int64_t partial, lines, touched, means, reduced, end;
  GateMemory(const Params& p, const Workspace& place) {
    partial = 0;                                      // (segments, pitch)
    lines = partial + kGateThreads * 4;               // (LineSums::lines, pitch)
    touched = lines + LineSums::lines * place.pitch;  // (hidden, 9)
    means = touched + p.hidden() * 9;
    reduced = means + p.c;
    end = reduced + p.r;
  }
};

// Channel attention from the sums of the hidden features, one block per image.
template <class S>
__global__ void __launch_bounds__(kGateThreads, 1)
    gates_kernel(Params p, Workspace place, LineSums lines, GateMemory memory) {
  PYSR_DYNAMIC_SHARED(float, shared);
  const int64_t n = blockIdx.x, pitch = place.pitch, products = p.hidden() * 9;
  const int thread = static_cast<int>(threadIdx.x);
  float* const partial = shared + memory.partial;
  float* const line_sums = shared + memory.lines;
  float* const touched = shared + memory.touched;
  float* const means = shared + memory.means;

  // A thread sums four neighbouring channels of every segments-th block.
  struct alignas(16) Four {
    float values[4];
  };
  const int fours = static_cast<int>(pitch / 4), segments = kGateThreads / fours;
  const int segment = thread / fours, four = thread % fours;
  for (int line = 0; line < LineSums::lines; ++line) {
    Four sum{};
    const float* const from = Workspace::at<float>(p, place.sums) +
                              (n * lines.slots() + lines.start(line)) * pitch + four * 4;
#pragma unroll 8
    for (int64_t slot = segment; slot < lines.count(line); slot += segments) {
      const Four each = *reinterpret_cast<const Four*>(from + slot * pitch);
      for (int k = 0; k < 4; ++k) sum.values[k] += each.values[k];
    }
    if (segment < segments) reinterpret_cast<Four*>(partial)[thread] = sum;
    __syncthreads();
    for (int64_t c = thread; c < pitch; c += kGateThreads) {
      float total = 0;
      for (int s = 0; s < segments; ++s) total += partial[s * pitch + c];
      line_sums[line * pitch + c] = total;
    }
    __syncthreads();
  }
  // A tap of the first row never touches the last row, and so on.
  const S* const hidden = Workspace::at<const S>(p, place.hidden) + n * p.h * p.w * pitch;
  for (int64_t t = thread; t < products; t += kGateThreads) {
    const int64_t c = t / 9, u = t % 9 / 3, v = t % 3;
    float sum = line_sums[c];
    if (u != 1) sum -= line_sums[(u == 0 ? 2 : 1) * pitch + c];
    if (v != 1) sum -= line_sums[(v == 0 ? 4 : 3) * pitch + c];
    if (u != 1 && v != 1) {
      const int64_t y = u == 0 ? p.h - 1 : 0, x = v == 0 ? p.w - 1 : 0;
      sum += widen(hidden[(y * p.w + x) * pitch + c]);
    }
    touched[t] = sum;
  }
  __syncthreads();
  constexpr int kOutputs = kGateThreads / kSegments;  // at once
  for (int64_t first = 0; first < p.c; first += kOutputs) {
    const int64_t o = first + thread / kSegments;
    float sum = 0;
    for (int64_t t = thread % kSegments; o < p.c && t < products; t += kSegments) {
      sum += at<S>(p.conv2_weight, o * products + t) * touched[t];
    }
    partial[thread] = sum;
    __syncthreads();
    const int64_t mine = first + thread;
    if (thread < kOutputs && mine < p.c) {
      float total = 0;
      for (int s = 0; s < kSegments; ++s) total += partial[thread * kSegments + s];
      means[mine] = total / static_cast<float>(p.h * p.w) + at<S>(p.conv2_bias, mine);
    }
    __syncthreads();
  }
  attend<S>(p, place, n, means, shared + memory.reduced);
}

int pack(const Params& p, void* to, cudaStream_t stream) {
  const PackedWeights first = first_weights(p);
  const int status = pack_weights(first, p.conv1_weight, to, stream);
  if (status != cudaSuccess) return status;
  return pack_weights(second_weights(p), p.conv2_weight,
                      static_cast<uint16_t*>(to) + first.halves(), stream);
}

template <class S>
int run_halves(const Params& p, cudaStream_t stream) {
  const Workspace place(p);
  const LineSums lines(p.h, p.w);
  const GateMemory memory(p, place);
  TensorConvolution first{}, second{};
  first.weights = first_weights(p), second.weights = second_weights(p);
  first.packed = p.packed;
  if (p.packed == nullptr) {
    first.packed = Workspace::at<void>(p, place.packed);
    const int status = pack(p, Workspace::at<void>(p, place.packed), stream);
    if (status != cudaSuccess) return status;
  }
  second.packed = static_cast<const uint16_t*>(first.packed) + first.weights.halves();
  int status =
      as_pixels(picture_of_f(p), Workspace::at<void>(p, place.f), &first.inputs[0], stream);
  if (status != cudaSuccess) return status;
  if (!p.constant()) {
    status =
        as_pixels(picture_of_cond(p), Workspace::at<void>(p, place.cond), &first.inputs[1], stream);
    if (status != cudaSuccess) return status;
  }
  status = make_cases<S>(p, place, stream);
  if (status != cudaSuccess) return status;

  for (TensorConvolution* each : {&first, &second}) {
    each->side = 3, each->dtype = p.dtype;
    each->n = p.n, each->h = p.h, each->w = p.w;
  }
  void* const hidden = Workspace::at<void>(p, place.hidden);
  const int64_t strides[4] = {p.h * p.w * place.pitch, 1, p.w * place.pitch, place.pitch};
  first.columns = place.pitch;
  first.cases = Workspace::at<float>(p, place.cases);
  first.sums = p.gate == nullptr ? Workspace::at<float>(p, place.sums) : nullptr;
  first.out = hidden;
  std::copy_n(strides, 4, first.out_stride);
  status = tensor_convolve(first, stream);
  if (status != cudaSuccess) return status;

  if (p.gate == nullptr) {
    status = launch(gates_kernel<S>, p.n, dim3(kGateThreads),
                    sizeof(float) * static_cast<size_t>(memory.end), stream, p, place, lines,
                    memory);
  } else {
    status = take_gates<S>(p, place, stream);
  }
  if (status != cudaSuccess) return status;

  second.inputs[0] = {hidden, strides[0], strides[2], strides[3], place.pitch / kPlane};
  second.columns = p.c;
  second.bias = p.conv2_bias;
  second.f = p.f;
  second.gates = Workspace::at<float>(p, place.gates);
  second.out = p.out;
  std::copy_n(p.f_stride, 4, second.f_stride);
  std::copy_n(p.out_stride, 4, second.out_stride);
  return tensor_convolve(second, stream);
}

}  // namespace

int64_t conditional_residual_block_workspace(const Params& p) { return Workspace(p).end; }

int conditional_residual_block_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid() || p.workspace == nullptr) return cudaErrorInvalidValue;
  if (p.dtype == DType::bfloat16) return run_halves<BFloat16>(p, stream);
  if (p.dtype == DType::float16) return run_halves<Float16>(p, stream);
  return run_float(p, stream);
}

int64_t conditional_residual_block_packed_cuda(const Params& p) {
  if (p.dtype == DType::float32) return 0;
  const int64_t halves = first_weights(p).halves() + second_weights(p).halves();
  return halves * static_cast<int64_t>(sizeof(uint16_t));
}

int conditional_residual_block_pack_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid_weights()) return cudaErrorInvalidValue;
  if (p.dtype == DType::float32) return cudaSuccess;
  return p.packed == nullptr ? static_cast<int>(cudaErrorInvalidValue) : pack(p, p.packed, stream);
}

}  // namespace pysr
