// Dense bundle adjustment: the problem, its per-pixel work on a device, one damped step.
#pragma once
#include <memory>
#include <vector>

#include "loops.h"

namespace slam {

struct DenseProblem {
  int poses, edges;
  int64_t pixels;
  // On the host:
  const double* T_CW;   // [poses, 7]
  const int32_t* edge;  // [edges, 2] (i, j), sorted
  const bool* fixed;    // [poses]
  // Where the per-pixel work runs:
  const float *inverse_depth, *prior, *prior_weight;  // [poses, pixels]
  const float *target, *weight;                       // [edges, pixels (, 2)]
  const float* pixel;                                 // [pixels, 2]
  Pinhole camera;
  float huber, outlier;
  bool refine_focal;
};

struct DenseOptions {
  double damping;
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
  virtual double cost(const std::vector<DenseKeyframe>&) = 0;
  virtual std::vector<DenseSums> sums(const std::vector<DenseKeyframe>&) = 0;
  virtual void update(const std::vector<DenseKeyframe>&, const std::vector<DenseUpdate>&) = 0;
};
std::unique_ptr<DenseDevice> dense_cpu(int threads);
std::unique_ptr<DenseDevice> dense_cuda(int device, void* stream);

double dense_ba_cost(const DenseProblem&, DenseDevice&);
// Writes twist [poses, 6] and inverse_depth [poses, pixels]; neither where the step is not ok.
DenseStep dense_ba_step(const DenseProblem&, const DenseOptions&, DenseDevice&, double* twist,
                        float* inverse_depth);

}  // namespace slam
