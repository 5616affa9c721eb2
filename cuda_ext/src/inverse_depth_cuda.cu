// The inverse-depth filter and the rolling shutter over a whole grid, on CUDA: one pixel a thread.
#include "cuda_support.cuh"
#include "depth_filter.h"
#include "shutter.h"

namespace slam {
namespace {

__global__ void triangulate_pixels(Triangulation t, int64_t pixels) {
  const int64_t p = this_pixel();
  if (p >= pixels) return;
  const auto m = triangulate(t.camera, t.T_ji, t.pixel[2 * p], t.pixel[2 * p + 1], t.target[2 * p],
                             t.target[2 * p + 1], t.weight[p], t.gate);
  t.value[p] = m.value;
  t.information[p] = m.information;
}

__global__ void fuse_pixels(float* value, float* information, const float* new_value,
                            const float* new_information, FusionOptions options, int64_t pixels) {
  const int64_t p = this_pixel();
  if (p >= pixels) return;
  const auto m = fuse(value[p], information[p], new_value[p], new_information[p], options);
  value[p] = m.value;
  information[p] = m.information;
}

__global__ void unroll_pixels(Unrolling r, int64_t pixels) {
  const int64_t p = this_pixel();
  if (p >= pixels) return;
  const auto moved = unroll(r, r.pixel[2 * p], r.pixel[2 * p + 1], r.inverse_depth[p],
                            r.target[2 * p], r.target[2 * p + 1]);
  r.corrected[2 * p] = moved.u;
  r.corrected[2 * p + 1] = moved.v;
}

__device__ Warped warp_cell(const Warp& w, int64_t cell) {
  return warp(w.grid, w.camera, w.T_ji, cell, w.value[cell], w.information[cell], w.inflation);
}

__global__ void splat_cells(Warp w, unsigned long long* keys, int64_t cells) {
  const int64_t p = this_pixel();
  if (p >= cells) return;
  const Warped moved = warp_cell(w, p);
  if (moved.cell >= 0)
    atomicMax(keys + moved.cell, static_cast<unsigned long long>(warp_key(moved.value, p)));
}

__global__ void gather_cells(Warp w, const unsigned long long* keys, int64_t cells) {
  const int64_t p = this_pixel();
  if (p >= cells) return;
  w.new_value[p] = keys[p] ? warp_value(keys[p]) : 0.0f;
  w.new_information[p] = keys[p] ? warp_cell(w, warp_source(keys[p])).information : 0.0f;
}

}  // namespace

void triangulate_cuda(const Triangulation& t, int64_t pixels, int device, void* stream) {
  if (pixels == 0) return;
  const DeviceGuard guard(device);
  triangulate_pixels<<<blocks_for(pixels), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      t, pixels);
  check(cudaGetLastError(), "triangulate_inverse_depth");
}

void fuse_cuda(float* value, float* information, const float* new_value,
               const float* new_information, const FusionOptions& options, int64_t pixels,
               int device, void* stream) {
  if (pixels == 0) return;
  const DeviceGuard guard(device);
  fuse_pixels<<<blocks_for(pixels), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      value, information, new_value, new_information, options, pixels);
  check(cudaGetLastError(), "fuse_inverse_depth");
}

void unroll_cuda(const Unrolling& r, int64_t pixels, int device, void* stream) {
  if (pixels == 0) return;
  const DeviceGuard guard(device);
  unroll_pixels<<<blocks_for(pixels), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(r, pixels);
  check(cudaGetLastError(), "unroll_target");
}

void warp_cuda(const Warp& w, int device, void* stream) {
  const int64_t cells = int64_t(w.grid.height) * w.grid.width;
  if (cells == 0) return;
  const DeviceGuard guard(device);
  const auto queue = static_cast<cudaStream_t>(stream);
  Buffer<unsigned long long> keys(cells, queue);
  keys.clear();
  splat_cells<<<blocks_for(cells), kThreads, 0, queue>>>(w, keys.data(), cells);
  gather_cells<<<blocks_for(cells), kThreads, 0, queue>>>(w, keys.data(), cells);
  check(cudaGetLastError(), "warp_inverse_depth");
}

}  // namespace slam
