#!/usr/bin/env bash
# Usage: kitti.sh FOLDER [color|gray]
# KITTI odometry (Geiger et al., CVPR 2012), CC BY-NC-SA 3.0. All sequences: tens of GB.
source "$(dirname "$0")/fetch.sh"
(($# >= 1)) || usage_and_exit
base="${KITTI_URL:-https://s3.eu-central-1.amazonaws.com/avg-kitti}"
for part in calib poses "${2:-gray}"; do
  fetch_archive "$base/data_odometry_$part.zip" "$1"
done
