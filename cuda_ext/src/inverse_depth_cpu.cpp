// The inverse-depth filter over a whole grid, on the CPU.
#include <algorithm>
#include <vector>

#include "depth_filter.h"
#include "loops.h"
#include "parallel.h"

namespace slam {
namespace {

constexpr int64_t kChunk = 16 * kBlock;

// Calls loop(begin, end) over chunks of pixels.
template <class Loop>
void over_chunks(int64_t pixels, int threads, const Loop& loop) {
  parallel_for((pixels + kChunk - 1) / kChunk, threads,
               [&](int64_t k) { loop(k * kChunk, std::min(pixels, (k + 1) * kChunk)); });
}

}  // namespace

void triangulate_cpu(const Triangulation& t, int64_t pixels, int threads) {
  over_chunks(pixels, threads, [&](int64_t a, int64_t b) { loops().triangulate(t, a, b); });
}

void fuse_cpu(float* value, float* information, const float* new_value,
              const float* new_information, const FusionOptions& options, int64_t pixels,
              int threads) {
  over_chunks(pixels, threads, [&](int64_t a, int64_t b) {
    loops().fuse(value, information, new_value, new_information, options, a, b);
  });
}

void warp_cpu(const Warp& w) {
  const int64_t cells = int64_t(w.grid.height) * w.grid.width;
  std::vector<uint64_t> keys(cells, 0);
  std::vector<float> information(cells);
  for (int64_t k = 0; k < cells; ++k) {
    const Warped moved =
        warp(w.grid, w.camera, w.T_ji, k, w.value[k], w.information[k], w.inflation);
    if (moved.cell < 0) continue;
    information[k] = moved.information;
    keys[moved.cell] = std::max(keys[moved.cell], warp_key(moved.value, k));
  }
  for (int64_t k = 0; k < cells; ++k) {
    w.new_value[k] = keys[k] ? warp_value(keys[k]) : 0.0f;
    w.new_information[k] = keys[k] ? information[warp_source(keys[k])] : 0.0f;
  }
}

}  // namespace slam
