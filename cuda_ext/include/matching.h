// Matching of pointmaps: the pixel whose viewing ray fits a point, then the best descriptor near
// it.
#pragma once
#include <limits>

#include "maths.h"

namespace slam {

constexpr int kChannels = 8;  // descriptors have a multiple of it
constexpr int kMostChannels = 32;
constexpr float kStill = 1e-3f;  // px; a shorter step ends the descent
constexpr int kFarthest = 8;     // px on each side, of the derivative used far from the goal

// Points seen by the camera whose image is searched, and where they are looked for.
struct RayMatching {
  const float* rays;    // [height, width, 4] unit viewing ray, distance; distance 0 = not measured
  const float* points;  // [pixels, 3] in the same camera
  const float* starts;  // [choices, pixels, 2] px; the one that fits best is taken
  float* target;        // [pixels, 2] px, out; always inside of the image
  float* error;         // [pixels] px between the point's ray and the target's, out; inf = none
  float* gap;           // [pixels] between point and surface, of the smaller distance, out
  int height, width, choices;
  int64_t pixels;
  int iterations;
  float damping;  // of the first step, relative to the mean curvature
};

// Matches to improve by descriptors of the same length.
struct MatchRefinement {
  const float* descriptors;  // [height, width, channels] of the image that is searched
  const float* sought;       // [pixels, channels]
  const float* rays;         // as above
  const float* points;       // as above
  const float* start;        // [pixels, 2] px
  const bool* active;        // [pixels]; the others stay where they are
  float* target;             // [pixels, 2] px, out
  float* gap;                // as above; inf where no descriptor could be compared
  int height, width, channels;
  int64_t pixels;
  int radius;    // a window has 2 radius + 1 pixels a side,
  int dilation;  // so far apart in the first window, and one less in each that follows
};

// A viewing ray and how it turns with the pixel: both derivatives are at right angles to it.
struct RaySample {
  Vec3<float> ray, du, dv;
};

struct RayDistance {
  float x, y, z, distance;
};

HD float dot(const Vec3<float>& a, const Vec3<float>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
HD Vec3<float> minus(const Vec3<float>& a, const Vec3<float>& b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}
HD float infinity() { return std::numeric_limits<float>::infinity(); }
// Not a number becomes 0.
HD float clamped(float x, float most) { return x > 0 ? (x < most ? x : most) : 0.0f; }
HD int clamped(int x, int most) { return x > 0 ? (x < most ? x : most) : 0; }

HD RayDistance load_ray(const float* rays, int64_t pixel) {
#ifdef __CUDA_ARCH__
  const float4 r = __ldg(reinterpret_cast<const float4*>(rays) + pixel);
  return {r.x, r.y, r.z, r.w};
#else
  const float* r = rays + 4 * pixel;
  return {r[0], r[1], r[2], r[3]};
#endif
}

// (b - a) / pixels, without its part along the ray.
HD Vec3<float> slope(const RayDistance& a, const RayDistance& b, int pixels,
                     const Vec3<float>& ray) {
  const float scale = pixels > 0 ? 1.0f / float(pixels) : 0.0f;
  const Vec3<float> d = {(b.x - a.x) * scale, (b.y - a.y) * scale, (b.z - a.z) * scale};
  const float along = dot(d, ray);
  return {d.x - along * ray.x, d.y - along * ray.y, d.z - along * ray.z};
}

// Bilinear between (u, v)'s four pixels, on the unit sphere; (u, v) is inside of the image.
HD RaySample sample_ray(const float* rays, int height, int width, float u, float v) {
  const int left = clamped(int(u), width - 2), top = clamped(int(v), height - 2);
  const int right = left + (left + 1 < width), bottom = top + (top + 1 < height);
  const float s = u - float(left), t = v - float(top);
  const RayDistance a = load_ray(rays, int64_t(top) * width + left);
  const RayDistance b = load_ray(rays, int64_t(top) * width + right);
  const RayDistance c = load_ray(rays, int64_t(bottom) * width + left);
  const RayDistance d = load_ray(rays, int64_t(bottom) * width + right);
  const Vec3<float> upper = {b.x - a.x, b.y - a.y, b.z - a.z};
  const Vec3<float> lower = {d.x - c.x, d.y - c.y, d.z - c.z};
  const Vec3<float> above = {a.x + s * upper.x, a.y + s * upper.y, a.z + s * upper.z};
  const Vec3<float> below = {c.x + s * lower.x, c.y + s * lower.y, c.z + s * lower.z};
  const Vec3<float> dv = minus(below, above);
  const Vec3<float> du = {upper.x + t * (lower.x - upper.x), upper.y + t * (lower.y - upper.y),
                          upper.z + t * (lower.z - upper.z)};
  const Vec3<float> n = {above.x + t * dv.x, above.y + t * dv.y, above.z + t * dv.z};
  const float scale = 1.0f / (square_root(dot(n, n)) + 1e-20f);
  const Vec3<float> r = {n.x * scale, n.y * scale, n.z * scale};
  const float ru = dot(r, du), rv = dot(r, dv);
  return {r,
          {(du.x - ru * r.x) * scale, (du.y - ru * r.y) * scale, (du.z - ru * r.z) * scale},
          {(dv.x - rv * r.x) * scale, (dv.y - rv * r.y) * scale, (dv.z - rv * r.z) * scale}};
}

// A ray with its derivatives from pixels `reach` to each side: far from the goal, where it is the
// trend that counts, noise of single pixels does not.
HD RaySample smooth_derivatives(const float* rays, int height, int width, float u, float v,
                                int reach, const Vec3<float>& ray) {
  const int x = int(u + 0.5f), y = int(v + 0.5f);
  const int left = clamped(x - reach, width - 1), right = clamped(x + reach, width - 1);
  const int top = clamped(y - reach, height - 1), bottom = clamped(y + reach, height - 1);
  const int64_t row = int64_t(y) * width;
  return {ray, slope(load_ray(rays, row + left), load_ray(rays, row + right), right - left, ray),
          slope(load_ray(rays, int64_t(top) * width + x),
                load_ray(rays, int64_t(bottom) * width + x), bottom - top, ray)};
}

// Distance between a point and what the nearest pixel saw, relative to the smaller of their
// distances from the camera: free of scale, and the same both ways.
HD float relative_gap(const float* rays, int height, int width, float u, float v,
                      const Vec3<float>& X) {
  const int x = clamped(int(u + 0.5f), width - 1), y = clamped(int(v + 0.5f), height - 1);
  const RayDistance r = load_ray(rays, int64_t(y) * width + x);
  const Vec3<float> apart = minus({r.x * r.distance, r.y * r.distance, r.z * r.distance}, X);
  const float distance = square_root(dot(X, X));
  const float gap = square_root(dot(apart, apart)) / smaller(r.distance, distance);
  return r.distance > 0 && gap < infinity() ? gap : infinity();
}

// Levenberg-Marquardt for the pixel whose ray is p.
struct RayDescent {
  const RayMatching& m;
  Vec3<float> p;
  float u, v, cost;
  RaySample at;

  // Takes a place and returns true if it fits better.
  HD bool try_place(float new_u, float new_v) {
    const RaySample there = sample_ray(m.rays, m.height, m.width, new_u, new_v);
    const Vec3<float> e = minus(there.ray, p);
    const float new_cost = dot(e, e);
    if (!(new_cost < cost)) return false;
    u = new_u, v = new_v, cost = new_cost, at = there;
    return true;
  }

  HD void run() {
    float damping = m.damping;
    for (int k = 0; k < m.iterations; ++k) {
      const int reach = int(smaller(0.5f * error(), float(kFarthest)));
      const RaySample near =
          reach > 0 ? smooth_derivatives(m.rays, m.height, m.width, u, v, reach, at.ray) : at;
      const Vec3<float> e = minus(near.ray, p);
      const float a = dot(near.du, near.du), b = dot(near.du, near.dv), c = dot(near.dv, near.dv);
      const float more = damping * 0.5f * (a + c);
      const float determinant = (a + more) * (c + more) - b * b;
      if (!(determinant > 1e-20f)) return;
      const float gu = dot(near.du, e), gv = dot(near.dv, e);
      const float step_u = (b * gv - (c + more) * gu) / determinant;
      const float step_v = (b * gu - (a + more) * gv) / determinant;
      const float new_u = clamped(u + step_u, float(m.width - 1));
      const float new_v = clamped(v + step_v, float(m.height - 1));
      const float moved = (new_u - u) * (new_u - u) + (new_v - v) * (new_v - v);
      damping *= try_place(new_u, new_v) ? 0.1f : 10.0f;
      if (moved < kStill * kStill) return;
    }
  }

  // Angle left, in steps from one pixel to the next.
  HD float error() const {
    return square_root(cost / (0.5f * (dot(at.du, at.du) + dot(at.dv, at.dv))));
  }
};

HD void match_ray(const RayMatching& m, int64_t pixel) {
  const float* X = m.points + 3 * pixel;
  const Vec3<float> point = {X[0], X[1], X[2]};
  const float scale = 1.0f / square_root(dot(point, point));
  RayDescent descent = {m, {point.x * scale, point.y * scale, point.z * scale}, 0, 0, infinity(),
                        {}};
  bool started = false;
  for (int k = 0; k < m.choices; ++k) {
    const float* start = m.starts + 2 * (k * m.pixels + pixel);
    const float u = clamped(start[0], float(m.width - 1));
    const float v = clamped(start[1], float(m.height - 1));
    if (descent.try_place(u, v)) {
      started = true;
    } else if (k == 0) {
      descent.u = u, descent.v = v;
    }
  }
  if (started) descent.run();
  m.target[2 * pixel] = descent.u;
  m.target[2 * pixel + 1] = descent.v;
  m.error[pixel] = started ? descent.error() : infinity();
  m.gap[pixel] =
      started ? relative_gap(m.rays, m.height, m.width, descent.u, descent.v, point) : infinity();
}

// Where a paraboloid through the scores at (x, y) and its eight neighbours has its top, seen from
// (x, y): at most half a pixel away, and not at all where there is no top.
struct PixelStep {
  float u, v;
};

template <class Score>
HD PixelStep paraboloid_top(const Score& score, int x, int y, float middle) {
  const float left = score(x - 1, y), right = score(x + 1, y);
  const float above = score(x, y - 1), below = score(x, y + 1);
  const float gu = 0.5f * (right - left), gv = 0.5f * (below - above);
  const float uu = left - 2 * middle + right, vv = above - 2 * middle + below;
  const float uv = 0.25f * (score(x + 1, y + 1) - score(x + 1, y - 1) - score(x - 1, y + 1) +
                            score(x - 1, y - 1));
  const float determinant = uu * vv - uv * uv;
  if (!(determinant > 0 && uu < 0)) return {0, 0};
  const float u = (uv * gv - vv * gu) / determinant, v = (uv * gu - uu * gv) / determinant;
  return {clamped(u + 0.5f, 1.0f) - 0.5f, clamped(v + 0.5f, 1.0f) - 0.5f};
}

// Refines one match. score(x, y) compares the sought descriptor to the one at a pixel.
template <class Score>
HD void refine_match(const MatchRefinement& m, int64_t pixel, const Score& score) {
  const float u = clamped(m.start[2 * pixel], float(m.width - 1));
  const float v = clamped(m.start[2 * pixel + 1], float(m.height - 1));
  int x = int(u + 0.5f), y = int(v + 0.5f);
  float best = score(x, y);
  if (!(best > -infinity())) best = -infinity();
  for (int d = m.dilation; d > 0 && m.radius > 0; --d) {
    const int middle_x = x, middle_y = y;
    for (int row = -m.radius; row <= m.radius; ++row) {
      const int at_y = middle_y + d * row;
      if (at_y < 0 || at_y >= m.height) continue;
      for (int column = -m.radius; column <= m.radius; ++column) {
        const int at_x = middle_x + d * column;
        if (at_x < 0 || at_x >= m.width || (row == 0 && column == 0)) continue;
        const float found = score(at_x, at_y);
        if (found > best) best = found, x = at_x, y = at_y;
      }
    }
  }
  const bool found = best > -infinity();
  const float* X = m.points + 3 * pixel;
  const bool around = x > 0 && x < m.width - 1 && y > 0 && y < m.height - 1;
  const PixelStep top = found && around ? paraboloid_top(score, x, y, best) : PixelStep{0, 0};
  m.target[2 * pixel] = found ? float(x) + top.u : u;
  m.target[2 * pixel + 1] = found ? float(y) + top.v : v;
  m.gap[pixel] =
      found ? relative_gap(m.rays, m.height, m.width, float(x), float(y), {X[0], X[1], X[2]})
            : infinity();
}

HD void keep_match(const MatchRefinement& m, int64_t pixel) {
  m.target[2 * pixel] = m.start[2 * pixel];
  m.target[2 * pixel + 1] = m.start[2 * pixel + 1];
  m.gap[pixel] = infinity();
}

void match_rays_cpu(const RayMatching& m, int threads);
void match_rays_cuda(const RayMatching& m, int device, void* stream);
void refine_matches_cpu(const MatchRefinement& m, int threads);
void refine_matches_cuda(const MatchRefinement& m, int device, void* stream);

}  // namespace slam
