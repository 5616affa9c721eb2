// The residuals and their Jacobians, each written once for the CPU's and the GPU's loops.
// A residual fills whitened rows [J (N), r], already scaled by the root of the robust factor, so
// that H = sum J^T J and g = sum J^T r; r is measured minus predicted, the step is H^-1 g.
#pragma once
#include "maths.h"

namespace slam {

constexpr float kMinimumDepth = 1e-3f;      // of a moved point, in units of the point's own depth
constexpr float kBehindCameraError = 1e3f;  // whitened error charged where nothing is predicted
constexpr float kInlierError = 3.0f;        // whitened

// Huber's cost of a whitened error.
template <class T>
HD T huber_cost(T error, float huber) {
  return select(error < huber, 0.5f * error * error, huber * (error - 0.5f * huber));
}

template <class T>
struct Robust {
  T root;  // root of the factor on the squared residual; 0 beyond the outlier bound
  T cost;
};

template <class T>
HD Robust<T> robustify(T error, Mask<T> predicted, float huber, float outlier) {
  const T bound = splat<T>(outlier);
  const T charged = select(predicted, error, splat<T>(kBehindCameraError));
  const T factor =
      select(error < huber, splat<T>(1.0f), huber / select(error > 0.0f, error, bound));
  const T root = select(predicted & (error <= bound), square_root(factor), T{});
  return {root, huber_cost(smaller(charged, bound), huber)};
}

// A grid pixel with inverse depth, moved to another camera.
template <class T>
struct Reprojection {
  T ray_x, ray_y;  // of the source pixel, z = 1
  T x, y;          // normalised image coordinates in the other camera
  T inverse_z;     // of the moved point, scaled by its inverse depth
  Mask<T> in_front;
};

template <class T>
HD Reprojection<T> reproject(const Pinhole& c, const Motion& m, T u, T v, T rho) {
  Reprojection<T> p;
  p.ray_x = (u - c.cx) * (1.0f / c.fx);
  p.ray_y = (v - c.cy) * (1.0f / c.fy);
  const T x = m.r[0] * p.ray_x + m.r[1] * p.ray_y + m.r[2] + m.t[0] * rho;
  const T y = m.r[3] * p.ray_x + m.r[4] * p.ray_y + m.r[5] + m.t[1] * rho;
  const T z = m.r[6] * p.ray_x + m.r[7] * p.ray_y + m.r[8] + m.t[2] * rho;
  p.in_front = z > kMinimumDepth;
  p.inverse_z = 1.0f / select(p.in_front, z, splat<T>(1.0f));
  p.x = x * p.inverse_z;
  p.y = y * p.inverse_z;
  return p;
}

// Rows of d(u, v)/d(twist) for a left perturbation of the motion; d = rho / z.
template <class T>
HD void projection_rows(const Pinhole& c, T x, T y, T d, T* row_u, T* row_v) {
  row_u[0] = c.fx * d, row_u[1] = T{}, row_u[2] = -c.fx * d * x;
  row_u[3] = -c.fx * x * y, row_u[4] = c.fx * (1.0f + x * x), row_u[5] = -c.fx * y;
  row_v[0] = T{}, row_v[1] = c.fy * d, row_v[2] = -c.fy * d * y;
  row_v[3] = -c.fy * (1.0f + y * y), row_v[4] = c.fy * x * y, row_v[5] = c.fy * x;
}

// d(u, v)/d(rho)
template <class T>
HD void depth_derivative(const Pinhole& c, const Motion& m, const Reprojection<T>& p, T* du) {
  du[0] = c.fx * (m.t[0] - p.x * m.t[2]) * p.inverse_z;
  du[1] = c.fy * (m.t[1] - p.y * m.t[2]) * p.inverse_z;
}

template <class T>
struct Tally {
  T cost;
  Mask<T> inlier, counted;
};

// Pixels of a keyframe with uncertain inverse depth, measured in another image (a 6-vector).
struct PoseResidual {
  static constexpr int kParameters = 6, kRows = 2;
  const float *pixel, *inverse_depth, *information, *target, *weight;
  Pinhole camera;
  Motion T_ji;
  float huber, outlier;

  // `read(base, stride, component)` gives component `component` of this pixel.
  template <class T, class Read>
  HD Tally<T> operator()(const Read& read, T (&row)[kRows][kParameters + 1]) const {
    T w = read(weight, 1, 0), information_rho = read(information, 1, 0);
    const Mask<T> counted = (w > 0.0f) & (information_rho > 0.0f);
    const T one = splat<T>(1.0f);
    w = select(counted, w, one);
    information_rho = select(counted, information_rho, one);
    const T rho = select(counted, read(inverse_depth, 1, 0), T{});
    const auto p = reproject(camera, T_ji, read(pixel, 2, 0), read(pixel, 2, 1), rho);
    const Mask<T> valid = counted & p.in_front;
    projection_rows(camera, p.x, p.y, rho * p.inverse_z, row[0], row[1]);
    row[0][6] = select(valid, read(target, 2, 0), T{}) - (camera.fx * p.x + camera.cx);
    row[1][6] = select(valid, read(target, 2, 1), T{}) - (camera.fy * p.y + camera.cy);
    T du[2];
    depth_derivative(camera, T_ji, p, du);
    whiten(w, information_rho, du, row);
    const T error = square_root(row[0][6] * row[0][6] + row[1][6] * row[1][6]);
    const auto robust = robustify(error, valid, huber, outlier);
    const Mask<T> used = robust.root > 0.0f;
    for (int k = 0; k < 7; ++k) {
      row[0][k] = select(used, row[0][k] * robust.root, T{});
      row[1][k] = select(used, row[1][k] * robust.root, T{});
    }
    const Mask<T> inlier = valid & (error < kInlierError);
    return {select(counted, robust.cost, T{}), inlier, counted};
  }

  // Multiplies the rows by the root of W = (I / w + du du^T / information)^-1.
  template <class T>
  HD static void whiten(T w, T information_rho, const T* du, T (&row)[2][7]) {
    const T ratio = w / information_rho, root_w = square_root(w);
    const T root = square_root(1.0f + ratio * (du[0] * du[0] + du[1] * du[1]));
    const T gain = ratio / (root * (1.0f + root));
    for (int k = 0; k < 7; ++k) {
      const T along = gain * (du[0] * row[0][k] + du[1] * row[1][k]);
      row[0][k] = root_w * (row[0][k] - du[0] * along);
      row[1][k] = root_w * (row[1][k] - du[1] * along);
    }
  }
};

// Scales each row by the root of its own Huber factor (element-wise robustness).
template <class T, int Rows, int Columns>
HD Tally<T> robustify_rows(Mask<T> counted, Mask<T> valid, float huber, T (&row)[Rows][Columns]) {
  T cost{};
  Mask<T> inlier = valid;
  for (int r = 0; r < Rows; ++r) {
    const T signed_error = row[r][Columns - 1];
    const T error = select(signed_error < 0.0f, -signed_error, signed_error);
    const T root = square_root(select(error > huber, huber / error, splat<T>(1.0f)));
    inlier = inlier & (error < kInlierError);
    cost = cost + huber_cost(error, huber);
    for (int k = 0; k < Columns; ++k) row[r][k] = select(valid, row[r][k] * root, T{});
  }
  cost = select(valid, cost, splat<T>(huber_cost(kBehindCameraError, huber)));
  return {select(counted, cost, T{}), inlier, counted};
}

// Matched points of two pointmaps, compared by viewing ray and distance (Sim(3), a 7-vector).
struct RayResidual {
  static constexpr int kParameters = 7, kRows = 4;
  const float *X_k, *X_f, *weight;
  Motion T_kf;
  float sigma_ray, sigma_distance, huber;

  template <class T, class Read>
  HD Tally<T> operator()(const Read& read, T (&row)[kRows][kParameters + 1]) const {
    const T w = read(weight, 1, 0), one = splat<T>(1.0f);
    const Mask<T> counted = w > 0.0f;
    const T kx = select(counted, read(X_k, 3, 0), T{}), ky = select(counted, read(X_k, 3, 1), T{}),
            kz = select(counted, read(X_k, 3, 2), T{});
    const auto Y =
        act(T_kf, select(counted, read(X_f, 3, 0), T{}), select(counted, read(X_f, 3, 1), T{}),
            select(counted, read(X_f, 3, 2), T{}));
    T n = square_root(Y.x * Y.x + Y.y * Y.y + Y.z * Y.z);
    T m = square_root(kx * kx + ky * ky + kz * kz);
    const Mask<T> valid = counted & (n > kMinimumDistance) & (m > kMinimumDistance);
    n = select(valid, n, one), m = select(valid, m, one);
    const T i = 1.0f / n, j = 1.0f / m, x = Y.x * i, y = Y.y * i, z = Y.z * i;
    const T unit[3] = {x, y, z}, measured[3] = {kx * j, ky * j, kz * j};
    const T turn[3][3] = {{T{}, z, -y}, {-z, T{}, x}, {y, -x, T{}}};  // -[y]x
    const T root_w = square_root(select(valid, w, one));
    const T a = root_w / sigma_ray, b = root_w / sigma_distance;
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < 3; ++c) {
        row[r][c] = a * i * ((r == c ? 1.0f : 0.0f) - unit[r] * unit[c]);
        row[r][3 + c] = a * turn[r][c];
      }
      row[r][6] = T{};
      row[r][7] = a * (measured[r] - unit[r]);
      row[3][r] = b * i * unit[r];
      row[3][3 + r] = T{};
    }
    row[3][6] = b;
    row[3][7] = b * logarithm(m * i);
    return robustify_rows(counted, valid, huber, row);
  }

  static constexpr float kMinimumDistance = 1e-6f;
};

// Matched points of two pointmaps, compared by pixel and log depth (Sim(3), calibrated).
struct PixelDepthResidual {
  static constexpr int kParameters = 7, kRows = 3;
  const float *pixel_k, *X_k, *X_f, *weight;
  Pinhole camera;
  Motion T_kf;
  float sigma_pixel, sigma_depth, huber;

  template <class T, class Read>
  HD Tally<T> operator()(const Read& read, T (&row)[kRows][kParameters + 1]) const {
    const T w = read(weight, 1, 0), one = splat<T>(1.0f);
    const Mask<T> counted = w > 0.0f;
    const auto Y =
        act(T_kf, select(counted, read(X_f, 3, 0), T{}), select(counted, read(X_f, 3, 1), T{}),
            select(counted, read(X_f, 3, 2), T{}));
    const T depth = read(X_k, 3, 2);
    const Mask<T> valid = counted & (depth > 0.0f) & (Y.z > kMinimumDepth * depth);
    const T i = 1.0f / select(valid, Y.z, one), x = Y.x * i, y = Y.y * i;
    const T root_w = square_root(select(valid, w, one));
    const T a = root_w / sigma_pixel, b = root_w / sigma_depth;
    projection_rows(camera, x, y, i, row[0], row[1]);
    for (int c = 0; c < 6; ++c) row[0][c] = a * row[0][c], row[1][c] = a * row[1][c];
    row[0][6] = row[1][6] = T{};
    row[0][7] = a * (read(pixel_k, 2, 0) - camera.fx * x - camera.cx);
    row[1][7] = a * (read(pixel_k, 2, 1) - camera.fy * y - camera.cy);
    const T depth_row[7] = {T{}, T{}, i, y, -x, T{}, one};
    for (int c = 0; c < 7; ++c) row[2][c] = b * depth_row[c];
    row[2][7] = b * logarithm(select(valid, depth, one) * i);
    return robustify_rows(counted, valid, huber, row);
  }
};

}  // namespace slam
