// Lucas-Kanade on top of a dense flow: what one pixel contributes, and how its window is solved.
#pragma once
#include "lanes.h"

namespace slam {

constexpr int kCell = 2;  // px; the pixels of a cell move together

HD int cells(int pixels) { return (pixels + kCell - 1) / kCell; }

// Flow from `first` to `second` [height, width] uint8, improved in place.
struct FlowRefinement {
  const uint8_t *first, *second;
  float* flow;  // [height, width, 2] px
  int height, width;
  int radius;            // the window has 2 radius + 1 cells a side
  float regularisation;  // added to the structure tensor's diagonal, grey^2/px^2
  float longest_step;    // px
};

// What a window sums up of each of its pixels.
enum Sum { kCount, kGx, kGy, kD, kGxx, kGxy, kGyy, kGxd, kGyd, kSums };

template <class T>
struct Sums {
  T of[kSums];
};

// A pixel whose target is inside: mean gradient of both images, difference second - first.
template <class T>
HD Sums<T> flow_terms(T inside, T gx, T gy, T d) {
  return {{inside, inside * gx, inside * gy, inside * d, inside * gx * gx, inside * gx * gy,
           inside * gy * gy, inside * gx * d, inside * gy * d}};
}

template <class T>
struct FlowStep {
  T u, v;
};

// The translation that explains a window's differences but for their mean (brightness).
template <class T>
HD FlowStep<T> flow_step(const Sums<T>& s, float regularisation, float longest) {
  const T n = select(s.of[kCount] > splat<T>(0.5f), s.of[kCount], splat<T>(1.0f));
  const T one = 1.0f / n, mx = s.of[kGx] * one, my = s.of[kGy] * one;
  const T xx = s.of[kGxx] * one - mx * mx + regularisation;
  const T yy = s.of[kGyy] * one - my * my + regularisation;
  const T xy = s.of[kGxy] * one - mx * my;
  const T xd = s.of[kGxd] * one - mx * (s.of[kD] * one);
  const T yd = s.of[kGyd] * one - my * (s.of[kD] * one);
  const T scale = -1.0f / (xx * yy - xy * xy);
  const T u = (yy * xd - xy * yd) * scale, v = (xx * yd - xy * xd) * scale;
  const T length = square_root(u * u + v * v) + 1e-9f;
  const T part = smaller(splat<T>(1.0f), longest / length);
  return {u * part, v * part};
}

// Bilinear sample at (x, y), which must lie inside of [0, width - 1] x [0, height - 1].
HD float sample_grey(const uint8_t* image, int height, int width, float x, float y) {
  const int left = int(x), top = int(y);
  const int right = left + (left + 1 < width), bottom = top + (top + 1 < height);
  const float s = x - float(left), t = y - float(top);
  const uint8_t *a = image + int64_t(top) * width, *b = image + int64_t(bottom) * width;
  const float upper = float(a[left]) + s * (float(a[right]) - float(a[left]));
  const float lower = float(b[left]) + s * (float(b[right]) - float(b[left]));
  return upper + t * (lower - upper);
}

// Grey value of `second` where the flow takes pixel (x, y) of `first`; `inside` is 0 or 1.
HD float warped_grey(const FlowRefinement& r, int x, int y, float& inside) {
  const float* step = r.flow + 2 * (int64_t(y) * r.width + x);
  const float u = float(x) + step[0], v = float(y) + step[1];
  const bool in = u >= 0 && v >= 0 && u <= float(r.width - 1) && v <= float(r.height - 1);
  inside = in ? 1.0f : 0.0f;
  return in ? sample_grey(r.second, r.height, r.width, u, v) : 0.0f;
}

void refine_flow_cpu(const FlowRefinement& r, int iterations);
void refine_flow_cuda(const FlowRefinement& r, int iterations, int device, void* stream);

}  // namespace slam
