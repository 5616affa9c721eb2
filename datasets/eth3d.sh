#!/usr/bin/env bash
# Usage: eth3d.sh FOLDER SEQUENCE...    e.g. eth3d.sh data/eth3d cables_1 plant_2
# ETH3D SLAM (Schoeps et al., CVPR 2019), CC BY-NC-SA 4.0; colour images, and depth with DEPTH=1.
source "$(dirname "$0")/fetch.sh"
(($# >= 2)) || usage_and_exit
base="${ETH3D_URL:-https://www.eth3d.net/data/slam/datasets}"
for sequence in "${@:2}"; do
  fetch_archive "$base/${sequence}_mono.zip" "$1"
  [[ -z "${DEPTH:-}" ]] || fetch_archive "$base/${sequence}_rgbd.zip" "$1"
done
