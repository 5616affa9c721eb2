// Rolling shutter: where a shutter that opens for all rows at once would have seen things.
#pragma once
#include "maths.h"

namespace slam {

// A camera's motion: points of its frame move by v + w x X a second.
struct Twist {
  float v[3], w[3];
};

// Targets of keyframe i's pixels in image j, and what is known of both cameras.
struct Unrolling {
  const float *pixel, *inverse_depth, *target;  // [P, 2], [P], [P, 2]
  float* corrected;                             // [P, 2], out
  Pinhole camera;
  Motion T_ji;
  Twist i, j;
  float readout;       // s from the first row to the last
  float middle, span;  // px: the row that a pose is for, and the number of rows
};

template <class T>
struct Pixel {
  T u, v;
};

// How far a pixel of inverse depth rho has moved, in px, when its row is read.
template <class T>
HD Pixel<T> rolled(const Unrolling& r, const Twist& twist, T u, T v, T rho) {
  const Pinhole& c = r.camera;
  const float *t = twist.v, *w = twist.w;
  const T x = (u - c.cx) / c.fx, y = (v - c.cy) / c.fy;
  const T dz = rho * t[2] + y * w[0] - x * w[1];
  const T dx = rho * t[0] + w[1] - y * w[2] - x * dz;
  const T dy = rho * t[1] + x * w[2] - w[0] - y * dz;
  const T seconds = (v - r.middle) * (r.readout / r.span);
  return {c.fx * dx * seconds, c.fy * dy * seconds};
}

// The target of a pixel as both cameras would have measured it with a global shutter. Flow is
// taken to be the same at the pixel and where the shutter moved it from.
template <class T>
HD Pixel<T> unroll(const Unrolling& r, T u, T v, T rho, T target_u, T target_v) {
  const T x = (u - r.camera.cx) / r.camera.fx, y = (v - r.camera.cy) / r.camera.fy;
  const Vec3<T> moved = act(r.T_ji, x, y, splat<T>(1.0f));
  const T z = moved.z + rho * r.T_ji.t[2] - r.T_ji.t[2];
  const T there = rho / select(z > splat<T>(0.1f), z, splat<T>(0.1f));
  const Pixel<T> a = rolled(r, r.i, u, v, rho), b = rolled(r, r.j, target_u, target_v, there);
  return {target_u + a.u - b.u, target_v + a.v - b.v};
}

void unroll_cpu(const Unrolling& r, int64_t pixels);
void unroll_cuda(const Unrolling& r, int64_t pixels, int device, void* stream);

}  // namespace slam
