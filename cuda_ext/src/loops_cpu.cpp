// The CPU's loops over blocks of pixels: eight pixels at a time, sums in a fixed order.
#include <algorithm>

#include "lane_reader.h"
#include "loops.h"

#ifndef SLAM_ISA
#define SLAM_ISA portable
#endif

namespace slam {
namespace SLAM_ISA {
extern const Loops kLoops;
void refine_flow_rows(const FlowRefinement& r);                          // flow_refinement_cpu.cpp
void match_ray_range(const RayMatching& m, int64_t begin, int64_t end);  // matching_cpu.cpp
void refine_match_range(const MatchRefinement& m, int64_t begin, int64_t end);
namespace {

HD Lanes one_where(LaneMask mask) { return select(mask, splat<Lanes>(1.0f), Lanes{}); }

template <class Residual, int N = Residual::kParameters>
void accumulate(const Residual& residual, int64_t begin, int64_t end, BlockSums<N>& out) {
  Lanes triangle[BlockSums<N>::kTriangle] = {}, cost{}, inliers{}, counted{};
  for (int64_t p = begin; p < end; p += kLanes) {
    Lanes row[Residual::kRows][N + 1];
    const auto tally = residual.template operator()<Lanes>(Reader(p, end), row);
    int k = 0;
    for (int a = 0; a <= N; ++a)
      for (int b = a; b <= N; ++b, ++k)
        for (int r = 0; r < Residual::kRows; ++r) triangle[k] += row[r][a] * row[r][b];
    cost += tally.cost;
    inliers += one_where(tally.inlier);
    counted += one_where(tally.counted);
  }
  for (int k = 0; k < BlockSums<N>::kTriangle; ++k) out.triangle[k] = sum(triangle[k]);
  out.cost = sum(cost);
  out.inliers = sum(inliers);
  out.counted = sum(counted);
}

void triangulate_range(const Triangulation& t, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; p += kLanes) {
    const Reader read(p, end);
    const auto m =
        triangulate(t.camera, t.T_ji, read(t.pixel, 2, 0), read(t.pixel, 2, 1),
                    read(t.target, 2, 0), read(t.target, 2, 1), read(t.weight, 1, 0), t.gate);
    read.write(t.value, m.value);
    read.write(t.information, m.information);
  }
}

void fuse_range(float* value, float* information, const float* new_value,
                const float* new_information, const FusionOptions& options, int64_t begin,
                int64_t end) {
  for (int64_t p = begin; p < end; p += kLanes) {
    const Reader read(p, end);
    const auto m = fuse(read(value, 1, 0), read(information, 1, 0), read(new_value, 1, 0),
                        read(new_information, 1, 0), options);
    read.write(value, m.value);
    read.write(information, m.information);
  }
}

void unroll_all(const Unrolling& r, int64_t pixels) {
  for (int64_t p = 0; p < pixels; p += kLanes) {
    const Reader read(p, pixels);
    const auto moved =
        unroll(r, read(r.pixel, 2, 0), read(r.pixel, 2, 1), read(r.inverse_depth, 1, 0),
               read(r.target, 2, 0), read(r.target, 2, 1));
    for (int k = 0; k < read.valid; ++k) {
      r.corrected[2 * (p + k)] = moved.u[k];
      r.corrected[2 * (p + k) + 1] = moved.v[k];
    }
  }
}

}  // namespace

const Loops kLoops = {accumulate<PoseResidual>,
                      accumulate<RayResidual>,
                      accumulate<PixelDepthResidual>,
                      triangulate_range,
                      fuse_range,
                      refine_flow_rows,
                      unroll_all,
                      match_ray_range,
                      refine_match_range};

}  // namespace SLAM_ISA
}  // namespace slam
