// One number, or on the CPU several at once: the same maths without hoping for a vectoriser.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

// Always inlined: loops_cpu.cpp is compiled for several instruction sets, and an out-of-line copy
// of a shared inline function would be merged by the linker into the wrong one.
#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline __attribute__((always_inline))
#endif

namespace slam {

// Functions of one number overloaded below for a vector of numbers.
HD float select(bool condition, float yes, float no) { return condition ? yes : no; }
HD float square_root(float a) { return std::sqrt(a); }
HD float logarithm(float a) { return std::log(a); }
#ifndef __CUDACC__
#ifndef SLAM_LANES
#define SLAM_LANES 8
#endif
constexpr int kLanes = SLAM_LANES;
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t LaneMask __attribute__((vector_size(4 * kLanes)));

HD Lanes select(LaneMask mask, Lanes yes, Lanes no) { return mask ? yes : no; }

HD Lanes square_root(Lanes a) {
  Lanes out;
  for (int k = 0; k < kLanes; ++k) out[k] = std::sqrt(a[k]);
  return out;
}

// Of normal numbers above 0, to three units in the last place: a = m 2^e with m around 1, and
// log m = 2 artanh(s) by its series.
HD Lanes logarithm(Lanes a) {
  LaneMask bits;
  std::memcpy(&bits, &a, sizeof(bits));
  const LaneMask exponent = (bits - 0x3f3504f3) >> 23;  // bits of sqrt(1/2): m is in [0.7, 1.4]
  bits -= exponent * (1 << 23);
  Lanes m;
  std::memcpy(&m, &bits, sizeof(m));
  const Lanes s = (m - 1.0f) / (m + 1.0f), q = s * s;
  const Lanes series = 2.0f + q * (2.0f / 3 + q * (2.0f / 5 + q * (2.0f / 7 + q * (2.0f / 9))));
  return __builtin_convertvector(exponent, Lanes) * 0.693147181f + s * series;
}

// Elements 0, 2, 4 ... and 1, 3, 5 ... of two vectors one after the other.
#ifdef __clang__
#define SLAM_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SLAM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, LaneMask{__VA_ARGS__})
#endif
#if SLAM_LANES == 8
HD Lanes even(Lanes a, Lanes b) { return SLAM_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
HD Lanes odd(Lanes a, Lanes b) { return SLAM_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
#else
HD Lanes even(Lanes a, Lanes b) {
  return SLAM_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
HD Lanes odd(Lanes a, Lanes b) {
  return SLAM_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#endif
#undef SLAM_SHUFFLE

// Sum in a fixed order: to eight floats, then in float64.
HD double sum(Lanes a) {
  typedef float Four __attribute__((vector_size(16)));
  typedef double Wide __attribute__((vector_size(32)));
  Four low = {a[0], a[1], a[2], a[3]}, high = {a[4], a[5], a[6], a[7]};
#if SLAM_LANES == 16
  low += Four{a[8], a[9], a[10], a[11]};
  high += Four{a[12], a[13], a[14], a[15]};
#endif
  const Wide t = __builtin_convertvector(low, Wide) + __builtin_convertvector(high, Wide);
  return (t[0] + t[2]) + (t[1] + t[3]);
}

HD Lanes load(const float* a) {
  Lanes out;
  std::memcpy(&out, a, sizeof(out));
  return out;
}

HD void store(float* a, Lanes value) { std::memcpy(a, &value, sizeof(value)); }
#endif

template <class T>
HD T splat(float a) {
  return T{} + a;
}
template <class T>
using Mask = decltype(T{} > T{});
template <class T>
HD T smaller(T a, T b) {
  return select(a < b, a, b);
}

}  // namespace slam
