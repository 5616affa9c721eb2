// Normal equations on the CPU, the pose solver, and the choice of the processor's loops.
#include "normal_equations.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "parallel.h"

namespace slam {

namespace portable {
extern const Loops kLoops;
}
#ifdef SLAM_WITH_AVX2
namespace avx2 {
extern const Loops kLoops;
}
#endif

const Loops& loops() {
#ifdef SLAM_WITH_AVX2
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

template <class Residual, int N>
NormalEquations<N> run(void (*loop)(const Residual&, int64_t, int64_t, BlockSums<N>&),
                       const Residual& residual, int64_t pixels, int threads) {
  std::vector<BlockSums<N>> blocks((pixels + kBlock - 1) / kBlock);
  const int64_t count = int64_t(blocks.size());
  const int used = int(std::min<int64_t>(threads, count / kBlocksPerThread));
  parallel_for(count, used, [&](int64_t k) {
    loop(residual, k * kBlock, std::min(pixels, (k + 1) * kBlock), blocks[k]);
  });
  return from_blocks(blocks.data(), count);
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

namespace {

constexpr double kStepTolerance = 1e-7, kCostTolerance = 1e-6;
constexpr double kFirstDamping = 1e-4, kLeastDamping = 1e-10, kMostDamping = 1e10;
constexpr int kUngatedIterations = 3;

// The damped step; false where the system is singular.
bool damped_step(const NormalEquations<6>& n, double damping, double* step) {
  double a[36];
  std::copy(n.H, n.H + 36, a);
  for (int k = 0; k < 6; ++k) a[7 * k] *= 1 + damping;
  if (!cholesky<6>(a)) return false;
  std::copy(n.g, n.g + 6, step);
  solve_lower<6>(a, step);
  solve_lower_transposed<6>(a, step);
  return true;
}

double norm6(const double* a) {
  double total = 0;
  for (int k = 0; k < 6; ++k) total += a[k] * a[k];
  return std::sqrt(total);
}

struct Descent {
  PoseSolution& state;
  const std::function<NormalEquations<6>(const double*)>& evaluate;
  double damping = kFirstDamping;

  // Up to `iterations` Levenberg-Marquardt steps; state.last belongs to state.T throughout.
  void run(int iterations) {
    state.converged = false;
    for (int k = 0; k < iterations && !state.converged && damping < kMostDamping; ++k) iterate();
  }

  void iterate() {
    double step[6], T[7];
    ++state.iterations;
    if (!damped_step(state.last, damping, step)) {
      damping *= 10;
      return;
    }
    std::copy(state.T, state.T + 7, T);
    pose_retract(step, T);
    const auto next = evaluate(T);
    const double change = state.last.cost - next.cost;
    state.converged = norm6(step) < kStepTolerance ||
                      (damping < 1 && std::abs(change) <= kCostTolerance * state.last.cost);
    if (change >= 0) {
      std::copy(T, T + 7, state.T);
      state.last = next;
    }
    damping = change >= 0 ? std::max(damping / 10, kLeastDamping) : damping * 10;
  }
};

}  // namespace

PoseSolution solve_pose(const PoseResidual& residual, const double* T_init, int iterations,
                        const std::function<NormalEquations<6>(const PoseResidual&)>& evaluate) {
  PoseResidual moving = residual;
  const std::function<NormalEquations<6>(const double*)> at = [&](const double* T) {
    moving.T_ji = motion_from_pose(T);
    return evaluate(moving);
  };
  PoseSolution out = {};
  std::copy(T_init, T_init + 7, out.T);
  Descent descent{out, at};
  const bool gated = residual.outlier < std::numeric_limits<float>::infinity();
  const int ungated = gated ? std::min(iterations, kUngatedIterations) : iterations;
  moving.outlier = std::numeric_limits<float>::infinity();
  out.last = at(out.T);
  descent.run(ungated);
  if (gated) {
    moving.outlier = residual.outlier;
    out.last = at(out.T);
    descent.damping = kFirstDamping;
    descent.run(iterations - out.iterations);
  }
  return out;
}

}  // namespace slam
