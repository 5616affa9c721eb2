// Normal equations of the pose residuals.
#pragma once
#include "loops.h"

namespace slam {

template <int N>
struct NormalEquations {
  double H[N * N], g[N];
  double cost;
  int64_t inliers, counted;
};

template <int N>
HD NormalEquations<N> equations_from(const BlockSums<N>& total) {
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

}  // namespace slam
