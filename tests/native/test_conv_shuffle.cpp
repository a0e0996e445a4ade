// Calls the launchers without Python: the CPU kernels, or with the argument "cuda" the CUDA source
// under the emulator, against the definition written out in double. Exits non-zero on a
// disagreement.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/isa.h"
#include "ops/conv_shuffle.h"
#include "reference.h"

using namespace pysr;

namespace {

using Params = ConvShuffleParams;

struct Case {
  int64_t n, c, o, h, w, side, shuffle;
  bool in_channels_last, out_channels_last;
};

// Sizes around the tiles (4 x 4 and 24 of them; 8 x 32 and 16 x 16 on CUDA), the vectors (4, 8, 16
// channels) and CUDA's blocks of channels (16 to 80), with and without whole planes after the
// shuffle.
const Case kCases[] = {
    {1, 1, 1, 1, 1, 3, 1, false, false},    {2, 3, 64, 2, 5, 3, 1, false, true},
    {1, 24, 3, 17, 18, 3, 1, true, false},  {1, 16, 64, 3, 16, 3, 2, true, true},
    {1, 9, 48, 5, 7, 3, 4, true, false},    {2, 8, 12, 33, 2, 3, 2, true, true},
    {1, 40, 162, 2, 3, 3, 3, false, true},  {1, 5, 36, 4, 33, 5, 1, false, true},
    {1, 16, 48, 9, 6, 5, 4, true, true},    {1, 80, 74, 1, 17, 3, 1, true, true},
};

struct Device {
  void (*launch)(const Params&);
  int64_t (*packed_bytes)(const Params&);
  void (*pack)(const Params&);
};

template <class S>
void test(const Case& k, DType dtype, const Device& device) {
  std::mt19937 random(static_cast<unsigned>(k.h * 100 + k.w));
  const auto values = [&](int64_t count) { return random_values<S>(count, random); };
  std::vector<S> x = values(k.n * k.c * k.h * k.w), bias = values(k.o);
  std::vector<S> weight = values(k.o * k.c * k.side * k.side);
  std::vector<S> out(static_cast<size_t>(k.n * k.o * k.h * k.w));

  Params p{};
  p.x = x.data(), p.weight = weight.data(), p.bias = bias.data(), p.out = out.data();
  p.n = k.n, p.c = k.c, p.o = k.o, p.h = k.h, p.w = k.w, p.side = k.side, p.shuffle = k.shuffle;
  const int64_t channels = k.o / (k.shuffle * k.shuffle);
  strides_of(k.c, k.h, k.w, k.in_channels_last, p.x_stride);
  strides_of(channels, k.h * k.shuffle, k.w * k.shuffle, k.out_channels_last, p.out_stride);
  p.dtype = dtype;
  p.threads = 3;
  const std::string what = "n=" + std::to_string(k.n) + " c=" + std::to_string(k.c) +
                           " o=" + std::to_string(k.o) + " h=" + std::to_string(k.h) +
                           " w=" + std::to_string(k.w) + " side=" + std::to_string(k.side);
  launch_both_ways(what, p, out, device.launch, device.packed_bytes, device.pack);

  std::vector<double> expected(out.size()), magnitude(out.size());
  for (int64_t n = 0; n < k.n; ++n)
    for (int64_t o = 0; o < k.o; ++o)
      for (int64_t y = 0; y < k.h; ++y)
        for (int64_t at_x = 0; at_x < k.w; ++at_x) {
          double sum = widen(bias[o]), absolute = std::abs(sum);
          for (int64_t c = 0; c < k.c; ++c)
            for (int64_t u = 0; u < k.side; ++u)
              for (int64_t v = 0; v < k.side; ++v) {
                const int64_t row = y + u - k.side / 2, column = at_x + v - k.side / 2;
                if (row < 0 || row >= k.h || column < 0 || column >= k.w) continue;
                const double product =
                    double{widen(weight[((o * k.c + c) * k.side + u) * k.side + v])} *
                    widen(x[at(p.x_stride, n, c, row, column)]);
                sum += product, absolute += std::abs(product);
              }
          const int64_t subpixel = o % (k.shuffle * k.shuffle);
          const int64_t place = at(p.out_stride, n, o / (k.shuffle * k.shuffle),
                                   y * k.shuffle + subpixel / k.shuffle,
                                   at_x * k.shuffle + subpixel % k.shuffle);
          expected[place] = sum, magnitude[place] = absolute;
        }
  compare(what, out, expected, magnitude);
}

// The gradient by the weight, which has CPU kernels alone; no sum is wider than a picture's.
template <class S>
void test_gradient(const Case& k, DType dtype) {
  std::mt19937 random(static_cast<unsigned>(k.h * 100 + k.w));
  std::vector<S> x = random_values<S>(k.n * k.c * k.h * k.w, random);
  std::vector<S> grad = random_values<S>(k.n * k.o * k.h * k.w, random);
  std::vector<S> grad_weight(static_cast<size_t>(k.o * k.c * k.side * k.side)), again(grad_weight);

  ConvShuffleGradWeightParams p{};
  p.x = x.data(), p.grad = grad.data(), p.grad_weight = grad_weight.data();
  p.n = k.n, p.c = k.c, p.o = k.o, p.h = k.h, p.w = k.w, p.side = k.side;
  strides_of(k.c, k.h, k.w, k.in_channels_last, p.x_stride);
  strides_of(k.o, k.h, k.w, k.out_channels_last, p.grad_stride);
  p.dtype = dtype;
  p.threads = 3;
  conv_shuffle_grad_weight_cpu(p);
  const std::string what = "gradient of o=" + std::to_string(k.o) + " c=" + std::to_string(k.c) +
                           " h=" + std::to_string(k.h) + " side=" + std::to_string(k.side);
  p.grad_weight = again.data();
  p.threads = 1;
  conv_shuffle_grad_weight_cpu(p);
  if (std::memcmp(again.data(), grad_weight.data(), again.size() * sizeof(S)) != 0) {
    std::printf("%s: other bits on one thread\n", what.c_str());
    std::exit(1);
  }

  std::vector<double> expected(grad_weight.size()), magnitude(grad_weight.size());
  for (int64_t o = 0; o < k.o; ++o)
    for (int64_t c = 0; c < k.c; ++c)
      for (int64_t u = 0; u < k.side; ++u)
        for (int64_t v = 0; v < k.side; ++v) {
          double sum = 0, absolute = 0;
          for (int64_t n = 0; n < k.n; ++n)
            for (int64_t y = 0; y < k.h; ++y)
              for (int64_t at_x = 0; at_x < k.w; ++at_x) {
                const int64_t row = y + u - k.side / 2, column = at_x + v - k.side / 2;
                if (row < 0 || row >= k.h || column < 0 || column >= k.w) continue;
                const double product = double{widen(grad[at(p.grad_stride, n, o, y, at_x)])} *
                                       widen(x[at(p.x_stride, n, c, row, column)]);
                sum += product, absolute += std::abs(product);
              }
          const int64_t place = ((o * k.c + c) * k.side + u) * k.side + v;
          // Winograd's transforms round at the size of what a tile holds, not of the sum.
          expected[place] = sum, magnitude[place] = absolute + 4;
        }
  compare(what, grad_weight, expected, magnitude);
}

}  // namespace

int main(int count, char** arguments) {
  const bool cuda = count > 1 && std::strcmp(arguments[1], "cuda") == 0;
  const Device cpu{conv_shuffle_cpu, conv_shuffle_packed_cpu, conv_shuffle_pack_cpu};
  const Device emulator{emulated<Params, conv_shuffle_cuda, conv_shuffle_workspace>,
                        conv_shuffle_packed_cuda, emulated_pack<Params, conv_shuffle_pack_cuda>};
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    dispatch_float(dtype, [&](auto type) {
      for (const Case& each : kCases) {
        using S = typename decltype(type)::type;
        test<S>(each, dtype, cuda ? emulator : cpu);
        if (!cuda) test_gradient<S>(each, dtype);
      }
    });
  }
  for (const auto& refused : {+[] { conv_shuffle_cpu(Params{}); },
                              +[] { conv_shuffle_grad_weight_cpu({}); }}) {
    try {
      refused();
      return 7;
    } catch (const std::invalid_argument&) {
    }
  }
  std::printf("conv_shuffle: %s: ok\n", cuda ? "cuda, emulated" : name(isa()));
}
