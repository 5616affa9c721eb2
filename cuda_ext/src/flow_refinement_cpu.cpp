// Lucas-Kanade over a dense flow on the CPU: one sweep over the rows, windows from rolling sums.
#include <algorithm>
#include <vector>

#include "flow_refinement.h"

#ifndef SLAM_ISA
#define SLAM_ISA portable
#endif

namespace slam {
namespace SLAM_ISA {
void refine_flow_rows(const FlowRefinement& r);
namespace {

// Rows of floats with room for a window, and for eight lanes, on either side.
class Rows {
 public:
  Rows(int count, int width, int radius)
      : count_(count), left_(radius + kLanes), stride_(width + 2 * left_) {
    values_.resize(size_t(count_) * stride_);
  }
  float* row(int y) { return values_.data() + size_t(y % count_) * stride_ + left_; }

 private:
  int count_, left_, stride_;
  std::vector<float> values_;
};

// One sweep. Terms are summed over cells of kCell x kCell px, windows over cells. A row's flow is
// read when it is warped, and written later.
class Sweep {
 public:
  explicit Sweep(const FlowRefinement& r)
      : r_(r),
        side_(2 * r.radius + 1),
        wide_(cells(r.width)),
        high_(cells(r.height)),
        first_(kCell + 2, r.width, 1),
        warped_(kCell + 2, r.width, 1),
        inside_(kCell + 2, r.width, 1),
        terms_(kSums, r.width, 1),
        cells_(kSums * side_, wide_, r.radius),
        columns_(kSums, wide_, r.radius),
        window_(side_) {}

  void run() {
    warp_row(0);
    for (int c = 0; c < high_ + r_.radius; ++c) {
      if (c < high_) add_cells(c);
      if (c >= r_.radius) step_cells(c - r_.radius);
    }
  }

 private:
  float* cell_row(int sum, int c) { return cells_.row(sum * side_ + c % side_); }

  void warp_row(int y) {
    float *first = first_.row(y), *warped = warped_.row(y), *inside = inside_.row(y);
    const uint8_t* pixels = r_.first + int64_t(y) * r_.width;
    for (int x = 0; x < r_.width; ++x) first[x] = float(pixels[x]);
    if (r_.width < kLanes || r_.height < 2) {
      for (int x = 0; x < r_.width; ++x) warped[x] = warped_grey(r_, x, y, inside[x]);
    } else {
      for (int x = 0; x < r_.width; x += kLanes)  // the last ones twice, rather than beyond the end
        warp_lanes(std::min(x, r_.width - kLanes), y, warped, inside);
    }
    for (int x = 0; x < r_.width; ++x)
      if (inside[x] == 0.0f) warped[x] = first[x];  // for its neighbours' gradients
    for (float* row : {first, warped}) row[-1] = row[0], row[r_.width] = row[r_.width - 1];
  }

  // What warped_grey does, for kLanes pixels from (x, y).
  void warp_lanes(int x, int y, float* warped, float* inside) {
    const float* flow = r_.flow + 2 * (int64_t(y) * r_.width + x);
    Lanes u, v;
    for (int k = 0; k < kLanes; ++k) u[k] = float(x + k) + flow[2 * k], v[k] = flow[2 * k + 1];
    v += float(y);
    const LaneMask in =
        (u >= 0.0f) & (v >= 0.0f) & (u <= float(r_.width - 1)) & (v <= float(r_.height - 1));
    u = select(in, u, Lanes{});
    v = select(in, v, Lanes{});
    const LaneMask left = smaller_of(__builtin_convertvector(u, LaneMask), r_.width - 2);
    const LaneMask top = smaller_of(__builtin_convertvector(v, LaneMask), r_.height - 2);
    const Lanes s = u - __builtin_convertvector(left, Lanes);
    const Lanes t = v - __builtin_convertvector(top, Lanes);
    const LaneMask place = top * r_.width + left;
    LaneMask a, b, c, d;
    for (int k = 0; k < kLanes; ++k) {
      const uint8_t* above = r_.second + place[k];
      const uint8_t* below = above + r_.width;
      a[k] = above[0], b[k] = above[1], c[k] = below[0], d[k] = below[1];
    }
    const auto floats = [](LaneMask value) { return __builtin_convertvector(value, Lanes); };
    const Lanes upper = floats(a) + s * floats(b - a), lower = floats(c) + s * floats(d - c);
    store(warped + x, upper + t * (lower - upper));
    store(inside + x, select(in, splat<Lanes>(1.0f), Lanes{}));
  }

  static LaneMask smaller_of(LaneMask a, int b) {
    const LaneMask limit = LaneMask{} + b;
    return a < limit ? a : limit;
  }

  void add_cells(int c) {
    for (int k = 0; k < kSums; ++k) std::fill_n(terms_.row(k), r_.width + kCell, 0.0f);
    for (int y = kCell * c; y < std::min(kCell * (c + 1), r_.height); ++y) {
      if (y + 1 < r_.height) warp_row(y + 1);
      add_terms(y);
    }
    for (int k = 0; k < kSums; ++k) {
      const float* terms = terms_.row(k);
      float* out = cell_row(k, c);
      for (int x = 0; x < wide_; ++x) {
        out[x] = terms[kCell * x];
        for (int o = 1; o < kCell; ++o) out[x] += terms[kCell * x + o];
      }
    }
  }

  void add_terms(int y) {
    const int above = std::max(y - 1, 0), below = std::min(y + 1, r_.height - 1);
    const float *i = first_.row(y), *j = warped_.row(y), *in = inside_.row(y);
    const float *ia = first_.row(above), *ib = first_.row(below);
    const float *ja = warped_.row(above), *jb = warped_.row(below);
    float* terms[kSums];
    for (int k = 0; k < kSums; ++k) terms[k] = terms_.row(k);
    for (int x = 0; x < r_.width; x += kLanes) {
      const Lanes gx =
          0.25f * (load(i + x + 1) - load(i + x - 1) + load(j + x + 1) - load(j + x - 1));
      const Lanes gy = 0.25f * (load(ib + x) - load(ia + x) + load(jb + x) - load(ja + x));
      const auto s = flow_terms(load(in + x), gx, gy, load(j + x) - load(i + x));
      for (int k = 0; k < kSums; ++k) store(terms[k] + x, load(terms[k] + x) + s.of[k]);
    }
    for (int k = 0; k < kSums; ++k) std::fill_n(terms_.row(k) + r_.width, kLanes, 0.0f);
  }

  // Sums of the window's columns, those outside of the image being 0.
  void add_columns(int c) {
    const int top = std::max(c - r_.radius, 0), bottom = std::min(c + r_.radius, high_ - 1);
    const int rows = bottom - top + 1;
    for (int k = 0; k < kSums; ++k) {
      for (int n = 0; n < rows; ++n) window_[n] = cell_row(k, top + n);
      float* out = columns_.row(k);
      for (int x = 0; x < wide_; x += kLanes) {
        Lanes total = load(window_[0] + x);
        for (int n = 1; n < rows; ++n) total += load(window_[n] + x);
        store(out + x, total);
      }
      std::fill_n(out + wide_, kLanes, 0.0f);
    }
  }

  void step_cells(int c) {
    add_columns(c);
    const float* columns[kSums];
    for (int k = 0; k < kSums; ++k) columns[k] = columns_.row(k);
    for (int x = 0; x < wide_; x += kLanes) {
      Sums<Lanes> s;
      for (int k = 0; k < kSums; ++k) {
        const float* row = columns[k] + x;
        s.of[k] = load(row - r_.radius);
        for (int o = 1 - r_.radius; o <= r_.radius; ++o) s.of[k] += load(row + o);
      }
      move(c, x, flow_step(s, r_.regularisation, r_.longest_step));
    }
  }

  // Moves the flow of kLanes cells of a row of them.
  void move(int row, int column, const FlowStep<Lanes>& step) {
    const int end = std::min(kCell * (column + kLanes), r_.width);
    for (int y = kCell * row; y < std::min(kCell * (row + 1), r_.height); ++y) {
      float* flow = r_.flow + 2 * int64_t(y) * r_.width;
      for (int x = kCell * column, k = 0; x < end; x += kCell, ++k)
        for (int o = x; o < std::min(x + kCell, end); ++o) {
          flow[2 * o] += step.u[k];
          flow[2 * o + 1] += step.v[k];
        }
    }
  }

  const FlowRefinement r_;
  const int side_, wide_, high_;
  Rows first_, warped_, inside_, terms_, cells_, columns_;
  std::vector<const float*> window_;  // a window's rows of one sum
};

}  // namespace

void refine_flow_rows(const FlowRefinement& r) { Sweep(r).run(); }

}  // namespace SLAM_ISA
}  // namespace slam
