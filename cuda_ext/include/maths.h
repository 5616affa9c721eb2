// Scalar, pose and small-matrix maths for g++ and nvcc. Poses: tx ty tz qx qy qz qw [s].
#pragma once
#include <cmath>

#include "lanes.h"

namespace slam {

struct Pinhole {
  float fx, fy, cx, cy;  // px
};

// A rigid motion or similarity as a matrix: y = r x + t, r = [s] R, row-major.
struct Motion {
  float r[9];
  float t[3];
};

template <class T>
struct Vec3 {
  T x, y, z;
};

template <class T>
HD Vec3<T> act(const Motion& m, T x, T y, T z) {
  return {m.r[0] * x + m.r[1] * y + m.r[2] * z + m.t[0],
          m.r[3] * x + m.r[4] * y + m.r[5] * z + m.t[1],
          m.r[6] * x + m.r[7] * y + m.r[8] * z + m.t[2]};
}

HD void rotation_matrix(const double* q, double* r) {
  const double x = q[0], y = q[1], z = q[2], w = q[3];
  const double n = 2.0 / (x * x + y * y + z * z + w * w);
  r[0] = 1 - n * (y * y + z * z), r[1] = n * (x * y - z * w), r[2] = n * (x * z + y * w);
  r[3] = n * (x * y + z * w), r[4] = 1 - n * (x * x + z * z), r[5] = n * (y * z - x * w);
  r[6] = n * (x * z - y * w), r[7] = n * (y * z + x * w), r[8] = 1 - n * (x * x + y * y);
}

HD Motion motion_from_pose(const double* pose, double scale = 1.0) {
  double r[9];
  rotation_matrix(pose + 3, r);
  Motion m;
  for (int k = 0; k < 9; ++k) m.r[k] = float(scale * r[k]);
  for (int k = 0; k < 3; ++k) m.t[k] = float(pose[k]);
  return m;
}

HD void quaternion_multiply(const double* a, const double* b, double* c) {
  c[0] = a[3] * b[0] + a[0] * b[3] + a[1] * b[2] - a[2] * b[1];
  c[1] = a[3] * b[1] - a[0] * b[2] + a[1] * b[3] + a[2] * b[0];
  c[2] = a[3] * b[2] + a[0] * b[1] - a[1] * b[0] + a[2] * b[3];
  c[3] = a[3] * b[3] - a[0] * b[0] - a[1] * b[1] - a[2] * b[2];
}

// c = a b for SE(3) poses; the quaternion is normalised, so that long products stay rotations.
HD void pose_multiply(const double* a, const double* b, double* c) {
  double r[9], out[7];
  rotation_matrix(a + 3, r);
  for (int k = 0; k < 3; ++k)
    out[k] = r[3 * k] * b[0] + r[3 * k + 1] * b[1] + r[3 * k + 2] * b[2] + a[k];
  quaternion_multiply(a + 3, b + 3, out + 3);
  double n = 0;
  for (int k = 3; k < 7; ++k) n += out[k] * out[k];
  n = 1 / std::sqrt(n);
  for (int k = 0; k < 7; ++k) c[k] = k < 3 ? out[k] : out[k] * n;
}

HD void pose_inverse(const double* a, double* c) {
  double q[4] = {-a[3], -a[4], -a[5], a[6]}, r[9];
  rotation_matrix(q, r);
  double t[3] = {a[0], a[1], a[2]};
  for (int k = 0; k < 3; ++k) c[k] = -(r[3 * k] * t[0] + r[3 * k + 1] * t[1] + r[3 * k + 2] * t[2]);
  for (int k = 0; k < 4; ++k) c[3 + k] = q[k];
}

// Adjoint of an SE(3) pose, 6x6 row-major, translation first: [R, [t]x R; 0, R].
HD void pose_adjoint(const double* pose, double* adjoint) {
  double r[9];
  rotation_matrix(pose + 3, r);
  const double *t = pose, *r0 = r, *r1 = r + 3, *r2 = r + 6;
  for (int c = 0; c < 3; ++c) {
    for (int k = 0; k < 3; ++k) {
      adjoint[6 * k + c] = adjoint[6 * (k + 3) + c + 3] = r[3 * k + c];
      adjoint[6 * (k + 3) + c] = 0;
    }
    adjoint[c + 3] = t[1] * r2[c] - t[2] * r1[c];
    adjoint[6 + c + 3] = t[2] * r0[c] - t[0] * r2[c];
    adjoint[12 + c + 3] = t[0] * r1[c] - t[1] * r0[c];
  }
}

// pose <- exp(twist) pose for SE(3), twist = (translation, rotation).
HD void pose_retract(const double* twist, double* pose) {
  const double *tau = twist, *phi = twist + 3;
  const double th2 = phi[0] * phi[0] + phi[1] * phi[1] + phi[2] * phi[2], th = std::sqrt(th2);
  const bool small = th < 1e-3;  // the series' next terms are below 1e-15
  const double a = small ? 0.5 - th2 / 24 : (1 - std::cos(th)) / th2;
  const double b = small ? 1.0 / 6 - th2 / 120 : (th - std::sin(th)) / (th2 * th);
  const double k = small ? 0.5 - th2 / 48 : std::sin(0.5 * th) / th;
  const double c[3] = {phi[1] * tau[2] - phi[2] * tau[1], phi[2] * tau[0] - phi[0] * tau[2],
                       phi[0] * tau[1] - phi[1] * tau[0]};
  const double d[3] = {phi[1] * c[2] - phi[2] * c[1], phi[2] * c[0] - phi[0] * c[2],
                       phi[0] * c[1] - phi[1] * c[0]};
  double step[7];
  for (int n = 0; n < 3; ++n) {
    step[n] = tau[n] + a * c[n] + b * d[n];
    step[3 + n] = k * phi[n];
  }
  step[6] = std::cos(0.5 * th);
  pose_multiply(step, pose, pose);
}

// Cholesky factor of a symmetric positive definite n x n matrix in its own lower triangle.
// Returns false at a pivot that is not above `floor` times its diagonal entry (or not a number).
template <int N>
HD bool cholesky(double* a, double floor = 1e-14) {
  for (int k = 0; k < N; ++k) {
    double pivot = a[N * k + k];
    for (int c = 0; c < k; ++c) pivot -= a[N * k + c] * a[N * k + c];
    if (!(pivot > floor * a[N * k + k])) return false;
    const double root = std::sqrt(pivot), inverse = 1 / root;
    a[N * k + k] = root;
    for (int r = k + 1; r < N; ++r) {
      double sum = a[N * r + k];
      for (int c = 0; c < k; ++c) sum -= a[N * r + c] * a[N * k + c];
      a[N * r + k] = sum * inverse;
    }
  }
  return true;
}

// x <- L^-1 x
template <int N>
HD void solve_lower(const double* l, double* x) {
  for (int r = 0; r < N; ++r) {
    for (int c = 0; c < r; ++c) x[r] -= l[N * r + c] * x[c];
    x[r] /= l[N * r + r];
  }
}

// x <- L^-T x
template <int N>
HD void solve_lower_transposed(const double* l, double* x) {
  for (int r = N - 1; r >= 0; --r) {
    for (int c = r + 1; c < N; ++c) x[r] -= l[N * c + r] * x[c];
    x[r] /= l[N * r + r];
  }
}

}  // namespace slam
