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

// Products of columns `First` to `Last - 1` with themselves and all after them, summed over the
// pixels' rows; in parts that fit the registers.
template <int First, int Last, int Columns>
HD void sum_products(const Lanes (*row)[Columns], int rows, double* triangle) {
  Lanes products[Last - First][Columns] = {};
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int b = First; b < Columns; ++b)
#pragma GCC unroll 8
      for (int a = First; a < Last; ++a)
        if (a <= b) products[a - First][b] += row[r][a] * row[r][b];
#pragma GCC unroll 8
  for (int a = First; a < Last; ++a)
#pragma GCC unroll 8
    for (int b = a; b < Columns; ++b)
      triangle[a * Columns - a * (a - 1) / 2 + b - a] = sum(products[a - First][b]);
}

template <class Residual, int N = Residual::kParameters>
void accumulate(const Residual& given, int64_t begin, int64_t end, BlockSums<N>& out) {
  const Residual residual = given;  // a copy that stores cannot change stays in registers
  Lanes row[Residual::kRows * kBlock / kLanes][N + 1], cost{}, inliers{}, counted{};
  int rows = 0;
  for (int64_t p = begin; p < end; p += kLanes, rows += Residual::kRows) {
    Lanes of_pixels[Residual::kRows][N + 1];
    const auto tally = residual.template operator()<Lanes>(Reader(p, end), of_pixels);
#pragma GCC unroll 4
    for (int r = 0; r < Residual::kRows; ++r)
#pragma GCC unroll 8
      for (int k = 0; k <= N; ++k) row[rows + r][k] = of_pixels[r][k];
    cost += tally.cost;
    inliers += one_where(tally.inlier);
    counted += one_where(tally.counted);
  }
  sum_products<0, 1, N + 1>(row, rows, out.triangle);
  sum_products<1, 3, N + 1>(row, rows, out.triangle);
  sum_products<3, N + 1, N + 1>(row, rows, out.triangle);
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
