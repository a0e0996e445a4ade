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
#include "ops/conditional_residual_block.h"
#include "reference.h"

using namespace pysr;

namespace {

using Params = ConditionalResidualBlockParams;

struct Case {
  int64_t n, c, d, h, w, r;
  bool channels_last, gate_given;
  bool picture = false;  // the condition is one
};

// Sizes around the tiles (4 x 4 and 24 of them; 8 x 32 and 16 x 16 on CUDA), the vectors (4, 8, 16
// channels) and CUDA's blocks of channels (8, 16, 32, 80).
const Case kCases[] = {
    {1, 1, 1, 1, 1, 1, false, false},   {2, 3, 2, 1, 6, 2, false, false},
    {1, 2, 1, 2, 1, 1, true, false},    {1, 5, 3, 2, 3, 4, false, true},
    {2, 16, 4, 9, 13, 1, true, false},  {1, 16, 33, 4, 4, 2, true, true},
    {1, 34, 6, 5, 3, 3, false, false},  {1, 17, 2, 8, 32, 2, true, false},
    {1, 4, 3, 23, 35, 2, false, false}, {1, 80, 1, 3, 6, 5, true, false},
    {1, 24, 16, 18, 17, 2, true, false, true},  {2, 5, 3, 33, 2, 2, false, false, true},
    {1, 16, 67, 2, 3, 1, true, true, true},     {1, 40, 33, 1, 2, 1, false, false, true},
};

// A value with the sum of the absolute values of what was added up on the way to it, and the
// variance that it has from roundings in between, which are independent.
struct Sum {
  double value = 0, magnitude = 0, variance = 0;
  void add(double factor, const Sum& other) {
    value += factor * other.value;
    magnitude += std::abs(factor) * other.magnitude;
    variance += factor * factor * other.variance;
  }
};

Sum exactly(double value) { return {value, std::abs(value), 0}; }

template <class S>
std::vector<Sum> exactly(const std::vector<S>& values) {
  std::vector<Sum> sums;
  for (const S& value : values) sums.push_back(exactly(widen(value)));
  return sums;
}

Sum leaky(const Sum& x) {
  return {x.value > 0 ? x.value : 0.2 * x.value, x.magnitude, x.variance};
}

// Zero-padded 3x3 convolution of one image, (channels, h, w).
template <class S>
std::vector<Sum> convolved(const std::vector<Sum>& in, const std::vector<S>& weight,
                           const std::vector<S>& bias, int64_t h, int64_t w) {
  const int64_t outputs = bias.size(), inputs = in.size() / (h * w);
  std::vector<Sum> out;
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t y = 0; y < h; ++y)
      for (int64_t x = 0; x < w; ++x) {
        Sum sum = exactly(widen(bias[o]));
        for (int64_t c = 0; c < inputs; ++c)
          for (int64_t u = 0; u < 3; ++u)
            for (int64_t v = 0; v < 3; ++v) {
              const int64_t row = y + u - 1, column = x + v - 1;
              if (row < 0 || row >= h || column < 0 || column >= w) continue;
              sum.add(widen(weight[((o * inputs + c) * 3 + u) * 3 + v]),
                      in[(c * h + row) * w + column]);
            }
        out.push_back(sum);
      }
  return out;
}

template <class S>
std::vector<Sum> layer(const std::vector<Sum>& in, const std::vector<S>& weight,
                       const std::vector<S>& bias) {
  std::vector<Sum> out = exactly(bias);
  for (size_t o = 0; o < out.size(); ++o)
    for (size_t i = 0; i < in.size(); ++i) out[o].add(widen(weight[o * in.size() + i]), in[i]);
  return out;
}

// A device's launchers.
struct Device {
  void (*launch)(const Params&);
  int64_t (*packed_bytes)(const Params&);
  void (*pack)(const Params&);
  // Whether the features between the convolutions are stored in the tensors' type.
  bool (*narrows)(const Params&);
};

// Matrix tiles take bfloat16.
bool narrows_on_cpu(const Params& p) { return isa() == Isa::amx && p.dtype == DType::bfloat16; }
bool always(const Params&) { return true; }

template <class S>
void test(const Case& k, DType dtype, const Device& device) {
  std::mt19937 random(static_cast<unsigned>(k.h * 100 + k.w));
  const int64_t hidden = k.c + k.d, pixels = k.h * k.w;
  const auto values = [&](int64_t count) { return random_values<S>(count, random); };
  std::vector<S> f = values(k.n * k.c * pixels);
  std::vector<S> cond = values(k.n * k.d * (k.picture ? pixels : 1));
  std::vector<S> conv1_weight = values(hidden * hidden * 9), conv1_bias = values(hidden);
  std::vector<S> conv2_weight = values(k.c * hidden * 9), conv2_bias = values(k.c);
  std::vector<S> reduce_weight = values(k.r * k.c), reduce_bias = values(k.r);
  std::vector<S> expand_weight = values(k.c * k.r), expand_bias = values(k.c);
  std::vector<S> gate = values(k.n * k.c), out(f.size());

  Params p{};
  p.f = f.data(), p.cond = cond.data(), p.out = out.data();
  p.conv1_weight = conv1_weight.data(), p.conv1_bias = conv1_bias.data();
  p.conv2_weight = conv2_weight.data(), p.conv2_bias = conv2_bias.data();
  p.reduce_weight = reduce_weight.data(), p.reduce_bias = reduce_bias.data();
  p.expand_weight = expand_weight.data(), p.expand_bias = expand_bias.data();
  p.gate = k.gate_given ? gate.data() : nullptr;
  p.n = k.n, p.c = k.c, p.d = k.d, p.h = k.h, p.w = k.w, p.r = k.r;
  strides_of(k.c, k.h, k.w, k.channels_last, p.f_stride);
  strides_of(k.c, k.h, k.w, k.channels_last, p.out_stride);
  if (k.picture) {
    strides_of(k.d, k.h, k.w, k.channels_last, p.cond_stride);
  } else {
    p.cond_stride[0] = k.d, p.cond_stride[1] = 1;
  }
  p.dtype = dtype;
  p.threads = 3;
  const std::string what = "n=" + std::to_string(k.n) + " c=" + std::to_string(k.c) +
                           " d=" + std::to_string(k.d) + " h=" + std::to_string(k.h) +
                           " w=" + std::to_string(k.w);
  launch_both_ways(what, p, out, device.launch, device.packed_bytes, device.pack);

  std::vector<double> expected(out.size()), magnitude(out.size()), deviation(out.size());
  for (int64_t n = 0; n < k.n; ++n) {
    std::vector<Sum> concatenated;
    for (int64_t c = 0; c < hidden; ++c)
      for (int64_t t = 0; t < pixels; ++t) {
        const S value =
            c < k.c ? f[at(p.f_stride, n, c, t / k.w, t % k.w)]
                    : cond[at(p.cond_stride, n, c - k.c, t / k.w, t % k.w)];
        concatenated.push_back(exactly(widen(value)));
      }
    std::vector<Sum> features = convolved(concatenated, conv1_weight, conv1_bias, k.h, k.w);
    for (Sum& feature : features) {
      feature = leaky(feature);
      if (device.narrows(p)) feature.variance = std::pow(rounding<S>() * feature.value, 2);
    }
    const std::vector<Sum> r = convolved(features, conv2_weight, conv2_bias, k.h, k.w);
    std::vector<Sum> means(k.c);
    for (int64_t t = 0; t < k.c * pixels; ++t) means[t / pixels].add(1.0 / pixels, r[t]);
    std::vector<Sum> reduced = layer(means, reduce_weight, reduce_bias);
    for (Sum& each : reduced) each = leaky(each);
    const std::vector<Sum> logits = layer(reduced, expand_weight, expand_bias);
    for (int64_t t = 0; t < k.c * pixels; ++t) {
      const int64_t c = t / pixels;
      const double sigmoid = 1 / (1 + std::exp(-logits[c].value));
      const double factor = k.gate_given ? widen(gate[n * k.c + c]) : sigmoid;
      const int64_t place = at(p.f_stride, n, c, t % pixels / k.w, t % k.w);
      Sum sum = exactly(widen(f[place]));
      sum.add(factor, r[t]);
      // The sigmoid passes on its argument's error, at most by a quarter.
      if (!k.gate_given) {
        sum.magnitude += std::abs(r[t].value) * logits[c].magnitude / 4;
        sum.variance += std::pow(r[t].value / 4, 2) * logits[c].variance;
      }
      expected[place] = sum.value, magnitude[place] = sum.magnitude;
      deviation[place] = std::sqrt(sum.variance);
    }
  }
  compare(what, out, expected, magnitude, deviation);
}

}  // namespace

int main(int count, char** arguments) {
  const bool cuda = count > 1 && std::strcmp(arguments[1], "cuda") == 0;
  const Device cpu{conditional_residual_block_cpu, conditional_residual_block_packed_cpu,
                   conditional_residual_block_pack_cpu, narrows_on_cpu};
  const Device emulator{
      emulated<Params, conditional_residual_block_cuda, conditional_residual_block_workspace>,
      conditional_residual_block_packed_cuda,
      emulated_pack<Params, conditional_residual_block_pack_cuda>, always};
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    dispatch_float(dtype, [&](auto type) {
      for (const Case& each : kCases) {
        test<typename decltype(type)::type>(each, dtype, cuda ? emulator : cpu);
      }
    });
  }
  try {
    conditional_residual_block_cpu(Params{});
    return 7;
  } catch (const std::invalid_argument&) {
  }
  std::printf("conditional_residual_block: %s: ok\n", cuda ? "cuda, emulated" : name(isa()));
}
