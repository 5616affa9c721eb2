// Cholesky factorisation of a sparse symmetric matrix of 6x6 blocks.
#pragma once
#include <utility>
#include <vector>

namespace slam {

// Lower triangle: diagonal blocks, and blocks (row, column) with row > column. Row-major 6x6.
struct BlockMatrix {
  std::vector<double> diagonal;                // [size, 36]
  std::vector<std::pair<int, int>> positions;  // (column, row), sorted, unique
  std::vector<double> blocks;                  // [positions, 36]

  int size() const { return int(diagonal.size() / 36); }
  // The block at (row, column), row > column; it must be in the pattern.
  double* at(int row, int column);
};

class BlockCholesky {
 public:
  // Orders by greedy minimum degree (ties: lowest index) and lays out the factor.
  explicit BlockCholesky(const BlockMatrix& pattern);
  // Factors a matrix of that pattern; false where it is not positive definite.
  bool factor(const BlockMatrix& a);
  // x <- A^-1 x, [size, 6]
  void solve(double* x) const;

 private:
  int size() const { return int(order_.size()); }
  void eliminate(int column);

  std::vector<int> order_, place_;         // order_[k]: eliminated k-th; place_: its inverse
  std::vector<int> start_, rows_;          // of column k: rows_[start_[k] .. start_[k + 1])
  std::vector<double> diagonal_, blocks_;  // of the factor, in elimination order
};

}  // namespace slam
