// The per-pixel work of dense bundle adjustment on CUDA; the reduced system is solved on the host.
#include <algorithm>

#include "cuda_support.cuh"
#include "dense_ba.h"

namespace slam {
namespace {

constexpr int kEdgeValues = kDenseTriangle + 1;  // an edge's sums and its cost
constexpr int kTile = 16;                        // of the Gram matrix; kTile^2 == kThreads

__device__ int64_t this_pixel() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

__device__ DenseTerms<float> edge_terms(const DenseKeyframe& f, int edge, int64_t p) {
  const float* target = f.target + 2 * (f.pixels * edge + p);
  return dense_terms(f.camera, f.motion[edge], f.pixel[2 * p], f.pixel[2 * p + 1],
                     f.inverse_depth[p], target[0], target[1], f.weight[f.pixels * edge + p],
                     f.huber, f.outlier);
}

__device__ float prior_cost(const DenseKeyframe& f, int64_t p) {
  const float d = f.prior[p] - f.inverse_depth[p];
  return 0.5f * f.prior_weight[p] * d * d;
}

// out: [blocks]
__global__ void cost_pixels(DenseKeyframe f, double* out) {
  const int64_t p = this_pixel();
  float cost[1] = {0.0f};
  if (p < f.pixels) {
    for (int edge = 0; edge < f.edges; ++edge) cost[0] += edge_terms(f, edge, p).cost;
    cost[0] += prior_cost(f, p);
  }
  block_sum(cost, out + blockIdx.x);
}

// rows: [columns, pixels] of E / sqrt(C); out: [blocks, edges + 1, kEdgeValues], where the last
// entry's last value is the cost of the priors.
__global__ void reduce_pixels(DenseKeyframe f, float* rows, double* out) {
  const int64_t p = this_pixel();
  const bool inside = p < f.pixels;
  float curvature = 0.0f, rhs = 0.0f, focal = 0.0f;
  out += int64_t(blockIdx.x) * (f.edges + 1) * kEdgeValues;
  for (int edge = 0; edge < f.edges; ++edge, out += kEdgeValues) {
    float values[kEdgeValues] = {};
    if (inside) {
      const auto t = edge_terms(f, edge, p);
      int k = 0;
#pragma unroll
      for (int a = 0; a < 8; ++a)
#pragma unroll
        for (int b = a; b < 8; ++b, ++k)
          values[k] = t.row[0][a] * t.row[0][b] + t.row[1][a] * t.row[1][b];
      values[kDenseTriangle] = t.cost;
      for (int a = 0; a < 6; ++a)
        rows[(6 * edge + a) * f.pixels + p] = t.depth[0] * t.row[0][a] + t.depth[1] * t.row[1][a];
      rhs += t.depth[0] * t.row[0][6] + t.depth[1] * t.row[1][6];
      focal += t.depth[0] * t.row[0][7] + t.depth[1] * t.row[1][7];
      curvature += t.depth[0] * t.depth[0] + t.depth[1] * t.depth[1];
    }
    block_sum(values, out);
  }
  float values[kEdgeValues] = {};
  if (inside) {
    const float w = f.prior_weight[p];
    values[kDenseTriangle] = prior_cost(f, p);
    const float c = damped_curvature(curvature, w, f.depth_damping);
    const float scale = square_root(inverse_curvature(c));
    for (int k = 0; k < f.focal_column(); ++k) rows[k * f.pixels + p] *= scale;
    if (f.refine_focal) rows[f.focal_column() * f.pixels + p] = scale * focal;
    rows[f.rhs_column() * f.pixels + p] = scale * (rhs + w * (f.prior[p] - f.inverse_depth[p]));
    for (int k = f.rhs_column() + 1; k < f.columns(); ++k) rows[k * f.pixels + p] = 0.0f;
  }
  block_sum(values, out);
}

// Sums [blocks, count] over blocks, in order.
__global__ void sum_blocks(const double* partial, int blocks, int64_t count, double* out) {
  const int64_t k = this_pixel();
  if (k >= count) return;
  double total = 0;
  for (int b = 0; b < blocks; ++b) total += partial[b * count + k];
  out[k] = total;
}

// Lower triangle of rows rows^T: one tile a block, one entry a thread.
__global__ void gram_tile(const float* rows, int columns, int64_t pixels, double* gram) {
  if (blockIdx.x > blockIdx.y) return;
  __shared__ float left[kTile][kTile + 1], right[kTile][kTile + 1];
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  const int a = blockIdx.y * kTile + y, b = blockIdx.x * kTile + y;
  double total = 0;
  for (int64_t p = 0; p < pixels; p += kTile) {
    const bool inside = p + x < pixels;
    left[y][x] = inside && a < columns ? rows[a * pixels + p + x] : 0.0f;
    right[y][x] = inside && b < columns ? rows[b * pixels + p + x] : 0.0f;
    __syncthreads();
    float part = 0.0f;
#pragma unroll
    for (int k = 0; k < kTile; ++k) part += left[y][k] * right[x][k];
    total += part;
    __syncthreads();
  }
  const int column = blockIdx.x * kTile + x;
  if (a < columns && column < columns) gram[int64_t(a) * columns + column] = total;
}

__global__ void update_pixels(DenseKeyframe f, DenseUpdate u) {
  const int64_t p = this_pixel();
  if (p >= f.pixels) return;
  float c = 0.0f, b = 0.0f;
  for (int edge = 0; edge < f.edges; ++edge)
    add_depth_terms(edge_terms(f, edge, p), u.twist + 6 * edge, u.log_focal, c, b);
  const float rho = f.inverse_depth[p], w = f.prior_weight[p];
  b += w * (f.prior[p] - rho);
  c = damped_curvature(c, w, f.depth_damping);
  u.inverse_depth[p] = stepped_inverse_depth(rho, c, b, u.minimum, u.maximum);
}

// Where a keyframe's results lie among those of all.
struct Slot {
  size_t gram, sums;
};

class DenseCuda : public DenseDevice {
 public:
  DenseCuda(int device, void* stream)
      : device_(device), stream_(static_cast<cudaStream_t>(stream)) {}

  double cost(const std::vector<DenseKeyframe>& frames) override {
    if (empty(frames)) return 0;
    const DeviceGuard guard(device_);
    const Buffer<Motion> motions = upload_motions(frames);
    const unsigned blocks = blocks_for(frames[0].pixels);
    const Buffer<double> partial(frames.size() * blocks, stream_);
    for (size_t i = 0; i < frames.size(); ++i)
      cost_pixels<<<blocks, kThreads, 0, stream_>>>(on_device(frames, i, motions),
                                                    partial.data() + i * blocks);
    check(cudaGetLastError(), "dense_ba_cost");
    double total = 0;
    for (const double part : partial.to_host()) total += part;
    return total;
  }

  std::vector<DenseSums> sums(const std::vector<DenseKeyframe>& frames) override {
    if (empty(frames)) return empty_sums(frames);
    const DeviceGuard guard(device_);
    const Buffer<Motion> motions = upload_motions(frames);
    std::vector<Slot> slots;
    Slot end = {0, 0};
    size_t columns = 0, edges = 0;
    for (const auto& f : frames) {
      slots.push_back(end);
      end.gram += size_t(f.columns()) * f.columns();
      end.sums += size_t(f.edges + 1) * kEdgeValues;
      columns = std::max(columns, size_t(f.columns()));
      edges = std::max(edges, size_t(f.edges + 1));
    }
    const unsigned blocks = blocks_for(frames[0].pixels);
    const Buffer<float> rows(columns * frames[0].pixels, stream_);
    const Buffer<double> partial(blocks * edges * kEdgeValues, stream_);
    Buffer<double> gram(end.gram, stream_);
    gram.clear();
    const Buffer<double> all_sums(end.sums, stream_);
    for (size_t i = 0; i < frames.size(); ++i) {
      const DenseKeyframe f = on_device(frames, i, motions);
      reduce_pixels<<<blocks, kThreads, 0, stream_>>>(f, rows.data(), partial.data());
      const int64_t count = int64_t(f.edges + 1) * kEdgeValues;
      sum_blocks<<<blocks_for(count), kThreads, 0, stream_>>>(partial.data(), int(blocks), count,
                                                              all_sums.data() + slots[i].sums);
      const unsigned tiles = unsigned(f.columns() + kTile - 1) / kTile;
      gram_tile<<<dim3(tiles, tiles), kThreads, 0, stream_>>>(rows.data(), f.columns(), f.pixels,
                                                              gram.data() + slots[i].gram);
    }
    check(cudaGetLastError(), "dense_ba_step");
    return split(frames, slots, gram.to_host(), all_sums.to_host());
  }

  void update(const std::vector<DenseKeyframe>& frames,
              const std::vector<DenseUpdate>& updates) override {
    if (empty(frames)) return;
    const DeviceGuard guard(device_);
    const Buffer<Motion> motions = upload_motions(frames);
    const Buffer<float> twists(updates[0].twist, 6 * edge_count(frames), stream_);
    for (size_t i = 0; i < frames.size(); ++i) {
      DenseUpdate u = updates[i];
      u.twist = twists.data() + (u.twist - updates[0].twist);
      update_pixels<<<blocks_for(frames[i].pixels), kThreads, 0, stream_>>>(
          on_device(frames, i, motions), u);
    }
    check(cudaGetLastError(), "dense_ba_step");
  }

 private:
  static bool empty(const std::vector<DenseKeyframe>& frames) {
    return frames.empty() || frames[0].pixels == 0;
  }

  static size_t edge_count(const std::vector<DenseKeyframe>& frames) {
    size_t total = 0;
    for (const auto& f : frames) total += f.edges;
    return total;
  }

  // The keyframes' motions lie in one array, in the keyframes' order.
  Buffer<Motion> upload_motions(const std::vector<DenseKeyframe>& frames) const {
    return {frames[0].motion, edge_count(frames), stream_};
  }

  static DenseKeyframe on_device(const std::vector<DenseKeyframe>& frames, size_t i,
                                 const Buffer<Motion>& motions) {
    DenseKeyframe out = frames[i];
    out.motion = motions.data() + (frames[i].motion - frames[0].motion);
    return out;
  }

  static std::vector<DenseSums> empty_sums(const std::vector<DenseKeyframe>& frames) {
    std::vector<DenseSums> out(frames.size());
    for (size_t i = 0; i < frames.size(); ++i) {
      out[i].gram.assign(size_t(frames[i].columns()) * frames[i].columns(), 0.0);
      out[i].edges.assign(size_t(frames[i].edges) * kDenseTriangle, 0.0);
    }
    return out;
  }

  static std::vector<DenseSums> split(const std::vector<DenseKeyframe>& frames,
                                      const std::vector<Slot>& slots,
                                      const std::vector<double>& gram,
                                      const std::vector<double>& sums) {
    std::vector<DenseSums> out = empty_sums(frames);
    for (size_t i = 0; i < frames.size(); ++i) {
      std::copy_n(gram.begin() + slots[i].gram, out[i].gram.size(), out[i].gram.begin());
      const double* value = sums.data() + slots[i].sums;
      for (int edge = 0; edge <= frames[i].edges; ++edge, value += kEdgeValues) {
        if (edge < frames[i].edges)
          std::copy_n(value, kDenseTriangle, out[i].edges.data() + size_t(edge) * kDenseTriangle);
        out[i].cost += value[kDenseTriangle];
      }
    }
    return out;
  }

  int device_;
  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<DenseDevice> dense_cuda(int device, void* stream) {
  return std::make_unique<DenseCuda>(device, stream);
}

}  // namespace slam
