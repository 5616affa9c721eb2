// Normal equations and the pose solver on CUDA: one launch each, sums in a fixed order.
#include <cooperative_groups.h>

#include <algorithm>

#include "cuda_support.cuh"
#include "pose_solver.h"

namespace slam {
namespace {

struct PixelReader {
  int64_t pixel;
  __device__ float operator()(const float* base, int stride, int component) const {
    return base[pixel * stride + component];
  }
};

template <int N>
constexpr int kValues = BlockSums<N>::kTriangle + 3;

// Sums of the kThreads pixels of a chunk, one a thread.
template <class Residual, int N = Residual::kParameters>
__device__ void sum_chunk(const Residual& residual, int64_t pixels, int64_t chunk,
                          BlockSums<N>* out) {
  constexpr int kTriangle = BlockSums<N>::kTriangle;
  float values[kValues<N>] = {};
  const int64_t pixel = chunk * kThreads + threadIdx.x;
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
  static_assert(sizeof(BlockSums<N>) == sizeof(double) * kValues<N>, "sums lie in a row");
  block_sum(values, reinterpret_cast<double*>(out));
}

// Sums chunks in their order, a fourth of them at a time; all of the block's threads must call it.
// Reads past the first-level cache, which does not see what other blocks have written.
template <int N>
__device__ void sum_chunks(const BlockSums<N>* chunks, int64_t count, BlockSums<N>* total) {
  constexpr int kParts = 4, kPart = kThreads / kParts;
  static_assert(kValues<N> <= kPart, "a value a thread");
  __shared__ double sums[kParts][kPart];
  const int part = threadIdx.x / kPart, value = threadIdx.x % kPart;
  const int64_t each = (count + kParts - 1) / kParts, begin = part * each;
  const int64_t end = begin + each < count ? begin + each : count;
  double sum = 0;
  if (value < kValues<N>)
    for (int64_t k = begin; k < end; ++k)
      sum += __ldcg(reinterpret_cast<const double*>(chunks + k) + value);
  sums[part][value] = sum;
  __syncthreads();
  if (threadIdx.x < kValues<N>) {
    double all = 0;
    for (int k = 0; k < kParts; ++k) all += sums[k][threadIdx.x];
    reinterpret_cast<double*>(total)[threadIdx.x] = all;
  }
  __syncthreads();
}

// Each block sums its chunk; the one that finishes last sums the chunks.
template <class Residual, int N = Residual::kParameters>
__global__ void __launch_bounds__(kThreads)
    accumulate(Residual residual, int64_t pixels, BlockSums<N>* chunks, unsigned* finished,
               NormalEquations<N>* out) {
  __shared__ BlockSums<N> total;
  __shared__ bool last;
  sum_chunk(residual, pixels, blockIdx.x, chunks + blockIdx.x);
  __threadfence();  // the sums are seen before the count
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(finished, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();  // the other blocks' sums are seen after the count
  sum_chunks(chunks, gridDim.x, &total);
  if (threadIdx.x == 0) *out = equations_from(total);
}

template <class Residual, int N = Residual::kParameters>
NormalEquations<N> run(const Residual& residual, int64_t pixels, int device, void* stream) {
  if (pixels == 0) return {};
  const DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  const unsigned blocks = blocks_for(pixels);
  const Buffer<BlockSums<N>> chunks(blocks, queue);
  const Buffer<NormalEquations<N>> out(1, queue);
  Buffer<unsigned> finished(1, queue);
  finished.clear();
  accumulate<<<blocks, kThreads, 0, queue>>>(residual, pixels, chunks.data(), finished.data(),
                                             out.data());
  check(cudaGetLastError(), "normal equations");
  return out.to_host()[0];
}

// All iterations in one cooperative launch. Between two evaluations the whole grid waits once;
// then every block sums all chunks and takes the same decision for itself. The chunks alternate
// between two halves, as a block may still read one while another already writes the next.
__global__ void __launch_bounds__(kThreads)
    iterate_pose(PoseResidual residual, int64_t pixels, PoseSolver start, BlockSums<6>* chunks,
                 PoseSolution* out) {
  __shared__ PoseSolver solver;
  __shared__ BlockSums<6> total;
  __shared__ Motion T_ji;
  __shared__ bool more;
  const auto grid = cooperative_groups::this_grid();
  const int64_t count = (pixels + kThreads - 1) / kThreads;
  if (threadIdx.x == 0) {
    solver = start;
    more = true;
  }
  for (int round = 0;; ++round) {
    if (threadIdx.x == 0) T_ji = motion_from_pose(solver.trial());
    __syncthreads();
    residual.T_ji = T_ji;
    residual.outlier = solver.outlier();
    BlockSums<6>* half = chunks + round % 2 * count;
    for (int64_t k = blockIdx.x; k < count; k += gridDim.x)
      sum_chunk(residual, pixels, k, half + k);
    grid.sync();
    sum_chunks(half, count, &total);
    if (threadIdx.x == 0) more = solver.take(equations_from(total));
    __syncthreads();
    if (!more) break;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *out = solver.solution();
}

// Blocks that the device can hold at once, which waiting for each other takes.
int most_blocks(int device) {
  int processors = 0, each = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, iterate_pose, kThreads, 0),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return std::max(processors * each, 1);
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

PoseSolution solve_pose_cuda(const PoseResidual& residual, const double* T_init, int iterations,
                             int64_t pixels, int device, void* stream) {
  const DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  PoseSolver start;
  start.start(T_init, iterations, residual.outlier);
  const int64_t count = blocks_for(pixels);
  const Buffer<BlockSums<6>> chunks(2 * count, queue);
  const Buffer<PoseSolution> out(1, queue);
  PoseResidual moving = residual;
  BlockSums<6>* sums = chunks.data();
  PoseSolution* solution = out.data();
  void* arguments[] = {&moving, &pixels, &start, &sums, &solution};
  const int64_t blocks = std::clamp<int64_t>(count, 1, most_blocks(device));
  check(cudaLaunchCooperativeKernel(iterate_pose, dim3(unsigned(blocks)), dim3(kThreads), arguments,
                                    0, queue),
        "solve_pose");
  return out.to_host()[0];
}

}  // namespace slam
