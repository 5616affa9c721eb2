#!/usr/bin/env bash
# Usage: icl.sh FOLDER SEQUENCE...
# SEQUENCE: living_room_traj0 .. living_room_traj3 (living room), traj0 .. traj3 (office)
# ICL-NUIM (Handa et al., ICRA 2014), CC BY 3.0.
source "$(dirname "$0")/fetch.sh"
(($# >= 2)) || usage_and_exit
base="${ICL_URL:-https://www.doc.ic.ac.uk/~ahanda}"
for sequence in "${@:2}"; do
  fetch_archive "$base/${sequence}_frei_png.tar.gz" "$1/$sequence"
  case "$sequence" in
    living_room_traj*) poses="livingRoom${sequence#living_room_traj}.gt.freiburg" ;;
    *) poses="$sequence.gt.freiburg" ;;
  esac
  # Some archives hold their ground truth, others leave it on the page.
  compgen -G "$1/$sequence/*.gt.freiburg" > /dev/null ||
    download "$base/VaFRIC/$poses" "$1/$sequence/$poses"
done
