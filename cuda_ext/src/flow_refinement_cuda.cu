// Lucas-Kanade over a dense flow on CUDA. An iteration is two launches, as all windows must be
// summed before any pixel moves: sums of cells, then windows of cells and the step.
#include <algorithm>

#include "cuda_support.cuh"
#include "flow_refinement.h"

namespace slam {
namespace {

constexpr int kWide = 32, kHigh = kThreads / kWide;  // cells of a block, one a thread
constexpr int kTileWide = kCell * kWide + 2, kTileHigh = kCell * kHigh + 2;  // px, with a rim of 1
constexpr size_t kSharedBytes = 48 << 10;  // that every GPU gives a block

// Both images under a block of cells, the second warped by the flow.
struct Tile {
  float first[kTileHigh][kTileWide], warped[kTileHigh][kTileWide], inside[kTileHigh][kTileWide];

  // Beyond the image is what is at its border. Where the flow leaves the second image, `warped` is
  // the first image, for the neighbours' gradients.
  __device__ void load(const FlowRefinement& r, int left, int top) {
    for (int k = threadIdx.x; k < kTileHigh * kTileWide; k += kThreads) {
      const int row = k / kTileWide, column = k % kTileWide;
      const int x = min(max(left + column, 0), r.width - 1);
      const int y = min(max(top + row, 0), r.height - 1);
      const float grey = float(r.first[int64_t(y) * r.width + x]);
      float in;
      const float moved = warped_grey(r, x, y, in);
      first[row][column] = grey;
      warped[row][column] = in > 0 ? moved : grey;
      inside[row][column] = in;
    }
  }

  __device__ Sums<float> terms(int row, int column) const {
    const auto slope = [&](int down, int right) {
      return 0.25f * (first[row + down][column + right] - first[row - down][column - right] +
                      warped[row + down][column + right] - warped[row - down][column - right]);
    };
    return flow_terms(inside[row][column], slope(0, 1), slope(1, 0),
                      warped[row][column] - first[row][column]);
  }
};

// out: [kSums, cells]
__global__ void __launch_bounds__(kThreads) sum_cells(FlowRefinement r, float* out) {
  __shared__ Tile tile;
  tile.load(r, kCell * kWide * int(blockIdx.x) - 1, kCell * kHigh * int(blockIdx.y) - 1);
  __syncthreads();
  const int wide = cells(r.width), high = cells(r.height);
  const int column = threadIdx.x % kWide, row = threadIdx.x / kWide;
  const int x = kWide * int(blockIdx.x) + column, y = kHigh * int(blockIdx.y) + row;
  if (x >= wide || y >= high) return;
  Sums<float> total = {};
  for (int v = 0; v < kCell && kCell * y + v < r.height; ++v)
    for (int u = 0; u < kCell && kCell * x + u < r.width; ++u) {
      const Sums<float> s = tile.terms(kCell * row + v + 1, kCell * column + u + 1);
      for (int k = 0; k < kSums; ++k) total.of[k] += s.of[k];
    }
  for (int k = 0; k < kSums; ++k) out[(int64_t(k) * high + y) * wide + x] = total.of[k];
}

// sums: [kSums, cells]. Shared: the windows' columns of a block, [kHigh, kWide + 2 radius].
__global__ void __launch_bounds__(kThreads) step_cells(FlowRefinement r, const float* sums) {
  extern __shared__ float columns[];
  const int wide = cells(r.width), high = cells(r.height), stride = kWide + 2 * r.radius;
  const int column = threadIdx.x % kWide, row = threadIdx.x / kWide;
  const int left = kWide * int(blockIdx.x), top = kHigh * int(blockIdx.y);
  Sums<float> total = {};
  for (int k = 0; k < kSums; ++k, sums += int64_t(high) * wide) {
    for (int n = threadIdx.x; n < kHigh * stride; n += kThreads) {
      const int x = left + n % stride - r.radius, y = top + n / stride;
      float part = 0.0f;
      if (x >= 0 && x < wide)
        for (int v = max(y - r.radius, 0); v <= min(y + r.radius, high - 1); ++v)
          part += sums[int64_t(v) * wide + x];
      columns[n] = part;
    }
    __syncthreads();
    for (int n = 0; n <= 2 * r.radius; ++n) total.of[k] += columns[row * stride + column + n];
    __syncthreads();  // before the next sum is written
  }
  const int x = kCell * (left + column), y = kCell * (top + row);
  const auto step = flow_step(total, r.regularisation, r.longest_step);
  for (int v = y; v < min(y + kCell, r.height); ++v)
    for (int u = x; u < min(x + kCell, r.width); ++u) {
      float* flow = r.flow + 2 * (int64_t(v) * r.width + u);
      flow[0] += step.u;
      flow[1] += step.v;
    }
}

}  // namespace

void refine_flow_cuda(const FlowRefinement& refinement, int iterations, int device, void* stream) {
  if (refinement.height == 0 || refinement.width == 0 || iterations == 0) return;
  FlowRefinement r = refinement;
  const int wide = cells(r.width), high = cells(r.height);
  r.radius = std::min(r.radius, std::max(wide, high));  // all cells are in the window then
  const size_t shared = sizeof(float) * kHigh * (kWide + 2 * size_t(r.radius));
  if (shared > kSharedBytes)
    throw std::invalid_argument("radius: want at most 752 on CUDA, got " +
                                std::to_string(r.radius) + "; lower it");
  const DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  const Buffer<float> sums(size_t(kSums) * wide * high, queue);
  const dim3 blocks((wide + kWide - 1) / kWide, (high + kHigh - 1) / kHigh);
  for (int k = 0; k < iterations; ++k) {
    sum_cells<<<blocks, kThreads, 0, queue>>>(r, sums.data());
    step_cells<<<blocks, kThreads, shared, queue>>>(r, sums.data());
  }
  check(cudaGetLastError(), "refine_flow");
}

}  // namespace slam
