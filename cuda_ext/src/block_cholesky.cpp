// Cholesky factorisation of a sparse symmetric matrix of 6x6 blocks: minimum degree, right-looking.
#include "block_cholesky.h"

#include <algorithm>
#include <cstdint>

#include "maths.h"

namespace slam {
namespace {

// Rows of bits: the elimination graph, where joining neighbours is a bitwise or.
class BitGraph {
 public:
  explicit BitGraph(int size) : words_((size + 63) / 64), bits_(size_t(words_) * size, 0) {}
  uint64_t* row(int v) { return bits_.data() + size_t(words_) * v; }
  void set(int v, int u) { row(v)[u / 64] |= uint64_t(1) << (u % 64); }
  void clear(int v, int u) { row(v)[u / 64] &= ~(uint64_t(1) << (u % 64)); }
  void join(int v, int u) {
    for (int w = 0; w < words_; ++w) row(v)[w] |= row(u)[w];
  }
  int degree(int v) {
    int total = 0;
    for (int w = 0; w < words_; ++w) total += __builtin_popcountll(row(v)[w]);
    return total;
  }
  std::vector<int> neighbours(int v) {
    std::vector<int> out;
    for (int w = 0; w < words_; ++w)
      for (uint64_t b = row(v)[w]; b; b &= b - 1) out.push_back(64 * w + __builtin_ctzll(b));
    return out;
  }

 private:
  int words_;
  std::vector<uint64_t> bits_;
};

// c -= a b^T
void subtract_product(const double* a, const double* b, double* c) {
  double transposed[36];
  for (int i = 0; i < 6; ++i)
    for (int j = 0; j < 6; ++j) transposed[6 * j + i] = b[6 * i + j];
  for (int i = 0; i < 6; ++i)
    for (int k = 0; k < 6; ++k)
      for (int j = 0; j < 6; ++j) c[6 * i + j] -= a[6 * i + k] * transposed[6 * k + j];
}

}  // namespace

double* BlockMatrix::at(int row, int column) {
  const auto found =
      std::lower_bound(positions.begin(), positions.end(), std::make_pair(column, row));
  return blocks.data() + 36 * (found - positions.begin());
}

BlockCholesky::BlockCholesky(const BlockMatrix& pattern) : place_(pattern.size()), start_{0} {
  const int n = pattern.size();
  BitGraph graph(n);
  for (const auto& [column, row] : pattern.positions)
    graph.set(column, row), graph.set(row, column);
  std::vector<int> degree(n);
  for (int v = 0; v < n; ++v) degree[v] = graph.degree(v);
  std::vector<std::vector<int>> structure;
  for (int k = 0; k < n; ++k) {
    const int v = int(std::min_element(degree.begin(), degree.end()) - degree.begin());
    structure.push_back(graph.neighbours(v));
    for (const int u : structure.back()) {
      graph.join(u, v);
      graph.clear(u, u), graph.clear(u, v);
      degree[u] = graph.degree(u);
    }
    degree[v] = n + 1;  // done
    place_[v] = k;
    order_.push_back(v);
  }
  for (auto& rows : structure) {
    for (int& row : rows) row = place_[row];
    std::sort(rows.begin(), rows.end());
    rows_.insert(rows_.end(), rows.begin(), rows.end());
    start_.push_back(int(rows_.size()));
  }
}

bool BlockCholesky::factor(const BlockMatrix& a) {
  diagonal_.resize(a.diagonal.size());
  blocks_.assign(rows_.size() * 36, 0.0);
  for (int k = 0; k < size(); ++k)
    std::copy_n(a.diagonal.data() + 36 * order_[k], 36, diagonal_.data() + 36 * k);
  for (size_t n = 0; n < a.positions.size(); ++n) {
    const auto [p, q] = a.positions[n];
    const double* block = a.blocks.data() + 36 * n;
    const int column = std::min(place_[p], place_[q]), row = std::max(place_[p], place_[q]);
    const auto begin = rows_.begin() + start_[column], end = rows_.begin() + start_[column + 1];
    double* out = blocks_.data() + 36 * (std::lower_bound(begin, end, row) - rows_.begin());
    const bool kept = place_[q] == row;  // else the ordering turned the pair over
    for (int i = 0; i < 6; ++i)
      for (int j = 0; j < 6; ++j) out[6 * i + j] = kept ? block[6 * i + j] : block[6 * j + i];
  }
  for (int k = 0; k < size(); ++k) {
    if (!cholesky<6>(diagonal_.data() + 36 * k)) return false;
    eliminate(k);
  }
  return true;
}

void BlockCholesky::eliminate(int k) {
  const int begin = start_[k], end = start_[k + 1];
  for (int n = begin; n < end; ++n)
    for (int i = 0; i < 6; ++i)
      solve_lower<6>(diagonal_.data() + 36 * k, blocks_.data() + 36 * size_t(n) + 6 * i);
  for (int b = begin; b < end; ++b) {
    const int column = rows_[b];
    const double* right = blocks_.data() + 36 * size_t(b);
    subtract_product(right, right, diagonal_.data() + 36 * column);
    int target = start_[column];  // this column's rows are among the target's: walk both
    for (int a = b + 1; a < end; ++a, ++target) {
      while (rows_[target] != rows_[a]) ++target;
      subtract_product(blocks_.data() + 36 * size_t(a), right,
                       blocks_.data() + 36 * size_t(target));
    }
  }
}

void BlockCholesky::solve(double* x) const {
  std::vector<double> y(size_t(size()) * 6);
  for (int k = 0; k < size(); ++k) std::copy_n(x + 6 * order_[k], 6, y.data() + 6 * k);
  for (int k = 0; k < size(); ++k) {
    solve_lower<6>(diagonal_.data() + 36 * k, y.data() + 6 * k);
    for (int n = start_[k]; n < start_[k + 1]; ++n)
      for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j)
          y[6 * rows_[n] + i] -= blocks_[36 * size_t(n) + 6 * i + j] * y[6 * k + j];
  }
  for (int k = size() - 1; k >= 0; --k) {
    for (int n = start_[k]; n < start_[k + 1]; ++n)
      for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j)
          y[6 * k + j] -= blocks_[36 * size_t(n) + 6 * i + j] * y[6 * rows_[n] + i];
    solve_lower_transposed<6>(diagonal_.data() + 36 * k, y.data() + 6 * k);
  }
  for (int k = 0; k < size(); ++k) std::copy_n(y.data() + 6 * k, 6, x + 6 * order_[k]);
}

}  // namespace slam
