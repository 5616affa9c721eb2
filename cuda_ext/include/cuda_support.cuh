// What every .cu file needs: errors as exceptions, a device guard, buffers, fixed-order sums.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace slam {

constexpr int kThreads = 256;  // of a CUDA block
constexpr int kWarps = kThreads / 32;

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

// Device memory that lives in the order of a stream.
template <class T>
class Buffer {
 public:
  Buffer(size_t count, cudaStream_t stream) : count_(count), stream_(stream) {
    if (count) check(cudaMallocAsync(&data_, count * sizeof(T), stream), "cudaMallocAsync");
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

// Sums each of the block's `Count` values over its threads in a fixed order; out: [Count].
// All kThreads threads must call it.
template <int Count>
__device__ void block_sum(const float (&values)[Count], double* out) {
  __shared__ float partial[kWarps][Count];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int k = 0; k < Count; ++k) {
    float value = values[k];
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    if (lane == 0) partial[warp][k] = value;
  }
  __syncthreads();
  for (int k = threadIdx.x; k < Count; k += kThreads) {
    double total = 0;
    for (int w = 0; w < kWarps; ++w) total += partial[w][k];
    out[k] = total;
  }
  __syncthreads();  // before the next call writes to partial
}

}  // namespace slam
