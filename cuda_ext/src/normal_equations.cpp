// Normal equations on the CPU, the pose solver, and the choice of the processor's loops.
#include "normal_equations.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "pose_solver.h"

namespace slam {

namespace portable {
extern const Loops kLoops;
}
#ifdef SLAM_WITH_AVX
namespace avx2 {
extern const Loops kLoops;
}
#endif

const Loops& loops() {
#ifdef SLAM_WITH_AVX
  static const bool fast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (fast) return avx2::kLoops;
#endif
  return portable::kLoops;
}

void unroll_cpu(const Unrolling& r, int64_t pixels) { loops().unroll(r, pixels); }

void refine_flow_cpu(const FlowRefinement& r, int iterations) {
  if (r.height == 0) return;
  for (int k = 0; k < iterations; ++k) loops().refine_flow(r);
}

namespace {

constexpr int64_t kBlocksPerThread = 8;  // below that, waking a thread costs more than it saves

// Sums blocks in their order.
template <int N>
NormalEquations<N> summed(const std::vector<BlockSums<N>>& blocks) {
  BlockSums<N> total = {};
  for (const auto& block : blocks) {
    for (int k = 0; k < BlockSums<N>::kTriangle; ++k) total.triangle[k] += block.triangle[k];
    total.cost += block.cost;
    total.inliers += block.inliers;
    total.counted += block.counted;
  }
  return equations_from(total);
}

template <class Residual, int N>
NormalEquations<N> run(void (*loop)(const Residual&, int64_t, int64_t, BlockSums<N>&),
                       const Residual& residual, int64_t pixels, int threads) {
  std::vector<BlockSums<N>> blocks((pixels + kBlock - 1) / kBlock);
  const int64_t count = int64_t(blocks.size());
  const int used = int(std::min<int64_t>(threads, count / kBlocksPerThread));
  parallel_for(count, used, [&](int64_t k) {
    loop(residual, k * kBlock, std::min(pixels, (k + 1) * kBlock), blocks[k]);
  });
  return summed(blocks);
}

}  // namespace

NormalEquations<6> normal_equations_cpu(const PoseResidual& r, int64_t pixels, int threads) {
  return run(loops().pose, r, pixels, threads);
}
NormalEquations<7> normal_equations_cpu(const RayResidual& r, int64_t pixels, int threads) {
  return run(loops().ray, r, pixels, threads);
}
NormalEquations<7> normal_equations_cpu(const PixelDepthResidual& r, int64_t pixels, int threads) {
  return run(loops().pixel_depth, r, pixels, threads);
}

PoseSolution solve_pose_cpu(const PoseResidual& residual, const double* T_init, int iterations,
                            int64_t pixels, int threads) {
  PoseSolver solver;
  solver.start(T_init, iterations, residual.outlier);
  PoseResidual moving = residual;
  do {
    moving.T_ji = motion_from_pose(solver.trial());
    moving.outlier = solver.outlier();
  } while (solver.take(normal_equations_cpu(moving, pixels, threads)));
  return solver.solution();
}

}  // namespace slam
