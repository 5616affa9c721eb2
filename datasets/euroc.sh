#!/usr/bin/env bash
# Usage: euroc.sh FOLDER SEQUENCE...    e.g. euroc.sh data/euroc MH_01_easy V1_01_easy
# EuRoC MAV (Burri et al., IJRR 2016), research use.
source "$(dirname "$0")/fetch.sh"
(($# >= 2)) || usage_and_exit
base="${EUROC_URL:-http://robotics.ethz.ch/~asl-datasets/ijrr_euroc_mav_dataset}"
for sequence in "${@:2}"; do
  case "$sequence" in
    MH_*) place=machine_hall ;;
    V1_*) place=vicon_room1 ;;
    V2_*) place=vicon_room2 ;;
    *) usage_and_exit ;;
  esac
  fetch_archive "$base/$place/$sequence/$sequence.zip" "$1/$sequence"
done
