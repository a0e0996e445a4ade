// The maps of csrc/cuda/fragments.h: every element in exactly one place, where the PTX ISA puts it,
// and every weight packed exactly once. Exits non-zero on a disagreement.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "cuda/fragments.h"
#include "cuda/tensor_convolution.h"

using namespace pysr;

namespace {

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("fragments: %s\n", what);
  std::exit(1);
}

// Every element of a rows x columns matrix in exactly one lane.
template <class Map>
void expect_partition(int rows, int columns, int each, Map&& map, const char* what) {
  std::vector<int> seen(rows * columns);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < each; ++i) {
      const Element at = map(lane, i);
      expect(at.row >= 0 && at.row < rows && at.column >= 0 && at.column < columns, what);
      ++seen[at.row * columns + at.column];
    }
  for (const int count : seen) expect(count == 1, what);
}

void expect_element(Element got, int row, int column, const char* what) {
  expect(got.row == row && got.column == column, what);
}

// Every weight that is convolved lies in exactly one place; what is left over is padding.
void expect_packed_once(const PackedWeights& packed) {
  std::map<int64_t, int> seen;
  for (int64_t i = 0; i < packed.halves(); ++i) {
    const int64_t source = packed.source(i);
    if (source >= 0) ++seen[source];
  }
  const int64_t used = packed.inputs[0] + packed.inputs[1];
  expect(static_cast<int64_t>(seen.size()) == packed.outputs * used * packed.taps,
         "a weight is missing from, or added to, the packed ones");
  for (const auto& [source, count] : seen) {
    expect(count == 1 && source / packed.taps % packed.weight_inputs < used &&
               source / packed.taps / packed.weight_inputs < packed.outputs,
           "a weight is packed twice, or is not one that is convolved");
  }
}

// The columns that a side's lanes hold of a packed convolution, by walking through B as the kernel
// does: subpixels apart, channels side by side.
void expect_columns_by_subpixel() {
  const PackedWeights packed = packed_weights(1, 0, 1, 12, 2, 3);  // 3 channels, 4 subpixels
  for (int64_t column = 0; column < 12; ++column) {
    expect(packed.output_at(column) == column % 3 * 4 + column / 3,
           "columns are not ordered by subpixel, then by channel");
  }
  expect(packed.output_at(12) == -1, "a padded column has an output");
}

}  // namespace

int main() {
  expect_partition(16, 16, 8, a_element, "A is not partitioned");
  expect_partition(16, 8, 4, b_element, "B is not partitioned");
  expect_partition(16, 8, 4, c_element, "C is not partitioned");
  // Spot checks against the formulas of the PTX ISA: lane 13 is thread 1 of group 3.
  expect_element(a_element(13, 1), 3, 3, "a1 of lane 13");
  expect_element(a_element(13, 2), 11, 2, "a2 of lane 13");
  expect_element(a_element(13, 4), 3, 10, "a4 of lane 13");
  expect_element(a_element(13, 7), 11, 11, "a7 of lane 13");
  expect_element(b_element(13, 1), 3, 3, "b1 of lane 13");
  expect_element(b_element(13, 2), 10, 3, "b2 of lane 13");
  expect_element(c_element(13, 1), 3, 3, "c1 of lane 13");
  expect_element(c_element(13, 2), 11, 2, "c2 of lane 13");

  // (columns, most) to the tiles a side is given.
  const int tiles[][3] = {{74, 5, 5}, {64, 5, 4}, {256, 5, 4}, {48, 5, 3},
                          {32, 5, 2}, {3, 5, 1},  {32, 2, 2},  {16, 2, 1}};
  for (const auto& [columns, most, expected] : tiles) {
    expect(tiles_for(columns, most) == expected, "columns are split in another way");
  }
  expect_packed_once(packed_weights(64, 0, 74, 74, 1, 3));
  expect_packed_once(packed_weights(74, 0, 74, 64, 1, 3));
  expect_packed_once(packed_weights(12, 21, 33, 33, 1, 3));
  expect_packed_once(packed_weights(48, 0, 48, 48, 4, 3));
  expect_packed_once(packed_weights(3, 0, 3, 100, 5, 5));
  expect_columns_by_subpixel();

  for (const auto& [h, w] : {std::array<int64_t, 2>{1, 1}, {16, 17}, {100, 40}}) {
    const LineSums lines(h, w);
    int64_t slots = 0;
    for (int line = 0; line < LineSums::lines; slots += lines.count(line), ++line) {
      expect(lines.start(line) == slots, "the slots of the lines overlap or leave gaps");
    }
    expect(lines.slots() == slots, "the slots of the lines overlap or leave gaps");
  }
  std::printf("fragments: ok\n");
}
