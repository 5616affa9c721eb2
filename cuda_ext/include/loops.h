// The CPU's loops over blocks of pixels, compiled for several instruction sets.
#pragma once
#include "flow_refinement.h"
#include "inverse_depth.h"
#include "matching.h"
#include "residuals.h"
#include "shutter.h"

namespace slam {

constexpr int kBlock = 512;  // pixels summed in float32 before a float64 takes over; fixed, so that
                             // results do not depend on the number of threads

// Sums of one block: upper triangle of [J r]^T [J r] row by row, then cost, inliers, counted.
template <int N>
struct BlockSums {
  static constexpr int kTriangle = (N + 1) * (N + 2) / 2;
  double triangle[kTriangle];
  double cost, inliers, counted;
};

constexpr int kDenseColumns = 8;  // twist (6), r, log focal
constexpr int kDenseTriangle = kDenseColumns * (kDenseColumns + 1) / 2;

// A keyframe of dense bundle adjustment with the edges that move its pixels.
struct DenseKeyframe {
  const float *pixel, *inverse_depth, *prior, *prior_weight;
  const float *target, *weight;  // of its first edge
  const Motion* motion;          // T_ji, one an edge
  int64_t pixels;
  int edges;
  Pinhole camera;
  float huber, outlier, depth_damping;
  bool refine_focal;

  // Columns of E: a twist an edge, log focal if refined, the right-hand side; padded.
  HD int columns() const { return (6 * edges + (refine_focal ? 1 : 0) + 1 + 3) / 4 * 4; }
  HD int focal_column() const { return 6 * edges; }
  HD int rhs_column() const { return 6 * edges + (refine_focal ? 1 : 0); }
};

// A step in relative twists, one an edge, to substitute back into the inverse depths.
struct DenseUpdate {
  const float* twist;  // [edges, 6]
  float log_focal, minimum, maximum;
  float* inverse_depth;  // [pixels], out
};

struct Loops {
  void (*pose)(const PoseResidual&, int64_t begin, int64_t end, BlockSums<6>& out);
  void (*ray)(const RayResidual&, int64_t begin, int64_t end, BlockSums<7>& out);
  void (*pixel_depth)(const PixelDepthResidual&, int64_t begin, int64_t end, BlockSums<7>& out);
  void (*triangulate)(const Triangulation&, int64_t begin, int64_t end);
  void (*fuse)(float* value, float* information, const float* new_value,
               const float* new_information, const FusionOptions&, int64_t begin, int64_t end);
  double (*dense_cost)(const DenseKeyframe&, int64_t begin, int64_t end);
  // Adds to gram [columns, columns] (lower triangle of E C^-1 E^T) and to edge sums
  // [edges, kDenseTriangle]; work: (columns + 1) * kBlock floats. Returns the cost.
  double (*dense_sums)(const DenseKeyframe&, int64_t begin, int64_t end, float* work, double* gram,
                       double* edge_sums);
  void (*dense_update)(const DenseKeyframe&, const DenseUpdate&, int64_t begin, int64_t end);
  void (*refine_flow)(const FlowRefinement&);
  void (*unroll)(const Unrolling&, int64_t pixels);
  void (*match_rays)(const RayMatching&, int64_t begin, int64_t end);
  void (*refine_matches)(const MatchRefinement&, int64_t begin, int64_t end);
};

const Loops& loops();  // for this processor

}  // namespace slam
