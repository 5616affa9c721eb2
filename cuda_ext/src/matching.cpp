// Matching of pointmaps on the CPU: pixels shared out to threads.
#include "matching.h"

#include <algorithm>

#include "loops.h"
#include "parallel.h"

namespace slam {
namespace {

constexpr int64_t kMatches = 512;  // pixels a thread takes at a time

template <class Problem>
void over_pixels(void (*loop)(const Problem&, int64_t, int64_t), const Problem& problem,
                 int threads) {
  parallel_for((problem.pixels + kMatches - 1) / kMatches, threads, [&](int64_t k) {
    loop(problem, k * kMatches, std::min(problem.pixels, (k + 1) * kMatches));
  });
}

}  // namespace

void match_rays_cpu(const RayMatching& m, int threads) {
  over_pixels(loops().match_rays, m, threads);
}

void refine_matches_cpu(const MatchRefinement& m, int threads) {
  over_pixels(loops().refine_matches, m, threads);
}

}  // namespace slam
