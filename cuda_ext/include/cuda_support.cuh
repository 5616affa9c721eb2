// What every .cu file needs: errors as exceptions, a device guard, buffers, fixed-order sums.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace slam {

constexpr int kThreads = 256;  // of a CUDA block
constexpr int kWarps = kThreads / 32;
constexpr uint64_t kKeptBytes = 256 << 20;  // of freed memory, for the next calls

__device__ inline int64_t this_pixel() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": CUDA says " + cudaGetErrorString(status));
}

inline unsigned blocks_for(int64_t count) { return unsigned((count + kThreads - 1) / kThreads); }

// Makes a device current, and the former one again at the end of the scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&former_), "cudaGetDevice");
    check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() { cudaSetDevice(former_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int former_ = 0;
};

// The current device's pool. It keeps what is freed: by default memory would go back to the driver
// whenever a stream is waited for. Never destroyed: at exit there is no safe moment for it.
inline cudaMemPool_t memory_pool() {
  static std::mutex mutex;
  static std::map<int, cudaMemPool_t> pools;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = pools.find(device);
  if (found != pools.end()) return found->second;
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  cudaMemPool_t pool = nullptr;
  check(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
  uint64_t kept = kKeptBytes;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept),
        "cudaMemPoolSetAttribute");
  return pools[device] = pool;
}

// Device memory that lives in the order of a stream. The current device must be the stream's.
template <class T>
class Buffer {
 public:
  Buffer(size_t count, cudaStream_t stream) : count_(count), stream_(stream) {
    if (count)
      check(cudaMallocFromPoolAsync(&data_, count * sizeof(T), memory_pool(), stream),
            "cudaMallocFromPoolAsync");
  }
  Buffer(const T* host, size_t count, cudaStream_t stream) : Buffer(count, stream) {
    if (count)
      check(cudaMemcpyAsync(data_, host, count * sizeof(T), cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync");
  }
  ~Buffer() {
    if (count_) cudaFreeAsync(data_, stream_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() const { return static_cast<T*>(data_); }
  void clear() {
    if (count_) check(cudaMemsetAsync(data_, 0, count_ * sizeof(T), stream_), "cudaMemsetAsync");
  }
  size_t size() const { return count_; }
  // Waits for the stream.
  std::vector<T> to_host() const {
    std::vector<T> out(count_);
    if (count_)
      check(cudaMemcpyAsync(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost, stream_),
            "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    return out;
  }

 private:
  void* data_ = nullptr;
  size_t count_;
  cudaStream_t stream_;
};

// A lane keeps the half of its 2 Step values that has its bit, and adds what the other lane gives
// of it; then on with half as many.
template <int Step>
__device__ void fold(float (&values)[32]) {
  const bool upper = threadIdx.x & Step;
#pragma unroll
  for (int k = 0; k < Step; ++k) {
    const float kept = upper ? values[k + Step] : values[k];
    const float given = upper ? values[k] : values[k + Step];
    values[k] = kept + __shfl_xor_sync(0xffffffffu, given, Step);
  }
  if constexpr (Step > 1) fold<Step / 2>(values);
}

// Sums values `First` and up to 31 more over the warp's lanes, in a fixed order: lane k gets the
// sum of value First + k.
template <int First, int Count>
__device__ float warp_sums(const float (&values)[Count]) {
  float some[32];
#pragma unroll
  for (int k = 0; k < 32; ++k) some[k] = First + k < Count ? values[(First + k) % Count] : 0.0f;
  fold<16>(some);
  return some[0];
}

// Sums each of `Count` values over the block's kThreads threads, all of which must call it, in a
// fixed order; out: [Count].
template <int Count>
__device__ void block_sum(const float (&values)[Count], double* out) {
  __shared__ float partial[kWarps][Count];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  static_assert(Count <= 64, "two values a lane at most");
  const float total = warp_sums<0>(values);
  if (lane < Count) partial[warp][lane] = total;
  if constexpr (Count > 32) {
    const float more = warp_sums<32>(values);
    if (32 + lane < Count) partial[warp][32 + lane] = more;
  }
  __syncthreads();
  for (int k = threadIdx.x; k < Count; k += kThreads) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += partial[w][k];
    out[k] = sum;
  }
  __syncthreads();  // before the next call writes to partial
}

}  // namespace slam
