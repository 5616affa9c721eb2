// Normal equations of the pose residuals, and the Levenberg-Marquardt solver around them.
#pragma once
#include <functional>

#include "loops.h"

namespace slam {

template <int N>
struct NormalEquations {
  double H[N * N], g[N];
  double cost;
  int64_t inliers, counted;
};

// Sums blocks in their order.
template <int N>
NormalEquations<N> from_blocks(const BlockSums<N>* blocks, int64_t count) {
  BlockSums<N> total = {};
  for (int64_t k = 0; k < count; ++k) {
    for (int i = 0; i < BlockSums<N>::kTriangle; ++i) total.triangle[i] += blocks[k].triangle[i];
    total.cost += blocks[k].cost;
    total.inliers += blocks[k].inliers;
    total.counted += blocks[k].counted;
  }
  NormalEquations<N> out;
  const double* entry = total.triangle;
  for (int a = 0; a < N; ++a) {
    for (int b = a; b < N; ++b) out.H[N * a + b] = out.H[N * b + a] = *entry++;
    out.g[a] = *entry++;
  }
  out.cost = total.cost;
  out.inliers = int64_t(total.inliers);
  out.counted = int64_t(total.counted);
  return out;
}

NormalEquations<6> normal_equations_cpu(const PoseResidual&, int64_t pixels, int threads);
NormalEquations<7> normal_equations_cpu(const RayResidual&, int64_t pixels, int threads);
NormalEquations<7> normal_equations_cpu(const PixelDepthResidual&, int64_t pixels, int threads);
NormalEquations<6> normal_equations_cuda(const PoseResidual&, int64_t pixels, int device,
                                         void* stream);
NormalEquations<7> normal_equations_cuda(const RayResidual&, int64_t pixels, int device,
                                         void* stream);
NormalEquations<7> normal_equations_cuda(const PixelDepthResidual&, int64_t pixels, int device,
                                         void* stream);

struct PoseSolution {
  double T[7];
  NormalEquations<6> last;
  int iterations;
  bool converged;
};

// Minimises the pose residual's cost over T_ji from T_init; `evaluate` gives the normal equations
// of a residual with its pose and outlier bound set.
PoseSolution solve_pose(const PoseResidual& residual, const double* T_init, int iterations,
                        const std::function<NormalEquations<6>(const PoseResidual&)>& evaluate);

}  // namespace slam
