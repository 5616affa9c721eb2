// One number, or on the CPU eight at once: the same maths without hoping for a vectoriser.
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
constexpr int kLanes = 8;
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t LaneMask __attribute__((vector_size(4 * kLanes)));

HD Lanes select(LaneMask mask, Lanes yes, Lanes no) { return mask ? yes : no; }

HD Lanes square_root(Lanes a) {
  Lanes out;
  for (int k = 0; k < kLanes; ++k) out[k] = std::sqrt(a[k]);
  return out;
}

HD Lanes logarithm(Lanes a) {
  for (int k = 0; k < kLanes; ++k) a[k] = std::log(a[k]);
  return a;
}

// Sum in a fixed order.
HD double sum(Lanes a) {
  double total = 0;
  for (int k = 0; k < kLanes; ++k) total += a[k];
  return total;
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
