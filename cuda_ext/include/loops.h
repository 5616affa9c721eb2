// The CPU's loops over blocks of pixels, compiled for several instruction sets.
#pragma once
#include "dense_terms.h"
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

// Of dense bundle adjustment; ranges begin at multiples of kBlock.
struct DenseLoops {
  double (*cost)(const DenseKeyframe&, int64_t begin, int64_t end);
  int64_t (*work)(const DenseKeyframe&);  // floats that `sums` needs
  // Adds to gram [columns, columns] (lower triangle of E C^-1 E^T) and to the edges' sums
  // [edges, kDenseTriangle] of one block. Returns the cost.
  double (*sums)(const DenseKeyframe&, int64_t begin, int64_t end, float* work, double* gram,
                 double* edge_sums);
  void (*update)(const DenseKeyframe&, const DenseUpdate&, int64_t begin, int64_t end);
};

struct Loops {
  void (*pose)(const PoseResidual&, int64_t begin, int64_t end, BlockSums<6>& out);
  void (*ray)(const RayResidual&, int64_t begin, int64_t end, BlockSums<7>& out);
  void (*pixel_depth)(const PixelDepthResidual&, int64_t begin, int64_t end, BlockSums<7>& out);
  void (*triangulate)(const Triangulation&, int64_t begin, int64_t end);
  void (*fuse)(float* value, float* information, const float* new_value,
               const float* new_information, const FusionOptions&, int64_t begin, int64_t end);
  void (*refine_flow)(const FlowRefinement&);
  void (*unroll)(const Unrolling&, int64_t pixels);
  void (*match_rays)(const RayMatching&, int64_t begin, int64_t end);
  void (*refine_matches)(const MatchRefinement&, int64_t begin, int64_t end);
};

const Loops& loops();  // for this processor

}  // namespace slam
