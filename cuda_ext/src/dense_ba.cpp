// A damped step of dense bundle adjustment, part by part: reduce, assemble, solve, substitute back.
#include "dense_ba.h"

#include <algorithm>
#include <cmath>

#include "block_cholesky.h"

namespace slam {
namespace {

constexpr double kLeastDiagonal = 1e-9;  // added to it: poses without edges stay where they are

// First edge of each keyframe, [poses + 1].
std::vector<int> first_edges(const DenseProblem& p) {
  std::vector<int> first(p.poses + 1, p.edges);
  for (int e = p.edges - 1; e >= 0; --e) first[p.edge[2 * e]] = e;
  for (int i = p.poses - 1; i >= 0; --i) first[i] = std::min(first[i], first[i + 1]);
  return first;
}

// The keyframes of a part with their edges' relative motions. Edges count from the part's first.
struct Layout {
  int begin;                     // first keyframe of the part
  std::vector<int> first;        // of each keyframe of the part, and of the one after it
  std::vector<double> adjoints;  // [edges, 36] of T_ji
  std::vector<DenseEdge> edges;
  std::vector<DenseKeyframe> frames;
  const int32_t* pairs;  // [edges, 2] (i, j)

  Layout(const DenseProblem& p, float depth_damping) : begin(p.begin) {
    const std::vector<int> all = first_edges(p);
    pairs = p.edge + 2 * all[p.begin];
    for (int i = p.begin; i <= p.end; ++i) first.push_back(all[i] - all[p.begin]);
    edges.resize(first.back());
    adjoints.resize(edges.size() * 36);
    for (size_t e = 0; e < edges.size(); ++e) {
      double T_WC[7], T_ji[7];
      pose_inverse(p.T_CW + 7 * pairs[2 * e], T_WC);
      pose_multiply(p.T_CW + 7 * pairs[2 * e + 1], T_WC, T_ji);
      edges[e].T_ji = motion_from_pose(T_ji);
      pose_adjoint(T_ji, adjoints.data() + 36 * e);
    }
    for (int n = 0; n < p.end - p.begin; ++n) frames.push_back(frame(p, n, depth_damping));
  }

  // Gives each edge of the part's keyframe n its columns of E: own ones where j moves; where only i
  // moves, all such edges share those of i's twist. Returns how many blocks of columns there are.
  int place_blocks(const DenseProblem& p, int n) {
    int blocks = 0;
    bool shared = false;
    for (int e = first[n]; e < first[n + 1]; ++e) {
      const bool to_fixed = p.fixed[pairs[2 * e + 1]];
      edges[e].block = to_fixed ? -1 : blocks++;
      edges[e].of_source = to_fixed && !p.fixed[begin + n];
      shared = shared || edges[e].of_source;
    }
    for (int e = first[n]; e < first[n + 1]; ++e)
      if (edges[e].of_source) edges[e].block = blocks;
    return blocks + shared;
  }

  DenseKeyframe frame(const DenseProblem& p, int n, float depth_damping) {
    const int64_t o = p.pixels * n, e = p.pixels * first[n];
    return {p.pixel,
            p.inverse_depth + o,
            p.prior + o,
            p.prior_weight + o,
            p.target + 2 * e,
            p.weight + e,
            edges.data() + first[n],
            p.pixels,
            first[n + 1] - first[n],
            place_blocks(p, n),
            p.camera,
            p.huber,
            p.outlier,
            depth_damping,
            p.refine_focal};
  }
};

// The reduced camera system over the free poses and, as a border, log focal.
struct Reduced {
  BlockMatrix H;
  std::vector<double> g, focal_column;  // [free poses, 6]
  double focal_diagonal = 0, focal_g = 0;
};

constexpr double kMinusIdentity[36] = {-1, 0, 0, 0,  0, 0, 0, -1, 0, 0, 0,  0, 0, 0, -1, 0, 0, 0,
                                       0,  0, 0, -1, 0, 0, 0, 0,  0, 0, -1, 0, 0, 0, 0,  0, 0, -1};

// A block of columns stands for the twist of j minus `adjoint` times that of i.
struct Block {
  int j;  // -1: of i alone
  const double* adjoint;
  double own[kDenseTriangle];  // of its edges' normal equations, r, log focal
};

// Adds an edge's sums, in the twist of T_ji, to those of a block in the twist of i (j is fixed).
void add_turned(const double* sums, const double* adjoint, double* out) {
  double turn[8][8] = {}, half[8][8] = {};
  turn[6][6] = turn[7][7] = 1;
  for (int r = 0; r < 6; ++r)
    for (int c = 0; c < 6; ++c) turn[r][c] = -adjoint[6 * r + c];
  for (int r = 0; r < 8; ++r)
    for (int k = 0; k < 8; ++k)
      for (int c = 0; c < 8; ++c)
        half[r][c] += sums[triangle_place(std::min(r, k), std::max(r, k))] * turn[k][c];
  for (int r = 0; r < 8; ++r)
    for (int c = r; c < 8; ++c)
      for (int k = 0; k < 8; ++k) out[triangle_place(r, c)] += turn[k][r] * half[k][c];
}

// One keyframe's Schur complement in its blocks' twists.
class KeyframeSystem {
 public:
  KeyframeSystem(const Layout& layout, int place, const DenseSums& sums)
      : frame_(layout.frames[place]), sums_(sums), blocks_(frame_.blocks) {
    for (int n = 0; n < frame_.edges; ++n) {
      const int e = layout.first[place] + n;
      const double *adjoint = layout.adjoints.data() + 36 * size_t(e), *of_edge = edge(n);
      if (frame_.edge[n].block < 0) continue;
      Block& block = blocks_[frame_.edge[n].block];
      if (frame_.edge[n].of_source) {
        block.j = -1, block.adjoint = kMinusIdentity;
        add_turned(of_edge, adjoint, block.own);
      } else {
        block.j = layout.pairs[2 * e + 1], block.adjoint = adjoint;
        std::copy_n(of_edge, kDenseTriangle, block.own);
      }
    }
  }

  const std::vector<Block>& blocks() const { return blocks_; }

  // Part (a, b) of the matrix.
  void block(int a, int b, double* out) const {
    for (int r = 0; r < 6; ++r)
      for (int c = 0; c < 6; ++c)
        out[6 * r + c] = (a == b ? own(a, r, c) : 0.0) - gram(6 * a + r, 6 * b + c);
  }
  double rhs(int a, int r) const { return own(a, r, 6) - gram(6 * a + r, frame_.rhs_column()); }
  double focal(int a, int r) const { return own(a, r, 7) - gram(6 * a + r, frame_.focal_column()); }
  double focal_diagonal() const {
    double total = -gram(frame_.focal_column(), frame_.focal_column());
    for (int n = 0; n < frame_.edges; ++n) total += edge(n)[triangle_place(7, 7)];
    return total;
  }
  double focal_rhs() const {
    double total = -gram(frame_.rhs_column(), frame_.focal_column());
    for (int n = 0; n < frame_.edges; ++n) total += edge(n)[triangle_place(6, 7)];
    return total;
  }

 private:
  const double* edge(int n) const { return sums_.edges.data() + size_t(n) * kDenseTriangle; }
  double own(int a, int r, int c) const {
    return blocks_[a].own[triangle_place(std::min(r, c), std::max(r, c))];
  }
  double gram(int r, int c) const {
    return sums_.gram[size_t(std::max(r, c)) * frame_.columns() + std::min(r, c)];
  }
  const DenseKeyframe& frame_;
  const DenseSums& sums_;
  std::vector<Block> blocks_;
};

// Adds keyframes' systems to the reduced one. T_ji's twist is that of j minus Ad(T_ji) that of i.
class Assembler {
 public:
  explicit Assembler(const DenseProblem& p) : refine_focal_(p.refine_focal) {
    const std::vector<int> first = first_edges(p);
    for (int i = 0; i < p.poses; ++i) place_.push_back(p.fixed[i] ? -1 : free_++);
    out_.H.diagonal.assign(size_t(free_) * 36, 0.0);
    out_.g.assign(size_t(free_) * 6, 0.0);
    out_.focal_column = out_.g;
    const auto target = [&](int edge) { return place_[p.edge[2 * edge + 1]]; };
    for (int i = 0; i < p.poses; ++i)
      for (int a = first[i]; a < first[i + 1]; ++a) {
        note(target(a), place_[i]);
        for (int b = first[i]; b < a; ++b) note(target(a), target(b));
      }
    auto& positions = out_.H.positions;
    std::sort(positions.begin(), positions.end());
    positions.erase(std::unique(positions.begin(), positions.end()), positions.end());
    out_.H.blocks.assign(positions.size() * 36, 0.0);
  }

  // Of the part's keyframe at `n`.
  void add(const Layout& layout, int n, const DenseSums& sums) {
    const KeyframeSystem system(layout, n, sums);
    const int i = layout.begin + n;
    const auto& blocks = system.blocks();
    for (size_t b = 0; b < blocks.size(); ++b) {
      double column[36] = {};  // block (i, b): - sum over a of Ad_a^T S_ab
      for (size_t a = 0; a < blocks.size(); ++a) {
        double S[36];
        system.block(int(a), int(b), S);
        if (a >= b) add_block(place(blocks[a].j), place(blocks[b].j), S, a != b);
        subtract_transposed_product(blocks[a].adjoint, S, column);
      }
      double corner[36] = {};  // this column's part of block (i, i)
      for (int r = 0; r < 6; ++r)
        for (int k = 0; k < 6; ++k)
          for (int c = 0; c < 6; ++c)
            corner[6 * r + c] -= column[6 * r + k] * blocks[b].adjoint[6 * k + c];
      add_block(place_[i], place(blocks[b].j), column, true);
      add_block(place_[i], place_[i], corner, false);
      double rhs[6], focal[6] = {};
      for (int r = 0; r < 6; ++r) {
        rhs[r] = system.rhs(int(b), r);
        if (refine_focal_) focal[r] = system.focal(int(b), r);
      }
      add_vector(blocks[b], i, rhs, out_.g);
      add_vector(blocks[b], i, focal, out_.focal_column);
    }
    if (!refine_focal_) return;
    out_.focal_diagonal += system.focal_diagonal();
    out_.focal_g += system.focal_rhs();
  }

  Reduced& result() { return out_; }
  // Of a pose among the free ones, or -1.
  int place(int i) const { return i < 0 ? -1 : place_[i]; }

 private:
  void note(int p, int q) {
    if (p >= 0 && q >= 0 && p != q) out_.H.positions.emplace_back(std::min(p, q), std::max(p, q));
  }

  // out -= a^T b
  static void subtract_transposed_product(const double* a, const double* b, double* out) {
    for (int k = 0; k < 6; ++k)
      for (int r = 0; r < 6; ++r)
        for (int c = 0; c < 6; ++c) out[6 * r + c] -= a[6 * k + r] * b[6 * k + c];
  }

  // Adds block S at (row, column), and its mirror image where `both` says that it stands for two.
  void add_block(int row, int column, const double* S, bool both) {
    if (row < 0 || column < 0) return;
    double* out = row == column ? out_.H.diagonal.data() + 36 * size_t(row)
                                : out_.H.at(std::max(row, column), std::min(row, column));
    for (int r = 0; r < 6; ++r)
      for (int c = 0; c < 6; ++c) {
        if (row == column && both)
          out[6 * r + c] += S[6 * r + c] + S[6 * c + r];
        else
          out[6 * r + c] += row >= column ? S[6 * r + c] : S[6 * c + r];
      }
  }

  void add_vector(const Block& block, int i, const double* value, std::vector<double>& out) {
    if (const int j = place(block.j); j >= 0)
      for (int r = 0; r < 6; ++r) out[6 * j + r] += value[r];
    if (place_[i] < 0) return;
    for (int r = 0; r < 6; ++r)
      for (int k = 0; k < 6; ++k) out[6 * place_[i] + r] -= block.adjoint[6 * k + r] * value[k];
  }

  bool refine_focal_;
  std::vector<int> place_;
  int free_ = 0;
  Reduced out_;
};

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double total = 0;
  for (size_t k = 0; k < a.size(); ++k) total += a[k] * b[k];
  return total;
}

// Solves the damped system; the free poses' twists end up in `system.g`.
DenseStep solve_reduced(Reduced& system, double damping, bool refine_focal) {
  DenseStep out = {0, 0, 0, false};
  for (size_t k = 0; k < system.H.diagonal.size(); k += 36)
    for (int r = 0; r < 6; ++r) {
      double& entry = system.H.diagonal[k + 7 * r];
      entry = entry * (1 + damping) + kLeastDiagonal;
    }
  BlockCholesky factor(system.H);
  if (!factor.factor(system.H)) return out;
  factor.solve(system.g.data());
  if (refine_focal) {
    std::vector<double> y = system.focal_column;
    factor.solve(y.data());
    const double honest = system.focal_diagonal - dot(system.focal_column, y);
    const double pivot = honest + damping * system.focal_diagonal + kLeastDiagonal;
    if (!(pivot > 0)) return out;
    out.focal_information = std::max(honest, 0.0);
    out.log_focal = (system.focal_g - dot(system.focal_column, system.g)) / pivot;
    for (size_t k = 0; k < y.size(); ++k) system.g[k] -= out.log_focal * y[k];
  }
  out.ok = std::isfinite(out.log_focal);
  for (const double entry : system.g) out.ok = out.ok && std::isfinite(entry);
  return out;
}

// Twists of a part's edges' T_ji from those of the poses.
std::vector<float> relative_twists(const Layout& layout, const double* twist) {
  std::vector<float> out(layout.edges.size() * 6);
  for (size_t e = 0; e < layout.edges.size(); ++e) {
    const double *of_i = twist + 6 * layout.pairs[2 * e],
                 *of_j = twist + 6 * layout.pairs[2 * e + 1];
    for (int r = 0; r < 6; ++r) {
      double value = of_j[r];
      for (int k = 0; k < 6; ++k) value -= layout.adjoints[36 * e + 6 * r + k] * of_i[k];
      out[6 * e + r] = float(value);
    }
  }
  return out;
}

}  // namespace

double dense_ba_cost(const DenseProblem& part, DenseDevice& device, double before) {
  return device.cost(Layout(part, 0.0f).frames, before);
}

struct DenseReduction::State {
  Assembler assembler;
  int poses;
  bool refine_focal;
  double cost = 0;
};

DenseReduction::DenseReduction(const DenseProblem& part)
    : state_(new State{Assembler(part), part.poses, part.refine_focal}) {}
DenseReduction::~DenseReduction() = default;

void DenseReduction::add(const DenseProblem& part, float depth_damping, DenseDevice& device) {
  const Layout layout(part, depth_damping);
  const std::vector<DenseSums> sums = device.sums(layout.frames);
  for (int n = 0; n < int(sums.size()); ++n) {
    state_->assembler.add(layout, n, sums[n]);
    state_->cost += sums[n].cost;
  }
}

DenseStep DenseReduction::solve(double damping, double* twist) {
  const Assembler& assembler = state_->assembler;
  Reduced& system = state_->assembler.result();
  DenseStep out = solve_reduced(system, damping, state_->refine_focal);
  out.cost = state_->cost;
  if (!out.ok) return out;
  for (int i = 0; i < state_->poses; ++i)
    for (int r = 0; r < 6; ++r)
      twist[6 * i + r] = assembler.place(i) < 0 ? 0.0 : system.g[6 * assembler.place(i) + r];
  return out;
}

void dense_ba_update(const DenseProblem& part, const DenseOptions& options, const double* twist,
                     double log_focal, DenseDevice& device, float* inverse_depth) {
  const Layout layout(part, options.depth_damping);
  const std::vector<float> relative = relative_twists(layout, twist);
  std::vector<DenseUpdate> updates;
  for (size_t n = 0; n < layout.frames.size(); ++n)
    updates.push_back({relative.data() + 6 * size_t(layout.first[n]), float(log_focal),
                       options.minimum, options.maximum, inverse_depth + part.pixels * int64_t(n)});
  device.update(layout.frames, updates);
}

}  // namespace slam
