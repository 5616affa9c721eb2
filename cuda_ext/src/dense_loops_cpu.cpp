// The CPU's loops of dense bundle adjustment: eight pixels at a time, sums in a fixed order.
#include <algorithm>

#include "lane_reader.h"
#include "loops.h"

#ifndef SLAM_ISA
#define SLAM_ISA portable
#endif

namespace slam {
namespace SLAM_ISA {
extern const DenseLoops kDenseLoops;
namespace {

// One edge's pixels. Copies: what is written meanwhile cannot change them, so they stay in
// registers.
struct EdgeReader {
  const float *pixel, *inverse_depth, *target, *weight;
  Pinhole camera;
  Motion T_ji;
  float huber, outlier;

  HD EdgeReader(const DenseKeyframe& f, int edge)
      : pixel(f.pixel),
        inverse_depth(f.inverse_depth),
        target(f.target + 2 * f.pixels * edge),
        weight(f.weight + f.pixels * edge),
        camera(f.camera),
        T_ji(f.edge[edge].T_ji),
        huber(f.huber),
        outlier(f.outlier) {}

  HD DensePixel<Lanes> operator()(const Reader& read) const {
    return dense_pixel(camera, T_ji, read(pixel, 2, 0), read(pixel, 2, 1),
                       read(inverse_depth, 1, 0), read(target, 2, 0), read(target, 2, 1),
                       read(weight, 1, 0), huber, outlier);
  }
};

double cost(const DenseKeyframe& f, int64_t begin, int64_t end) {
  double total = 0;
  Lanes cost{};
  for (int edge = 0; edge < f.edges; ++edge, total += sum(cost), cost = Lanes{}) {
    const EdgeReader pixel(f, edge);
    for (int64_t p = begin; p < end; p += kLanes) cost += pixel(Reader(p, end)).cost;
  }
  for (int64_t p = begin; p < end; p += kLanes) {
    const Reader read(p, end);
    const Lanes d = read(f.prior, 1, 0) - read(f.inverse_depth, 1, 0);
    cost += 0.5f * read(f.prior_weight, 1, 0) * d * d;
  }
  return total + sum(cost);
}

// Floats of a cache line, and from a row to the next: no multiple of a page, so that rows do not
// share cache lines' sets.
constexpr int kLine = 16, kStride = kBlock + kLine;

// Rows of kBlock floats that a block of pixels needs.
struct Work {
  float* columns;    // of E, and two of zeros that add_gram may read
  float* curvature;  // of the inverse depths
  float* rows[2];    // whitened derivatives of one edge, an image axis each

  static int64_t size(const DenseKeyframe& f) {
    return int64_t(f.columns() + 3 + 2 * kAxisColumns) * kStride + kLine;
  }
  Work(const DenseKeyframe& f, float* work)
      : columns(work + (kLine - reinterpret_cast<uintptr_t>(work) / sizeof(float) % kLine) % kLine),
        curvature(columns + (f.columns() + 2) * kStride),
        rows{curvature + kStride, curvature + (1 + kAxisColumns) * kStride} {}
};

// Adds products of rows `First` to `Last - 1` with themselves and all below `Columns`.
template <int First, int Last, int Columns>
HD void add_products(const float* rows, int64_t used, int axis, double* sums) {
  Lanes products[Last - First][Columns] = {};
  for (int64_t o = 0; o < used; o += kLanes) {
#pragma GCC unroll 8
    for (int b = First; b < Columns; ++b) {
      const Lanes x = load(rows + b * kStride + o);
#pragma GCC unroll 8
      for (int a = First; a < Last; ++a)
        if (a <= b) products[a - First][b] += load(rows + a * kStride + o) * x;
    }
  }
#pragma GCC unroll 8
  for (int a = First; a < Last; ++a)
#pragma GCC unroll 8
    for (int b = a; b < Columns; ++b)
      sums[triangle_place(dense_column(axis, a), dense_column(axis, b))] +=
          sum(products[a - First][b]);
}

// In parts, each of which fits the registers.
template <int Columns>
HD void add_triangle(const float* rows, int64_t used, int axis, double* sums) {
  add_products<0, 2, Columns>(rows, used, axis, sums);
  add_products<2, 4, Columns>(rows, used, axis, sums);
  add_products<4, Columns, Columns>(rows, used, axis, sums);
}

HD void add_to(float* a, Lanes value) { store(a, load(a) + value); }

// Adds one edge's block: its normal equations to sums, its columns of E to work.
template <bool Focal>
double edge_sums(const DenseKeyframe& f, int edge, int64_t begin, int64_t end, const Work& work,
                 double* sums) {
  constexpr int kUsed = Focal ? kAxisColumns : kAxisColumns - 1;
  const EdgeReader measured(f, edge);
  const int block = f.edge[edge].block;
  const bool of_source = f.edge[edge].of_source;
  float *focal = work.columns + f.focal_column() * kStride,
        *rhs = work.columns + f.rhs_column() * kStride, *twist = work.columns + 6 * block * kStride,
        *curvature = work.curvature;
  float* const rows[2] = {work.rows[0], work.rows[1]};
  Lanes cost{};
  for (int64_t p = begin; p < end; p += kLanes) {
    const auto pixel = measured(Reader(p, end));
    const auto r = dense_rows(measured.camera, pixel);
    cost += pixel.cost;
    const int64_t o = p - begin;
    add_to(curvature + o, r.depth[0] * r.depth[0] + r.depth[1] * r.depth[1]);
    add_to(rhs + o, r.depth[0] * r.u[5] + r.depth[1] * r.v[5]);
    if (Focal) add_to(focal + o, r.depth[0] * r.u[6] + r.depth[1] * r.v[6]);
    if (Focal || block >= 0)
#pragma GCC unroll 8
      for (int k = 0; k < kUsed; ++k) {
        store(rows[0] + k * kStride + o, r.u[k]);
        store(rows[1] + k * kStride + o, r.v[k]);
      }
    if (block < 0) continue;
    Lanes E[6];
    depth_times_twist(r, E);
    if (of_source) twist_of_source(measured.T_ji, E);
#pragma GCC unroll 6
    for (int k = 0; k < 6; ++k)
      if (of_source)
        add_to(twist + k * kStride + o, E[k]);
      else
        store(twist + k * kStride + o, E[k]);
  }
  const int64_t used = (end - begin + kLanes - 1) / kLanes * kLanes;
  if (Focal || block >= 0)
    for (int axis = 0; axis < 2; ++axis) add_triangle<kUsed>(rows[axis], used, axis, sums);
  return sum(cost);
}

// Adds the lower triangle of rows rows^T; `used` floats of each row count.
void add_gram(const float* rows, int count, int64_t used, double* gram) {
#ifdef __AVX2__
  constexpr int kHigh = 4, kWide = 3;
#else
  constexpr int kHigh = 2, kWide = 2;  // sixteen half-width registers
#endif
  for (int a = 0; a < count; a += kHigh)
    for (int b = 0; b < a + kHigh; b += kWide) {
      Lanes sums[kHigh][kWide] = {};
      for (int64_t p = 0; p < used; p += kLanes) {
        Lanes x[kWide];
        for (int n = 0; n < kWide; ++n) x[n] = load(rows + (b + n) * kStride + p);
        for (int k = 0; k < kHigh; ++k) {
          const Lanes z = load(rows + (a + k) * kStride + p);
          for (int n = 0; n < kWide; ++n) sums[k][n] += z * x[n];
        }
      }
      for (int k = 0; k < kHigh; ++k)
        for (int n = 0; n < kWide; ++n)
          if (b + n < count) gram[(a + k) * count + b + n] += sum(sums[k][n]);
    }
}

// Adds the priors to the curvature and the right-hand side, and scales E by the root of the
// inverse curvature. Returns the priors' cost.
double finish_columns(const DenseKeyframe& f, int64_t begin, int64_t end, const Work& work) {
  Lanes cost{};
  float* rhs = work.columns + f.rhs_column() * kStride;
  for (int64_t p = begin; p < end; p += kLanes) {
    const int64_t o = p - begin;
    const Reader read(p, end);
    const Lanes w = read(f.prior_weight, 1, 0);
    const Lanes d = read(f.prior, 1, 0) - read(f.inverse_depth, 1, 0);
    cost += 0.5f * w * d * d;
    const Lanes c = damped_curvature(load(work.curvature + o), w, f.depth_damping);
    const Lanes scale = square_root(inverse_curvature(c));
    add_to(rhs + o, w * d);
    for (float* a = work.columns + o; a <= rhs + o; a += kStride) store(a, load(a) * scale);
  }
  return sum(cost);
}

int64_t work_size(const DenseKeyframe& f) { return Work::size(f); }

double sums(const DenseKeyframe& f, int64_t begin, int64_t end, float* floats, double* gram,
            double* edge_sums_out) {
  const Work work(f, floats);
  std::fill(work.columns, work.curvature + kStride, 0.0f);
  double cost = 0;
  for (int edge = 0; edge < f.edges; ++edge)
    cost += (f.refine_focal ? edge_sums<true>
                            : edge_sums<false>)(f, edge, begin, end, work,
                                                edge_sums_out + edge * kDenseTriangle);
  cost += finish_columns(f, begin, end, work);
  add_gram(work.columns, f.columns(), (end - begin + kLanes - 1) / kLanes * kLanes, gram);
  return cost;
}

template <bool Focal>
void update_range(const DenseKeyframe& f, const DenseUpdate& u, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; p += kLanes) {
    const Reader read(p, end);
    Lanes c{}, b{};
    for (int edge = 0; edge < f.edges; ++edge)
      add_depth_terms<Focal>(f.camera, EdgeReader(f, edge)(read), u.twist + 6 * edge, u.log_focal,
                             c, b);
    const Lanes rho = read(f.inverse_depth, 1, 0), w = read(f.prior_weight, 1, 0);
    b += w * (read(f.prior, 1, 0) - rho);
    c = damped_curvature(c, w, f.depth_damping);
    read.write(u.inverse_depth, stepped_inverse_depth(rho, c, b, u.minimum, u.maximum));
  }
}

void update(const DenseKeyframe& f, const DenseUpdate& u, int64_t begin, int64_t end) {
  (f.refine_focal ? update_range<true> : update_range<false>)(f, u, begin, end);
}

}  // namespace

const DenseLoops kDenseLoops = {cost, work_size, sums, update};

}  // namespace SLAM_ISA
}  // namespace slam
