// Levenberg-Marquardt on one pose: what happens between two evaluations of its normal equations.
#pragma once
#include "normal_equations.h"

namespace slam {

struct PoseSolution {
  double T[7];
  NormalEquations<6> last;  // at T
  int iterations;           // steps tried
  bool converged;
};

// Asks for the normal equations at one pose after another, on the CPU and on the GPU alike. The
// first steps let every point pull, as the outlier bound would leave few to a poor start.
class PoseSolver {
 public:
  HD void start(const double* T, int iterations, float outlier) {
    solution_ = {};
    step_ = 0;
    for (int k = 0; k < 7; ++k) solution_.T[k] = trial_[k] = T[k];
    bound_ = outlier;
    outlier_ = float(kUnbounded);
    gate_later_ = outlier < outlier_;
    wanted_ = iterations;
    left_ = gate_later_ && iterations > kUngatedIterations ? kUngatedIterations : iterations;
    damping_ = kFirstDamping;
    fresh_ = true;
  }

  // Where to evaluate next, and with which outlier bound.
  HD const double* trial() const { return trial_; }
  HD float outlier() const { return outlier_; }
  HD const PoseSolution& solution() const { return solution_; }

  // Takes the normal equations at trial(). Returns whether to go on.
  HD bool take(const NormalEquations<6>& next) {
    if (fresh_)
      solution_.last = next;
    else
      judge(next);
    fresh_ = false;
    if (propose()) return true;
    if (!gate_later_) return false;
    gate_later_ = solution_.converged = false;
    outlier_ = bound_;
    left_ = wanted_ - solution_.iterations;
    damping_ = kFirstDamping;
    fresh_ = true;
    for (int k = 0; k < 7; ++k) trial_[k] = solution_.T[k];
    return true;
  }

 private:
  static constexpr double kUnbounded = HUGE_VAL, kStepTolerance = 1e-7, kCostTolerance = 1e-6;
  static constexpr double kFirstDamping = 1e-4, kLeastDamping = 1e-10, kMostDamping = 1e10;
  static constexpr int kUngatedIterations = 3;

  // Keeps the trial where its cost is no higher.
  HD void judge(const NormalEquations<6>& next) {
    const double change = solution_.last.cost - next.cost;
    solution_.converged =
        step_ < kStepTolerance ||
        (damping_ < 1 && std::abs(change) <= kCostTolerance * solution_.last.cost);
    if (change >= 0) {
      for (int k = 0; k < 7; ++k) solution_.T[k] = trial_[k];
      solution_.last = next;
    }
    const double less = damping_ / 10;
    damping_ = change >= 0 ? (less > kLeastDamping ? less : kLeastDamping) : damping_ * 10;
  }

  // Sets the next trial; false where there is none.
  HD bool propose() {
    while (left_ > 0 && !solution_.converged && damping_ < kMostDamping) {
      double step[6], square = 0;
      --left_;
      ++solution_.iterations;
      if (damped_step(step)) {
        for (int k = 0; k < 6; ++k) square += step[k] * step[k];
        for (int k = 0; k < 7; ++k) trial_[k] = solution_.T[k];
        pose_retract(step, trial_);
        step_ = std::sqrt(square);
        return true;
      }
      damping_ *= 10;
    }
    return false;
  }

  // False where the system is singular.
  HD bool damped_step(double* step) const {
    double a[36];
    for (int k = 0; k < 36; ++k) a[k] = solution_.last.H[k];
    for (int k = 0; k < 6; ++k) a[7 * k] *= 1 + damping_;
    if (!cholesky<6>(a)) return false;
    for (int k = 0; k < 6; ++k) step[k] = solution_.last.g[k];
    solve_lower<6>(a, step);
    solve_lower_transposed<6>(a, step);
    return true;
  }

  PoseSolution solution_;
  double trial_[7], damping_, step_;  // step_: length of the last one
  float bound_, outlier_;
  int wanted_, left_;  // iterations: in all, and of this phase
  bool fresh_;         // the trial is solution_.T, under a new bound
  bool gate_later_;
};

// Minimises the residual's cost over T_ji from T_init.
PoseSolution solve_pose_cpu(const PoseResidual&, const double* T_init, int iterations,
                            int64_t pixels, int threads);
PoseSolution solve_pose_cuda(const PoseResidual&, const double* T_init, int iterations,
                             int64_t pixels, int device, void* stream);

}  // namespace slam
