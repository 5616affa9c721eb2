// Lucas-Kanade over a dense flow on CUDA: two launches a sweep, one pixel or one cell a thread.
#include "cuda_support.cuh"
#include "flow_refinement.h"

namespace slam {
namespace {

constexpr int kSide = 16;  // of a block of pixels

// The second image warped to the first; NaN-free: the first image's grey where it is outside.
__global__ void warp_pixels(FlowRefinement r, float* warped, float* inside) {
  const int x = blockIdx.x * kSide + threadIdx.x, y = blockIdx.y * kSide + threadIdx.y;
  if (x >= r.width || y >= r.height) return;
  const int64_t p = int64_t(y) * r.width + x;
  float in;
  const float grey = warped_grey(r, x, y, in);
  warped[p] = in > 0 ? grey : float(r.first[p]);
  inside[p] = in;
}

__device__ Sums<float> terms_at(const FlowRefinement& r, const float* warped, const float* inside,
                                int x, int y) {
  const int64_t row = int64_t(y) * r.width, p = row + x;
  const int64_t left = row + max(x - 1, 0), right = row + min(x + 1, r.width - 1);
  const int64_t above = int64_t(max(y - 1, 0)) * r.width + x;
  const int64_t below = int64_t(min(y + 1, r.height - 1)) * r.width + x;
  const float gx =
      0.25f * (float(r.first[right]) - float(r.first[left]) + warped[right] - warped[left]);
  const float gy =
      0.25f * (float(r.first[below]) - float(r.first[above]) + warped[below] - warped[above]);
  return flow_terms(inside[p], gx, gy, warped[p] - float(r.first[p]));
}

__global__ void step_cells(FlowRefinement r, const float* warped, const float* inside) {
  const int column = blockIdx.x * kSide + threadIdx.x, row = blockIdx.y * kSide + threadIdx.y;
  if (column >= cells(r.width) || row >= cells(r.height)) return;
  Sums<float> total = {};
  const int bottom = min(kCell * (row + r.radius + 1), r.height);
  const int right = min(kCell * (column + r.radius + 1), r.width);
  for (int y = max(kCell * (row - r.radius), 0); y < bottom; ++y)
    for (int x = max(kCell * (column - r.radius), 0); x < right; ++x) {
      const Sums<float> s = terms_at(r, warped, inside, x, y);
      for (int k = 0; k < kSums; ++k) total.of[k] += s.of[k];
    }
  const auto step = flow_step(total, r.regularisation, r.longest_step);
  for (int y = kCell * row; y < min(kCell * (row + 1), r.height); ++y)
    for (int x = kCell * column; x < min(kCell * (column + 1), r.width); ++x) {
      float* flow = r.flow + 2 * (int64_t(y) * r.width + x);
      flow[0] += step.u;
      flow[1] += step.v;
    }
}

}  // namespace

void refine_flow_cuda(const FlowRefinement& r, int iterations, int device, void* stream) {
  const int64_t pixels = int64_t(r.height) * r.width;
  if (pixels == 0) return;
  const DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  const Buffer<float> warped(pixels, queue), inside(pixels, queue);
  const dim3 threads(kSide, kSide);
  const auto blocks = [](int width, int height) {
    return dim3((width + kSide - 1) / kSide, (height + kSide - 1) / kSide);
  };
  for (int k = 0; k < iterations; ++k) {
    warp_pixels<<<blocks(r.width, r.height), threads, 0, queue>>>(r, warped.data(), inside.data());
    step_cells<<<blocks(cells(r.width), cells(r.height)), threads, 0, queue>>>(r, warped.data(),
                                                                               inside.data());
  }
  check(cudaGetLastError(), "refine_flow");
}

}  // namespace slam
