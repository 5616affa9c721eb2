// Consecutive pixels as lanes, from arrays of numbers, pairs or triples.
#pragma once
#include "lanes.h"

namespace slam {

// Reads component `component` of as many consecutive pixels as there are lanes; zeros past the end.
struct Reader {
  int64_t first;
  int valid;  // lanes
  HD Reader(int64_t begin, int64_t end)
      : first(begin), valid(end - begin < kLanes ? int(end - begin) : kLanes) {}
  HD Lanes operator()(const float* base, int stride, int component) const {
    const float* a = base + first * stride;
    if (valid == kLanes && stride == 1) return load(a);
#ifdef __AVX2__
    if (valid == kLanes && stride == 2) {
      const Lanes low = load(a), high = load(a + kLanes);
      return component == 0 ? even(low, high) : odd(low, high);
    }
#endif
    Lanes out{};
    if (valid == kLanes) {
      for (int k = 0; k < kLanes; ++k) out[k] = a[k * stride + component];
    } else {
      for (int k = 0; k < valid; ++k) out[k] = a[k * stride + component];
    }
    return out;
  }
  HD void write(float* base, Lanes value) const {
    if (valid == kLanes) return store(base + first, value);
    for (int k = 0; k < valid; ++k) base[first + k] = value[k];
  }
};

}  // namespace slam
