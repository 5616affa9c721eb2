// One pixel of dense bundle adjustment: what an edge measures of it, and how its depth steps.
#pragma once
#include "residuals.h"

namespace slam {

constexpr int kDenseColumns = 8;  // twist (6), r, log focal
constexpr int kDenseTriangle = kDenseColumns * (kDenseColumns + 1) / 2;

// Place of (a, b), a <= b, in the upper triangle row by row.
HD constexpr int triangle_place(int a, int b) {
  return a * kDenseColumns - a * (a - 1) / 2 + b - a;
}

// An edge's motion, and the six columns of E that its twist belongs to.
struct DenseEdge {
  Motion T_ji;
  int block;       // -1: neither pose moves
  bool of_source;  // the columns are for the twist of T_i (j stays), else for that of T_ji
};

// A keyframe with the edges that move its pixels.
struct DenseKeyframe {
  const float *pixel, *inverse_depth, *prior, *prior_weight;
  const float *target, *weight;  // of its first edge
  const DenseEdge* edge;
  int64_t pixels;
  int edges, blocks;  // blocks: of six columns
  Pinhole camera;
  float huber, outlier, depth_damping;
  bool refine_focal;

  // Columns of E: the blocks, log focal if refined, the right-hand side; padded.
  HD int columns() const { return (rhs_column() + 1 + 3) / 4 * 4; }
  HD int focal_column() const { return 6 * blocks; }
  HD int rhs_column() const { return 6 * blocks + (refine_focal ? 1 : 0); }
};

// A step in the twists of the edges' T_ji, to substitute back into the inverse depths.
struct DenseUpdate {
  const float* twist;  // [edges, 6]
  float log_focal, minimum, maximum;
  float* inverse_depth;  // [pixels], out
};

// A measured pixel moved to the other camera; all 0 where it has no influence.
template <class T>
struct DensePixel {
  T x, y, d;       // normalised image coordinates there; rho / z
  T error[2];      // px, measured minus predicted
  T depth[2];      // d(u, v)/d(rho)
  T focal[2];      // d(u, v)/d(log focal)
  T weight, cost;  // weight: 1/px^2, the robust factor included
};

template <class T>
HD DensePixel<T> dense_pixel(const Pinhole& c, const Motion& m, T u, T v, T rho, T target_u,
                             T target_v, T w, float huber, float outlier) {
  const T one = splat<T>(1.0f);
  const Mask<T> counted = w > 0.0f;
  const auto p = reproject(c, m, u, v, rho);
  const Mask<T> valid = counted & p.in_front;
  const T r_u = select(valid, target_u, T{}) - (c.fx * p.x + c.cx);
  const T r_v = select(valid, target_v, T{}) - (c.fy * p.y + c.cy);
  const T error = square_root(select(counted, w, T{}) * (r_u * r_u + r_v * r_v));
  const T charged = select(valid, error, splat<T>(kBehindCameraError));
  const T robust = w * select(error < huber, one, huber / error);
  const Mask<T> used = valid & (error <= outlier) & (robust > 0.0f);
  T du[2];
  depth_derivative(c, m, p, du);
  // The source pixel's ray shrinks as the focal grows: d(ray)/d(log f) = -(ray_x, ray_y, 0).
  const T x = m.r[0] * p.ray_x + m.r[1] * p.ray_y, y = m.r[3] * p.ray_x + m.r[4] * p.ray_y,
          z = m.r[6] * p.ray_x + m.r[7] * p.ray_y;
  const T focal_u = c.fx * (p.x - (x - p.x * z) * p.inverse_z);
  const T focal_v = c.fy * (p.y - (y - p.y * z) * p.inverse_z);
  DensePixel<T> out;
  out.x = select(used, p.x, T{}), out.y = select(used, p.y, T{});
  out.d = select(used, rho * p.inverse_z, T{});
  out.error[0] = select(used, r_u, T{}), out.error[1] = select(used, r_v, T{});
  out.depth[0] = select(used, du[0], T{}), out.depth[1] = select(used, du[1], T{});
  out.focal[0] = select(used, focal_u, T{}), out.focal[1] = select(used, focal_v, T{});
  out.weight = select(used, robust, T{});
  const T cost = huber_cost(smaller(charged, splat<T>(outlier)), huber);
  out.cost = select(counted, cost, T{});
  return out;
}

// Whitened derivatives of one image axis. The other axis' translation does not move it.
constexpr int kAxisColumns = 7;  // of: own translation, that along z, rotation (3), r, log focal

// Which of an edge's eight columns they are.
HD constexpr int dense_column(int axis, int k) { return k == 0 ? axis : k + 1; }

template <class T>
struct DenseRows {
  T u[kAxisColumns], v[kAxisColumns];
  T depth[2];  // of inverse depth
};

template <class T>
HD DenseRows<T> dense_rows(const Pinhole& c, const DensePixel<T>& p) {
  const T scale = square_root(p.weight), a = c.fx * scale, b = c.fy * scale, xy = p.x * p.y;
  return {{a * p.d, -a * (p.d * p.x), -a * xy, a + a * (p.x * p.x), -a * p.y, scale * p.error[0],
           scale * p.focal[0]},
          {b * p.d, -b * (p.d * p.y), -b - b * (p.y * p.y), b * xy, b * p.x, scale * p.error[1],
           scale * p.focal[1]},
          {scale * p.depth[0], scale * p.depth[1]}};
}

// depth^T J for the twist of T_ji.
template <class T>
HD void depth_times_twist(const DenseRows<T>& r, T (&out)[6]) {
  out[0] = r.depth[0] * r.u[0];
  out[1] = r.depth[1] * r.v[0];
  for (int k = 2; k < 6; ++k) out[k] = r.depth[0] * r.u[k - 1] + r.depth[1] * r.v[k - 1];
}

// The same for the twist of T_i with j fixed, from that of T_ji: e <- -Ad(T_ji)^T e.
template <class T>
HD void twist_of_source(const Motion& m, T (&e)[6]) {
  const T turn[3] = {e[3] - (m.t[1] * e[2] - m.t[2] * e[1]), e[4] - (m.t[2] * e[0] - m.t[0] * e[2]),
                     e[5] - (m.t[0] * e[1] - m.t[1] * e[0])};
  const T move[3] = {e[0], e[1], e[2]};
  for (int k = 0; k < 3; ++k) {
    e[k] = -(m.r[k] * move[0] + m.r[3 + k] * move[1] + m.r[6 + k] * move[2]);
    e[3 + k] = -(m.r[k] * turn[0] + m.r[3 + k] * turn[1] + m.r[6 + k] * turn[2]);
  }
}

// Curvature of a pixel's inverse depth, with prior and damping.
template <class T>
HD T damped_curvature(T edges, T prior_weight, float damping) {
  return (edges + prior_weight) * (1.0f + damping);
}

// 1 / curvature, or 0 where nothing measures the pixel: it then neither moves nor counts.
template <class T>
HD T inverse_curvature(T curvature) {
  const Mask<T> measured = curvature > 1e-12f;
  return select(measured, 1.0f / select(measured, curvature, splat<T>(1.0f)), T{});
}

// One edge's part of a pixel's curvature c and of its right-hand side b, after a pose step.
template <bool Focal, class T>
HD void add_depth_terms(const Pinhole& k, const DensePixel<T>& p, const float* twist,
                        float log_focal, T& c, T& b) {
  const T x = twist[0] * p.d + twist[4] - twist[5] * p.y;
  const T y = twist[1] * p.d + twist[5] * p.x - twist[3];
  const T z = twist[2] * p.d + twist[3] * p.y - twist[4] * p.x;
  T left_u = p.error[0] - k.fx * (x - p.x * z), left_v = p.error[1] - k.fy * (y - p.y * z);
  if (Focal) left_u = left_u - log_focal * p.focal[0], left_v = left_v - log_focal * p.focal[1];
  c = c + p.weight * (p.depth[0] * p.depth[0] + p.depth[1] * p.depth[1]);
  b = b + p.weight * (p.depth[0] * left_u + p.depth[1] * left_v);
}

template <class T>
HD T stepped_inverse_depth(T rho, T c, T b, float minimum, float maximum) {
  const T moved = rho + b * inverse_curvature(c);
  const T low = select(moved < minimum, splat<T>(minimum), moved);
  const T clamped = smaller(low, splat<T>(maximum));
  return select(c > 1e-12f, clamped, rho);
}

}  // namespace slam
