// Matching of pointmaps on CUDA: one pixel a thread, all of its iterations in one launch.
#include "cuda_support.cuh"
#include "matching.h"

namespace slam {
namespace {

__device__ int64_t this_pixel() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

__global__ void __launch_bounds__(kThreads) match_pixels(RayMatching m) {
  const int64_t pixel = this_pixel();
  if (pixel < m.pixels) match_ray(m, pixel);
}

// [count, channels] to [channels, count], tile by tile: both sides are read and written in rows.
constexpr int kTile = 32;
__global__ void channels_first(const float* in, float* out, int64_t count, int channels) {
  __shared__ float tile[kTile][kMostChannels + 1];
  const int64_t first = int64_t(blockIdx.x) * kTile;
  const int held = int(min(int64_t(kTile), count - first));
  for (int k = threadIdx.x; k < held * channels; k += kThreads)
    tile[k / channels][k % channels] = in[first * channels + k];
  __syncthreads();
  for (int k = threadIdx.x; k < kTile * channels; k += kThreads)
    if (k % kTile < held) out[(k / kTile) * count + first + k % kTile] = tile[k % kTile][k / kTile];
}

// Neighbouring threads look at neighbouring pixels: a channel of theirs is one row of memory.
template <int Channels>
struct PlaneProduct {
  const float* planes;  // [Channels, height * width]
  int64_t count;        // height * width
  int width;
  float sought[Channels];

  __device__ __forceinline__ float operator()(int x, int y) const {
    const float* there = planes + int64_t(y) * width + x;
    float total = 0;
#pragma unroll
    for (int c = 0; c < Channels; ++c) total += sought[c] * __ldg(there + c * count);
    return total;
  }
};

template <int Channels>
__global__ void __launch_bounds__(kThreads)
    refine_pixels(MatchRefinement m, const float* planes, const float* sought) {
  const int64_t pixel = this_pixel();
  if (pixel >= m.pixels) return;
  if (!m.active[pixel]) return keep_match(m, pixel);
  PlaneProduct<Channels> score = {planes, int64_t(m.height) * m.width, m.width, {}};
#pragma unroll
  for (int c = 0; c < Channels; ++c) score.sought[c] = sought[c * m.pixels + pixel];
  refine_match(m, pixel, score);
}

template <int Channels>
void refine(const MatchRefinement& m, const float* planes, const float* sought,
            cudaStream_t queue) {
  refine_pixels<Channels><<<blocks_for(m.pixels), kThreads, 0, queue>>>(m, planes, sought);
}

}  // namespace

void match_rays_cuda(const RayMatching& m, int device, void* stream) {
  if (m.pixels == 0) return;
  const DeviceGuard guard(device);
  match_pixels<<<blocks_for(m.pixels), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(m);
  check(cudaGetLastError(), "match_rays");
}

void refine_matches_cuda(const MatchRefinement& m, int device, void* stream) {
  if (m.pixels == 0) return;
  const DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t count = int64_t(m.height) * m.width;
  const Buffer<float> planes(count * m.channels, queue), sought(m.pixels * m.channels, queue);
  const auto tiles = [](int64_t rows) { return unsigned((rows + kTile - 1) / kTile); };
  channels_first<<<tiles(count), kThreads, 0, queue>>>(m.descriptors, planes.data(), count,
                                                       m.channels);
  channels_first<<<tiles(m.pixels), kThreads, 0, queue>>>(m.sought, sought.data(), m.pixels,
                                                          m.channels);
  const auto launch = m.channels == 8    ? refine<8>
                      : m.channels == 16 ? refine<16>
                      : m.channels == 24 ? refine<24>
                                         : refine<32>;
  launch(m, planes.data(), sought.data(), queue);
  check(cudaGetLastError(), "refine_matches");
}

}  // namespace slam
