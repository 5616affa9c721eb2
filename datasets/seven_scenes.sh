#!/usr/bin/env bash
# Usage: seven_scenes.sh FOLDER SCENE...
# SCENE: chess fire heads office pumpkin redkitchen stairs
# 7-Scenes (Shotton et al., CVPR 2013), Microsoft Research licence, non-commercial.
source "$(dirname "$0")/fetch.sh"
(($# >= 2)) || usage_and_exit
base="${SEVEN_SCENES_URL:-https://download.microsoft.com/download/2/8/5/28564B23-0828-408F-8631-23B1EFF1DAC8}"
for scene in "${@:2}"; do
  fetch_archive "$base/$scene.zip" "$1"
  for sequence in "$1/$scene"/seq-*.zip; do # a scene's archive holds one for each sequence
    unzip -q -o "$sequence" -d "$1/$scene"
    rm "$sequence"
  done
done
