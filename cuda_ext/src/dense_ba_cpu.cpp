// The per-pixel work of dense bundle adjustment on the CPU: parallel over keyframes.
#include <algorithm>

#include "dense_ba.h"
#include "parallel.h"

namespace slam {

namespace portable {
extern const DenseLoops kDenseLoops;
}
#ifdef SLAM_WITH_AVX
namespace avx2 {
extern const DenseLoops kDenseLoops;
}
namespace avx512 {
extern const DenseLoops kDenseLoops;
}
#endif

namespace {

const DenseLoops& best_loops() {
#ifdef SLAM_WITH_AVX
  const bool fma = __builtin_cpu_supports("fma");
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (fma && wide) return avx512::kDenseLoops;
  if (fma && __builtin_cpu_supports("avx2")) return avx2::kDenseLoops;
#endif
  return portable::kDenseLoops;
}

const DenseLoops& chosen() {
  static const DenseLoops& best = best_loops();
  return best;
}

// Calls body(begin, end) for each block of pixels, in order.
template <class Body>
void over_blocks(int64_t pixels, const Body& body) {
  for (int64_t p = 0; p < pixels; p += kBlock) body(p, std::min(pixels, p + kBlock));
}

class DenseCpu : public DenseDevice {
 public:
  explicit DenseCpu(int threads) : threads_(threads) {}

  double cost(const std::vector<DenseKeyframe>& frames, double before) override {
    std::vector<double> costs(frames.size(), 0.0);
    parallel_for(int64_t(frames.size()), threads_, [&](int64_t i) {
      over_blocks(frames[i].pixels, [&](int64_t begin, int64_t end) {
        costs[i] += chosen().cost(frames[i], begin, end);
      });
    });
    double total = before;
    for (const double cost : costs) total += cost;
    return total;
  }

  std::vector<DenseSums> sums(const std::vector<DenseKeyframe>& frames) override {
    std::vector<DenseSums> out(frames.size());
    parallel_for(int64_t(frames.size()), threads_, [&](int64_t i) {
      const DenseKeyframe& frame = frames[i];
      DenseSums& sums = out[i];
      sums.gram.assign(size_t(frame.columns()) * frame.columns(), 0.0);
      sums.edges.assign(size_t(frame.edges) * kDenseTriangle, 0.0);
      // Kept by the thread: fresh pages for every keyframe cost more than what is computed on them.
      static thread_local std::vector<float> work;
      work.resize(std::max(work.size(), size_t(chosen().work(frame))));
      over_blocks(frame.pixels, [&](int64_t begin, int64_t end) {
        sums.cost +=
            chosen().sums(frame, begin, end, work.data(), sums.gram.data(), sums.edges.data());
      });
    });
    return out;
  }

  void update(const std::vector<DenseKeyframe>& frames,
              const std::vector<DenseUpdate>& updates) override {
    parallel_for(int64_t(frames.size()), threads_,
                 [&](int64_t i) { chosen().update(frames[i], updates[i], 0, frames[i].pixels); });
  }

 private:
  int threads_;
};

}  // namespace

std::unique_ptr<DenseDevice> dense_cpu(int threads) { return std::make_unique<DenseCpu>(threads); }

}  // namespace slam
