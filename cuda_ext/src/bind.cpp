// Python bindings of the kernels. slam/kernels.py checks shapes, devices and values; here is the
// last line of defence: element types, inner shapes, contiguity.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstring>
#include <stdexcept>

#include "dense_ba.h"
#include "depth_filter.h"
#include "flow_refinement.h"
#include "matching.h"
#include "pose_solver.h"
#include "shutter.h"

#ifndef SLAM_WITH_CUDA
#define SLAM_WITH_CUDA 0
#define SLAM_CUDA_ARCHITECTURES ""
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace slam {
namespace {

template <class T, int... Shape>
using Array = nb::ndarray<T, nb::shape<Shape...>, nb::c_contig>;
template <class T, int... Shape>
using HostArray = nb::ndarray<T, nb::shape<Shape...>, nb::c_contig, nb::device::cpu>;

// Where a kernel runs: on the CPU with so many threads, or on a CUDA device's stream.
struct Where {
  bool cuda;
  int device, threads;
  void* stream;
};

template <class A>
Where where(const A& array, int threads, uintptr_t stream) {
  const bool cuda = array.device_type() == nb::device::cuda::value;
  if (cuda && !SLAM_WITH_CUDA)
    throw std::invalid_argument("the native module was built without CUDA; use CPU tensors");
  if (!cuda && array.device_type() != nb::device::cpu::value)
    throw std::invalid_argument("no kernel for this device; use CPU or CUDA tensors");
  return {cuda, array.device_id(), threads, reinterpret_cast<void*>(stream)};
}

// Calls on_cuda where the tensors are on a GPU and the module has CUDA, otherwise on_cpu.
#if SLAM_WITH_CUDA
#define SLAM_DISPATCH(place, on_cpu, on_cuda) ((place).cuda ? (on_cuda) : (on_cpu))
#else
#define SLAM_DISPATCH(place, on_cpu, on_cuda) ((void)(place), on_cpu)
#endif

template <class Residual>
auto evaluate(const Residual& residual, int64_t pixels, const Where& at) {
  return SLAM_DISPATCH(at, normal_equations_cpu(residual, pixels, at.threads),
                       normal_equations_cuda(residual, pixels, at.device, at.stream));
}

template <int N>
nb::tuple returned(const NormalEquations<N>& n, double* H, double* g) {
  std::memcpy(H, n.H, sizeof(n.H));
  if (g) std::memcpy(g, n.g, sizeof(n.g));
  return nb::make_tuple(n.cost, n.inliers, n.counted);
}

using Floats = Array<const float, -1>;
using Pairs = Array<const float, -1, 2>;
using Triples = Array<const float, -1, 3>;
using Pose = HostArray<const double, 7>;
using Similarity = HostArray<const double, 8>;

PoseResidual pose_residual(const Pairs& pixel, const Floats& inverse_depth,
                           const Floats& information, const Pairs& target, const Floats& weight,
                           const Pose& T_ji, const Pinhole& camera, float huber, float outlier) {
  return {pixel.data(),
          inverse_depth.data(),
          information.data(),
          target.data(),
          weight.data(),
          camera,
          motion_from_pose(T_ji.data()),
          huber,
          outlier};
}

nb::tuple pose_normal_equations(Pairs pixel, Floats inverse_depth, Floats information, Pairs target,
                                Floats weight, Pose T_ji, const Pinhole& camera, float huber,
                                float outlier, HostArray<double, 6, 6> H, HostArray<double, 6> g,
                                int threads, uintptr_t stream) {
  const auto residual = pose_residual(pixel, inverse_depth, information, target, weight, T_ji,
                                      camera, huber, outlier);
  const Where at = where(weight, threads, stream);
  NormalEquations<6> out;
  {
    nb::gil_scoped_release release;
    out = evaluate(residual, int64_t(weight.shape(0)), at);
  }
  return returned(out, H.data(), g.data());
}

nb::tuple solve_pose_bound(Pairs pixel, Floats inverse_depth, Floats information, Pairs target,
                           Floats weight, Pose T_init, const Pinhole& camera, float huber,
                           float outlier, int iterations, HostArray<double, 7> T,
                           HostArray<double, 6, 6> H, int threads, uintptr_t stream) {
  const auto residual = pose_residual(pixel, inverse_depth, information, target, weight, T_init,
                                      camera, huber, outlier);
  const Where at = where(weight, threads, stream);
  const int64_t pixels = int64_t(weight.shape(0));
  PoseSolution out;
  {
    nb::gil_scoped_release release;
    out = SLAM_DISPATCH(
        at, solve_pose_cpu(residual, T_init.data(), iterations, pixels, at.threads),
        solve_pose_cuda(residual, T_init.data(), iterations, pixels, at.device, at.stream));
  }
  std::memcpy(T.data(), out.T, sizeof(out.T));
  const nb::tuple sums = returned(out.last, H.data(), nullptr);
  return nb::make_tuple(sums[0], sums[1], sums[2], out.iterations, out.converged);
}

template <class Residual>
nb::tuple similarity_equations(const Residual& residual, const Floats& weight,
                               HostArray<double, 7, 7>& H, HostArray<double, 7>& g, int threads,
                               uintptr_t stream) {
  const Where at = where(weight, threads, stream);
  NormalEquations<7> out;
  {
    nb::gil_scoped_release release;
    out = evaluate(residual, int64_t(weight.shape(0)), at);
  }
  return returned(out, H.data(), g.data());
}

nb::tuple ray_normal_equations(Triples X_k, Triples X_f, Floats weight, Similarity T_kf,
                               float sigma_ray, float sigma_distance, float huber,
                               HostArray<double, 7, 7> H, HostArray<double, 7> g, int threads,
                               uintptr_t stream) {
  const RayResidual residual = {
      X_k.data(), X_f.data(),     weight.data(), motion_from_pose(T_kf.data(), T_kf.data()[7]),
      sigma_ray,  sigma_distance, huber};
  return similarity_equations(residual, weight, H, g, threads, stream);
}

nb::tuple pixel_depth_normal_equations(Pairs pixel_k, Triples X_k, Triples X_f, Floats weight,
                                       Similarity T_kf, const Pinhole& camera, float sigma_pixel,
                                       float sigma_depth, float huber, HostArray<double, 7, 7> H,
                                       HostArray<double, 7> g, int threads, uintptr_t stream) {
  const PixelDepthResidual residual = {
      pixel_k.data(), X_k.data(),  X_f.data(),
      weight.data(),  camera,      motion_from_pose(T_kf.data(), T_kf.data()[7]),
      sigma_pixel,    sigma_depth, huber};
  return similarity_equations(residual, weight, H, g, threads, stream);
}

void triangulate_inverse_depth(Pairs pixel, Pairs target, Floats weight, Pose T_ji,
                               const Pinhole& camera, float gate, Array<float, -1> value,
                               Array<float, -1> information, int threads, uintptr_t stream) {
  const Triangulation t = {pixel.data(),
                           target.data(),
                           weight.data(),
                           value.data(),
                           information.data(),
                           camera,
                           motion_from_pose(T_ji.data()),
                           gate};
  const Where at = where(weight, threads, stream);
  const int64_t pixels = int64_t(weight.shape(0));
  nb::gil_scoped_release release;
  SLAM_DISPATCH(at, triangulate_cpu(t, pixels, at.threads),
                triangulate_cuda(t, pixels, at.device, at.stream));
}

void fuse_inverse_depth(Array<float, -1> value, Array<float, -1> information, Floats new_value,
                        Floats new_information, float gate, float relative_floor, float initial,
                        float decay, int threads, uintptr_t stream) {
  const FusionOptions options = {gate, relative_floor, initial, decay};
  const Where at = where(value, threads, stream);
  const int64_t pixels = int64_t(value.shape(0));
  nb::gil_scoped_release release;
  SLAM_DISPATCH(at,
                fuse_cpu(value.data(), information.data(), new_value.data(), new_information.data(),
                         options, pixels, at.threads),
                fuse_cuda(value.data(), information.data(), new_value.data(),
                          new_information.data(), options, pixels, at.device, at.stream));
}

void warp_inverse_depth(Floats value, Floats information, Pose T_ji, const Pinhole& camera,
                        int height, int width, float stride, float offset, float inflation,
                        Array<float, -1> new_value, Array<float, -1> new_information,
                        uintptr_t stream) {
  const Warp w = {value.data(),
                  information.data(),
                  new_value.data(),
                  new_information.data(),
                  {height, width, stride, offset},
                  camera,
                  motion_from_pose(T_ji.data()),
                  inflation};
  const Where at = where(value, 1, stream);
  nb::gil_scoped_release release;
  SLAM_DISPATCH(at, warp_cpu(w), warp_cuda(w, at.device, at.stream));
}

Twist twist_from(const HostArray<const double, 6>& twist) {
  Twist out;
  for (int k = 0; k < 3; ++k) {
    out.v[k] = float(twist.data()[k]);
    out.w[k] = float(twist.data()[3 + k]);
  }
  return out;
}

void unroll_target(Pairs pixel, Floats inverse_depth, Pairs target, Pose T_ji,
                   HostArray<const double, 6> twist_i, HostArray<const double, 6> twist_j,
                   const Pinhole& camera, float readout, int height, Array<float, -1, 2> corrected,
                   uintptr_t stream) {
  const Unrolling r = {
      pixel.data(), inverse_depth.data(),          target.data(),       corrected.data(),
      camera,       motion_from_pose(T_ji.data()), twist_from(twist_i), twist_from(twist_j),
      readout,      0.5f * float(height - 1),      float(height)};
  const Where at = where(inverse_depth, 1, stream);
  const int64_t pixels = int64_t(inverse_depth.shape(0));
  nb::gil_scoped_release release;
  SLAM_DISPATCH(at, unroll_cpu(r, pixels), unroll_cuda(r, pixels, at.device, at.stream));
}

void refine_flow(Array<const uint8_t, -1, -1> first, Array<const uint8_t, -1, -1> second,
                 Array<float, -1, -1, 2> flow, int radius, int iterations, float regularisation,
                 float longest_step, uintptr_t stream) {
  const FlowRefinement r = {first.data(),        second.data(), flow.data(),    int(first.shape(0)),
                            int(first.shape(1)), radius,        regularisation, longest_step};
  const Where at = where(flow, 1, stream);
  nb::gil_scoped_release release;
  SLAM_DISPATCH(at, refine_flow_cpu(r, iterations),
                refine_flow_cuda(r, iterations, at.device, at.stream));
}

using Rays = Array<const float, -1, -1, 4>;

void match_rays(Rays rays, Triples points, Array<const float, -1, -1, 2> starts, int iterations,
                float damping, Array<float, -1, 2> target, Array<float, -1> error,
                Array<float, -1> gap, int threads, uintptr_t stream) {
  const RayMatching m = {rays.data(),          points.data(),
                         starts.data(),        target.data(),
                         error.data(),         gap.data(),
                         int(rays.shape(0)),   int(rays.shape(1)),
                         int(starts.shape(0)), int64_t(points.shape(0)),
                         iterations,           damping};
  const Where at = where(rays, threads, stream);
  nb::gil_scoped_release release;
  SLAM_DISPATCH(at, match_rays_cpu(m, at.threads), match_rays_cuda(m, at.device, at.stream));
}

void refine_matches(Array<const float, -1, -1, -1> descriptors, Array<const float, -1, -1> sought,
                    Rays rays, Triples points, Pairs start, Array<const bool, -1> active,
                    int radius, int dilation, Array<float, -1, 2> target, Array<float, -1> gap,
                    int threads, uintptr_t stream) {
  const MatchRefinement m = {descriptors.data(),
                             sought.data(),
                             rays.data(),
                             points.data(),
                             start.data(),
                             active.data(),
                             target.data(),
                             gap.data(),
                             int(rays.shape(0)),
                             int(rays.shape(1)),
                             int(sought.shape(1)),
                             int64_t(points.shape(0)),
                             radius,
                             dilation};
  const Where at = where(rays, threads, stream);
  nb::gil_scoped_release release;
  SLAM_DISPATCH(at, refine_matches_cpu(m, at.threads),
                refine_matches_cuda(m, at.device, at.stream));
}

using Ints = HostArray<const int32_t, -1, 2>;
using Rows = Array<const float, -1, -1>;

// A part of a dense problem together with the arrays it points into.
struct DenseInputs {
  int begin;
  HostArray<const double, -1, 7> T_CW;
  Ints edge;
  HostArray<const bool, -1> fixed;
  Rows inverse_depth, prior, prior_weight;
  Array<const float, -1, -1, 2> target;
  Rows weight;
  Pairs pixel;
  Pinhole camera;
  float huber, outlier;
  bool refine_focal;

  DenseProblem problem() const {
    return {int(T_CW.shape(0)),
            int(edge.shape(0)),
            begin,
            begin + int(inverse_depth.shape(0)),
            int64_t(pixel.shape(0)),
            T_CW.data(),
            edge.data(),
            fixed.data(),
            inverse_depth.data(),
            prior.data(),
            prior_weight.data(),
            target.data(),
            weight.data(),
            pixel.data(),
            camera,
            huber,
            outlier,
            refine_focal};
  }
};

std::unique_ptr<DenseDevice> dense_device(const Where& at) {
  return SLAM_DISPATCH(at, dense_cpu(at.threads), dense_cuda(at.device, at.stream));
}

double dense_cost(const DenseInputs& inputs, double before, int threads, uintptr_t stream) {
  const Where at = where(inputs.weight, threads, stream);
  nb::gil_scoped_release release;
  return dense_ba_cost(inputs.problem(), *dense_device(at), before);
}

void add_part(DenseReduction& reduction, const DenseInputs& inputs, float depth_damping,
              int threads, uintptr_t stream) {
  const Where at = where(inputs.weight, threads, stream);
  nb::gil_scoped_release release;
  reduction.add(inputs.problem(), depth_damping, *dense_device(at));
}

nb::tuple solve_parts(DenseReduction& reduction, double damping, HostArray<double, -1, 6> twist) {
  DenseStep out;
  {
    nb::gil_scoped_release release;
    out = reduction.solve(damping, twist.data());
  }
  return nb::make_tuple(out.log_focal, out.focal_information, out.cost, out.ok);
}

void dense_update(const DenseInputs& inputs, float depth_damping, float minimum, float maximum,
                  HostArray<const double, -1, 6> twist, double log_focal,
                  Array<float, -1, -1> inverse_depth, int threads, uintptr_t stream) {
  const Where at = where(inputs.weight, threads, stream);
  nb::gil_scoped_release release;
  dense_ba_update(inputs.problem(), {depth_damping, minimum, maximum}, twist.data(), log_focal,
                  *dense_device(at), inverse_depth.data());
}

}  // namespace

}  // namespace slam

NB_MODULE(_slam_native, m) {
  using namespace slam;
  m.attr("with_cuda") = bool(SLAM_WITH_CUDA);
  m.attr("architectures") = SLAM_CUDA_ARCHITECTURES;
  nb::class_<Pinhole>(m, "Pinhole")
      .def("__init__", [](Pinhole* self, float fx, float fy, float cx, float cy) {
        new (self) Pinhole{fx, fy, cx, cy};
      });
  m.def("pose_normal_equations", &pose_normal_equations);
  m.def("solve_pose", &solve_pose_bound);
  m.def("ray_normal_equations", &ray_normal_equations);
  m.def("pixel_depth_normal_equations", &pixel_depth_normal_equations);
  m.def("triangulate_inverse_depth", &triangulate_inverse_depth);
  m.def("fuse_inverse_depth", &fuse_inverse_depth);
  m.def("warp_inverse_depth", &warp_inverse_depth);
  m.def("unroll_target", &unroll_target);
  m.def("refine_flow", &refine_flow);
  m.def("match_rays", &match_rays);
  m.def("refine_matches", &refine_matches);
  nb::class_<DenseInputs>(m, "DenseInputs")
      .def("__init__", [](DenseInputs* self, int begin, HostArray<const double, -1, 7> T_CW,
                          Ints edge, HostArray<const bool, -1> fixed, Rows inverse_depth,
                          Rows prior, Rows prior_weight, Array<const float, -1, -1, 2> target,
                          Rows weight, Pairs pixel, const Pinhole& camera, float huber,
                          float outlier, bool refine_focal) {
        new (self) DenseInputs{begin,  T_CW,   edge,  fixed,  inverse_depth, prior,   prior_weight,
                               target, weight, pixel, camera, huber,         outlier, refine_focal};
      });
  nb::class_<DenseReduction>(m, "DenseReduction")
      .def("__init__",
           [](DenseReduction* self, const DenseInputs& inputs) {
             new (self) DenseReduction(inputs.problem());
           })
      .def("add", &add_part)
      .def("solve", &solve_parts);
  m.def("dense_ba_cost", &dense_cost);
  m.def("dense_ba_update", &dense_update);
}
