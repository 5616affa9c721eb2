// Normal equations on CUDA: one pixel a thread, blocks summed in order on the host.
#include "cuda_support.cuh"
#include "normal_equations.h"

namespace slam {
namespace {

struct PixelReader {
  int64_t pixel;
  __device__ float operator()(const float* base, int stride, int component) const {
    return base[pixel * stride + component];
  }
};

template <class Residual>
__global__ void accumulate(Residual residual, int64_t pixels,
                           BlockSums<Residual::kParameters>* out) {
  constexpr int N = Residual::kParameters, kTriangle = BlockSums<N>::kTriangle;
  float values[kTriangle + 3] = {};
  const int64_t pixel = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel < pixels) {
    float row[Residual::kRows][N + 1];
    const auto tally = residual.template operator()<float>(PixelReader{pixel}, row);
    int k = 0;
#pragma unroll
    for (int a = 0; a <= N; ++a)
#pragma unroll
      for (int b = a; b <= N; ++b, ++k)
#pragma unroll
        for (int r = 0; r < Residual::kRows; ++r) values[k] += row[r][a] * row[r][b];
    values[kTriangle] = tally.cost;
    values[kTriangle + 1] = tally.inlier ? 1.0f : 0.0f;
    values[kTriangle + 2] = tally.counted ? 1.0f : 0.0f;
  }
  static_assert(sizeof(BlockSums<N>) == sizeof(double) * (kTriangle + 3), "sums lie in a row");
  block_sum(values, reinterpret_cast<double*>(out + blockIdx.x));
}

template <class Residual, int N = Residual::kParameters>
NormalEquations<N> run(const Residual& residual, int64_t pixels, int device, void* stream) {
  const DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  const unsigned blocks = blocks_for(pixels);
  const Buffer<BlockSums<N>> sums(blocks, queue);
  if (blocks) accumulate<<<blocks, kThreads, 0, queue>>>(residual, pixels, sums.data());
  check(cudaGetLastError(), "normal equations");
  return from_blocks(sums.to_host().data(), blocks);
}

}  // namespace

NormalEquations<6> normal_equations_cuda(const PoseResidual& r, int64_t pixels, int device,
                                         void* stream) {
  return run(r, pixels, device, stream);
}
NormalEquations<7> normal_equations_cuda(const RayResidual& r, int64_t pixels, int device,
                                         void* stream) {
  return run(r, pixels, device, stream);
}
NormalEquations<7> normal_equations_cuda(const PixelDepthResidual& r, int64_t pixels, int device,
                                         void* stream) {
  return run(r, pixels, device, stream);
}

}  // namespace slam
