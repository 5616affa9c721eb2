// The CPU's loops over blocks of pixels: eight pixels at a time, sums in a fixed order.
#include <algorithm>

#include "lanes.h"
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

// Reads component `component` of eight consecutive pixels; zeros past the end.
struct Reader {
  int64_t first;
  int valid;  // lanes
  Reader(int64_t begin, int64_t end)
      : first(begin), valid(int(std::min<int64_t>(kLanes, end - begin))) {}
  HD Lanes operator()(const float* base, int stride, int component) const {
    const float* a = base + first * stride + component;
    Lanes out{};
    if (valid == kLanes) {
      for (int k = 0; k < kLanes; ++k) out[k] = a[k * stride];
    } else {
      for (int k = 0; k < valid; ++k) out[k] = a[k * stride];
    }
    return out;
  }
  HD void write(float* base, Lanes value) const {
    if (valid == kLanes) return store(base + first, value);
    for (int k = 0; k < valid; ++k) base[first + k] = value[k];
  }
};

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

HD DenseTerms<Lanes> edge_terms(const DenseKeyframe& f, int edge, const Reader& read) {
  const float* target = f.target + 2 * f.pixels * edge;
  return dense_terms(f.camera, f.motion[edge], read(f.pixel, 2, 0), read(f.pixel, 2, 1),
                     read(f.inverse_depth, 1, 0), read(target, 2, 0), read(target, 2, 1),
                     read(f.weight + f.pixels * edge, 1, 0), f.huber, f.outlier);
}

double dense_cost(const DenseKeyframe& f, int64_t begin, int64_t end) {
  double total = 0;
  Lanes cost{};
  for (int edge = 0; edge < f.edges; ++edge, total += sum(cost), cost = Lanes{})
    for (int64_t p = begin; p < end; p += kLanes) cost += edge_terms(f, edge, Reader(p, end)).cost;
  for (int64_t p = begin; p < end; p += kLanes) {
    const Reader read(p, end);
    const Lanes d = read(f.prior, 1, 0) - read(f.inverse_depth, 1, 0);
    cost += 0.5f * read(f.prior_weight, 1, 0) * d * d;
  }
  return total + sum(cost);
}

// Adds one edge's block: its normal equations to sums, its columns of E to work.
template <bool Focal>
double edge_sums(const DenseKeyframe& f, int edge, int64_t begin, int64_t end, float* work,
                 float* curvature, double* sums) {
  constexpr int kUsed = Focal ? 8 : 7;
  Lanes triangle[kDenseTriangle] = {}, cost{};
  float *twist = work + 6 * edge * kBlock, *focal = work + f.focal_column() * kBlock,
        *rhs = work + f.rhs_column() * kBlock;
  for (int64_t p = begin; p < end; p += kLanes) {
    const auto t = edge_terms(f, edge, Reader(p, end));
    for (int a = 0, k = 0; a < 8; ++a)
      for (int b = a; b < 8; ++b, ++k)
        if (b < kUsed) triangle[k] += t.row[0][a] * t.row[0][b] + t.row[1][a] * t.row[1][b];
    cost += t.cost;
    const int64_t o = p - begin;
    for (int a = 0; a < 6; ++a)
      store(twist + a * kBlock + o, t.depth[0] * t.row[0][a] + t.depth[1] * t.row[1][a]);
    store(rhs + o, load(rhs + o) + t.depth[0] * t.row[0][6] + t.depth[1] * t.row[1][6]);
    if (Focal)
      store(focal + o, load(focal + o) + t.depth[0] * t.row[0][7] + t.depth[1] * t.row[1][7]);
    store(curvature + o, load(curvature + o) + t.depth[0] * t.depth[0] + t.depth[1] * t.depth[1]);
  }
  for (int k = 0; k < kDenseTriangle; ++k) sums[k] += sum(triangle[k]);
  return sum(cost);
}

// Adds the lower triangle of rows rows^T; `used` floats of each row of kBlock count.
void add_gram(const float* rows, int count, int64_t used, double* gram) {
#ifdef __AVX2__
  constexpr int kTile = 4;
#else
  constexpr int kTile = 2;  // sixteen half-width registers
#endif
  for (int a = 0; a < count; a += kTile)
    for (int b = 0; b < a + kTile; b += 2) {
      Lanes sums[kTile][2] = {};
      for (int64_t p = 0; p < used; p += kLanes) {
        const Lanes x = load(rows + b * kBlock + p), y = load(rows + (b + 1) * kBlock + p);
        for (int k = 0; k < kTile; ++k) {
          const Lanes z = load(rows + (a + k) * kBlock + p);
          sums[k][0] += z * x;
          sums[k][1] += z * y;
        }
      }
      for (int k = 0; k < kTile; ++k) {
        gram[(a + k) * count + b] += sum(sums[k][0]);
        gram[(a + k) * count + b + 1] += sum(sums[k][1]);
      }
    }
}

double dense_sums(const DenseKeyframe& f, int64_t begin, int64_t end, float* work, double* gram,
                  double* sums) {
  float* curvature = work + f.columns() * kBlock;
  std::fill(work, curvature + kBlock, 0.0f);
  double cost = 0;
  for (int edge = 0; edge < f.edges; ++edge)
    cost +=
        (f.refine_focal ? edge_sums<true> : edge_sums<false>)(f, edge, begin, end, work, curvature,
                                                              sums + edge * kDenseTriangle);
  Lanes prior_cost{};
  float* rhs = work + f.rhs_column() * kBlock;
  const int64_t used = (end - begin + kLanes - 1) / kLanes * kLanes;
  for (int64_t o = 0; o < used; o += kLanes) {
    const Reader read(begin + o, end);
    const Lanes w = read(f.prior_weight, 1, 0);
    const Lanes d = read(f.prior, 1, 0) - read(f.inverse_depth, 1, 0);
    prior_cost += 0.5f * w * d * d;
    const Lanes c = damped_curvature(load(curvature + o), w, f.depth_damping);
    const Lanes scale = square_root(inverse_curvature(c));
    store(rhs + o, load(rhs + o) + w * d);
    for (int row = 0; row <= f.rhs_column(); ++row)
      store(work + row * kBlock + o, load(work + row * kBlock + o) * scale);
  }
  add_gram(work, f.columns(), used, gram);
  return cost + sum(prior_cost);
}

void dense_update(const DenseKeyframe& f, const DenseUpdate& u, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; p += kLanes) {
    const Reader read(p, end);
    Lanes c{}, b{};
    for (int edge = 0; edge < f.edges; ++edge)
      add_depth_terms(edge_terms(f, edge, read), u.twist + 6 * edge, u.log_focal, c, b);
    const Lanes rho = read(f.inverse_depth, 1, 0), w = read(f.prior_weight, 1, 0);
    b += w * (read(f.prior, 1, 0) - rho);
    c = damped_curvature(c, w, f.depth_damping);
    read.write(u.inverse_depth, stepped_inverse_depth(rho, c, b, u.minimum, u.maximum));
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
                      dense_cost,
                      dense_sums,
                      dense_update,
                      refine_flow_rows,
                      unroll_all,
                      match_ray_range,
                      refine_match_range};

}  // namespace SLAM_ISA
}  // namespace slam
