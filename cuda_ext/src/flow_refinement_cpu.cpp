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
        columns_(kSums, wide_, r.radius) {}

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
    for (int x = 0; x < r_.width; ++x) {
      first[x] = float(pixels[x]);
      warped[x] = warped_grey(r_, x, y, inside[x]);
      if (inside[x] == 0.0f) warped[x] = first[x];  // for its neighbours' gradients
    }
    for (float* row : {first, warped}) row[-1] = row[0], row[r_.width] = row[r_.width - 1];
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
    for (int x = 0; x < r_.width; x += kLanes) {
      const Lanes gx =
          0.25f * (load(i + x + 1) - load(i + x - 1) + load(j + x + 1) - load(j + x - 1));
      const Lanes gy = 0.25f * (load(ib + x) - load(ia + x) + load(jb + x) - load(ja + x));
      const auto s = flow_terms(load(in + x), gx, gy, load(j + x) - load(i + x));
      for (int k = 0; k < kSums; ++k) {
        float* out = terms_.row(k) + x;
        store(out, load(out) + s.of[k]);
      }
    }
    for (int k = 0; k < kSums; ++k) std::fill_n(terms_.row(k) + r_.width, kLanes, 0.0f);
  }

  // Sums of the window's columns, those outside of the image being 0.
  void add_columns(int c) {
    const int top = std::max(c - r_.radius, 0), bottom = std::min(c + r_.radius, high_ - 1);
    for (int k = 0; k < kSums; ++k) {
      float* out = columns_.row(k);
      for (int x = 0; x < wide_; x += kLanes) {
        Lanes total = load(cell_row(k, top) + x);
        for (int row = top + 1; row <= bottom; ++row) total += load(cell_row(k, row) + x);
        store(out + x, total);
      }
      std::fill_n(out + wide_, kLanes, 0.0f);
    }
  }

  void step_cells(int c) {
    add_columns(c);
    for (int x = 0; x < wide_; x += kLanes) {
      Sums<Lanes> s;
      for (int k = 0; k < kSums; ++k) {
        const float* row = columns_.row(k) + x;
        s.of[k] = load(row - r_.radius);
        for (int o = 1 - r_.radius; o <= r_.radius; ++o) s.of[k] += load(row + o);
      }
      const auto step = flow_step(s, r_.regularisation, r_.longest_step);
      for (int k = 0; k < std::min(kLanes, wide_ - x); ++k) move(c, x + k, step.u[k], step.v[k]);
    }
  }

  void move(int row, int column, float u, float v) {
    for (int y = kCell * row; y < std::min(kCell * (row + 1), r_.height); ++y)
      for (int x = kCell * column; x < std::min(kCell * (column + 1), r_.width); ++x) {
        float* flow = r_.flow + 2 * (int64_t(y) * r_.width + x);
        flow[0] += u;
        flow[1] += v;
      }
  }

  const FlowRefinement r_;
  const int side_, wide_, high_;
  Rows first_, warped_, inside_, terms_, cells_, columns_;
};

}  // namespace

void refine_flow_rows(const FlowRefinement& r) { Sweep(r).run(); }

}  // namespace SLAM_ISA
}  // namespace slam
