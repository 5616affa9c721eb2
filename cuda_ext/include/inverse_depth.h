// One pixel of the inverse-depth filter: triangulate, fuse, move to another camera.
#pragma once
#include <cstring>

#include "residuals.h"

namespace slam {

struct Triangulation {
  const float *pixel, *target, *weight;
  float *value, *information;
  Pinhole camera;
  Motion T_ji;
  float gate;  // on the whitened epipolar distance
};

template <class T>
struct Measured {
  T value, information;  // information 0: not measured
};

// Least squares on both image axes, in pixels: rho A = B, where t moves the pixel along A.
template <class T>
HD Measured<T> triangulate(const Pinhole& c, const Motion& m, T u, T v, T target_u, T target_v, T w,
                           float gate) {
  const T one = splat<T>(1.0f);
  const Mask<T> given = w > 0.0f;
  const T ray_x = (u - c.cx) * (1.0f / c.fx), ray_y = (v - c.cy) * (1.0f / c.fy);
  const T mx = (select(given, target_u, T{}) - c.cx) * (1.0f / c.fx),
          my = (select(given, target_v, T{}) - c.cy) * (1.0f / c.fy);
  const T ax = m.r[0] * ray_x + m.r[1] * ray_y + m.r[2],
          ay = m.r[3] * ray_x + m.r[4] * ray_y + m.r[5],
          az = m.r[6] * ray_x + m.r[7] * ray_y + m.r[8];
  const T A_u = c.fx * (m.t[0] - mx * m.t[2]), A_v = c.fy * (m.t[1] - my * m.t[2]);
  const T B_u = c.fx * (mx * az - ax), B_v = c.fy * (my * az - ay);
  const T square = A_u * A_u + A_v * A_v;
  const Mask<T> moves = square > 0.0f;
  const T inverse = 1.0f / select(moves, square, one);
  const T rho = (A_u * B_u + A_v * B_v) * inverse;
  const T z = az + rho * m.t[2];
  const T cross = A_u * B_v - A_v * B_u;
  // perp * sqrt(w) < gate, squared; perp = |A x B| / |A| is in px for z near 1
  const Mask<T> near = cross * cross * inverse * select(given, w, T{}) < gate * gate;
  const Mask<T> valid = given & moves & near & (z > kMinimumDepth) & (rho > 0.0f);
  const T safe = select(valid, z, one);
  return {select(valid, rho, T{}), select(valid, w * square / (safe * safe), T{})};
}

struct FusionOptions {
  float gate;            // on the whitened innovation
  float relative_floor;  // smallest standard deviation, as a part of the value
  float initial;         // part of the information a first measurement is worth
  float decay;           // factor on the information where a measurement contradicts
};

template <class T>
HD Measured<T> fuse(T value, T information, T new_value, T new_information,
                    const FusionOptions& options) {
  const T one = splat<T>(1.0f);
  const Mask<T> known = information > 0.0f, given = new_information > 0.0f, both = known & given;
  const T a = select(both, information, one), b = select(both, new_information, one);
  const T innovation = select(both, new_value - value, T{});
  // innovation^2 / (1 / a + 1 / b) < gate^2
  const Mask<T> agrees = innovation * innovation * (a * b / (a + b)) < options.gate * options.gate;
  const T fused = value + innovation * (b / (a + b));
  const T deviation = options.relative_floor * fused;
  const T square = deviation * deviation;
  const T limit = select(square > 0.0f, 1.0f / select(square > 0.0f, square, one), a + b);
  const T after = select(agrees, smaller(a + b, limit), options.decay * a);
  return {select(both, select(agrees, fused, value), select(given, new_value, value)),
          select(both, after, select(given, options.initial * new_information, information))};
}

struct Grid {
  int height, width;      // of the grid
  float stride, offset;   // pixel of grid cell (c, r): offset + stride c, offset + stride r
};

struct Warped {
  int64_t cell;  // -1: leaves the grid or lies behind the camera
  float value, information;
};

// One grid cell's inverse depth in camera j, and the cell it lands in.
HD Warped warp(const Grid& g, const Pinhole& c, const Motion& m, int64_t cell, float rho,
               float information, float inflation) {
  if (!(information > 0.0f && rho > 0.0f)) return {-1, 0.0f, 0.0f};
  const float u = g.offset + g.stride * float(cell % g.width);
  const float v = g.offset + g.stride * float(cell / g.width);
  const auto p = reproject(c, m, u, v, rho);
  const float column = std::floor((c.fx * p.x + c.cx - g.offset) / g.stride + 0.5f);
  const float row = std::floor((c.fy * p.y + c.cy - g.offset) / g.stride + 0.5f);
  const bool inside = column >= 0.0f && column < float(g.width) && row >= 0.0f &&
                      row < float(g.height);
  if (!(p.in_front && inside)) return {-1, 0.0f, 0.0f};
  const float rho_j = rho * p.inverse_z;
  // rho_j = rho / (a.z + rho t.z), so d(rho_j)/d(rho) = a.z / (a.z + rho t.z)^2
  const float z = 1.0f / p.inverse_z, slope = (z - rho * m.t[2]) * p.inverse_z * p.inverse_z;
  const float spread = inflation * rho_j;
  return {int64_t(row) * g.width + int64_t(column), rho_j,
          1.0f / (slope * slope / information + spread * spread)};
}

// Orders what lands in one cell: the nearest wins, then the lowest source cell. Never 0.
HD uint64_t warp_key(float value, int64_t source) {
  uint32_t nearness;  // positive floats sort like their bits
  std::memcpy(&nearness, &value, sizeof(nearness));
  return (uint64_t(nearness) << 32) | uint64_t(0xffffffffu - uint32_t(source));
}
HD float warp_value(uint64_t key) {
  const uint32_t bits = uint32_t(key >> 32);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
HD int64_t warp_source(uint64_t key) { return int64_t(0xffffffffu - uint32_t(key)); }

}  // namespace slam
