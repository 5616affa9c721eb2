// The inverse-depth filter over a whole grid.
#pragma once
#include "inverse_depth.h"

namespace slam {

struct Warp {
  const float *value, *information;
  float *new_value, *new_information;
  Grid grid;
  Pinhole camera;
  Motion T_ji;
  float inflation;
};

void triangulate_cpu(const Triangulation&, int64_t pixels, int threads);
void fuse_cpu(float* value, float* information, const float* new_value,
              const float* new_information, const FusionOptions&, int64_t pixels, int threads);
void warp_cpu(const Warp&);
void triangulate_cuda(const Triangulation&, int64_t pixels, int device, void* stream);
void fuse_cuda(float* value, float* information, const float* new_value,
               const float* new_information, const FusionOptions&, int64_t pixels, int device,
               void* stream);
void warp_cuda(const Warp&, int device, void* stream);

}  // namespace slam
