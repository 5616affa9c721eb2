// Dense bundle adjustment: the problem in parts, their per-pixel work on a device, a damped step.
#pragma once
#include <memory>
#include <vector>

#include "loops.h"

namespace slam {

// All poses and edges, and the pixels of some keyframes: of all, or of a part that memory holds.
struct DenseProblem {
  int poses, edges;
  int begin, end;  // keyframes of the part
  int64_t pixels;
  // On the host:
  const double* T_CW;   // [poses, 7]
  const int32_t* edge;  // [edges, 2] (i, j), sorted
  const bool* fixed;    // [poses]
  // Of the part's keyframes and the edges from them, where the per-pixel work runs:
  const float *inverse_depth, *prior, *prior_weight;  // [keyframes, pixels]
  const float *target, *weight;                       // [their edges, pixels (, 2)]
  const float* pixel;                                 // [pixels, 2]
  Pinhole camera;
  float huber, outlier;
  bool refine_focal;
};

struct DenseOptions {
  float depth_damping, minimum, maximum;
};

struct DenseStep {
  double log_focal, focal_information, cost;
  bool ok;
};

// What the reduction of one keyframe's pixels leaves.
struct DenseSums {
  std::vector<double> gram;   // [columns, columns], lower triangle of E C^-1 E^T
  std::vector<double> edges;  // [edges, kDenseTriangle]
  double cost = 0;
};

// The per-pixel work of all keyframes.
class DenseDevice {
 public:
  virtual ~DenseDevice() = default;
  virtual double cost(const std::vector<DenseKeyframe>&, double before) = 0;  // is added
  virtual std::vector<DenseSums> sums(const std::vector<DenseKeyframe>&) = 0;
  virtual void update(const std::vector<DenseKeyframe>&, const std::vector<DenseUpdate>&) = 0;
};
std::unique_ptr<DenseDevice> dense_cpu(int threads);
std::unique_ptr<DenseDevice> dense_cuda(int device, void* stream);

double dense_ba_cost(const DenseProblem& part, DenseDevice&, double before);

// The system of a step, reduced to the poses. Every part is added, in order, before it is solved.
class DenseReduction {
 public:
  explicit DenseReduction(const DenseProblem& part);  // any: all have the poses and edges
  ~DenseReduction();
  void add(const DenseProblem& part, float depth_damping, DenseDevice&);
  DenseStep solve(double damping, double* twist);  // once; writes [poses, 6] where the step is ok

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Writes the part's inverse_depth [keyframes, pixels] after a step.
void dense_ba_update(const DenseProblem& part, const DenseOptions&, const double* twist,
                     double log_focal, DenseDevice&, float* inverse_depth);

}  // namespace slam
