// Convolutions as implicit matrix products on tensor cores: pixels by input channels and taps,
// times input channels and taps by output channels, added up in float.
//
// A block of 8 warps computes 16 x 16 pixels by up to 80 channels (what 64 + 10 channels pad to).
// It walks through the input channels 16 at a time, in two stages of shared memory: one arrives
// while the other is multiplied. A pixel outside the picture arrives as zeros. Weights come packed
// in the order in which lanes hold them, and need no ldmatrix.
//
// A warp computes 4 rows of 16 pixels by half of the channels. For one column of taps and 16 input
// channels it loads the 6 rows of pixels that its 4 rows see (ldmatrix), and uses each up to three
// times: 6.9 KB of shared memory feed 60 products of 4096 operations each, which at 128 bytes and
// 2048 operations a cycle is 54 against 120 cycles. Its 80 sums, 24 registers of pixels and the
// weights stay within the 128 registers that let two blocks share a multiprocessor. A stage takes
// 33 KB of shared memory; the two of a block 67 KB, of the 99 KB that sm_120 grants, and those of
// two blocks 134 KB of sm_80's 164. Pixels lie in planes of 8 channels, 16 bytes side by side, so
// that ldmatrix meets every bank once without a swizzle; planes start half of the banks apart, so
// that the copies, which alternate between two planes, do as well.
//
// All this is reasoned, not measured. Pictures of less than about 200 tiles leave multiprocessors
// idle; smaller tiles would help them.
#include "cuda/tensor_convolution.h"

#include "cuda/mma.cuh"

namespace pysr {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kLanes;
constexpr int kGroups = kWarps / kSides;  // of warps that share columns
constexpr int kRows = kTile / kGroups;    // of a warp
constexpr float kSlope = 0.2f;

// Shared memory of one step, in bytes: two planes of pixels, then the weights.
template <int Side, int Tiles>
struct Step {
  static constexpr int width = kTile + Side - 1;
  static constexpr int pixels = width * width;
  static constexpr int plane = (pixels * 16 + 63) / 128 * 128 + 64;
  static constexpr int weights = Side * Side * kSides * Tiles * kLanes * 8;
  static constexpr int bytes = kPlanes * plane + weights;
};

// Neighbours in memory, read and written at once.
template <class T, int Count>
struct alignas(sizeof(T) * Count) Run {
  T values[Count];
};

// What a thread needs to know of its block.
struct Place {
  int64_t n, block, tile_y, tile_x;
  PYSR_HD int64_t top() const { return tile_y * kTile; }
  PYSR_HD int64_t left() const { return tile_x * kTile; }
};

template <int Side, int Tiles>
__device__ void start_copies(const TensorConvolution& p, const Place& place, int64_t step,
                             int64_t steps, unsigned char* shared) {
  using Shape = Step<Side, Tiles>;
  const int thread = static_cast<int>(threadIdx.x);
  const Pixels &f = p.inputs[0], &cond = p.inputs[1];
#pragma unroll 1
  for (int t = thread; t < kPlanes * Shape::pixels; t += kThreads) {
    const int part = t % kPlanes, pixel = t / kPlanes;
    const int64_t y = place.top() + pixel / Shape::width - Side / 2;
    const int64_t x = place.left() + pixel % Shape::width - Side / 2;
    int64_t plane = step * kPlanes + part;
    const bool first = plane < f.planes;
    const Pixels& from = first ? f : cond;
    if (!first) plane -= f.planes;
    const bool inside = plane < from.planes && y >= 0 && y < p.h && x >= 0 && x < p.w;
    const int64_t offset = place.n * from.image + y * from.row + x * from.pixel + plane * kPlane;
    copy_async(shared + part * Shape::plane + pixel * 16,
               inside ? static_cast<const uint16_t*>(from.data) + offset : p.packed, inside);
  }
  const unsigned char* const weights = static_cast<const unsigned char*>(p.packed) +
                                       (place.block * steps + step) * Shape::weights;
#pragma unroll 4
  for (int t = thread * 16; t < Shape::weights; t += kThreads * 16) {
    copy_async(shared + kPlanes * Shape::plane + t, weights + t, true);
  }
}

template <class S, int Side, int Tiles>
__device__ void multiply(const unsigned char* shared, float (&sums)[kRows][Tiles][4]) {
  using Shape = Step<Side, Tiles>;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const unsigned char* const pixels = shared + warp % kGroups * kRows * Shape::width * 16;
  const unsigned char* const weights =
      shared + kPlanes * Shape::plane + (warp / kGroups * Tiles * kLanes + lane) * 8;
  __syncwarp();  // lanes had copies to start that others had not; the loads are of all at once
#pragma unroll
  for (int v = 0; v < Side; ++v) {
    uint32_t a[kRows + Side - 1][4];
#pragma unroll
    for (int i = 0; i < kRows + Side - 1; ++i) {
      load_pixels(a[i], pixels + (i * Shape::width + v) * 16, Shape::plane);
    }
#pragma unroll
    for (int u = 0; u < Side; ++u) {
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
        const auto b = *reinterpret_cast<const Run<uint32_t, 2>*>(
            weights + ((u * Side + v) * kSides * Tiles + t) * kLanes * 8);
#pragma unroll
        for (int i = 0; i < kRows; ++i) multiply_add<S>(sums[i][t], a[i + u], b.values);
      }
    }
  }
}

constexpr int kRun = 4;  // columns of a thread in the store

// Shared memory of the store. The sums go through it row by row of every warp, so that neighbouring
// channels are stored by neighbouring threads.
template <int Tiles>
struct Store {
  static constexpr int columns = kSides * Tiles * 8;
  static constexpr int pitch = columns + 8;  // so that lanes 4 apart, pixels, meet different banks
  static constexpr int runs = columns / kRun;
  static constexpr int parts = kThreads / runs;  // pixels at once; a thread keeps to its columns

  Run<float, kRun> lines[LineSums::lines][kThreads];  // what each thread adds to LineSums
  float sums[kGroups * kTile][pitch];
  float bias[9][columns];  // of the border cases, all the same where there are none
  float gates[columns];
};

// Where a column goes after the pixel shuffle.
struct Position {
  int channel, row, column;

  __device__ Position(const TensorConvolution& p, int64_t index) {
    const int shuffle = p.weights.shuffle, place = static_cast<int>(index);
    const int channels = static_cast<int>(p.columns) / (shuffle * shuffle);
    channel = place % channels, row = place / channels / shuffle;
    column = place / channels % shuffle;
  }
};

template <class S, int Tiles>
__device__ void fill_tables(const TensorConvolution& p, const Place& place, Store<Tiles>& shared) {
  for (int t = static_cast<int>(threadIdx.x); t < 9 * shared.columns; t += kThreads) {
    const int border = t / shared.columns, offset = t % shared.columns;
    const int64_t column = place.block * shared.columns + offset;
    if (column >= p.columns) continue;
    shared.bias[border][offset] =
        p.cases != nullptr ? p.cases[(place.n * 9 + border) * p.columns + column]
                           : widen(static_cast<const S*>(p.bias)[p.weights.output_at(column)]);
    if (border == 0 && p.f != nullptr) shared.gates[offset] = p.gates[place.n * p.columns + column];
  }
}

// Stores channels of a pixel that are neighbours in memory, and leaves in `values` what was stored.
template <class S, int Count>
__device__ void store_run(const TensorConvolution& p, int64_t n, const Position& to, int64_t y,
                          int64_t x, const float* gates, Run<float, Count>& values) {
  if (p.f != nullptr) {
    const S* const f = static_cast<const S*>(p.f) + n * p.f_stride[0] + to.channel * p.f_stride[1] +
                       y * p.f_stride[2] + x * p.f_stride[3];
    const auto run = *reinterpret_cast<const Run<S, Count>*>(f);
#pragma unroll
    for (int k = 0; k < Count; ++k) {
      values.values[k] = widen(run.values[k]) + gates[k] * values.values[k];
    }
  }
  Run<S, Count> run;
#pragma unroll
  for (int k = 0; k < Count; ++k) {
    run.values[k] = Narrow<S>::from(values.values[k]);
    values.values[k] = widen(run.values[k]);
  }
  const int shuffle = p.weights.shuffle;
  S* const out = static_cast<S*>(p.out) + n * p.out_stride[0] + to.channel * p.out_stride[1] +
                 (y * shuffle + to.row) * p.out_stride[2] +
                 (x * shuffle + to.column) * p.out_stride[3];
  *reinterpret_cast<Run<S, Count>*>(out) = run;
}

// Whether a pixel counts for one of LineSums.
__device__ bool on_line(int line, int64_t y, int64_t x, int64_t h, int64_t w) {
  return line == 0 || (line == 1 && y == 0) || (line == 2 && y == h - 1) || (line == 3 && x == 0) ||
         (line == 4 && x == w - 1);
}

// Stores row `row` of every warp.
template <class S, int Tiles>
__device__ void store_rows(const TensorConvolution& p, const Place& place, int row, bool runs,
                           Store<Tiles>& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const int offset = thread % shared.runs * kRun;
  const int64_t column = place.block * shared.columns + offset;
  if (thread >= shared.parts * shared.runs || column >= p.columns) return;
  const Position position(p, column);
#pragma unroll 1
  for (int pixel = thread / shared.runs; pixel < kGroups * kTile; pixel += shared.parts) {
    const int64_t y = place.top() + pixel / kTile * kRows + row;
    const int64_t x = place.left() + pixel % kTile;
    if (y >= p.h || x >= p.w) continue;
    const int border = border_case(y, p.h) * 3 + border_case(x, p.w);
    auto values = *reinterpret_cast<const Run<float, kRun>*>(&shared.sums[pixel][offset]);
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      const float sum = values.values[k] + shared.bias[border][offset + k];
      values.values[k] = sum > 0 || p.cases == nullptr ? sum : kSlope * sum;
    }
    const float* const gates = shared.gates + offset;
    if (runs) {
      store_run<S>(p, place.n, position, y, x, gates, values);
    } else {
#pragma unroll 1
      for (int k = 0; k < kRun && column + k < p.columns; ++k) {
        Run<float, 1> value{{shared.sums[pixel][offset + k] + shared.bias[border][offset + k]}};
        store_run<S>(p, place.n, Position(p, column + k), y, x, gates + k, value);
      }
    }
    if (p.sums == nullptr) continue;
#pragma unroll
    for (int line = 0; line < LineSums::lines; ++line) {
      if (!on_line(line, y, x, p.h, p.w)) continue;
#pragma unroll
      for (int k = 0; k < kRun; ++k) shared.lines[line][thread].values[k] += values.values[k];
    }
  }
}

// Adds up what the block's threads have stored, always in the same order.
template <int Tiles>
__device__ void add_lines(const TensorConvolution& p, const LineSums& lines, const Place& place,
                          const Store<Tiles>& shared) {
  const bool touched[LineSums::lines] = {true, place.tile_y == 0, place.tile_y == lines.down - 1,
                                         place.tile_x == 0, place.tile_x == lines.across - 1};
  const int offset = static_cast<int>(threadIdx.x);
  const int64_t column = place.block * shared.columns + offset;
  if (offset >= shared.columns || column >= p.columns) return;
#pragma unroll
  for (int line = 0; line < LineSums::lines; ++line) {
    if (!touched[line]) continue;
    float sum = 0;
    for (int part = 0; part < shared.parts; ++part) {
      sum += shared.lines[line][part * shared.runs + offset / kRun].values[offset % kRun];
    }
    const int64_t index = line == 0  ? place.tile_y * lines.across + place.tile_x
                          : line < 3 ? place.tile_x
                                     : place.tile_y;
    p.sums[(place.n * lines.slots() + lines.start(line) + index) * p.columns + column] = sum;
  }
}

template <class S, int Tiles>
__device__ void store_tile(const TensorConvolution& p, const LineSums& lines, const Place& place,
                           bool runs, const float (&sums)[kRows][Tiles][4], Store<Tiles>& shared) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes, warp = thread / kLanes;
  fill_tables<S>(p, place, shared);
#pragma unroll
  for (int line = 0; line < LineSums::lines; ++line) shared.lines[line][thread] = {};
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int t = 0; t < Tiles; ++t) {
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const int pixel = warp % kGroups * kTile + c_element(lane, e).row;
        const int column = (warp / kGroups * Tiles + t) * 8 + c_element(lane, e).column;
        *reinterpret_cast<Run<float, 2>*>(&shared.sums[pixel][column]) = {
            {sums[row][t][e], sums[row][t][e + 1]}};
      }
    }
    __syncthreads();
    store_rows<S>(p, place, row, runs, shared);
    __syncthreads();
  }
  if (p.sums != nullptr) add_lines(p, lines, place, shared);
}

template <class S, int Side, int Tiles>
__global__ void __launch_bounds__(kThreads, 2)
    convolve_kernel(TensorConvolution p, LineSums lines, int64_t steps, int64_t blocks,
                    bool runs) {
  PYSR_DYNAMIC_SHARED(unsigned char, shared);
  const int64_t tile = blockIdx.x / blocks;
  const Place place{tile / (lines.across * lines.down), blockIdx.x % blocks,
                    tile / lines.across % lines.down, tile % lines.across};
  float sums[kRows][Tiles][4] = {};
  start_copies<Side, Tiles>(p, place, 0, steps, shared);
#pragma unroll 1
  for (int64_t step = 0; step < steps; ++step) {
    wait_copies();
    __syncthreads();  // this step is there, and the other copy is read to the end
    unsigned char* const other = shared + (step + 1) % 2 * Step<Side, Tiles>::bytes;
    if (step + 1 < steps) start_copies<Side, Tiles>(p, place, step + 1, steps, other);
    multiply<S, Side, Tiles>(shared + step % 2 * Step<Side, Tiles>::bytes, sums);
  }
  __syncthreads();
  static_assert(sizeof(Store<Tiles>) <= 2 * Step<Side, Tiles>::bytes, "the store fits");
  store_tile<S>(p, lines, place, runs, sums, *reinterpret_cast<Store<Tiles>*>(shared));
}

__global__ void __launch_bounds__(kThreads, 2)
    pack_kernel(PackedWeights packed, const uint16_t* from, uint16_t* to) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= packed.halves()) return;
  const int64_t source = packed.source(index);
  to[index] = source < 0 ? uint16_t{0} : from[source];
}

struct Strides {
  int64_t n, c, y, x;
};

// Copies 8 channels of a pixel; what pads the last ones is 0.
__global__ void __launch_bounds__(kThreads, 2)
    stage_kernel(const uint16_t* from, Strides stride, int64_t n, int64_t c, int64_t h, int64_t w,
                 uint16_t* to) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t planes = ceil_div(c, kPlane), pixels = h * w;
  if (index >= n * planes * pixels) return;
  const int64_t image = index / pixels / planes, plane = index / pixels % planes;
  const int64_t y = index % pixels / w, x = index % w;
  from += image * stride.n + y * stride.y + x * stride.x;
  Run<uint16_t, kPlane> run;
#pragma unroll
  for (int k = 0; k < kPlane; ++k) {
    const int64_t channel = plane * kPlane + k;
    run.values[k] = channel < c ? from[channel * stride.c] : uint16_t{0};
  }
  reinterpret_cast<Run<uint16_t, kPlane>*>(to)[(image * pixels + index % pixels) * planes + plane] =
      run;
}

// Whether `run` neighbouring channels of a pixel of halves can be accessed at once, everywhere.
bool holds_runs(const void* data, int64_t channels, const int64_t* stride, int run) {
  const auto aligned = [run](int64_t value) { return value % run == 0; };
  return stride[1] == 1 && aligned(channels) && aligned(stride[0]) && aligned(stride[2]) &&
         aligned(stride[3]) && reinterpret_cast<uintptr_t>(data) % (sizeof(uint16_t) * run) == 0;
}

template <class S, int Side, int Tiles>
cudaError_t run(const TensorConvolution& p, cudaStream_t stream) {
  const LineSums lines(p.h, p.w);
  const int64_t blocks = p.weights.blocks();
  const int64_t channels = p.columns / (p.weights.shuffle * p.weights.shuffle);
  const bool runs = holds_runs(p.out, channels, p.out_stride, kRun) &&
                       (p.f == nullptr || holds_runs(p.f, channels, p.f_stride, kRun));
  return launch(convolve_kernel<S, Side, Tiles>, p.n * lines.count(0) * blocks, dim3(kThreads),
                2 * Step<Side, Tiles>::bytes, stream, p, lines, p.weights.steps(), blocks, runs);
}

template <class S>
cudaError_t run(const TensorConvolution& p, cudaStream_t stream) {
  if (p.side == 5) {
    return p.weights.tiles == 1 ? run<S, 5, 1>(p, stream) : run<S, 5, 2>(p, stream);
  }
  switch (p.weights.tiles) {
    case 1: return run<S, 3, 1>(p, stream);
    case 2: return run<S, 3, 2>(p, stream);
    case 3: return run<S, 3, 3>(p, stream);
    case 4: return run<S, 3, 4>(p, stream);
    default: return run<S, 3, 5>(p, stream);
  }
}

}  // namespace

int tensor_convolve(const TensorConvolution& p, cudaStream_t stream) {
  return p.dtype == DType::bfloat16 ? run<BFloat16>(p, stream) : run<Float16>(p, stream);
}

PackedWeights packed_weights(int64_t first, int64_t second, int64_t weight_inputs, int64_t outputs,
                             int shuffle, int side) {
  // Two steps of 5 x 5 taps and more than 32 columns would not fit in shared memory.
  const int most = side == 3 ? 5 : 2;
  return {{first, second}, weight_inputs, outputs, shuffle, side * side, tiles_for(outputs, most)};
}

int pack_weights(const PackedWeights& packed, const void* from, void* to, cudaStream_t stream) {
  return launch(pack_kernel, ceil_div(packed.halves(), kThreads), dim3(kThreads), 0, stream, packed,
                static_cast<const uint16_t*>(from), static_cast<uint16_t*>(to));
}

bool StridedPicture::is_pixels() const { return holds_runs(data, c, stride, kPlane); }

int as_pixels(const StridedPicture& picture, void* stage, Pixels* pixels, cudaStream_t stream) {
  const int64_t n = picture.n, c = picture.c, h = picture.h, w = picture.w;
  const int64_t* const stride = picture.stride;
  const int64_t planes = ceil_div(c, kPlane), padded = planes * kPlane;
  if (picture.is_pixels()) {
    *pixels = {picture.data, stride[0], stride[2], stride[3], planes};
    return cudaSuccess;
  }
  *pixels = {stage, h * w * padded, w * padded, padded, planes};
  const Strides strides{stride[0], stride[1], stride[2], stride[3]};
  return launch(stage_kernel, ceil_div(n * h * w * planes, kThreads), dim3(kThreads), 0, stream,
                static_cast<const uint16_t*>(picture.data), strides, n, c, h, w,
                static_cast<uint16_t*>(stage));
}

}  // namespace pysr
