#!/usr/bin/env bash
# Usage: tum.sh FOLDER SEQUENCE...      e.g. tum.sh data/tum freiburg1_xyz freiburg1_desk
# TUM RGB-D benchmark (Sturm et al., IROS 2012), CC BY 4.0.
source "$(dirname "$0")/fetch.sh"
(($# >= 2)) || usage_and_exit
base="${TUM_URL:-https://cvg.cit.tum.de/rgbd/dataset}"
for sequence in "${@:2}"; do
  fetch_archive "$base/${sequence%%_*}/rgbd_dataset_$sequence.tgz" "$1"
done
