// Matching of pointmaps on the CPU: one pixel after the other, descriptors eight channels at once.
#include "matching.h"

#ifndef SLAM_ISA
#define SLAM_ISA portable
#endif

namespace slam {
namespace SLAM_ISA {
void match_ray_range(const RayMatching& m, int64_t begin, int64_t end);
void refine_match_range(const MatchRefinement& m, int64_t begin, int64_t end);
namespace {

static_assert(kLanes == kChannels, "a group of channels is one vector");

HD float lane_sum(Lanes a) {
  typedef float Half __attribute__((vector_size(16)));
  Half low, high;
  std::memcpy(&low, &a, sizeof(low));
  std::memcpy(&high, reinterpret_cast<const char*>(&a) + sizeof(low), sizeof(high));
  const Half sums = low + high;
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

template <int Groups>
struct DotProduct {
  const float* descriptors;
  int width;
  Lanes sought[Groups];

  HD float operator()(int x, int y) const {
    const float* there = descriptors + kChannels * Groups * (int64_t(y) * width + x);
    Lanes total = sought[0] * load(there);
    for (int g = 1; g < Groups; ++g) total += sought[g] * load(there + kChannels * g);
    return lane_sum(total);
  }
};

template <int Groups>
void refine_range(const MatchRefinement& m, int64_t begin, int64_t end) {
  DotProduct<Groups> score = {m.descriptors, m.width, {}};
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    if (!m.active[pixel]) {
      keep_match(m, pixel);
      continue;
    }
    const float* sought = m.sought + kChannels * Groups * pixel;
    for (int g = 0; g < Groups; ++g) score.sought[g] = load(sought + kChannels * g);
    refine_match(m, pixel, score);
  }
}

}  // namespace

void match_ray_range(const RayMatching& m, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) match_ray(m, pixel);
}

void refine_match_range(const MatchRefinement& m, int64_t begin, int64_t end) {
  switch (m.channels / kChannels) {
    case 1:
      return refine_range<1>(m, begin, end);
    case 2:
      return refine_range<2>(m, begin, end);
    case 3:
      return refine_range<3>(m, begin, end);
    default:
      return refine_range<4>(m, begin, end);
  }
}

}  // namespace SLAM_ISA
}  // namespace slam
