// The per-pixel work of dense bundle adjustment on CUDA; the reduced system is solved on the host.
// A launch does a stage of all keyframes (blockIdx.y or .z). Sums are in a fixed order: of a
// block's threads, then of its results over the blocks.
#include <algorithm>

#include "cuda_support.cuh"
#include "dense_ba.h"

namespace slam {
namespace {

constexpr int kTile = 32;         // columns of E a side of a tile of the Gram matrix
constexpr int kHalf = kTile / 2;  // kHalf^2 == kThreads: four entries a thread
constexpr int64_t kSplit = 512;   // pixels summed in float32 before float64 takes over
constexpr size_t kBatchBytes = size_t(1) << 28;  // about; of what a batch of keyframes works in

// A keyframe, and where its parts and results lie.
struct Frame {
  DenseKeyframe f;
  float* rows;         // [columns, pixels] of E
  float* inverse;      // [pixels] 1 / curvature
  float* gram_parts;   // [splits, columns, columns], lower triangle
  double* edge_parts;  // [blocks, edge values]
  double* out;         // [columns, columns], then [edge values]
};

// Of all edges' sums, a triangle each, and of the cost.
__host__ __device__ int64_t edge_values(const DenseKeyframe& f) {
  return int64_t(f.edges) * kDenseTriangle + 1;
}
__host__ __device__ int64_t gram_values(const DenseKeyframe& f) {
  return int64_t(f.columns()) * f.columns();
}

__device__ DensePixel<float> edge_pixel(const DenseKeyframe& f, int edge, int64_t p) {
  const float* target = f.target + 2 * (f.pixels * edge + p);
  return dense_pixel(f.camera, f.edge[edge].T_ji, f.pixel[2 * p], f.pixel[2 * p + 1],
                     f.inverse_depth[p], target[0], target[1], f.weight[f.pixels * edge + p],
                     f.huber, f.outlier);
}

__device__ float prior_cost(const DenseKeyframe& f, int64_t p) {
  const float d = f.prior[p] - f.inverse_depth[p];
  return 0.5f * f.prior_weight[p] * d * d;
}

// out: [frames, blocks]
__global__ void __launch_bounds__(kThreads) sum_costs(const DenseKeyframe* frames, double* out) {
  const DenseKeyframe f = frames[blockIdx.y];
  const int64_t p = this_pixel();
  float cost[1] = {0.0f};
  if (p < f.pixels) {
    for (int edge = 0; edge < f.edges; ++edge) cost[0] += edge_pixel(f, edge, p).cost;
    cost[0] += prior_cost(f, p);
  }
  block_sum(cost, out + int64_t(blockIdx.y) * gridDim.x + blockIdx.x);
}

__device__ void add_products(const float (&row)[kAxisColumns], int axis,
                             float (&sums)[kDenseTriangle]) {
#pragma unroll
  for (int a = 0; a < kAxisColumns; ++a)
#pragma unroll
    for (int b = a; b < kAxisColumns; ++b)
      sums[triangle_place(dense_column(axis, a), dense_column(axis, b))] += row[a] * row[b];
}

// What a pixel gathers over its edges.
struct Gathered {
  float curvature, rhs, focal, cost;
  float source[6];  // columns of the twist of T_i, from all edges to poses that stay
  int source_block;
};

// One edge's part of a pixel: its products to `sums`, its columns of E to `rows` or `g`.
__device__ void measure(const Frame& frame, int edge, int64_t p, float (&sums)[kDenseTriangle],
                        Gathered& g) {
  const DenseKeyframe& f = frame.f;
  const DenseEdge& e = f.edge[edge];
  const auto pixel = edge_pixel(f, edge, p);
  const auto r = dense_rows(f.camera, pixel);
  add_products(r.u, 0, sums);
  add_products(r.v, 1, sums);
  g.cost += pixel.cost;
  g.curvature += r.depth[0] * r.depth[0] + r.depth[1] * r.depth[1];
  g.rhs += r.depth[0] * r.u[5] + r.depth[1] * r.v[5];
  g.focal += r.depth[0] * r.u[6] + r.depth[1] * r.v[6];
  if (e.block < 0) return;
  float E[6];
  depth_times_twist(r, E);
  if (e.of_source) {
    twist_of_source(e.T_ji, E);
    g.source_block = e.block;
#pragma unroll
    for (int k = 0; k < 6; ++k) g.source[k] += E[k];
  } else {
#pragma unroll
    for (int k = 0; k < 6; ++k) frame.rows[(6 * e.block + k) * f.pixels + p] = E[k];
  }
}

// Writes what is known of a pixel after its last edge.
__device__ void finish_pixel(const Frame& frame, int64_t p, Gathered& g) {
  const DenseKeyframe& f = frame.f;
  const float w = f.prior_weight[p];
  g.cost += prior_cost(f, p);
  frame.inverse[p] = inverse_curvature(damped_curvature(g.curvature, w, f.depth_damping));
  if (g.source_block >= 0)
    for (int k = 0; k < 6; ++k) frame.rows[(6 * g.source_block + k) * f.pixels + p] = g.source[k];
  if (f.refine_focal) frame.rows[f.focal_column() * f.pixels + p] = g.focal;
  frame.rows[f.rhs_column() * f.pixels + p] = g.rhs + w * (f.prior[p] - f.inverse_depth[p]);
}

// Accumulates all edges of a keyframe: normal equations, columns of E, curvature, cost.
__global__ void __launch_bounds__(kThreads) measure_pixels(const Frame* frames) {
  const Frame frame = frames[blockIdx.y];
  const int64_t p = this_pixel();
  const bool inside = p < frame.f.pixels;
  double* out = frame.edge_parts + int64_t(blockIdx.x) * edge_values(frame.f);
  Gathered g = {};
  g.source_block = -1;
  for (int edge = 0; edge < frame.f.edges; ++edge, out += kDenseTriangle) {
    float sums[kDenseTriangle] = {};
    if (inside) measure(frame, edge, p, sums, g);
    block_sum(sums, out);
  }
  if (inside) finish_pixel(frame, p, g);
  const float cost[1] = {g.cost};
  block_sum(cost, out);
}

// A tile of a keyframe's E C^-1 E^T over one split of its pixels. blockIdx: tile, split, frame.
__global__ void __launch_bounds__(kThreads) multiply_tiles(const Frame* frames) {
  const Frame frame = frames[blockIdx.z];
  const int columns = frame.f.columns();
  const int64_t pixels = frame.f.pixels;
  int high = 0;  // tiles of the lower triangle, row by row
  while ((high + 1) * (high + 2) / 2 <= int(blockIdx.x)) ++high;
  const int top = kTile * high, side = kTile * (int(blockIdx.x) - high * (high + 1) / 2);
  if (top >= columns) return;
  const int used = frame.f.rhs_column() + 1;  // the rest is padding
  __shared__ float left[kTile][kTile + 1], right[kTile][kTile + 1];
  const int lane = threadIdx.x % kTile, x = threadIdx.x % kHalf, y = threadIdx.x / kHalf;
  float sums[2][2] = {};
  const int64_t begin = kSplit * blockIdx.y;
  const int64_t end = begin + kSplit < pixels ? begin + kSplit : pixels;
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t p = first + lane;
    const float inverse = p < end ? frame.inverse[p] : 0.0f;
#pragma unroll
    for (int row = threadIdx.x / kTile; row < kTile; row += kThreads / kTile) {
      const int a = top + row, b = side + row;
      left[row][lane] = p < end && a < used ? frame.rows[a * pixels + p] : 0.0f;
      right[row][lane] = p < end && b < used ? frame.rows[b * pixels + p] * inverse : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTile; ++k)
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 2; ++n) sums[m][n] += left[y + m * kHalf][k] * right[x + n * kHalf][k];
    __syncthreads();
  }
  float* out = frame.gram_parts + blockIdx.y * gram_values(frame.f);
  for (int m = 0; m < 2; ++m)
    for (int n = 0; n < 2; ++n) {
      const int a = top + y + m * kHalf, b = side + x + n * kHalf;
      if (a < columns && b <= a) out[int64_t(a) * columns + b] = sums[m][n];
    }
}

// Sums a keyframe's parts in their order, one value a thread.
__global__ void __launch_bounds__(kThreads) sum_parts(const Frame* frames, int splits, int blocks) {
  const Frame frame = frames[blockIdx.y];
  const int64_t k = this_pixel(), gram = gram_values(frame.f), edges = edge_values(frame.f);
  double total = 0;
  if (k < gram) {
    const bool lower = k % frame.f.columns() <= k / frame.f.columns();
    for (int n = 0; lower && n < splits; ++n) total += frame.gram_parts[n * gram + k];
  } else if (k < gram + edges) {
    for (int n = 0; n < blocks; ++n) total += frame.edge_parts[n * edges + k - gram];
  } else {
    return;
  }
  frame.out[k] = total;
}

__global__ void __launch_bounds__(kThreads)
    update_pixels(const DenseKeyframe* frames, const DenseUpdate* updates) {
  const DenseKeyframe f = frames[blockIdx.y];
  const DenseUpdate u = updates[blockIdx.y];
  const int64_t p = this_pixel();
  if (p >= f.pixels) return;
  float c = 0.0f, b = 0.0f;
  for (int edge = 0; edge < f.edges; ++edge)
    add_depth_terms<true>(f.camera, edge_pixel(f, edge, p), u.twist + 6 * edge, u.log_focal, c, b);
  const float rho = f.inverse_depth[p], w = f.prior_weight[p];
  b += w * (f.prior[p] - rho);
  c = damped_curvature(c, w, f.depth_damping);
  u.inverse_depth[p] = stepped_inverse_depth(rho, c, b, u.minimum, u.maximum);
}

size_t edge_count(const std::vector<DenseKeyframe>& frames) {
  size_t total = 0;
  for (const auto& f : frames) total += f.edges;
  return total;
}

// The keyframes with their edges on the device. The edges lie in one array, in the same order.
class Uploaded {
 public:
  Uploaded(const std::vector<DenseKeyframe>& frames, cudaStream_t stream)
      : edges_(frames[0].edge, edge_count(frames), stream), frames_(frames) {
    for (auto& f : frames_) f.edge = edges_.data() + (f.edge - frames[0].edge);
  }
  const std::vector<DenseKeyframe>& frames() const { return frames_; }

 private:
  Buffer<DenseEdge> edges_;
  std::vector<DenseKeyframe> frames_;
};

class DenseCuda : public DenseDevice {
 public:
  DenseCuda(int device, void* stream)
      : device_(device), stream_(static_cast<cudaStream_t>(stream)) {}

  double cost(const std::vector<DenseKeyframe>& frames, double before) override {
    if (empty(frames)) return before;
    const DeviceGuard guard(device_);
    const Uploaded uploaded(frames, stream_);
    const Buffer<DenseKeyframe> on_device(uploaded.frames().data(), frames.size(), stream_);
    const dim3 blocks(blocks_for(frames[0].pixels), unsigned(frames.size()));
    const Buffer<double> parts(size_t(blocks.x) * blocks.y, stream_);
    sum_costs<<<blocks, kThreads, 0, stream_>>>(on_device.data(), parts.data());
    check(cudaGetLastError(), "dense_ba_cost");
    double total = before;
    for (const double part : parts.to_host()) total += part;
    return total;
  }

  std::vector<DenseSums> sums(const std::vector<DenseKeyframe>& frames) override {
    std::vector<DenseSums> out = empty_sums(frames);
    if (empty(frames)) return out;
    const DeviceGuard guard(device_);
    const Uploaded uploaded(frames, stream_);
    for (size_t first = 0; first < frames.size();) {
      size_t last = first, bytes = 0;
      while (last < frames.size() && (last == first || bytes < kBatchBytes))
        bytes += bytes_of(frames[last++]);
      sum_batch(uploaded.frames().data() + first, last - first, out.data() + first);
      first = last;
    }
    return out;
  }

  void update(const std::vector<DenseKeyframe>& frames,
              const std::vector<DenseUpdate>& updates) override {
    if (empty(frames)) return;
    const DeviceGuard guard(device_);
    const Uploaded uploaded(frames, stream_);
    const Buffer<DenseKeyframe> on_device(uploaded.frames().data(), frames.size(), stream_);
    const Buffer<float> twists(updates[0].twist, 6 * edge_count(frames), stream_);
    std::vector<DenseUpdate> moved = updates;
    for (auto& u : moved) u.twist = twists.data() + (u.twist - updates[0].twist);
    const Buffer<DenseUpdate> updates_there(moved.data(), moved.size(), stream_);
    const dim3 blocks(blocks_for(frames[0].pixels), unsigned(frames.size()));
    update_pixels<<<blocks, kThreads, 0, stream_>>>(on_device.data(), updates_there.data());
    check(cudaGetLastError(), "dense_ba_step");
  }

 private:
  static bool empty(const std::vector<DenseKeyframe>& frames) {
    return frames.empty() || frames[0].pixels == 0;
  }
  static int64_t splits(const DenseKeyframe& f) { return (f.pixels + kSplit - 1) / kSplit; }

  static size_t bytes_of(const DenseKeyframe& f) {
    return sizeof(float) * ((f.columns() + 1) * f.pixels + splits(f) * gram_values(f)) +
           sizeof(double) * blocks_for(f.pixels) * edge_values(f);
  }

  // The three stages of some keyframes, and their results.
  void sum_batch(const DenseKeyframe* keyframes, size_t count, DenseSums* out) const {
    const unsigned blocks = blocks_for(keyframes->pixels), parts = unsigned(splits(*keyframes));
    size_t floats = 0, doubles = 0, results = 0;
    int64_t most = 0, columns = 0;
    for (const DenseKeyframe* f = keyframes; f < keyframes + count; ++f) {
      const int64_t values = gram_values(*f) + edge_values(*f);
      floats += (f->columns() + 1) * f->pixels + parts * gram_values(*f);
      doubles += blocks * edge_values(*f);
      results += values;
      most = std::max(most, values);
      columns = std::max<int64_t>(columns, f->columns());
    }
    const Buffer<float> work(floats, stream_);
    const Buffer<double> edge_parts(doubles, stream_), result(results, stream_);
    std::vector<Frame> frames;
    Frame next = {*keyframes, work.data(), nullptr, nullptr, edge_parts.data(), result.data()};
    for (const DenseKeyframe* f = keyframes; f < keyframes + count; ++f) {
      next.f = *f;
      next.inverse = next.rows + f->columns() * f->pixels;
      next.gram_parts = next.inverse + f->pixels;
      frames.push_back(next);
      next.rows = next.gram_parts + parts * gram_values(*f);
      next.edge_parts += blocks * edge_values(*f);
      next.out += gram_values(*f) + edge_values(*f);
    }
    const Buffer<Frame> there(frames.data(), count, stream_);
    const unsigned high = unsigned((columns + kTile - 1) / kTile), y = unsigned(count);
    measure_pixels<<<dim3(blocks, y), kThreads, 0, stream_>>>(there.data());
    multiply_tiles<<<dim3(high * (high + 1) / 2, parts, y), kThreads, 0, stream_>>>(there.data());
    sum_parts<<<dim3(blocks_for(most), y), kThreads, 0, stream_>>>(there.data(), int(parts),
                                                                   int(blocks));
    check(cudaGetLastError(), "dense_ba_step");
    const std::vector<double> values = result.to_host();
    split(keyframes, count, values.data(), out);
  }

  static std::vector<DenseSums> empty_sums(const std::vector<DenseKeyframe>& frames) {
    std::vector<DenseSums> out(frames.size());
    for (size_t i = 0; i < frames.size(); ++i) {
      out[i].gram.assign(gram_values(frames[i]), 0.0);
      out[i].edges.assign(size_t(frames[i].edges) * kDenseTriangle, 0.0);
    }
    return out;
  }

  static void split(const DenseKeyframe* keyframes, size_t count, const double* value,
                    DenseSums* out) {
    for (size_t i = 0; i < count; ++i) {
      std::copy_n(value, out[i].gram.size(), out[i].gram.begin());
      value += out[i].gram.size();
      std::copy_n(value, out[i].edges.size(), out[i].edges.begin());
      out[i].cost = value[out[i].edges.size()];
      value += edge_values(keyframes[i]);
    }
  }

  int device_;
  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<DenseDevice> dense_cuda(int device, void* stream) {
  return std::make_unique<DenseCuda>(device, stream);
}

}  // namespace slam
